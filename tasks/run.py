"""Follow the script, and bring home what it made."""

from __future__ import annotations

from prefect.client.schemas.objects import State

from sojourn.results.report import Report
from sojourn.run.journey import Journey
from tasks import artifacts
from tasks.step import ended, step


@step("train")
def train(journey: Journey) -> Journey | State[Journey]:
    """Follow the script to its end."""
    return journey if journey.train().state == "succeeded" else ended(journey)


@step("collect")
def collect(journey: Journey) -> Journey:
    """Confirm that what was committed is in the store."""
    journey.collect()
    return journey


@step("publish")
def publish(journey: Journey) -> Report:
    """Bring the results into the project, and close the run with its report."""
    report = journey.publish()
    artifacts.show_report(report, journey.outcome)
    return report
