"""What will not come home as things are, said while its machine stands and something can be done about it."""

from __future__ import annotations

import os
import shlex

from sojourn.agent.results import remains
from sojourn.agent.script.launch import OUTPUT_DIR
from sojourn.omissions import NAMED, printable
from sojourn.plan.planning import Plan
from sojourn.protocol import Remainder
from sojourn.shorthand import format_bytes


def warning(plan: Plan, one: Remainder, node: int) -> str:
    """A sentence with what to type now."""
    more = len(one.paths) + one.unnamed - NAMED
    names = ", ".join(map(printable, one.paths[:NAMED])) + (f" and {more} more" if more > 0 else "")
    what = f"{names}, {format_bytes(one.bytes)} so far,"
    if one.reason == remains.SLOW:
        return f"{what} cannot be stored before the deadline at the pace of the last files; save what matters apart"
    where = f" --node {node}" if node else ""
    here = [os.path.relpath(path, plan.work_directory) for path in one.paths]
    chosen = here[0] if len(here) == 1 else here[0].split("/", 1)[0]
    link = f"ln -s {shlex.quote('../' + chosen)} {OUTPUT_DIR}/"
    return (
        f"{what} will not come home: nobody named it, and launch.bring is {format_bytes(plan.launch.bring)}; "
        f"if it is a result: sojourn exec {plan.run}{where} -- {link}"
    )
