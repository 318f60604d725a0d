"""Follows a running script through the store: its log, its numbers, what its machines are doing.

Whoever follows from the middle, as `attach` does, reads the numbers from the start, and
of the log before its time shows the last lines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from pydantic import Field

from sojourn.errors import UnreadableError
from sojourn.lease.state import State
from sojourn.plan.planning import Plan
from sojourn.protocol import MachineBeat, Scalar
from sojourn.records import Record
from sojourn.spec.metric_patterns import Found, LogReader
from sojourn.store.mailbox import Mailbox
from sojourn.waiting import Clock
from sojourn.watch import foreseen
from sojourn.watch.metrics import Metrics

LOOK_EVERY_S = 1.0
LOOK_S = 0.2  # for the log of all nodes, of each at least one piece
LOG_PACES, SCALARS_PACES = 3, 5  # of the store's, between two looks
HISTORY_S = 2.0  # a script that has run for longer is followed from its middle
TELL_EVERY_S = 5.0  # when nothing new was reported
HISTORY_LINES = 20
TAIL_BYTES = 16 << 10
CURVE_POINTS = 60
OTHERS_EVERY_S = 60.0


class Status(Record):
    """How a run stands while its script runs."""

    run: str
    project: str
    phase: str = Field(
        description="What rank 0's machine does: waiting, fetching, preparing, running, committing, done"
    )
    bytes_done: int = Field(default=0, description="Fetched so far")
    bytes_total: int = Field(default=0, description="To be fetched")
    at: float
    elapsed_s: float = Field(description="Since the machines were told what to do")
    left_s: float = Field(description="Until the deadline")
    expected_s: float | None = Field(default=None, description="What this command's last runs took in all")
    step: float | None = None
    steps: float | None = Field(default=None, description="How many there will be, where the script reports it")
    rate: float | None = Field(default=None, description="Steps a second over the last half minute")
    values: dict[str, float | None] = Field(default_factory=dict, description="The newest of each metric")
    cost: float = Field(description="Dollars so far")
    ceiling: float = Field(description="Dollars at most")
    curve: tuple[float, ...] = Field(default=(), description="The leading metric so far, evenly thinned", exclude=True)


class Audience(Protocol):
    """Who is told."""

    def script(self, node: int, data: bytes) -> None:
        """The next bytes of a machine's log."""
        ...

    def status(self, status: Status) -> None:
        """How the run stands now."""
        ...

    def note(self, text: str) -> None:
        """Something the user may like to know."""
        ...

    def warn(self, text: str) -> None:
        """Something the user should know."""
        ...


