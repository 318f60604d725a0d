"""Which file an environment is made from and what of it, with the word of what starts the program.

`uv run --package x --no-dev`, `poetry -C sub run` and their like choose packages, a Python or a
folder by flags (`runner`). They count as if `environment:` had said so.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sojourn.environment import runner
from sojourn.environment.runner import Runner
from sojourn.environment.sources import Chosen, choose, shown, with_uv_run
from sojourn.errors import SpecError
from sojourn.spec.dependencies import Dependencies

_IN_PLACE = ("poetry", "pdm", "pipenv")  # stood in for on a rented machine, see agent/venv.py


@dataclass(frozen=True)
class Choice:
    """The file, what of it is wanted, and the variables by which the user's own Python is found."""

    chosen: Chosen
    wanted: Dependencies
    surroundings: Mapping[str, str]


def choose_for(
    wanted: Dependencies,
    words: Sequence[str],
    text: str,
    directory: Path,
    root: Path,
    surroundings: Mapping[str, str],
    *,
    script: Path | None,
    away: bool,
) -> Choice:
    """The choice for a command of these words; `text` are the lines of shell that it is or starts, if any.

    Raises SpecError for what is not there, and for flags that cannot be followed.
    """

    def of(asked: Dependencies, where: Path, prefer: Sequence[str] = (), header: bool = True) -> Chosen:
        path, file = surroundings.get("PATH", os.defpath), script if header else None
        return choose(asked, where, root, script=file, path=path, away=away, prefer=prefer)

    by = runner.in_text(text) if text else runner.in_words(words)
    if by is None or wanted.file == "current":
        return Choice(of(wanted, directory), wanted, surroundings)
    auto, none = wanted.file == "auto", Dependencies(file="current")
    if auto and not away and by.name in runner.OWN:
        return Choice(_left_to(by, of(wanted, directory), directory), none, surroundings)
    by.check()
    if away and by.name in _IN_PLACE and by.words:
        raise SpecError(
            f"command: {shlex.join(by.words)}: a rented machine has no {by.name}, and packages made beforehand",
            hint=f"leave the flags out: {by.name} run PROGRAM, from the directory that they lead to",
        )
    where = _folder(by, directory, root)
    if by.no_project:
        chosen = of(none if auto else wanted, directory)
        chosen.notes.append("nothing that the project names is installed: --no-project")
        return Choice(chosen, none if auto else wanted, _with_venv(directory, root, surroundings))
    asked = _merged(by, wanted)
    chosen = of(asked, where if auto else directory, by.files, header=by.reads_script)
    if chosen.source is None:  # what a script names is better than nothing
        chosen = of(asked, where if auto else directory)
    if text and by.reads_script and chosen.source is not None and chosen.source.kind == "script":
        file = shown(chosen.source.file, directory)
        chosen.notes.append(f"uv installs what {file} names as it starts, in versions of then: uv lock --script {file}")
    asked, unused = _settled(by, asked, chosen)
    if chosen.source is not None and unused:
        file = shown(chosen.source.file, directory)
        chosen.notes.append(f"{shlex.join(unused)} of {by.name} is not followed: what is installed is what {file} says")
    return Choice(chosen, asked, surroundings)


def _left_to(by: Runner, chosen: Chosen, directory: Path) -> Chosen:
    unread = f": {shown(chosen.source.file, directory)} is not used" if chosen.source else ""
    return Chosen(None, [f"{by.name} makes its own environment when the command starts{unread}"])


def _folder(by: Runner, directory: Path, root: Path) -> Path:
    """Where the project is looked for."""
    where = Path(os.path.normpath(directory / by.project))
    if not where.is_dir():
        raise SpecError(f"command: {by.project!r}, where {by.name} is sent, is no directory in {directory}")
    if not where.is_relative_to(root):
        raise SpecError(
            f"command: {by.project!r}, where {by.name} is sent, is not inside the project, {root}",
            hint="stand in that project, and start the run there",
        )
    return where


def _with_venv(directory: Path, root: Path, surroundings: Mapping[str, str]) -> Mapping[str, str]:
    """Without a project uv takes the environment that is switched on, or else the nearest `.venv` upward."""
    above = (one for one in (directory, *directory.parents) if one.is_relative_to(root))
    found = next((one / ".venv" for one in above if (one / ".venv" / "pyvenv.cfg").is_file()), None)
    if found is None or surroundings.get("VIRTUAL_ENV") or surroundings.get("CONDA_PREFIX"):
        return surroundings
    path = os.pathsep.join([str(found / "bin"), surroundings.get("PATH", os.defpath)])
    return {**surroundings, "VIRTUAL_ENV": str(found), "PATH": path}


def _merged(by: Runner, wanted: Dependencies) -> Dependencies:
    if by.package and wanted.package and by.package != wanted.package:
        raise SpecError(
            f"environment.package: {wanted.package!r}, and the command asks for --package {by.package}",
            hint="say one of them",
        )
    return wanted.model_copy(
        update={
            "extras": tuple(dict.fromkeys((*wanted.extras, *by.extras))),
            "groups": tuple(dict.fromkeys((*wanted.groups, *by.groups))),
            "package": wanted.package or by.package,
            "python": by.python,
            "flags": by.flags,
        }
    )


def _settled(by: Runner, asked: Dependencies, chosen: Chosen) -> tuple[Dependencies, tuple[str, ...]]:
    """What is wanted of the file that was chosen, and the flags that it cannot follow."""
    kind = chosen.source.kind if chosen.source else None
    if by.name != "uv" or kind == "uv":
        return asked, by.ignored
    if kind == "pyproject" and chosen.source is not None:
        return with_uv_run(asked, chosen.source), by.ignored
    return asked.model_copy(update={"flags": ()}), (*by.flags, *by.ignored)
