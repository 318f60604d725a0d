"""Who listens at a port of this host: asked before anything is said to whatever answers there.

On a host with several users the first who takes a port has it, and would be told the plans and
parameters of all others. The system knows whose a listening socket is; no answer is needed.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LISTENING = "0A"
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
CONNECT_S = 1.0
LSOF_S = 10.0


def _hex(address: bytes) -> str:
    """As the kernel's tables have it: words of four bytes in this host's own order."""
    words = (int.from_bytes(address[at : at + 4], sys.byteorder) for at in range(0, len(address), 4))
    return "".join(f"{word:08X}" for word in words)


_V4, _MAPPED = socket.inet_aton("127.0.0.1"), bytes(10) + b"\xff\xff" + socket.inet_aton("127.0.0.1")
# Where 127.0.0.1 leads to, the most exact first: the system prefers it, too.
_LOOPBACK = tuple(map(_hex, (_V4, _MAPPED, bytes(4), bytes(16))))


@dataclass(frozen=True)
class Listener:
    """Whose process listens; `uid` None for one that the system does not show."""

    uid: int | None
    inode: str = ""
    pids: frozenset[int] = frozenset()

    @property
    def is_mine(self) -> bool:
        """Whether it is a process of this user's."""
        return self.uid == os.geteuid()

    def is_held_by(self, pid: int) -> bool:
        """Whether this very process listens."""
        return pid in self.pids or bool(self.inode) and f"socket:[{self.inode}]" in _open_by(pid)

    def __str__(self) -> str:
        if self.is_mine:
            return "another program of yours"
        with suppress(KeyError):
            if self.uid is not None:
                return f"a program of {pwd.getpwuid(self.uid).pw_name}"
        return "a program that is not yours"


def listener(port: int) -> Listener | None:
    """Who takes a connection to 127.0.0.1 at this port; None when nobody does."""
    found = _in_tables(port) if TABLES[0].exists() else _by_lsof(port)
    return found or (Listener(None) if _connects(port) else None)


def is_free(port: int) -> bool:
    """Whether a server can listen there: somebody's outgoing connection may have the port as well."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _in_tables(port: int) -> Listener | None:
    found = {}
    for table in TABLES:
        for address, uid, inode in _rows(table):
            place, _, number = address.partition(":")
            if int(number, 16) == port and place in _LOOPBACK:
                found[_LOOPBACK.index(place)] = Listener(uid, inode)
    return found[min(found)] if found else None


def _rows(table: Path) -> Iterator[tuple[str, int, str]]:
    """Address, user and inode of each listening socket.

    https://www.kernel.org/doc/html/latest/networking/proc_net_tcp.html
    """
    with suppress(OSError):
        for line in table.read_text(encoding="ascii", errors="replace").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == LISTENING:
                yield fields[1], int(fields[7]), fields[9]


def _by_lsof(port: int) -> Listener | None:
    """Without /proc. Ordinary users see their own processes alone, so what is not listed is somebody else's."""
    words = ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpu"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=LSOF_S, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    pids = frozenset(int(line[1:]) for line in said.splitlines() if line.startswith("p"))
    uids = {int(line[1:]) for line in said.splitlines() if line.startswith("u")}
    return Listener(uids.pop() if len(uids) == 1 else None, pids=pids) if pids else None


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), CONNECT_S).close()
    except OSError:
        return False
    return True


def _open_by(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                yield os.readlink(f"{folder}/{name}")
