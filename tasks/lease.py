"""Rent machines, give them back, and make sure that they are gone."""

from __future__ import annotations

from sojourn.journey import Journey
from sojourn.records import Receipt
from tasks import artifacts
from tasks.step import step


@step("provision")
def provision(journey: Journey) -> None:
    """Rent the machines and tell them what to do."""
    journey.provision()


@step("release")
def release(journey: Journey) -> None:
    """Give the machines back."""
    journey.release()


@step("confirm")
def confirm(journey: Journey) -> Receipt:
    """Ask until nothing is left; the receipt is the proof."""
    receipt = journey.confirm()
    artifacts.show_receipt(journey.plan, receipt)
    return receipt
