"""Keeps on this host what the store may not have: below the machine's directory, beside its scratch directory.

Whoever comes to it first moves the tree there: the agent, which knows that something is not stored, or after
it the supervisor or the provider, which know only that it did not say that all is.
"""

from __future__ import annotations

import os

from sojourn.agent import files
from sojourn.agent.errors import say
from sojourn.agent.paths import TREE

KEPT = "kept"


def keep(machine: str, scratch: str) -> str | None:
    """Move the script's tree out of the scratch directory; where it is now, None where there is no room for it.

    On a disk that it fills it goes with all else.
    """
    kept = os.path.join(machine, KEPT)
    if os.path.isdir(kept):
        return kept
    try:
        if files.has_room(machine) and os.path.isdir(os.path.join(scratch, TREE)):
            os.rename(os.path.join(scratch, TREE), kept)
            return kept
    except OSError as error:
        say(f"nothing is kept: {error}")
    return None
