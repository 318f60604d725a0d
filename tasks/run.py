"""Follow the script, and bring home what it made."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from sojourn.collect import Collected
from sojourn.journey import Journey
from sojourn.records import Outcome
from sojourn.report import Report
from tasks import artifacts


@task(name="train", cache_policy=NO_CACHE)
def train(journey: Journey) -> Outcome:
    """Follow the script to its end."""
    return journey.train()


@task(name="collect", cache_policy=NO_CACHE)
def collect(journey: Journey) -> Collected:
    """Confirm that what was committed is in the store."""
    return journey.collect()


@task(name="publish", cache_policy=NO_CACHE)
def publish(journey: Journey) -> Report:
    """Bring the results into the project, and close the run with its report."""
    report = journey.publish()
    artifacts.show_report(report)
    return report
