"""What a flow run knows that is no parameter of it: who listens, a plan already shown, who has DVC loaded.

A command line that runs the flow in its own process has made and printed the plan, and
wants to see the steps; a flow run under a worker has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

from sojourn.plan.planning import Plan
from sojourn.run.journey import Doer, Journey, Listener
from tasks import artifacts


@dataclass(frozen=True)
class Session:
    """One command line's part in a flow run."""

    plan: Plan
    listener: Listener
    guard: Callable[[Journey], AbstractContextManager[None]]
    do: Doer


_current: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session | None:
    """The session of this process, if it runs a flow of its own."""
    return _current.get()


@contextmanager
def guarded(journey: Journey) -> Iterator[None]:
    """The session's hold on signals while the run lasts, if there is one; afterwards all of its pages are there."""
    session = current()
    with session.guard(journey) if session else nullcontext():
        try:
            yield
        finally:
            artifacts.settle()  # Prefect's client for a flow run ends with it


@contextmanager
def session(
    plan: Plan, listener: Listener, guard: Callable[[Journey], AbstractContextManager[None]], do: Doer
) -> Iterator[None]:
    """Let the flow that is run inside the block be this command line's."""
    token = _current.set(Session(plan, listener, guard, do))
    try:
        yield
    finally:
        _current.reset(token)
