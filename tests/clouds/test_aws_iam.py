"""Signatures and policies: who is let in, and what is kept of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config

from clouds.account import Account, refused
from clouds.aws_cloud import ACCOUNT, AwsCloud


def allow(action: str | list[str], resource: str | list[str] = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource} | more


def document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


class Caller:
    """Clients of somebody's environment."""

    def __init__(self, cloud: AwsCloud, environment: dict[str, str]) -> None:
        self._cloud, self._environment = cloud, environment

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name="us-east-1",
            endpoint_url=self._cloud.url,
            aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=self._environment.get("AWS_SESSION_TOKEN"),
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )


@pytest.fixture
def account(aws: AwsCloud) -> Account:
    aws.client("s3").create_bucket(Bucket="box")
    aws.enforce()
    return Account(aws)


def caller(account: Account, *statements: dict[str, Any]) -> Caller:
    return Caller(account.cloud, account.cloud.user("ci", document(*statements)))


def test_a_wrong_secret_is_refused_by_every_service(aws: AwsCloud) -> None:
    wrong = Caller(aws, aws.environment | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    with refused("AuthFailure"):
        wrong.client("ec2").describe_instances()
    with refused("SignatureDoesNotMatch"):
        wrong.client("s3").list_buckets()
    with refused("InvalidSignatureException"):
        wrong.client("ssm").describe_parameters()


def test_odd_keys_are_signed_rightly(aws: AwsCloud) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="box")
    for key in ("a b/ü+~*'()", "a//b", "100%25", "q?x=1&y"):
        s3.put_object(Bucket="box", Key=key, Body=b"v")
        assert s3.get_object(Bucket="box", Key=key)["Body"].read() == b"v", key
        assert s3.list_objects_v2(Bucket="box", Prefix=key)["KeyCount"] == 1, key


def test_only_what_is_allowed_is_done(account: Account) -> None:
    s3 = caller(account, allow("s3:PutObject", "arn:aws:s3:::box/machine/*")).client("s3")
    s3.put_object(Bucket="box", Key="machine/k", Body=b"v")
    for call in (
        lambda: s3.put_object(Bucket="box", Key="control/k", Body=b"v"),
        lambda: s3.get_object(Bucket="box", Key="machine/k"),
        lambda: s3.list_objects_v2(Bucket="box", Prefix="machine/"),
    ):
        with refused("AccessDenied"):
            call()
    decided = [(one["action"], one["resource"], one["allowed"]) for one in account.cloud.decisions("user/ci")]
    assert decided == [
        ("s3:PutObject", "arn:aws:s3:::box/machine/k", True),
        ("s3:PutObject", "arn:aws:s3:::box/control/k", False),
        ("s3:GetObject", "arn:aws:s3:::box/machine/k", False),
        ("s3:ListBucket", "arn:aws:s3:::box", False),
    ]


def test_listing_may_be_allowed_below_a_prefix(account: Account) -> None:
    below = {"StringLike": {"s3:prefix": ["machine/*"]}}
    s3 = caller(account, allow("s3:ListBucket", "arn:aws:s3:::box", Condition=below)).client("s3")
    s3.list_objects_v2(Bucket="box", Prefix="machine/run")
    for more in ({}, {"Prefix": "control/"}):
        with refused("AccessDenied"):
            s3.list_objects_v2(Bucket="box", **more)


PLACE = "0123456789abcdef0123456789abcdef"


def test_a_question_mark_stands_for_one_character_so_who_does_not_know_a_name_lists_nothing(account: Account) -> None:
    admin, hidden = account.cloud.client("s3"), f"machine/{PLACE}-calm/1"
    admin.put_object(Bucket="box", Key=hidden, Body=b"v")
    pattern = "machine/" + 32 * "?" + "-*"
    statements = (
        allow("s3:GetObject", f"arn:aws:s3:::box/{pattern}"),
        allow("s3:ListBucket", "arn:aws:s3:::box", Condition={"StringLike": {"s3:prefix": [pattern]}}),
    )
    s3 = caller(account, *statements).client("s3")
    assert s3.list_objects_v2(Bucket="box", Prefix=f"machine/{PLACE}-")["KeyCount"] == 1
    assert s3.get_object(Bucket="box", Key=hidden)["Body"].read() == b"v"
    with refused("NoSuchKey"):
        s3.get_object(Bucket="box", Key=f"machine/{PLACE}-calm/2")
    for prefix in ("", "machine/", f"machine/{PLACE[:8]}", f"machine/{PLACE}", f"machine/{PLACE[1:]}-"):
        with refused("AccessDenied"):
            s3.list_objects_v2(Bucket="box", Prefix=prefix)
    for literal in (pattern, "machine/" + 32 * "?" + "-"):  # what is asked for is taken as it stands
        assert s3.list_objects_v2(Bucket="box", Prefix=literal)["KeyCount"] == 0
    with refused("AccessDenied"):
        s3.get_object(Bucket="box", Key="machine/calm/1")


