"""Puts single files into the store as blobs by their hash, and takes away what nothing names any more."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping

from sojourn.agent.clock import HOST, Clock
from sojourn.agent.errors import Late, say
from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place
from sojourn.agent.store import Store
from sojourn.agent.tree import Sign, sign_of
from sojourn.agent.veil import Veil


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
        self.until = until  # on the monotonic clock; past it no further file is read
        self.troubles: dict[str, str] = {}  # what a later try may cure
        self.left_out: dict[str, str] = {}  # what none will

    def knows(self, entries: Mapping[str, Json], signs: Mapping[str, Sign]) -> None:
        """These files are in the store already, as they are now: they are named where they lie."""
        self._known.update({path: (signs[path], entry) for path, entry in entries.items() if path in signs})

    def entry(self, path: str, sign: Sign) -> Json | None:
        """The manifest's line for this state of the file, or for the last one that could be kept."""
        known = self._known.get(path)
        if known is None or known[0] != sign or path in self._read_anew:
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

    def _keep(self, path: str, sign: Sign) -> tuple[Sign, Json] | None:
        full = os.path.join(self._root, path)
        with open(full, "rb") as file:
            before = os.fstat(file.fileno())
            if sign_of(before) != sign:
                return None
            digest, size = self._store.keep(self._place.blobs, file, self._in_time)
        source = f"{self._place.blobs}/{digest}"
        self._stored.add(source)
        after = os.stat(full)
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
