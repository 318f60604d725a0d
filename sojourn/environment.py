"""The Python environment a script runs in: dependencies only, keyed by their digest.

Editing the script never rebuilds it. Machines that share this host's files get a virtual
environment in Sojourn's data directory, made by uv from the project's own dependency
files. For a rented machine the same files are locked here and the lock is sent; its agent
makes the environment there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field

from sojourn.errors import SpecError
from sojourn.mailbox import Mailbox
from sojourn.project import Project
from sojourn.records import Network, Offer, Record, Setup
from sojourn.requirements import Lock, lock
from sojourn.target import ASKED, targets
from sojourn.uv import run_uv

FOUND_BY = ("uv.lock", "requirements.txt", "pyproject.toml")
READY = "ready"
CACHE = "wheels"  # beside the environments, and as old as its last use
_INCLUDE = re.compile(r"^\s*(-r|-c|--requirement|--constraint)[ =]\s*(?P<path>[^\s#]+)", re.MULTILINE)
_INHERITED = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "LD_LIBRARY_PATH")


class Environment(Record):
    """What the script's `python` is."""

    kind: Literal["current", "built", "sent"] = Field(
        description="Found on the machine's PATH; built on this host, whose files the machine shares; "
        "or locked here and made on the machine"
    )
    source: str | None = Field(
        default=None, description="The dependency file it is built from, relative to the directory"
    )
    digest: str | None = Field(default=None, description="Hash over that file, Python version and platform")
    path: tuple[str, ...] = Field(
        default=(), description="For `current` on this host: the PATH of whoever asked for the run"
    )
    variables: dict[str, str] = Field(default_factory=dict)
    locks: tuple[Lock, ...] = Field(default=(), description="For `sent`: one for each kind of machine on offer")


class Setups(Record):
    """What the machines are told of their environment, one for each kind of machine on offer."""

    setups: tuple[Setup, ...]


def resolve(wanted: str, directory: Path, surroundings: Mapping[str, str]) -> Environment:
    """The environment that `launch.environment` means on this host. Raises SpecError for a missing file."""
    source = _source(wanted, directory)
    if source is None:
        kept = {name: surroundings[name] for name in _INHERITED if name in surroundings}
        return Environment(
            kind="current", path=tuple(surroundings.get("PATH", os.defpath).split(os.pathsep)), variables=kept
        )
    content = b"".join(file.read_bytes() for file in _files(directory, source))
    key = hashlib.sha256(content + f"{source}|{platform.python_version()}|{platform.platform()}".encode())
    return Environment(kind="built", source=source, digest=key.hexdigest()[:16], variables=_variables(source))


def resolve_away(wanted: str, project: Project, offers: Iterable[Offer], network: Network) -> Environment:
    """The environment that `launch.environment` means on machines to which nothing of this host exists.

    Raises SpecError for a missing file, or with uv's last words when the dependencies cannot be had.
    """
    source = _source(wanted, project.directory)
    if source is None:
        return Environment(kind="current")
    locks = tuple(
        lock(source, project.directory, project.root, kind, offline=network == "none")
        for kind in targets(offers, project.directory)
    )
    digest = hashlib.sha256("".join(one.digest for one in locks).encode()).hexdigest()[:16]
    return Environment(kind="sent", source=source, digest=digest, variables=_variables(source), locks=locks)


def ready(environment: Environment, home: Path) -> bool:
    """Whether nothing needs to be built."""
    return environment.kind == "current" or (_place(environment, home) / READY).exists()


def build(environment: Environment, directory: Path, home: Path) -> bool:
    """Make the environment unless it stands; whether it had to be made.

    Raises SpecError with uv's last words when the dependencies cannot be had.
    """
    if environment.kind != "built":
        return False
    place = _place(environment, home)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_suffix(".lock")):
        if ready(environment, home):
            (place / READY).touch()  # its date is that of its last use
            return False
        shutil.rmtree(place, ignore_errors=True)
        run_uv("venv", "--quiet", str(place), cwd=directory)
        requirements = str(_requirements(environment, directory, place))
        python = str(place / "bin" / "python")
        run_uv("pip", "install", "--quiet", "--python", python, "-r", requirements, cwd=directory)
        (place / READY).touch()
    return True


