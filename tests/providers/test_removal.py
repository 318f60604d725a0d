"""`sojourn setup aws --remove`: what setup made goes, what others need stays, and nothing goes under a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from clouds.aws.iam.rules import actions
from clouds.aws_cloud import ACCOUNT, REGION, AwsCloud
from typer.testing import CliRunner

from cli.main import app
from sojourn.clouds.account import Removal, differences
from sojourn.clouds.aws import administrator
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import Names
from sojourn.clouds.aws.secrets import Secrets
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.clouds.aws.setup.removal import removal
from sojourn.errors import AccessError, SpecError, TeardownError
from sojourn.names import LeaseName
from sojourn.providers.ec2.provider import Ec2Provider
from sojourn.store.known_stores import remember, remembered
from sojourn.store.storage import Store

NAMES = Names(ACCOUNT, REGION, "digits")
LEASE = str(LeaseName("calm-panda-a2e3", 1))
# Allowed to whoever sets up, and not called here.
SPOT = "role AWSServiceRoleForEC2Spot: Amazon's own, which whoever rents spot machines here needs"
ELSEWHERE = {
    "s3:GetBucketPolicy",  # only at an endpoint with TLS
    "s3:PutBucketPolicy",
    "ec2:DescribeRegions",  # only by looking for machines everywhere
    "ec2:AuthorizeSecurityGroupEgress",  # only of a group that somebody closed
    "ec2:RevokeSecurityGroupIngress",  # only of one that somebody opened
    "iam:UpdateAssumeRolePolicy",  # only of a role that somebody changed
    "lambda:UpdateFunctionCode",  # only of an older reaper
    "lambda:UpdateFunctionConfiguration",
    "scheduler:DeleteSchedule",  # at Amazon who deletes a group of schedules needs it; here none is left
    "scheduler:GetSchedule",  # only of one that is left
}


def make(clients: Clients, project: str = "digits") -> None:
    for change in differences(pieces(clients, project, reaper=True)):
        change.apply()


def missing(clients: Clients, project: str = "digits") -> list[str]:
    return [one.piece.title for one in differences(pieces(clients, project, reaper=True)) if one.new]


def planned(clients: Clients, project: str = "digits", results: bool = False) -> Removal:
    return removal(clients, Ec2Provider(clients, [REGION]), project, results=results)


def test_all_that_setup_made_goes_and_can_be_made_again(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    found = planned(clients)
    assert len(found.going) == 8 and found.staying == (SPOT,)
    found.apply()
    assert len(missing(clients)) == 8, "Amazon's own role for spot machines is not ours to remove"
    assert (planned(clients).going, planned(clients).staying) == ((), (SPOT,))
    make(clients)
    assert missing(clients) == []


def test_nothing_goes_while_anything_of_ours_stands(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    tags = [{"Key": "sojourn:lease", "Value": LEASE}]
    spec = [{"ResourceType": "volume", "Tags": tags}]
    aws.client("ec2").create_volume(AvailabilityZone=f"{REGION}a", Size=8, TagSpecifications=spec)
    with pytest.raises(SpecError, match=f"{LEASE} still stands") as caught:
        planned(clients)
    assert "sojourn reap" in str(caught.value.hint)


def test_a_region_that_an_organization_closed_keeps_nobody_from_removing(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    aws.close_region("eu-west-1")
    found = removal(clients, Ec2Provider(clients), "digits")
    assert found.staying == (
        SPOT,
        "eu-west-1: your organization closed it, so nothing was looked for there",
    )
    found.apply()
    assert len(missing(clients)) == 8
    with pytest.raises(AccessError, match="service control policy"):
        removal(clients, Ec2Provider(clients, ["eu-west-1"]), "digits")


def test_what_another_project_needs_stays(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    make(clients, "faces")
    found = planned(clients)
    assert {one.title for one in found.going} == {
        "role sojourn-machine-digits",
        "instance profile sojourn-machine-digits",
    }
    assert SPOT in found.staying and len(found.staying) == 7
    assert [line for line in found.staying if not line.endswith(": faces needs it too")] == [SPOT]
    found.apply()
    assert missing(clients, "faces") == []


def test_a_bucket_that_keeps_results_goes_only_when_that_is_said(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    for number in range(3):
        aws.client("s3").put_object(Bucket=NAMES.bucket, Key=f"control/digits/{number}", Body=b"x")
    kept = planned(clients)
    assert kept.staying == (
        SPOT,
        f"bucket {NAMES.bucket}: it keeps results; to delete them too: --delete-results",
    )
    kept.apply()
    assert aws.client("s3").list_objects_v2(Bucket=NAMES.bucket)["KeyCount"] == 3
    planned(clients, results=True).apply()
    assert aws.client("s3").list_buckets()["Buckets"] == []


def test_a_bucket_goes_with_what_it_keeps_of_what_was_deleted(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    s3 = aws.client("s3")
    for body in (b"one", b"two"):
        s3.put_object(Bucket=NAMES.bucket, Key="control/digits/x", Body=body)
    s3.delete_object(Bucket=NAMES.bucket, Key="control/digits/x")
    found = planned(clients)
    assert f"bucket {NAMES.bucket}" in [one.title for one in found.going], "nothing that anybody would miss"
    found.apply()
    assert s3.list_buckets()["Buckets"] == []


def test_a_bucket_that_went_is_looked_for_no_more_and_the_secrets_that_stay_are_named(
    clients: Clients, aws: AwsCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    (tmp_path / "params.yaml").write_text("launch: {project_name: digits}\n")
    make(clients)
    Secrets(clients, "digits").set("WANDB_API_KEY", "x")
    for url in (f"s3://{NAMES.bucket}", "s3://another"):
        remember(tmp_path, Store(url))
    words = ["setup", "aws", "--project", str(tmp_path), "--remove", "--delete-results", "--yes"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "stays: secret WANDB_API_KEY: yours; to remove it too: sojourn secret remove WANDB_API_KEY" in done.output
    assert remembered(tmp_path) == ["s3://another"]


def test_what_setup_made_in_a_region_that_is_not_named_now_is_said_to_stay(clients: Clients, aws: AwsCloud) -> None:
    for change in differences(pieces(clients, "digits", ["eu-west-1"])):
        change.apply()
    provider = Ec2Provider(clients)
    stays = "security group sojourn-machines and schedule group sojourn in eu-west-1: to remove it too: "
    assert removal(clients, provider, "digits").staying == (SPOT, f"{stays}--region {REGION} --region eu-west-1")
    assert removal(clients, provider, "digits", ["eu-west-1"]).staying == (SPOT,)


@pytest.mark.parametrize("way", ["another piece cannot go", "somebody deleted it", "nothing stands any more"])
def test_a_store_that_is_gone_is_looked_for_no_more_however_it_went(
    clients: Clients, aws: AwsCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path))
    (tmp_path / "params.yaml").write_text("launch: {project_name: digits}\n")
    make(clients)
    for url in (f"s3://{NAMES.bucket}/team", "s3://another"):
        remember(tmp_path, Store(url))
    if way == "another piece cannot go":
        body = "RoleName=sojourn-machine-digits"
        aws.fault("iam", "DeleteRole", "error", code="DeleteConflict", status=409, message="detach", body=body)
    elif way == "somebody deleted it":
        aws.client("s3").delete_bucket(Bucket=NAMES.bucket)
    else:
        planned(clients).apply()
    CliRunner().invoke(app, ["setup", "aws", "--project", str(tmp_path), "--remove", "--yes"])
    assert remembered(tmp_path) == ["s3://another"]


def test_what_cannot_go_keeps_no_other_from_going(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    body = "RoleName=sojourn-machine-digits"
    aws.fault("iam", "DeleteRole", "error", code="DeleteConflict", status=409, message="detach first", body=body)
    with pytest.raises(TeardownError, match=r"role sojourn-machine-digits.*detach first"):
        planned(clients).apply()
    assert [one.title for one in planned(clients).going] == ["role sojourn-machine-digits"]


@pytest.mark.slow
def test_it_is_shown_before_it_is_done(aws: AwsCloud, clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("launch: {project_name: digits}\n")

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, ["setup", "aws", "--project", str(tmp_path), *words])
        assert done.exit_code == 0, done.output
        return done.output

    run("--yes")
    shown = run("--remove")
    assert "- bucket" in shown and "Nothing was removed. Do it: sojourn setup aws --project" in shown
    assert shown.rstrip().endswith("--remove --yes")
    assert "6 removed" in run("--remove", "--yes")
    assert "Nothing to remove." in run("--remove", "--yes")


def test_who_sets_up_needs_the_printed_rights_and_no_others(aws: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    root = aws.user("root", administrator.policy(NAMES))
    for name, value in root.items():
        monkeypatch.setenv(name, value)
    aws.enforce()
    clients = Clients()
    make(clients)
    assert missing(clients) == []
    aws.client("s3").put_object(Bucket=NAMES.bucket, Key="control/digits/x", Body=b"x")
    planned(clients, results=True).apply()
    assert missing(clients) == [one.title for one in pieces(clients, "digits", reaper=True) if "Spot" not in one.title]
    used = {action for who, action in aws.used() if who == "user/root"}
    assert actions(administrator.policy(NAMES)) - used == ELSEWHERE
    refused = {one["action"] for one in aws.decisions("user/root") if not one["allowed"]}
    assert refused <= {"ssm:GetParameter", "ssm:DescribeParameters", "ec2:RunInstances"}, (
        "of whoever may not rent, setup asks no more"
    )


def test_a_region_that_is_nobody_s_default_is_enough_to_remove(
    clients: Clients, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    make(clients)
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "home"))
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    words = ["setup", "aws", "--project", str(tmp_path / "digits"), "--region", REGION, "--remove", "--yes"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "removed" in done.output, done.output
