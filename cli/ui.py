"""`sojourn ui`: the Prefect UI, with a server behind it."""

from __future__ import annotations

import subprocess
import sys
import webbrowser
from typing import Annotated

import typer


def ui(
    stop: Annotated[bool, typer.Option("--stop", help="Stop the server that runs in the background.")] = False,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open the Prefect UI, starting a server in the background when none is configured.

    Example: sojourn ui
    """
    from cli.console import out
    from cli.server import find_server
    from sojourn.errors import TransientError

    if stop:
        subprocess.run([sys.executable, "-m", "prefect", "server", "stop"], check=False)
        return
    api = find_server()
    if api is None:
        raise TransientError(
            "no Prefect server answers, and none could be started in time", hint="see why: prefect server start"
        )
    address = api.removesuffix("/api")
    out.print(f"Prefect: {address}   (sojourn ui --stop ends a server started here)", markup=False)
    if browser:
        webbrowser.open(address)
