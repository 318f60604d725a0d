"""What may end a phase early: a signal, the deadline, a stop request, the end of another node."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from typing import Any

from sojourn.agent.clouds.machine import Machine
from sojourn.agent.errors import Stop, say
from sojourn.agent.host.clock import Deadline
from sojourn.agent.host.processes import signal_name
from sojourn.agent.mailbox import Place, parse
from sojourn.agent.stores.store import Store

STOP_POLL_S = 0.5
PEER_POLL_S = 1.0
NOTICE_POLL_S = 5.0  # as Amazon advises


class Interrupts:
    """Asked as often as one likes; the store is looked at only when that is due again."""

    def __init__(self, store: Store, place: Place, deadline: Deadline, machine: Machine) -> None:
        self._store = store
        self._place = place
        self._deadline = deadline
        self._machine = machine
        self._signal: str | None = None
        self._doubted = False
        self._next_look = {"stop": 0.0, "peer": 0.0, "notice": 0.0}
        self._look_lock = threading.Lock()
        self.clock = deadline.clock
        self._wake: int | None = None

    def listen(self) -> None:
        """From now on signals are noted, and end nothing by themselves."""
        self._wake, waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._asked)
        signal.signal(signal.SIGINT, self._asked)
        # Handlers, not SIG_IGN: the script would inherit that.
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    @property
    def shut_down(self) -> bool:
        """Whether the system is being shut down under us, which may have asked the script to end too."""
        return self._signal is not None and self._machine.asked_to_end == "preempted"

    def check(self) -> None:
        """Raises Stop when there is a reason to."""
        self.check_signal()
        if self._deadline.left() <= 0:
            raise Stop("deadline", "the deadline came")
        if self._store.silent_s() > self._store.patience_s:
            raise Stop("fault", f"the store did not answer for {self._store.patience_s / 60:.0f} minutes")
        self._check_notice()
        if self._due("stop", max(STOP_POLL_S, self._store.pace_s)):
            body = self._store.find(self._place.stop)
            told = parse(body)
            if told is not None:
                raise Stop("stopped", f"stop was requested: {told.get('reason') or 'nobody said why'}")
            if body is not None and not self._doubted:
                self._doubted = True  # nobody's wish can be read in it; whoever has one may write it again
                say(f"{self._place.stop} cannot be read, and ends nothing")

    def check_signal(self) -> None:
        """Raises Stop when we were asked to end."""
        if self._signal:
            raise Stop(self._machine.asked_to_end, f"the machine was asked to end by {self._signal}")

    def _check_notice(self) -> None:
        if not self._due("notice", NOTICE_POLL_S):
            return
        with contextlib.suppress(OSError):  # no notice can be had: the machine will end without one
            notice = self._machine.notice()
            if notice is not None:
                raise Stop("preempted", f"the cloud takes the machine back at {notice.at}", notice.ends_at)

    def check_peers(self) -> None:
        """Raises Stop when another node has ended without success."""
        if self._place.others and self._due("peer", max(PEER_POLL_S, self._store.pace_s)):
            for failure in filter(None, (peer.failure() for peer in self._place.others)):
                raise Stop("peer", failure)

    def sleep(self, seconds: float) -> None:
        """Sleep, but wake for a signal or an ended child."""
        if self._wake is None:  # nobody listens to signals
            self.clock.sleep(seconds)
            return
        select.select([self._wake], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)

    def _asked(self, number: int, _frame: Any) -> None:
        self._signal = signal_name(number)

    def _due(self, what: str, every: float) -> bool:
        with self._look_lock:
            due = self.clock.monotonic() >= self._next_look[what]
            if due:
                self._next_look[what] = self.clock.monotonic() + every
            return due
