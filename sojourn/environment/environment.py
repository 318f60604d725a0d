"""The Python environment a script runs in: dependencies only, keyed by their digest.

Editing the script never rebuilds it. Machines that share this host's files get a virtual
environment in Sojourn's data directory, made by uv from the project's own dependency
files. For a rented machine the same files are locked here and the lock is sent; its agent
makes the environment there.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sojourn.agent.script.venv import bundled, open_to_packages, switched_on
from sojourn.environment import current
from sojourn.environment.choosing import choose_for
from sojourn.environment.fingerprint import find_packages, fingerprint, logins, named_paths, unpinned
from sojourn.environment.local_packages import Found, describe, is_package
from sojourn.environment.reading import desk, directories, outside, read, without_directories
from sojourn.environment.requirements import Lock, lock
from sojourn.environment.sources import EXPORTS, Chosen, Kind, Source, not_used, requirement_files, shown
from sojourn.environment.target import REQUIRES, targets
from sojourn.environment.uv import ask_uv, run_uv
from sojourn.errors import SpecError, TransientError, nearest
from sojourn.project.project import Project
from sojourn.protocol import LocalPackage, Setup
from sojourn.records import Network, Record
from sojourn.renting import Offer
from sojourn.spec.dependencies import Dependencies, wanted
from sojourn.store.mailbox import Mailbox

READY = "ready"
CACHE = "wheels"  # beside the environments, and as old as its last use
SERVED = "served.json"
INSTALLED = "installed"
CHECK_LIMIT_S = 60.0
SCRIPT_LIMIT = 1 << 20
_NOT_BROUGHT = ("conda", "mamba", "micromamba", "hatch", "pixi", "rye")
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")


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
    wanted: Dependencies = Field(default=Dependencies(), description="What was asked for")
    folder: str = Field(default=".", description="Where uv reads the file, relative to the directory")
    reading: Kind | None = Field(default=None, description="How the file is read")
    packages: tuple[LocalPackage, ...] = Field(
        default=(), description="Of the project itself, served from the bundle as if they were installed"
    )
    python_path: tuple[str, ...] = Field(
        default=(), description="PYTHONPATH; what is relative begins at the bundle's root"
    )
    notes: tuple[str, ...] = Field(default=(), description="What is not used, and what makes it usable")


class Setups(Record):
    """What the machines are told of their environment, one for each kind of machine on offer."""

    setups: tuple[Setup, ...]


def resolve(
    asked: str | Dependencies,
    directory: Path,
    surroundings: Mapping[str, str],
    *,
    root: Path | None = None,
    script: Path | None = None,
    words: Sequence[str] = (),
) -> Environment:
    """The environment that `launch.environment` means on this host, for a command of these words.

    Raises SpecError for what is not there.
    """
    root, text = root or directory, _shell(words, script)
    choice = choose_for(wanted(asked), words, text, directory, root, surroundings, script=script, away=False)
    chosen, parts, surroundings = choice.chosen, choice.wanted, choice.surroundings
    own = current.named_by(words, surroundings) or current.switched_on_by(text, surroundings)
    if own is not None and chosen.source is not None:
        chosen = Chosen(
            None, [f"the command names its own Python, {own}: {shown(chosen.source.file, directory)} is not used"]
        )
    if chosen.source is None:
        found = current.look(directory, root, surroundings, own)
        if found.packages and current.ignores_path(words):
            name = found.packages[0].name
            raise SpecError(
                f"command: -I and -E ignore PYTHONPATH, so {name} would be what is installed and not what travels",
                hint="leave the flag out, or let an environment be built:  environment: auto",
            )
        return Environment(
            kind="current",
            path=tuple(found.path),
            variables=found.variables,
            python_path=tuple(found.python_path),
            packages=tuple(found.packages),
            notes=(*chosen.notes, *found.notes),
        )
    packages = _packages(chosen.source, root)
    return Environment(
        kind="built",
        digest=fingerprint(chosen.source, parts, packages, root, surroundings),
        packages=_with(packages, _own_folder(chosen.source, root), root),
        notes=(*chosen.notes, *stale(chosen.source, packages), *unpinned(chosen.source)),
        **_of(chosen.source, parts, directory),
    )


def _shell(words: Sequence[str], script: Path | None) -> str:
    """The lines of shell that a command is, or that the file holds which a shell is given."""
    if len(words) == 1 and " " in words[0]:
        return words[0]
    if script is None or script.suffix == ".py" or not script.is_file() or script.stat().st_size > SCRIPT_LIMIT:
        return ""
    return script.read_text(encoding="utf-8", errors="replace")


def resolve_away(
    asked: str | Dependencies,
    project: Project,
    offers: Iterable[Offer],
    network: Network,
    *,
    surroundings: Mapping[str, str] = os.environ,
    script: Path | None = None,
    words: Sequence[str] = (),
) -> Environment:
    """The environment that `launch.environment` means on machines to which nothing of this host exists.

    Raises SpecError for what is not there, or with uv's words when the dependencies cannot be had.
    """
    directory, root, text = project.directory, project.root, _shell(words, script)
    choice = choose_for(wanted(asked), words, text, directory, root, surroundings, script=script, away=True)
    chosen, parts = choice.chosen, choice.wanted
    if words and words[0] in _NOT_BROUGHT:
        chosen.notes.append(f"{words[0]} must be on the machine's image: it and its environments do not travel")
    if chosen.source is None:
        own = find_packages([directory] if is_package(directory) else [], root, _outside)
        return Environment(
            kind="current", notes=tuple(chosen.notes), packages=tuple(one.package for one in own if one.built is None)
        )
    packages, is_script = _packages(chosen.source, root), chosen.source.kind == "script"
    locks = tuple(
        lock(
            chosen.source,
            directory,
            root,
            kind,
            offline=network == "none",
            wanted=parts,
            packages=packages,
        )
        for kind in targets(
            offers, chosen.source.folder, root, chosen.source.file if is_script else None, python=parts.python
        )
    )
    digest = hashlib.sha256("".join(one.digest for one in locks).encode()).hexdigest()[:16]
    return Environment(
        kind="sent",
        digest=digest,
        locks=locks,
        packages=_with(
            [] if _is_part(chosen.source.kind, parts) else packages,
            [*(folder for one in locks for folder in one.served), *_own_folder(chosen.source, root)],
            root,
        ),
        notes=(*chosen.notes, *stale(chosen.source, packages)),
        **_of(chosen.source, parts, directory),
    )


def ready(environment: Environment, home: Path) -> bool:
    """Whether nothing needs to be built: it stands, as it was built."""
    return environment.kind == "current" or _stands(_place(environment, home))


def _stands(place: Path) -> bool:
    """Whether it is there with its Python, and holds what it was built with: a run may have installed something."""
    if not (place / READY).exists() or _served_folders(place) is None:
        return False
    record = place / INSTALLED
    if not record.exists():
        return True
    return (place / "bin" / "python").exists() and record.read_bytes() == _installed(place).encode()


def _served_folders(place: Path) -> set[str] | None:
    """The folders that the bundle serves in place of what would be installed; None where the record is torn."""
    try:
        found = json.loads((place / SERVED).read_bytes())
    except FileNotFoundError:
        return set()
    except (ValueError, RecursionError):
        return None
    return {one for one in found if isinstance(one, str)} if isinstance(found, list) else None


def _installed(place: Path) -> str:
    """Names all that is installed; a package that was replaced by the same version is another one."""
    found: list[tuple[str, int]] = []
    for folder in (place / "bin", *place.glob("lib/python*/site-packages")):
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            if entry.name != "__pycache__":
                found.append((entry.name, entry.stat().st_mtime_ns if entry.name.endswith(".dist-info") else 0))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def build(environment: Environment, directory: Path, home: Path, root: Path | None = None) -> bool:
    """Make the environment unless it stands; whether it had to be made.

    Raises SpecError with uv's words when the dependencies cannot be had.
    """
    if environment.kind != "built":
        return False
    place = _place(environment, home)
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_suffix(".lock")):
        if ready(environment, home):
            (place / READY).touch()  # its date is that of its last use
            return False
        with _moved_away(place):
            _make(environment, source_of(environment, directory), (root or directory).resolve(), place)
        (place / INSTALLED).write_text(_installed(place))
        (place / READY).touch()
    return True


@contextmanager
def _moved_away(place: Path) -> Iterator[None]:
    """What stands there goes when its successor is made: a run that goes on may still read from it."""
    former = place.with_name(f"{place.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if place.is_dir():
        place.rename(former)
    yield
    shutil.rmtree(former, ignore_errors=True)


def _make(environment: Environment, source: Source, root: Path, place: Path) -> None:
    packages = _packages(source, root)
    python = str(place / "bin" / "python")
    run_uv("venv", "--quiet", *_asked_python(source, environment.wanted.python), str(place), cwd=source.folder)
    install = ("pip", "install", "--quiet", "--no-deps", "--python", python)
    seeds = bundled(python)  # as `python -m venv` does; whatever the project wants takes their place
    if seeds:
        run_uv(*install, "--no-index", *seeds, cwd=source.folder)
    with desk(root, packages) as at:
        lock = place / "pylock.toml"
        text = read(source, environment.wanted, at, lock, (f"--python={python}",))
        own = [(name, at.origin(folder)) for name, folder in directories(text, lock)]
        for name, folder in own:
            if not folder.is_relative_to(root):
                raise outside(name, folder, source)
        others = without_directories(text)
        lock.write_text(others, encoding="utf-8")
        if "[[packages]]" in others:
            run_uv(*install, "-r", str(lock), cwd=source.folder, source=source.file.name, variables=logins(source))
        built = [folder for _, folder in own if (one := describe(folder, root)) is None or one.built]
        for folder in built:
            run_uv(*install, str(at.at(folder)), cwd=at.at(source.folder), source=folder.name, variables=at.variables)
    folders = [folder.relative_to(root).as_posix() for _, folder in own if folder not in built]
    (place / SERVED).write_text(json.dumps(folders))
    open_to_packages(str(place))


def served(environment: Environment, home: Path, directory: Path) -> tuple[LocalPackage, ...]:
    """The packages that the bundle serves, those among them that only uv could find."""
    found = (_served_folders(_place(environment, home)) if environment.kind == "built" else None) or set()
    known = environment.packages
    if environment.kind == "built" and _is_part(environment.reading, environment.wanted):
        known = tuple(one for one in known if one.directory in found)
    further = sorted(found - {one.directory for one in known})
    return _with_packages(known, further, Project.at(directory).root) if further else known


def _is_part(reading: Kind | None, wanted: Dependencies) -> bool:
    """Whether the lock is asked for less than all that it has of the project's own."""
    only = any(flag.startswith("--only") for flag in wanted.flags)
    return reading == "uv" and (wanted.package is not None or only)


