"""A script that makes progress by the second, and writes a checkpoint of it from time to time.

It stands for `sojourn.agent.script.script.script.Script` and the processes below it. Its file is a real one,
written in place and piece by piece, so that whoever looks at the wrong moment reads half of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from simulation.world import Process
from sojourn.agent.files import Json

CHECKPOINT_S = 10.0  # the script writes one that often
PIECE_S = 0.5
PIECES = 3
SIGKILL = 9


@dataclass(frozen=True)
class Job:
    """What the script is."""

    seconds: float = 40.0
    exit_code: int = 0
    listens: bool = False  # whether it handles SIGTERM: it saves, and ends
    upload_s: float = 0.0  # how long its checkpoint is on its way to the store
    prints: bool = False


class Script:
    """One rank of a job, with its checkpoint in `file`."""

    cwd = "/"
    aborted = False
    asked = False  # to end, before it did

    def __init__(self, process: Process, job: Job, file: Path) -> None:
        self._process = process
        self._job = job
        self._file = file
        self._progress = progress_in(file.read_bytes()) or 0 if file.exists() else 0
        self._saving: int | None = None  # the inode that is being written
        self._asked = False
        self.started_at = process.clock.now()
        self.alive_at = self.started_at
        self.status: int | None = None
        self.killed = False

    def start(self) -> None:
        self._process.thread(self._run)

    def being_written(self) -> set[int]:
        """What /proc would say."""
        return set() if self._saving is None else {self._saving}

    def poll(self) -> int | None:
        if self.status is None:
            self.alive_at = self._process.clock.now()
        return self.status

    def stop(self, grace: float, stacks_s: float = 0.0) -> None:
        """SIGTERM, where it listens, and SIGKILL."""
        self.asked = self.poll() is None
        self._asked = self._job.listens
        if self._asked and grace > 2 * PIECES * PIECE_S and self.status is None:
            while self._saving is not None:
                self._process.sleep(PIECE_S)
            self._save()
            self.status = 0 if self.status is None else self.status
        self.end()

    def end(self) -> None:
        if self.poll() is None:
            self.killed, self.status, self._saving = True, SIGKILL, None

    def ended(self) -> tuple[int | None, str | None]:
        if self.status is None:
            return None, None
        return (137, "SIGKILL") if self.status == SIGKILL else (self.status >> 8, None)

    def ranks(self) -> list[Json]:
        return []

    def pids(self) -> list[int]:
        return []

    def tail(self, rank: int) -> bytes:
        return b""

    def _run(self) -> None:
        while self._progress < self._job.seconds:
            seconds = min(CHECKPOINT_S, self._job.seconds - self._progress)
            self._process.sleep(seconds)
            if self.status is not None or self._asked:
                return
            self._progress += int(seconds)
            if self._progress < self._job.seconds:
                self._save()
        self._save()
        if self.status is None and not self._asked:
            self.status = self._job.exit_code << 8

    def _save(self) -> None:
        self._file.parent.mkdir(exist_ok=True)
        for piece in range(PIECES):
            self._write(f"{self._progress}"[:piece])
            self._saving = self._file.stat().st_ino
            self._process.sleep(PIECE_S)
            if self.status is not None:
                return
        self._write(f"{self._progress}\n")
        self._saving = None

    def _write(self, text: str) -> None:
        self._file.write_text(text)
        at = int(self._process.clock.now() * 1e9)
        os.utime(self._file, ns=(at, at))


def progress_in(checkpoint: bytes) -> int | None:
    """The progress that a checkpoint holds; None when only a part of it was written."""
    return int(checkpoint) if checkpoint.endswith(b"\n") else None
