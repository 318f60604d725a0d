"""The local provider's world for tests: real processes below one directory.

It counts processes by their command lines, not by the provider's own marks and records.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sojourn.agent import files
from sojourn.names import LeaseName
from sojourn.providers.contract import Request
from sojourn.providers.local import Isolation, LocalProvider

STANDIN = Path(__file__).with_name("standin_agent.py")
CREATE = """
import json, sys
from pathlib import Path
from sojourn.providers.local import LocalProvider
request = json.load(sys.stdin)
LocalProvider(Path(sys.argv[1]), Path(sys.argv[2])).create(request)
"""


class LocalWorld:
    def __init__(self, home: Path, isolation: Isolation | None = None) -> None:
        self.home = home
        self.isolation = isolation
        self.starts = home.parent / "starts"
        self.strangers = [home / "machines" / name for name in ("my-data", "sojourn-quiet-heron-7f3a-1-0-0000")]

    def provider(self) -> LocalProvider:
        return LocalProvider(self.home, STANDIN, self.isolation)

    def now(self) -> float:
        return time.time()

    def wait(self, done: Callable[[], bool], limit_s: float = 60.0) -> None:
        until = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > until:
                pytest.fail(f"still not after {limit_s} s; alive: {self.alive()}; {self.logs()}")
            time.sleep(0.02)

    def settle(self) -> None:
        """Every supervisor that was started has made up its mind: its agent runs, or it has left."""

        def decided() -> bool:
            supervisors = [line for line in self.alive().values() if "--agent" in line and " init " not in line]
            folders = {Path(line.split(" --agent")[0].split(" supervise ", 1)[-1]) for line in supervisors}
            return len(folders) == len(supervisors) and all((folder / "work/ready").exists() for folder in folders)

        self.wait(decided)

    def billable(self) -> int:
        lines = self.alive().values()
        return sum(any(f"{folder}" in line for line in lines) for folder in self.folders())

    def rented(self) -> int:
        return len(self.starts.read_text().splitlines()) if self.starts.exists() else 0

    def end_machines(self, name: str) -> None:
        for folder in (self.home / "machines" / name).iterdir():
            if folder.is_dir():
                (folder / "end").touch()

    def create_and_lose_the_response(self, request: Request) -> None:
        assert self._creator(request).wait() == 0

    def create_twice_at_once(self, request: Request) -> None:
        creators = [self._creator(request) for _ in range(2)]
        assert [creator.wait() for creator in creators] == [0, 0]

    def half_make(self, request: Request) -> None:
        folder = self.home / "machines" / request["token"]
        (folder / "0").mkdir(parents=True)
        (folder / "request.json").write_text(json.dumps(request))

    def exhaust(self, request: Request, after: int) -> None:
        folder = self.home / "machines" / request["token"]
        folder.mkdir(parents=True)
        (folder / str(after)).write_text("a file where the machine's directory would be")

    def add_strangers(self) -> None:
        for folder in self.strangers:
            (folder / "0" / "work").mkdir(parents=True)
            (folder / "request.json").write_text("{}")

    def strangers_untouched(self) -> bool:
        found = [sorted(entry.name for entry in folder.rglob("*")) for folder in self.strangers]
        return found == [["0", "request.json", "work"]] * len(found)

    def written(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.home.rglob("*")) if path.is_file())

    # -- beyond the contract --

    def folders(self) -> list[Path]:
        return [folder for folder in (self.home / "machines").glob("*/*") if folder.name.isdecimal()]

    def alive(self, word: str = "") -> dict[int, str]:
        """The command lines that name this home, by pid; zombies have none."""
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if f"{self.home}/machines" in line and word in line:
                    found[int(entry)] = line
        return found

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.home.rglob("*.log"))

    def clean(self) -> None:
        for lease in self.home.glob("machines/*"):
            if LeaseName.parse(lease.name):
                self.provider().release(lease.name)
        for pid in self.alive():
            os.kill(pid, 9)

    def _creator(self, request: Request) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CREATE, str(self.home), str(STANDIN)]
        creator = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert creator.stdin
        creator.stdin.write(json.dumps(request).encode())
        creator.stdin.close()
        return creator


def state_of(folder: Path) -> dict[str, object]:
    """A machine's state file."""
    return files.read(str(folder / "state.json")) or {}
