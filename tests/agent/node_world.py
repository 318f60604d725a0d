"""One node's tree and its committer, over the store of all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sojourn.agent.commit import Committer
from sojourn.agent.mailbox import Place
from sojourn.agent.store import FileStore
from sojourn.names import LeaseName
from sojourn.records import FileEntry, Manifest

LEASE = LeaseName("calm-heron-7f3a", 1)
PLACE = "0123456789abcdef0123456789abcdef"
RUN = f"machine/digits/{PLACE}-{LEASE.run}"


class Node:
    """One node's tree and its committer, over the store of all."""

    def __init__(self, folder: Path, node: int, nodes: int, **order: Any) -> None:
        self.tree = folder / f"tree{node}"
        self.tree.mkdir(exist_ok=True)
        self.root = folder / "store"
        boot = {"project": "digits", "run": LEASE.run, "place": PLACE, "attempt": 1, "lease": str(LEASE)}
        store = FileStore(self.root.as_uri())
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
        self._committer = Committer(store, place, {**told, **order}, str(self.tree), ["outputs"], time.monotonic() + 60)

    def commit(self, torn_at: float | None = None, **files: str | None) -> None:
        """Write these files (None removes one), then commit what is there, perhaps of a writer that was killed."""
        for name, text in files.items():
            path = self.tree / name.replace("_", ".")
            path.unlink() if text is None else path.write_text(text)
        self._committer.final(time.monotonic() + 60, torn_at)

    def look(self) -> None:
        """Commit what is there while the script still runs."""
        self._committer.stable(time.monotonic() + 60)

    def commit_on(self, well_until: Callable[[], float]) -> None:
        self._committer.start(well_until)

    def write(self, files: dict[str, str]) -> None:
        """Write these files, whatever their names."""
        for name, text in files.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text)

    def finish(self) -> Manifest | None:
        """All that happens at the script's end; the newest account of what does not come home."""
        self._committer.final(time.monotonic() + 60, None)
        self._committer.keep_rest(time.monotonic() + 60)
        folder = self.root / self.prefix / "kept"
        newest = max(folder.iterdir(), default=None) if folder.is_dir() else None
        return Manifest.model_validate_json(newest.read_bytes()) if newest else None

    def home(self) -> dict[str, str]:
        """The newest outputs."""
        folder = self.root / self.prefix / "out"
        return self.manifest("out", len(list(folder.iterdir()))) if folder.is_dir() else {}

    def settle(self) -> None:
        self._committer.settle(0.1)

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
