"""Checkpoints are taken whole, under the same number on every node, and complete when all have theirs.

Rank 0's node numbers them and writes the commit; the others take theirs under its number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Callable, NamedTuple

from sojourn.agent.errors import Exists
from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.host.processes import own_proc
from sojourn.agent.mailbox import Place, dump, is_restored
from sojourn.agent.results import checkpoint_files, links
from sojourn.agent.results.keep import Keeper
from sojourn.agent.results.links import Via
from sojourn.agent.results.manifests import Manifests
from sojourn.agent.results.patterns import Patterns
from sojourn.agent.results.tree import Sign
from sojourn.agent.stores.store import Store

PATIENCE_S = 30.0  # a file beside a checkpoint that is written for longer is a log or the like
BUSY_S = 10.0  # who writes in place, again and again, is not waited for any longer
LOOKS, SPREADS = 3, 8
KEPT = 2  # of the complete ones; what is newer and not complete yet is kept besides


class Draft(NamedTuple):
    """A checkpoint on its way: these files, as they were when all of them were at rest."""

    state: tuple[dict[str, Sign], set[str]]
    files: dict[str, Sign]
    linked: dict[str, str]  # other names of these
    vias: dict[str, Via]  # and how they are reached
    lines: dict[str, Json]  # of the files that have arrived
    bold: bool  # read while somebody writes again and again, at a moment when nobody had it open


class Checkpoints:
    """One node's part in them.

    One that takes long is brought to its end although the script has saved a newer one by then:
    a script that saves faster than the store takes would never have any there.
    """

    def __init__(
        self,
        store: Store,
        place: Place,
        order: Json,
        keeper: Keeper,
        being_written: Callable[[], set[int]],
        clock: Clock = HOST,
    ) -> None:
        self._store = store
        self._place = place
        self._keeper = keeper
        self._being_written = being_written
        self._clock = clock
        self._patterns = Patterns(order["checkpoint"])
        self._resumed = restored(order)
        self.shared = len(order["nodes"]) > 1 and bool(order["checkpoint"])
        self._manifests = Manifests(store, place, "ckpt", clock, in_step=self.shared)
        self._last: tuple[dict[str, Sign], set[str]] = ({}, {entry["path"] for entry in self._resumed})
        self._draft: Draft | None = None
        self._completed = 0
        self._matched: dict[str, bool] = {}
        self.vias: dict[str, Via] = {}  # as of the newest look
        self._written_since: dict[str, float] = {}
        self._inodes: dict[str, int] = {}  # at the last look
        self._busy_since: float | None = None
        self._at_once = True  # whether files that are saved together were when last looked at
        self._spreads: list[float] = []  # how far apart they were written, at the last looks
        self.dated = True
        self.writer_lives = True
        self.behind = False  # whether there is a newer one than was taken at the last look

    @property
    def sequence(self) -> int:
        """The number of this node's newest."""
        return self._manifests.sequence

    def members(self, changed: Collection[str]) -> set[str]:
        """Those of the changed files that belong to a checkpoint."""
        return checkpoint_files.members(changed, self._match)

    def lead(self, found: Collection[str], changed: dict[str, Sign], quiet: float, now: float | None) -> None:
        """On rank 0's node: take a new one if there is one; `found` is all that the tree holds."""
        files = self._of(changed)
        for path in checkpoint_files.half(files, self._keeper.text, lives=quiet > 0):
            files.pop(path, None)
        state = (files, self._untouched(found, changed))
        self._advance()
        if files and state != self._last and self._draft is None:
            self._draft = self._begin(*state, quiet, now)
            self._advance()
        self.behind = self._draft is not None or (bool(files) and state != self._last)
        self.complete()

    def wanted(self) -> bool:
        """On any other node: whether rank 0's has taken one that this node has not."""
        return self._draft is not None or self._place.first.exists(f"ckpt/{self.sequence + 1:08d}.json")

    def follow(self, found: Collection[str], changed: dict[str, Sign], quiet: float, now: float | None) -> bool:
        """Take this node's part of it; False when it is still being written, or on its way."""
        if self._draft is None:
            self._draft = self._begin(self._of(changed), self._untouched(found, changed), quiet, now)
        return self._advance(again=True)

    def absorb(self) -> None:
        """Note what has arrived of the one on its way, before newer states of its files do."""
        if self._draft is not None:
            missing = {path: sign for path, sign in self._draft.files.items() if path not in self._draft.lines}
            for path, sign in missing.items():
                line = self._keeper.line(path)
                if line is not None and self._keeper.vouches_for(path, sign):
                    self._draft.lines[path] = line

    def complete(self) -> None:
        """Write, or on the other nodes note, the commits of what every node has by now."""
        while self._completed < self.sequence:
            number = self._completed + 1 if self.shared else self.sequence
            if self._place.rank > 0:
                if not self._place.first.exists(f"commit/{number:08d}.json"):
                    return
            elif not self._commit(number):
                return
            self._completed = number

    def settled(self) -> bool:
        """Whether nothing is left to wait for: all is complete, or rank 0's node has gone."""
        if self._place.rank == 0:
            return self._completed == self.sequence
        return self._place.first.exists("exit.json")

    def sources(self) -> set[str]:
        """The blobs of those that are kept."""
        coming = {line["source"] for line in self._draft.lines.values()} if self._draft else set()
        return self._manifests.sources_since(self._completed - KEPT + 1) | coming

    def _match(self, path: str) -> bool:
        """Remembered, since every look asks about every file anew."""
        if path not in self._matched:
            self._matched[path] = self._patterns.match(path)
        return self._matched[path]

    def _of(self, changed: dict[str, Sign]) -> dict[str, Sign]:
        chosen = self.members(changed) | {entry["path"] for entry in self._resumed}
        return {path: sign for path, sign in changed.items() if path in chosen}

    def _untouched(self, found: Collection[str], changed: Collection[str]) -> set[str]:
        """What was restored and stands as it was; what the script has removed since must not come back."""
        return {entry["path"] for entry in self._resumed if entry["path"] in found and entry["path"] not in changed}

    def _begin(self, files: dict[str, Sign], untouched: set[str], quiet: float, now: float | None) -> Draft | None:
        """The checkpoint as it stands; None while a file of it is being written, or was in the last seconds."""
        restless, bold = self._restless(files, quiet, now), False
        self._busy_since = (self._busy_since or self._clock.monotonic()) if restless else None
        if restless and not self._can_do_without(restless, files):
            if not self._may_be_bold(files):
                return None
            restless, bold = set(), True
        if not restless:
            self._written_since = {}
        whole = {path: sign for path, sign in files.items() if path not in restless}
        direct, linked = links.split(whole, self.vias)
        return Draft((files, untouched), direct, linked, self.vias, {}, bold)

    def _advance(self, again: bool = False) -> bool:
        """Send what is missing of the draft, the small files first; True once it is written.

        It is given up when a file of it can no longer be had. `again`: also where the newest says the same.
        """
        if self._draft is None:
            return False
        self.absorb()
        files, lines = self._draft.files, self._draft.lines
        self._keeper.gather({path: sign for path, sign in files.items() if path not in lines})
        for path in sorted(files.keys() - lines.keys(), key=lambda path: (files[path].size, path)):
            self._keeper.entry(path, files[path], first=True)
        self.absorb()
        missing = files.keys() - lines.keys()
        if missing:
            if not all(self._keeper.sends(path, files[path]) for path in missing):
                self._draft = None
            return False
        if self._draft.bold and self._opened(files, self._being_written()):
            self._draft = None
            return False
        # What an earlier attempt left and this one did not touch is part of it.
        untouched, linked = self._draft.state[1], self._draft.linked
        names = sorted([*lines, *linked])
        entries = [links.line(path, lines[linked.get(path, path)], self._draft.vias) for path in names]
        entries += [e for e in self._resumed if e["path"] in untouched]
        if again or entries != self._manifests.newest:
            self._manifests.write(entries)
        self._last, self._draft = self._draft.state, None
        return True

    def _restless(self, files: dict[str, Sign], quiet: float, now: float | None) -> set[str]:
        """Those of which nobody can say yet that they are whole."""
        now_ns = int((now or self._clock.now()) * 1e9)
        young = {path for path, sign in files.items() if now_ns - sign.mtime_ns < quiet * 1e9}
        opened = self._opened(files, self._being_written())
        replaced = {path for path in young - opened if self._replaced(path, files[path])}
        self._inodes = {path: sign.inode for path, sign in files.items()}
        self._at_once = self._of_one_save([files[path] for path in young])
        return (young - (replaced if self._at_once else set())) | opened

    def _opened(self, files: dict[str, Sign], open_now: set[int]) -> set[str]:
        return {path for path, sign in files.items() if sign.inode in open_now}

    def _replaced(self, path: str, sign: Sign) -> bool:
        """Whether a whole file took the place of another, by a rename: only then a young one is sure to be whole."""
        if self.dated and self._keeper.renamed(path, sign):
            return True
        # Both within one tick of the clock show by the inode; who removes and writes anew has it open meanwhile.
        another = path in self._inodes and self._inodes[path] != sign.inode
        return self._is_watched() and another

    def _of_one_save(self, young: list[Sign]) -> bool:
        """Whether files that are saved again and again were written as close together as they ever are."""
        if len(young) < 2:
            return True
        times = [sign.mtime_ns for sign in young]
        spread = (max(times) - min(times)) / 1e9
        self._spreads = [*self._spreads[-SPREADS:], spread]
        return len(self._spreads) >= LOOKS and spread <= 1.5 * min(self._spreads) + 0.05

    def _may_be_bold(self, files: dict[str, Sign]) -> bool:
        """Whether what is never quiet is to be read at a moment when nobody has it open.

        It counts when it is the same afterwards, and still nobody has.
        """
        busy = self._busy_since is not None and self._clock.monotonic() - self._busy_since > BUSY_S
        closed = not self._opened(files, self._being_written())
        return busy and self._is_watched() and closed and self._at_once

    def _is_watched(self) -> bool:
        """Whether whoever writes lives, and shows which files it has open."""
        return self.writer_lives and self.dated and own_proc()

    def _can_do_without(self, restless: set[str], files: dict[str, Sign]) -> bool:
        """Whether what is being written has been for so long that it is a log in the same folder, and no part of it."""
        began = {path: self._written_since.get(path, self._clock.monotonic()) for path in restless}
        self._written_since = began
        own = checkpoint_files.core(files, self._match) | {entry["path"] for entry in self._resumed}
        return not restless & own and all(self._clock.monotonic() - since > PATIENCE_S for since in began.values())

    def _commit(self, number: int) -> bool:
        if not all(node.exists(f"ckpt/{number:08d}.json") for node in self._place.nodes):
            return False
        body = {"sequence": number, "at": self._clock.now(), "nodes": len(self._place.nodes)}
        with contextlib.suppress(Exists):
            self._store.create(self._place.key(f"commit/{number:08d}.json"), dump(body), durable=True)
        return True


def restored(order: Json) -> list[Json]:
    """The order's inputs that are a checkpoint: they are named where they lie for as long as nobody touches them."""
    return [entry for entry in order["inputs"] if is_restored(entry["source"])]
