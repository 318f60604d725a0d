"""One machine: processes in namespaces of their own, over a root that is this machine's with an empty layer on top.

The guest's first process is `guest/init.py`. It says when it stands, is told when its network is
there, and its exit code says why it went.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from clouds.aws.machines import Machine

GUEST = Path(__file__).parent / "guest"
BOOT_LIMIT_S = 30.0
LEAVE_LIMIT_S = 5.0
POWERED_OFF, REBOOTED = 42, 43
# Asked of the guest's first process, which listens for them.
POWER_OFF_SIGNAL = signal.SIGRTMIN + 4


@dataclass(frozen=True)
class Image:
    """What every host of this cloud is made of."""

    work: Path  # hosts' files, one folder each
    authority: Path
    authority_name: str
    hide: tuple[Path, ...] = ()  # folders of this machine that a host sees empty
    keep: tuple[Path, ...] = ()  # folders that it sees nevertheless, read-only
    path: tuple[Path, ...] = ()  # what comes first on the PATH of user data
    python: str = "/usr/bin/python3"


@dataclass
class Host:
    machine: Machine
    image: Image
    group: Path  # its control group
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def folder(self) -> Path:
        return self.image.work / self.machine.id

    @property
    def console(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "console.log").read_bytes()
        return b""

    @property
    def pid(self) -> int:
        """A process in the host's network; the host is gone when it is."""
        assert self._process is not None
        return self._process.pid

    def prepare(self, grace_s: float) -> None:
        """Start its processes, without a network yet. Raises OSError when they do not stand in time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.group.mkdir(exist_ok=True)
        told = self._told(grace_s)
        (self.folder / "host.json").write_text(json.dumps(told))
        (self.folder / "host.sh").write_text("".join(f"{name}={_in_shell(value)}\n" for name, value in told.items()))
        standing, says = os.pipe()
        try:
            with (self.folder / "console.log").open("ab") as console:
                self._process = subprocess.Popen(
                    self._command(says),
                    stdin=subprocess.PIPE,
                    stdout=console,
                    stderr=console,
                    pass_fds=(says,),
                    start_new_session=True,
                )
        finally:
            os.close(says)
        with open(standing, "rb") as pipe:
            _wait(pipe, self.console)

    def _command(self, says: int) -> list[str]:
        # Into the group before anything is started, so that all of it is there.
        enter = f'echo $$ > {self.group}/cgroup.procs && exec "$@"'
        apart = "unshare --mount --pid --uts --ipc --net --fork --kill-child --propagation private".split()
        setup = ["/bin/bash", str(GUEST / "setup.sh"), str(self.folder), str(GUEST), self.image.python, str(says)]
        return ["/bin/sh", "-c", enter, "sh", "setpriv", "--pdeathsig", "KILL", *apart, *setup]

    def _told(self, grace_s: float) -> dict[str, object]:
        address = str(self.machine.instance.private_ip)
        return {
            "address": address,
            "name": "ip-" + address.replace(".", "-"),
            "grace_s": grace_s,
            "hide": [str(one) for one in self.image.hide],
            "keep": [str(one) for one in self.image.keep],
            "path": [str(one) for one in self.image.path],
            "authority": str(self.image.authority),
            "authority_name": self.image.authority_name,
        }

    def go(self) -> None:
        """Its network is there."""
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"go\n")
            self._process.stdin.close()

    def wait(self) -> int:
        """Until it is off; says why."""
        assert self._process is not None
        code = self._process.wait()
        # reboot(2) in a namespace ends its first process by a signal.
        return {-signal.SIGINT: POWERED_OFF, -signal.SIGHUP: REBOOTED}.get(code, code)

    def press(self) -> None:
        """The power button: the guest may shut down in order."""
        with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(self._first(), POWER_OFF_SIGNAL)

    def kill(self) -> None:
        """The plug: works on frozen processes too."""
        with contextlib.suppress(FileNotFoundError, OSError):
            (self.group / "cgroup.kill").write_text("1")

    def freeze(self, frozen: bool) -> None:
        (self.group / "cgroup.freeze").write_text("1" if frozen else "0")

    def leave(self) -> None:
        """Remove its control group, so that the next start finds none."""
        deadline = time.monotonic() + LEAVE_LIMIT_S
        while self.group.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                return self.group.rmdir()
            time.sleep(0.02)

    def wipe(self) -> None:
        """Remove its disk; the console stays."""
        for name in ("upper", "work", "root"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _first(self) -> int:
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()[0])


def _in_shell(value: object) -> str:
    return shlex.quote("\n".join(map(str, value)) if isinstance(value, list) else str(value))


def _wait(pipe: object, console: bytes) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
        said = pipe.read(1) if selector.select(BOOT_LIMIT_S) else b""  # type: ignore[attr-defined]
    if said != b"+":
        raise OSError(f"a host did not stand within {BOOT_LIMIT_S:.0f} s: {console.decode(errors='replace')[-2000:]}")
