"""What `uv run`, `poetry run` and their like are told before the program that they start.

Their flags choose packages, a Python or a folder, and a run's environment is made before they
are read. So they are read here: followed when it is made, refused, or named as not followed.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from sojourn.errors import SpecError
from sojourn.shorthand import join_lines

_VALUES = {  # flags that take a value
    "uv": "--with -w --with-editable --with-requirements --extra --no-extra --group --no-group --only-group --python "
    "-p --package --env-file --index --default-index --index-url -i --extra-index-url --find-links -f --project "
    "--directory --cache-dir --config-file --color --refresh-package --upgrade-package -P --reinstall-package "
    "--link-mode --index-strategy --keyring-provider --resolution --prerelease --exclude-newer --config-setting -C "
    "--no-build-package --no-binary-package --no-build-isolation-package --fork-strategy --allow-insecure-host "
    "--no-editable-package --python-platform --upgrade-group --prerelease-package --exclude-newer-package "
    "--no-sources-package --config-settings-package",
    "poetry": "--directory -C --project -P",
    "pdm": "--project -p --skip -k --venv --env --env-file --working-dir --config -c",
    "pipenv": "--python --pypi-mirror",
    "conda": "--name -n --prefix -p --cwd",
    "hatch": "--env -e --project -p --data-dir --cache-dir --config",
    "pixi": "--environment -e --manifest-path --feature",
}
_RUNNERS = {"mamba": "conda", "micromamba": "conda", "rye": "", **{name: name for name in _VALUES}}
_START = {
    "uv": ("--directory",),
    "poetry": ("--directory", "-C"),
    "pdm": ("--working-dir",),
    "conda": ("--cwd",),
}  # go there first
_PROJECT = {"uv": ("--project",), "poetry": ("--project", "-P"), "pdm": ("--project", "-p")}
# Of uv's flags: what takes parts away and what gives more, and those that change nothing that is installed.
_TAKES = ("--no-extra", "--no-group", "--only-group", "--no-dev", "--only-dev", "--no-default-groups")
_GIVES = ("--all-extras", "--all-groups", "--all-packages", "--dev")
_NO_MATTER = {
    "uv": "--with -w --with-editable --with-requirements --env-file --no-env-file --active --no-sync --locked --frozen "
    "--exact --no-editable --no-editable-package --module --script -s --gui-script --quiet -q --verbose -v --color "
    "--offline --no-progress --no-cache -n --cache-dir --refresh --refresh-package --reinstall --reinstall-package "
    "--link-mode --compile-bytecode --system-certs --native-tls --allow-insecure-host --keyring-provider "
    "--managed-python --no-managed-python --no-python-downloads --preview",
    "poetry": "--quiet -q --verbose -v --ansi --no-ansi --no-interaction -n --no-cache",
    "pdm": "--quiet -q --verbose -v --skip -k --env --env-file --working-dir",
    "pipenv": "--quiet -q --verbose -v --pypi-mirror",
}
_REFUSED = {
    "uv": {"--isolated": "a run's environment is its own as it is"},
    "pdm": {name: "a run has one environment" for name in ("--venv", "--global", "-g")},
    "pipenv": {name: "a run has one environment" for name in ("--python", "--site-packages")},
}
_READ = ("--env-file", "--with-requirements", "--with-editable")  # as the program starts
OWN = ("hatch", "pixi", "rye")  # make their environments themselves, whatever is switched on
_FILES = {  # what each takes packages from
    "uv": ("uv.lock", "pyproject.toml"),
    "poetry": ("poetry.lock", "pyproject.toml"),
    "pdm": ("pdm.lock", "pyproject.toml"),
    "pipenv": ("Pipfile.lock",),
}
_PREFIXES = {"exec", "time", "nohup", "command", "then", "do", "else", "if", "!", "{", "("}
BEFORE = {  # what starts another program with its words
    "env", "nice", "ionice", "nohup", "time", "timeout", "stdbuf", "setsid", "taskset", "numactl", "chrt", "xvfb-run",
    "unbuffer", "uvx", "pipx", "tini", "dumb-init", "srun", "sudo", "strace", "exec", "command",
}  # fmt: skip
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}


@dataclass(frozen=True)
class Runner:
    """`uv run` or its like, and what of its flags matters to an environment. Folders are seen from the command's."""

    name: str
    start: str = "."
    project: str = "."
    package: str | None = None
    python: str | None = None
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # of uv, as `uv export` takes them
    no_project: bool = False
    words: tuple[str, ...] = ()  # all flags as typed
    program: str = ""
    read: tuple[str, ...] = ()  # files that it reads as the program starts
    ignored: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it takes packages from."""
        return _FILES.get(self.name, ())

    @property
    def reads_script(self) -> bool:
        """Whether uv is given a script itself, and so reads what that names as its packages."""
        asked = self.program.endswith(".py") or not {"-s", "--script"}.isdisjoint(self.words)
        return self.name == "uv" and asked

    def check(self) -> None:
        """Raises SpecError for flags that no environment made beforehand can follow."""
        for flag, because in _REFUSED.get(self.name, {}).items():
            if any(word == flag or word.startswith(f"{flag}=") for word in self.words):
                raise SpecError(
                    f"command: {self.name}'s {flag} cannot be followed: {because}",
                    hint="leave it out, or let your own tools make the environment: environment: current",
                )


def is_known(word: str) -> bool:
    """Whether it is `uv`, `poetry` or another of their kind."""
    return PurePosixPath(word).name in _RUNNERS


def past(argv: Sequence[str]) -> int:
    """Where the program stands behind `uv run --extra gpu`, `poetry run`, `env A=1` and kin."""
    at = _past_variables(argv)
    tool = _tool(argv, at)
    if tool is None or "run" not in argv[at + 1 :]:
        return at
    values = set(_VALUES.get(tool, "").split())
    run = _past_flags(argv, at + 1, values)
    return _past_flags(argv, run + 1, values) if list(argv[run : run + 1]) == ["run"] else at


def in_words(argv: Sequence[str]) -> Runner | None:
    """What starts the program that these words are for."""
    if argv and PurePosixPath(argv[0]).name in BEFORE:
        first = next((at for at, word in enumerate(argv) if _tool(argv, at) is not None), 0)
        argv = ["env", *(word for word in argv[:first] if word.startswith("UV_")), *argv[first:]]
    at, end = _past_variables(argv), past(argv)
    if end == at or _tool(argv, at) is None:
        return None
    name = _tool(argv, at) or ""
    program = argv[end] if end < len(argv) else ""
    found = Runner(PurePosixPath(argv[at]).name if name in ("", "conda") else name, program=program)
    typed = [word.partition("=")[0] for word in argv[:at] if word.startswith("UV_")] if name == "uv" else []
    found = replace(found, ignored=tuple(typed))
    for flag, value in _flags(argv[at + 1 : end], set(_VALUES.get(name, "").split())):
        found = _with(found, flag, value)
    return found


def in_text(text: str) -> Runner | None:
    """The same of lines of shell; of several with different parts, one that has the parts of all."""
    found: Runner | None = None
    where = "."
    for words in commands(text):
        if len(words) == 2 and words[0] in ("cd", "pushd") and "$" not in words[1]:
            where = os.path.normpath(os.path.join(where, words[1]))
        one = in_words(words)
        if one is not None:
            one = replace(one, start=_joined(where, one.start), project=_joined(where, one.project))
            found = one if found is None else _both(found, one)
    return found


def _joined(where: str, below: str) -> str:
    return os.path.normpath(os.path.join(where, below))


def _tool(argv: Sequence[str], at: int) -> str | None:
    return _RUNNERS.get(PurePosixPath(argv[at]).name) if at < len(argv) else None


def _past_variables(argv: Sequence[str]) -> int:
    at = 1 if argv and PurePosixPath(argv[0]).name == "env" else 0
    while at < len(argv) and at and re.fullmatch(r"\w+=.*", argv[at], re.DOTALL):
        at += 1
    return at


def _past_flags(argv: Sequence[str], at: int, values: set[str]) -> int:
    while at < len(argv) and argv[at].startswith("-") and argv[at] not in ("-m", "--"):
        at += 2 if argv[at] in values else 1
    return at + (list(argv[at : at + 1]) == ["--"])


def _flags(words: Sequence[str], values: set[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag with its value, however it is written: `--python 3.12`, `--python=3.12`, `-p3.12`."""
    at = 0
    while at < len(words):
        word, at = words[at], at + 1
        if word in values:
            yield word, words[at] if at < len(words) else None
            at += 1
        elif word.startswith("--") and "=" in word:
            flag, _, value = word.partition("=")
            yield flag, value
        elif word[:2] in values and not word.startswith("--"):
            yield word[:2], word[2:].removeprefix("=")
        elif word.startswith("-") and word != "--":
            yield re.sub(r"^-([qv])\1+$", r"-\1", word), None


