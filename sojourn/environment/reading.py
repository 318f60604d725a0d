"""What uv makes of a dependency file: every package to the file, and the project's own ones told apart.

Nothing is left in the user's tree: where a package's dependencies are known to its build
backend alone, which writes beside the sources, uv reads a copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sojourn.environment.local_packages import Found
from sojourn.environment.sources import Source
from sojourn.environment.uv import LIMIT_S, run_uv
from sojourn.errors import SpecError, TransientError
from sojourn.spec.dependencies import Dependencies

COPIED = 1_000_000  # bytes; no package keeps what its metadata needs in larger files


@dataclass(frozen=True)
class Desk:
    """Where uv reads: the user's own tree, or a copy of it."""

    root: Path
    live: Path
    variables: dict[str, str]

    def at(self, path: Path) -> Path:
        """A path of the user's tree as it lies here."""
        path = Path(os.path.abspath(path))
        return self.root / path.relative_to(self.live) if path.is_relative_to(self.live) else path

    def origin(self, path: Path) -> Path:
        """The user's own path of one that lies here."""
        return self.live / path.relative_to(self.root) if path.is_relative_to(self.root) else path


@contextmanager
def desk(root: Path, packages: Iterable[Found]) -> Iterator[Desk]:
    """The tree for uv to read in."""
    known = list(packages)
    if not any(one.dynamic for one in known):
        yield Desk(root, root, {})
        return
    with tempfile.TemporaryDirectory(prefix="sojourn-") as folder:
        copy = Path(folder).resolve() / "tree"
        _copy(root, copy, [one.package.directory for one in known if one.built])
        yield Desk(copy, root, versions(known))


def _copy(root: Path, to: Path, whole: list[str]) -> None:
    from sojourn.project import bundle
    from sojourn.project.project import Project

    for found in bundle.survey(Project(root)).files:
        place = to / found.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.target is not None:
            place.symlink_to(found.target)
        elif found.size <= COPIED or any(Path(found.path).is_relative_to(one) for one in whole):
            shutil.copy(root / found.path, place)