def source_of(environment: Environment, directory: Path) -> Source:
    """The file that an environment is built from."""
    assert environment.source is not None and environment.reading is not None
    file = Path(os.path.normpath(directory / environment.source))
    folder = Path(os.path.normpath(directory / environment.folder))
    return Source(file, environment.reading, folder, EXPORTS.get(file.name, ()))


def send(environment: Environment, network: Network, mailbox: Mailbox, home: Path) -> tuple[Setups, int]:
    """Send the locks and what travels with them, as far as the store lacks it; what the order says, and the bytes."""
    from sojourn.environment import wheels  # only when something is sent: it loads an HTTP client

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


def variables(environment: Environment, home: Path) -> dict[str, str]:
    """What switches it on for the script, beside the search path."""
    on = switched_on(str(_place(environment, home))) if environment.kind == "built" else {}
    return {**on, **environment.variables}


def find_program(program: str, environment: Environment, home: Path | None = None, path: str = "") -> bool:
    """Whether the program can be started, as far as that can be known here; `path` is that of whoever asks."""
    own = own_programs(environment)
    if program in own:
        return True
    if environment.kind == "current":
        folders = environment.path
        return not folders or shutil.which(program, path=os.pathsep.join(folders)) is not None
    if environment.kind == "built" and home is not None and ready(environment, home):
        return shutil.which(program, path=os.pathsep.join([*search_path(environment, home), path])) is not None
    # What else the packages bring is known when they are there; a slip in one of the project's own names is seen now.
    slip = difflib.get_close_matches(program, own, n=1, cutoff=0.8)
    return not slip or shutil.which(program, path=path) is not None


