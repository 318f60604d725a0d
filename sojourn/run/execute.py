"""One command on a machine of a run, through the mailbox: nothing listens on a machine.

A request is an object of its own, numbered; the machine's agent looks for the next number,
runs the command in the script's directory and environment, and answers with what it
printed. Both sides have a limit: a request that is found too late is not carried out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sojourn.errors import SojournError, SpecError, TransientError, UnreadableError
from sojourn.lease.state import State
from sojourn.protocol import ExecAnswer, ExecRequest
from sojourn.run.runs import is_held, plan_of
from sojourn.run.salvage import state_of
from sojourn.shorthand import format_duration
from sojourn.store.mailbox import Mailbox
from sojourn.waiting import Clock, wait_for

START_LIMIT_S = 60.0  # a machine that is being prepared, or is busy, may find the request so late
ANSWER_LIMIT_S = 30.0  # from the command's end until its answer must be there
OUTPUT_KEPT = 1 << 20  # of each stream, as the agent has it


class Executed(NamedTuple):
    """What a command printed, and how it ended."""

    answer: ExecAnswer
    stdout: bytes
    stderr: bytes


def execute(mailbox: Mailbox, node: int, argv: Sequence[str], timeout_s: float, clock: Clock) -> Executed:
    """Run a command on machine `node`, from 0, and wait for its end.

    Raises SpecError when there is no such machine (any more), TransientError when it does not answer.
    """
    state = _standing(mailbox, node, clock.now())
    now = clock.now()
    request = ExecRequest(node=node, argv=tuple(argv), timeout_s=timeout_s, at=now, until=now + START_LIMIT_S)
    number = mailbox.request_exec(state.attempt, request)
    answer = _answered(mailbox, state.attempt, node, number, timeout_s, clock)
    if answer.exit_code is None:
        raise SojournError(f"machine {node} of {mailbox.run} did not run it: {answer.message}", hint=_look(mailbox))
    printed = [mailbox.exec_output(state.attempt, node, number, name) for name in ("out", "err")]
    return Executed(answer=answer, stdout=printed[0], stderr=printed[1])


def _standing(mailbox: Mailbox, node: int, now: float) -> State:
    """The run's state, in which machine `node` has its order and may answer."""
    run, state = mailbox.run, state_of(mailbox)
    nodes = _nodes(mailbox, state.attempt)
    if not 0 <= node < nodes:
        last = nodes - 1
        have = "one machine, 0" if last == 0 else f"machines 0 to {last}"
        raise SpecError(
            f"node: {run} has no machine {node}: it has {have}", hint=f"sojourn exec {run} --node {last} -- …"
        )
    if state.outcome is not None and not is_held(state, now):
        raise SpecError(
            f"{run} is over ({state.outcome.state}), and its machines are gone",
            hint=f"keep them when it fails: sojourn train --from {run} --hold-on-failure 20m",
        )
    if state.ordered_at is None:
        raise SpecError(f"{run} has no machine yet", hint=f"see how far it is: sojourn show {run}")
    end = mailbox.exit(state.attempt, node)
    if end is not None and (end.hold is None or now >= end.hold.until):
        raise SpecError(f"machine {node} of {run} has ended: {end.message or end.reason}", hint=_look(mailbox))
    return state


def _nodes(mailbox: Mailbox, attempt: int) -> int:
    """How many machines it has; of a plan that another version made as many as have said something."""
    try:
        return plan_of(mailbox).launch.nodes
    except UnreadableError:
        return mailbox.machines(attempt) or 1


def _answered(mailbox: Mailbox, attempt: int, node: int, number: int, timeout_s: float, clock: Clock) -> ExecAnswer:
    pace_s = max(0.1, mailbox.store.pace_s)
    try:
        return wait_for(
            lambda: mailbox.exec_answer(attempt, node, number),
            what=f"machine {node} of {mailbox.run} did not answer",
            limit_s=START_LIMIT_S + timeout_s + ANSWER_LIMIT_S,
            clock=clock,
            every_s=pace_s,
        )
    except TransientError as error:
        beat = mailbox.beat(attempt, node)
        if not beat:
            raise
        ago = format_duration(max(0.0, clock.now() - beat.at))
        raise TransientError(f"{error.message}; it was {beat.phase} {ago} ago", hint=_look(mailbox)) from error


def _look(mailbox: Mailbox) -> str:
    return f"what it printed: sojourn logs {mailbox.run}"
