"""Who may do what: the policies of our roles, and of whoever runs Sojourn, as IAM's JSON documents.

Pure functions of the names and of DVC's remotes, so that an administrator can read exactly what
is asked for before it is made. Roles are global and buckets regional, so a role names the store
of each region by one pattern.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from sojourn.clouds.aws.foundation import (
    GROUP,
    POLICY,
    READ_REMOTES,
    REAPER,
    SCHEDULE_GROUP,
    SCHEDULER_ROLE,
    Names,
    orders_below,
)
from sojourn.errors import SpecError

Document = dict[str, Any]
Condition = dict[str, dict[str, str | list[str]]]

LEASE_TAG = "sojourn:lease"
HIDDEN = 32 * "?"  # `names.mint_place`: a pattern of IAM's that takes exactly so many characters
_OURS: Condition = {"StringLike": {f"aws:ResourceTag/{LEASE_TAG}": "sojourn-*"}}


def printed(names: Names, remotes: Iterable[str] = ()) -> dict[str, Any]:
    """Everything that setup makes, by name, and what whoever runs Sojourn must be allowed: for an administrator."""
    return {
        "account": names.account,
        "region": names.region,
        "project": names.project,
        "bucket": {"name": names.bucket, "policy": tls_only(f"arn:{names.partition}:s3:::{names.bucket}")},
        "security_group": {"name": GROUP, "inbound": "everything from its own members", "outbound": "everything"},
        "schedule_group": SCHEDULE_GROUP,
        "service_linked_role": "spot.amazonaws.com",
        "roles": {
            names.machine_role: {
                "trust": trust(names, "ec2"),
                "policies": {POLICY: machine(names, remotes)},
                "instance_profile": names.machine_role,
            },
            SCHEDULER_ROLE: {"trust": trust(names, "scheduler"), "policies": {POLICY: scheduler(names)}},
        },
        "optional_roles": {REAPER: {"trust": trust(names, "lambda"), "policies": {POLICY: reaper(names)}}},
        "who_runs_sojourn": orchestrator(names, remotes),
    }


def trust(names: Names, service: str) -> Document:
    """Lets one of Amazon's services act by a role, for things of this account alone."""
    statement: Document = {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    if service == "scheduler":  # the others never act for somebody else's resource, and do not say whose it is
        statement["Condition"] = {"StringEquals": {"aws:SourceAccount": names.account}}
    return document(statement)


def machine(names: Names, remotes: Iterable[str] = ()) -> Document:
    """A machine reads what its run was given, writes what it makes, and can do nothing else.

    All machines of a project act by this one role. What keeps the runs apart is that a machine is told the names of
    its own run's folders and secrets, that nobody can guess one, and that nothing here lets it list them.
    Listing is part of reading all the same: without it S3 answers 403 instead of 404 for what is not there yet.
    Secrets are under the account's own key for SSM, whose policy lets in whoever may read the parameter.
    Raises SpecError for a DVC remote that holds the store, with which machines would read all of it.
    """
    remotes = sorted(remotes)
    _check_apart(names, remotes)
    orders, results = f"{orders_below(names.project)}{HIDDEN}-", f"machine/{names.project}/{HIDDEN}-"
    by_hash = [f"control/{names.project}/blob/", f"control/{names.project}/agent/"]
    statements = [
        allow("ReadByHash", ["s3:GetObject"], _objects(names, *by_hash)),
        allow("ReadOrders", ["s3:GetObject"], _objects(names, orders)),
        allow(
            "WriteResults",
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            _objects(names, results),
        ),
        *_listing("ListOwnRun", names, orders, results),
        allow("ReadSecrets", ["ssm:GetParameters"], names.arn("ssm", f"parameter{names.secret('*', HIDDEN)}", "*")),
    ]
    return document(*statements, *_remotes(names, remotes, ["s3:GetObject"]))


def _check_apart(names: Names, remotes: Iterable[str]) -> None:
    for remote in remotes:
        if any(_holds(remote.removeprefix("s3://").strip("/"), store) for store in names.stores):
            raise SpecError(
                f"store: it lies in the DVC remote {remote}, of which machines read everything: "
                "none of them could be kept from any run",
                hint="keep runs in another bucket (--store s3://BUCKET), or DVC's files below a prefix of their own",
            )


def _holds(place: str, store: str) -> bool:
    """Whether the store lies there; each is `bucket/prefix`, a bucket of ours a pattern."""
    bucket, _, prefix = place.partition("/")
    ours, _, within = store.partition("/")
    return fnmatchcase(bucket, ours) and (not prefix or f"{within}/".startswith(f"{prefix}/"))


def scheduler(names: Names) -> Document:
    """What ends a machine at its deadline can end machines of ours, and nothing else."""
    return document(allow("EndOurs", ["ec2:TerminateInstances"], _ec2(names, "instance/*"), _OURS))


def reaper(names: Names) -> Document:
    """The reaper in the cloud looks at machines and ends ours, and removes what held them together."""
    return document(
        allow("Look", ["ec2:DescribeInstances", "ec2:DescribePlacementGroups"], "*"),
        *scheduler(names)["Statement"],
        _delete_clusters(names),
    )


def orchestrator(names: Names, remotes: Iterable[str] = ()) -> Document:
    """What a person or a CI job needs who runs Sojourn for this project; setup needs more: see `administrator`."""
    return document(
        *_renting(names), *_ending(names), *_storing(names), *_remotes(names, remotes, ["s3:GetObject", "s3:PutObject"])
    )


def tls_only(bucket_arn: str) -> Document:
    """The bucket's own policy: nobody speaks to it in the clear."""
    return document(
        {
            "Sid": "SojournTlsOnly",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [bucket_arn, f"{bucket_arn}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    )


def _renting(names: Names) -> list[Document]:
    ours: Condition = {"StringLike": {f"aws:RequestTag/{LEASE_TAG}": "sojourn-*"}}
    look = """
        ec2:DescribeImages ec2:DescribeInstances ec2:DescribeInstanceTypeOfferings ec2:DescribeInstanceTypes
        ec2:DescribePlacementGroups ec2:DescribeRegions ec2:DescribeRouteTables ec2:DescribeSecurityGroups
        ec2:DescribeSpotPriceHistory ec2:DescribeSubnets ec2:DescribeVolumes ec2:DescribeVpcEndpoints
        ec2:DescribeVpcs pricing:GetProducts
        servicequotas:GetAWSDefaultServiceQuota servicequotas:GetServiceQuota
        """.split()
    around = ["subnet/*", "network-interface/*", "security-group/*", "placement-group/*", "spot-instances-request/*"]
    theirs = [f"arn:{names.partition}:ec2:*::{kind}/*" for kind in ("image", "snapshot")]
    images = f"arn:{names.partition}:ssm:*::parameter/aws/service/*"
    machine_role = names.iam(f"role/{names.machine_role}")
    return [
        allow("Look", look, "*"),
        allow("FindImages", ["ssm:GetParameters"], images),
        allow("RunOurs", ["ec2:RunInstances"], [_ec2(names, "instance/*"), _ec2(names, "volume/*")], ours),
        allow("RunAmong", ["ec2:RunInstances"], [*(_ec2(names, kind) for kind in around), *theirs]),
        allow(
            "TagWhatIsMade",
            ["ec2:CreateTags"],
            _ec2(names, "*/*"),
            {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreatePlacementGroup"]}},
        ),
        allow("MakeClusters", ["ec2:CreatePlacementGroup"], _ec2(names, "placement-group/sojourn-*"), ours),
        hand_over("HandOverMachineRole", machine_role, "ec2"),
        allow("ReadMachineRole", ["iam:GetRolePolicy"], machine_role),
        allow("FindProfile", ["iam:GetInstanceProfile"], names.iam(f"instance-profile/{names.machine_role}")),
    ]


def _ending(names: Names) -> list[Document]:
    role = names.iam(f"role/{SCHEDULER_ROLE}")
    schedules = names.arn("scheduler", f"schedule/{SCHEDULE_GROUP}/*", "*")
    return [
        allow("EndOurs", ["ec2:TerminateInstances"], _ec2(names, "instance/*"), _OURS),
        allow("DeleteOurs", ["ec2:DeleteVolume"], _ec2(names, "volume/*"), _OURS),
        _delete_clusters(names),
        allow(
            "ArmTimers",
            ["scheduler:CreateSchedule", "scheduler:GetSchedule", "scheduler:DeleteSchedule"],
            schedules,
        ),
        allow("ListTimers", ["scheduler:ListSchedules"], "*"),
        allow("FindTimers", ["scheduler:GetScheduleGroup"], _schedule_group(names)),
        hand_over("HandOverSchedulerRole", role, "scheduler"),
        allow("FindSchedulerRole", ["iam:GetRole"], role),
    ]


def _delete_clusters(names: Names) -> Document:
    return allow("DeleteClusters", ["ec2:DeletePlacementGroup"], _ec2(names, "placement-group/sojourn-*"), _OURS)


def _storing(names: Names) -> list[Document]:
    secrets = names.arn("ssm", f"parameter{names.secrets}/*", "*")
    return [
        *_listing("ListStore", names, "", actions=["s3:ListBucket", "s3:ListBucketVersions"]),
        allow(
            "KeepRuns",
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:AbortMultipartUpload"],
            _objects(names, ""),
        ),
        allow("KeepSecrets", ["ssm:PutParameter", "ssm:DeleteParameter"], secrets),
        allow("ListSecrets", ["ssm:DescribeParameters"], "*"),
    ]


def _remotes(names: Names, remotes: Iterable[str], actions: list[str]) -> list[Document]:
    """The project's DVC remotes on S3, each `s3://bucket/prefix`."""
    places = sorted({remote.removeprefix("s3://").strip("/") for remote in remotes})
    objects = [f"arn:{names.partition}:s3:::{place}/*" for place in places]
    found = [allow(READ_REMOTES, actions, objects)] if objects else []
    for number, place in enumerate(places):
        bucket, _, prefix = place.partition("/")
        below = _below(f"{prefix}/") if prefix else None
        found.append(allow(f"ListDvcRemote{number}", ["s3:ListBucket"], f"arn:{names.partition}:s3:::{bucket}", below))
    return found


def _objects(names: Names, *below: str) -> str | list[str]:
    """Everything below these prefixes of the stores: that of each region, and one of the user's own."""
    arns = [f"arn:{names.partition}:s3:::{place}/{prefix}*" for place in names.stores for prefix in below]
    return arns if len(arns) > 1 else arns[0]


def _listing(sid: str, names: Names, *prefixes: str, actions: Iterable[str] = ("s3:ListBucket",)) -> list[Document]:
    """The right to list these prefixes of each store."""
    statements = []
    for number, place in enumerate(names.stores):
        bucket, _, within = place.partition("/")
        below = [f"{within}/{prefix}" if within else prefix for prefix in prefixes]
        when = _below(*below) if any(below) else None
        statements.append(allow(f"{sid}{number or ''}", [*actions], f"arn:{names.partition}:s3:::{bucket}", when))
    return statements


def _ec2(names: Names, resource: str) -> str:
    return names.arn("ec2", resource, "*")


def _schedule_group(names: Names) -> str:
    return names.arn("scheduler", f"schedule-group/{SCHEDULE_GROUP}", "*")


def _below(*prefixes: str) -> Condition:
    return {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in prefixes]}}


def hand_over(sid: str, role: str, service: str) -> Document:
    """The right to give a role to one of Amazon's services."""
    to: Condition = {"StringEquals": {"iam:PassedToService": f"{service}.amazonaws.com"}}
    return allow(sid, ["iam:PassRole"], role, to)


def allow(sid: str, actions: list[str], resources: str | list[str], when: Condition | None = None) -> Document:
    """One statement of a policy."""
    statement: Document = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
    return {**statement, "Condition": when} if when else statement


def document(*statements: Document) -> Document:
    """A policy of these statements."""
    return {"Version": "2012-10-17", "Statement": list(statements)}
