"""`sojourn reap`."""

from __future__ import annotations


def reap() -> None:
    """reap."""
