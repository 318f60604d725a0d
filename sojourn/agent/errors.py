"""Why a phase of the agent ends early, each reason with its own consequence.

    Refused   the order cannot be carried out; nothing was started, and its sentence is the user's
    Stop      the script shall end, or not start: asked, late, or because another node ended
    Late      the time for this piece of work is over; what is done of it stays
    Exists    a create-only write found an object there
    StoreError  (an OSError) the store did not do what it was asked to, after all tries

None of them reaches the user as a traceback; what nobody foresaw does, in the agent's log.
"""

from __future__ import annotations

import contextlib
import sys
import time


class Refused(Exception):
    """The order cannot be carried out; one sentence says why. Nothing was started."""


class Stop(Exception):
    """The script shall end, or not start."""

    def __init__(self, reason: str, message: str, ends_at: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.ends_at = ends_at  # when the machine will be gone, if somebody else ends it


class Late(Exception):
    """The time for this is over."""


class Exists(Exception):
    """A create-only write found an object there."""


class StoreError(OSError):
    """The store did not do what it was asked to; never a FileNotFoundError or a PermissionError of this host."""


def say(text: str) -> None:
    """Our own voice: the supervisor keeps stderr in a file, the user's log never sees it."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
