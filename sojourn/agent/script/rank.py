"""The keeper of one rank: stands between torchrun and the script, and notes how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import subprocess
import threading
import time

from sojourn.agent import files
from sojourn.agent.host.processes import die_with_parent, signal_name


class Rank:
    """Stands between torchrun and one rank, to see when and how it ends and what it said last.

    torchrun's own summary names the wrong rank when two die within its 0.1 s poll.
    """

    PIECE = 4096  # a pipe takes this much in one piece, so lines of two ranks do not mix
    KEPT = 64 << 10

    def __init__(self, records: str, argv: list[str]) -> None:
        self._rank = os.environ.get("RANK", "0")
        self._records = records
        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        self._prefix = b"" if alone else f"[rank {self._rank}] ".encode()
        self._argv = argv
        self._partial = b""
        self._midline = False
        self._tail = b""
        self._ended: tuple[float, int] | None = None

    def run(self) -> int:
        """Start the rank, relay what it prints, and end as it ends."""
        with contextlib.suppress(OSError):
            os.makedirs(self._records, exist_ok=True)
        reading, writing = os.pipe()
        self._wake, self._waker = os.pipe()
        try:
            child = subprocess.Popen(self._argv, stdout=writing, stderr=writing, preexec_fn=die_with_parent)
        except OSError as error:
            os.write(1, f"cannot start {self._argv[0]!r}: {error.strerror}\n".encode())
            self._record(127, b"")
            return 127
        os.close(writing)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda got, _frame: _pass_on(child.pid, got))
        with contextlib.suppress(OSError):  # a disk that the script has filled is no reason to end it
            self._write(f"{self._rank}.pid.new", str(child.pid).encode())
            os.rename(self._name(f"{self._rank}.pid.new"), self._name(f"{child.pid}.pid"))
        threading.Thread(target=self._await, args=(child,), daemon=True).start()
        self._relay(reading)
        return self._end()

    def _await(self, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        self._ended = (time.time(), code)
        os.write(self._waker, b".")

    def _relay(self, reading: int) -> None:
        while True:
            ready = select.select([reading] if self._ended else [reading, self._wake], [], [], 0.3)[0]
            if reading in ready:
                chunk = os.read(reading, 1 << 16)
                if not chunk:
                    break
                self._tail = (self._tail + chunk)[-self.KEPT :]
                self._lines(chunk)
            elif not ready:
                self._flush()
                if self._ended:  # a daemon of the rank may hold the pipe for ever
                    break
            if self._ended:
                self._note()
        self._flush()
        while self._ended is None:
            time.sleep(0.005)

    def _lines(self, chunk: bytes) -> None:
        """Relay whole lines in pieces that a pipe takes at once; a bar's carriage return ends a line too."""
        lines = re.split(rb"(?<=\n)|(?<=\r)(?=[^\n])", self._partial + chunk)
        self._partial = lines.pop()
        piece = b""
        for line in lines:
            if len(piece) + len(line) > self.PIECE:
                self._out(piece)
                piece = b""
            piece += line if self._midline else self._prefix + line
            self._midline = False
        self._out(piece)
        if len(self._partial) > self.KEPT:
            self._flush()

    def _flush(self) -> None:
        """Relay the unfinished line as it is."""
        if self._partial:
            self._out(self._partial if self._midline else self._prefix + self._partial)
            self._partial, self._midline = b"", True

    def _out(self, piece: bytes) -> None:
        while piece:
            piece = piece[os.write(1, piece) :]

    def _note(self) -> None:
        """The record of the end, as soon as it is known: others wait for it."""
        assert self._ended is not None
        if not os.path.exists(self._name(f"{self._rank}.json")):
            self._record(self._ended[1], self._tail, self._ended[0])

    def _record(self, code: int, tail: bytes, at: float | None = None) -> None:
        name = signal_name(-code) if code < 0 else None
        shell = 128 - code if code < 0 else code
        record = {"rank": int(self._rank), "exit_code": shell, "signal": name, "at": at or time.time()}
        with contextlib.suppress(OSError):  # the record is more than the tail
            self._write(f"{self._rank}.tail", tail)
        with contextlib.suppress(OSError):
            files.write(self._name(f"{self._rank}.json"), record, sync=False)

    def _end(self) -> int:
        assert self._ended is not None
        code = self._ended[1]
        self._record(code, self._tail, self._ended[0])
        if code >= 0:
            return code
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        time.sleep(1.0)
        return 128 - code

    def _name(self, name: str) -> str:
        return os.path.join(self._records, name)

    def _write(self, name: str, body: bytes) -> None:
        with open(self._name(name), "wb") as file:
            file.write(body)


def _pass_on(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)
