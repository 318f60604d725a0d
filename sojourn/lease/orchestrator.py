"""Drives a lease from intention to gone: look, decide (`lease.step`), write it down, do it.

Each effect is preceded by its ledger entry, and each is safe to repeat: an orchestrator
that dies between the two is continued by the next one, from the ledger alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Literal, TypeVar

from sojourn.errors import (
    CapacityError,
    FullError,
    QuotaError,
    SojournError,
    SpecError,
    SupersededError,
    TransientError,
    UnreadableError,
    first_line,
)
from sojourn.lease import state as lease
from sojourn.plan.planning import Plan
from sojourn.protocol import Hello, Order, Outcome, Stop
from sojourn.providers.contract import Provider, Request
from sojourn.renting import Lease
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox
from sojourn.waiting import Clock

STOP_PACES = 5  # of the store's, between two looks for somebody's wish to stop

T = TypeVar("T")
Reached = Callable[[lease.State], bool]
TRANSIENT_LIMIT_S = 300.0  # how long one call may go on failing before the run is handed over
CONFIRM_LIMIT_S = 120.0
LATE = 0.01  # of the time that a script has run for, its end may be noticed so much later
SELDOM_S = 0.5
HOLD_POLL_S = 0.2
FOLLOW_EVERY_S = 1.0  # while the script runs its end is in the mailbox, and the provider only tells of machines lost
FOLLOW_SLOWER = 5.0  # how much more rarely it is asked then than while machines come and go


class Orchestrator:
    """One process's hold on one run's machines."""

    def __init__(
        self,
        plan: Plan,
        provider: Provider,
        mailbox: Mailbox,
        ledger: Ledger,
        clock: Clock,
        order: Callable[[int, tuple[Hello, ...]], Order],
        poll_s: float = 0.05,
    ) -> None:
        self.plan = plan
        self.provider = provider
        self.mailbox = mailbox
        self.ledger = ledger
        self.clock = clock
        self.poll_s = poll_s
        self.stop_for: str | None = None  # set by a signal handler, which may not do more
        self.release_now = False
        self.watch: Callable[[lease.State], None] = lambda _: None
        self.warn: Callable[[str], None] = lambda _: None
        self._order = order
        self._rents = True
        self._stop: Stop | None = None
        self._stop_looked = float("-inf")
        self._observed: tuple[str, float, Lease | None] | None = None
        self._terms = lease.Terms(
            nodes=plan.launch.nodes,
            offers=len(plan.offers),
            deadline_at=plan.deadline_at,
            grace_s=plan.launch.grace,
            visible_after_s=plan.capability.visible_after_s,
            wait_s=plan.launch.wait,
            resumes=plan.resumes,
        )

    @property
    def state(self) -> lease.State:
        """Where the lease stands, by the ledger."""
        return lease.fold(self.ledger.entries())

    def over(self, listed: Lease | None = None) -> bool:
        """Whether the newest attempt has ended, and nobody may look at its machines; writes nothing.

        `listed` is what a list has just told of its lease, for which the provider is not asked then.
        """
        state = self.state
        seen = self._look(state, listed if listed is not None and listed.name == state.name else None)
        action = lease.step(state, seen, self._terms)
        if isinstance(action, lease.Conclude):
            state = replace(state, outcome=action.outcome)
        ended = state.outcome is not None or state.lost is not None or isinstance(action, lease.Lose)
        return ended and not lease.held(state, seen, self._terms)

    def holding(self) -> bool:
        """Whether the machines of a script that failed stand for somebody to look at."""
        state = self.state
        return lease.held(state, self._look(state), self._terms)

    def hold(self) -> str:
        """Until nobody may look at them any more; why not."""
        while self.holding():
            self.clock.sleep(max(HOLD_POLL_S, self.mailbox.store.pace_s))
        return f"ended by {self._stop.reason}" if self._stop else "over"

    def rent_no_more(self) -> None:
        """From now on machines that are lost are not replaced."""
        self._terms = replace(self._terms, resumes=0)
        self._rents = False

    def provision(self) -> None:
        """Until the machines have their order, or the attempt is over without one."""
        self._drive(lambda state: state.ordered_at is not None or state.outcome is not None)

    def follow(self) -> Outcome:
        """Until the attempt is over."""
        if self.state.ordered_at is not None and self.state.outcome is None:
            with suppress(FullError):  # to say it a second time takes room as well
                self._tell_machines(self.state.attempt)  # the former owner may have died before it could
        self._drive(lambda state: state.outcome is not None)
        outcome = self.state.outcome
        assert outcome is not None
        return outcome

    def give_up(self, error: Exception, message: str) -> None:
        """End an attempt whose order was never posted, because of an error of the request or of our own."""
        if self.state.outcome is None:
            ended = Outcome(
                state="refused" if isinstance(error, SpecError) else "lost",
                message=message,
                tail=str(error) if str(error).strip() != first_line(error) else "",
                ended_at=self.clock.now(),
            )
            self.ledger.append("outcome", **ended.model_dump(mode="json"))

    def release(self) -> None:
        """Send every delete, now."""
        self._drive(lambda state: state.released_at is not None)

    def confirm(self, limit_s: float = CONFIRM_LIMIT_S) -> bool:
        """Until the provider answers that nothing is left; False when it did not within the limit."""
        end = self.clock.monotonic() + limit_s
        self._drive(lambda state: state.gone_at is not None or self.clock.monotonic() > end)
        return self.state.gone_at is not None

    def stop(self, reason: str) -> None:
        """Ask the script to stop; the first request stands."""
        self.mailbox.request_stop(Stop(reason=reason, at=self.clock.now()))
        self._stop_looked = float("-inf")

    def _drive(self, reached: Reached) -> None:
        pause, begun = self.poll_s, self.clock.monotonic()
        while not reached(state := self.state):
            action = lease.step(state, self._look(state), self._terms)
            if action is not None:
                self._perform(action, state)
            if action is None or isinstance(action, lease.Release):
                self.clock.sleep(pause)
                waited = self.clock.monotonic() - begun
                pause = min(pause * 1.1, max(2 * self.poll_s, min(SELDOM_S, waited * LATE)))
            self.watch(state)

    def _look(self, state: lease.State, listed: Lease | None = None) -> lease.Seen:
        if self.stop_for is not None:
            reason, self.stop_for = self.stop_for, None
            try:
                self.stop(reason)
            except SojournError as error:  # the machines do not hear of it, so they end when they would have saved
                self.warn(f"{error.message}; the machines end within {self._terms.grace_s + lease.MARGIN_S:.0f} s")
                self._stop = Stop(reason=reason, at=self.clock.now())
        # The provider first: a machine that is over by then has said its last word before.
        observed = listed or (self._observe(state) if state.name else None)
        nodes = range(self.plan.launch.nodes) if state.name and state.outcome is None else ()
        exits = tuple(self.mailbox.exit(state.attempt, node, _seal(state, node)) for node in nodes)
        hellos = tuple(self._hello(state.attempt, node) for node in nodes) if not state.ordered_at else ()
        ended = sum(one.state in ("ended", "gone") for one in observed.machines) if observed else 0
        silent = [node for node in nodes if exits[node] is None] if ended > sum(map(bool, exits)) else []
        unheard = (self.mailbox.unheard(state.attempt, node, _seal(state, node)) for node in silent)
        return lease.Seen(
            now=self.clock.now(),
            lease=observed.named({**state.names, **_names(hellos)}) if observed else None,
            hellos=hellos,
            exits=exits,
            unheard=tuple(one for one in unheard if one is not None),
            stop=self._stop_request(at_once=any(exits)),
            release_now=self.release_now,
        )

    def _stop_request(self, at_once: bool) -> Stop | None:
        """The machines look for it themselves, so we may be later, but not than their last words."""
        now = self.clock.monotonic()
        due = at_once or now - self._stop_looked >= STOP_PACES * self.mailbox.store.pace_s
        if self._stop is None and due:
            self._stop, self._stop_looked = self.mailbox.stop_request(), now
        return self._stop

    def _observe(self, state: lease.State) -> Lease | None:
        assert state.name is not None
        now, every = self.clock.monotonic(), self.plan.capability.ask_every_s
        if state.ordered_at is not None and state.released_at is None:
            every = max(FOLLOW_EVERY_S, FOLLOW_SLOWER * every)
        if self._observed is not None and self._observed[0] == state.name and now - self._observed[1] < every:
            return self._observed[2]
        observed = self.observe(state.name)
        self._observed = state.name, now, observed
        return observed

    def observe(self, name: str) -> Lease | None:
        """What the provider says about a lease; a cloud that is busy, or a network that is away, is waited for."""
        return self._until_it_works(lambda: self.provider.observe(name))

    def last_seen(self, name: str) -> Lease | None:
        """The same, asked once; what was seen last when there is no answer."""
        try:
            return self.provider.observe(name)
        except SojournError:
            return self._observed[2] if self._observed is not None and self._observed[0] == name else None

    def _perform(self, action: lease.Action, state: lease.State) -> None:
        if isinstance(action, (lease.Intend, lease.Create, lease.PostOrder)) and not self._rents:
            raise SpecError(
                f"{self.plan.run} is not over: to go on with it would start machines",
                hint=f"sojourn attach {self.plan.run} --start; or end it: sojourn stop {self.plan.run}",
            )
        match action:
            case lease.Intend(offer, attempt):
                self._intend(offer, attempt)
            case lease.Create():
                self._create(state)
            case lease.PostOrder():
                self._post_order(state)
            case lease.Lose(outcome):
                self._write_down("lost", outcome, state)
                self.warn(f"attempt {state.attempt} is lost: {outcome.message}; other machines take its place")
            case lease.Conclude(outcome):
                self._write_down("outcome", outcome, state)
            case lease.Release():
                self._release(state)
            case lease.Gone():
                self.ledger.append("gone", name=state.name)

    def _write_down(self, kind: Literal["lost", "outcome"], outcome: Outcome, state: lease.State) -> None:
        """Note how an attempt ended; where the store takes no more, its machines end first, which may make room."""
        body = outcome.model_dump(mode="json")
        try:
            self.ledger.append(kind, **body)
        except SojournError as error:
            if outcome.hold is None:
                self._end_unwritten(state, error)
            self.ledger.append(kind, **body)

    def _end_unwritten(self, state: lease.State, error: SojournError) -> None:
        """Ask for the end of machines that nobody needs any more, where a disk takes no word of it; else raise."""
        if isinstance(error, SupersededError) or self.mailbox.store.root is None:
            raise error
        if state.name is not None:
            with suppress(SojournError):
                self.provider.release(state.name)

    def _intend(self, offer: int, attempt: int) -> None:
        boot = self.plan.boot(attempt, offer)
        # A cloud may remember what was asked by this name though it had no machines; another version's bytes differ.
        request = self._asked(boot.lease) or self.provider.request(boot, self.plan.offers[offer])
        self.ledger.append("intent", attempt=attempt, offer=offer, name=boot.lease, request=request)

    def _asked(self, name: str) -> Request | None:
        """What was asked for by this name in an earlier round."""
        bodies = [entry.body for entry in self.ledger.entries() if entry.kind == "intent"]
        return next((body["request"] for body in bodies if body["name"] == name), None)

    def _create(self, state: lease.State) -> None:
        assert state.request is not None
        request = state.request

        def create() -> None:
            self.ledger.confirm_owner()  # each time: our host may have slept since the last try, and the run be closed
            self.provider.create(request)

        try:
            self._until_it_works(create)
        except (CapacityError, QuotaError) as error:
            self.ledger.append("refused", offer=state.offer, reason=error.message)
            self.warn(error.message)
            return
        self.ledger.append("created", name=state.name)

    def _post_order(self, state: lease.State) -> None:
        hellos = self._hellos(state.attempt)
        seals = [hello.seal for hello in hellos]
        order = self._order_for(state.attempt, hellos)  # what cannot be made is not written down as if it were
        self.ledger.append("ordered", attempt=state.attempt, machines=_names(hellos), seals=seals)
        if order is not None:
            self.mailbox.post_order(order)

    def _tell_machines(self, attempt: int) -> None:
        order = self._order_for(attempt, self._hellos(attempt))
        if order is not None:
            self.mailbox.post_order(order)

    def _order_for(self, attempt: int, hellos: tuple[Hello, ...]) -> Order | None:
        if len(hellos) < self.plan.launch.nodes:  # they were all there once, and were most likely told then
            self.warn("what machines said at first is gone from the store, so they are not told anew what to do")
            return None
        return self._order(attempt, hellos)

    def _hellos(self, attempt: int) -> tuple[Hello, ...]:
        hellos = (self._hello(attempt, node) for node in range(self.plan.launch.nodes))
        return tuple(hello for hello in hellos if hello is not None)

    def _hello(self, attempt: int, node: int) -> Hello | None:
        """A machine's first words; of one whose words are none nothing is heard, until it counts as lost."""
        with suppress(UnreadableError):
            return self.mailbox.hello(attempt, node)
        return None

    def _release(self, state: lease.State) -> None:
        if state.released_at is None:
            try:
                self.ledger.append("release", name=state.name)
            except SojournError as error:
                self._end_unwritten(state, error)
                self.ledger.append("release", name=state.name)
        if state.name is not None:
            name = state.name
            self._until_it_works(lambda: self.provider.release(name))

    def _until_it_works(self, call: Callable[[], T]) -> T:
        """The same call again while the provider says it may work later, within a limit."""
        end = self.clock.monotonic() + TRANSIENT_LIMIT_S
        pause = 0.5
        while True:
            try:
                return call()
            except TransientError as error:
                if self.clock.monotonic() > end:
                    raise SojournError(
                        f"{self.provider.name} kept failing for {TRANSIENT_LIMIT_S:.0f} s: {error}"
                    ) from error
                self.clock.sleep(pause)
                pause = min(pause * 2, 15.0)


def _seal(state: lease.State, node: int) -> str | None:
    return state.seals[node] if node < len(state.seals) else None


def _names(hellos: Iterable[Hello | None]) -> dict[str, str]:
    """What machines call themselves, by their ids at their provider."""
    return {one.identity: one.name for one in hellos if one is not None and one.identity}
