"""The whole of a lease under exactly the policies that `sojourn setup aws --print` names.

The stand-in enforces them with their resources and conditions; a call that they do not allow
fails as it would at Amazon's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from clouds.aws.iam.rules import actions
from clouds.aws_cloud import ACCOUNT, AwsCloud

from sojourn.errors import AccessError
from sojourn.names import LeaseName
from sojourn.providers.ec2 import checkup, policies, survey, ways
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.foundation import Foundation, Names, find
from sojourn.providers.ec2.lease import Ec2Provider
from sojourn.providers.ec2.secrets import Secrets
from sojourn.providers.ec2.setup import differences, pieces
from sojourn.records import Boot, Market, Need
from sojourn.s3 import Bucket
from sojourn.storage import Store

NAMES = Names(ACCOUNT, "us-east-1", "digits")
LEASE = str(LeaseName("calm-panda-a2e3", 1))
REMOTE = "s3://acme-data/dvc"
# Allowed, and used by parts of a run that these tests do not walk through.
ELSEWHERE = {
    "s3:AbortMultipartUpload",  # only when a large upload breaks off
    "ec2:DescribeRouteTables",  # only of `network: none`
    "ec2:DescribeVpcEndpoints",
    "ec2:DeleteVolume",  # only of a volume that its machine left behind
    "servicequotas:GetAWSDefaultServiceQuota",  # only of a quota that was never raised
}


@pytest.fixture
def foundation(aws: AwsCloud, clients: Clients) -> Foundation:
    for change in differences(pieces(clients, "digits", remotes=[REMOTE])):
        change.apply()
    for bucket in ("acme-data", "acme-private"):
        aws.client("s3").create_bucket(Bucket=bucket)
    return find(clients, "digits")


@pytest.fixture
def orchestrator(aws: AwsCloud, foundation: Foundation, monkeypatch: pytest.MonkeyPatch) -> Clients:
    """Somebody who may do what the printed policy says, and nothing else."""
    iam = aws.client("iam")
    printed = policies.printed(NAMES, [REMOTE])["who_runs_sojourn"]
    policy = iam.create_policy(PolicyName="runs-sojourn", PolicyDocument=json.dumps(printed))["Policy"]["Arn"]
    iam.create_user(UserName="ann")
    iam.attach_user_policy(UserName="ann", PolicyArn=policy)
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    aws.enforce()
    return Clients()


@pytest.fixture
def machine(aws: AwsCloud, foundation: Foundation) -> Callable[[str], Any]:
    """Clients of somebody who acts by the machine role."""
    import boto3

    role = f"arn:aws:iam::{ACCOUNT}:role/{NAMES.machine_role}"
    keys = aws.client("sts").assume_role(RoleArn=role, RoleSessionName="machine")["Credentials"]
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], "us-east-1")
    aws.enforce()
    return lambda service: session.client(service, endpoint_url=aws.url)


def code(call: Callable[[], object]) -> str:
    """Amazon's word for why the call failed, `fine` when it did not."""
    from botocore.exceptions import ClientError

    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "fine"


# --- whoever runs Sojourn -----------------------------------------------------------------


@pytest.mark.parametrize("bucket", ["acme-own", "runs.acme.org"])
def test_a_store_below_a_prefix_is_used_with_exactly_the_printed_rights(
    aws: AwsCloud, foundation: Foundation, monkeypatch: pytest.MonkeyPatch, bucket: str
) -> None:
    abroad = {"LocationConstraint": "eu-west-1"}
    aws.client("s3", "eu-west-1").create_bucket(Bucket=bucket, CreateBucketConfiguration=abroad)
    names = Names(ACCOUNT, "us-east-1", "digits", store=f"s3://{bucket}/team")
    for name, value in aws.user("bo", policies.printed(names)["who_runs_sojourn"]).items():
        monkeypatch.setenv(name, value)
    aws.enforce()
    store = Store(f"s3://{bucket}/team")
    store.create("control/digits/x", b"1")
    assert store.find("control/digits/x") == b"1" and store.region == "eu-west-1"
    for other in (f"s3://{bucket}/others", f"s3://{bucket}"):
        with pytest.raises(AccessError, match="is another account's, or not for these credentials"):
            Store(other).find("control/digits/x")


