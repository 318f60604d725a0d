"""The security group of a region's machines: they hear each other, and nobody else."""

from __future__ import annotations

from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.clouds.aws.foundation import GROUP, default_vpc, find_group

EVERYTHING = "everything"
_OUT = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


class MachineGroup:
    """A security group in the default network; a rule that opens it is taken away."""

    def __init__(self, clients: Clients, region: str) -> None:
        self.title = f"security group {GROUP} in {region}"
        self._clients = clients
        self._region = region
        self._ec2 = clients.client("ec2", region)
        self._vpc = default_vpc(clients, region)

    def wanted(self) -> dict[str, Any]:
        """What it should be, by aspect."""
        return {"network": self._vpc, "inbound": [f"{EVERYTHING} from its own members"], "outbound": [EVERYTHING]}

    def standing(self) -> dict[str, Any] | None:
        """What it is; None while there is none."""
        found = self._find()
        if found is None:
            return None
        inbound = [text for rule in found["IpPermissions"] for text in _rule_texts(rule, found["GroupId"])]
        return {"network": found["VpcId"], "inbound": inbound, "outbound": _outbound(found)}

    def make(self, has: dict[str, Any] | None) -> None:
        """Create it, or close what was opened."""
        with translated(f"make {self.title}"):
            if has is None:
                self._create()
            found = self._find()
            assert found is not None
            group, own = found["GroupId"], _own(found["GroupId"])
            foreign = [rule for rule in found["IpPermissions"] if _rule_texts(rule, group) != _rule_texts(own, group)]
            if foreign:
                self._ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=foreign)
            if len(foreign) == len(found["IpPermissions"]):
                self._ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[own])
            if _outbound(found) != [EVERYTHING]:
                self._ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[_OUT])

    def remove(self) -> None:
        """Delete it; Amazon refuses while a machine is in it."""
        found = self._find()
        if found is not None:
            with translated(f"delete {self.title}"):
                self._ec2.delete_security_group(GroupId=found["GroupId"])

    def _find(self) -> dict[str, Any] | None:
        return find_group(self._clients, self._vpc, self._region)

    def _create(self) -> None:
        self._ec2.create_security_group(
            GroupName=GROUP,
            Description="Machines that Sojourn rents: they hear each other and nobody else",
            VpcId=self._vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": [{"Key": "Name", "Value": GROUP}]}],
        )


def _own(group: str) -> dict[str, Any]:
    return {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}


def _outbound(group: dict[str, Any]) -> list[str]:
    """What members may reach; beside everything nothing else needs to be said."""
    texts = [text for rule in group["IpPermissionsEgress"] for text in _rule_texts(rule, group["GroupId"])]
    return [EVERYTHING] if f"{EVERYTHING} from 0.0.0.0/0" in texts else [one.replace(" from ", " to ") for one in texts]


def _rule_texts(rule: dict[str, Any], group: str) -> list[str]:
    """A rule as one text for each of those it lets in."""
    what = EVERYTHING if rule["IpProtocol"] == "-1" else f"{rule['IpProtocol']} {_ports(rule)}"
    others = [one["CidrIp"] for one in rule.get("IpRanges", [])]
    others += [one["CidrIpv6"] for one in rule.get("Ipv6Ranges", [])]
    others += [one["PrefixListId"] for one in rule.get("PrefixListIds", [])]
    others += ["its own members" if one["GroupId"] == group else one["GroupId"] for one in rule["UserIdGroupPairs"]]
    return [f"{what} from {one}" for one in others]


def _ports(rule: dict[str, Any]) -> str:
    first, last = rule.get("FromPort"), rule.get("ToPort")
    return str(first) if first == last else f"{first}-{last}"