def versions(packages: Iterable[Found]) -> dict[str, str]:
    """The copy has no history: plugins that look for the version in git's tags are told it."""
    told: dict[str, str] = {"POETRY_DYNAMIC_VERSIONING_BYPASS": "0"}
    for one in packages:
        name = re.sub(r"[-_.]+", "_", one.package.name).upper()
        told[f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_{name}"] = one.package.version
        told["PDM_BUILD_SCM_VERSION"] = told["POETRY_DYNAMIC_VERSIONING_BYPASS"] = one.package.version
    return told


def read(source: Source, wanted: Dependencies, at: Desk, to: Path, how: Iterable[str]) -> str:
    """The text of a pylock.toml for the source, written to `to`; `how` are uv's flags for the machine meant.

    Raises SpecError with uv's own words.
    """
    file, folder = at.at(source.file), at.at(source.folder)
    if source.kind == "pylock":
        shutil.copyfile(source.file, to)
        return _moved(source.file.parent, to)
    parts = [word for extra in wanted.extras for word in ("--extra", extra)]
    parts += [word for group in wanted.groups for word in ("--group", group)]
    strategy = ("--index-strategy", wanted.index_strategy) if wanted.index_strategy else ()
    name = source.file.name
    if source.kind == "uv":
        member = ("--package", wanted.package) if wanted.package else ()
        words = ("export", "--quiet", "--frozen", "--no-header", "--format=pylock.toml", f"--output-file={to}")
        run_uv(*words, *member, *parts, *wanted.flags, cwd=folder, source=name, variables=at.variables)
        return to.read_text(encoding="utf-8")
    if source.kind == "script" and file.with_name(f"{file.name}.lock").is_file():
        words = ("export", "--quiet", "--frozen", "--no-header", "--format=pylock.toml", f"--output-file={to}")
        run_uv(*words, "--script", os.path.relpath(file, folder), cwd=folder, source=name, variables=at.variables)
        return to.read_text(encoding="utf-8")
    if source.kind == "export":
        file = to.with_name("exported.txt")
        exported = _export(source, wanted)
        file.write_text(exported.replace(at.live.as_uri(), at.root.as_uri()), encoding="utf-8")
    words = ("pip", "compile", "--quiet", "--no-header", "--format=pylock.toml", f"--output-file={to}")
    path = [os.path.relpath(file, folder) if source.kind != "export" else str(file)]
    if source.kind == "pyproject" and wanted.flags:  # of a project nothing but groups
        path = []
    chosen = parts if source.kind != "export" else ()  # the other tool has heard of them
    run_uv(*words, *how, *chosen, *strategy, *path, cwd=folder, source=name, variables=at.variables)
    return to.read_text(encoding="utf-8")


def _moved(folder: Path, file: Path) -> str:
    """Paths of a lock that begin at its own folder, made whole, as it lies elsewhere now."""

    def whole(match: re.Match[str]) -> str:
        return f'{match[1]}"{(folder / match[2]).resolve().as_posix()}"'

    text = re.sub(r'(\bpath\s*=\s*)"([^"/][^"]*)"', whole, file.read_text(encoding="utf-8"))
    file.write_text(text, encoding="utf-8")
    return text


def _export(source: Source, wanted: Dependencies) -> str:
    """The other tool's own word. Raises SpecError with what it says."""
    tool = source.command[0]
    words = [*source.command, *_parts(tool, wanted)]
    with _away(source) as folder:
        # A tool that is in an environment makes none, in the tree least of all.
        env = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PIPENV_VERBOSITY": "-1"}
        try:
            done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT_S)
        except OSError as error:
            raise SpecError(f"environment: {tool} cannot be started: {error.strerror}") from error
        except subprocess.TimeoutExpired:
            raise TransientError(f"environment: {' '.join(words)} took longer than {LIMIT_S} s") from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).replace("\n", "\n  ")
            raise SpecError(
                f"environment: {' '.join(words)} could not read {source.file.name}: {said}",
                hint=f"lock it anew: {tool} lock",
            )
        return done.stdout.replace(folder.as_uri(), source.folder.as_uri())


def _parts(tool: str, wanted: Dependencies) -> list[str]:
    flags = {"poetry": ("--extras", "--with"), "pdm": ("--group", "--group"), "pipenv": ("", "--categories")}
    extra, group = flags[tool]
    named = [*((extra, one) for one in wanted.extras), *((group, one) for one in wanted.groups)]
    return [word for pair in named for word in pair]


@contextmanager
def _away(source: Source) -> Iterator[Path]:
    """Where the tool stands: beside copies, as pdm and pipenv write into the project; poetry must see its packages."""
    if source.command[0] == "poetry":
        yield source.folder
        return
    with tempfile.TemporaryDirectory(prefix="sojourn-") as folder:
        for name in (source.file.name, "pyproject.toml", "Pipfile", "README.md"):
            if (source.folder / name).is_file():
                shutil.copyfile(source.folder / name, Path(folder, name))
        yield Path(folder).resolve()


def directories(text: str, lock: Path) -> list[tuple[str, Path]]:
    """The packages of a lock that are folders of this host: name and place."""
    packages = tomllib.loads(text).get("packages", [])
    found = ((one["name"], one["directory"]["path"]) for one in packages if "directory" in one)
    return [(name, (lock.parent / path).resolve()) for name, path in found]


def without_directories(text: str) -> str:
    """The lock without them."""
    head, *blocks = re.split(r"^(?=\[\[packages\]\])", text, flags=re.MULTILINE)
    return head + "".join(one for one in blocks if "directory" not in tomllib.loads(one)["packages"][0])


def outside(name: str, place: Path, source: Source) -> SpecError:
    """What is said of a package that does not travel with the project."""
    return SpecError(
        f"environment: {source.file.name}: {name!r} lies in {place}, outside the project",
        hint=f"move it into the project, or name a wheel of it: uv build --wheel {place} --out-dir wheels",
    )
