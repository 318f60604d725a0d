"""What every task shares: when it is tried again, that none is cached, and how Prefect learns their order.

A step looks by itself whether its result is in the store already: bundle, data and
environment are kept by the hash of their content, on the host that needs them. A cache of
Prefect's would answer from another host or for a tree that has changed since.

Prefect draws an arrow to a task from the one that returned its argument last. So the steps
that follow each other hand on the journey; those that run side by side return nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Cancelled, Failed
from prefect.tasks import exponential_backoff

from sojourn.errors import SojournError, StoppedError, TransientError
from sojourn.protocol import Outcome
from sojourn.results.report import Report
from sojourn.run.journey import Journey, raise_for
from tasks.sentences import tell_in_sentences

P = ParamSpec("P")
R = TypeVar("R")
RETRIES = 3
FIRST_DELAY_S = 2.0

tell_in_sentences()


def step(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task for one step of a run, tried again with a random delay when the store or the provider did not answer."""
    return task(
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,  # a journey is a hold on a run, and none of its like can be written down
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(FIRST_DELAY_S),
        retry_jitter_factor=0.5,
        retry_condition_fn=is_transient,
    )


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task may do better in a moment; an error class is a decision."""
    return isinstance(state.result(raise_on_failure=False), TransientError)


def ended(journey: Journey) -> State[Journey]:
    """What a task is that saw the run end otherwise than hoped for: red or cancelled, while the flow goes on.

    Called in a flow, a task that returns a state raises nothing; what was rented must be given back first.
    """
    outcome = journey.outcome
    assert outcome is not None
    made = Cancelled if outcome.state == "stopped" else Failed
    return made(message=outcome.message, data=journey)


def over(report: Report, outcome: Outcome | None) -> State[Any]:
    """What a flow run is whose script did not succeed.

    Whoever called the flow meets the error; the flow run's log has its sentence and no traceback of Prefect's.
    """
    try:
        raise_for(report, outcome)
    except StoppedError as stopped:
        return Cancelled(message=stopped.message)
    except SojournError as error:
        return Failed(message=error.message, data=error)
    raise AssertionError(f"a run that {report.state} is no failure")
