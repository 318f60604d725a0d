"""Other users and their programs, beside a user with a Prefect server that Sojourn started."""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 (as another user it could not be loaded)
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

from cli_world import World

OTHER_USER = 65534
KEYS = {"AWS_SECRET_ACCESS_KEY": "aws-secret-of-mine", "HF_TOKEN": "hf-token-of-mine", "PREFECT_API_KEY": "pnu-of-mine"}


class StandIn:
    """Something that answers whatever it is asked, and keeps what it heard; as root it can be another user's."""

    def __init__(self, answer: bytes = b"true", user: int | None = None, port: int = 0) -> None:
        self.heard: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers["Content-Length"] or 0)
                stand_in.heard.append(f"{self.path} {self.headers} {self.rfile.read(length)!r}")
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        with _as_user(user):  # whose a socket is was settled when it was made
            self.server = HTTPServer(("127.0.0.1", port), Handler)
        self.port = int(self.server.server_port)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Leave the port."""
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def _as_user(user: int | None) -> Iterator[None]:
    if user is None:
        yield
        return
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


class Ours:
    """The server that `sojourn ui` started, whose usual port somebody else has."""

    def __init__(self, world: World, stranger: StandIn) -> None:
        self.world = world
        self.stranger = stranger
        record = json.loads((world.home / "prefect-server.json").read_text())
        self.pid = int(record["pid"])
        self.api = str(record["api"])
        self.port = int(self.api.removesuffix("/api").rpartition(":")[2])
        self.login = (world.home / "prefect-server.password").read_text().strip()


def free_port() -> int:
    """A port of this host that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
