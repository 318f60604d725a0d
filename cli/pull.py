"""`sojourn pull`."""

from __future__ import annotations


def pull() -> None:
    """pull."""
