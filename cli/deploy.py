"""`sojourn deploy`: let a Prefect server follow the timetable."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deployments.timetable import Change

Names = Annotated[list[str] | None, typer.Argument(metavar="[DEPLOYMENT]…", help="Only these, like train/manual.")]
Source = Annotated[
    str,
    typer.Option(metavar="DIR|git:URL[@REF]", help="The project to train: a directory of the worker's host, or git."),
]
Pool = Annotated[str, typer.Option(help="The work pool whose workers run the flows.")]
File = Annotated[Path | None, typer.Option(metavar="FILE", help="A timetable of your own.")]
Notify = Annotated[
    str | None,
    typer.Option(metavar="TYPE/NAME", help="A notification block that is told when reap finds anything."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")]


def deploy(
    names: Names = None,
    source: Source = ".",
    pool: Pool = "sojourn",
    file: File = None,
    notify: Notify = None,
    dry_run: DryRun = False,
) -> None:
    """Make the server's deployments equal to the timetable, and say what differed.

    Example: sojourn deploy --source git:https://example.com/digits.git@main
    """
    from cli.console import out
    from cli.modules import check_modules
    from cli.server import find_server

    check_modules("deployments")
    api = find_server()
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments import notice
    from deployments.timetable import OURS, apply, differences, read_timetable

    values = {"SOJOURN_SOURCE": _absolute(source), "SOJOURN_POOL": pool}
    timetable = read_timetable(file or OURS, values, tuple(names or ()))
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        changes = list(differences(client, timetable))
        for timed, change in changes:
            _show(change)
            if not dry_run:
                apply(client, timed)
        told = notice.difference(client, notify) if notify else None
        if told is not None:
            wanted, change = told
            _show(change)
            if not dry_run:
                notice.apply(client, wanted)
    same = len(timetable) - len(changes)
    said = f"{len(changes)} {'would change' if dry_run else 'changed'}, {same} as they should be, at {api}"
    out.print(said, markup=False)
    if changes and not dry_run:
        command = f"sojourn prefect worker start --pool {shlex.quote(pool)} --type process"
        out.print(f"They run while a worker does: {command}", markup=False)


def _absolute(source: str) -> str:
    from sojourn.project import Project

    return source if source.startswith("git:") else str(Project.at(Path(source)).directory)


def _show(change: Change) -> None:
    from cli.console import out

    out.print(f"{'+' if change.new else '~'} {change.deployment}", markup=False)
    for field, has, wanted in change.fields:
        if change.new and not wanted:
            continue
        before = "" if change.new or has is None else f"{_text(has)} → "
        out.print(f"    {field:<18}{before}{_text(wanted)}", markup=False)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key}={one}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return str(value)
