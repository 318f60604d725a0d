"""How a command that follows a run speaks: to people, to people who want little, or to a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.console import out, show_outcome, show_plan, show_receipt, show_report
from cli.progress import PlainListener, QuietListener, open_listener
from cli.relay import DRAWN, PIPED, Relay
from sojourn.errors import ExitCode, TeardownError

if TYPE_CHECKING:
    from sojourn.plan.planning import Plan
    from sojourn.receipts import Receipt
    from sojourn.results.report import Report


LEAVING_S = 1.0  # for the last words of a command that was told to end


class View:
    """`quiet` leaves warnings, errors and the report; `as_json` writes events to standard output, text to the other."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.quiet = quiet
        self.as_json = as_json
        self._followed: Plan | None = None
        self.listener = Relay(open_listener(quiet), DRAWN if out.is_terminal else PIPED)
        if as_json:
            from cli.events import EventListener

            out.file = sys.stderr
            self.listener = Relay(EventListener(QuietListener() if quiet else PlainListener()), PIPED)

    def follows(self, plan: Plan) -> None:
        """The run that is spoken of from now on."""
        self._followed = plan
        self.listener.run = plan.run

    def plan(self, plan: Plan) -> None:
        """What will happen."""
        self.follows(plan)
        self.listener.drain()
        if self.as_json:
            from cli.events import plan_event

            plan_event(plan)
        if not self.quiet:
            show_plan(plan)

    def ended(self, receipt: Receipt | None, report: Report) -> None:
        """What came of it."""
        self.listener.drain()
        if self.as_json:
            from cli.events import end_events

            end_events(receipt, report)
        if self.quiet:
            show_outcome(report)
            return
        if receipt is not None:
            show_receipt(receipt)
        show_report(report)

    def home_already(self, report: Report) -> None:
        """There is nothing left to do."""
        self.listener.drain()
        if self.as_json:
            from cli.events import end_events

            end_events(None, report)
        out.print(f"{report.run} is home already; see it: sojourn show {report.run}", markup=False)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """In the block an error that ends the command is an event too, and a receipt that is not closed is shown."""
        if not self.as_json:
            with self._open_receipts(), self._all_told():
                yield
            return
        from cli.events import error_event

        with error_event(), self._open_receipts(), self._all_told():
            yield

    @contextmanager
    def _all_told(self) -> Iterator[None]:
        """After the block nothing waits to be said; on the way out for a signal, not for long."""
        try:
            yield
        except SystemExit as leaving:
            if not self.listener.drain(LEAVING_S):  # whose reader holds the streams that Python flushes at its end
                os._exit(leaving.code if isinstance(leaving.code, int) else ExitCode.INFRASTRUCTURE)
            raise
        except KeyboardInterrupt:
            self.listener.drain(LEAVING_S)
            raise
        except Exception:
            self.listener.drain()
            raise
        self.listener.drain()

    @contextmanager
    def _open_receipts(self) -> Iterator[None]:
        try:
            yield
        except TeardownError:
            if receipt := self._receipt():
                self._show(receipt)
            raise

    def _show(self, receipt: Receipt) -> None:
        if self.as_json:
            from cli.events import emit

            emit("receipt", receipt=receipt.model_dump(mode="json"))
        show_receipt(receipt)

    def _receipt(self) -> Receipt | None:
        from sojourn.receipts import Receipt
        from sojourn.run.runs import data_home
        from sojourn.store.known_stores import known_store
        from sojourn.store.mailbox import Mailbox

        plan = self._followed
        if plan is None:
            return None
        store = known_store(data_home(), plan.store)
        return Mailbox(store, plan.project, plan.run).read("receipt", Receipt)
