"""Roles: who may act by each, and what each may do, statement by statement."""

from __future__ import annotations

import json
from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.clouds.aws.foundation import POLICY, Names, find_policy, find_profile, find_role, unless_absent
from sojourn.clouds.aws.policies import Document


class Role:
    """A role with one policy of ours; policies that somebody attached beside it stay."""

    def __init__(self, clients: Clients, name: str, trust: Document, policy: Document) -> None:
        self.title = f"role {name}"
        self._name = name
        self._trust = trust
        self._policy = policy
        self._clients = clients

    def wanted(self) -> dict[str, Any]:
        """What it should be: who acts by it, and each statement by its name."""
        return _aspects(self._trust, self._policy)

    def standing(self) -> dict[str, Any] | None:
        """What it is; None while there is none."""
        role = find_role(self._clients, self._name)
        if role is None:
            return None
        return _aspects(role["AssumeRolePolicyDocument"], find_policy(self._clients, self._name) or {"Statement": []})

    def make(self, has: dict[str, Any] | None) -> None:
        """Create it, or put its documents right."""
        iam, trust = self._clients.client("iam"), json.dumps(self._trust)
        with translated(f"make {self.title}"):
            if has is None:
                about = "Made by sojourn setup aws"
                iam.create_role(RoleName=self._name, AssumeRolePolicyDocument=trust, Description=about)
            else:
                iam.update_assume_role_policy(RoleName=self._name, PolicyDocument=trust)
            iam.put_role_policy(RoleName=self._name, PolicyName=POLICY, PolicyDocument=json.dumps(self._policy))

    def remove(self) -> None:
        """Delete it with its policy; Amazon refuses one to which somebody attached another."""
        iam = self._clients.client("iam")
        policy = {"RoleName": self._name, "PolicyName": POLICY}
        unless_absent(f"delete the policy of {self.title}", lambda: iam.delete_role_policy(**policy))
        with translated(f"delete {self.title}"):
            iam.delete_role(RoleName=self._name)


class Profile:
    """The instance profile that hands the machine role to machines."""

    def __init__(self, clients: Clients, names: Names) -> None:
        self.title = f"instance profile {names.machine_role}"
        self._name = names.machine_role
        self._clients = clients

    def wanted(self) -> dict[str, Any]:
        """What it should be."""
        return {"role": self._name}

    def standing(self) -> dict[str, Any] | None:
        """What it is; None while there is none, or while it has no role."""
        found = find_profile(self._clients, self._name)
        return {"role": found["Roles"][0]["RoleName"]} if found else None

    def make(self, has: dict[str, Any] | None) -> None:
        """Create it with its role. EC2 knows it a while later, up to two minutes, for which a run asks again."""
        iam = self._clients.client("iam")
        profile = {"InstanceProfileName": self._name}
        with translated(f"make {self.title}"):
            if unless_absent(f"look at {self.title}", lambda: iam.get_instance_profile(**profile)) is None:
                iam.create_instance_profile(**profile)
            if has is not None:
                iam.remove_role_from_instance_profile(**profile, RoleName=has["role"])
            iam.add_role_to_instance_profile(**profile, RoleName=self._name)

    def remove(self) -> None:
        """Take its role out, then delete it."""
        iam, profile = self._clients.client("iam"), {"InstanceProfileName": self._name}
        with translated(f"delete {self.title}"):
            iam.remove_role_from_instance_profile(**profile, RoleName=self._name)
            iam.delete_instance_profile(**profile)


class SpotRole:
    """The role by which EC2 itself manages spot machines; the console makes it in passing, the API does not.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html
    """

    title = "role AWSServiceRoleForEC2Spot"

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def wanted(self) -> dict[str, Any]:
        """What it should be: the service's own."""
        return {"service": "spot.amazonaws.com"}

    def standing(self) -> dict[str, Any] | None:
        """What it is; None while there is none."""
        with translated(f"look for {self.title}"):
            found = self._clients.client("iam").list_roles(PathPrefix="/aws-service-role/spot.amazonaws.com/")
        return self.wanted() if found["Roles"] else None

    def make(self, has: dict[str, Any] | None) -> None:
        """Ask Amazon to make it."""
        with translated(f"make {self.title}"):
            self._clients.client("iam").create_service_linked_role(AWSServiceName="spot.amazonaws.com")

    def remove(self) -> None:
        """It is Amazon's own and stays: others' spot machines need it too."""


def _aspects(trust: Document, policy: Document) -> dict[str, Any]:
    allowed = {one.get("Sid") or f"statement {number}": one for number, one in enumerate(policy["Statement"])}
    return {"trusts": trust["Statement"], **allowed}
