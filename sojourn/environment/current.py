"""The Python that the user has switched on, and where it would import the project from: not the bundle.

An editable installation, a line in a .pth file and PYTHONPATH lead into the tree as it
stands while the script runs, or into another checkout. What of that is the project's is
taken from the bundle instead, which goes before all that is installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from sojourn.environment import local_packages
from sojourn.environment.local_packages import Found, normal
from sojourn.project.project import Project
from sojourn.protocol import LocalPackage

INHERITED = ("VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH")
ASK_LIMIT_S = 20.0
_ACTIVATES = re.compile(r"(?:^|[;&|\s])(?:source|\.)\s+[\"']?([^\s\"';]+/bin/activate)\b")
_CONDA = ("conda", "mamba", "micromamba")


@dataclass
class Current:
    """How the script gets to it."""

    path: list[str]
    variables: dict[str, str]
    python_path: list[str] = field(default_factory=list)
    packages: list[LocalPackage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Installed(NamedTuple):
    """A package that an environment takes from a folder, or took."""

    name: str | None
    place: Path
    editable: bool


def look(directory: Path, root: Path, surroundings: Mapping[str, str], own: Path | None = None) -> Current:
    """The environment of whoever asks, or the command's own, with the project's code from the bundle."""
    path = surroundings.get("PATH", os.defpath).split(os.pathsep)
    found = Current(
        path=[one for entry in path for one in _programs(entry, directory, root)],
        variables={name: surroundings[name] for name in INHERITED if name in surroundings},
    )
    for entry in filter(None, surroundings.get("PYTHONPATH", "").split(os.pathsep)):
        found.python_path += _modules(directory / entry, root)
    for one in dict.fromkeys(_installed(own, path, surroundings)):
        _take(one, found, directory, root)
    return found


def _programs(entry: str, directory: Path, root: Path) -> list[str]:
    """A folder of the project's own programs is first looked for in the bundle."""
    full = Path(os.path.normpath(directory / entry)) if entry else directory
    inside = full.is_relative_to(root) and not _in_environment(full, root)
    return [full.relative_to(root).as_posix(), str(full)] if inside else [entry or str(full)]


def _modules(entry: Path, root: Path) -> list[str]:
    full = Path(os.path.normpath(entry))
    if not full.is_relative_to(root) or _in_environment(full, root):
        return [str(full)]
    where = full.relative_to(root).as_posix()
    ignored = Project(root).git("check-ignore", "--quiet", where) is not None if where != "." else False
    return [str(full)] if ignored else [where]


def _in_environment(folder: Path, root: Path) -> bool:
    """Whether it belongs to a virtual environment, which does not travel."""
    above = (one for one in (folder, *folder.parents) if one.is_relative_to(root))
    return any((one / "pyvenv.cfg").exists() or (one / "conda-meta").is_dir() for one in above)


def _take(one: _Installed, found: Current, directory: Path, root: Path) -> None:
    inside = one.place.is_relative_to(root) and not _in_environment(one.place, root)
    ours = _described(one.place, root) if inside else _twin(one, directory, root)
    if ours is None:
        if inside and one.editable:
            found.python_path.append(one.place.relative_to(root).as_posix())
        return
    package = ours.package
    if ours.built:
        what = "from your tree as it stands" if inside and one.editable else f"from {one.place}"
        found.notes.append(f"{package.name} is imported {what}, not from the bundle: {ours.built}")
        return
    hides = _hides(root, package)
    if hides:
        found.notes.append(
            f"{package.name} is imported from {one.place}, not from the bundle: {hides} hides Python's own"
        )
        return
    if package.directory not in {other.directory for other in found.packages}:
        found.packages.append(package)
    if not inside:
        found.notes.append(f"{package.name} is installed from {one.place}; the run imports it from this project")
    elif not one.editable:
        found.notes.append(f"{package.name} is installed as a copy; the run imports it as it stands in the project")


def _hides(root: Path, package: LocalPackage) -> str | None:
    """A module of Python's own name beside the package, which PYTHONPATH would put before Python's."""
    for folder in package.paths:
        for file in sorted((root / folder).iterdir()):
            is_module = file.suffix == ".py" or (file / "__init__.py").is_file()
            if is_module and file.stem in sys.stdlib_module_names and file.stem != "test":
                return (Path(folder) / file.name).as_posix()
    return None


def _described(place: Path, root: Path) -> Found | None:
    return local_packages.describe(place, root) if place.is_dir() else None


def _twin(one: _Installed, directory: Path, root: Path) -> Found | None:
    """The project's own package of that name, where what is installed is another checkout of it."""
    if one.name is None:
        return None
    top = Project(one.place).git_if_it_will("rev-parse", "--show-toplevel") if one.place.is_dir() else None
    below = Path(os.path.relpath(one.place, top.strip())) if top else Path(".")
    places = (root / below, directory, *(above for above in directory.parents if above.is_relative_to(root)))
    described = (_described(place, root) for place in dict.fromkeys(places))
    return next((ours for ours in described if ours and normal(ours.package.name) == normal(one.name)), None)


# --- what is installed ----------------------------------------------------------------------


