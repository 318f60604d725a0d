"""One small interface over every object store: put, create-only put, get, list, delete.

obstore speaks files, S3, GCS and Azure with the same calls; what differs stays here.
On files a create is a hard link (exactly one winner) and nothing is fsynced; keys that
end in `#<digits>` are obstore's own temporary names. Listing a file store does not use
obstore, because one foreign file name would make its whole listing fail.
https://developmentseed.org/obstore/
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
import obstore.exceptions
import obstore.store

from sojourn.errors import SpecError, TransientError, first_line, nearest

SCHEMES = ("file", "s3", "gs", "az")
_TEMPORARY = re.compile(r"#\d+$")


class MissingKeyError(KeyError):
    """No object has this key."""


class ExistsError(Exception):
    """A create-only put found an object already there."""


class Store:
    """An object store at a URL such as `file:///home/me/store` or `s3://bucket/prefix`."""

    def __init__(self, url: str) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in SCHEMES:
            raise SpecError(
                f"store: {url!r} is not a store URL, {nearest(scheme, SCHEMES)}",
                hint="write it as s3://bucket/prefix or " + ("file:///absolute/path" if scheme else _as_file(url)),
            )
        self.url = url.rstrip("/")
        place = urlsplit(url).netloc
        if scheme != "file" and not place:
            raise SpecError(f"store: {url!r} names no bucket", hint=f"write it as {scheme}://bucket/prefix")
        self.root = Path(unquote(urlsplit(url).path)) if scheme == "file" else None
        if self.root is not None and (place or not self.root.is_absolute()):
            meant = Path(unquote(url.removeprefix("file:").lstrip("/")))
            raise SpecError(f"store: {url!r} has no absolute path", hint=f"try {meant.absolute().as_uri()}")

    def put(self, key: str, body: bytes | Path) -> None:
        """Write an object, replacing what was there."""
        self._put(key, body, mode="overwrite")

    def create(self, key: str, body: bytes | Path) -> None:
        """Write an object that must not exist yet; of many at once exactly one succeeds.

        Raises ExistsError for every other one.
        """
        self._put(key, body, mode="create")

    def get(self, key: str) -> bytes:
        """The whole object. Raises MissingKeyError."""
        try:
            return bytes(obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            raise MissingKeyError(key) from None
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"read {key}") from error

    def stream(self, key: str, chunk: int = 8 * 2**20) -> Iterator[bytes]:
        """The object in pieces of about `chunk` bytes. Raises MissingKeyError."""
        try:
            for piece in obstore.get(self._store, key).stream(min_chunk_size=chunk):
                yield bytes(piece)
        except FileNotFoundError:
            raise MissingKeyError(key) from None
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"read {key}") from error

    def find(self, key: str) -> bytes | None:
        """The whole object, or None when there is none."""
        try:
            return self.get(key)
        except MissingKeyError:
            return None

    def find_dated(self, key: str) -> tuple[bytes, float] | None:
        """The whole object and when it was written, by the store's own clock; None when there is none."""
        try:
            found = obstore.get(self._store, key)
            return bytes(found.bytes()), found.meta["last_modified"].timestamp()
        except FileNotFoundError:
            return None
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"read {key}") from error

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        return self.modified(key) is not None

    def modified(self, key: str) -> datetime | None:
        """When the object was last written, by the store's own clock; None without one."""
        try:
            return obstore.head(self._store, key)["last_modified"]
        except FileNotFoundError:
            return None
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"look at {key}") from error

    def keys(self, prefix: str) -> list[str]:
        """Every key below `prefix/`, sorted."""
        if self.root is not None:
            return sorted(_file_keys(self.root, prefix))
        try:
            batches = obstore.list(self._store, prefix=prefix + "/")
            return sorted(entry["path"] for batch in batches for entry in batch)
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"list {prefix}") from error

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size of every object below `prefix/`, by key."""
        if self.root is not None:
            return dict(_file_sizes(self.root, prefix))
        try:
            batches = obstore.list(self._store, prefix=prefix + "/")
            return {entry["path"]: entry["size"] for batch in batches for entry in batch}
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"list {prefix}") from error

    def folders(self, prefix: str = "") -> list[str]:
        """The names directly below `prefix/` that have keys of their own below them, sorted."""
        if self.root is not None:
            try:
                return sorted(e.name for e in os.scandir(self.root / prefix) if e.is_dir())
            except FileNotFoundError:
                return []
            except NotADirectoryError:
                raise SpecError(
                    f"store: {self.url!r} is not a directory", hint="name another: --store file:///absolute/path"
                ) from None
        listing = obstore.list_with_delimiter(self._store, prefix=prefix + "/" if prefix else None)
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"])

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"delete {key}") from error

    def clear(self, prefix: str, keep: Collection[str] = ()) -> None:
        """Remove every object below `prefix/` but those in `keep`; nobody may be writing there."""
        for key in self.keys(prefix):
            if key not in keep:
                self.delete(key)
        if self.root is not None:
            _remove_leavings(self.root / prefix)

    @cached_property
    def _store(self) -> obstore.store.ObjectStore:
        if self.root is None:
            return obstore.store.from_url(self.url)
        try:
            self.root.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(f"store: {self.url!r} cannot be made: {error.strerror}") from error
        return obstore.store.LocalStore(self.root)

    def _put(self, key: str, body: bytes | Path, mode: str) -> None:
        if _TEMPORARY.search(key) or "\n" in key:
            raise ValueError(f"not a key: {key!r}")
        try:
            obstore.put(self._store, key, body, mode=mode)  # type: ignore[arg-type]
        except obstore.exceptions.AlreadyExistsError:
            raise ExistsError(key) from None
        except obstore.exceptions.BaseError as error:
            raise _translated(error, f"write {key}") from error


def _as_file(path: str) -> str:
    return Path(path).expanduser().absolute().as_uri()


def _file_keys(root: Path, prefix: str) -> Iterator[str]:
    for folder, _, files in os.walk(root / prefix):
        base = Path(folder).relative_to(root).as_posix()
        yield from (f"{base}/{name}" for name in files if not _TEMPORARY.search(name))


def _file_sizes(root: Path, prefix: str) -> Iterator[tuple[str, int]]:
    for key in _file_keys(root, prefix):
        with suppress(FileNotFoundError):  # removed since it was listed
            yield key, (root / key).stat().st_size


def _remove_leavings(folder: Path) -> None:
    """Temporary files of writers that died, and folders that hold nothing."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            if _TEMPORARY.search(name):
                Path(place, name).unlink(missing_ok=True)
        with suppress(OSError):  # something is kept in it
            os.rmdir(place)


def _translated(error: Exception, doing: str) -> TransientError:
    # A full disk arrives as a GenericError that is no OSError; the text is all there is.
    if "os error 28" in str(error):
        return TransientError(f"the store is full: could not {doing}", hint="make room, then: sojourn attach RUN")
    return TransientError(f"the store did not answer: could not {doing}: {first_line(error)}")
