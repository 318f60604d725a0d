"""Send what the machine needs: the source tree, the data, the environment."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from sojourn.journey import Journey


@task(name="upstream", cache_policy=NO_CACHE)
def upstream(journey: Journey) -> None:
    """Run the stale stages that come before, here."""
    journey.upstream()


@task(name="bundle", cache_policy=NO_CACHE)
def bundle(journey: Journey) -> None:
    """Send the source tree."""
    journey.bundle()


@task(name="data", cache_policy=NO_CACHE)
def push(journey: Journey) -> None:
    """Send the data that the remote lacks."""
    journey.push()


@task(name="environment", cache_policy=NO_CACHE)
def build(journey: Journey) -> None:
    """Make the environment, unless it stands."""
    journey.build()
