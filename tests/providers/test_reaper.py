"""The reaper in the cloud: what it ends, what it leaves, and how it gets there."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from clouds.aws.iam.rules import actions
from clouds.aws_cloud import AwsCloud

from sojourn.clouds.account import differences
from sojourn.clouds.aws import policies, reaper_function
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import Names
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.clouds.aws.setup.reaper import archive
from sojourn.names import LeaseName

LEASE = str(LeaseName("calm-panda-a2e3", 1))
OTHER = str(LeaseName("witty-wren-00ff", 1))
LATE = str(int(time.time()) - reaper_function.GRACE_S - 60)


def rent(aws: AwsCloud, token: str | None = None, market: str | None = None, **tags: str) -> str:
    """A machine; one with a lease was made by that lease's request, unless `token` says otherwise."""
    ec2 = aws.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    named = [{"Key": f"sojourn:{key}", "Value": value} for key, value in tags.items()]
    specs = [{"ResourceType": "instance", "Tags": named}] if named else []
    words: dict[str, Any] = {"ClientToken": token or tags["lease"]} if token or "lease" in tags else {}
    words |= {"InstanceMarketOptions": {"MarketType": market}} if market else {}
    made = ec2.run_instances(
        ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, TagSpecifications=specs, **words
    )
    return str(made["Instances"][0]["InstanceId"])


def test_what_outlived_its_deadline_is_ended_and_nothing_else(aws: AwsCloud) -> None:
    soon = str(int(time.time()) - reaper_function.GRACE_S + 300)
    overdue, copied = rent(aws, lease=LEASE, deadline=LATE), rent(aws, "a-copy", lease=LEASE, deadline=LATE)
    spared = [
        rent(aws, lease=OTHER, deadline=soon),
        rent(aws, lease="sojourn-calm-panda-a2e3-1-0-ffff", deadline=LATE),
        rent(aws, lease=str(LeaseName("calm-panda-a2e3", 2)), deadline="soon"),
        rent(aws, deadline=LATE),
        rent(aws),
    ]
    answers = reaper_function.handler({}, None)
    assert answers.pop(copied)["left"] == "it carries our tags, but was not made by us"
    assert {one: answer["done"] for one, answer in answers.items()} == {overdue: "terminated"}
    assert sorted(aws.running()) == sorted([*spared, copied])


def test_many_are_ended_by_one_call_and_one_that_cannot_be_keeps_no_other_alive(aws: AwsCloud) -> None:
    overdue = [rent(aws, lease=str(LeaseName("calm-panda-a2e3", 1, offer)), deadline=LATE) for offer in range(6)]
    aws.fault(
        "ec2", "TerminateInstances", "error", body=overdue[4], count=None, code="OperationNotPermitted", status=400
    )
    with pytest.raises(RuntimeError, match="OperationNotPermitted") as raised:
        reaper_function.handler()
    answers = json.loads(str(raised.value))
    assert [name for name in overdue if "error" in answers[name]] == [overdue[4]] == aws.running()
    aws.clear_faults()
    aws.timing(shutdown_s=60.0)
    more = [rent(aws, lease=str(LeaseName("witty-wren-00ff", 1, offer)), deadline=LATE) for offer in range(5)]
    before = len(aws.calls("ec2", "TerminateInstances"))
    assert {one["done"] for one in reaper_function.handler().values()} == {"terminated"} and more
    assert len(aws.calls("ec2", "TerminateInstances")) == before + 1 and not aws.running()


def test_a_spot_machine_goes_by_its_tags_for_it_may_not_show_its_token(aws: AwsCloud) -> None:
    overdue = rent(aws, "another", market="spot", lease=LEASE, deadline=LATE)
    assert reaper_function.handler()[overdue]["done"] == "terminated"


def group(aws: AwsCloud, name: str, deadline: str, lease: str = "") -> None:
    tags = [{"Key": "sojourn:lease", "Value": lease or name}, {"Key": "sojourn:deadline", "Value": deadline}]
    specs = [{"ResourceType": "placement-group", "Tags": tags}]
    aws.client("ec2").create_placement_group(GroupName=name, Strategy="cluster", TagSpecifications=specs)


def groups(aws: AwsCloud) -> list[str]:
    return [one["GroupName"] for one in aws.client("ec2").describe_placement_groups()["PlacementGroups"]]


