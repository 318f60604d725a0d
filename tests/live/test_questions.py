"""What no source tells of Amazon, asked of an account, each with what it learnt and the row of docs/amazon-claims.md.

Nothing here takes an answer for granted that only our stand-in gives; what the product makes of it, whatever it is,
is asserted. It costs about two cents and takes six minutes: `SOJOURN_LIVE=aws make test-live`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from sojourn.clouds.aws import policies
from sojourn.clouds.aws.foundation import Names, find
from sojourn.clouds.aws.secrets import Secrets
from sojourn.names import LeaseName, mint_place
from sojourn.providers.contract import Request
from sojourn.renting import Need
from sojourn.store.storage import Store
from tests.live.account import MACHINE, ONLY_WHEN_ASKED, PROJECT, STAND_IN, Account, account, boot_for, wait

__all__ = ["account"]  # the fixture of every test here

pytestmark = ONLY_WHEN_ASKED
NOBODY = "i-0123456789abcdef0"  # the id of a machine as Amazon gives them, and of none


def learnt(rows: str, text: str) -> None:
    print(f"\nrow {rows}: {text}", flush=True)


def answer(call: Callable[[], Any]) -> str:
    """Amazon's word for why it refused, `taken` where it did not."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "taken"


def rented(account: Account, market: str) -> Request:
    """Two machines of one request that idle, with timers as those of every lease."""
    offers = account.provider.offers(Need(machine=MACHINE, nodes=2, market=market, project=PROJECT)).fitting
    request = account.provider.request(boot_for(account, nodes=2), offers[0])
    request["run_instances"]["UserData"] = "#!/bin/sh\n(sleep 1200; poweroff) &\n"
    account.provider.create(request)
    return request


def machines(account: Account, lease: str) -> list[dict[str, Any]]:
    filters = [{"Name": "tag:sojourn:lease", "Values": [lease]}]
    found = account.clients.client("ec2").describe_instances(Filters=filters)["Reservations"]
    return [one for reservation in found for one in reservation["Instances"]]


def states(account: Account, lease: str) -> dict[str, str]:
    return {one["InstanceId"]: one["State"]["Name"] for one in machines(account, lease)}


def given_back(account: Account, lease: str) -> None:
    wait(lambda: account.provider.release(lease))
    assert account.billed() == []


def test_several_spot_machines_of_one_request_and_its_token_after_their_end(account: Account) -> None:
    request = rented(account, "spot")
    lease = request["token"]
    try:
        wait(lambda: [*states(account, lease).values()] == ["running"] * 2)
        found = machines(account, lease)
        indexes = sorted(one["AmiLaunchIndex"] for one in found)
        learnt("77", f"the launch indexes of two spot machines of one request are {indexes}")
        tokens = {one.get("ClientToken") == lease for one in found}
        learnt("75", f"a spot machine {'shows' if tokens == {True} else 'does not show'} the token of its request")
        seen = account.provider.observe(lease)
        assert seen and [one.name for one in seen.machines] == [LeaseName.parse(lease).machine(n) for n in range(2)]  # type: ignore[union-attr]

        account.clients.client("ec2").terminate_instances(InstanceIds=[one["InstanceId"] for one in found])
        wait(lambda: set(states(account, lease).values()) == {"terminated"})
        ec2 = account.clients.client("ec2", account.clients.region)
        said = answer(lambda: ec2.run_instances(**request["run_instances"]))
        learnt("66", f"a request whose machines have ended, sent again, is answered with {said}")
        account.provider.create(request)
        assert account.billed() == []
    finally:
        given_back(account, lease)


@pytest.fixture(scope="module")
def two(account: Account) -> Iterator[tuple[str, list[str]]]:
    """A lease with two machines that run, and their ids."""
    lease = rented(account, "on-demand")["token"]
    try:
        wait(lambda: [*states(account, lease).values()] == ["running"] * 2)
        yield lease, sorted(states(account, lease))
    finally:
        given_back(account, lease)


def timer(account: Account, expression: str, *identities: str) -> Callable[[], object]:
    """A schedule beside those of the lease, which ends these at that time; how to take it away."""
    scheduler = account.clients.client("scheduler")
    name = f"sojourn-live-question-{int(time.time())}"
    role = find(account.clients, PROJECT).scheduler_role_arn
    target = {
        "Arn": "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances",
        "RoleArn": role,
        "Input": json.dumps({"InstanceIds": list(identities)}),
        "RetryPolicy": {"MaximumEventAgeInSeconds": 120, "MaximumRetryAttempts": 2},
    }
    scheduler.create_schedule(
        Name=name, GroupName="sojourn", ScheduleExpression=expression, FlexibleTimeWindow={"Mode": "OFF"}, Target=target
    )
    return lambda: scheduler.delete_schedule(Name=name, GroupName="sojourn")


