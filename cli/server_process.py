"""The process of a Prefect server of ours: Prefect's own, which looks less often for work that nobody has given it.

A server that does nothing takes more than a hundredth of a core, beside a script that may have two. Most of it are
looks at what is kept in its own memory: whether a background task is due (four times a second), came in (four times)
or was cancelled (ten times). What comes in still wakes it at once; what is due is begun up to a second late. Prefect
has no settings for these, so its library for such tasks is told here, where its version knows them.
"""

from __future__ import annotations

import asyncio
import inspect
import runpy
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any

PACES = {"minimum_check_interval": timedelta(seconds=5), "scheduling_resolution": timedelta(seconds=1)}
CANCELLED_S = 1.0


def main() -> None:
    """Be `prefect` with the arguments of this command."""
    with suppress(Exception):  # another version's library, with other names: it looks as often as it likes
        _look_for_tasks_less_often()
        _look_for_cancelled_tasks_less_often()
    sys.argv[0] = "prefect"
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


def _look_for_tasks_less_often() -> None:
    """Let each worker have our paces. Prefect makes its own worker without any."""
    import docket

    if not PACES.keys() <= inspect.signature(docket.Worker).parameters.keys():
        return

    class Worker(docket.Worker):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**PACES, **options})

    docket.Worker = Worker  # type: ignore[misc]


def _look_for_cancelled_tasks_less_often() -> None:
    """A worker asks for messages by waiting a tenth of a second in a thread; nobody cancels a server's own tasks."""
    from burner_redis.pubsub import PubSub  # type: ignore[import-untyped]

    now = PubSub.get_message

    async def get_message(self: Any, ignore_subscribe_messages: bool = False, timeout: float | None = 0.0) -> Any:
        if timeout is None:
            return await now(self, ignore_subscribe_messages, timeout)
        found = await now(self, ignore_subscribe_messages, 0.0)
        if found is None and timeout > 0:
            await asyncio.sleep(max(timeout, CANCELLED_S))
            found = await now(self, ignore_subscribe_messages, 0.0)
        return found

    PubSub.get_message = get_message


if __name__ == "__main__":
    main()
