"""Which of a project's files decides the script's environment, and which do not.

Looked for as uv does: from the directory upward, the nearest first, and not above what
travels. What is there and is not used is named, with what would make it usable.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sojourn.environment import local_packages
from sojourn.environment.local_packages import normal, read_toml, table
from sojourn.errors import SpecError, nearest
from sojourn.spec.dependencies import Dependencies

Kind = Literal["uv", "pylock", "requirements", "pyproject", "script", "export"]
ASK_LIMIT_S = 60.0
_HEADER = re.compile(r"^# /// script\s*$(?:\n#(?: .*)?)*?\n# ///\s*$", re.MULTILINE)
_PYLOCK = re.compile(r"pylock(\.[^.]+)?\.toml")
_REQUIREMENTS = re.compile(r"(.*[-_.])?(requirements?|reqs?)([-_.].*)?\.(txt|in)", re.IGNORECASE)
_ITSELF = re.compile(r"^\s*(-e\s*|--editable[ =]\s*)?(\.|file:\.)/?(\[[^\]]*\])?\s*([;#].*)?$", re.MULTILINE)
_NOT_SEARCHED = {
    "node_modules",
    "site-packages",
    "tests",
    "test",
    "docs",
    "runs",
    "__pycache__",
    "third_party",
    "vendor",
}
# Locks of other tools, and what prints them as requirements.
EXPORTS = {
    "poetry.lock": ("poetry", "export", "--format", "requirements.txt", "--without-hashes"),
    "pdm.lock": ("pdm", "export", "--format", "requirements", "--without-hashes"),
    "Pipfile.lock": ("pipenv", "requirements"),
}
_BY_HAND = {
    "poetry.lock": "poetry export -f requirements.txt -o requirements.txt   (needs: poetry self add "
    "poetry-plugin-export)",
    "pdm.lock": "pdm export -f requirements -o requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
    "Pipfile": "pipenv lock && pipenv requirements > requirements.txt",
}
_CONDA = ("environment.yml", "environment.yaml", "conda-lock.yml", "conda.yaml", "conda.yml", "meta.yaml")
_PIXI = ("pixi.lock", "pixi.toml")
_OTHERS = (*_CONDA, *_PIXI)
_SHOWN = 4


@dataclass(frozen=True)
class Source:
    """The file that decides, how it is read, and where uv stands while it reads it."""

    file: Path
    kind: Kind
    folder: Path
    command: tuple[str, ...] = ()  # of another tool, that prints it as requirements


@dataclass
class Chosen:
    """The answer: a source or none, and remarks on what lies there besides."""

    source: Source | None
    notes: list[str] = field(default_factory=list)


def choose(
    wanted: Dependencies,
    directory: Path,
    root: Path,
    *,
    script: Path | None,
    path: str,
    away: bool,
    prefer: Collection[str] = (),
) -> Chosen:
    """The file that decides. `script` is what python is given, `away` whether machines have nothing of this host.

    `prefer` has the names of the files that whatever starts the program would go by.

    Raises SpecError for a file, extra, group or member that is not there.
    """
    if wanted.file == "current":
        chosen = Chosen(None)
        if away:
            chosen.notes.append("nothing is installed on the machine: environment: current is its image's own Python")
    elif wanted.file == "auto":
        chosen = _found(wanted, directory, root, script, path, away, prefer)
    else:
        chosen = Chosen(named(wanted.file, directory, path))
    if wanted.package and chosen.source is not None and chosen.source.kind == "pyproject":
        member = _member(wanted.package, chosen.source)
        chosen.source = Source(member / "pyproject.toml", "pyproject", member)
    _check_parts(wanted, chosen.source)
    return chosen


def has_header(script: Path) -> bool:
    """Whether a script names its own dependencies, https://peps.python.org/pep-0723/."""
    try:
        return (
            script.suffix == ".py" and _HEADER.search(script.read_text(encoding="utf-8", errors="replace")) is not None
        )
    except OSError:
        return False


def shown(file: Path, directory: Path) -> str:
    """A file as seen from the directory."""
    return os.path.relpath(file, directory)


