"""An S3 service in a process of its own, behind a proxy that keeps connections, counts requests and does harm.

Signatures are checked against botocore's elsewhere; this service believes everybody.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

REGION = "eu-west-1"
STALL_S = 90.0
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """What happens to some requests of a method whose path holds `path`."""

    method: str
    path: str
    effect: str
    times: int
    after: int
    text: bytes
    headers: dict[str, str]


@dataclass
class Call:
    """One request as it came over the wire."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int = 0


class S3World:
    """The service as its users see it: an endpoint, and the environment that leads to it."""

    def __init__(self, service: str) -> None:
        self.service = urlsplit(service)
        self.calls: list[Call] = []
        self.faults: list[Fault] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._conditions = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self._server.world = self
        self._server.server_bind()
        self._server.server_activate()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._buckets = 0
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        self._buckets += 1
        name = f"lab-{os.getpid()}-{self._buckets}"
        body = (
            '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        )
        assert self.direct("PUT", f"/{name}", body.encode())[0] == 200
        return name

    def fault(
        self,
        method: str,
        path: str,
        effect: str,
        *,
        times: int = 1,
        after: int = 0,
        text: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> None:
        """After so many, for `times` requests: `refuse-503` and so on, `drop-before`, `drop-after`, `cut`, `chunk`.

        `stall`: one with more than 1 MB waits.
        """
        with self._lock:
            self.faults.append(Fault(method, path, effect, times, after, text, headers or {}))

    def due(self, method: str, path: str) -> Fault | None:
        """The fault for a request, counted down."""
        with self._lock:
            for fault in self.faults:
                if fault.times < 1 or fault.method not in ("*", method) or fault.path not in path:
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def direct(self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
        """Status, headers and body of a request to the service itself."""
        connection = http.client.HTTPConnection(self.service.hostname or "", self.service.port, timeout=30)
        try:
            connection.request(method, target, body=body or None, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def forward(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Any:
        """As `direct`; writes on a condition one at a time, since moto looks first and writes later."""
        on_condition = method != "GET" and any(name.lower() in ("if-none-match", "if-match") for name in headers)
        with self._conditions if on_condition else nullcontext():
            return self.direct(method, target, body, headers)

    def count(self, method: str, path: str = "") -> int:
        """How many requests of a method came for this path."""
        return sum(1 for call in self.calls if call.method == method and path in call.path)

    def reset(self) -> None:
        """Forget faults and calls."""
        self.faults.clear()
        self.calls.clear()

    def close(self) -> None:
        """Take the proxy away."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    world: S3World

    def get_request(self) -> Any:
        self.world.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        place = urlsplit(self.path)
        call = Call(self.command, unquote(place.path), place.query, {k.lower(): v for k, v in self.headers.items()})
        world = self.server.world
        world.calls.append(call)
        fault = world.due(self.command, call.path)
        effect = fault.effect if fault else ""
        if effect == "drop-before":
            return self._drop()
        if effect == "stall" and len(body) > 10**6:
            time.sleep(STALL_S)
        if fault and effect.startswith("refuse-"):
            call.status = int(effect[7:])
            return self._answer(call.status, list(fault.headers.items()), fault.text)
        status, headers, text = world.forward(self.command, self.path, body, dict(self.headers.items()))
        call.status = status
        if effect == "drop-after":
            return self._drop()
        if effect == "chunk":
            return self._chunk(headers, text)
        self._answer(status, headers, text, cut=effect == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    def _answer(self, status: int, headers: list[tuple[str, str]], text: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        size = next((v for k, v in headers if k.lower() == "content-length"), str(len(text)))
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", size if self.command == "HEAD" else str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text[: len(text) // 2] if cut else text)
        if cut:
            self._drop()

    def _chunk(self, headers: list[tuple[str, str]], text: bytes) -> None:
        """As a proxy on the way may do it."""
        self.send_response_only(200)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text))

    def _drop(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def s3_service() -> Iterator[S3World]:
    """A running service, for as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Path(sys.executable).parent / "moto_server"
    service = subprocess.Popen(
        [str(server), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    world = None
    try:
        _wait(lambda: _listens(port))
        world = S3World(f"http://127.0.0.1:{port}")
        yield world
    finally:
        if world is not None:
            world.close()
        service.kill()
        service.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(what: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "the S3 service did not start"
        time.sleep(0.05)
