"""`sojourn stop`."""

from __future__ import annotations


def stop() -> None:
    """stop."""