def at(moment: float) -> str:
    return f"at({datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S})"


def test_a_schedule_of_which_one_machine_is_none(account: Account, two: tuple[str, list[str]]) -> None:
    lease, (living, _) = two
    # Long before that of the lease itself.
    moment = ((time.time() + 20) // 60 + 1) * 60
    remove = timer(account, at(moment), living, NOBODY)
    try:
        wait(lambda: time.time() > moment + (5 if STAND_IN else 90), 300)
        state = states(account, lease)[living]
    finally:
        remove()
    spared = state == "running"
    learnt("68", f"a schedule of a living machine and of none {'spares' if spared else 'ends'} the living ({state})")


def test_when_a_schedule_for_a_time_with_seconds_acts(account: Account, two: tuple[str, list[str]]) -> None:
    lease, (_, second) = two
    moment = ((time.time() + 20) // 60 + 1) * 60 + 45
    remove = timer(account, at(moment), second)
    try:
        wait(lambda: states(account, lease)[second] != "running" or time.time() > moment + 120, 400)
        after = time.time() - moment
    finally:
        remove()
    acted = states(account, lease)[second] != "running"
    learnt(
        "113", f"a schedule for hh:mm:45 acted {after:+.0f} s from it" if acted else "it did not act for two minutes"
    )


def test_what_head_bucket_says_to_who_may_list_a_prefix_alone(account: Account) -> None:
    iam, name = account.clients.client("iam"), "sojourn-live-question"
    bucket = f"sojourn-{account.clients.account}-{account.clients.region}"
    trust = {"Effect": "Allow", "Principal": {"AWS": account.clients.account}, "Action": "sts:AssumeRole"}
    below = {
        "Effect": "Allow",
        "Action": "s3:ListBucket",
        "Resource": f"arn:aws:s3:::{bucket}",
        "Condition": {"StringLike": {"s3:prefix": ["control/*"]}},
    }
    document = json.dumps({"Version": "2012-10-17", "Statement": [below]})
    made = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    try:
        iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=document)
        s3 = wait(lambda: listing(account, made["Role"]["Arn"], bucket))
        try:
            s3.head_bucket(Bucket=bucket)
            learnt("59", "HeadBucket is allowed under a policy for a prefix")
        except ClientError as error:
            headers = error.response["ResponseMetadata"]["HTTPHeaders"]
            region, status = headers.get("x-amz-bucket-region"), error.response["Error"]["Code"]
            learnt("59", f"HeadBucket under a policy for a prefix is answered with {status}, region {region}")
            assert region == account.clients.region, "a store below a prefix cannot be opened without it"
    finally:
        iam.delete_role_policy(RoleName=name, PolicyName=name)
        iam.delete_role(RoleName=name)


def listing(account: Account, role: str, bucket: str) -> Any:
    """A client that acts by a role which may list below `control/` by now; None as long as Amazon does not know it."""
    try:
        said = account.clients.client("sts").assume_role(RoleArn=role, RoleSessionName="question")["Credentials"]
        keys = said["AccessKeyId"], said["SecretAccessKey"], said["SessionToken"]
        s3 = boto3.client("s3", account.clients.region, **dict(zip(_KEYS, keys, strict=True)))
        s3.list_objects_v2(Bucket=bucket, Prefix="control/", MaxKeys=1)
    except ClientError as error:
        assert "Denied" in error.response["Error"]["Code"]
        return None
    return s3


_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def test_whether_a_dry_run_refuses_an_instance_profile_that_is_none(account: Account) -> None:
    offer = account.provider.offers(Need(machine=MACHINE, project=PROJECT)).fitting[0]
    call = account.provider.request(boot_for(account), offer)["run_instances"]
    lease = call.pop("ClientToken")  # each call is one of its own
    wrong = {**call, "IamInstanceProfile": {"Name": "sojourn-live-none"}, "DryRun": True}
    ec2 = account.clients.client("ec2")
    codes = [answer(partial(ec2.run_instances, **one)) for one in (wrong, {**call, "DryRun": True})]
    learnt("62", f"a dry run with an instance profile that is none is answered with {codes[0]}, with ours {codes[1]}")
    assert machines(account, lease) == []


def test_what_spot_prices_are_from_a_moment_that_amazons_clock_has_not_reached(account: Account) -> None:
    asked = {"InstanceTypes": [MACHINE], "ProductDescriptions": ["Linux/UNIX"]}
    ahead, found = datetime.now(UTC) + timedelta(minutes=10), list[Any]()
    ec2 = account.clients.client("ec2")
    said = answer(lambda: found.extend(ec2.describe_spot_price_history(StartTime=ahead, **asked)["SpotPriceHistory"]))
    learnt("16", f"spot prices from ten minutes ahead: {said}, {len(found)} of them")
    offers = account.provider.offers(Need(machine=MACHINE, market="spot", project=PROJECT))
    assert offers.fitting, "prices are asked for from a moment that has been"


def test_what_a_machine_s_rights_reach_of_another_run(account: Account) -> None:
    """Of two runs that are made up, under exactly the policy that setup gives to machines."""
    clients, store = account.clients, Store(f"s3://sojourn-{account.clients.account}-{account.clients.region}")
    names = Names(clients.account, clients.region, PROJECT)
    mine, theirs = (f"{mint_place()}-calm-panda-000{number}" for number in range(2))
    key, hidden = f"orders/{PROJECT}/{mine}/stop.json", f"machine/{PROJECT}/{theirs}/1/0/hello.json"
    secrets = Secrets(clients, PROJECT)
    with acting_by(account, policies.machine(names)) as client:
        s3, ssm = client("s3"), client("ssm")
        try:
            for one in (key, hidden):
                store.put(one, b"{}")
            for name in ("LIVE_MINE", "LIVE_THEIRS"):
                secrets.set(name, "x")
            path = secrets.paths(["LIVE_MINE"])["LIVE_MINE"]
            wait(lambda: answer(lambda: s3.get_object(Bucket=names.bucket, Key=key)) == "taken")
            get, see = partial(s3.get_object, Bucket=names.bucket), partial(s3.list_objects_v2, Bucket=names.bucket)
            asked: dict[str, Callable[[], Any]] = {
                "its own order": lambda: get(Key=key),
                "its own folder": lambda: see(Prefix=f"machine/{PROJECT}/{mine}/"),
                "what is not there of its own": lambda: get(Key=f"orders/{PROJECT}/{mine}/exec/1/00000000.json"),
                "a hash that is not there": lambda: get(Key=f"control/{PROJECT}/blob/{64 * '0'}"),
                "the project's folder": lambda: see(Prefix=f"machine/{PROJECT}/"),
                "half of another's name": lambda: see(Prefix=hidden[: len(f"machine/{PROJECT}/") + 16]),
                "everything": see,
                "the earlier versions of its own": lambda: s3.list_object_versions(Bucket=names.bucket, Prefix=key),
                "another's plan": lambda: get(Key=f"control/{PROJECT}/{theirs[33:]}/plan.json"),
                "by another's name alone": lambda: get(Key=f"machine/{PROJECT}/{theirs[33:]}/1/0/hello.json"),
                "its own secret": lambda: ssm.get_parameters(Names=[path], WithDecryption=True),
                "another's secret by its name": lambda: ssm.get_parameters(Names=[names.secret("LIVE_THEIRS", "")]),
                "all secrets": lambda: ssm.get_parameters_by_path(Path=names.secrets, Recursive=True),
                "the names of secrets": ssm.describe_parameters,
            }
            said = {what: answer(call) for what, call in asked.items()}
            pattern = f"machine/{PROJECT}/{32 * '?'}-"
            taken = see(Prefix=pattern)["KeyCount"]
        finally:
            store.delete(key, hidden)
            for name in {one.name for one in secrets.list()} & {"LIVE_MINE", "LIVE_THEIRS"}:
                secrets.remove(name)
    learnt("173", f"32 question marks in a policy stand for a name; in a request they find {taken} objects")
    learnt("174", "; ".join(f"{what}: {code}" for what, code in said.items() if "secret" not in what))
    learnt("177", "; ".join(f"{what}: {code}" for what, code in said.items() if "secret" in what))
    assert {what for what, code in said.items() if code == "taken"} == {
        "its own order", "its own folder", "its own secret",
    }  # fmt: skip
    assert taken == 0 and said["what is not there of its own"] in ("NoSuchKey", "AccessDenied")


@contextmanager
def acting_by(account: Account, document: dict[str, Any]) -> Iterator[Callable[[str], Any]]:
    """Makes clients that act by a role of this policy, which is gone afterwards."""
    iam, name = account.clients.client("iam"), "sojourn-live-machine"
    trust = {"Effect": "Allow", "Principal": {"AWS": account.clients.account}, "Action": "sts:AssumeRole"}
    made = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )

    def keys() -> Any:
        try:
            said = account.clients.client("sts").assume_role(RoleArn=made["Role"]["Arn"], RoleSessionName="question")
        except ClientError as error:
            assert "Denied" in error.response["Error"]["Code"]
            return None  # Amazon does not know it yet
        return said["Credentials"]

    try:
        iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(document))
        found = wait(keys)
        known = found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"]
        region = account.clients.region
        yield lambda service: boto3.client(service, region, **dict(zip(_KEYS, known, strict=True)))
    finally:
        iam.delete_role_policy(RoleName=name, PolicyName=name)
        iam.delete_role(RoleName=name)
