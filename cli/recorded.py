"""A run as a flow run of this process, and what becomes of it when the Prefect server goes away.

Nothing of a run waits for the server: its results are home and its machines gone all the
same. What the server missed is put right by `sojourn reap`.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.aside import Aside
    from cli.server import Address
    from cli.view import View
    from sojourn.errors import SojournError
    from sojourn.planning import Plan
    from sojourn.report import Report

_lost: list[str] = []  # the servers that went away under a run of this process


def with_prefect(make_plan: Callable[[], Plan], view: View, otherwise: Callable[[Plan, View], Report]) -> Report:
    """As a flow run on the Prefect server, or `otherwise` when none can be had.

    Planning, Prefect's imports and the start of a server take a second or more each, so they
    go side by side.
    """
    from cli.aside import Aside
    from cli.modules import check_modules
    from sojourn.errors import SojournError

    aside = Aside(make_plan)
    _keep_prefect_quiet()
    check_modules()
    with suppress(Exception):  # settings that cannot be read are told of when the server is looked for
        _import_ahead("prefect.settings")
    plan = aside.first()  # before a server is started: what is refused leaves nothing behind
    server = _reach_server(lambda: view.plan(plan))
    if isinstance(server, SojournError):
        aside.end()
        return _unrecorded(plan, view, server, otherwise)
    if server.word:
        view.listener.warn(server.word)
    return _record(plan, view, server, aside, otherwise)


def _reach_server(meanwhile: Callable[[], None]) -> Address | SojournError:
    """An API that takes us, or why there is none; Prefect is imported while a server starts."""
    from cli.server import seek_server
    from sojourn.errors import SojournError

    try:
        server = seek_server()
    except SojournError as error:
        meanwhile()
        return error
    meanwhile()
    _import_ahead("prefect.flow_engine", "prefect.task_engine", "fastapi.encoders", "flows.train")
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
    plan: Plan, view: View, server: Address, aside: Aside[Plan], otherwise: Callable[[Plan, View], Report]
) -> Report:
    from cli.interrupts import interruptible
    from cli.refusals import call_refusal
    from flows.train import train as flow
    from sojourn.errors import SojournError, TransientError, first_line
    from sojourn.known_stores import known_store
    from sojourn.mailbox import Mailbox
    from sojourn.planning import Plan
    from sojourn.report import Report
    from sojourn.runs import data_home
    from tasks.session import session

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
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_FLOWS_HEARTBEAT_FREQUENCY

    from cli.server import connected

    # The run's own heartbeat is in its ledger; Prefect's would add a second to the end of each run.
    # By default each call waits a minute for a server that is gone; a person who waits for a run must not.
    return connected(server, {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_CLIENT_MAX_RETRIES: 1})


def _keep_prefect_quiet() -> None:
    """Its words go to its server; on the terminal they would stand between the user's own."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    logging.raiseExceptions = False


def _import_ahead(*modules: str) -> None:
    """Import what the steps to come will import, at a time that costs nothing."""
    for name in modules:
        importlib.import_module(name)
