"""Scalars out of TensorBoard event files, with the standard library alone.

A file is a row of records, https://www.tensorflow.org/tutorials/load_data/tfrecord, each an
Event message of which a handful of fields matters here:
https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

RECORD_LIMIT = 64 << 10  # a record of scalars is small; images, graphs and the like are passed over unread
_DOUBLES = {1: "f", 2: "d"}  # DT_FLOAT, DT_DOUBLE


class Scalar(NamedTuple):
    """One `add_scalar`, and when it was written."""

    tag: str
    step: int
    value: float
    at: float


class NoEventsError(Exception):
    """The file is none of TensorBoard's."""


def read(file: BinaryIO, offset: int, budget: int) -> tuple[list[Scalar], int]:
    """The scalars of the whole records from `offset` on, and where the next record begins.

    Stops after `budget` bytes, and before a record that is not all there yet. Raises
    NoEventsError.
    """
    size, end, found = os.fstat(file.fileno()).st_size, offset + budget, []
    while offset < end and offset + 12 <= size:
        file.seek(offset)
        header = file.read(12)
        length, check = struct.unpack("<QI", header)
        if masked(crc32c(header[:8])) != check:
            raise NoEventsError
        after = offset + 12 + length + 4
        if after > size:
            break
        if length <= RECORD_LIMIT:
            found += _scalars(file.read(length))
        else:
            end += length
        offset = after
    return found, offset


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720, appendix B.4; zlib has another one."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """As TFRecord stores it."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_row(byte) for byte in range(256)]


def _scalars(event: bytes) -> list[Scalar]:
    """What one Event says; nothing when it cannot be read."""
    at, step, found = 0.0, 0, []
    try:
        for number, value in _fields(event):
            if number == 1 and isinstance(value, bytes):
                (at,) = struct.unpack("<d", value)
            elif number == 2 and isinstance(value, int):
                step = value - (1 << 64) if value >> 63 else value
            elif number == 5 and isinstance(value, bytes):
                found += [_value(inner) for field, inner in _fields(value) if field == 1 and isinstance(inner, bytes)]
    except (ValueError, IndexError, struct.error):
        return []
    return [Scalar(tag, step, value, at) for tag, value in found if tag and value is not None]


def _value(summary: bytes) -> tuple[str, float | None]:
    """Tag and number of a Summary.Value; no number when it is something else, as an image is."""
    tag, number = "", None
    for field, value in _fields(summary):
        if isinstance(value, int):
            continue
        if field == 1:
            tag = value.decode("utf-8", errors="replace")
        elif field == 2:
            (number,) = struct.unpack("<f", value)
        elif field == 8:
            number = _tensor(value)
    return tag, number


def _tensor(proto: bytes) -> float | None:
    """The number in a tensor without dimensions, as TensorFlow 2 writes scalars."""
    kind, content, dimensions = "", b"", False
    for field, value in _fields(proto):
        if field == 1 and isinstance(value, int):
            kind = _DOUBLES.get(value, "")
        elif field == 2:
            dimensions = bool(value)
        elif field in (4, 5, 6) and isinstance(value, bytes):  # tensor_content, float_val, double_val
            content = value
    if dimensions or not kind or len(content) != struct.calcsize(kind):
        return None
    return float(struct.unpack("<" + kind, content)[0])


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: number, and value as it is on the wire. Raises ValueError, IndexError.

    https://protobuf.dev/programming-guides/encoding/
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(kind)
        if at + size > len(message):
            raise ValueError(size)
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ValueError(shift)
