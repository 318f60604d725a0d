"""`sojourn ui`: the Prefect UI, with a server behind it."""

from __future__ import annotations

import os
import shlex
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
    from cli.console import out, show_warning
    from cli.server import find_address, find_server, password_file, stop_server
    from sojourn.errors import AccessError

    if stop:
        pid = stop_server()
        out.print(f"Stopped the Prefect server {pid}." if pid else "No Prefect server runs that Sojourn started.")
        return
    try:
        address = find_server(START_LIMIT_S)
    except AccessError as error:  # its pages ask for a login themselves
        show_warning(f"{error.message}\n  {error.hint}")
        address = find_address()
    if address.word:
        show_warning(address.word)
    out.print(f"Prefect: {address.ui}   (end a server that Sojourn started: sojourn ui --stop)", markup=False)
    if address.login:
        read = f"cat {shlex.quote(str(password_file()))}"
        out.print(f"Its pages ask for a password once, the whole line of: {read}", markup=False)
    if "SSH_CONNECTION" in os.environ and not address.configured:
        port = urlsplit(address.ui).port
        out.print(f"From your own computer: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}", markup=False)
    elif browser and _has_screen():
        webbrowser.open(address.ui)


def _has_screen() -> bool:
    """Whether a browser would have a window; in a bare terminal, Python opens one that fills it."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
