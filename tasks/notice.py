"""Word of what a sweep found, as an event on the Prefect server that an automation may wait for."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from prefect.events import emit_event

from sojourn.run.reap import NEWS, Finding

FOUND = "sojourn.run.reap.found"
RESOURCE = "sojourn.run.reap"

logger = logging.getLogger(__name__)


def tell(findings: Iterable[Finding]) -> None:
    """Tell of what outlived its run; nothing when nothing did."""
    news = [finding for finding in findings if finding.action in NEWS]
    if not news:
        return
    said = "\n".join(f"{one.action} {one.name}: {one.reason}" for one in news)
    resource = {"prefect.resource.id": RESOURCE, "prefect.resource.name": "sojourn reap"}
    try:
        emit_event(FOUND, resource, payload={"count": len(news), "said": said})
    except Exception as error:  # whatever Prefect's client raises, what was found is ended all the same
        logger.warning("nobody hears of it: %s", error)