def not_used(directory: Path, away: bool, path: str = "") -> list[str]:
    """What names packages here and below, and is not read without being named; one line each."""
    lines = [_not_built(directory / name, directory, away) for name in _present(directory, (*_BY_HAND, *_OTHERS))]
    below = [shown(file, directory) for file in requirement_files(directory)]
    if below:
        more = f" (also {', '.join(below[1:_SHOWN])}{' …' if len(below) > _SHOWN else ''})" if len(below) > 1 else ""
        lines.append(f"{below[0]} is not used: --environment {below[0]}{more}")
    return lines


def requirement_files(directory: Path) -> list[Path]:
    """Requirements that people keep under other names or in folders, the likeliest first."""
    folders = [directory, *_folders(directory)]
    found = [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.suffix in (".txt", ".in") and (_REQUIREMENTS.fullmatch(file.name) or folder.name == "requirements")
        if file.is_file() and (file.parent, file.name) != (directory, "requirements.txt")
    ]
    return sorted(found, key=lambda file: (file.suffix != ".txt", "dev" in file.name, "test" in file.name))


def _folders(directory: Path) -> list[Path]:
    try:
        return [
            one
            for one in sorted(directory.iterdir())
            if one.is_dir() and not one.is_symlink() and not one.name.startswith(".") and one.name not in _NOT_SEARCHED
            if not (one / "pyvenv.cfg").exists() and os.access(one, os.R_OK | os.X_OK)
        ]
    except OSError:
        return []


# --- choosing ------------------------------------------------------------------------------


def _found(
    wanted: Dependencies,
    directory: Path,
    root: Path,
    script: Path | None,
    path: str,
    away: bool,
    prefer: Collection[str],
) -> Chosen:
    notes: list[str] = []
    if script is not None and has_header(script):
        beside = next(
            (one for level in _levels(directory, root) for one in _candidates(level, root, path, notes)), None
        )
        found = Chosen(Source(script, "script", directory))
        if beside is not None:
            found.notes.append(
                f"{shown(script, directory)} names its own packages (# /// script): "
                f"{shown(beside.file, directory)} is not used"
            )
        return found
    for level in _levels(directory, root):
        candidates = sorted(
            _candidates(level, root, path, notes), key=lambda one: bool(prefer) and one.file.name not in prefer
        )
        if candidates:
            return Chosen(candidates[0], [*notes, *_passed_over(candidates, level, directory, away)])
    return Chosen(None, [*notes, *_nothing(directory, root, away)])


def _levels(directory: Path, root: Path) -> list[Path]:
    """The directory and those above it, up to the root of what travels."""
    return [one for one in (directory, *directory.parents) if one.is_relative_to(root)] or [directory]


def _candidates(level: Path, root: Path, path: str, notes: list[str]) -> Iterator[Source]:
    """The files of one level that could decide, the most exact first."""
    yield from _uv_lock(level, root)
    if (level / "pylock.toml").is_file():
        yield Source(level / "pylock.toml", "pylock", level)
    for name in _present(level, EXPORTS):
        if _can_export(name, level, path):
            yield Source(level / name, "export", level, EXPORTS[name])
    for name in _present(level, ("requirements.lock", "requirements.txt")):
        yield Source(level / name, "requirements", level)
    if has_dependencies(level / "pyproject.toml"):
        yield Source(level / "pyproject.toml", "pyproject", level)
    for name in ("requirements.in", "setup.py", "setup.cfg"):
        file = level / name
        if file.is_file() and (name == "requirements.in" or _installs(file)):
            yield Source(file, "requirements" if name.endswith(".in") else "pyproject", level)


def _uv_lock(level: Path, root: Path) -> Iterator[Source]:
    """uv.lock beside a project, or at the root of the workspace that it is a member of."""
    project = level / "pyproject.toml"
    top = (local_packages.workspace_root(level, root) if project.is_file() else None) or level
    if (top / "uv.lock").is_file():
        yield Source(top / "uv.lock", "uv", level if project.is_file() else top)


def has_dependencies(file: Path) -> bool:
    """Whether a pyproject.toml is there to name packages; many a one only holds a linter's settings."""
    if not file.is_file():
        return False
    content = read_toml(file)
    if not content:
        return file.stat().st_size > 0  # uv says what is wrong with it, and where
    project = table(content, "project")
    named = "dependencies" in project or "dependencies" in project.get("dynamic", ())
    return named or "dependencies" in table(content, "tool", "poetry")


