"""Proving that a run's machines are gone, and saying so where they are not.

The proof is the receipt (`receipt`): what the ledger says, beside what the provider answers now.
A receipt that is not closed fails the run, by an error that names what stands and who ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sojourn.errors import SojournError, SupersededError, TeardownError
from sojourn.lease.orchestrator import Orchestrator
from sojourn.lease.receipt import write_receipt
from sojourn.lease.retained import count_left
from sojourn.plan.planning import Plan
from sojourn.receipts import Receipt
from sojourn.shorthand import moment


@contextmanager
def proving(orchestrator: Orchestrator) -> Iterator[None]:
    """A provider that cannot be made to end its machines is a receipt that is not closed."""
    try:
        yield
    except SupersededError:
        raise
    except SojournError as error:
        receipt = prove(orchestrator, at_once=True)
        if receipt.state == "closed":
            raise
        raise still_standing(orchestrator.plan, receipt, because=error.message) from error


def prove(orchestrator: Orchestrator, at_once: bool = False) -> Receipt:
    """Ask for every lease of the run, and store the receipt; `at_once` goes by what was seen last, if need be.

    Raises SupersededError when the run has another owner, whose receipt then counts.
    """
    entries = orchestrator.ledger.entries()
    names = [entry.body["name"] for entry in entries if entry.kind == "intent"]
    look = orchestrator.last_seen if at_once else orchestrator.observe
    receipt = write_receipt(orchestrator.plan, entries, {name: look(name) for name in names})
    with suppress(SojournError):  # what stays in the store is no part of the proof
        receipt = receipt.model_copy(update={"leaves": count_left(orchestrator.mailbox)})
    orchestrator.ledger.confirm_owner()  # who was superseded while its provider did not answer knows less than others
    orchestrator.mailbox.write("receipt", receipt)
    return receipt


def still_standing(plan: Plan, receipt: Receipt, because: str = "") -> TeardownError:
    """What is not confirmed gone, and who ends it now."""
    names = ", ".join(f"{one.kind} {one.identity or one.name}" for one in receipt.standing)
    ends = moment(plan.deadline_at + plan.launch.grace)
    timers = " and ".join(name for name in plan.capability.layers if name != "reaper")
    return TeardownError(
        f"{plan.run}: the receipt is {receipt.state}, {len(receipt.standing)} of {len(receipt.resources)} "
        f"not confirmed gone: {names}" + (f"; {because}" if because else ""),
        hint=f"sojourn reap asks for its end again, and closes the run once it is gone; without that its own timers "
        f"({timers}) end it at {ends:%H:%M}; look: sojourn show {plan.run}",
    )
