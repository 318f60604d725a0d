"""The VPC's resolver: Amazon's names, the machines' names both ways, and nothing else.

Without answers at once, gloo and c10d wait five seconds for every name they look up.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable

_A, _PTR = 1, 12
_FOUND, _UNKNOWN = 0x8180, 0x8183
_MACHINE = re.compile(r"ip-(\d+)-(\d+)-(\d+)-(\d+)\.")
TTL_S = 30


def serve(listening: socket.socket, endpoint: Callable[[str], str]) -> None:
    """Answer for ever; `endpoint` gives the address of a name under amazonaws.com."""
    while True:
        query, asker = listening.recvfrom(4096)
        try:
            listening.sendto(_answer(query, endpoint), asker)
        except (IndexError, ValueError, struct.error, OSError):
            continue  # not a question


def _answer(query: bytes, endpoint: Callable[[str], str]) -> bytes:
    name, kind, end = _question(query)
    machine = _MACHINE.match(name)
    ours = name.endswith("amazonaws.com")
    data = None
    if kind == _A and machine:
        data = bytes(int(part) for part in machine.groups())
    elif kind == _A and ours:
        data = socket.inet_aton(endpoint(name))
    elif kind == _PTR and name.endswith("in-addr.arpa"):
        address = "-".join(reversed(name.split(".")[:4]))
        data = _labels(f"ip-{address}.ec2.internal")
    record = b"" if data is None else b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, TTL_S, len(data)) + data
    status = _FOUND if record or machine or ours else _UNKNOWN
    return query[:2] + struct.pack(">HHHHH", status, 1, 1 if record else 0, 0, 0) + query[12:end] + record


def _question(query: bytes) -> tuple[str, int, int]:
    """The name asked for, the kind of record, and where the question ends."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii").lower())
        at += 1 + query[at]
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    return ".".join(labels), kind, at + 5


def _labels(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
