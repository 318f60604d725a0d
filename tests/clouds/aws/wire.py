"""The way in: every request is parsed, recorded, met by a fault or not, and answered by moto.

Faults live here, outside moto, so that they look the same to every client, whatever its language.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from clouds.aws import answers
from clouds.aws.calls import Call, parse
from clouds.aws.faults import Fault, Faults

Environ = dict[str, Any]
Start = Callable[..., Any]
Answer = tuple[str, list[tuple[str, str]], bytes]
# Answers a call instead of moto, or returns None. The first that answers wins.
Gate = Callable[[Call, Environ, Start], Iterable[bytes] | None]

CONTROL = "/.stand-in/"


class Wire:
    """The WSGI application that clients talk to."""

    def __init__(
        self, faults: Faults, gates: Sequence[Gate], control: Callable[[Environ, Start], Iterable[bytes]]
    ) -> None:
        self.calls: list[Call] = []
        self._faults, self._gates, self._control = faults, gates, control
        self._conditions = threading.Lock()
        self._moto = DomainDispatcherApplication(_loud_app)

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(CONTROL):
            return self._control(environ, start)
        call = parse(environ)
        self.calls.append(call)
        fault = self._faults.meeting(call)
        call.fault = fault.effect if fault else None
        said = self._met(fault, call, environ, start) if fault else self._answered(call, environ, start)
        return _silent(said) if call.method == "HEAD" else said

    def _met(self, fault: Fault, call: Call, environ: Environ, start: Start) -> Iterable[bytes]:
        if fault.effect in ("error", "throttle"):
            answers.drained(environ)
            return answers.error(_noting(call, start), call.service, fault.code, fault.status, fault.message)
        if fault.effect == "drop_before":
            return answers.dropped(environ, start)
        if fault.effect == "delay":
            time.sleep(fault.seconds)
            return self._answered(call, environ, start)
        status, headers, body = self._executed(call, environ)
        if fault.effect == "truncate":
            start(status, headers)
            return answers.truncated(environ, body)
        if fault.effect == "hang_after":
            time.sleep(fault.seconds)
        return answers.dropped(environ, start)

    def _answered(self, call: Call, environ: Environ, start: Start) -> Iterable[bytes]:
        start = _noting(call, start)
        try:
            for gate in self._gates:
                answer = gate(call, environ, start)
                if answer is not None:
                    return answer
            # Moto looks first and writes later, where S3 decides a write on a condition in one step.
            on_condition = call.method == "PUT" and {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"} & environ.keys()
            with self._conditions if on_condition else nullcontext():
                said: Iterable[bytes] = self._moto(environ, start)
            return said
        except Exception as error:
            # An action that nobody has written, or a fault of ours: said in a code that no client retries.
            traceback.print_exc()
            why = f"{call.service} {call.action}: {type(error).__name__}: {error}"
            return answers.error(start, call.service, "StandInFailure", 400, why)

    def _executed(self, call: Call, environ: Environ) -> Answer:
        """Let the call happen and keep its answer."""
        kept: dict[str, Any] = {}

        def start(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            kept.update(status=status, headers=headers)

        body = b"".join(self._answered(call, environ, start))
        return kept["status"], kept["headers"], body


def _silent(said: Iterable[bytes]) -> list[bytes]:
    """The answer to a HEAD ends with its headers, also when it is an error."""
    for _ in said:
        pass
    return []


def _loud_app(service: Any) -> Any:
    app = create_backend_app(service)
    app.config["PROPAGATE_EXCEPTIONS"] = True  # else it answers a page of HTML and keeps the reason
    return app


def _noting(call: Call, start: Start) -> Start:
    """`start`, which also keeps the status for the record."""

    def noting(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        call.status = int(status.split()[0])
        return start(status, headers, *rest)

    return noting
