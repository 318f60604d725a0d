"""What each of our policies allows, and what it does not."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from clouds.aws.iam.rules import Request, actions, allowed

from sojourn.clouds.aws import policies
from sojourn.clouds.aws.foundation import Names
from sojourn.errors import SpecError

NAMES = Names("123456789012", "eu-west-1", "digits")
REMOTES = ["s3://acme-data/dvc", "s3://whole-bucket"]
MACHINE = policies.machine(NAMES, REMOTES)
ORCHESTRATOR = policies.orchestrator(NAMES, REMOTES)
PLACE = "0123456789abcdef0123456789abcdef"
STORE = "arn:aws:s3:::sojourn-123456789012-eu-west-1"
EC2 = "arn:aws:ec2:eu-west-1:123456789012"
SSM = "arn:aws:ssm:eu-west-1:123456789012:parameter"
IAM = "arn:aws:iam::123456789012"
OURS = {"aws:ResourceTag/sojourn:lease": "sojourn-calm-panda-a2e3-1-0-e4b3"}
ASKED = {"aws:RequestTag/sojourn:lease": "sojourn-calm-panda-a2e3-1-0-e4b3"}


def may(policy: Any, action: str, resource: str = "*", **context: str) -> bool:
    return allowed([policy], Request(action, resource, context))


# --- the machine --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:GetObject", f"{STORE}/orders/digits/{PLACE}-calm-panda-a2e3/order/1.json"),
        ("s3:GetObject", f"{STORE}/control/digits/blob/91c0"),
        ("s3:GetObject", f"{STORE}/control/digits/agent/sojourn-agent-91c0.pyz"),
        ("s3:PutObject", f"{STORE}/machine/digits/{PLACE}-calm-panda-a2e3/1/0/hello.json"),
        ("s3:GetObject", f"{STORE}/machine/digits/{PLACE}-other-run-0000/1/0/blob/91c0"),
        ("s3:DeleteObject", f"{STORE}/machine/digits/{PLACE}-calm-panda-a2e3/1/0/blob/91c0"),
        ("s3:GetObject", "arn:aws:s3:::acme-data/dvc/files/md5/a1/b2"),
        ("s3:GetObject", "arn:aws:s3:::whole-bucket/files/md5/a1/b2"),
        ("ssm:GetParameters", f"{SSM}/sojourn/digits/{PLACE}/WANDB_API_KEY"),
    ],
)
def test_a_machine_may(action: str, resource: str) -> None:
    assert may(MACHINE, action, resource)


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:PutObject", f"{STORE}/orders/digits/{PLACE}-calm-panda-a2e3/order/1.json"),
        ("s3:GetObject", f"{STORE}/control/digits/calm-panda-a2e3/plan.json"),
        ("s3:GetObject", f"{STORE}/control/digits/calm-panda-a2e3/order/1.json"),
        ("s3:GetObject", f"{STORE}/orders/digits/calm-panda-a2e3/order/1.json"),
        ("s3:GetObject", f"{STORE}/orders/faces/{PLACE}-calm-panda-a2e3/order/1.json"),
        ("s3:PutObject", f"{STORE}/machine/digits/calm-panda-a2e3/1/0/hello.json"),
        ("s3:GetObject", f"{STORE}/machine/digits/calm-panda-a2e3/1/0/hello.json"),
        ("s3:GetObject", f"{STORE}/machine/digits/of-earlier-0000/1/0/blob/91c0"),
        ("s3:PutObject", f"{STORE}/control/digits/blob/91c0"),
        ("s3:DeleteObject", f"{STORE}/control/digits/calm-panda-a2e3/ledger/000001.json"),
        ("s3:GetObject", f"{STORE}/control/faces/plan.json"),
        ("s3:GetObject", f"{STORE}/control/digits-2/plan.json"),
        ("s3:PutObject", f"{STORE}/machine/faces/x"),
        ("s3:GetObject", f"{STORE}/control/digits"),
        ("s3:GetObject", "arn:aws:s3:::another-bucket/control/digits/x"),
        ("s3:GetObject", "arn:aws:s3:::sojourn-999999999999-eu-west-1/control/digits/x"),
        ("s3:PutObject", "arn:aws:s3:::acme-data/dvc/files/md5/a1/b2"),
        ("s3:GetObject", "arn:aws:s3:::acme-data/private/x"),
        ("s3:PutBucketPolicy", STORE),
        ("ssm:GetParameters", f"{SSM}/sojourn/faces/WANDB_API_KEY"),
        ("ssm:GetParameters", f"{SSM}/prod/database"),
        ("ssm:GetParameters", f"{SSM}/sojourn/digits/WANDB_API_KEY"),
        ("ssm:GetParametersByPath", f"{SSM}/sojourn/digits/{PLACE}"),
        ("ssm:DescribeParameters", "*"),
        ("ssm:PutParameter", f"{SSM}/sojourn/digits/{PLACE}/WANDB_API_KEY"),
        ("ec2:RunInstances", f"{EC2}:instance/*"),
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1"),
        ("iam:PassRole", f"{IAM}:role/sojourn-machine-digits"),
        ("sts:AssumeRole", f"{IAM}:role/sojourn-scheduler"),
    ],
)
def test_a_machine_may_not(action: str, resource: str) -> None:
    assert not may(MACHINE, action, resource)
    assert not may(MACHINE, action, resource, **OURS, **ASKED)


@pytest.mark.parametrize(
    ("bucket", "prefix", "expected"),
    [
        (STORE, f"orders/digits/{PLACE}-calm-panda-a2e3/stop.json", True),
        (STORE, f"machine/digits/{PLACE}-calm-panda-a2e3/1/", True),
        (STORE, f"machine/digits/{PLACE}", False),
        (STORE, f"machine/digits/{PLACE[:31]}-calm", False),
        (STORE, "machine/digits/", False),
        (STORE, "orders/digits/", False),
        (STORE, "control/digits/calm-panda-a2e3/stop.json", False),
        (STORE, "control/digits/blob/", False),
        (STORE, f"control/digits/blob/{PLACE}{PLACE}", False),
        (STORE, "control/", False),
        (STORE, "", False),
        (STORE, f"machine/faces/{PLACE}-calm-panda-a2e3/1/", False),
        ("arn:aws:s3:::acme-data", "dvc/files", True),
        ("arn:aws:s3:::acme-data", "", False),
        ("arn:aws:s3:::whole-bucket", "", True),
        ("arn:aws:s3:::another-bucket", "machine/digits/", False),
    ],
)
def test_a_machine_lists_what_it_may_read_and_so_learns_that_something_is_not_there_yet(
    bucket: str, prefix: str, expected: bool
) -> None:
    assert may(MACHINE, "s3:ListBucket", bucket, **{"s3:prefix": prefix}) is expected


@pytest.mark.parametrize("store", ["s3://acme-runs", "s3://acme-runs/ml/sojourn/"])
def test_a_store_of_the_user_s_own_is_as_open_as_ours_and_no_more(store: str) -> None:
    names = Names("123456789012", "eu-west-1", "digits", store)
    policy, arn = policies.machine(names), f"arn:aws:s3:::{store.removeprefix('s3://').strip('/')}"
    prefix = arn.removeprefix("arn:aws:s3:::acme-runs").lstrip("/")
    prefix = f"{prefix}/" if prefix else ""
    ours, theirs = f"digits/{PLACE}-calm-panda-a2e3/x", f"faces/{PLACE}-calm-panda-a2e3/x"
    assert may(policy, "s3:GetObject", f"{arn}/orders/{ours}")
    assert may(policy, "s3:GetObject", f"{arn}/control/digits/blob/91c0")
    assert may(policy, "s3:PutObject", f"{arn}/machine/{ours}")
    assert may(policy, "s3:PutObject", f"{STORE}/machine/{ours}")
    assert not may(policy, "s3:PutObject", f"{arn}/orders/{ours}")
    assert not may(policy, "s3:GetObject", f"{arn}/control/digits/plan.json")
    assert not may(policy, "s3:GetObject", f"{arn}/orders/{theirs}")
    assert may(policy, "s3:ListBucket", "arn:aws:s3:::acme-runs", **{"s3:prefix": f"{prefix}machine/{ours}"})
    for hidden in (f"machine/{theirs}", "machine/digits/", "orders/digits/"):
        assert not may(policy, "s3:ListBucket", "arn:aws:s3:::acme-runs", **{"s3:prefix": f"{prefix}{hidden}"})
    orchestrator = policies.orchestrator(names)
    assert may(orchestrator, "s3:PutObject", f"{arn}/control/digits/plan.json")
    assert may(orchestrator, "s3:PutObject", "arn:aws:s3:::acme-runs/elsewhere") is (not prefix)


@pytest.mark.parametrize(
    ("store", "remote", "inside"),
    [
        ("s3://acme/runs", "s3://acme", True),
        ("s3://acme/team/runs", "s3://acme/team/", True),
        ("s3://acme/runs", "s3://acme/runs", True),
        ("s3://acme", "s3://acme", True),
        ("", "s3://sojourn-123456789012-eu-west-1", True),
        ("", "s3://sojourn-123456789012-us-west-2", True),
        ("", "s3://sojourn-123456789012-eu-west-1/dvc", False),
        ("s3://acme/runs", "s3://acme/run", False),
        ("s3://acme/runs", "s3://acme/data", False),
        ("s3://acme", "s3://acme/data", False),
        ("s3://acme", "s3://acme-data", False),
    ],
)
def test_a_remote_that_holds_the_store_would_open_every_run_to_each_machine_and_is_refused(
    store: str, remote: str, inside: bool
) -> None:
    names = Names("123456789012", "eu-west-1", "digits", store)
    if not inside:
        plan = "control/digits/calm-panda-a2e3/plan.json"
        stores = [f"arn:aws:s3:::{place.replace('*', 'eu-west-1')}" for place in names.stores]
        assert not any(may(policies.machine(names, [remote]), "s3:GetObject", f"{one}/{plan}") for one in stores)
        return
    with pytest.raises(SpecError, match=f"lies in the DVC remote {remote}"):
        policies.machine(names, [remote])


# --- whoever runs Sojourn -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ec2:RunInstances", f"{EC2}:instance/*", ASKED),
        ("ec2:RunInstances", f"{EC2}:volume/*", ASKED),
        ("ec2:RunInstances", f"{EC2}:subnet/subnet-1", {}),
        ("ec2:RunInstances", "arn:aws:ec2:eu-west-1::image/ami-1", {}),
        ("ec2:CreateTags", f"{EC2}:instance/i-1", {"ec2:CreateAction": "RunInstances"}),
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1", OURS),
        ("iam:PassRole", f"{IAM}:role/sojourn-machine-digits", {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("iam:PassRole", f"{IAM}:role/sojourn-scheduler", {"iam:PassedToService": "scheduler.amazonaws.com"}),
        ("scheduler:CreateSchedule", "arn:aws:scheduler:us-west-2:123456789012:schedule/sojourn/x", {}),
        ("s3:PutObject", f"{STORE}/control/digits/plan.json", {}),
        ("s3:PutObject", "arn:aws:s3:::acme-data/dvc/files/md5/a1/b2", {}),
        ("ssm:GetParameters", "arn:aws:ssm:eu-west-1::parameter/aws/service/deeplearning/ami", {}),
        ("ssm:PutParameter", f"{SSM}/sojourn/digits/{PLACE}/KEY", {}),
        ("ssm:DeleteParameter", f"{SSM}/sojourn/digits/KEY", {}),
    ],
)
def test_the_orchestrator_may(action: str, resource: str, context: dict[str, str]) -> None:
    assert may(ORCHESTRATOR, action, resource, **context)


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ec2:RunInstances", f"{EC2}:instance/*", {}),
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1", {}),
        ("ec2:TerminateInstances", f"{EC2}:instance/i-1", {"aws:ResourceTag/sojourn:lease": "theirs"}),
        ("ec2:CreateTags", f"{EC2}:instance/i-1", ASKED),
        ("ec2:DeleteVolume", f"{EC2}:volume/vol-1", {}),
        ("iam:PassRole", f"{IAM}:role/admin", {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("iam:PassRole", f"{IAM}:role/sojourn-machine-digits", {"iam:PassedToService": "lambda.amazonaws.com"}),
        ("iam:PassRole", f"{IAM}:role/sojourn-machine-faces", {"iam:PassedToService": "ec2.amazonaws.com"}),
        ("iam:PutRolePolicy", f"{IAM}:role/sojourn-machine-digits", {}),
        ("iam:CreateRole", f"{IAM}:role/sojourn-machine-digits", {}),
        ("scheduler:CreateSchedule", "arn:aws:scheduler:us-west-2:123456789012:schedule/default/x", {}),
        ("s3:PutObject", "arn:aws:s3:::another-bucket/x", {}),
        ("s3:DeleteObject", "arn:aws:s3:::acme-data/dvc/files/md5/a1/b2", {}),
        ("s3:PutBucketPolicy", STORE, {}),
        ("ssm:GetParameters", f"{SSM}/sojourn/digits/{PLACE}/KEY", {}),
        ("ssm:PutParameter", f"{SSM}/prod/database", {}),
    ],
)
def test_the_orchestrator_may_not(action: str, resource: str, context: dict[str, str]) -> None:
    assert not may(ORCHESTRATOR, action, resource, **context)


# --- the timers ---------------------------------------------------------------------------


def test_what_ends_machines_ends_ours_alone() -> None:
    for policy in (policies.scheduler(NAMES), policies.reaper(NAMES)):
        assert may(policy, "ec2:TerminateInstances", f"{EC2}:instance/i-1", **OURS)
        assert not may(policy, "ec2:TerminateInstances", f"{EC2}:instance/i-1")
    assert actions(policies.scheduler(NAMES)) == {"ec2:TerminateInstances"}
    group = f"{EC2}:placement-group/sojourn-x"
    for policy in (policies.reaper(NAMES), policies.orchestrator(NAMES)):
        assert may(policy, "ec2:DeletePlacementGroup", group, **OURS)
        assert not may(policy, "ec2:DeletePlacementGroup", group)
    assert actions(policies.reaper(NAMES)) == {
        "ec2:DescribeInstances",
        "ec2:TerminateInstances",
        "ec2:DescribePlacementGroups",
        "ec2:DeletePlacementGroup",
    }


def test_only_this_account_s_schedules_act_by_the_scheduler_s_role() -> None:
    [statement] = policies.trust(NAMES, "scheduler")["Statement"]
    assert statement["Principal"] == {"Service": "scheduler.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_requests_in_the_clear_are_refused_by_the_bucket() -> None:
    policy = policies.tls_only(STORE)
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    for clear in ("true", "false"):
        request = Request("s3:GetObject", f"{STORE}/x", {"aws:SecureTransport": clear})
        assert allowed([everything, policy], request) is (clear == "true")


# --- what Amazon takes --------------------------------------------------------------------


@pytest.mark.parametrize("policy", [MACHINE, ORCHESTRATOR, policies.scheduler(NAMES), policies.reaper(NAMES)])
def test_a_policy_fits_what_iam_keeps_and_names_each_statement_once(policy: Any) -> None:
    assert len(json.dumps(policy, separators=(",", ":"))) <= 6144, "the most that a managed policy may have"
    names = sorted(one["Sid"] for one in policy["Statement"])
    assert all(one != other for one, other in pairwise(names))
    assert all(name.isalnum() for name in names)


def test_the_clouds_apart_have_names_of_their_own() -> None:
    for region, partition in (("us-gov-west-1", "aws-us-gov"), ("cn-north-1", "aws-cn"), ("us-west-2", "aws")):
        text = json.dumps(policies.printed(Names("123456789012", region, "digits"), REMOTES))
        assert set(part.split(":")[0] for part in text.split('"arn:')[1:]) == {partition}