def not_installed(environment: Environment, tail: str, directory: Path) -> tuple[str, ...]:
    """What may have the package that a script missed, by the end of its log: a file here that is not used."""
    found = _NO_MODULE.search(tail)
    if found is None or not directory.is_dir():
        return ()
    name = found[1].split(".")[0]
    known = [file for file in requirement_files(directory) if shown(file, directory) != environment.source]
    naming = [file for file in known if re.search(rf"(?im)^{re.escape(name)}\b", file.read_text(errors="replace"))]
    notes = environment.notes or tuple(not_used(directory, away=environment.kind == "sent"))
    if naming or (known and not notes):
        file = shown((naming or known)[0], directory)
        return (f"no module named {name}: {file} is not used: --environment {file}",)
    return tuple(f"no module named {name}: {note}" for note in notes[:1])


def own_programs(environment: Environment) -> tuple[str, ...]:
    """The console scripts of the project's own packages."""
    return tuple(name for one in environment.packages for name in (*one.scripts, *one.files))


def no_program(program: str, environment: Environment) -> SpecError:
    """What is said of a program that the environment does not have."""
    own = own_programs(environment)
    return SpecError(
        f"command: {program!r} is not a program of the environment from {environment.source}, nor on your PATH",
        hint=f"{nearest(program, own)}" if own else "name the interpreter: sojourn train -- python FILE",
    )


