"""The script with all that lives as long as it does: its log, the commits of its files, commands from outside."""

from __future__ import annotations

import itertools
import os
import re

from sojourn.agent.errors import say
from sojourn.agent.files import Json
from sojourn.agent.host.clock import Grace
from sojourn.agent.host.procfs import words_of
from sojourn.agent.interrupts import Interrupts
from sojourn.agent.results.commit import Committer
from sojourn.agent.results.outside import Outside
from sojourn.agent.script.execs import Execs
from sojourn.agent.script.log import Log
from sojourn.agent.script.mask import Mask
from sojourn.agent.script.scalars import Scalars
from sojourn.agent.script.script import Script

PEER_GRACE_S = 2.0
SIGNAL_GRACE_S = 20.0
REST_S = 1.0  # for helpers that end by themselves as soon as their program has
SELDOM_S = 0.5
SHOWN = 3
HELPERS = re.compile(r"multiprocessing\.(resource_tracker|forkserver|spawn)")  # do nothing without their program
STACKS_S = 2.0  # for what hangs to say where
RANKS_END_S = 5.0  # after the first rank failed, the others get this long
SCALARS_S = 5.0  # for the end of the curves, after all that matters more
TAIL_BYTES = 8 << 10
TAIL_LINES = 40
OUT_OF_MEMORY = "killed by SIGKILL, which nobody of ours sent: often the kernel's out-of-memory killer"


class Work:
    """Started, followed or halted, committed, accounted for, in this order.

    Each part begins in `start` and looks for the last time in `commit`, in a thread of its
    own meanwhile.
    """

    def __init__(
        self,
        script: Script,
        log: Log,
        committer: Committer,
        scalars: Scalars,
        execs: Execs,
        mask: Mask,
        grace: Grace,
        patience_s: float,
        outside: Outside,
    ) -> None:
        self.script = script
        self.notes: list[str] = []  # what was odd
        self._log = log
        self._committer = committer
        self._scalars = scalars
        self.execs = execs
        self._mask = mask
        self._grace = grace
        self._clock = grace.clock
        self._patience_s = patience_s
        self._outside = outside

    def start(self) -> None:
        """The script runs already: take up what it prints and writes, or end it."""
        try:
            self._log.start()
            self._committer.start(self._well_until)
            self._scalars.start()
            self.execs.open()
        except Exception:
            self.script.end()
            raise

    def follow(self, interrupts: Interrupts) -> None:
        """Until the script has ended, or its ranks do not after one failed. Raises Stop."""
        failed_at, begun = None, self._clock.monotonic()
        while self.script.poll() is None:
            interrupts.check()
            interrupts.check_peers()
            if failed_at is None and any(rank["exit_code"] for rank in self.script.ranks()):
                failed_at = self._clock.monotonic()
            if failed_at is not None and self._clock.monotonic() - failed_at > RANKS_END_S:
                say("a rank failed and the others do not end")
                return
            # Its end wakes us; what else ends a script that has run for long may be noticed a little later.
            interrupts.sleep(min(SELDOM_S, max(0.1, (self._clock.monotonic() - begun) / 50)))

    def halt(self, reason: str) -> None:
        """Commit what is stable, then let the script save what it wants to, then end it."""
        # Without contact nothing is kept yet, and only the deadline is reason for haste.
        self._grace.begin(self._patience_s if reason == "fault" else None)
        if reason == "peer":
            self.script.stop(PEER_GRACE_S)
            return
        self._committer.stable(self._clock.monotonic() + 0.1 * self._grace.seconds)
        stacks_s = min(0.1 * self._grace.seconds, STACKS_S) if reason == "deadline" else 0.0
        self.script.stop(min(0.6 * self._grace.seconds, SIGNAL_GRACE_S), stacks_s)

    def end(self) -> None:
        """From now on nothing lives of the script, nor of the commands that somebody sent."""
        self.execs.shut()
        self._tell_of_the_rest()
        self.script.end()

    def _tell_of_the_rest(self) -> None:
        """What a script that ended by itself has left in the background ends with it, and may not have been done."""
        if self.script.status is None or self.script.killed:
            return
        until = self._clock.monotonic() + REST_S
        while self.script.pids() and self._clock.monotonic() < until:
            self._clock.sleep(0.05)
        left = [words for words in map(words_of, self.script.pids()) if words and not HELPERS.search(words)]
        if left:
            more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
            self.notes.append(f"ended with it, as it was left in the background: {'; '.join(left[:SHOWN])}{more}")

    def commit(self, reason: str) -> None:
        """The last of the log and of the files."""
        if not os.path.isdir(self.script.cwd):
            self.notes.append("the script removed its own working directory")
        if not self._log.finish(min(self._grace.latest() - self._clock.monotonic(), self._patience_s)):
            self.notes.append("the end of the log could not be stored")
        if os.path.isdir(self._committer.root):
            status = self.script.status
            self._committer.final(self._grace.latest(), self._torn_at())
            failed = reason == "peer" or (reason == "exited" and status != 0)
            self._committer.settle(0.5 if failed else 10.0)
            self._scalars.finish(min(self._grace.latest() - self._clock.monotonic(), SCALARS_S))
            self._committer.keep_rest(self._grace.latest(), self._outside.written())
        self.execs.settle()
        lost = {**self._committer.troubles, **self._committer.left_out}
        self.notes += [f"{path} could not be stored: {why}" for path, why in itertools.islice(lost.items(), 3)]

    def _torn_at(self) -> float | None:
        """When the last that might have been writing was killed, so that what it wrote then may be half a file."""
        status = self.script.status
        ends = self._killed_at()
        if self.script.killed or status is None or os.WIFSIGNALED(status):
            ends.append(self.script.alive_at)
        return max(ends, default=None)

    def _well_until(self) -> float:
        """When all of the script was last seen alive."""
        return min([self.script.alive_at, *self._killed_at()])

    def _killed_at(self) -> list[float]:
        return [rank["at"] for rank in self.script.ranks() if rank["signal"]]

    def masked(self, text: bytes) -> bytes:
        """The text without the values of secrets."""
        return self._mask.whole(text)

    def account(self, reason: str) -> Json:
        """How the script ended and what of it is in the store, as the exit record says it."""
        ranks = self.script.ranks()
        ours = "SIGABRT" if self.script.aborted else ""
        failed = next((rank for rank in ranks if rank["exit_code"] and rank["signal"] != ours), None)
        code, name = self.script.ended()
        tail = self._log.tail()
        if failed is not None:
            code, name = failed["exit_code"], failed["signal"]
            tail = self._mask.whole(self.script.tail(failed["rank"])) or tail
        by_us = self.script.killed and failed is None
        if name == "SIGKILL" and reason == "exited" and not by_us:
            self.notes.insert(0, OUT_OF_MEMORY)
        return {
            "exit_code": code,
            "signal": name,
            "ranks": ranks,
            "failed_rank": failed["rank"] if failed else None,
            "tail": last_lines(tail),
            "lost": sorted(self._committer.troubles),
            **{kind: number or None for kind, number in self._committer.sequences.items()},
            "kept": self._committer.sequences["kept"],
            "log_segments": self._log.segments,
            "log_bytes": self._log.bytes,
        }


def last_lines(text: bytes) -> str:
    """The last 40 lines, or 8 KB, as text."""
    lines = text[-TAIL_BYTES:].decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
