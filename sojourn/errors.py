"""An error class is a decision: what the caller does next, not what went wrong.

SojournError
├── SpecError        tell the user, never try again
│   ├── GoneError    the store itself is not there any more; what it kept is over
│   └── UnreadableError  one record of a run; costs what hangs on it, and no other run
├── AccessError      a permission is missing; a human grants it
├── QuotaError       a limit is too low; a human raises it
├── CapacityError    this offer has no machines; take the next one
├── TransientError   the same call again, later
│   └── FullError    a disk has no room; what needs none can be done all the same
├── LostError        the lease is gone; rent a new one and resume
├── TrainingError    the user's script failed; never retried as infrastructure
├── StoppedError     the user ended the run; nobody goes on with it
├── TeardownError    something billable may still stand
└── SupersededError  another orchestrator has taken over; stop at once
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExitCode:
    """What the `sojourn` command answers to its shell; documented in the README."""

    OK = 0
    SCRIPT_FAILED = 1
    BAD_INPUT = 2
    INFRASTRUCTURE = 3
    TEARDOWN_OPEN = 4
    STOPPED = 130


class SojournError(Exception):
    """A failure with one sentence for the user and, where known, the next thing to type."""

    exit_code = ExitCode.INFRASTRUCTURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class SpecError(SojournError):
    """The request cannot be honoured as written."""

    exit_code = ExitCode.BAD_INPUT


class GoneError(SpecError):
    """A store that was there is not there any more, and nothing that it kept can be asked."""


class UnreadableError(SpecError):
    """A record in the store is not what it should be; whatever hangs on other records goes on."""


class AccessError(SojournError):
    """A permission or a credential is missing."""


class QuotaError(SojournError):
    """An account limit is too low for the request."""


class CapacityError(SojournError):
    """The place has no such machine now."""


class TransientError(SojournError):
    """The same call may work later."""


class FullError(TransientError):
    """A disk has no room; machines are given back before it is written down."""


class LostError(SojournError):
    """The rented machines are gone before the script ended."""


class TrainingError(SojournError):
    """The user's script ended badly."""

    exit_code = ExitCode.SCRIPT_FAILED


class StoppedError(SojournError):
    """The run ended because the user said so."""

    exit_code = ExitCode.STOPPED


class TeardownError(SojournError):
    """Something we rented is not confirmed gone."""

    exit_code = ExitCode.TEARDOWN_OPEN


class SupersededError(SojournError):
    """Another orchestrator owns this run now."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A clause naming the known word closest to `word`, or all of them (a dozen at most) when none is close."""
    names = sorted(known)
    if not names:
        return "there is none yet"
    match = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if match:
        return f"did you mean {match[0]!r}?"
    return f"known: {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"


def first_line(error: BaseException) -> str:
    """An exception's first line, or its name when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
