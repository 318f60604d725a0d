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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field

from sojourn.agent.paths import TREE as TREE_THERE
from sojourn.environment.local_packages import Found, describe
from sojourn.environment.reading import Desk, desk, outside, read, versions
from sojourn.environment.sources import Source, named
from sojourn.environment.target import ASKED, Target
from sojourn.errors import SpecError
from sojourn.records import Record
from sojourn.spec.dependencies import Dependencies

if TYPE_CHECKING:
    from packaging.pylock import Package, PackageArchive, PackageDirectory, PackageSdist, PackageVcs, PackageWheel

    Origin = PackageArchive | PackageDirectory | PackageSdist | PackageVcs | PackageWheel

# Where things lie on the machine, beside each other; uv runs there.
WHEELS = "wheels"
TREE = Path(TREE_THERE)


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
    variables: dict[str, str] = Field(default_factory=dict, description="For the builds of the project's own packages")
    served: tuple[str, ...] = Field(
        default=(), description="Folders of the project's own packages, relative to the root, served from the tree"
    )

    @property
    def digest(self) -> str:
        """Names this lock."""
        return hashlib.sha256(f"{self.target.platform}|{self.target.python}|{self.text}".encode()).hexdigest()[:16]


def lock(
    source: Source | str,
    directory: Path,
    root: Path,
    target: Target,
    *,
    offline: bool,
    wanted: Dependencies | None = None,
    packages: Sequence[Found] = (),
) -> Lock:
    """Resolve the dependency file for such machines; `offline` ones get all of it from here.

    `packages` are the project's own ones, as far as they are known. Raises SpecError with uv's
    words, or for what cannot travel.
    """
    if isinstance(source, str):
        source = named(source, directory)
    name = os.path.relpath(source.file, directory)
    if offline and target.brings_python:
        raise SpecError(
            f"environment: the project asks for Python {target.python} and the image has {target.image_python}",
            hint=f"with  network: none  the image's Python is all there is; try:  echo {target.image_python} > {ASKED}",
        )
    root = root.resolve()
    with tempfile.TemporaryDirectory(prefix="sojourn-") as folder, desk(root, packages) as at:
        file = Path(folder).resolve() / "pylock.toml"
        text = read(source, wanted or Dependencies(), at, file, _machine(target, offline))
        chosen = _choose(tomllib.loads(text), name, target)
        writer = _Writer(file.parent, root, name, offline, source, at)
        lines = [writer.line(package.name, origin) for package, origin in chosen]
    installed = [line for line in lines if line.served is None]
    return Lock(
        target=target,
        text="".join(f"{line.text}\n" for line in installed),
        packages=len(installed),
        sent=tuple(line.sent for line in lines if line.sent is not None),
        built=tuple(package.name for (package, _), line in zip(chosen, lines, strict=True) if line.built),
        variables=versions(packages) if any(one.built for one in packages) else {},
        served=tuple(line.served for line in lines if line.served is not None),
    )


def _machine(target: Target, offline: bool) -> tuple[str, ...]:
    """What uv is told of the machine."""
    # Our own Python builds what must be built to be read; looking for the target's would take seconds.
    asked = (
        f"--python-platform={target.platform}",
        f"--python-version={target.python}",
        f"--python={sys.executable}",
    )
    return (*asked, "--only-binary=:all:") if offline else asked


def _choose(found: dict[str, Any], source: str, target: Target) -> list[tuple[Package, Origin]]:
    """One file of each package that the target needs, out of all that uv found."""
    from packaging.pylock import Pylock, PylockSelectError

    found.pop("requires-python", None)  # the target's Python was chosen by it
    try:
        return list(Pylock.from_dict(found).select(environment=target.markers(), tags=target.tags()))
    except PylockSelectError as error:
        machine = f"a machine with Python {target.python} on {target.architecture}"
        raise SpecError(
            f"environment: {source} does not fit {machine}: {error}",
            hint=f"mend it, or ask for another Python:  echo 3.12 > {ASKED}",
        ) from error


def login(url: str) -> tuple[str, str] | None:
    """The name and password that ~/.netrc has for the host, as uv and pip look there."""
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return (found[0], found[2]) if found is not None else None


class _Line(NamedTuple):
    """A package as the machine's uv is told to install it."""

    text: str
    sent: Sent | None = None
    built: bool = False
    served: str | None = None


class _Writer:
    """Writes the lines; the paths that uv gives begin at `folder`."""

    def __init__(self, folder: Path, root: Path, name: str, offline: bool, source: Source, at: Desk) -> None:
        self._folder = folder
        self._root = root
        self._source = name
        self._offline = offline
        self._origin = source
        self._at = at

    def line(self, name: str, origin: Origin) -> _Line:
        """The line of one package. Raises SpecError for what cannot get to the machine."""
        from packaging.pylock import PackageDirectory, PackageVcs

        if isinstance(origin, PackageDirectory):
            return self._folder_of_project(name, origin)
        if isinstance(origin, PackageVcs):
            if self._offline:
                raise self._refusal(name, f"comes from {origin.url}, which needs the internet")
            below = f"#subdirectory={origin.subdirectory}" if origin.subdirectory else ""
            url = self._url(origin.url, origin.path)
            return _Line(f"{name} @ {origin.type}+{url}@{origin.commit_id}{below}", built=True)
        return self._file(name, origin)

    def _file(self, name: str, origin: PackageArchive | PackageSdist | PackageWheel) -> _Line:
        url = self._url(origin.url, origin.path)
        parts = urlsplit(url)
        file = Path(unquote(parts.path))
        built = file.suffix != ".whl"
        if built and self._offline:
            raise self._refusal(name, "has no wheel that fits the machine")
        digest, is_here = origin.hashes.get("sha256"), parts.scheme == "file"
        if not (is_here or self._offline or login(url)):
            return _Line(f"{name} @ {url}" + (f" --hash=sha256:{digest}" if digest else ""), built=built)
        if digest is None:
            raise self._refusal(name, f"comes from {url}, whose index tells no sha256")
        size = file.stat().st_size if is_here else origin.size
        sent = Sent(name=file.name, url=url, sha256=digest, size=size)
        return _Line(f"./{WHEELS}/{file.name} --hash=sha256:{digest}", sent, built)

    def _folder_of_project(self, name: str, origin: PackageDirectory) -> _Line:
        """Served from the tree, or, where it must be built, installed from the tree on the machine."""
        full = self._at.origin((self._folder / origin.path).resolve())
        if not full.is_relative_to(self._root):
            raise outside(name, full, self._origin)
        where = full.relative_to(self._root).as_posix()
        found = describe(full, self._root)
        if found is not None and found.built is None:
            return _Line("", served=where)
        if self._offline:
            raise self._refusal(name, f"is built from {where}, which needs the internet")
        path = f"./{(TREE / where).as_posix()}"
        return _Line(f"-e {path}" if origin.editable else path, built=True)

    def _url(self, url: str | None, path: str | None) -> str:
        """The whole address, without a login: that stays here."""
        if url is None:
            return (self._folder / str(path)).resolve().as_uri()
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def _refusal(self, name: str, why: str) -> SpecError:
        hint = f"move it into the project, or name a wheel of it in {self._source}"
        if self._offline:
            hint = f"name a version in {self._source} that has a wheel, or leave out  network: none"
        return SpecError(f"environment: {self._source}: {name!r} {why}", hint=hint)
