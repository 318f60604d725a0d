"""Brings what the script writes into the store while it runs: blobs by hash, then a manifest that names them.

Checkpoints come first, then the other files, the smaller ones first. No large file is waited for while the
script runs: it goes beside (`lanes`), a commit names what is complete by then, and a later one the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from types import MappingProxyType
from typing import Callable, Iterator, Mapping, Sequence

from sojourn.agent.errors import say
from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, LEAVE_LIMIT_S, Clock, Halt
from sojourn.agent.host.procfs import being_written
from sojourn.agent.mailbox import Place
from sojourn.agent.results import links
from sojourn.agent.results.checkpoints import Checkpoints, restored
from sojourn.agent.results.keep import PARCEL, Keeper
from sojourn.agent.results.links import Via
from sojourn.agent.results.manifests import Manifests
from sojourn.agent.results.outside import Sizes
from sojourn.agent.results.remains import HOME, LATE, UNREADABLE, Remains, Sorter, foreseen, without_secrets
from sojourn.agent.results.sent import Sent
from sojourn.agent.results.tree import AGAIN, Sign, scan
from sojourn.agent.script.mask import Mask
from sojourn.agent.script.veil import NAMED, Veil
from sojourn.agent.stores.store import Store

QUIET_S = 1.0  # a checkpoint file must not have changed for this long while its writer lives
STABLE_POLL_S = 0.2
REST_EVERY_S = 60.0  # what does not come home is kept less often: git ignores what grows all the time
TURN_S = 5.0  # for small files, until checkpoints are looked for again
ENOUGH_S = 60.0  # after which what is due beside the commit is looked at, while a script writes on and on
ARRIVALS_S = 0.5
TICK_S = 0.02  # a file system's clock is no finer
SURELY = 1.5  # so many times too large is what is told to be
LAST_SHARE, LAST_S = 0.2, 10.0  # of the time at the end, for the account of what was not stored
OUTPUTS_KEPT = 2  # whoever has just read the last but one still finds its files


class Committer:
    """The outputs and checkpoints of one node, committed from time to time and at the end.

    `being_written` tells the inodes that the script has open for writing; `dated` says that the file system does
    when a file got its name.
    """

    def __init__(
        self,
        store: Store,
        place: Place,
        order: Json,
        root: str,
        homes: Sequence[str],
        until: float,
        clock: Clock = HOST,
        being_written: Callable[[], set[int]] = being_written,
        dated: bool = True,
        mask: Mask | None = None,
    ) -> None:
        self._veil = Veil(store, place, root, order.get("metrics", ()), mask or Mask())
        self._clock = clock
        self._place = place
        self._patience_s = store.patience_s
        self._step_s = store.pace_s
        self.root = root
        self._pace = order["commit_every_s"]
        self._keeper = Keeper(store, place, root, until, clock, self._veil)
        self._being_written = being_written
        self._outputs = Manifests(store, place, "out", clock)
        self._checkpoints = Checkpoints(store, place, order, self._keeper, being_written, clock)
        self._checkpoints.dated = dated
        self._sorter = Sorter(order, homes, self._checkpoints)
        self._remains = Remains(store, place, order, root, self._keeper, clock, self._veil.mask)
        self._lock = threading.Lock()
        self._due = self._rest_due = 0.0
        self._well_until = clock.now
        self._torn_at: float | None = None
        self._still: Halt = lambda limit_s=LEAVE_LIMIT_S: None
        self._unwatch: Halt = self._still
        self._watches = self._unfinished = False
        self._turn_until = 0.0
        self._latest = self._enough_at = self._settled_by = until
        self._leaving: list[Json] = []
        self._aside: dict[str, str] = {}
        self._vias: dict[str, Via] = {}
        self._scanned_at = 0.0
        self._before = self._scan()
        self._sent = Sent(root, order, self._before, clock)
        self._aside_before = self._aside
        self._keeper.knows({entry["path"]: entry for entry in restored(order)}, self._before)

    def start(self, well_until: Callable[[], float]) -> None:
        """Commit from time to time from now on; what was written after `well_until` may be left half written."""
        self._well_until = well_until
        self._due = self._clock.monotonic() + self._pace
        self._rest_due = self._clock.monotonic() + REST_EVERY_S
        step = min(max(1.0, self._step_s), self._pace) if self._checkpoints.shared else self._pace
        self._still = self._clock.every(step, self._look)

    def stable(self, until: float) -> None:
        """Commit what is stable while the script runs, and be done by `until`.

        A checkpoint that was written this very moment is waited for: with its writer's end it would be lost.
        """
        self._take_over(until)
        self._commit(QUIET_S)
        while self._checkpoints.behind and self._clock.monotonic() + STABLE_POLL_S < until:
            self._clock.sleep(STABLE_POLL_S)
            self._commit(QUIET_S)

    def final(self, until: float, torn_at: float | None) -> None:
        """Commit everything, retried while the store fails; what is large is waited for until little time is left.

        `torn_at`: then the writer was killed, so what it was writing is no checkpoint, however late we look.
        """
        left = until - self._clock.monotonic()
        last = until - min(LAST_S, LAST_SHARE * left)
        self._settled_by = until - min(LAST_S, LAST_SHARE * left) / 2
        self._take_over(last)
        self._keeper.ends = last
        self._torn_at = torn_at
        self._checkpoints.writer_lives = False
        self._keeper.read_anew()
        pauses = itertools.chain((0.2, 0.5, 1.0, 2.0), itertools.repeat(5.0))
        patience = min(last, self._clock.monotonic() + self._patience_s)
        while True:
            self._commit(0.0 if torn_at is None else QUIET_S, lambda: torn_at or self._clock.now())
            if self._unfinished and self._clock.monotonic() < last:
                continue
            if self.troubles:
                pause = next(pauses)
                if self._clock.monotonic() + pause > patience:
                    break
                self._clock.sleep(pause)
            elif not self._arrive(last):
                break
            else:
                patience = min(last, self._clock.monotonic() + self._patience_s)
        self._keeper.give_up()

    def _arrive(self, until: float) -> bool:
        """Wait until something that is large has arrived; False when there is none, or it takes too long."""
        while self._keeper.waiting() and self._clock.monotonic() < until:
            if self._keeper.arrived():
                return True
            self._clock.sleep(STABLE_POLL_S)
        return self._keeper.arrived()

    def keep_rest(self, until: float, outside: Mapping[str, Sizes] = MappingProxyType({})) -> None:
        """Keep what does not come home, and write what is left, `outside` the tree too; after all that matters more."""
        self._keeper.until = until - min(LAST_S, LAST_SHARE * max(0.0, until - self._clock.monotonic()))
        self._keeper.ends = self._keeper.until
        for pause in (0.5, 2.0, 0.0):
            if self._keep_all_of_the_rest(outside) or self._clock.monotonic() + pause > until:
                break
            self._clock.sleep(pause)
        self._keeper.stop()

    def _keep_all_of_the_rest(self, outside: Mapping[str, Sizes]) -> bool:
        """Whether another time would change nothing."""
        if not self._lock.acquire(blocking=False):
            return True
        try:
            while True:
                self._keeper.collect()
                found = self._scan()
                self._keep_rest(found, outside, last=True)
                self._prune(found)
                if not self._arrive(self._keeper.until):
                    break
            if self._keeper.waiting():
                self._keeper.give_up()
                self._keep_rest(found, outside, last=True)
            return not self._keeper.troubles
        except OSError as error:
            say(f"what does not come home is not kept: {error}")
            return False
        finally:
            self._lock.release()

    def settle(self, seconds: float) -> None:
        """Let the newest checkpoint become complete over all nodes; rank 0's node waits for the others."""
        until = min(self._settled_by, self._clock.monotonic() + seconds)
        while self._checkpoints.shared and self._clock.monotonic() < until:
            with contextlib.suppress(OSError):
                self._sync(0.0 if self._torn_at is None else QUIET_S, self._torn_at)
            if self._checkpoints.settled():
                return
            self._clock.sleep(max(0.1, self._step_s / 4))

    @property
    def sequences(self) -> dict[str, int]:
        """The number of the newest commit of each kind, 0 before the first."""
        return {
            "output": self._outputs.sequence,
            "checkpoint": self._checkpoints.sequence,
            "kept": self._remains.sequence,
        }

    @property
    def troubles(self) -> dict[str, str]:
        """What the newest commit lacks, with the reason; a later try may cure it."""
        return self._keeper.troubles

    @property
    def left_out(self) -> dict[str, str]:
        """What no commit will hold, with the reason."""
        return self._keeper.left_out

    @property
    def leaving(self) -> list[Json]:
        """What will stay on this machine as things are, an account for people who can still do something about it."""
        return self._leaving

    def _take_over(self, until: float) -> None:
        self._keeper.until = until
        self._enough_at = self._turn_until = self._clock.monotonic()  # whoever is at it comes to an end
        self._still(until - self._clock.monotonic())
        self._unwatch(until - self._clock.monotonic())
        self._enough_at = until

    def _look(self) -> None:
        with contextlib.suppress(OSError):
            self._sync(QUIET_S, self._alive_at())
        if self._clock.monotonic() >= self._due:
            self._due = self._clock.monotonic() + self._pace
            self._commit(QUIET_S, self._alive_at, self._clock.monotonic() >= self._rest_due)
            if self._unfinished:
                self._due = 0.0
        if self._keeper.waiting() and not self._watches:
            self._watches = True
            self._unwatch = self._clock.every(ARRIVALS_S, self._watch)

    def _watch(self) -> None:
        if self._keeper.arrived():
            self._commit(QUIET_S, self._alive_at)

    def _alive_at(self) -> float:
        """What was written after that may be half written."""
        return min(self._clock.now(), self._well_until())

    def _commit(self, quiet: float, now: Callable[[], float] | None = None, rest: bool = False) -> None:
        if not self._lock.acquire(blocking=False):
            return  # one that is on its way still did not end in the time there was
        try:
            self._keeper.troubles = {}
            tried: set[str] = set()
            enough = self._clock.monotonic() + ENOUGH_S
            while True:
                found = self._scan()
                self._unfinished = not self._commit_in_turn(found, quiet, now and now(), tried)
                if not self._unfinished or self._clock.monotonic() > min(enough, self._enough_at):
                    break
            if rest:
                self._keep_rest(found, {}, last=False)
                self._rest_due = self._clock.monotonic() + REST_EVERY_S
            # Asked after the reading: whoever opens a file later than that leaves a sign on it.
            open_now = self._being_written()
            self._keeper.doubt([path for path, sign in found.items() if sign.inode in open_now or self._is_new(sign)])
            self._prune(found)
        except OSError as error:
            self._keeper.troubles["the manifest"] = str(error)
        finally:
            self._lock.release()
            for what, why in self.troubles.items():
                say(f"not committed now: {what}: {why}")

    def _commit_in_turn(self, found: dict[str, Sign], quiet: float, now: float | None, tried: set[str]) -> bool:
        """Checkpoints, then small files for as long as it is their turn; whether all of them had it."""
        self._collect()
        if self._place.rank == 0:
            self._checkpoints.lead(found, self._changed(found), quiet, now)
        else:
            self._follow(found, quiet, now)
        return self._commit_outputs(found, tried)

    def _collect(self) -> None:
        self._keeper.collect()
        self._checkpoints.absorb()

    def _sync(self, quiet: float, now: float | None = None) -> None:
        """Keep step with the other nodes."""
        if not self._checkpoints.shared:
            return
        with self._lock:
            self._collect()
            if self._place.rank > 0 and self._checkpoints.wanted():
                self._follow(self._scan(), quiet, now)
            self._checkpoints.complete()

    def _follow(self, found: dict[str, Sign], quiet: float, now: float | None) -> None:
        """On any other node than rank 0's: take this node's part of all that it has taken."""
        while self._checkpoints.shared and self._checkpoints.wanted():
            if not self._checkpoints.follow(found, self._changed(found), quiet, now):
                return
            found = self._scan()

    def _is_new(self, sign: Sign) -> bool:
        """Whether it was written to as it was looked at: a second time within one tick of the clock shows nothing."""
        return abs(self._scanned_at - sign.ctime_ns / 1e9) < TICK_S

    def _scan(self) -> dict[str, Sign]:
        self._aside = {}
        self._scanned_at = self._clock.now()
        by_links: dict[str, str] = {}
        found = scan(self.root, self._sorter.wanted, self.left_out, self._aside, by_links)
        self._vias = self._checkpoints.vias = self._remains.vias = links.vias(self.root, by_links)
        for path in self._veil.take_named(found):
            del found[path]
            self.left_out[self._veil.mask.text(path)] = NAMED
        return found

    def _changed(self, found: dict[str, Sign]) -> dict[str, Sign]:
        return self._sent.changed(found)

    def _commit_outputs(self, found: dict[str, Sign], tried: set[str]) -> bool:
        """Name what is in the store by the end of this turn; whether all small files had it, each once."""
        fates = self._sorter.fates(found, self._changed(found), self._vias)
        self._leaving = without_secrets(foreseen(fates, found, self._slow(found)), self._veil.mask)
        chosen, linked = self._coming_home(fates, found)
        todo = [path for path in chosen if not (path in tried or self._keeper.vouches_for(path, found[path]))]
        self._turn_until = self._clock.monotonic() + TURN_S
        batches = _batches({path: found[path] for path in todo})
        for batch in batches:
            tried.update(batch)
            self._keeper.gather(batch)
            for path, sign in batch.items():
                self._keeper.entry(path, sign)
            if self._clock.monotonic() > self._turn_until:
                break
        left = next(batches, None) is not None
        lines = ((path, self._keeper.line(linked.get(path, path))) for path in sorted([*chosen, *linked]))
        entries = [links.line(path, line, self._vias) for path, line in lines if line is not None]
        if entries != self._outputs.newest:
            self._outputs.write(entries)
        return not left

    def _coming_home(
        self, fates: Mapping[str, str], found: Mapping[str, Sign]
    ) -> tuple[dict[str, Sign], dict[str, str]]:
        return links.split({path: found[path] for path, fate in fates.items() if fate == HOME}, self._vias)

    def _slow(self, found: Mapping[str, Sign]) -> list[str]:
        """Those on their way that will not arrive before the end, at the pace at which files were sent lately."""
        waiting = sorted((path for path in self._keeper.waiting() if path in found), key=lambda path: found[path].size)
        left = (self._latest - self._clock.monotonic()) * (self._keeper.pace.rate or float("inf"))
        sums = itertools.accumulate(found[path].size for path in waiting)
        return [path for path, size in zip(waiting, sums) if size > SURELY * left]

    def _keep_rest(self, found: dict[str, Sign], outside: Mapping[str, Sizes], last: bool) -> None:
        fates = self._sorter.fates(found, self._changed(found), self._vias)
        chosen, linked = self._coming_home(fates, found)
        late = {path for path in chosen if self._is_late(path, found[path], last)}
        late.update([path for path, other in linked.items() if other in late])
        fates.update((path, LATE if path not in self.left_out else UNREADABLE) for path in late)
        removed = self._sorter.removed(self._before, found)
        self._remains.commit(fates, found, removed, self._left_aside(), outside, last)

    def _left_aside(self) -> dict[str, str]:
        """What is not looked into, and was not there before; but for what is behind a link that comes home as one."""
        laid = links.of_lines(self._outputs.newest)
        return {
            path: why
            for path, why in self._aside.items()
            if path not in self._aside_before
            and not (why == AGAIN and path in self._vias and self._vias[path].link in laid)
        }

    def _is_late(self, path: str, sign: Sign, last: bool) -> bool:
        return not self._keeper.holds(path, sign) and (last or self._keeper.sends(path))

    def _prune(self, found: dict[str, Sign]) -> None:
        outputs = self._outputs.sources_since(self._outputs.sequence - OUTPUTS_KEPT + 1)
        self._keeper.prune(outputs | self._checkpoints.sources() | self._remains.sources(), found)


def _batches(files: dict[str, Sign]) -> Iterator[dict[str, Sign]]:
    """The smaller files first, so many at a time as make a parcel."""
    batch: dict[str, Sign] = {}
    size = 0
    for path, sign in sorted(files.items(), key=lambda item: (item[1].size, item[0])):
        if batch and size + sign.size > PARCEL:
            yield batch
            batch, size = {}, 0
        batch[path] = sign
        size += sign.size
    if batch:
        yield batch
