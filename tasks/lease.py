"""Rent machines, give them back, and make sure that they are gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.schemas.objects import State

from sojourn.errors import TeardownError
from sojourn.receipts import Receipt
from sojourn.run.journey import Journey
from tasks import artifacts
from tasks.step import ended, step


@step("provision")
def provision(journey: Journey) -> Journey | State[Journey]:
    """Rent the machines and tell them what to do."""
    journey.provision()
    return journey if journey.started else ended(journey)


@step("release")
def release(journey: Journey) -> Journey:
    """Give the machines back."""
    with _shown(journey):
        journey.release()
    return journey


@step("confirm")
def confirm(journey: Journey) -> Journey:
    """Ask until nothing is left; the receipt is the proof."""
    with _shown(journey):
        receipt = journey.confirm()
    artifacts.show_receipt(journey.plan, receipt)
    return journey


@contextmanager
def _shown(journey: Journey) -> Iterator[None]:
    """A receipt that is not closed is shown before it fails the run."""
    try:
        yield
    except TeardownError:
        receipt = journey.mailbox.read("receipt", Receipt)
        if receipt is not None:
            artifacts.show_receipt(journey.plan, receipt, wait=True)
        raise