def test_a_placement_group_goes_after_its_machines(aws: AwsCloud) -> None:
    ec2 = aws.client("ec2")
    group(aws, LEASE, LATE)
    group(aws, OTHER, str(int(time.time())))
    group(aws, "somebodys", LATE, lease=LEASE)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    machine = {"ImageId": image, "InstanceType": "c6i.large", "MinCount": 1, "MaxCount": 1}
    made = ec2.run_instances(**machine, Placement={"GroupName": LEASE})["Instances"][0]["InstanceId"]
    assert reaper_function.handler()[LEASE]["left"] == "in use"
    ec2.terminate_instances(InstanceIds=[made])
    aws.wait_for(made, "terminated")
    assert reaper_function.handler()[LEASE]["done"] == "deleted"
    assert groups(aws) == [OTHER, "somebodys"]


@pytest.mark.parametrize(("run", "attempt", "offer"), [("calm-panda-a2e3", 1, 0), ("witty-wren-00ff", 12, 34)])
def test_it_knows_our_names_as_we_give_them(run: str, attempt: int, offer: int) -> None:
    name = str(LeaseName(run, attempt, offer))
    assert reaper_function.is_ours(name)
    assert not reaper_function.is_ours(name[:-1] + ("0" if name[-1] != "0" else "1"))


def test_one_that_cannot_be_ended_keeps_no_other_alive_and_is_an_error(aws: AwsCloud) -> None:
    stubborn, _ = (rent(aws, lease=lease, deadline=LATE) for lease in (LEASE, OTHER))
    refusal = {"code": "UnauthorizedOperation", "status": 403}
    aws.fault("ec2", "TerminateInstances", "error", body=stubborn, count=None, **refusal)
    with pytest.raises(RuntimeError, match="UnauthorizedOperation"):
        reaper_function.handler()
    assert len(aws.running()) == 1


def test_it_is_set_up_once_and_its_code_follows_ours(
    aws: AwsCloud, clients: Clients, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def changes() -> list[str]:
        return [change.piece.title for change in differences(pieces(clients, "digits", reaper=True))]

    def make() -> None:
        for change in differences(pieces(clients, "digits", reaper=True)):
            change.apply()

    make()
    assert changes() == []
    [target] = aws.client("events").list_targets_by_rule(Rule="sojourn-reaper")["Targets"]
    assert target["Arn"] == "arn:aws:lambda:us-east-1:123456789012:function:sojourn-reaper"

    (tmp_path / "reaper.py").write_text("# a newer one\n")
    monkeypatch.setattr("sojourn.clouds.aws.setup.reaper.SOURCE", tmp_path / "reaper.py")
    assert changes() == ["function sojourn-reaper in us-east-1"]
    make()
    assert changes() == []
    aws.client("events").disable_rule(Name="sojourn-reaper")
    assert changes() == ["function sojourn-reaper in us-east-1"]
    make()
    assert changes() == []


def test_what_is_sent_is_one_file_that_runs_by_itself_and_the_same_each_time(aws: AwsCloud, tmp_path: Path) -> None:
    assert archive() == archive()
    with zipfile.ZipFile(io.BytesIO(archive())) as packed:
        assert packed.namelist() == ["reaper.py"]
        packed.extractall(tmp_path)
    overdue = rent(aws, lease=LEASE, deadline=LATE)
    done = subprocess.run([sys.executable, "-P", "reaper.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert overdue in done.stdout
    assert "sojourn.names" not in (tmp_path / "reaper.py").read_text()


def test_its_role_is_enough_for_it_and_ends_nobody_else_s(
    aws: AwsCloud, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    for change in differences(pieces(clients, "digits", reaper=True)):
        change.apply()
    overdue, theirs = rent(aws, lease=LEASE, deadline=LATE), rent(aws)
    group(aws, LEASE, LATE)
    role = "arn:aws:iam::123456789012:role/sojourn-reaper"
    keys = aws.client("sts").assume_role(RoleArn=role, RoleSessionName="reaper")["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys["SessionToken"])
    import boto3

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would keep the keys of an earlier test
    aws.enforce()
    assert list(reaper_function.handler()) == [overdue, LEASE] and groups(aws) == []
    refused = reaper_function.end(boto3.client("ec2"), theirs)
    assert "UnauthorizedOperation" in refused["error"]
    assert aws.running() == [theirs]
    assert {action for _, action in aws.used()} == actions(
        policies.reaper(Names("123456789012", "us-east-1", "digits"))
    )
