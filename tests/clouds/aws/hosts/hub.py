"""The cloud's network: a namespace of its own, into which this process moves, with a cable to each machine.

Sockets stay in the namespace where they were made, so the door that was opened before is still
reached from outside, and the machine's own network gets no interface, route or rule. Machines are
routed one by one (/32), without a shared segment, as in a VPC.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import threading
from pathlib import Path

from clouds.aws.hosts.firewall import METADATA, RESOLVER, S3, SERVICES, Port, rules
from clouds.aws.machines import Machine

CLONE_NEWNET = 0x40000000
COMMAND_LIMIT_S = 20.0


class Hub:
    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}
        self._rules = ""
        self._lock = threading.Lock()

    def move_in(self) -> None:
        """Give this thread, and all that it starts from now on, the hub's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        addresses = [f"addr add {address}/32 dev lo" for address in (METADATA, RESOLVER, S3, SERVICES)]
        _ip("link set lo up", *addresses)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self.guard()

    def listen(self, address: str, port: int) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(256)
        return listening

    def listen_for_names(self) -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind((RESOLVER, 53))
        return listening

    def plug_in(self, machine: Machine, pid: int) -> None:
        """A cable from here to `eth0` of that process's network."""
        name, address = _cable(machine), machine.instance.private_ip
        hardware = machine.instance.nics[0].mac_address
        _ip(
            f"link add {name} type veth peer name eth0 address {hardware} netns {pid}",
            f"link set {name} up",
            f"route replace {address}/32 dev {name}",
        )
        Path(f"/proc/thread-self/root/proc/sys/net/ipv4/conf/{name}/proxy_arp").write_text("1")
        with self._lock:
            self._ports[machine.id] = Port(name, machine)
        self.guard()

    def unplug(self, machine: Machine) -> None:
        with self._lock:
            port = self._ports.pop(machine.id, None)
        if port:
            subprocess.run(["ip", "link", "del", port.name], capture_output=True, timeout=COMMAND_LIMIT_S)
        self.guard()

    def cut(self, machine: Machine) -> None:
        _ip(f"link set {_cable(machine)} down")

    def mend(self, machine: Machine) -> None:
        name = _cable(machine)
        _ip(f"link set {name} up", f"route replace {machine.instance.private_ip}/32 dev {name}")

    def guard(self) -> None:
        """Bring the rules in line with the security groups as they are now."""
        with self._lock:
            wanted = rules(list(self._ports.values()))
            if wanted == self._rules:
                return
            _run(["iptables-restore"], wanted)
            self._rules = wanted

    def machine_at(self, address: str) -> Machine | None:
        """Who calls from there."""
        with self._lock:
            ports = list(self._ports.values())
        return next((port.machine for port in ports if port.machine.instance.private_ip == address), None)


def address_of(name: str) -> str:
    """Where a name of Amazon's leads: S3 has an address of its own, for gateway endpoints."""
    return S3 if ".s3." in f".{name}" or ".s3-" in f".{name}" else SERVICES


def _cable(machine: Machine) -> str:
    return "v" + machine.id[-12:]


def _ip(*commands: str) -> None:
    _run(["ip", "-batch", "-"], "\n".join(commands) + "\n")


def _run(command: list[str], said: str) -> None:
    done = subprocess.run(command, input=said, text=True, capture_output=True, timeout=COMMAND_LIMIT_S)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}\n{said}")
