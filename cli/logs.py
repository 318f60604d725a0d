"""`sojourn logs`."""

from __future__ import annotations


def logs() -> None:
    """logs."""
