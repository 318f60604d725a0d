"""`sojourn ui`: the Prefect UI, with a server behind it."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from typing import Annotated
from urllib.parse import urlsplit

import typer

START_LIMIT_S = 90.0  # who asks for the UI wants to wait for it


def ui(
    stop: Annotated[bool, typer.Option("--stop", help="End the server that Sojourn started, and no other.")] = False,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open the Prefect UI, starting a server in the background when none is configured.

    Example: sojourn ui --no-browser
    """
    from cli.console import out
    from cli.server import find_address, find_server, log_file, stop_server
    from sojourn.errors import TransientError

    if stop:
        pid = stop_server()
        out.print(f"Stopped the Prefect server {pid}." if pid else "No Prefect server runs that Sojourn started.")
        return
    address = find_address()
    if find_server(START_LIMIT_S) is None:
        hint = (
            "start it, or forget it: prefect config unset PREFECT_API_URL (or: unset PREFECT_API_URL)"
            if address.configured
            else f"see why: tail {log_file()}"
        )
        raise TransientError(f"no Prefect server answers at {address.api}", hint=hint)
    out.print(f"Prefect: {address.ui}   (end a server that Sojourn started: sojourn ui --stop)", markup=False)
    if "SSH_CONNECTION" in os.environ and not address.configured:
        port = urlsplit(address.ui).port
        out.print(f"From your own computer: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}", markup=False)
    elif browser and _has_screen():
        webbrowser.open(address.ui)


def _has_screen() -> bool:
    """Whether a browser would have a window; in a bare terminal, Python opens one that fills it."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