def test_where_the_bucket_of_a_remote_below_a_prefix_lies_is_known_with_exactly_the_printed_rights(
    orchestrator: Clients,
) -> None:
    need = Need(machine="t3.micro", project="digits", network="none", data=(f"{REMOTE}/files",))
    assert survey._data(need, orchestrator) == {"s3://acme-data": "us-east-1"}
    assert ways.are_enough(need, "us-east-1", {"s3://acme-data": "us-east-1"})
    assert not ways.are_enough(need, "us-east-1", {}), "a bucket that may be anywhere is not near"


def lease(clients: Clients, foundation: Foundation, market: Market) -> dict[str, Any]:
    """The request for the first machine that is offered."""
    provider = Ec2Provider(clients, ["us-east-1"])
    # Two machines near each other: that takes every right that renting ever takes.
    need = Need(machine="c6i.large", nodes=2, cluster=True, market=market, project="digits")
    offer = provider.offers(need).fitting[0]
    boot = Boot(
        store=foundation.store,
        project="digits",
        run="calm-panda-a2e3",
        attempt=1,
        lease=LEASE,
        nodes=2,
        deadline_at=time.time() + 3600,
        grace_s=60.0,
    )
    return provider.request(boot, offer)


def rent_and_give_back(clients: Clients, foundation: Foundation, market: Market) -> None:
    provider = Ec2Provider(clients)
    provider.create(lease(clients, foundation, market))
    assert [one.name for one in Ec2Provider(clients).leases()] == [LEASE]
    end = time.monotonic() + 30
    while not provider.release(LEASE):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert Ec2Provider(clients).leases() == []


def test_a_lease_is_rented_seen_found_and_given_back(
    aws: AwsCloud, foundation: Foundation, orchestrator: Clients
) -> None:
    rent_and_give_back(orchestrator, foundation, "on-demand")


def test_nobody_can_rent_without_our_tags_nor_end_or_tag_what_is_not_ours(
    aws: AwsCloud, foundation: Foundation, orchestrator: Clients
) -> None:
    call = lease(orchestrator, foundation, "on-demand")["run_instances"]
    call.pop("Placement")
    ec2 = orchestrator.client("ec2")
    untagged = {**call, "ClientToken": "x", "TagSpecifications": []}
    assert code(lambda: ec2.run_instances(**untagged)) == "UnauthorizedOperation"
    theirs = aws.client("ec2").run_instances(**untagged)["Instances"][0]["InstanceId"]
    assert code(lambda: ec2.terminate_instances(InstanceIds=[theirs])) == "UnauthorizedOperation"
    tag = {"Key": "sojourn:lease", "Value": LEASE}
    assert code(lambda: ec2.create_tags(Resources=[theirs], Tags=[tag])) == "UnauthorizedOperation"
    assert code(lambda: ec2.create_placement_group(GroupName=LEASE)) == "UnauthorizedOperation"
    aws.client("ec2").create_placement_group(GroupName="sojourn-of-others")
    assert code(lambda: ec2.delete_placement_group(GroupName="sojourn-of-others")) == "UnauthorizedOperation"


def test_no_other_role_can_be_handed_to_a_machine(aws: AwsCloud, foundation: Foundation, orchestrator: Clients) -> None:
    iam = aws.client("iam")
    trust = json.dumps(policies.trust(NAMES, "ec2"))
    iam.create_role(RoleName="admin", AssumeRolePolicyDocument=trust)
    iam.create_instance_profile(InstanceProfileName="admin")
    iam.add_role_to_instance_profile(InstanceProfileName="admin", RoleName="admin")
    call = lease(orchestrator, foundation, "on-demand")["run_instances"]
    wrong = {**call, "IamInstanceProfile": {"Name": "admin"}}
    assert code(lambda: orchestrator.client("ec2").run_instances(**wrong)) == "UnauthorizedOperation"


def keep_things(clients: Clients, foundation: Foundation) -> None:
    s3 = clients.client("s3")
    for bucket, key in ((foundation.bucket, "control/digits/x"), ("acme-data", "dvc/files/x")):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"x"
        assert s3.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"] == 1
    s3.delete_object(Bucket=foundation.bucket, Key="control/digits/x")
    secrets = Secrets(clients, "digits")
    secrets.set("KEY", "x")
    assert [one.name for one in secrets.list()] == ["KEY"]
    secrets.remove("KEY")


