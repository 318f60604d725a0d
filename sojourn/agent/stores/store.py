"""The store as a machine sees it: whole objects, put, put where there is none, and got.

Each way of storing is one class with these few verbs, files here and S3 in `s3.py`;
`sojourn/store/storage.py` is the other side of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from typing import BinaryIO, Callable, Protocol, Tuple
from urllib.parse import unquote, urlsplit

from sojourn.agent.errors import Exists, Refused, StoreError, say

MIB = 1 << 20
MANY = 16  # files
LARGE = 64 * MIB
NOTHING = bytes(MIB)
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL)
IDENTITY = "control/store.json"
Check = Callable[[], None]
State = Tuple[int, int, int]


class Store(Protocol):
    """What every way of storing can do. What fails is an OSError, and may work later."""

    patience_s: float  # how long the last words are retried against a store that fails
    pace_s: float  # at least, between two looks at a key that somebody may write
    fetchers: int  # objects that are best fetched side by side

    def silent_s(self) -> float:
        """Seconds since the store last did what it was asked to; 0 where nothing lies between."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        ...

    def find(self, key: str) -> bytes | None:
        """The whole object, or None when there is none or the store does not answer."""
        ...

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The object as a stream. Raises FileNotFoundError."""
        ...

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing what was there."""
        ...

    def create(self, key: str, body: bytes, durable: bool = False) -> None:
        """Write an object that must not exist yet; `durable` survives a power cut. Raises Exists."""
        ...

    def delete(self, key: str) -> None:
        """Take an object away; one that is not there is fine."""
        ...

    def keep(self, prefix: str, source: BinaryIO, check: Check) -> tuple[str, int]:
        """Store a file as `prefix/<sha256>`: its hash and size. The same bytes again are fine."""
        ...

    def close(self) -> None:
        """Let go of what is held between two calls; more calls may follow."""
        ...


# The user's own, before an agent takes a closer one for all else: who of a team may read the one half of
# a store, may read the other.
UMASK = os.umask(0o077)
os.umask(UMASK)