def _of(source: Source, parts: Dependencies, directory: Path) -> dict[str, Any]:
    return {
        "source": os.path.relpath(source.file, directory),
        "folder": os.path.relpath(source.folder, directory),
        "reading": source.kind,
        "wanted": parts,
    }


def _packages(source: Source, root: Path) -> list[Found]:
    return find_packages(named_paths(source), root, lambda folder: outside(folder.name, folder, source))


def _own_folder(source: Source, root: Path) -> list[str]:
    """The project around a list of requirements: whoever installs these installs it as well, mostly by hand."""
    around = source.kind in ("requirements", "pylock", "export") and is_package(source.folder)
    return [source.folder.relative_to(root).as_posix()] if around and source.folder.is_relative_to(root) else []


def _outside(folder: Path) -> SpecError:
    return SpecError(f"environment: {folder} lies outside the project")


def _with(packages: Iterable[Found], folders: Iterable[str], root: Path) -> tuple[LocalPackage, ...]:
    return _with_packages([one.package for one in packages if one.built is None], folders, root)


def _with_packages(known: Iterable[LocalPackage], folders: Iterable[str], root: Path) -> tuple[LocalPackage, ...]:
    packages = {one.directory: one for one in known}
    for folder in folders:
        if folder not in packages and (found := describe(root / folder, root)) is not None and found.built is None:
            packages[folder] = found.package
    return tuple(packages.values())


def stale(source: Source, packages: Iterable[Found]) -> list[str]:
    """A remark where uv.lock is older than what it was made from."""
    if source.kind != "uv" or any(one.dynamic for one in packages):
        return []
    try:
        asked = ask_uv("lock", "--check", "--quiet", cwd=source.folder, limit_s=CHECK_LIMIT_S)
    except TransientError:
        return []
    if asked.returncode == 0 or "o interpreter found" in asked.stderr:
        return []  # or none of the Pythons here suits it, and uv says so when it comes to that
    return ["uv.lock is older than pyproject.toml, and is followed as it is; renew it: uv lock"]


def _asked_python(source: Source, python: str | None) -> tuple[str, ...]:
    """The command or a script's header may ask for a Python; what a project asks for uv sees by itself."""
    if python is not None:
        return ("--python", python)
    if source.kind != "script":
        return ()
    found = REQUIRES.search(source.file.read_text(encoding="utf-8", errors="replace"))
    return ("--python", found[1]) if found else ()


def _place(environment: Environment, home: Path) -> Path:
    return home / "environments" / str(environment.digest)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