def named_by(words: Sequence[str], surroundings: Mapping[str, str]) -> Path | None:
    """The environment that a command names itself: by a program in it, or as `conda run -n NAME` does."""
    if words and words[0].startswith("/") and (len(words) > 1 or not set(words[0]) & set(" \n")):
        prefix = Path(words[0]).parent.parent
        has_packages = any(prefix.glob("lib/python3*/site-packages"))
        return prefix if has_packages and (prefix / "bin" / "python").exists() else None
    if len(words) > 1 and Path(words[0]).name in _CONDA and words[1] == "run":
        return _conda(words[2:], surroundings)
    return None


def switched_on_by(text: str, surroundings: Mapping[str, str]) -> Path | None:
    """The environment that lines of shell switch on by its place: `source /home/me/venv/bin/activate`."""
    home = surroundings.get("HOME", "/")
    for place in _ACTIVATES.findall(text):
        prefix = Path(re.sub(r"^(~|\$HOME|\$\{HOME\})(?=/)", lambda _: home, place)).parent.parent
        if prefix.is_absolute() and (prefix / "pyvenv.cfg").is_file():
            return prefix
    return None


def ignores_path(words: Sequence[str]) -> bool:
    """Whether Python is started so that it does not look at PYTHONPATH."""
    flags = [word for word in words[: _first_argument(words)] if re.fullmatch(r"-[A-Za-z]+", word)]
    return any("I" in flag or "E" in flag for flag in flags)


def _first_argument(words: Sequence[str]) -> int:
    """Where the script or module stands, behind the interpreter and its flags."""
    at = next((at for at, word in enumerate(words) if re.fullmatch(r"(.*/)?python[\d.]*", word)), len(words))
    flags = range(at + 1, len(words))
    return next((one for one in flags if not words[one].startswith("-") or words[one] in ("-m", "-c")), len(words))


def _conda(words: Sequence[str], surroundings: Mapping[str, str]) -> Path | None:
    asked = {one: words[at + 1] for at, one in enumerate(words[:-1]) if one in ("-n", "--name", "-p", "--prefix")}
    asked |= dict(one.split("=", 1) for one in words if one.startswith(("--name=", "--prefix=")))
    place, name = asked.get("-p", asked.get("--prefix")), asked.get("-n", asked.get("--name"))
    if place is not None:
        return Path(place)
    program = surroundings.get("CONDA_EXE") or shutil.which("conda", path=surroundings.get("PATH"))
    base = Path(program).resolve().parent.parent if program else None
    folders = [base / "envs"] if base else []
    folders += [Path(surroundings.get("HOME", "/"), ".conda", "envs")]
    folders += [Path(one) for one in surroundings.get("CONDA_ENVS_PATH", "").split(os.pathsep) if one]
    if name == "base":
        return base
    return next((folder / name for folder in folders if name and (folder / name).is_dir()), None)


def _installed(own: Path | None, path: list[str], surroundings: Mapping[str, str]) -> Iterator[_Installed]:
    for site in own.glob("lib/python3*/site-packages") if own else _site_packages(path, surroundings):
        for file in site.glob("*.dist-info/direct_url.json"):
            yield from _direct(file)
        for file in site.glob("*.egg-link"):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                yield _Installed(file.stem, Path(os.path.realpath(lines[0].strip())), True)
        for file in site.glob("*.pth"):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith(os.sep) and not file.name.startswith("__editable__"):
                    yield _Installed(None, Path(os.path.realpath(line.strip())), True)


def _direct(file: Path) -> Iterator[_Installed]:
    """https://packaging.python.org/en/latest/specifications/direct-url/"""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        url, folder = urlsplit(said["url"]), said.get("dir_info")
        editable = bool(folder.get("editable")) if folder is not None else False
        place = Path(os.path.realpath(unquote(url.path)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    if url.scheme == "file" and folder is not None:
        name = file.parent.name.removesuffix(".dist-info").rpartition("-")[0]
        yield _Installed(name, place, editable)


def _site_packages(path: list[str], surroundings: Mapping[str, str]) -> Iterator[Path]:
    """Where the Python that the PATH means keeps its packages."""
    python = next(
        (found for name in ("python", "python3") if (found := shutil.which(name, path=os.pathsep.join(path)))), None
    )
    if python is None:
        return
    prefix = Path(python).parent.parent
    if not list(prefix.glob("lib/python3*")):
        prefix = _asked(python) or prefix
    version = re.search(r"python(3\.\d+)", os.path.realpath(python))
    pattern = f"python{version[1]}" if version else "python3*"
    homes = [prefix]
    if not (prefix / "pyvenv.cfg").exists() and surroundings.get("HOME"):
        homes.append(Path(surroundings["HOME"], ".local"))
    for home in homes:
        for kind in ("site-packages", "dist-packages"):
            yield from home.glob(f"lib/{pattern}/{kind}")


def _asked(python: str) -> Path | None:
    """For a shim, that starts another Python."""
    words = [python, "-I", "-c", "import sys; print(sys.prefix)"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=ASK_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(said.stdout.strip()) if said.returncode == 0 and said.stdout.strip() else None