class FileStore:
    """The store on files. A temporary is named `<name>#<digits>`, which no listing shows."""

    patience_s = 30.0
    pace_s = 0.0
    fetchers = 8

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme != "file":
            raise Refused(f"this agent cannot read {url}: it speaks file:// and s3://")
        self._root = unquote(urlsplit(url).path)
        self._seen: int | None = None  # the inode of the directory
        self._identity: bytes | None = None  # which store it is
        self._told_by: State | None = None
        self._settling, self._listing = threading.Lock(), threading.Lock()
        self._unsettled: list[str] = []  # kept, and perhaps not on the disk yet

    def silent_s(self) -> float:
        """Nothing lies between."""
        return 0.0

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        with self.open(key) as file:
            return file.read()

    def find(self, key: str) -> bytes | None:
        """The whole object, or None when there is none or the store does not answer."""
        try:
            return self.get(key)
        except OSError:
            return None

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        return os.path.exists(self._path(key))

    def open(self, key: str) -> BinaryIO:
        """The object as a stream. Raises FileNotFoundError."""
        descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NONBLOCK)  # of a pipe too, which nobody writes into
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreError(errno.EINVAL, f"{key} is no file")
        return os.fdopen(descriptor, "rb")

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing what was there."""
        path = self._path(key)
        with self._temporary(path) as (name, file):
            file.write(body)
            file.flush()
            self._replace(name, path)

    def create(self, key: str, body: bytes, durable: bool = False) -> None:
        """Write an object that must not exist yet; `durable` survives a power cut. Raises Exists."""
        path = self._path(key)
        if durable:
            self._settle()
        with self._temporary(path) as (name, file):
            file.write(body)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            try:
                self._link(name, path)
            except FileExistsError:
                raise Exists(key) from None
        if durable:
            _sync(os.path.dirname(path))

    def _settle(self) -> None:
        """Wait until all that was kept is on the disk: a manifest may name it."""
        with self._settling:  # who comes second must not be done first
            with self._listing:
                paths, self._unsettled = self._unsettled, []
            if len(paths) <= MANY or not _sync_all(self._root):
                for path in paths:
                    _sync(path)

    def delete(self, key: str) -> None:
        """Take an object away; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))

    def keep(self, prefix: str, source: BinaryIO, check: Check) -> tuple[str, int]:
        """Store a stream as `prefix/<sha256>` in one pass: its hash and size. The same bytes again are fine."""
        try:
            return self._keep(prefix, source, check)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:  # which say nothing of the source
            raise StoreError(error.errno, f"the store: {error.strerror}", error.filename) from error

    def _keep(self, prefix: str, source: BinaryIO, check: Check) -> tuple[str, int]:
        self._check_room(source)
        digest, size = hashlib.sha256(), 0
        with self._temporary(self._path(f"{prefix}/blob")) as (name, file):
            for chunk in chunks(source, check):
                digest.update(chunk)
                if chunk == NOTHING:  # a hole stays one, or a file that takes no room here would fill the disk
                    file.seek(len(chunk), os.SEEK_CUR)
                else:
                    file.write(chunk)
                size += len(chunk)
            file.flush()
            file.truncate(size)
            if size > LARGE:
                os.fsync(file.fileno())  # in a lane of its own, so that no manifest waits for it
            path = self._path(f"{prefix}/{digest.hexdigest()}")
            try:
                self._link(name, path)
            except FileExistsError:
                if os.path.getsize(path) != size:  # a computer lost its power before the first had its content
                    self._replace(name, path)
            with self._listing:
                self._unsettled.append(path)
        return digest.hexdigest(), size

    def close(self) -> None:
        """Nothing is held."""

    def _path(self, key: str) -> str:
        return os.path.join(self._root, key) if key else self._root

    def _check_room(self, source: BinaryIO) -> None:
        """Raises OSError before a large file fills the disk, which may be the script's own, to no purpose."""
        self._check_place()
        taken = os.fstat(source.fileno()).st_blocks * 512
        if taken > LARGE:
            disk = os.statvfs(self._root)
            if taken > disk.f_bavail * disk.f_frsize:
                raise StoreError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} in {self._root}")

    def _check_place(self) -> None:
        """Raises StoreError where the directory is away, by a disk that is unmounted, say: it is not made anew.

        Nor is anything written where another store lies by now.
        """
        try:
            place: int | None = os.stat(self._root).st_ino
        except OSError:
            place = None
        known, (state, found) = self._identity, self._told_identity()
        another = self._seen != place if known is None else found != known
        if place is None or (another and self._seen is not None):
            raise StoreError(f"{self._root} is not there, or is another store")
        self._seen, self._identity, self._told_by = place, found, state

    def _told_identity(self) -> tuple[State | None, bytes | None]:
        """Which store it is, by what `sojourn.store.identity` wrote, and that file's state, which it is kept for."""
        try:
            told = os.stat(self._path(IDENTITY))
            state = told.st_ino, told.st_mtime_ns, told.st_size
            if state == self._told_by:
                return state, self._identity
            with self.open(IDENTITY) as file:
                return state, file.read(MIB)
        except OSError:
            return None, None

    @contextlib.contextmanager
    def _temporary(self, path: str) -> Iterator[tuple[str, BinaryIO]]:
        self._check_place()
        self._provide(os.path.dirname(path))
        # At random: agents in process namespaces of their own share process ids.
        name = f"{path}#{secrets.randbelow(10**15)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with open(os.open(name, flags, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o666 & ~UMASK)
                yield name, file
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)

    def _provide(self, folder: str) -> None:
        """Make a folder and those above it, as the user's own would be; what is none gives way."""
        if os.path.isdir(folder):
            return
        self._provide(os.path.dirname(folder))
        try:
            os.mkdir(folder)
        except FileExistsError:
            if os.path.isdir(folder):
                return
            self._put_aside(folder)
            os.mkdir(folder)
        inherited = os.stat(folder).st_mode & (stat.S_ISGID | stat.S_ISVTX)
        os.chmod(folder, 0o777 & ~UMASK | inherited)

    def _link(self, draft: str, path: str) -> None:
        """Give a draft its name. Raises FileExistsError where a file has it; a folder, a pipe, a loose link is none."""
        try:
            os.link(draft, path)
        except FileExistsError:
            if os.path.isfile(path):
                raise
            self._put_aside(path)
            os.link(draft, path)

    def _replace(self, draft: str, path: str) -> None:
        """Give a draft its name, whatever has it."""
        try:
            os.replace(draft, path)
        except IsADirectoryError:
            self._put_aside(path)
            os.replace(draft, path)

    def _put_aside(self, path: str) -> None:
        """Take away what no writer of ours has laid there, under a name that no listing shows.

        What lies above the projects may be the user's own, and stays.
        """
        if os.path.relpath(path, self._root).count("/") < 2:
            raise StoreError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        say(f"{path} was no file, and was put aside")
        os.rename(path, f"{path}#{secrets.randbelow(10**15)}")


def _sync(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # by now it may be gone, or a pipe
        if error.errno not in NO_FILE:
            raise


def _sync_all(folder: str) -> bool:
    """All of a file system at once, which is faster for many files; False where that cannot be asked for."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return bool(ctypes.CDLL(None).syncfs(descriptor) == 0)
    except (AttributeError, OSError):
        return False
    finally:
        os.close(descriptor)


def chunks(source: BinaryIO, check: Check) -> Iterator[bytes]:
    """The stream piece by piece; `check` may end it before each."""
    while True:
        check()
        chunk = source.read(MIB)
        if not chunk:
            return
        yield chunk
