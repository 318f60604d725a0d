"""Security groups and ways out, as rules of iptables in the hub.

A packet between machines must pass the sender's rules outwards and the receiver's inwards;
answers pass. Amazon's services are reached with a public address, or S3 alone through a gateway
endpoint of the VPC. The metadata service and the resolver are beyond security groups, as at Amazon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clouds.aws.machines import Machine

METADATA, RESOLVER, SERVICES, S3 = "169.254.169.254", "172.31.0.2", "172.31.0.1", "172.31.0.3"


@dataclass(frozen=True)
class Port:
    """Where a machine is plugged in."""

    name: str  # of the interface in the hub
    machine: Machine

    @property
    def groups(self) -> list[Any]:
        groups = {group.id: group for nic in self.machine.instance.nics.values() for group in nic.group_set}
        return list(groups.values())


def rules(ports: list[Port]) -> str:
    """All rules, for iptables-restore."""
    lines = ["*filter", ":INPUT DROP", ":FORWARD DROP", ":OUTPUT ACCEPT"]
    lines += [f":{way}-{port.name} -" for port in ports for way in ("in", "out")]
    for port in ports:
        lines += _chain(f"out-{port.name}", port, ports, "-d", "RETURN")
        lines += _chain(f"in-{port.name}", port, ports, "-s", "ACCEPT")
    established = "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
    lines += [f"-A INPUT {established}", f"-A FORWARD {established}", "-A INPUT -i lo -j ACCEPT"]
    lines += [f"-A INPUT -d {METADATA} -p tcp --dport 80 -j ACCEPT", f"-A INPUT -d {RESOLVER} -p udp -j ACCEPT"]
    lines += [f"-A FORWARD -i {port.name} -j out-{port.name}" for port in ports]
    lines += [f"-A FORWARD -o {port.name} -j in-{port.name}" for port in ports]
    for port in ports:
        lines.append(f"-A INPUT -i {port.name} -j out-{port.name}")
        lines += [f"-A INPUT -i {port.name} -d {address} -p tcp -j ACCEPT" for address in _ways_out(port)]
    return "\n".join([*lines, "COMMIT", ""])


def _chain(name: str, port: Port, ports: list[Port], side: str, verdict: str) -> Iterator[str]:
    for group in port.groups:
        for rule in group.ingress_rules if side == "-s" else group.egress_rules:
            for source in _peers(rule, ports):
                yield f"-A {name} {side} {source} {_what(rule)} -j {verdict}"
    yield f"-A {name} -j DROP"


def _peers(rule: Any, ports: Iterable[Port]) -> list[str]:
    peers = [rule.cidr_ipv4] if rule.cidr_ipv4 else []
    member_of = (rule.source_group or {}).get("GroupId")
    if member_of:
        members = [port for port in ports if any(group.id == member_of for group in port.groups)]
        peers += [str(port.machine.instance.private_ip) for port in members]
    return peers


def _what(rule: Any) -> str:
    protocol = str(rule.ip_protocol)
    if protocol == "-1":
        return ""
    if protocol in ("tcp", "udp") and rule.from_port not in (None, -1):
        return f"-p {protocol} --dport {rule.from_port}:{rule.to_port}"
    return f"-p {protocol}"


def _ways_out(port: Port) -> list[str]:
    if port.machine.instance.public_ip:
        return [SERVICES, S3]
    vpc = port.machine.instance.vpc_id
    endpoints = port.machine.backend.vpc_end_points.values()
    return [S3] if any(one.vpc_id == vpc and one.service_name.endswith(".s3") for one in endpoints) else []
