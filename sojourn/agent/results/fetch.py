"""Brings what the order names into the run's tree, several files at a time, every hash checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import posixpath
import shutil
import tarfile
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import BinaryIO, Callable

from sojourn.agent.errors import Late, Refused, StoreError
from sojourn.agent.files import Json
from sojourn.agent.paths import inside
from sojourn.agent.results import history, links
from sojourn.agent.stores.store import MIB, Check, Store, chunks
from sojourn.agent.stores.stores import Elsewhere

LARGE = 8 * MIB  # from here on a file is worth a thread of its own


class Fetcher:
    """Brings bundle and inputs into the tree; what arrives has the promised size and hash, or nothing starts."""

    def __init__(self, store: Store, root: str, scratch: str, check: Check, region: str | None = None) -> None:
        self._store = store
        self._elsewhere = Elsewhere(region)
        self._root = root
        self._scratch = scratch
        self._check = check
        self._failed = threading.Event()
        self._folders: dict[str, str] = {}
        self.bytes_done = 0
        self.bytes_total = 0

    def fetch(self, order: Json) -> None:
        """Everything the order names, then without what it wants removed."""
        bundle = order["bundle"]
        archives = bundle["archives"]
        linked = links.of_lines(order["inputs"])
        inputs = [entry for entry in order["inputs"] if _link(entry) not in linked]
        entries = [*bundle["files"], *inputs]
        self.bytes_total = sum(entry["size"] for entry in [*entries, *archives])
        os.makedirs(self._root, exist_ok=True)
        self._unpack(archives)
        if bundle.get("history"):
            self._unpack([bundle["history"]])
        self._all(bundle["files"])
        self._date(bundle.get("listing", ()))
        for folder in bundle.get("folders", ()):
            os.makedirs(os.path.join(inside(self._root, folder), ""), exist_ok=True)
        for link in bundle["links"]:
            self._link(link["path"], link["target"])
        for path in order.get("clear", ()):
            _remove(inside(self._root, path))
        self._folders.clear()
        self._all(inputs)
        for path, target in sorted(linked.items()):
            if not self._lay(path, target):
                self._all([entry for entry in order["inputs"] if _link(entry) == path])
        for path in order["remove"]:
            _remove(inside(self._root, path))
        self._date_folders([*bundle.get("listing", ()), *order["inputs"]])
        self._elsewhere.close()
        if bundle.get("history"):
            history.refresh(self._root)

    def bring(self, entries: list[Json]) -> None:
        """These files alone."""
        self.bytes_total += sum(entry["size"] for entry in entries)
        os.makedirs(self._root, exist_ok=True)
        self._all(entries)

    def _date(self, entries: Iterable[Json]) -> None:
        """Files as old as they were at home: scripts take the newest of several by it."""
        for entry in entries:
            folder = self._folder(entry["path"])
            _date(os.path.join(folder, posixpath.basename(entry["path"])), entry.get("mtime_ns"))

    def _date_folders(self, entries: Iterable[Json]) -> None:
        """Folders as old as the newest file in them."""
        newest: dict[str, int] = {}
        for entry in entries:
            folder, written = posixpath.dirname(entry["path"]), entry.get("mtime_ns")
            while written is not None and folder and newest.get(folder, -1) < written:
                newest[folder] = written
                folder = posixpath.dirname(folder)
        for folder, written in newest.items():
            _date(os.path.join(self._root, folder), written)

    def _unpack(self, archives: list[Json]) -> None:
        names = [os.path.join(self._scratch, f"bundle-{number}.tar.gz") for number in range(len(archives))]
        self._together([partial(self._copy, archive, name) for archive, name in zip(archives, names)])
        self._together([partial(self._unpack_one, archive, name) for archive, name in zip(archives, names)])

    def _unpack_one(self, archive: Json, name: str) -> None:
        try:
            with tarfile.open(name, "r|*") as tar:
                for member in tar:
                    self._check()
                    self._extract(tar, member)
        except (tarfile.TarError, EOFError) as error:
            raise Refused(f"{archive['path']}: the bundle is not a readable archive: {error}") from error
        except OSError as error:
            raise _disk(archive["path"], error) from error
        os.unlink(name)

    def _extract(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        # Not extractall: its safe filter is not in every Python that a machine may have.
        path = posixpath.normpath(member.name)
        if member.isdir():
            os.makedirs(inside(self._root, path), exist_ok=True)
        elif member.issym():
            self._link(member.name, member.linkname)
            self._folders.clear()  # one of them may be behind it from now on
        elif member.isreg():
            source = tar.extractfile(member)
            assert source is not None
            with open(_new(os.path.join(self._folder(path), posixpath.basename(path))), "wb", 0) as target:
                while chunk := source.read(MIB):
                    target.write(chunk)
                os.fchmod(target.fileno(), member.mode & 0o777)
        else:
            raise Refused(f"{member.name!r} in the bundle is neither a file, a folder nor a link")

    def _link(self, path: str, target: str) -> None:
        full = inside(self._root, posixpath.normpath(path))
        inside(self._root, posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if os.path.lexists(full):
            _remove(full)
        os.symlink(target, full)

    def _lay(self, path: str, target: str) -> bool:
        """Make a link to what was fetched; False where a folder is in its way, or where it would lead elsewhere."""
        full = inside(self._root, path)
        own = os.path.join(self._root, posixpath.dirname(path), target)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        try:
            if os.path.isdir(full) and not os.path.islink(full):
                os.rmdir(full)
            elif os.path.lexists(full):
                os.unlink(full)
            os.symlink(target, full)
        except OSError:
            return False
        if os.path.realpath(full) == os.path.realpath(os.path.normpath(own)):
            return True
        os.unlink(full)
        return False

    def _all(self, entries: list[Json]) -> None:
        alone: list[Json] = []
        parcels: dict[str, list[Json]] = {}
        for entry in entries:
            self._folder(entry["path"])  # one thread makes the folders, so that eight need not agree
            some = alone if entry.get("offset") is None else parcels.setdefault(entry["source"], [])
            some.append(entry)
        works: list[Callable[[], None]] = [partial(self._place, entry) for entry in alone]
        self._together([*(partial(self._unpack_parcel, some) for some in parcels.values()), *works])

    def _together(self, works: list[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(self._store.fetchers) as pool:
            jobs = [pool.submit(work) for work in works]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            self._failed.set()
            for job in jobs:
                job.cancel()
        self._failed.clear()
        for error in filter(None, (job.exception() for job in done)):
            raise error

    def _folder(self, path: str) -> str:
        """The folder of a path in the tree, made if need be; looked at once however many files it gets."""
        name = posixpath.dirname(path)
        if name not in self._folders:
            self._folders[name] = os.path.dirname(inside(self._root, path))
            os.makedirs(self._folders[name], exist_ok=True)
        return self._folders[name]

    def _place(self, entry: Json) -> None:
        folder, name = posixpath.split(entry["path"])
        self._copy(entry, os.path.join(self._folders[folder], name))

    def _unpack_parcel(self, entries: list[Json]) -> None:
        """Place the small files that lie in one object."""
        first = entries[0]
        try:
            with self._source(first) as source:
                parcel = memoryview(b"".join(chunks(source, self._go_on)))
        except StoreError as error:
            raise Refused(f"{first['path']}: {first['source']} cannot be read: {error.strerror}") from error
        for entry in entries:
            folder, name = posixpath.split(entry["path"])
            part = parcel[entry["offset"] :][: entry["size"]]
            self._copy(entry, os.path.join(self._folders[folder], name), io.BytesIO(part))

    def _copy(self, entry: Json, target: str, content: BinaryIO | None = None) -> None:
        # Under its own name at once: nothing looks at the tree before all of it is there.
        try:
            with content or self._source(entry) as source, open(_new(target), "wb") as file:
                os.fchmod(file.fileno(), entry["mode"] & 0o777)
                self._verified(entry, source, file)
            _date(target, entry.get("mtime_ns"))
        except StoreError as error:
            raise Refused(f"{entry['path']}: {entry['source']} cannot be read: {error.strerror}") from error
        except OSError as error:
            raise _disk(entry["path"], error) from error

    def _source(self, entry: Json) -> BinaryIO:
        name = entry["source"]
        try:
            return self._elsewhere.open(name) if "://" in name else self._store.open(name)
        except OSError as error:
            # Where this machine may list nothing, what is missing is refused like what is forbidden.
            hidden = isinstance(error, StoreError) and error.errno == errno.EACCES
            why = f"{error.strerror}; or it is not there any more" if hidden else error.strerror
            raise Refused(f"{entry['path']}: expected {entry['hash']} at {name}, {why}") from error

    def _verified(self, entry: Json, source: BinaryIO, target: BinaryIO) -> None:
        kind, _, wanted = entry["hash"].partition(":")
        digest, size = hashlib.new(kind), 0
        # From a size on, its hash takes as long as reading and writing it.
        with ThreadPoolExecutor(1) if entry["size"] > LARGE else contextlib.nullcontext() as beside:
            hashed: Future[None] | None = None
            for chunk in chunks(source, self._go_on):
                if hashed is not None:
                    hashed.result()
                if beside is not None:
                    hashed = beside.submit(digest.update, chunk)
                else:
                    digest.update(chunk)
                target.write(chunk)
                size += len(chunk)
                self.bytes_done += len(chunk)
        if size != entry["size"]:
            raise Refused(f"{entry['path']}: expected {entry['size']} bytes at {entry['source']}, found {size}")
        if digest.hexdigest() != wanted:
            raise Refused(f"{entry['path']}: expected {entry['hash']}, {entry['source']} has {digest.hexdigest()}")

    def _go_on(self) -> None:
        if self._failed.is_set():
            raise Late
        self._check()


def _link(entry: Json) -> str | None:
    """The link by which a file was reached, if it was."""
    link = entry.get("link")
    return str(link["path"]) if link else None


def _new(target: str) -> int:
    """A descriptor of a new file; one that stands there, or a link, is replaced and not written through."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with contextlib.suppress(FileExistsError):
        return os.open(target, flags, 0o600)
    os.unlink(target)
    return os.open(target, flags, 0o600)


def _date(path: str, written: int | None) -> None:
    if written is not None:
        with contextlib.suppress(OSError):
            os.utime(path, ns=(written, written), follow_symlinks=False)


def _disk(path: str, error: OSError) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(f"{path}: the machine's disk is full")
    return Refused(f"{path}: cannot be written here: {error.strerror or error}")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
