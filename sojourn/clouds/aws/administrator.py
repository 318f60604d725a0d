"""What whoever runs `sojourn setup aws` must be allowed: to make, to mend and to remove what setup makes.

Nothing beside it: every statement names our own things, but for what Amazon lets nobody name. The
right to make roles is the right to give rights away, so this is for an administrator to hold.
"""

from __future__ import annotations

from sojourn.clouds.aws.foundation import GROUP, REAPER, SCHEDULE_GROUP, SCHEDULER_ROLE, Names
from sojourn.clouds.aws.policies import Condition, Document, allow, document, hand_over

_SPOT = "spot.amazonaws.com"


def policy(names: Names) -> Document:
    """For one project; what every project shares is in it."""
    return document(*_roles(names), *_network(names), *_bucket(names), *_timers(names), *_reaper(names))


def _roles(names: Names) -> list[Document]:
    ours = [names.iam(f"role/{name}") for name in (names.machine_role, SCHEDULER_ROLE, REAPER)]
    profile = names.iam(f"instance-profile/{names.machine_role}")
    by_spot: Condition = {"StringEquals": {"iam:AWSServiceName": _SPOT}}
    verbs = "CreateRole DeleteRole GetRole UpdateAssumeRolePolicy DeleteRolePolicy GetRolePolicy PutRolePolicy"
    of_profile = "AddRoleTo{0} Create{0} Delete{0} Get{0} RemoveRoleFrom{0}".format("InstanceProfile")
    return [
        allow("MakeRoles", _actions("iam", verbs), ours),
        allow("MakeProfile", _actions("iam", of_profile), profile),
        allow("ListRoles", ["iam:ListRoles"], "*"),
        allow("MakeSpotRole", ["iam:CreateServiceLinkedRole"], names.iam(f"role/aws-service-role/{_SPOT}/*"), by_spot),
        hand_over("HandOverMachineRole", ours[0], "ec2"),
        hand_over("HandOverReaperRole", ours[2], "lambda"),
    ]


def _network(names: Names) -> list[Document]:
    groups = names.arn("ec2", "security-group/*", "*")
    ours: Condition = {"StringEquals": {"aws:ResourceTag/Name": GROUP}}
    at_birth: Condition = {"StringEquals": {"ec2:CreateAction": ["CreateSecurityGroup"]}}
    look = (
        "DescribeInstances DescribePlacementGroups DescribeRegions DescribeSecurityGroups DescribeVolumes DescribeVpcs"
    )
    change = "AuthorizeSecurityGroupEgress AuthorizeSecurityGroupIngress DeleteSecurityGroup RevokeSecurityGroupIngress"
    return [
        allow("Look", _actions("ec2", look), "*"),
        allow("MakeGroup", ["ec2:CreateSecurityGroup"], [groups, names.arn("ec2", "vpc/*", "*")]),
        allow("TagGroup", ["ec2:CreateTags"], groups, at_birth),
        allow("ChangeGroup", _actions("ec2", change), groups, ours),
    ]


def _bucket(names: Names) -> list[Document]:
    bucket = f"arn:{names.partition}:s3:::{names.bucket}"
    aspects = (
        "BucketOwnershipControls BucketPolicy BucketPublicAccessBlock BucketVersioning EncryptionConfiguration "
        "LifecycleConfiguration"
    )
    verbs = ["CreateBucket", "DeleteBucket", "ListBucket", "ListBucketVersions"]
    verbs += [f"{verb}{aspect}" for aspect in aspects.split() for verb in ("Get", "Put")]
    return [
        allow(
            "MakeBucket",
            _actions("s3", " ".join(["CreateBucket DeleteBucket ListBucket ListBucketVersions", *verbs])),
            bucket,
        ),
        allow("EmptyBucket", ["s3:DeleteObject", "s3:DeleteObjectVersion"], f"{bucket}/*"),
    ]


def _timers(names: Names) -> list[Document]:
    group = names.arn("scheduler", f"schedule-group/{SCHEDULE_GROUP}", "*")
    verbs = "CreateScheduleGroup DeleteScheduleGroup GetScheduleGroup"
    return [
        allow("MakeTimers", _actions("scheduler", verbs), group),
        allow("ListTimers", ["scheduler:ListSchedules"], "*"),
        allow(
            "EndTimersWithTheirGroup",
            ["scheduler:DeleteSchedule", "scheduler:GetSchedule"],
            names.arn("scheduler", f"schedule/{SCHEDULE_GROUP}/*", "*"),
        ),
    ]


def _reaper(names: Names) -> list[Document]:
    """Only for `--reaper`, and for removing it."""
    function = """
        AddPermission CreateFunction DeleteFunction GetFunctionConfiguration GetPolicy UpdateFunctionCode
        UpdateFunctionConfiguration
        """
    rule = "DeleteRule DescribeRule ListTargetsByRule PutRule PutTargets RemoveTargets"
    return [
        allow("MakeReaper", _actions("lambda", function), names.arn("lambda", f"function:{REAPER}", "*")),
        allow("CallReaper", _actions("events", rule), names.arn("events", f"rule/{REAPER}", "*")),
    ]


def _actions(service: str, verbs: str) -> list[str]:
    return [f"{service}:{verb}" for verb in verbs.split()]
