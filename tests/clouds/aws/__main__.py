"""The process: `python -m clouds.aws`. Prints its address when it is ready and ends with its parent.

usage: python -m clouds.aws [--bare]
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

# Checks that moto has but leaves off; read when moto is imported.
CHECKS = ("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "MOTO_ENABLE_AMI_VALIDATION")
PR_SET_PDEATHSIG = 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="clouds.aws")
    parser.add_argument("--bare", action="store_true", help="moto as it is, unmended: to see that a repair is needed")
    arguments = parser.parse_args()
    _end_with_parent()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = _listen("127.0.0.1", 0)
    _serve(door, _bare() if arguments.bare else _mended())
    print(f"http://127.0.0.1:{door.getsockname()[1]}", flush=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _bare() -> Any:
    """Moto behind the same door; what tests ask of the stand-in beyond moto is not there."""
    from clouds.aws.control import Control
    from clouds.aws.wire import Wire
    from clouds.aws.world import World

    world = World()
    wire = Wire(world.faults, [], lambda environ, start: control(environ, start))
    control = Control(world, lambda: wire.calls)
    return wire


def _mended() -> Any:
    os.environ.update(dict.fromkeys(CHECKS, "1"))
    from clouds.aws import gates, repairs
    from clouds.aws.control import Control
    from clouds.aws.repairs import schedules
    from clouds.aws.wire import Wire
    from clouds.aws.world import World

    world = World()
    repairs.install(world)
    schedules.ring(world)
    wire = Wire(world.faults, [gates.expired, gates.pricing], lambda environ, start: control(environ, start))
    control = Control(world, lambda: wire.calls)
    return wire


def _end_with_parent() -> None:
    """Whoever started this and died without a word shall not leave it behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1 and sys.platform == "linux":
        sys.exit("the process that started this is gone")


def _listen(address: str, port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen(256)
    return listening


def _serve(door: socket.socket, application: Any) -> None:
    from moto.moto_server.werkzeug_app import MotoRequestHandler
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Say nothing: the calls are recorded."""

    host, port = door.getsockname()
    server = make_server(host, port, application, threaded=True, request_handler=Quiet, fd=door.fileno())
    threading.Thread(target=server.serve_forever, daemon=True).start()


if __name__ == "__main__":
    main()