def _with(found: Runner, flag: str, value: str | None) -> Runner:
    name, typed = found.name, flag if value is None else f"{flag}={value}"
    found = replace(found, words=(*found.words, typed))
    if value and flag in _READ and "$" not in value and "://" not in value:
        found = replace(found, read=(*found.read, value))
    if value is not None and "$" in value and flag not in _NO_MATTER.get(name, "").split():
        return replace(found, ignored=(*found.ignored, typed))  # known to the shell alone
    if value is not None and flag in _START.get(name, ()):
        return replace(found, start=value, project=_joined(value, found.project))
    if value is not None and flag in _PROJECT.get(name, ()):
        return replace(found, project=_joined(found.start, value))
    if name == "uv" and (known := _of_uv(found, flag, value)) is not None:
        return known
    if name in OWN or flag in _NO_MATTER.get(name, "").split() or flag in _REFUSED.get(name, {}) or name not in _FILES:
        return found
    return replace(found, ignored=(*found.ignored, typed))


def _of_uv(found: Runner, flag: str, value: str | None) -> Runner | None:
    if flag == "--no-project":
        return replace(found, no_project=True)
    if value is None:
        return replace(found, flags=(*found.flags, flag)) if flag in (*_TAKES, *_GIVES) else None
    if flag == "--extra":
        return replace(found, extras=(*found.extras, value))
    if flag == "--group":
        return replace(found, groups=(*found.groups, value))
    if flag == "--package":
        return replace(found, package=value)
    if flag in ("--python", "-p"):
        return replace(found, python=value)
    return replace(found, flags=(*found.flags, f"{flag}={value}")) if flag in _TAKES else None


