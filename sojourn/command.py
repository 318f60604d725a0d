"""How the user's command is started: as it is, or by torchrun.

Only what is plainly a Python script or module can be wrapped. Whatever starts ranks by
itself is left alone, and anything else with more than one rank is refused here, before
a machine is paid to find out.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Literal

from sojourn.errors import SpecError
from sojourn.records import Command

_PYTHON = re.compile(r"python(\d+(\.\d+)?)?")
_RUNNERS = {("uv", "run"), ("poetry", "run")}
_LAUNCHERS = {"torchrun", "accelerate", "deepspeed"}
_SHELL = re.compile(r"[|&;<>$`\\*?~(){}\[\n]|^\s*\w+=")  # what a shell would act on, or a variable set in front


def from_words(argv: tuple[str, ...], processes: int | Literal["gpu"], nodes: int) -> Command:
    """The command as typed after `--`. Raises SpecError when its ranks cannot be started."""
    wrap = _python_at(argv)
    if wrap is None and not _starts_ranks(argv) and (processes != 1 or nodes > 1):
        raise SpecError(
            f"processes: {processes}, nodes: {nodes}: {shlex.join(argv)!r} cannot be started by torchrun",
            hint="several ranks need `python FILE` or `python -m MODULE`, or start with torchrun yourself",
        )
    return Command(argv=argv, wrap=wrap, processes=processes)


def from_stage(lines: tuple[str, ...], processes: int | Literal["gpu"], nodes: int) -> Command:
    """The command of a DVC stage, which is shell; a plain one is started without a shell."""
    words = _plain_words(lines)
    if words:
        return from_words(words, processes, nodes)
    if processes != 1 or nodes > 1:
        raise SpecError(
            f"processes: {processes}, nodes: {nodes}: torchrun cannot start the stage's shell command {lines[0]!r}",
            hint="reduce the stage's cmd to one `python FILE …` line",
        )
    return Command(argv=("set -e\n" + "\n".join(lines),), shell=True)


def with_arguments(command: Command, more: tuple[str, ...]) -> Command:
    """The same command with further arguments at its end. Raises SpecError for lines of shell."""
    if more and command.shell:
        raise SpecError(
            f"resume_args: {shlex.join(more)!r} cannot be added to the stage's shell command",
            hint="reduce the stage's cmd to one `python FILE …` line, or let the script find its checkpoint itself",
        )
    return command.model_copy(update={"argv": (*command.argv, *more)})


def check_script(command: Command, directory: Path) -> None:
    """Refuse a script that is not there, naming the files that are. Raises SpecError."""
    script = script_of(command)
    if script is None or (directory / script).is_file():
        return
    there = sorted(path.name for path in directory.glob("*.py"))[:8]
    raise SpecError(
        f"{script!r} is not a file in {directory}",
        hint=f"scripts here: {', '.join(there)}" if there else "no Python file is here; is this the right directory?",
    )


def _plain_words(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a stage that a shell would only split; none when it would do more."""
    if len(lines) != 1 or _SHELL.search(lines[0]):
        return ()
    try:
        return tuple(shlex.split(lines[0]))
    except ValueError:
        return ()  # a quote that does not end; the shell says so in its own words


def script_of(command: Command) -> str | None:
    """The file that python is given; None for a module and for anything else."""
    if command.wrap is None or len(command.argv) <= command.wrap + 1:
        return None
    script = command.argv[command.wrap + 1]
    return None if script.startswith("-") else script


def _python_at(argv: tuple[str, ...]) -> int | None:
    at = 2 if argv[:2] in _RUNNERS else 0
    if len(argv) <= at or not _PYTHON.fullmatch(PurePosixPath(argv[at]).name):
        return None
    first = argv[at + 1] if len(argv) > at + 1 else ""
    return at if first == "-m" or (first and not first.startswith("-")) else None


def _starts_ranks(argv: tuple[str, ...]) -> bool:
    at = 2 if argv[:2] in _RUNNERS else 0
    return len(argv) > at and PurePosixPath(argv[at]).name in _LAUNCHERS
