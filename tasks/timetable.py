"""Whether a scheduled run still makes sense when it starts at last.

Prefect catches up: after a week without a worker, seven nights start within seconds of its
return, and no setting prevents that (https://github.com/PrefectHQ/prefect/issues/15886).
"""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import runtime

from sojourn.shorthand import format_duration


def too_late(limit_s: float | None) -> str | None:
    """Why this flow run should not begin any more, or None when it should."""
    planned = runtime.flow_run.scheduled_start_time
    if limit_s is None or planned is None:
        return None
    late = (datetime.now(UTC) - planned).total_seconds()
    if late <= limit_s:
        return None
    return f"it was due {format_duration(late)} ago, and skip_after is {format_duration(limit_s)}"
