"""Puts files into the store as blobs by their hash, and takes away what nothing names any more.

Many small files that are new share a blob, a parcel: what costs there is the request. Their lines in a manifest tell
where in it each begins. A small one is sent at once, a large one on a lane beside: its line is there once it has
arrived.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from typing import BinaryIO

from sojourn.agent.errors import Late, say
from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.mailbox import Place
from sojourn.agent.results.lanes import Job, Lanes, Pace, Torn
from sojourn.agent.results.tree import Sign, sign_of
from sojourn.agent.script.veil import Veil
from sojourn.agent.stores.store import MIB, Store, chunks

SMALL = 128 << 10  # of this size or less files go together
MANY = 16  # so many at once, or each goes alone
PARCEL = 4 * MIB
LITTLE_S = 0.5  # of waiting does not matter for how fast a store is
REST_S = 10.0  # a large file that was written to within this time is likely to be written to again


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
        self._stored: dict[str, int] = {}  # with their sizes
        self._written_later: set[str] = set()
        self._read_anew: set[str] = set()
        self._put_off: set[str] = set()
        self.pace = Pace()
        self._lanes = Lanes(self._send, clock)
        self._restless: set[str] = set()
        self.written = True  # somebody may still write
        self.until = until  # on the monotonic clock; past it no further file is begun, but for those that go beside
        self.ends = until  # and past that nothing more of those either
        self.troubles: dict[str, str] = {}  # what a later try may cure
        self.left_out: dict[str, str] = {}  # what none will

    def knows(self, entries: Mapping[str, Json], signs: Mapping[str, Sign]) -> None:
        """These files are in the store already, as they are now: they are named where they lie."""
        self._known.update({path: (signs[path], entry) for path, entry in entries.items() if path in signs})

    def gather(self, files: Mapping[str, Sign]) -> None:
        """Store what of these files is small and new in parcels, if it is much; `entry` knows of it then."""
        small = [
            path
            for path, sign in sorted(files.items())
            if sign.size <= SMALL and not (self.vouches_for(path, sign) or self._may_be_stored(path, sign))
        ]
        self._put_off.difference_update(files)
        parcel = _Parcel()
        for path in small if len(small) >= MANY else ():
            content = self._content(path, files[path])
            if content is None:
                continue  # `entry` will say why
            if parcel.size + len(content[0]) > PARCEL:
                self._send_parcel(parcel)
                parcel = _Parcel()
            parcel.add(path, files[path], *content)
        self._send_parcel(parcel)

    def entry(self, path: str, sign: Sign, first: bool = False) -> Json | None:
        """The manifest's line for this state of the file, or for the last one that could be kept.

        A large one is on its way meanwhile, before all others when it is to be the `first`.
        """
        if not self.vouches_for(path, sign) and path not in self._put_off:
            try:
                if self.pace.is_large(sign.size):
                    self._ask(path, sign, first)
                else:
                    self._keep(path, sign)
            except Exception as error:
                self._failed(path, error)
        return self.line(path)

    def collect(self) -> None:
        """Take up what the lanes have brought into the store."""
        for job in self._lanes.collect():
            try:
                if job.line is not None:
                    self._knows(job.path, job.sign, job.line)
                elif job.error is not None:
                    raise job.error
            except Exception as error:
                self._failed(job.path, error)

    def arrived(self) -> bool:
        """Whether there is anything to collect."""
        return self._lanes.arrived()

    def sends(self, path: str, sign: Sign | None = None) -> bool:
        """Whether the file, in this state, is on its way."""
        return self._lanes.sends(path, sign) or path in self._restless

    def waiting(self) -> list[str]:
        """What is on its way, or large and not sent while it is written to."""
        return sorted({*self._lanes.waiting(), *self._restless})

    def give_up(self) -> None:
        """Wait for nothing more that is on its way."""
        self.troubles.update((path, "the time was over") for path in [*self._lanes.empty(), *self._restless])
        self._restless = set()

    def stop(self) -> None:
        """Send nothing more for good."""
        self._lanes.stop()

    def doubt(self, paths: Collection[str]) -> None:
        """These may have been written to since they were read, and show no sign of it; see `read_anew`."""
        self._written_later.update(path for path in paths if path in self._known or self._lanes.sends(path))

    def read_anew(self) -> None:
        """Read once more, now that nobody writes, what was read while somebody could."""
        self.written = False
        self._read_anew.update(self._written_later)
        self._lanes.leave(self._written_later)
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

    def vouches_for(self, path: str, sign: Sign) -> bool:
        """Whether it is, and was not written to since without a sign."""
        return self.holds(path, sign) and path not in self._read_anew

    def line(self, path: str) -> Json | None:
        """The manifest's line for the newest state that is in the store, if any is."""
        known = self._known.get(path)
        return known[1] if known else None

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
        self._restless.intersection_update(paths)
        wanted = {line["source"] for _, line in self._known.values()}.union(named)
        coming = self._lanes.sizes()  # whose blob may be one that lies there already
        for source in sorted(self._stored.keys() - wanted):
            if self._stored[source] in coming:
                continue
            try:
                self._store.delete(source)
            except OSError as error:
                say(f"{source} cannot be deleted: {error}")
                return  # the next commit tries again
            del self._stored[source]

    def forget(self, path: str) -> None:
        """Send no more of a file that is gone, or that does not come home any more."""
        self._restless.discard(path)
        self._lanes.leave([path])

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

    def _send_parcel(self, parcel: _Parcel) -> None:
        if not parcel.lines:
            return
        try:
            with self._lanes.hurry(), _in_memory(b"".join(parcel.bodies)) as file:
                digest, _ = self._store.keep(self._place.blobs, file, self._in_time)
        except (Late, OSError) as error:
            why = "the time was over" if isinstance(error, Late) else error.strerror or str(error)
            self.troubles.update({path: why for path in parcel.lines})
            self._put_off.update(parcel.lines)
            return
        source = f"{self._place.blobs}/{digest}"
        self._stored[source] = parcel.size
        for path, (sign, line) in parcel.lines.items():
            whole = {**line, "source": source}
            self._known[path] = sign, self._veil.over(whole) if self._veil else whole
        self._read_anew.difference_update(parcel.lines)

    def _ask(self, path: str, sign: Sign, first: bool) -> None:
        restless = self.written and self._clock.now() - sign.mtime_ns / 1e9 < REST_S
        self._restless.discard(path)
        if first:
            held = open(os.path.join(self._root, path), "rb")  # noqa: SIM115 - the lane closes it
            self._lanes.ask(path, sign, first, held)
        elif restless and not self._lanes.sends(path):
            self._restless.add(path)
        else:
            self._lanes.ask(path, sign, first)

    def _keep(self, path: str, sign: Sign) -> None:
        job = Job(path, sign, first=True, file=None, beside=False)
        with contextlib.suppress(Torn), self._lanes.hurry():
            line = self._send(job)
            os.stat(os.path.join(self._root, path))  # what was removed meanwhile is gone
            self._knows(path, sign, line)

    def _knows(self, path: str, sign: Sign, line: Json) -> None:
        self._known[path] = (sign, self._veil.over(line) if self._veil else line)
        self._read_anew.discard(path)

    def _send(self, job: Job) -> Json:
        """Store the file in the state that was asked for, wherever its name has gone meanwhile."""
        with job.file or open(os.path.join(self._root, job.path), "rb") as file:
            job.check(file)
            if (same := self._as_stored(job, file)) is not None:
                return same
            began = self._clock.monotonic()
            digest, size = self._store.keep(self._place.blobs, file, lambda: self._may_go_on(job, file))
            source = f"{self._place.blobs}/{digest}"
            self._stored[source] = size
            job.check(file)
        if size != job.sign.size:
            raise Torn(job.path)
        if job.waited_s < LITTLE_S:
            self.pace.sent(size, self._clock.monotonic() - began)
        line = {"path": job.path, "hash": f"sha256:{digest}", "size": size, "mode": job.sign.mode, "source": source}
        return {**line, "mtime_ns": job.sign.mtime_ns}

    def _may_be_stored(self, path: str, sign: Sign) -> bool:
        """Whether it takes a look into the file to say that it is not what is stored."""
        known = self._known.get(path)
        return known is not None and known[0] != sign and sign.is_like(known[0])

    def _as_stored(self, job: Job, file: BinaryIO) -> Json | None:
        """The line of what is stored, where the file was only linked to or renamed since and holds the same."""
        if not self._may_be_stored(job.path, job.sign):
            return None
        line = self._known[job.path][1]
        digest = hashlib.new(line["hash"].partition(":")[0])
        for chunk in chunks(file, lambda: self._may_go_on(job, file)):
            digest.update(chunk)
        file.seek(0)
        return line if digest.hexdigest() == line["hash"].partition(":")[2] else None

    def _failed(self, path: str, error: Exception) -> None:
        if isinstance(error, Late):
            self.troubles[path] = "the time was over"
        elif isinstance(error, (FileNotFoundError, NotADirectoryError)):
            pass  # gone since the scan
        elif isinstance(error, PermissionError):
            self.left_out[path] = "it cannot be read"
        else:
            self.troubles[path] = getattr(error, "strerror", None) or str(error) or repr(error)

    def _may_go_on(self, job: Job, file: BinaryIO) -> None:
        if self._clock.monotonic() > (self.ends if job.beside else self.until):
            raise Late
        job.check(file)
        self._lanes.give_way(job)

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
    with _nameless() as file:
        file.write(body)
        file.seek(0)
        yield file


def _nameless() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("parcel"), "w+b")
    import tempfile

    return tempfile.TemporaryFile()
