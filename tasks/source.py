"""Send what the machine needs: the source tree, the data, the environment."""

from __future__ import annotations

from sojourn.run.journey import Journey
from tasks.step import step


@step("upstream")
def upstream(journey: Journey) -> Journey:
    """Run the stale stages that come before, here."""
    journey.upstream()
    return journey


@step("bundle")
def bundle(journey: Journey) -> None:
    """Send the source tree."""
    journey.bundle()


@step("data")
def data(journey: Journey) -> None:
    """Send the data that the remote lacks."""
    journey.data()


@step("environment")
def environment(journey: Journey) -> None:
    """Make the environment, unless it stands."""
    journey.environment()