def test_what_was_deleted_where_versions_are_kept_is_as_forbidden_as_what_never_was(account: Account) -> None:
    admin = account.cloud.client("s3")
    admin.put_bucket_versioning(Bucket="box", VersioningConfiguration={"Status": "Enabled"})
    admin.put_object(Bucket="box", Key="k", Body=b"v")
    admin.delete_object(Bucket="box", Key="k")
    s3 = caller(account, allow("s3:GetObject", "arn:aws:s3:::box/*")).client("s3")
    with refused("AccessDenied"):
        s3.get_object(Bucket="box", Key="k")


def test_what_is_missing_is_forbidden_to_who_may_not_list(account: Account) -> None:
    s3 = caller(account, allow("s3:GetObject", "arn:aws:s3:::box/*")).client("s3")
    with refused("AccessDenied"):
        s3.get_object(Bucket="box", Key="missing")
    listing = allow("s3:ListBucket", Condition={"StringLike": {"s3:prefix": "machine/*"}})
    account.cloud.client("iam").put_user_policy(
        UserName="ci", PolicyName="list", PolicyDocument=json.dumps(document(listing))
    )
    with refused("NoSuchKey"):
        s3.get_object(Bucket="box", Key="machine/missing")
    with refused("AccessDenied"):
        s3.get_object(Bucket="box", Key="control/missing")


def test_machines_are_ended_by_their_tag(account: Account) -> None:
    ours = {"StringLike": {"aws:ResourceTag/sojourn:lease": "sojourn-*"}}
    ec2 = caller(account, allow("ec2:TerminateInstances", Condition=ours)).client("ec2")
    tagged = [{"ResourceType": "instance", "Tags": [{"Key": "sojourn:lease", "Value": "sojourn-1"}]}]
    (mine,), (other,) = account.run(TagSpecifications=tagged), account.run()
    with refused("UnauthorizedOperation"):
        ec2.terminate_instances(InstanceIds=[other["InstanceId"]])
    with refused("UnauthorizedOperation"):
        ec2.terminate_instances(InstanceIds=[mine["InstanceId"], other["InstanceId"]])
    ec2.terminate_instances(InstanceIds=[mine["InstanceId"]])


def test_machines_are_started_with_a_tag_and_a_role_that_may_be_passed(account: Account) -> None:
    role = account.profile()
    to = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    tag = {"StringLike": {"aws:RequestTag/sojourn:lease": "sojourn-*"}}
    at = f"arn:aws:ec2:*:{ACCOUNT}:"
    around = [f"{at}{kind}/*" for kind in ("network-interface", "subnet", "security-group")]
    statements = [
        allow("ec2:Describe*"),
        allow("ec2:RunInstances", [f"{at}instance/*"], Condition=tag),
        allow("ec2:RunInstances", [*around, f"{at}volume/*", "arn:aws:ec2:*::image/*"]),
        allow("ec2:CreateTags", Condition={"StringEquals": {"ec2:CreateAction": "RunInstances"}}),
    ]
    ec2 = caller(account, *statements).client("ec2")
    asked = {"ImageId": account.image(), "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1}
    tagged = {"ResourceType": "instance", "Tags": [{"Key": "sojourn:lease", "Value": "sojourn-1"}]}
    tags = {"TagSpecifications": [tagged]}
    with refused("UnauthorizedOperation"):
        ec2.run_instances(**asked)
    (one,) = ec2.run_instances(**asked, **tags)["Instances"]
    with refused("UnauthorizedOperation"):
        ec2.create_tags(Resources=[one["InstanceId"]], Tags=[{"Key": "later", "Value": "x"}])
    profile = {"IamInstanceProfile": {"Name": "machine"}}
    with refused("UnauthorizedOperation"):
        ec2.run_instances(**asked, **tags, **profile)
    account.cloud.client("iam").put_user_policy(
        UserName="ci",
        PolicyName="pass",
        PolicyDocument=json.dumps(document(allow("iam:PassRole", role, Condition=to))),
    )
    ec2.run_instances(**asked, **tags, **profile)


def test_an_assumed_role_acts_by_its_own_policies(account: Account) -> None:
    role = account.profile()
    policy = json.dumps(document(allow("ssm:GetParameters", "arn:aws:ssm:*:*:parameter/sojourn/digits/*")))
    account.cloud.client("iam").put_role_policy(RoleName="machine", PolicyName="p", PolicyDocument=policy)
    ssm = account.cloud.client("ssm")
    for name in ("/sojourn/digits/KEY", "/sojourn/other/KEY"):
        ssm.put_parameter(Name=name, Value="v", Type="SecureString")
    keys = account.cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="node")["Credentials"]
    names = {"AccessKeyId": "AWS_ACCESS_KEY_ID", "SecretAccessKey": "AWS_SECRET_ACCESS_KEY"}
    environment = {name: keys[key] for key, name in (names | {"SessionToken": "AWS_SESSION_TOKEN"}).items()}
    machine = Caller(account.cloud, environment)
    assert machine.client("ssm").get_parameters(Names=["/sojourn/digits/KEY"])["Parameters"]
    with refused("AccessDeniedException"):
        machine.client("ssm").get_parameters(Names=["/sojourn/digits/KEY", "/sojourn/other/KEY"])
    assert machine.client("sts").get_caller_identity()["Arn"].startswith("arn:aws:sts::")
    with refused("AuthFailure"):
        Caller(account.cloud, environment | {"AWS_SESSION_TOKEN": "x"}).client("ec2").describe_instances()