def _both(one: Runner, other: Runner) -> Runner:
    """One for two commands: what either asks for is there, what both leave out is not."""
    if one.python != other.python:
        raise SpecError(
            f"command: {one.name} run is asked for different Pythons, and a run has one environment",
            hint="ask for one of them, or make two runs of it",
        )
    flags = [flag for flag in (*one.flags, *other.flags) if not flag.startswith(_TAKES)]
    flags += [flag for flag in one.flags if flag.startswith(_TAKES) and flag in other.flags]
    if one.package != other.package:
        flags.append("--all-packages")
    only = [flag.partition("=")[2] for flag in (*one.flags, *other.flags) if flag.startswith("--only-group=")]
    more = [name for name in only if f"--only-group={name}" not in flags]
    return replace(
        one,
        package=one.package if one.package == other.package else None,
        extras=tuple(dict.fromkeys((*one.extras, *other.extras))),
        groups=tuple(dict.fromkeys((*one.groups, *other.groups, *more))),
        flags=tuple(dict.fromkeys(flags)),
        no_project=one.no_project and other.no_project,
        words=(*one.words, *other.words),
        ignored=tuple(dict.fromkeys((*one.ignored, *other.ignored))),
    )


def commands(text: str) -> Iterator[list[str]]:
    """The words of each simple command in lines of shell, also of those that another shell is given."""
    for words, _ in with_signs(text):
        yield from within(words)


def with_signs(text: str) -> Iterator[tuple[list[str], str]]:
    """The words of each simple command in lines of shell, with the sign that ends it: `|`, `&&`, `;`."""
    for line in join_lines(text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # a string over several lines
        command: list[str] = []
        for word in [*words, ";"]:
            if word and set(word) <= set("();<>|&"):
                if command:
                    yield command, word
                command = []
            elif command or word not in _PREFIXES:
                command.append(word)


def within(words: list[str]) -> Iterator[list[str]]:
    """The command that these words are, or those that they give a shell."""
    if words and PurePosixPath(words[0]).name in _SHELLS and "-c" in words[1:-1]:
        yield from commands(words[words.index("-c") + 1])
    elif words:
        assigned = re.fullmatch(r"\w+=.*", words[0], re.DOTALL) is not None
        yield ["env", *words] if assigned else words