def send(environment: Environment, network: Network, mailbox: Mailbox, home: Path) -> tuple[Setups, int]:
    """Send the locks and what travels with them, as far as the store lacks it; what the order says, and the bytes."""
    from sojourn import wheels  # only when something is sent: it loads an HTTP client

    folder = home / "environments"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f"{CACHE}.lock"):
        sent = [wheels.send(one, network, mailbox, folder / CACHE) for one in environment.locks]
        (folder / CACHE / READY).touch()
    return Setups(setups=tuple(setup for setup, _ in sent)), sum(size for _, size in sent)


def setup_for(environment: Environment, setups: Setups | None, offer: Offer) -> Setup | None:
    """What a machine of this offer makes for itself, if anything."""
    if environment.kind != "sent" or setups is None:
        return None
    fitting = (at for at, one in enumerate(environment.locks) if one.target.fits(offer))
    return setups.setups[next(fitting)]


def unused(home: Path, since: float) -> dict[str, int]:
    """The environments that no run has begun with since then, each with the bytes that only it holds."""
    folder = home / "environments"
    places = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return {place.name: _own_bytes(place) for place in places if _last_use(place) < since}


def remove(digest: str, home: Path, since: float) -> bool:
    """Remove an environment, unless a run has begun with it since then."""
    place = home / "environments" / digest
    with _locked(place.with_suffix(".lock")):
        if not place.is_dir() or _last_use(place) >= since:
            return False
        shutil.rmtree(place)
        return True


def _last_use(place: Path) -> float:
    mark = place / READY
    return (mark if mark.exists() else place).stat().st_mtime


def _own_bytes(place: Path) -> int:
    """uv links files from its cache where it can: those cost nothing here, and free nothing."""
    files = (path.lstat() for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(info.st_size for info in files if info.st_nlink == 1)


def search_path(environment: Environment, home: Path) -> tuple[str, ...]:
    """The directories of this host that go before the machine's own PATH."""
    return (str(_place(environment, home) / "bin"),) if environment.kind == "built" else environment.path


def find_program(program: str, environment: Environment) -> bool:
    """Whether the program can be started on this host; another environment is not looked into."""
    path = environment.path
    return not path or shutil.which(program, path=os.pathsep.join(path)) is not None


def _source(wanted: str, directory: Path) -> str | None:
    if wanted == "current":
        return None
    if wanted == "auto":
        return next((name for name in FOUND_BY if _has_dependencies(directory / name)), None)
    if not (directory / wanted).is_file():
        raise SpecError(
            f"launch.environment: {wanted!r} is no file in {directory}",
            hint="use auto, current, or the path of a requirements file",
        )
    return wanted


def _has_dependencies(file: Path) -> bool:
    """Whether the file is there to name packages; many a pyproject.toml only holds a linter's settings."""
    if not file.is_file() or file.name != "pyproject.toml":
        return file.is_file()
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except ValueError:
        return True  # uv says what is wrong with it, and where
    return "dependencies" in project or "dependencies" in project.get("dynamic", ())


def _variables(source: str) -> dict[str, str]:
    """For a project's file: its modules are found where they lie, since the project itself is not installed."""
    is_project = Path(source).name in ("uv.lock", "pyproject.toml")
    return {"PYTHONPATH": os.pathsep.join(("src", "."))} if is_project else {}


def _files(directory: Path, source: str) -> list[Path]:
    """All files that decide the environment: the source, those it includes, and the Python that is asked for."""
    files = [directory / source]
    for file in files:
        included = (match["path"] for match in _INCLUDE.finditer(file.read_text(encoding="utf-8", errors="replace")))
        files += [one for path in included if (one := file.parent / path).is_file() and one not in files]
    asked = directory / ASKED
    return [*files, asked] if asked.is_file() else files


def _requirements(environment: Environment, directory: Path, place: Path) -> Path:
    assert environment.source is not None
    source = directory / environment.source
    if source.name == "uv.lock":
        locked = place / "requirements.txt"
        run_uv("export", "--quiet", "--frozen", "--no-emit-project", "--output-file", str(locked), cwd=directory)
        return locked
    return source


def _place(environment: Environment, home: Path) -> Path:
    return home / "environments" / str(environment.digest)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