def test_a_schedule_ends_only_what_its_role_may_end(account: Account) -> None:
    role = account.profile("timer", "scheduler.amazonaws.com")
    ours = {"StringLike": {"aws:ResourceTag/sojourn:lease": "sojourn-*"}}
    policy = json.dumps(document(allow("ec2:TerminateInstances", Condition=ours)))
    account.cloud.client("iam").put_role_policy(RoleName="timer", PolicyName="p", PolicyDocument=policy)
    tagged = [{"ResourceType": "instance", "Tags": [{"Key": "sojourn:lease", "Value": "sojourn-1"}]}]
    (mine,), (other,) = account.run(TagSpecifications=tagged), account.run()
    for one in (other, mine):
        account.cloud.client("scheduler").create_schedule(
            Name=one["InstanceId"],
            ScheduleExpression=f"at({datetime.now(UTC) + timedelta(seconds=1):%Y-%m-%dT%H:%M:%S})",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={
                "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
                "RoleArn": role,
                "Input": json.dumps({"InstanceIds": [one["InstanceId"]]}),
            },
        )
    account.until(mine["InstanceId"], "terminated")
    assert account.state(other["InstanceId"]) == "running"
    assert {one["schedule"]: bool(one["error"]) for one in account.cloud.fired()} == {
        other["InstanceId"]: True,
        mine["InstanceId"]: False,
    }


def test_strangers_are_refused_once_policies_are_enforced(account: Account) -> None:
    stranger = Caller(account.cloud, {"AWS_ACCESS_KEY_ID": "AKIASTRANGER00000000", "AWS_SECRET_ACCESS_KEY": "s"})
    with refused("AuthFailure"):
        stranger.client("ec2").describe_instances()
    with refused("InvalidAccessKeyId"):
        stranger.client("s3").list_buckets()
    account.cloud.enforce(False)
    stranger.client("s3").list_buckets()


def test_a_call_whose_rights_nobody_wrote_down_fails_loudly(account: Account) -> None:
    with refused("StandInFailure"):
        caller(account, allow("*")).client("ec2").allocate_address()


@pytest.mark.parametrize("condition", ({"StringEquals": {"aws:Colour": "red"}}, {"StringNotLike": {"s3:prefix": "x"}}))
def test_a_condition_that_is_not_understood_fails_loudly(account: Account, condition: dict[str, Any]) -> None:
    s3 = caller(account, allow("s3:ListBucket", Condition=condition)).client("s3")
    with refused("StandInFailure"):
        s3.list_objects_v2(Bucket="box", Prefix="k")


def test_a_denial_outweighs_what_is_allowed(account: Account) -> None:
    deny = {"Effect": "Deny", "Action": "s3:Put*", "Resource": "arn:aws:s3:::box/control/*", "Sid": "No"}
    s3 = caller(account, allow("s3:*"), deny).client("s3")
    s3.put_object(Bucket="box", Key="machine/k", Body=b"v")
    with refused("AccessDenied"):
        s3.put_object(Bucket="box", Key="control/k", Body=b"v")
    assert account.cloud.used() == [("user/ci", "s3:PutObject")]