def test_the_store_the_remotes_and_the_secrets_are_kept_and_nothing_outside_them(
    foundation: Foundation, orchestrator: Clients
) -> None:
    keep_things(orchestrator, foundation)
    s3 = orchestrator.client("s3")
    assert code(lambda: s3.delete_object(Bucket="acme-data", Key="dvc/files/x")) == "AccessDenied"
    assert code(lambda: s3.put_object(Bucket="acme-data", Key="elsewhere", Body=b"x")) == "AccessDenied"
    assert code(lambda: s3.get_object(Bucket="acme-private", Key="x")) == "AccessDenied"
    with pytest.raises(AccessError, match="sojourn/faces/KEY"):
        Secrets(orchestrator, "faces").set("KEY", "x")


def versions(aws: AwsCloud, bucket: str) -> int:
    """How much of whatever age the bucket keeps."""
    said = aws.client("s3").list_object_versions(Bucket=bucket)
    return len(said.get("Versions", [])) + len(said.get("DeleteMarkers", []))


def test_what_a_purge_removes_is_gone_with_all_its_versions_and_nothing_else(
    aws: AwsCloud, foundation: Foundation, orchestrator: Clients
) -> None:
    store = Store(foundation.store)
    for body in (b"one", b"two"):
        for key in ("control/digits/r/owner.json", "control/digits/r/kept.json", "control/digits/s/owner.json"):
            store.put(key, body)
    store.delete("control/digits/r/owner.json")
    assert versions(aws, foundation.bucket) == 7
    store.clear("control/digits/r", keep=["control/digits/r/kept.json"])
    assert store.keys("control/digits") == ["control/digits/r/kept.json", "control/digits/s/owner.json"]
    assert versions(aws, foundation.bucket) == 1 + 2


def test_what_is_not_erased_in_time_does_not_come_back(
    aws: AwsCloud, foundation: Foundation, orchestrator: Clients
) -> None:
    store = Store(foundation.store)
    store.put("control/digits/r/plan.json", b"one")
    store.delete("control/digits/r/plan.json")
    Bucket(foundation.store).erase("control/digits/r/", limit_s=-1.0)
    assert store.find("control/digits/r/plan.json") is None and versions(aws, foundation.bucket) == 1


def test_who_may_not_erase_versions_removes_a_run_all_the_same(
    aws: AwsCloud, foundation: Foundation, orchestrator: Clients
) -> None:
    earlier = policies.printed(NAMES, [REMOTE])["who_runs_sojourn"]
    for statement in earlier["Statement"]:
        statement["Action"] = [one for one in statement["Action"] if not one.endswith(("Versions", "ObjectVersion"))]
    arn = f"arn:aws:iam::{ACCOUNT}:policy/runs-sojourn"
    aws.client("iam").create_policy_version(PolicyArn=arn, PolicyDocument=json.dumps(earlier), SetAsDefault=True)
    store = Store(foundation.store)
    store.put("control/digits/r/owner.json", b"one")
    store.clear("control/digits/r")
    assert store.keys("control/digits") == [] and versions(aws, foundation.bucket) == 2


def test_the_doctor_finds_nothing_missing_under_the_printed_policy(
    foundation: Foundation, orchestrator: Clients
) -> None:
    assert find(orchestrator, "digits") == foundation
    wrong = [one for one in checkup.permissions(orchestrator, foundation) if "not allowed" in one.found]
    assert wrong == []


def test_setting_up_takes_more_than_running(orchestrator: Clients) -> None:
    with pytest.raises(AccessError) as caught:
        for change in differences(pieces(orchestrator, "faces")):
            change.apply()
    assert "sojourn doctor --where aws" in str(caught.value.hint)


def test_every_right_that_is_asked_for_is_used(aws: AwsCloud, foundation: Foundation, orchestrator: Clients) -> None:
    rent_and_give_back(orchestrator, foundation, "spot")
    keep_things(orchestrator, foundation)
    Store(foundation.store).clear("control/digits")
    # Not the doctor, who tries everything.
    used = {action for who, action in aws.used() if who.endswith("user/ann")}
    assert actions(policies.orchestrator(NAMES, [REMOTE])) - used == ELSEWHERE


# --- the machine --------------------------------------------------------------------------


