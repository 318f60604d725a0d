"""One node's tree and its committer, over the store of all."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sojourn.agent.mailbox import Place
from sojourn.agent.results.commit import Committer
from sojourn.agent.script.mask import Mask
from sojourn.agent.stores.store import MIB, Check, FileStore
from sojourn.names import LeaseName
from sojourn.protocol import Manifest
from sojourn.records import FileEntry

LEASE = LeaseName("calm-heron-7f3a", 1)
PLACE = "0123456789abcdef0123456789abcdef"
RUN = f"machine/digits/{PLACE}-{LEASE.run}"


class FarStore(FileStore):
    """A store that takes so many bytes a second over all its connections."""

    def __init__(self, url: str, rate: float) -> None:
        super().__init__(url)
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def keep(self, prefix: str, source: BinaryIO, check: Check) -> tuple[str, int]:
        def one() -> None:
            check()
            left = os.fstat(source.fileno()).st_size - source.tell()
            with self._lock:
                began = max(self._free_at, time.monotonic())
                self._free_at = began + max(0, min(MIB, left)) / self._rate
            time.sleep(max(0.0, self._free_at - time.monotonic()))

        return super().keep(prefix, source, one)


class Node:
    """One node's tree and its committer, over the store of all."""

    def __init__(
        self,
        folder: Path,
        node: int,
        nodes: int,
        rate: float | None = None,
        seconds: float = 60,
        mask: Mask | None = None,
        **order: Any,
    ) -> None:
        """`rate`: bytes a second that its store takes; `seconds` until it must end; `mask` knows its secrets."""
        self.tree = folder / f"tree{node}"
        self.tree.mkdir(exist_ok=True)
        self.root = folder / "store"
        boot = {"project": "digits", "run": LEASE.run, "place": PLACE, "attempt": 1, "lease": str(LEASE)}
        self.root.mkdir(exist_ok=True)
        store = FarStore(self.root.as_uri(), rate) if rate else FileStore(self.root.as_uri())
        place = Place(store, boot, node)
        names = [LEASE.machine(number) for number in range(nodes)]
        place.rank_by(names)
        told = {
            "nodes": names,
            "inputs": [],
            "outputs": None,
            "ignore": [],
            "checkpoint": ["*.pt"],
            "commit_every_s": 9,
        }
        self.prefix = f"{RUN}/1/{node}"
        until = time.monotonic() + seconds
        self.committer = Committer(store, place, {**told, **order}, str(self.tree), ["outputs"], until, mask=mask)

    def commit(self, torn_at: float | None = None, **files: str | None) -> None:
        """Write these files (None removes one), then commit what is there, perhaps of a writer that was killed."""
        for name, text in files.items():
            path = self.tree / name.replace("_", ".")
            path.unlink() if text is None else path.write_text(text)
        self.committer.final(time.monotonic() + 60, torn_at)

    def look(self) -> None:
        """Commit what is there while the script still runs."""
        self.committer.stable(time.monotonic() + 60)

    def commit_on(self, well_until: Callable[[], float]) -> None:
        self.committer.start(well_until)

    def write(self, files: dict[str, str]) -> None:
        """Write these files, whatever their names."""
        for name, text in files.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text)

    def finish(self, seconds: float = 60) -> Manifest | None:
        """All that happens at the script's end; the newest account of what does not come home."""
        until = time.monotonic() + seconds
        self.committer.final(until, None)
        self.committer.keep_rest(until)
        return self.account()

    def account(self) -> Manifest | None:
        """The newest account of what does not come home."""
        folder = self.root / self.prefix / "kept"
        newest = max(folder.iterdir(), default=None) if folder.is_dir() else None
        return Manifest.model_validate_json(newest.read_bytes()) if newest else None

    def home(self) -> dict[str, str]:
        """The newest outputs."""
        folder = self.root / self.prefix / "out"
        return self.manifest("out", len(list(folder.iterdir()))) if folder.is_dir() else {}

    def large(self, name: str, mebibytes: int, byte: bytes = b"", at_rest: bool = True) -> Path:
        """Write a file that is large, a hole where no byte is given; `at_rest`: some time ago."""
        path = self.tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for _ in range(mebibytes if byte else 0):
                file.write(byte * MIB)
            file.truncate(mebibytes * MIB)
        if at_rest:
            os.utime(path, (time.time() - 60, time.time() - 60))
        return path

    def leaving(self) -> list[dict[str, Any]]:
        """What whoever follows the run is told will not come home."""
        return self.committer.leaving

    def sizes(self, what: str) -> dict[str, int]:
        """The files of the newest commit with their sizes."""
        folder = self.root / self.prefix / what
        newest = max(folder.glob("*.json"), default=None) if folder.is_dir() else None
        files = Manifest.model_validate_json(newest.read_bytes()).files if newest else ()
        return {entry.path: entry.size for entry in files}

    def count(self, what: str) -> int:
        """How many commits there are."""
        return len(list((self.root / self.prefix / what).glob("*.json")))

    def settle(self) -> None:
        self.committer.settle(0.1)

    def blobs(self) -> set[str]:
        """The texts that lie below this node's prefix, each under its own hash."""
        found = {path: path.read_text() for path in (self.root / self.prefix / "blob").iterdir()}
        assert all(path.name == sha256(text) for path, text in found.items())
        return set(found.values())

    def committed(self, what: str, sequence: int) -> tuple[FileEntry, ...]:
        """The lines of a commit."""
        body = (self.root / self.prefix / what / f"{sequence:08d}.json").read_bytes()
        return Manifest.model_validate_json(body).files

    def manifest(self, what: str, sequence: int) -> dict[str, str]:
        """The files of a commit as they can be fetched now. Raises FileNotFoundError."""
        body = (self.root / self.prefix / what / f"{sequence:08d}.json").read_bytes()
        return {e.path: (self.root / e.source).read_text() for e in Manifest.model_validate_json(body).files}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
