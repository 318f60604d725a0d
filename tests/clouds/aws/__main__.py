"""The process: `python -m clouds.aws`. Prints its address when it is ready and ends with its parent.

usage: python -m clouds.aws [--bare | --hosts] [--hide DIR]...
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

# Checks that moto has but leaves off; read when moto is imported.
CHECKS = ("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "MOTO_ENABLE_AMI_VALIDATION")
PR_SET_PDEATHSIG = 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="clouds.aws")
    parser.add_argument("--bare", action="store_true", help="moto as it is, unmended: to see that a repair is needed")
    parser.add_argument("--hosts", action="store_true", help="machines run, in namespaces; needs root")
    parser.add_argument("--hide", action="append", type=Path, default=[], help="a folder that hosts see empty")
    arguments = parser.parse_args()
    if not arguments.bare:
        os.environ.update(dict.fromkeys(CHECKS, "1"))  # before anything imports moto
    _end_with_parent()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    door = _listen("127.0.0.1", 0)
    hub = _hub() if arguments.hosts else None  # before any thread: threads stay where they were started
    world, wire = _bare() if arguments.bare else _mended()
    if hub:
        _inhabit(hub, world, wire, tuple(arguments.hide))
    _serve(door, wire)
    print(f"http://127.0.0.1:{door.getsockname()[1]}", flush=True)
    ended.wait()
    if hub:
        world.machines.hosts.close()


def _hub() -> Any:
    from clouds.aws.hosts.hub import Hub

    hub = Hub()
    hub.move_in()
    return hub


def _inhabit(hub: Any, world: Any, wire: Any, hide: tuple[Path, ...]) -> None:
    """Machines that run, and what they find around them."""
    from clouds.aws.hosts import firewall, resolver
    from clouds.aws.hosts.hub import address_of
    from clouds.aws.hosts.metadata import Metadata
    from clouds.aws.hosts.power import HostPower

    power = world.machines.hosts = HostPower(world.machines, hub, hide=hide)
    world.machines.run(True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(power.authority.server)
    for address in (firewall.SERVICES, firewall.S3):
        _serve(hub.listen(address, 443), wire, tls)
    _serve(hub.listen(firewall.METADATA, 80), Metadata(hub.machine_at, world.desk))
    names = threading.Thread(target=resolver.serve, args=(hub.listen_for_names(), address_of), daemon=True)
    names.start()


def _bare() -> tuple[Any, Any]:
    """Moto behind the same door; what tests ask of the stand-in beyond moto is not there."""
    from clouds.aws.control import Control
    from clouds.aws.wire import Wire
    from clouds.aws.world import World

    world = World()
    wire = Wire(world.faults, [], lambda environ, start: control(environ, start))
    control = Control(world, lambda: wire.calls)
    return world, wire


def _mended() -> tuple[Any, Any]:
    from clouds.aws import gates, repairs
    from clouds.aws.control import Control
    from clouds.aws.repairs import schedules
    from clouds.aws.wire import Gate, Wire
    from clouds.aws.world import World

    world = World()
    repairs.install(world)
    schedules.ring(world)
    order: list[Gate] = [world.desk.refuse, gates.expired, world.guard, gates.dry_run, gates.filters, gates.pricing]
    wire = Wire(world.faults, order, lambda environ, start: control(environ, start))
    control = Control(world, lambda: wire.calls)
    return world, wire


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


def _serve(door: socket.socket, application: Any, tls: ssl.SSLContext | None = None) -> None:
    from moto.moto_server.werkzeug_app import MotoRequestHandler
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Say nothing: the calls are recorded."""

    host, port = door.getsockname()
    server = make_server(
        host, port, application, threaded=True, request_handler=Quiet, ssl_context=tls, fd=door.fileno()
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()


if __name__ == "__main__":
    main()