def test_a_machine_reads_its_orders_and_writes_its_results_alone(
    aws: AwsCloud, foundation: Foundation, machine: Callable[[str], Any]
) -> None:
    bucket, s3 = foundation.bucket, machine("s3")
    for key in ("control/digits/r/order/1.json", "control/faces/r/order/1.json"):
        aws.client("s3").put_object(Bucket=bucket, Key=key, Body=b"{}")
    hello = "machine/digits/r/1/0/hello.json"
    assert code(lambda: s3.get_object(Bucket=bucket, Key="control/digits/r/order/1.json")) == "fine"
    assert code(lambda: s3.put_object(Bucket=bucket, Key=hello, Body=b"{}")) == "fine"
    assert code(lambda: s3.list_objects_v2(Bucket=bucket, Prefix="machine/digits/r/")) == "fine"
    assert code(lambda: s3.delete_object(Bucket=bucket, Key=hello)) == "fine"
    for refused in (
        lambda: s3.put_object(Bucket=bucket, Key="control/digits/r/order/2.json", Body=b"{}"),
        lambda: s3.delete_object(Bucket=bucket, Key="control/digits/r/order/1.json"),
        lambda: s3.get_object(Bucket=bucket, Key="control/faces/r/order/1.json"),
        lambda: s3.put_object(Bucket=bucket, Key="machine/faces/r/1/0/hello.json", Body=b"{}"),
        lambda: s3.list_objects_v2(Bucket=bucket, Prefix="control/"),
        lambda: s3.list_objects_v2(Bucket=bucket),
        lambda: s3.put_object(Bucket="acme-private", Key="x", Body=b"x"),
        lambda: s3.put_object(Bucket="acme-data", Key="dvc/files/x", Body=b"x"),
    ):
        assert code(refused) == "AccessDenied"


def test_what_a_machine_spoils_of_another_run_can_be_had_back(
    aws: AwsCloud, foundation: Foundation, machine: Callable[[str], Any]
) -> None:
    bucket, key, s3, ours = foundation.bucket, "machine/digits/other/1/0/blob", machine("s3"), aws.client("s3")
    first = ours.put_object(Bucket=bucket, Key=key, Body=b"weights")["VersionId"]
    assert code(lambda: s3.put_object(Bucket=bucket, Key=key, Body=b"spoilt")) == "fine"
    assert code(lambda: s3.delete_object(Bucket=bucket, Key=key)) == "fine"
    for refused in (
        lambda: s3.delete_object(Bucket=bucket, Key=key, VersionId=first),
        lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key, "VersionId": first}]}),
        lambda: s3.list_object_versions(Bucket=bucket, Prefix="machine/digits/"),
        lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}),
    ):
        assert code(refused) == "AccessDenied"
    assert ours.get_object(Bucket=bucket, Key=key, VersionId=first)["Body"].read() == b"weights"


def test_a_machine_learns_that_something_is_not_there_yet_where_it_may_read(
    foundation: Foundation, machine: Callable[[str], Any]
) -> None:
    s3 = machine("s3")
    missing = [(foundation.bucket, "control/digits/r/stop.json"), ("acme-data", "dvc/files/md5/00/11")]
    for bucket, key in missing:
        assert code(lambda bucket=bucket, key=key: s3.get_object(Bucket=bucket, Key=key)) == "NoSuchKey"
        assert code(lambda bucket=bucket, key=key: s3.head_object(Bucket=bucket, Key=key)) == "404"


def test_a_machine_reads_its_project_s_secrets_and_rents_nothing(
    aws: AwsCloud, foundation: Foundation, machine: Callable[[str], Any]
) -> None:
    for name in ("/sojourn/digits/KEY", "/sojourn/faces/KEY"):
        aws.client("ssm").put_parameter(Name=name, Value="x", Type="SecureString")
    ssm = machine("ssm")
    kept = ssm.get_parameters(Names=["/sojourn/digits/KEY"], WithDecryption=True)["Parameters"]
    assert [one["Value"] for one in kept] == ["x"]
    assert code(lambda: ssm.get_parameters(Names=["/sojourn/faces/KEY"])) == "AccessDeniedException"
    ec2, iam = machine("ec2"), machine("iam")
    for refused in (
        ec2.describe_instances,
        lambda: ec2.run_instances(ImageId="ami-1", InstanceType="t3.micro", MinCount=1, MaxCount=1),
        lambda: ec2.terminate_instances(InstanceIds=["i-1"]),
    ):
        assert code(refused) == "UnauthorizedOperation"
    assert code(iam.list_roles) == "AccessDenied"
