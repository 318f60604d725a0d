"""A run as a flow run of this process, and what becomes of it when the Prefect server goes away.

Nothing of a run waits for the server: its results are home and its machines gone all the
same. What the server missed is put right by `sojourn reap`.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from cli.aside import Aside
    from cli.server import Address
    from cli.view import View
    from sojourn.errors import SojournError
    from sojourn.plan.planning import Plan
    from sojourn.results.report import Report

T = TypeVar("T")
# What the steps to come will import, the first before all else.
MODULES = ("prefect.settings", "prefect.flow_engine", "prefect.task_engine", "flows.train")

LINES_AT_LEAST_S = 5.0  # between two batches of log lines for the server

_lost: list[str] = []  # the servers that went away under a run of this process


def with_prefect(make_plan: Callable[[], Plan], view: View, otherwise: Callable[[Plan, View], Report]) -> Report:
    """As a flow run on the Prefect server, or `otherwise` when none can be had.

    Planning, Prefect's imports and the start of a server take a second or more each, so they
    go side by side.
    """
    from cli.aside import Aside
    from cli.modules import check_modules
    from sojourn.errors import SojournError
    from sojourn.secrets import secret_files

    aside = Aside(lambda: (make_plan(), secret_files.looked_through()))
    _keep_prefect_quiet()
    check_modules()
    running = None
    with suppress(Exception):  # settings that cannot be read are told of when the server is looked for
        _import_ahead(*MODULES[:1])
        running = _Ahead(_find_running)
        for module in MODULES[1:]:
            if not aside.ready():
                _import_ahead(module)
    plan, clean = aside.first()  # before a server is started: what is refused leaves nothing behind
    secret_files.trust(clean)
    server = _reach_server(lambda: view.plan(plan), running)
    if isinstance(server, SojournError):
        aside.end()
        return _unrecorded(plan, view, server, otherwise)
    if server.word:
        view.listener.warn(server.word)
    return _record(plan, view, server, aside, otherwise)


class _Ahead(Generic[T]):
    """A piece of work in a thread, begun at once; what went wrong in it counts as nothing found."""

    def __init__(self, work: Callable[[], T | None]) -> None:
        self._work = work
        self._found: T | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(Exception):
            self._found = self._work()

    def found(self) -> T | None:
        """What came of it."""
        self._thread.join()
        return self._found


def _find_running() -> Address | None:
    from cli.server import running_server

    return running_server()


def _reach_server(meanwhile: Callable[[], None], running: _Ahead[Address] | None) -> Address | SojournError:
    """An API that takes us, or why there is none; Prefect is imported while a server starts."""
    from cli.server import seek_server
    from sojourn.errors import SojournError

    there = running.found() if running else None
    if there is not None:
        meanwhile()
        _import_ahead(*MODULES)
        return there
    try:
        server = seek_server()
    except SojournError as error:
        meanwhile()
        return error
    meanwhile()
    _import_ahead(*MODULES)
    try:
        return server()
    except SojournError as error:
        return error


def _unrecorded(plan: Plan, view: View, why: SojournError, otherwise: Callable[[Plan, View], Report]) -> Report:
    """Prefect is worth a warning and not a run."""
    mend = f" ({why.hint})" if why.hint else ""
    view.listener.warn(f"{why.message}: this run has no record in Prefect{mend}")
    return otherwise(plan, view)


def leave(code: int) -> None:
    """End the process at once where Prefect would wait for minutes to tell a server that is gone."""
    if _lost:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _record(
    plan: Plan, view: View, server: Address, aside: Aside[Any], otherwise: Callable[[Plan, View], Report]
) -> Report:
    from pydantic_core import to_jsonable_python

    from cli.interrupts import interruptible
    from cli.refusals import call_refusal
    from flows.train import train as flow
    from sojourn.errors import SojournError, TransientError, first_line
    from sojourn.plan.planning import Plan
    from sojourn.results.report import Report
    from sojourn.run.runs import data_home
    from sojourn.store.known_stores import known_store
    from sojourn.store.mailbox import Mailbox
    from tasks.session import session

    # Prefect's own loads FastAPI for it, a sixth of all that a run imports.
    flow.serialize_parameters = partial(to_jsonable_python, by_alias=True)  # type: ignore[method-assign]
    mailbox = Mailbox(known_store(data_home(), plan.store), plan.project, plan.run)
    try:
        with _settings(server), session(plan, view.listener, interruptible, aside.call):
            state = flow(plan.launch, plan.directory, return_state=True)
    except Exception as error:  # the engine could not tell the server how the run ended, and the store knows
        report, refused = mailbox.read("report", Report), call_refusal(error)
        if report is None and mailbox.read("plan", Plan) is None and not isinstance(error, SojournError):
            unlike = SojournError(f"Prefect: {type(error).__name__}: {first_line(error)}")
            return _unrecorded(plan, view, refused or unlike, otherwise)  # nothing has begun yet
        if report is None and refused is not None:
            raise TransientError(refused.message, hint=f"continue the run: sojourn attach {plan.run}") from error
        if report is None:
            raise
        _lost.append(server.api)
        view.listener.warn("Prefect did not hear how the run ended; put its record right: sojourn reap")
        return report
    finally:
        aside.end()
    report = mailbox.read("report", Report)
    if report is None:
        state.result()  # without a report the flow has failed, and this raises why
        raise TransientError(f"{plan.run} has no report", hint=f"continue it: sojourn attach {plan.run}")
    return report


def _settings(server: Address) -> AbstractContextManager[object]:
    from prefect.settings import (
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_LOGGING_TO_API_BATCH_INTERVAL,
        get_current_settings,
    )

    from cli.server import connected

    # The run's own heartbeat is in its ledger; Prefect's would add a second to the end of each run.
    # By default each call waits a minute for a server that is gone; a person who waits for a run must not.
    more: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_CLIENT_MAX_RETRIES: 1}
    # Each batch of log lines takes a server some hundredths of a second, from a script that runs beside it.
    if "batch_interval" not in get_current_settings().logging.to_api.model_fields_set:
        more[PREFECT_LOGGING_TO_API_BATCH_INTERVAL] = LINES_AT_LEAST_S
    return connected(server, more)


def _keep_prefect_quiet() -> None:
    """Its words go to its server; on the terminal they would stand between the user's own."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    logging.raiseExceptions = False


def _import_ahead(*modules: str) -> None:
    """Import what the steps to come will import, at a time that costs nothing."""
    for name in modules:
        importlib.import_module(name)
