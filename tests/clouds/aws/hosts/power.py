"""Turns hosts on and off as instances come and go, and breaks them when a test asks.

Each host has a thread that boots it and waits for its end: the kernel kills a host whose thread is
gone, so none survives this process. A caretaker outside sweeps up what a killed process leaves.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from clouds.aws.hosts.certificates import Authority
from clouds.aws.hosts.host import REBOOTED, Host, Image
from clouds.aws.hosts.hub import Hub
from clouds.aws.machines import Machine, Machines

GUARD_EVERY_S = 0.3
CLEAR_LIMIT_S = 10.0
# Waits until this process is gone, however it goes, and removes its files and control groups.
_CARETAKER = """
read _
for try in 1 2 3 4 5 6 7 8 9 10; do
  rmdir "$2"/* "$2" 2>/dev/null
  [ -d "$2" ] || break
  echo 1 > "$2/cgroup.kill"
  sleep 0.1
done
rm -rf "$1"
"""


class HostPower:
    """The `Power` of a cloud whose machines run."""

    def __init__(self, machines: Machines, hub: Hub, *, hide: tuple[Path, ...]) -> None:
        self._machines, self._hub = machines, hub
        self._hosts: dict[str, Host] = {}  # of ended ones too, for their consoles
        self._living: set[str] = set()
        self._work = Path(tempfile.mkdtemp(prefix=f"sojourn-aws-{os.getpid()}-"))
        self._groups = _control_groups() / f"sojourn-aws-{os.getpid()}"
        self._groups.mkdir()
        self.authority = Authority(self._work)
        self._image = Image(
            work=self._work,
            authority=self.authority.ca,
            authority_name=self.authority.hashed_name(),
            hide=hide,
            keep=_lying_in((*hide, Path("/tmp"), Path("/run")), {Path(sys.prefix), Path(sys.base_prefix)}),
            path=(Path(sys.prefix) / "bin",),
            python=os.path.realpath(sys.executable),
        )
        self._caretaker = _keep_clean(self._work, self._groups)
        threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def on(self, machine: Machine) -> None:
        self._living.add(machine.id)
        threading.Thread(target=self._live, args=(machine,), name=machine.id, daemon=True).start()

    def off(self, machine: Machine) -> None:
        threading.Thread(target=self._end, args=(machine,), daemon=True).start()

    def console(self, machine: Machine) -> bytes:
        host = self._hosts.get(machine.id)
        return host.console if host else b""

    def freeze(self, machine: Machine, frozen: bool) -> None:
        self._host(machine).freeze(frozen)

    def partition(self, machine: Machine, cut: bool) -> None:
        self._hub.cut(machine) if cut else self._hub.mend(machine)

    def crash(self, machine: Machine) -> None:
        """All of its processes are gone, and the cloud does not notice: it goes on running, and costing."""
        machine.crashed = True
        self._host(machine).kill()

    def clear(self) -> None:
        deadline = time.monotonic() + CLEAR_LIMIT_S
        while self._living:
            for machine_id in list(self._living):
                with contextlib.suppress(KeyError):
                    self._hosts[machine_id].kill()
            if time.monotonic() > deadline:
                raise TimeoutError(f"hosts are still there: {', '.join(self._living)}")
            time.sleep(0.02)
        self._hosts.clear()

    def close(self) -> None:
        """End every host and leave nothing."""
        with contextlib.suppress(TimeoutError):
            self.clear()
        self._caretaker.communicate(timeout=CLEAR_LIMIT_S)

    def _host(self, machine: Machine) -> Host:
        host = self._hosts.get(machine.id)
        if host is None:
            raise LookupError(f"{machine.id} has no host")
        return host

    def _live(self, machine: Machine) -> None:
        time.sleep(self._machines.timing.boot_s)
        if machine.state != "pending":  # ended before it began
            self._living.discard(machine.id)
            return self._machines.is_down(machine)
        host = Host(machine, self._image, self._groups / machine.id)
        self._hosts[machine.id] = host
        again = True
        while again:
            again = self._lived(host) == REBOOTED and machine.state in ("pending", "running")
        while machine.crashed and machine.state in ("pending", "running"):
            time.sleep(0.05)  # until somebody ends it
        host.leave()
        self._machines.is_down(machine)
        if machine.state != "stopped":
            host.wipe()
        self._living.discard(machine.id)

    def _lived(self, host: Host) -> int:
        """From boot to the end; the reason of the end."""
        machine = host.machine
        try:
            host.prepare(self._machines.timing.grace_s)
            self._hub.plug_in(machine, host.pid)
            self._machines.is_up(machine)
            host.go()
            return host.wait()
        except OSError:
            traceback.print_exc()
            host.kill()
            return -1
        finally:
            self._hub.unplug(machine)

    def _end(self, machine: Machine) -> None:
        """In order first, by the plug when that takes too long."""
        host = self._hosts.get(machine.id)
        deadline = time.monotonic() + self._machines.timing.grace_s + 1
        if host:
            host.press()
        while machine.state in ("shutting-down", "stopping"):
            if host and time.monotonic() > deadline:
                host.kill()
            time.sleep(0.05)

    def _guard(self) -> None:
        """Security groups change at any time."""
        while True:
            time.sleep(GUARD_EVERY_S)
            try:
                self._hub.guard()
            except OSError:
                traceback.print_exc()


def _control_groups() -> Path:
    """Where version 2 of control groups is mounted: that one can freeze and kill a whole group."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise OSError("no cgroup2 is mounted")


def _lying_in(hidden: tuple[Path, ...], places: set[Path]) -> tuple[Path, ...]:
    """Those places that would be hidden with the folders that they lie in."""
    return tuple(sorted(place for place in places if any(place.is_relative_to(folder) for folder in hidden)))


def _keep_clean(work: Path, groups: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _CARETAKER, "caretaker", str(work), str(groups)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
