"""Rent machines, give them back, and make sure that they are gone."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from sojourn.journey import Journey
from sojourn.records import Receipt
from tasks import artifacts


@task(name="provision", cache_policy=NO_CACHE)
def provision(journey: Journey) -> None:
    """Rent the machines and tell them what to do."""
    journey.provision()


@task(name="release", cache_policy=NO_CACHE)
def release(journey: Journey) -> None:
    """Give the machines back."""
    journey.release()


@task(name="confirm", cache_policy=NO_CACHE)
def confirm(journey: Journey) -> Receipt:
    """Ask until nothing is left; the receipt is the proof."""
    receipt = journey.confirm()
    artifacts.show_receipt(journey.plan, receipt)
    return receipt