class Follower:
    """One process's place in everything a run's machines have said."""

    def __init__(self, plan: Plan, mailbox: Mailbox, audience: Audience, clock: Clock) -> None:
        self.metrics = Metrics()
        self._plan = plan
        self._mailbox = mailbox
        self._audience = audience
        self._clock = clock
        self._attempt = 0
        self._next: dict[tuple[str, int], int] = {}
        self._reader: LogReader | None = None
        self._heard = self._looked = self._told = float("-inf")  # on the monotonic clock
        self._news = self._running = False
        self._readable = True
        self._folders: dict[str, str] = {}
        self._warned: set[tuple[int, str]] = set()
        self._asked = float("-inf")

    def look(self, state: State) -> None:
        """Pass on what is new since the last look."""
        if state.attempt != self._attempt:
            self._begin(state)
        now, pace = self._clock.monotonic(), self._mailbox.store.pace_s
        if state.outcome is not None or now - self._heard >= LOG_PACES * pace:
            self._heard = now
            self._follow_logs()
        looked_lately = now - self._looked < max(LOOK_EVERY_S, SCALARS_PACES * pace)
        if state.ordered_at is None or state.outcome is not None or looked_lately:
            return
        self._looked = now
        self._follow_scalars()
        if self._news or not self._running or now - self._told >= TELL_EVERY_S:
            self._tell(state, state.ordered_at)

    def catch_up(self, state: State, limit_s: float) -> None:
        """Pass on what the script has left, as far as the time goes: its machines stand meanwhile."""
        self.look(state)
        until = self._clock.monotonic() + limit_s
        while not self._follow_logs() and self._clock.monotonic() < until:
            pass

    def finish(self, state: State) -> None:
        """Pass on the rest, once nothing stands that costs money."""
        if state.attempt != self._attempt:
            self._begin(state)
        while not self._follow_logs():
            pass
        self._follow_scalars()
        if self._reader is not None:
            self._count(self._reader.close(), None)
        if self._news and state.ordered_at is not None:
            self._tell(state, state.ordered_at)

    def _begin(self, state: State) -> None:
        self._attempt = state.attempt
        self._next = {}
        self._reader = LogReader(self._plan.launch.metrics, self._audience.warn)
        if state.ordered_at is not None and self._clock.now() - state.ordered_at > HISTORY_S:
            for node in range(self._plan.launch.nodes):
                self._recount(node)

    def _recount(self, node: int) -> None:
        """The log before our time: all of it for the numbers, its last lines for the reader."""
        if node > 0 or self._reader is None:
            length = self._mailbox.log_length(self._attempt, node)
            self._next["log", node] = max(0, length - HISTORY_LINES)
        log = b"".join(deque(self._segments(node), maxlen=HISTORY_LINES))
        last = log[-TAIL_BYTES:].splitlines(keepends=True)[-HISTORY_LINES:]
        if self._next.get(("log", node), 0) > HISTORY_LINES or log.count(b"\n") > len(last):
            self._audience.note(f"its log up to here: sojourn logs {self._plan.run}")
        if last:
            self._audience.script(node, b"".join(last))

    def _follow_logs(self) -> bool:
        """Whether that is all of them by now. Not for long: whoever follows looks after machines between two looks."""
        until, all_of_it = self._clock.monotonic() + LOOK_S, True
        for node in range(self._plan.launch.nodes):
            for segment in self._segments(node):
                self._audience.script(node, segment)
                if self._clock.monotonic() > until:
                    all_of_it = False
                    break
        return all_of_it

    def _segments(self, node: int) -> Iterator[bytes]:
        """The pieces of a node's log since the last look; rank 0's are read for numbers on the way."""
        for segment in self._mailbox.log(self._attempt, node, start=self._next.get(("log", node), 0)):
            self._next["log", node] = self._next.get(("log", node), 0) + 1
            if node == 0 and self._reader is not None:
                self._count(self._reader.feed(segment.body), segment.at)
            yield segment.body

    def _count(self, found: list[Found], at: float | None) -> None:
        for one in found:
            self._news = True
            self.metrics.add("log", one.name, one.value, one.step, at)

    def _follow_scalars(self) -> None:
        """What rank 0's agent read of the script's files since the last look; what is odd there is said once."""
        for scalars in self._mailbox.scalars(self._attempt, 0, start=self._next.get(("scalars", 0), 0)):
            self._next["scalars", 0] = self._next.get(("scalars", 0), 0) + 1
            if isinstance(scalars, UnreadableError):
                if self._readable:
                    self._audience.warn(scalars.message)
                self._readable = False
                continue
            for one in scalars.points:
                self._news = True
                self.metrics.add(one.source, self._named(one), one.value, one.step, one.at)

    def _named(self, one: Scalar) -> str:
        """A tag as it is, or with its folder's name where event files lie in more folders than one."""
        first = self._folders.setdefault(one.source, one.folder)
        same = one.source == "file" or one.folder == first
        return one.name if same else f"{one.folder.rsplit('/', 1)[-1]}/{one.name}"

    def _tell(self, state: State, since: float) -> None:
        self._news, self._told = False, self._clock.monotonic()
        self._audience.status(self._status(state, since))
        self._ask_the_others(state.attempt)

    def _warn(self, beat: MachineBeat, node: int) -> None:
        """Tell once of each thing that will be left on its machine."""
        for one in beat.leaving:
            new = (node, one.reason + one.paths[0] if one.paths else one.reason)
            if new not in self._warned:
                self._warned.add(new)
                self._audience.warn(foreseen.warning(self._plan, one, node))

    def _ask_the_others(self, attempt: int) -> None:
        """What will be left on the other machines is asked for less often: each answer costs a request."""
        if self._clock.monotonic() - self._asked >= OTHERS_EVERY_S:
            self._asked = self._clock.monotonic()
            for node in range(1, self._plan.launch.nodes):
                beat = self._mailbox.beat(attempt, node)
                if beat is not None:
                    self._warn(beat, node)

    def _status(self, state: State, since: float) -> Status:
        now, plan = self._clock.now(), self._plan
        beat = self._mailbox.beat(state.attempt, 0) or MachineBeat(at=now)
        self._running = beat.phase == "running"
        self._warn(beat, 0)
        hours = max(0.0, now - (state.created_at or now)) / 3600
        return Status(
            run=plan.run,
            project=plan.project,
            phase=beat.phase,
            bytes_done=beat.bytes_done,
            bytes_total=beat.bytes_total,
            at=now,
            elapsed_s=now - since,
            left_s=plan.deadline_at - now,
            expected_s=plan.expected_s,
            step=self.metrics.step(),
            steps=self.metrics.steps,
            rate=self.metrics.rate(),
            values=self.metrics.newest(),
            cost=plan.offers[state.offer or 0].price * plan.launch.nodes * hours,
            ceiling=plan.ceiling,
            curve=self.metrics.curve(CURVE_POINTS),
        )