def _installs(file: Path) -> bool:
    """Whether a setup.py or setup.cfg names packages: many a setup.cfg only holds a linter's settings."""
    if (file.parent / "pyproject.toml").is_file() and table(read_toml(file.parent / "pyproject.toml"), "project"):
        return False
    return "install_requires" in file.read_text(encoding="utf-8", errors="replace")


def _can_export(name: str, folder: Path, path: str) -> bool:
    program = shutil.which(EXPORTS[name][0], path=path)
    if program is None:
        return False
    if name != "poetry.lock":
        return True
    try:  # a plugin of its own since Poetry 2
        asked = subprocess.run([program, "export", "--help"], cwd=folder, capture_output=True, timeout=ASK_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and b"does not exist" not in asked.stdout + asked.stderr


def _present(folder: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if (folder / name).is_file()]


# --- naming what is not used ----------------------------------------------------------------


def _passed_over(candidates: list[Source], level: Path, directory: Path, away: bool) -> Iterator[str]:
    first = candidates[0]
    # A lock and what it was made from are one thing.
    made_of = {"uv.lock": ("pyproject.toml",), "poetry.lock": ("pyproject.toml",), "pdm.lock": ("pyproject.toml",)}
    same = {*made_of.get(first.file.name, ()), "requirements.in", "setup.py", "setup.cfg"}
    if first.kind == "requirements" and _ITSELF.search(first.file.read_text(encoding="utf-8", errors="replace")):
        same.add("pyproject.toml")
    others = [shown(one.file, directory) for one in candidates[1:] if one.file.name not in same]
    if others:
        those = ", ".join(others)
        are = "are" if len(others) > 1 else "is"
        yield f"{shown(first.file, directory)} is used, {those} {are} not: --environment {others[0]}"
    known = {one.file.name for one in candidates}
    for name in _present(level, (*_BY_HAND, *_OTHERS)):
        if name not in known and f"{name}.lock" not in known and first.kind != "uv":
            yield _not_built(level / name, directory, away)


def _nothing(directory: Path, root: Path, away: bool) -> Iterator[str]:
    lines = not_used(directory, away)
    for above in _levels(directory, root)[1:]:
        lines += [_not_built(above / name, directory, away) for name in _present(above, (*_BY_HAND, *_OTHERS))]
    if away:
        yield "nothing is installed on the machine: no file here names packages" + (", but" if lines else "")
    yield from lines


def _not_built(file: Path, directory: Path, away: bool) -> str:
    name, where = file.name, shown(file, directory)
    if name in _BY_HAND:
        return f"{where} is not used; to use it: {_BY_HAND[name]}"
    if away:
        with_it = "pixi run pip freeze" if name in _PIXI else "pip list --format=freeze   (in its environment)"
        return f"{where} is not built from; to use it: {with_it} > requirements.txt"
    start = "pixi shell" if name in _PIXI else f"conda env create -f {where}, conda activate it"
    return f"{where} is not built from; to use it: {start}, and environment: current"


# --- a file by its name --------------------------------------------------------------------


def named(name: str, directory: Path, path: str = os.defpath) -> Source:
    """The file that is meant by its name. Raises SpecError for one that is not there or that nothing can read."""
    file = directory / name
    if not file.is_file():
        there = [shown(one, directory) for one in requirement_files(directory)]
        there += _present(directory, ("uv.lock", "pylock.toml", "requirements.txt", "pyproject.toml", *EXPORTS))
        known = f"{nearest(name, there)}; or use auto, current" if there else "use auto, current"
        raise SpecError(
            f"launch.environment: {name!r} is no file in {directory}",
            hint=f"{known}, or the path of a requirements file",
        )
    folder = file.parent
    if file.name == "uv.lock":
        return Source(file, "uv", folder)
    if _PYLOCK.fullmatch(file.name):
        return Source(file, "pylock", folder)
    if file.name in EXPORTS:
        if not _can_export(file.name, folder, path):
            raise SpecError(
                f"launch.environment: {name}: {EXPORTS[file.name][0]} is not here, or cannot export it",
                hint=_BY_HAND[file.name],
            )
        return Source(file, "export", folder, EXPORTS[file.name])
    if file.name in _OTHERS:
        raise SpecError(f"launch.environment: {_not_built(file, directory, away=False)}")
    if file.name in ("pyproject.toml", "setup.py", "setup.cfg"):
        return Source(file, "pyproject", folder)
    if has_header(file):
        return Source(file, "script", directory)
    return Source(file, "requirements", directory)


def _check_parts(wanted: Dependencies, source: Source | None) -> None:
    """Refuse extras, groups and members that the source does not have."""
    if not (wanted.extras or wanted.groups or wanted.package):
        return
    other_tool = source.file.name if source is not None and source.kind == "export" else None
    if other_tool and not wanted.package and not (other_tool == "Pipfile.lock" and wanted.extras):
        return  # that tool knows its names
    if source is None or source.kind not in ("uv", "pyproject"):
        what = "extras" if wanted.extras else "groups" if wanted.groups else "package"
        where = source.file.name if source else "the python on your PATH"
        raise SpecError(
            f"environment.{what}: {where} has none", hint="they belong to a pyproject.toml: file: pyproject.toml"
        )
    folder = source.folder
    if wanted.package is not None:
        folder = _member(wanted.package, source)
    content = read_toml(folder / "pyproject.toml")
    project, poetry = table(content, "project"), table(content, "tool", "poetry")
    if "optional-dependencies" not in project.get("dynamic", ()) and project:
        extras = {*table(project, "optional-dependencies"), *table(poetry, "extras")}
        _check_each("extras", wanted.extras, extras, folder)
    groups = {
        *table(content, "dependency-groups"),
        *(["dev"] if table(content, "tool", "uv").get("dev-dependencies") else []),
    }
    if source.kind == "uv":
        groups |= {*table(read_toml(source.file.parent / "pyproject.toml"), "dependency-groups")}
    _check_each("groups", wanted.groups, groups, folder)


def with_uv_run(wanted: Dependencies, source: Source) -> Dependencies:
    """The same for a project without a lock, which uv is to read by parts: those that `uv run` would install.

    Raises SpecError for a flag that needs a lock.
    """
    if "--all-packages" in wanted.flags:
        raise SpecError("command: all members of a workspace are installed by its lock alone", hint="uv lock")
    content = read_toml(source.folder / "pyproject.toml")
    asked, known = _Flags(wanted.flags), table(content, "dependency-groups")
    extras = [*wanted.extras, *(table(content, "project", "optional-dependencies") if "--all-extras" in asked else ())]
    usual = table(content, "tool", "uv").get("default-groups", [name for name in known if name == "dev"])
    only = asked.values("--only-group") + (["dev"] if "--only-dev" in asked else [])
    groups = [*wanted.groups, *only, *(known if "--all-groups" in asked else ())]
    if not only and "--no-default-groups" not in asked:
        groups += known if usual == "all" else usual
    without = {*map(normal, asked.values("--no-group")), *(["dev"] if "--no-dev" in asked else [])}
    less = set(map(normal, asked.values("--no-extra")))
    return wanted.model_copy(
        update={
            "extras": tuple(one for one in dict.fromkeys(extras) if normal(one) not in less),
            "groups": tuple(one for one in dict.fromkeys(groups) if normal(one) not in without),
            "flags": ("--only-group",) if only else (),
        }
    )


class _Flags(tuple[str, ...]):
    """Flags of uv, those with a value as `--flag=value`."""

    def values(self, flag: str) -> list[str]:
        """The values that were given to a flag."""
        return [one.partition("=")[2] for one in self if one.startswith(f"{flag}=")]


def _check_each(what: str, names: Iterable[str], known: set[str], folder: Path) -> None:
    for name in names:
        if normal(name) not in set(map(normal, known)):
            place = folder / "pyproject.toml"
            raise SpecError(f"environment.{what}: {name!r} is not in {place}, {nearest(name, known)}")


def _member(name: str, source: Source) -> Path:
    top = source.file.parent if source.kind == "uv" else local_packages.workspace_root(source.folder) or source.folder
    members = {
        normal(str(table(read_toml(one / "pyproject.toml"), "project").get("name", one.name))): one
        for one in local_packages.workspace_members(top)
    }
    if normal(name) not in members:
        raise SpecError(f"environment.package: {name!r} is no member of {top}, {nearest(name, members)}")
    return members[normal(name)]
