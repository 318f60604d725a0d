"""`sojourn prefect` and `sojourn dvc`: the programs that came with Sojourn, in its own environment.

`uv tool install` and pipx put nothing but `sojourn` on the PATH, and another environment's
Prefect has none of our flows and blocks.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

AS_IT_IS = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
Words = Annotated[list[str] | None, typer.Argument(metavar="ARGS…", help="What follows the program's name.")]


def prefect(words: Words = None) -> None:
    """Run Prefect's own command, with the server that `sojourn` uses.

    Example: sojourn prefect worker start --pool sojourn --type process
    """
    from cli.server import find_address
    from sojourn.errors import SojournError

    with suppress(SojournError):  # settings that cannot be read are what Prefect's own command is for
        address = find_address()
        if not address.configured:
            os.environ["PREFECT_API_URL"] = address.api
        if address.login:
            os.environ["PREFECT_API_AUTH_STRING"] = address.login
    _become("prefect", words)


def dvc(words: Words = None) -> None:
    """Run DVC's own command, for a project whose environment has none.

    Example: sojourn dvc push
    """
    _become("dvc", words)


def _become(module: str, words: list[str] | None) -> None:
    # Without -P the user's directory would come first, and a module of theirs might take the place of Prefect's.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *(words or ())])
