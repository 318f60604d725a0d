"""`sojourn deploy`: let a Prefect server follow the timetable."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deployments.rehearsal import Doubt
    from deployments.timetable import Change, Timed
    from sojourn.errors import SpecError

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
    from cli.console import out, show_warning
    from cli.modules import check_modules
    from cli.server import connected, find_server

    check_modules("deployments")
    from tasks.checkout import check_login

    check_login(source)
    server = find_server()
    if server.word:
        show_warning(server.word)
    from prefect.client.orchestration import get_client

    from deployments import notice
    from deployments.rehearsal import doubts
    from deployments.timetable import OURS, apply, differences, read_timetable
    from sojourn.run.runs import data_home

    values = {"SOJOURN_SOURCE": _absolute(source), "SOJOURN_POOL": pool}
    timetable = read_timetable(file or OURS, values, tuple(names or ()))
    for timed in timetable:
        check_login(str(timed.wanted["parameters"].get("project", "")))
    with connected(server), get_client(sync_client=True) as client:
        certain = _tell(list(doubts(timetable, data_home())))
        changes = list(differences(client, timetable))
        for timed, change in changes:
            _show(change)
            if certain:
                continue
            if not dry_run:
                apply(client, timed)
        if certain:
            raise _never_runs(certain, timetable)
        told = notice.difference(client, notify) if notify else None
        if told is not None:
            wanted, change = told
            _show(change)
            if not dry_run:
                notice.apply(client, wanted)
    same = len(timetable) - len(changes)
    said = f"{len(changes)} {'would change' if dry_run else 'changed'}, {same} as they should be, at {server.api}"
    out.print(said, markup=False)
    if changes and not dry_run:
        command = f"sojourn prefect worker start --pool {shlex.quote(pool)} --type process"
        out.print(f"They run while a worker does: {command}", markup=False)


def _tell(found: list[Doubt]) -> list[Doubt]:
    """Say what may keep a worker from running it; what would keep any worker from it is returned."""
    from cli.console import show_warning

    for one in found:
        if not one.certain:
            mend = f"\n  {one.why.hint}" if one.why.hint else ""
            show_warning(f"{one.deployment}: on this host its runs would be refused: {one.why.message}{mend}")
    return [one for one in found if one.certain]


def _never_runs(found: list[Doubt], timetable: list[Timed]) -> SpecError:
    from sojourn.errors import SpecError

    named = {one.deployment for one in found}
    others = " ".join(shlex.quote(one.full_name) for one in timetable if one.full_name not in named)
    leave = f"; or leave it out: sojourn deploy {others}" if others else ""
    first = found[0]
    said = f"{' and '.join(sorted(named))} would be refused each time: {first.why.message}"
    return SpecError(said, hint=f"say what to run: sojourn init, or launch: in the timetable's parameters{leave}")


def _absolute(source: str) -> str:
    from sojourn.project.project import Project

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
    from tasks.checkout import without_login

    return without_login(str(value))
