"""What scripts start that are started on each of several machines, as far as can be read before any is rented.

A shell script, and one that it calls, in whatever folder, may hold a launcher that knows nothing of the other
machines: each would train by itself, at the price of all. That is refused. Where nothing that can be read knows of the
others, the plan says so, with what could not be looked into.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sojourn.environment import runner
from sojourn.errors import SpecError
from sojourn.plan import command
from sojourn.plan.command import Processes
from sojourn.protocol import Command

READ_LIMIT = 100_000  # bytes of a script
SCRIPTS = 50  # that call each other
NAMED = 3
_KNOWS = re.compile(r"NODE_RANK|NNODES|GROUP_RANK|MASTER_ADDR|\bPET_")
_REFUSES = re.compile(r"NODE_RANK|NNODES")  # a script that names one is trusted with the launchers in it
_MAKEFILES = ("GNUmakefile", "makefile", "Makefile")
_QUIET = {
    "cd", "pushd", "popd", "echo", "printf", "export", "set", "unset", "source", ".", "mkdir", "rm", "cp", "mv", "ls",
    "cat", "test", "[", "[[", "true", "false", "exit", "wait", "sleep", "date", "trap", "ulimit", "umask", "shift",
    "local", "read", "return", "fi", "done", "esac", "for", "while", "case", "in", "function", "}", "env", "pwd", "tee",
    "grep", "sed", "awk", "head", "tail", "wc", "touch", "ln", "chmod", "which", "hostname", "whoami", "nvidia-smi",
    "pip", "tar", "unzip", "curl", "wget", "git", "dvc", "du", "df", "id", "uname", "if", "elif", "declare", "readonly",
}  # fmt: skip


def look(asked: Command, directory: Path, processes: Processes, nodes: int) -> tuple[str, ...]:
    """Refuse scripts that would start one training on each of several machines. Raises SpecError; what else to know."""
    if processes == "own" or nodes < 2 or asked.wrap is not None:
        return ()
    walk = _Walk(processes, nodes)
    if asked.shell:
        walk.text(asked.argv[0], directory)
    else:
        walk.commands(runner.within(list(asked.argv)), directory)
    if walk.knows:
        return ()
    dark = [name for name in walk.dark if name != asked.argv[0]]
    more = f"; not looked into: {', '.join(dark[:NAMED])}{' …' if len(dark) > NAMED else ''}" if dark else ""
    return (
        f"nodes: {nodes}: {command.title(asked)!r} is started once on each machine, and nothing that can be read of it "
        f"names NODE_RANK, NNODES or MASTER_ADDR: {nodes} trainings apart from each other, unless it finds the others "
        f"itself{more}",
    )


class _Walk:
    """Through a command, and the scripts that it starts."""

    def __init__(self, processes: command.Ranks, nodes: int) -> None:
        self._processes = processes
        self._nodes = nodes
        self._seen: set[tuple[str, str]] = set()
        self.knows = False
        self.dark: list[str] = []

    def text(self, text: str, folder: Path) -> None:
        """Lines of shell, read in a folder."""
        self.knows = self.knows or _KNOWS.search(text) is not None
        self.commands(runner.commands(text), folder)

    def commands(self, commands: Iterable[list[str]], folder: Path) -> None:
        """Simple commands, one after the other: `cd` counts for those that follow."""
        for words in commands:
            if words[0] in ("cd", "pushd") and len(words) == 2 and "$" not in words[1]:
                folder = folder / words[1]
            else:
                self._command(tuple(words), folder)

    def _command(self, words: tuple[str, ...], folder: Path) -> None:
        program = command.program_in(words)
        if program.kind == "launcher":
            command.check_each([list(words)], self._processes, self._nodes)
            self.knows = True
        elif program.kind == "python":
            self._python(words, program, folder)
        elif program.name == "make":
            place, files = _makefiles(words[program.at + 1 :], folder)
            for file in files:
                lines = _beginning(file).splitlines()
                self._script("\n".join(line.lstrip("\t@-+ ") for line in lines if line[:1] == "\t"), place, file)
        else:
            self._other(words, program, folder)

    def _python(self, words: tuple[str, ...], program: command.Program, folder: Path) -> None:
        body = _beginning(folder / words[program.script]) if program.script is not None else ""
        self.knows = self.knows or _KNOWS.search(body) is not None

    def _other(self, words: tuple[str, ...], program: command.Program, folder: Path) -> None:
        name = words[program.at if program.script is None else program.script]
        if words[0] in ("source", ".") and len(words) > 1:
            name = words[1]
        elif program.script is None and "/" not in name:
            self._note(name)
            return
        text = _beginning(folder / name)
        if re.match(r"#!.*\bpython", text):
            if not _REFUSES.search(text):
                raise SpecError(
                    f"nodes: {self._nodes}: {shlex.join(words)!r} would start one training on each node, not one over "
                    "all",
                    hint=f"name its Python:  python {shlex.join(words)}; what finds the other nodes itself takes  "
                    "processes: own",
                )
            self.knows = True
        elif text and (program.script is not None or words[0] in ("source", ".") or _is_for_a_shell(text)):
            self._script(text, folder, folder / name)
        else:
            self._note(name)

    def _script(self, text: str, folder: Path, file: Path) -> None:
        once = (os.path.normpath(file), os.path.normpath(folder))
        if once in self._seen or len(self._seen) >= SCRIPTS:
            return
        self._seen.add(once)
        if _REFUSES.search(text):  # it knows of the other machines
            self.knows = True
            return
        self.text(text, folder)

    def _note(self, name: str) -> None:
        plain = PurePosixPath(name).name
        if plain not in _QUIET and not re.fullmatch(r"\w+=.*", name) and name not in self.dark:
            self.dark.append(name)


def _is_for_a_shell(text: str) -> bool:
    first = text.split("\n", 1)[0]
    if not first.startswith("#!"):
        return "\0" not in text
    return re.match(r"#!.*\b(sh|bash|dash|zsh|ksh)\b", first) is not None


def _makefiles(words: tuple[str, ...], folder: Path) -> tuple[Path, list[Path]]:
    """Where `make -C sub`, `make -f other.mk` has a shell carry out recipes, and the files that they may stand in."""
    names: tuple[str, ...] = _MAKEFILES
    for flag, value in zip(words, words[1:], strict=False):
        if flag in ("-C", "--directory"):
            folder = folder / value
        if flag in ("-f", "--file"):
            names = (value,)
    return folder, [folder / name for name in names]


def _beginning(file: Path) -> str:
    """The text of a script; nothing where there is no file, or none that is read here."""
    try:
        with open(file, "rb") as script:
            return script.read(READ_LIMIT).decode(errors="replace")
    except (OSError, ValueError):
        return ""
