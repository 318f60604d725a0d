"""Puts files into the store as blobs by their hash, and takes away what nothing names any more.

Many small files that are new share a blob, a parcel: what costs there is the request. Their lines in a manifest tell
where in it each begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO

from sojourn.agent.clock import HOST, Clock
from sojourn.agent.errors import Late, say
from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place
from sojourn.agent.store import MIB, Store
from sojourn.agent.tree import Sign, sign_of
from sojourn.agent.veil import Veil

SMALL = 128 << 10  # of this size or less files go together
MANY = 16  # so many at once, or each goes alone
PARCEL = 4 * MIB


class Keeper:
    """One node's blobs. They lie below the node's own prefix, so that no other node's manifest names them."""

    def __init__(
        self, store: Store, place: Place, root: str, until: float, clock: Clock = HOST, veil: Veil | None = None
    ) -> None:
        self._store = store
        self._veil = veil
        self._clock = clock
        self._place = place
        self._root = root
        self._known: dict[str, tuple[Sign, Json]] = {}
        self._stored: set[str] = set()
        self._written_later: set[str] = set()
        self._read_anew: set[str] = set()
        self._put_off: set[str] = set()
        self.until = until  # on the monotonic clock; past it no further file is read
        self.troubles: dict[str, str] = {}  # what a later try may cure
        self.left_out: dict[str, str] = {}  # what none will

    def knows(self, entries: Mapping[str, Json], signs: Mapping[str, Sign]) -> None:
        """These files are in the store already, as they are now: they are named where they lie."""
        self._known.update({path: (signs[path], entry) for path, entry in entries.items() if path in signs})

    def gather(self, files: Mapping[str, Sign]) -> None:
        """Store what of these files is small and new in parcels, if it is much; `entry` knows of it then."""
        small = [path for path, sign in sorted(files.items()) if sign.size <= SMALL and self._is_new(path, sign)]
        self._put_off.difference_update(files)
        parcel = _Parcel()
        for path in small if len(small) >= MANY else ():
            content = self._content(path, files[path])
            if content is None:
                continue  # `entry` will say why
            if parcel.size + len(content[0]) > PARCEL:
                self._send(parcel)
                parcel = _Parcel()
            parcel.add(path, files[path], *content)
        self._send(parcel)

    def entry(self, path: str, sign: Sign) -> Json | None:
        """The manifest's line for this state of the file, or for the last one that could be kept."""
        known = self._known.get(path)
        if self._is_new(path, sign) and path not in self._put_off:
            try:
                known = self._keep(path, sign) or known
            except Late:
                self.troubles[path] = "the time was over"
            except (FileNotFoundError, NotADirectoryError):
                pass  # gone since the scan
            except PermissionError:
                self.left_out[path] = "it cannot be read"
            except OSError as error:
                self.troubles[path] = error.strerror or str(error)
        return known[1] if known else None

    def doubt(self, paths: Collection[str]) -> None:
        """These may have been written to since they were read, and show no sign of it; see `read_anew`."""
        self._written_later.update(path for path in paths if path in self._known)

    def read_anew(self) -> None:
        """Read once more, now that nobody writes, what was read while somebody could."""
        self._read_anew.update(self._written_later)
        self._written_later.clear()

    def holds(self, path: str, sign: Sign) -> bool:
        """Whether the file is in the store as it was in this state."""
        return path in self._known and self._known[path][0] == sign

    def renamed(self, path: str, sign: Sign) -> bool:
        """Whether the file got its name after its last byte, as whoever saves safely does: it is whole."""
        try:
            state = os.stat(os.path.join(self._root, path))
        except OSError:
            return False
        return sign_of(state) == sign and state.st_ctime_ns > state.st_mtime_ns

    def text(self, path: str) -> str:
        """The beginning of a small text file; empty when it cannot be read."""
        try:
            with open(os.path.join(self._root, path), encoding="utf-8", errors="replace") as file:
                return file.read(1000)
        except OSError:
            return ""

    def prune(self, named: Collection[str], paths: Collection[str]) -> None:
        """Delete the blobs that are not `named`, except those that a next manifest may name for one of `paths`."""
        # A file that is gone and comes back is stored anew.
        self._known = {path: known for path, known in self._known.items() if path in paths}
        wanted = {line["source"] for _, line in self._known.values()}.union(named)
        for source in sorted(self._stored - wanted):
            try:
                self._store.delete(source)
            except OSError as error:
                say(f"{source} cannot be deleted: {error}")
                return  # the next commit tries again
            self._stored.discard(source)

    def _is_new(self, path: str, sign: Sign) -> bool:
        known = self._known.get(path)
        return known is None or known[0] != sign or path in self._read_anew

    def _content(self, path: str, sign: Sign) -> tuple[bytes, int] | None:
        """A small file's bytes and mode, if it was in this state before and after they were read and there is time."""
        if self._clock.monotonic() > self.until:
            return None
        full = os.path.join(self._root, path)
        try:
            with open(full, "rb") as file:
                before = os.fstat(file.fileno())
                body = file.read(SMALL + 1) if sign_of(before) == sign else b""
            same = sign_of(before) == sign and sign_of(os.stat(full)) == sign
        except OSError:
            return None
        return (body, stat.S_IMODE(before.st_mode)) if same and len(body) == sign.size else None

    def _send(self, parcel: _Parcel) -> None:
        if not parcel.lines:
            return
        try:
            with _in_memory(b"".join(parcel.bodies)) as file:
                digest, _ = self._store.keep(self._place.blobs, file, self._in_time)
        except (Late, OSError) as error:
            why = "the time was over" if isinstance(error, Late) else error.strerror or str(error)
            self.troubles.update({path: why for path in parcel.lines})
            self._put_off.update(parcel.lines)
            return
        source = f"{self._place.blobs}/{digest}"
        self._stored.add(source)
        for path, (sign, line) in parcel.lines.items():
            whole = {**line, "source": source}
            self._known[path] = sign, self._veil.over(whole) if self._veil else whole
        self._read_anew.difference_update(parcel.lines)

    def _keep(self, path: str, sign: Sign) -> tuple[Sign, Json] | None:
        full = os.path.join(self._root, path)
        with open(full, "rb") as file:
            before = os.fstat(file.fileno())
            if sign_of(before) != sign:
                return None
            digest, size = self._store.keep(self._place.blobs, file, self._in_time)
            after = os.fstat(file.fileno())  # what was replaced meanwhile is whole as it was
        source = f"{self._place.blobs}/{digest}"
        self._stored.add(source)
        os.stat(full)  # and what was removed is gone
        if sign_of(after) != sign or size != sign.size:
            return None
        mode = stat.S_IMODE(before.st_mode)
        line = {"path": path, "hash": f"sha256:{digest}", "size": size, "mode": mode, "source": source}
        line["mtime_ns"] = sign.mtime_ns
        self._known[path] = (sign, self._veil.over(line) if self._veil else line)
        self._read_anew.discard(path)
        return self._known[path]

    def _in_time(self) -> None:
        if self._clock.monotonic() > self.until:
            raise Late


class _Parcel:
    """Small files one after the other, and their lines but for the parcel's own name."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.lines: dict[str, tuple[Sign, Json]] = {}
        self.size = 0

    def add(self, path: str, sign: Sign, body: bytes, mode: int) -> None:
        line: Json = {"path": path, "hash": f"sha256:{hashlib.sha256(body).hexdigest()}", "size": len(body)}
        self.lines[path] = sign, {**line, "mode": mode, "mtime_ns": sign.mtime_ns, "offset": self.size}
        self.bodies.append(body)
        self.size += len(body)


@contextlib.contextmanager
def _in_memory(body: bytes) -> Iterator[BinaryIO]:
    """These bytes as a file that has a descriptor, as stores want one."""
    with (
        tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else open(os.memfd_create("parcel"), "w+b")
    ) as file:
        file.write(body)
        file.seek(0)
        yield file
