"""`sojourn attach`."""

from __future__ import annotations


def attach() -> None:
    """attach."""
