"""Answers that moto does not write: errors in each service's own form, and connections that break."""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from typing import Any
from xml.sax.saxutils import escape

Environ = dict[str, Any]
Start = Callable[..., Any]

_XML = {
    "ec2": "<Response><Errors><Error>{error}</Error></Errors><RequestID>{request}</RequestID></Response>",
    "s3": "<Error>{error}<RequestId>{request}</RequestId></Error>",
}
_QUERY = "<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>{request}</RequestId></ErrorResponse>"
_QUERY_SERVICES = ("ec2", "s3", "iam", "sts")


def error(start: Start, service: str, code: str, status: int, message: str) -> list[bytes]:
    """An error as this service would spell it."""
    if service not in _QUERY_SERVICES:
        headers = [("x-amzn-ErrorType", code)]
        return plain(start, {"__type": code, "message": message}, status, headers)
    return _send(start, status, "text/xml", xml(service, code, message).encode(), [])


def xml(service: str, code: str, message: str) -> str:
    said = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
    body = _XML.get(service, _QUERY).format(error=said, request=secrets.token_hex(8))
    return f"<?xml version='1.0' encoding='UTF-8'?>{body}"


def plain(start: Start, value: Any, status: int = 200, headers: list[tuple[str, str]] | None = None) -> list[bytes]:
    """JSON, as the newer services speak it."""
    return _send(start, status, "application/x-amz-json-1.1", json.dumps(value).encode(), headers or [])


def drained(environ: Environ) -> None:
    """Read what the caller still sends: else the next request on this connection begins in the middle of it."""
    left = int(environ.get("CONTENT_LENGTH") or 0)
    with contextlib.suppress(OSError, ValueError):
        while left > 0:
            got = environ["wsgi.input"].read(min(left, 1 << 16))
            if not got:
                return
            left -= len(got)


def dropped(environ: Environ, start: Start) -> list[bytes]:
    """Close the connection without a word."""
    with contextlib.suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start("200 OK", [])
    return [b""]


def truncated(environ: Environ, body: bytes) -> Iterator[bytes]:
    """Half of an answer whose headers promise all of it."""
    yield body[: len(body) // 2]
    with contextlib.suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _send(start: Start, status: int, kind: str, body: bytes, headers: list[tuple[str, str]]) -> list[bytes]:
    start(f"{status} X", [("Content-Type", kind), ("Content-Length", str(len(body))), *headers])
    return [body]
