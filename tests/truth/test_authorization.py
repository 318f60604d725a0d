"""Every policy that `sojourn setup aws --print` names, held against Amazon's service-authorization data.

Each action, resource type and condition key must be one that Amazon has.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import pytest

from sojourn.clouds.aws import administrator, policies
from sojourn.clouds.aws.foundation import Names

iam_data = pytest.importorskip("policy_sentry.shared.iam_data", reason="policy_sentry is of the extra `dev`")

NAMES = Names("123456789012", "us-east-1", "digits", "s3://acme-own/team")
REMOTES = ["s3://acme-data/dvc", "s3://acme-whole"]
# Of every service: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html
EVERYWHERE = {"aws:SourceAccount", "aws:SecureTransport"}

# What a page asks for and the data lacks: EC2 User Guide, "Work with Spot Instances", for requests with tags.
ELSEWHERE = {"ec2:RunInstances": ("spot-instances-request",)}


def documents() -> dict[str, Any]:
    printed = policies.printed(NAMES, REMOTES)
    roles = printed["roles"] | printed["optional_roles"]
    return {
        "who_runs_sojourn": printed["who_runs_sojourn"],
        "who_sets_up": administrator.policy(NAMES),
        "bucket": printed["bucket"]["policy"],
        **{f"trust of {name}": role["trust"] for name, role in roles.items()},
        **{name: document for name, role in roles.items() for document in role["policies"].values()},
    }


@pytest.mark.parametrize("name", documents())
def test_amazon_knows_each_action_resource_and_condition(name: str) -> None:
    assert [said for statement in documents()[name]["Statement"] for said in unknown(statement)] == []


def test_what_amazon_does_not_know_is_told() -> None:
    statement = {
        "Sid": "Odd", "Action": ["ec2:TerminateInstances", "ec2:ConsoleOutput"],
        "Resource": ["arn:aws:ec2:*:1:instance/*", "arn:aws:ec2:*:1:volume/*"],
        "Condition": {"StringLike": {"ec2:Colour": "red"}},
    }  # fmt: skip
    assert list(unknown(statement)) == [
        "Odd: there is no ec2:ConsoleOutput",
        "Odd: none of its actions is for arn:aws:ec2:*:1:volume/*",
        "Odd: ec2:TerminateInstances is not asked for ec2:Colour",
    ]


def unknown(statement: dict[str, Any]) -> Iterator[str]:
    """What of a statement Amazon does not have."""
    sid, actions = statement.get("Sid", "trust"), _listed(statement["Action"])
    resources = _listed(statement.get("Resource", "*"))
    known = [action for action in actions if action == "s3:*" or _data(action)]
    yield from (f"{sid}: there is no {action}" for action in actions if action not in known)
    if "s3:*" in known:
        return
    for resource in resources:
        if any(resource.endswith(f":{kind}/*") for action in known for kind in ELSEWHERE.get(action, ())):
            continue
        if resource != "*" and not any(_fits(action, resource) for action in known):
            yield f"{sid}: none of its actions is for {resource}"
    for action in known:
        if "*" not in resources and not any(_fits(action, resource) for resource in resources):
            yield f"{sid}: {action} is for none of its resources"
        keys = [key for operator in statement.get("Condition", {}).values() for key in operator]
        yield from (f"{sid}: {action} is not asked for {key}" for key in keys if not _asked(action, resources, key))


def _data(action: str) -> Any:
    service, name = action.split(":")
    return (iam_data.get_service_prefix_data(service) or {"privileges": {}})["privileges"].get(name)


def _fits(action: str, resource: str) -> list[Any]:
    """The resource types of an action that an ARN may be of."""
    types = iam_data.get_service_prefix_data(action.split(":")[0])["resources"]
    kinds = [one for one in _data(action)["resource_types"].values() if one["resource_type"]]
    return [one for one in kinds if _matches(types[one["resource_type"]]["arn"], resource)]


def _matches(template: str, resource: str) -> bool:
    example = re.sub(r"\$\{\w+\}", "x", template.replace("${Partition}", "aws").replace("${Account}", NAMES.account))
    inside = {"ObjectName": ".+", "BucketName": "[^/:]+", "Account": "[^:]*"}  # Amazon's own parameters have no account
    parts = re.split(r"\$\{(\w+)\}", template)
    pattern = "".join(
        re.escape(part) if number % 2 == 0 else inside.get(part, "[^:]+") for number, part in enumerate(parts)
    )
    return fnmatchcase(example, resource) or re.fullmatch(pattern, resource.replace("*", "x")) is not None


def _asked(action: str, resources: list[str], key: str) -> bool:
    kinds = [one for resource in resources for one in _fits(action, resource)]
    every = _data(action)["resource_types"]
    kinds += [every[""]] if "" in every else []
    kinds = list(every.values()) if "*" in resources else kinds
    known = EVERYWHERE | {one for kind in kinds for one in kind["condition_keys"]}
    return key in known or any(one.endswith("/${TagKey}") and key.startswith(one[:-9]) for one in known)


def _listed(word: Any) -> list[str]:
    return [word] if isinstance(word, str) else list(word)
