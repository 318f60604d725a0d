"""Files of this host on their way into the store: each whole, as it stood while nobody wrote to it, and once.

They are named by their hash, so whoever sends the same again sends nothing. Of data in many small files a request and
a sync for each would be all that it costs: they share objects, parcels, of which agents and `parcels` read them. Names
alone say where a parcel begins, so that an edit sends one of them again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from sojourn.errors import TransientError
from sojourn.records import FileEntry
from sojourn.secrets.ignore_file import leave_out, root_of
from sojourn.store.mailbox import Mailbox

T = TypeVar("T")
G = TypeVar("G", bound="HasPath")
LANES = 8  # files on their way at once: a store in a cloud is far, not slow
SEND_AGAIN_AFTER_S = 7 * 86400.0  # the shortest that `sojourn setup aws` lets a bucket keep things is twice that
TRIES = 3  # of reading a file that changes meanwhile
SMALL = 128 << 10  # of this size or less files share parcels
MANY = 16  # so many of them, or each goes alone
PARCEL = 1 << 20  # of these bytes, about, each is made


class HasPath(Protocol):
    """A file of a tree."""

    @property
    def path(self) -> str:
        """Where it goes."""

    @property
    def size(self) -> int:
        """In bytes."""


class Sized(NamedTuple):
    """A file that is to be sent: its path in the tree, where it stands here, and its size."""

    path: str
    file: Path
    size: int


class Changed(TransientError):
    """The tree is no longer what was listed."""


def send_files(files: Sequence[Sized], mailbox: Mailbox) -> tuple[list[FileEntry], int]:
    """Send what the store lacks of these, small ones in parcels; their entries in this order, and the bytes sent."""
    small = [one for one in files if one.size <= SMALL]
    if len(small) < MANY:
        return send_blobs([(one.file, one.path) for one in files], mailbox)
    large, sent = send_blobs([(one.file, one.path) for one in files if one.size > SMALL], mailbox)
    with ThreadPoolExecutor(LANES) as pool:
        parcels = list(pool.map(partial(_send_parcel, mailbox=mailbox), groups(small, PARCEL)))
    entries = {entry.path: entry for entry in (*large, *(entry for some, _ in parcels for entry in some))}
    return [entries[one.path] for one in files], sent + sum(size for _, size in parcels)


def groups(files: Sequence[G], about: int) -> Iterator[list[G]]:
    """Files that go together. Names alone say where a group begins, so that an edit, a new file or one that
    is gone leaves all other groups as they were, and they are not sent again."""
    size = sum(one.size for one in files)
    each = max(1, len(files) * about // size) if size > 2 * about else len(files)
    sparse = 1 << max(0, each.bit_length() - 1)  # a power of two, which seldom becomes another one
    group: list[G] = []
    for one in files:
        begins = size > 2 * about and zlib.crc32(os.fsencode(one.path)) % sparse == 0
        if group and (begins or sum(other.size for other in group) > 4 * about):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _send_parcel(files: list[Sized], mailbox: Mailbox) -> tuple[list[FileEntry], int]:
    read = [read_unchanged(one.file, one.path, partial(_read, one.file)) for one in files]
    for one, (content, state) in zip(files, read, strict=True):
        if len(content) != state.st_size:
            raise Changed(f"{one.path} has grown while the tree was packed", hint="try it again")
    body = b"".join(content for content, _ in read)
    key = mailbox.blob_key(hashlib.sha256(body).hexdigest())
    entries, offset = [], 0
    for one, (content, state) in zip(files, read, strict=True):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        about: dict[str, Any] = {"mode": stat.S_IMODE(state.st_mode), "mtime_ns": state.st_mtime_ns, "offset": offset}
        entries.append(FileEntry(path=one.path, hash=digest, size=len(content), source=key, **about))
        offset += len(content)
    return entries, send_body(key, body, mailbox)


def _read(file: Path) -> tuple[bytes, os.stat_result]:
    with file.open("rb") as opened:
        body = opened.read(SMALL + 1)
        return body, os.fstat(opened.fileno())


def send_blobs(files: list[tuple[Path, str]], mailbox: Mailbox) -> tuple[list[FileEntry], int]:
    """Each file, with its path in the tree, as a blob; their entries and the bytes sent."""
    with ThreadPoolExecutor(LANES) as pool:
        sent = list(pool.map(lambda one: _sent(one[0], one[1], mailbox), files))
    once = {entry.source: size for entry, size in sent if size}  # of equal files, all may have been sent
    return [entry for entry, _ in sent], sum(once.values())


def _sent(file: Path, path: str, mailbox: Mailbox) -> tuple[FileEntry, int]:
    return read_unchanged(file, path, lambda: send_blob(file, path, mailbox))


def send_blob(file: Path, path: str, mailbox: Mailbox) -> tuple[FileEntry, int]:
    """Put one file into the store under its hash unless it is there; the bytes sent."""
    digest, size = _hash(file)
    key = mailbox.blob_key(digest)
    sent = 0
    if not stays(key, size, mailbox):
        # A file may change between hashing and sending: what is sent is a copy, hashed as it is made.
        with tempfile.NamedTemporaryFile(prefix="sojourn-") as copy:
            digest, size = _copy(file, Path(copy.name))
            key = mailbox.blob_key(digest)
            sent = _send(key, Path(copy.name), size, mailbox)
    state = file.stat()
    mode, written = stat.S_IMODE(state.st_mode), state.st_mtime_ns
    return FileEntry(path=path, hash=f"sha256:{digest}", size=size, source=key, mode=mode, mtime_ns=written), sent


def read_content(file: Path, path: str) -> bytes:
    """A small file, whole. Raises Changed."""
    return read_unchanged(file, path, file.read_bytes)


def read_unchanged(file: Path, path: str, read: Callable[[], T]) -> T:
    """What was read of a file while nobody wrote to it. Raises Changed when it goes or never stands still."""
    for _ in range(TRIES):
        try:
            before = _sign(file)
            content = read()
            if before == _sign(file):
                return content
        except FileNotFoundError:
            raise Changed(f"{path} was removed while the tree was packed", hint="try it again") from None
    raise Changed(
        f"{path} is being written while the tree is packed",
        hint=f"wait until that is done, or leave it out: {leave_out([path], root_of(path, file))}",
    )


def _sign(file: Path) -> tuple[int, int, int, int]:
    info = file.stat()
    return info.st_size, info.st_mtime_ns, info.st_ino, info.st_ctime_ns


def send_body(key: str, body: bytes, mailbox: Mailbox) -> int:
    """Put bytes into the store under their hash, unless they are there; how many were sent."""
    return _send(key, body, len(body), mailbox)


def _send(key: str, body: bytes | Path, size: int, mailbox: Mailbox) -> int:
    if stays(key, size, mailbox):
        return 0
    mailbox.store.put(key, body)  # it is named by its hash: who sends it at the same time sends the same
    return size


def stays(key: str, size: int, mailbox: Mailbox) -> bool:
    """Whether the store has it and goes on having it: a bucket forgets objects by their age, also those in use.

    One of another size was cut off, by a computer that lost its power: no machine would take it.
    """
    found = mailbox.store.written(key)
    if found is None or found[1] != size:
        return False
    now = mailbox.store.now()
    return now is not None and now - found[0].timestamp() < SEND_AGAIN_AFTER_S


def _hash(file: Path) -> tuple[str, int]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
        return digest.hexdigest(), opened.tell()


def hash_file(file: Path) -> str:
    """The hash of a file as manifests write it."""
    return f"sha256:{_hash(file)[0]}"


def _copy(file: Path, to: Path) -> tuple[str, int]:
    shutil.copyfile(file, to)
    return _hash(to)
