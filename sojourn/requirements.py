"""A project's dependencies, locked for one kind of rented machine.

uv resolves them here, with the project's own indexes and the user's own logins, so that
the machine needs neither: what it gets is one requirements text in which each package is
one file, by its address and its hash. What only this host can have, or everything when
machines have no way out, travels beside that text.
"""

from __future__ import annotations

import hashlib
import netrc
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field

from sojourn.errors import SpecError
from sojourn.records import Record
from sojourn.target import Target
from sojourn.uv import run_uv

if TYPE_CHECKING:
    from packaging.pylock import Package, PackageArchive, PackageDirectory, PackageSdist, PackageVcs, PackageWheel

    Source = PackageArchive | PackageDirectory | PackageSdist | PackageVcs | PackageWheel

# Where things lie on the machine, beside each other; uv runs there.
WHEELS = "wheels"
TREE = "tree"


class Sent(Record):
    """A file that an index or this host holds, and that travels to the machine."""

    name: str
    url: str
    sha256: str
    size: int | None = Field(default=None, description="Where the index tells")


class Lock(Record):
    """What is installed on one kind of machine, to the file."""

    target: Target
    text: str = Field(description="Requirements as the machine's uv reads them, a line for each package")
    packages: int
    sent: tuple[Sent, ...] = Field(
        default=(), description="Files that travel to the machine; the rest is fetched there"
    )
    built: tuple[str, ...] = Field(default=(), description="Packages without a wheel that fits, built on the machine")

    @property
    def digest(self) -> str:
        """Names this lock."""
        return hashlib.sha256(f"{self.target.platform}|{self.target.python}|{self.text}".encode()).hexdigest()[:16]


def lock(source: str, directory: Path, root: Path, target: Target, *, offline: bool) -> Lock:
    """Resolve the dependency file for such machines; `offline` ones get all of it from here.

    Raises SpecError with uv's last words, or for what cannot travel.
    """
    from packaging.pylock import Pylock, PylockSelectError

    with tempfile.TemporaryDirectory(prefix="sojourn-") as folder:
        file = Path(folder) / "pylock.toml"
        run_uv(*_resolving(source, file, target, offline), cwd=directory, source=source)
        found = tomllib.loads(file.read_text(encoding="utf-8"))
        found.pop("requires-python", None)  # the target's Python was chosen by it
        try:
            chosen = list(Pylock.from_dict(found).select(environment=target.markers(), tags=target.tags()))
        except PylockSelectError as error:
            raise SpecError(
                f"environment: {source} does not fit {_machine(target)}: {error}",
                hint="mend it, or ask for another Python:  echo 3.12 > .python-version",
            ) from error
        lines = [_Line(package, origin, _Place(file.parent, root, source, offline)) for package, origin in chosen]
    return Lock(
        target=target,
        text="".join(f"{line.text}\n" for line in lines),
        packages=len(lines),
        sent=tuple(line.sent for line in lines if line.sent is not None),
        built=tuple(line.name for line in lines if line.built),
    )


def login(url: str) -> tuple[str, str] | None:
    """The name and password that ~/.netrc has for the host, as uv and pip look there."""
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return (found[0], found[2]) if found is not None else None


def _resolving(source: str, file: Path, target: Target, offline: bool) -> Iterable[str]:
    if Path(source).name == "uv.lock":
        return ("export", "--quiet", "--frozen", "--no-emit-project", "--format=pylock.toml", f"--output-file={file}")
    # Our own Python builds what must be built to be read; looking for the target's would take seconds.
    return (
        "pip", "compile", "--quiet", "--no-header", "--format=pylock.toml", f"--output-file={file}",
        f"--python-platform={target.platform}", f"--python-version={target.python}", f"--python={sys.executable}",
        *(("--only-binary=:all:",) if offline else ()), source,
    )  # fmt: skip


def _machine(target: Target) -> str:
    return f"a machine with Python {target.python} on {target.architecture}"


class _Place:
    """Where the paths of a lock are relative to, and what may travel."""

    def __init__(self, folder: Path, root: Path, source: str, offline: bool) -> None:
        self.folder = folder
        self.root = root
        self.source = source
        self.offline = offline

    def in_tree(self, path: str, name: str) -> str:
        """A directory of the project as the machine sees it."""
        full = Path(os.path.normpath(self.folder / path)).resolve()
        if self.offline:
            raise self.refusal(name, f"is built from {path}, which needs the internet")
        if not full.is_relative_to(self.root.resolve()):
            raise self.refusal(name, f"lies in {full}, outside the project")
        return f"./{TREE}/{full.relative_to(self.root.resolve()).as_posix()}".removesuffix("/.")

    def url(self, url: str | None, path: str | None) -> str:
        """The whole address of a file, without a login: that stays here."""
        if url is None:
            return (self.folder / str(path)).resolve().as_uri()
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def refusal(self, name: str, why: str) -> SpecError:
        """For a package that cannot get to the machine."""
        hint = f"name a version in {self.source} that has one, or leave out  network: none"
        if not self.offline:
            hint = f"move it into the project, or name a wheel of it in {self.source}"
        return SpecError(f"environment: {self.source}: {name!r} {why}", hint=hint)


class _Line:
    """One package as the machine's uv is told to install it."""

    def __init__(self, package: Package, origin: Source, place: _Place) -> None:
        self.name: str = package.name
        self.sent: Sent | None = None
        self.built = False
        self.text = self._text(origin, place)

    def _text(self, origin: Any, place: _Place) -> str:
        kind = type(origin).__name__
        if kind == "PackageDirectory":
            self.built = True
            path = place.in_tree(str(origin.path), self.name)
            return f"-e {path}" if origin.editable else path
        if kind == "PackageVcs":
            if place.offline:
                raise place.refusal(self.name, f"comes from {origin.url}, which needs the internet")
            self.built = True
            below = f"#subdirectory={origin.subdirectory}" if origin.subdirectory else ""
            return f"{self.name} @ {origin.type}+{origin.url}@{origin.commit_id}{below}"
        return self._file(origin, place)

    def _file(self, origin: Any, place: _Place) -> str:
        """A wheel or an archive of sources."""
        url = place.url(origin.url, origin.path)
        name = getattr(origin, "name", None) or unquote(urlsplit(url).path.rsplit("/", 1)[-1])
        self.built = not name.endswith(".whl")
        if self.built and place.offline:
            raise place.refusal(self.name, "has no wheel that fits the machine")
        digest = origin.hashes.get("sha256")
        is_here = urlsplit(url).scheme == "file"
        if not (is_here or place.offline or login(url)):
            return f"{self.name} @ {url}" + (f" --hash=sha256:{digest}" if digest else "")
        size = Path(unquote(urlsplit(url).path)).stat().st_size if is_here else origin.size
        if digest is None:
            raise place.refusal(self.name, f"comes from {url}, whose index tells no sha256")
        self.sent = Sent(name=name, url=url, sha256=digest, size=size)
        return f"./{WHEELS}/{name} --hash=sha256:{digest}"
