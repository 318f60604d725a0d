"""Follow the script, and bring home what it made."""

from __future__ import annotations

from sojourn.collect import Collected
from sojourn.journey import Journey
from sojourn.records import Outcome
from sojourn.report import Report
from tasks import artifacts
from tasks.step import step


@step("train")
def train(journey: Journey) -> Outcome:
    """Follow the script to its end."""
    return journey.train()


@step("collect")
def collect(journey: Journey) -> Collected:
    """Confirm that what was committed is in the store."""
    return journey.collect()


@step("publish")
def publish(journey: Journey) -> Report:
    """Bring the results into the project, and close the run with its report."""
    report = journey.publish()
    artifacts.show_report(report)
    return report
