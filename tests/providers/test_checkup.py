"""What `sojourn doctor --where aws` sees of an account, and the command that mends each thing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from clouds.aws_cloud import AwsCloud

from sojourn.clouds.account import Check, differences
from sojourn.clouds.aws import checkup
from sojourn.clouds.aws.clients import Caller, Clients
from sojourn.clouds.aws.foundation import Foundation, find
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.run.doctor import probe
from sojourn.store.storage import Store


def make(clients: Clients) -> None:
    for change in differences(pieces(clients, "digits")):
        change.apply()


def examined(clients: Clients) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checkup.examine(clients, "digits", lambda url: probe(Store(url))):
        found.setdefault(check.what, []).append(check)
    return found


@pytest.fixture
def foundation(aws: AwsCloud, clients: Clients) -> Foundation:
    make(clients)
    return find(clients, "digits")


@pytest.fixture
def user(aws: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> str:
    """The keys of somebody who may do everything but see subnets and prices, which the account enforces."""
    iam = aws.client("iam")
    iam.create_user(UserName="ann")
    statements = [
        {"Effect": "Allow", "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "Action": ["ec2:DescribeSubnets", "pricing:GetProducts"], "Resource": "*"},
    ]
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName="ann", PolicyName="most", PolicyDocument=policy)
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    aws.enforce()
    return "ann"


def test_an_account_without_a_foundation_is_told_of_setup(aws: AwsCloud, clients: Clients) -> None:
    found = examined(clients)
    assert found["identity"][0].state == "good"
    for heading in ("network", "profile", "role", "timers", "bucket"):
        assert {(one.state, one.mend) for one in found[heading]} == {
            ("missing", "sojourn setup aws --region us-east-1")
        }
    assert "rights" not in found


def test_after_setup_nothing_of_the_foundation_is_missing(aws: AwsCloud, clients: Clients) -> None:
    make(clients)
    found = examined(clients)
    for heading in ("network", "profile", "role", "timers", "bucket", "clock"):
        assert {one.state for one in found[heading]} == {"good"}


def test_each_right_that_is_lacking_is_named_with_what_grants_it(foundation: Foundation, user: str) -> None:
    found = [one for one in checkup.permissions(Clients(), foundation) if "not allowed" in one.found]
    states = {one.state: one for one in found}
    assert "ec2:DescribeSubnets" in states["missing"].found
    assert "ec2:DescribeImages" not in states["missing"].found
    assert "sojourn setup aws --print" in str(states["missing"].mend)
    assert "user/ann" in str(states["missing"].mend)


def test_an_account_that_does_not_know_the_credentials_is_told_in_one_line(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN000000000")
    [check] = examined(Clients())["identity"]
    assert check.state == "missing"
    assert "security token included in the request is invalid" in check.found
    assert "aws sso login" in str(check.mend)


def test_no_credentials_at_all_end_the_examination_there(monkeypatch: pytest.MonkeyPatch, aws: AwsCloud) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    found = examined(Clients())
    assert list(found) == ["aws", "identity"]
    assert "aws configure" in str(found["identity"][0].mend)


@pytest.mark.parametrize(
    ("off", "state", "said"), [(2, "good", "2 s"), (400, "missing", "ahead"), (-90, "missing", "behind")]
)
def test_a_clock_that_differs_from_amazon_s_is_missing(off: float, state: str, said: str) -> None:
    check = checkup.clock(off)
    assert check.state == state
    assert said in check.found
    assert check.state == "good" or check.mend


@pytest.mark.parametrize(
    ("left", "source", "state"), [(600, "sso", "weak"), (7200, "sso", "good"), (600, "iam-role", "good")]
)
def test_a_login_that_ends_soon_is_weak(left: float, source: str, state: str) -> None:
    class Known:
        region = "us-east-1"
        caller = Caller("arn:aws:iam::123456789012:user/ann", source, time.time() + left, 0.0)

    known: Any = Known()
    check = checkup.credentials(known)
    assert check.state == state
    assert "more minutes" in check.found
