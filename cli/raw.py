"""Bytes that a machine said, onto one of our own streams: as they are, but for what a terminal would obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO


def to_stream(stream: TextIO) -> Callable[[bytes], None]:
    """Writes bytes to a stream; on a terminal their colours stay, and every other sequence goes."""
    if not stream.isatty():

        def write(data: bytes) -> None:
            stream.buffer.write(data)

        return write
    from sojourn.harmless import Coloured

    log = Coloured()

    def show(data: bytes) -> None:
        stream.write(log.feed(data))

    return show
