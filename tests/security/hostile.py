"""What an attacker writes into a store, and the project at home that it aims at."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from sojourn.plan.planning import Plan
from sojourn.project.placing import Placings
from sojourn.project.project import Project
from sojourn.protocol import Bundle, Manifest
from sojourn.records import FileEntry
from sojourn.results.collect import Collected, collect
from sojourn.results.publish import Published, place_files, to_directory
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

RUN = "calm-panda-a2e3"


class Home:
    """A project directory with a store beside it, into which a machine of the attacker's writes."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.root.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=self.root, check=True)
        self.outside = root / "elsewhere"
        self.outside.mkdir()
        self.data = root / "home"
        self.mailbox = Mailbox(Store((root / "store").as_uri()), "p", RUN)
        self.sent: tuple[str, ...] = ("train.py",)
        (self.root / "train.py").write_text("pass")
        self._before = self._everything()

    def entry(self, path: str, text: str = "evil", mode: int = 0o644, size: int | None = None) -> FileEntry:
        digest = hashlib.sha256(text.encode()).hexdigest()
        source = f"{self.mailbox.machine}/1/0/blob/{digest}"
        self.mailbox.store.put(source, text.encode())
        size = len(text) if size is None else size
        return FileEntry(path=path, hash=f"sha256:{digest}", size=size, mode=mode, source=source)

    def commit(self, *entries: FileEntry, sequence: int = 1) -> Collected:
        """Write a manifest as a machine may, and look at it as this host does."""
        manifest = Manifest(sequence=sequence, at=0.0, files=entries)
        self.mailbox.store.put(f"{self.mailbox.machine}/1/0/out/{sequence:08d}.json", manifest.to_bytes())
        return collect(self.mailbox, 1, 1)

    def comes_home(self, *entries: FileEntry, named: tuple[str, ...] = ()) -> Published:
        """The results of a run that succeeded, into the project."""
        found = self.commit(*entries)
        plan = Plan.model_construct(run=RUN, created_at=1.0, named_outputs=named, directory=str(self.root))
        listing = tuple(FileEntry(path=path, hash="", size=0, source="") for path in self.sent)
        sent = Bundle(files=(), listing=listing, directory=".")
        project = Project.at(self.root)
        return place_files(plan, found.files, sent, self.mailbox, project, Placings(self.data, self.root))

    def pulled(self, *entries: FileEntry, to: Path) -> Published:
        """The same by `sojourn pull --to`."""
        return to_directory(self.commit(*entries), self.mailbox, to)

    def new(self) -> set[str]:
        """What is there since, in the project and outside of it, but in no store of ours."""
        return self._everything() - self._before

    def _everything(self) -> set[str]:
        top = self.root.parent
        found = {
            os.path.relpath(os.path.join(folder, name), top) for folder, _, names in os.walk(top) for name in names
        }
        return {path for path in found if not path.startswith(("store/", "home/"))}
