"""The whole of a lease under exactly the policies that `sojourn setup aws --print` names.

The stand-in enforces them with their resources and conditions; a call that they do not allow
fails as it would at Amazon's.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clouds.aws.iam.rules import actions
from clouds.aws_cloud import ACCOUNT, AwsCloud

from sojourn.agent.clouds import parameters
from sojourn.agent.clouds.credentials import Identity
from sojourn.agent.errors import Refused
from sojourn.agent.results.fetch import Fetcher
from sojourn.agent.stores.s3 import S3Store
from sojourn.clouds.account import differences
from sojourn.clouds.aws import checkup, policies
from sojourn.clouds.aws.bucket import Bucket
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import Foundation, Names, find
from sojourn.clouds.aws.secrets import Secrets
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.errors import AccessError
from sojourn.names import LeaseName, mint_place
from sojourn.plan import checkpoint
from sojourn.protocol import Checkpoint, Stop
from sojourn.providers.ec2 import gateway, survey
from sojourn.providers.ec2.provider import Ec2Provider
from sojourn.records import FileEntry
from sojourn.renting import Boot, Market, Need
from sojourn.store.mailbox import Mailbox, blobs
from sojourn.store.storage import Store

NAMES = Names(ACCOUNT, "us-east-1", "digits")
LEASE = str(LeaseName("calm-panda-a2e3", 1))
REMOTE = "s3://acme-data/dvc"
BOOT = Boot(
    store="s3://acme", project="digits", run="calm-panda-a2e3", place=mint_place(), attempt=1, lease=LEASE, nodes=1,
    deadline_at=2e9, grace_s=60.0, store_region="us-east-1",
)  # fmt: skip
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


def keys_of(machine: Callable[[str], Any]) -> dict[str, str]:
    """The machine's credentials, as an environment holds them."""
    keys = machine("s3")._request_signer._credentials.get_frozen_credentials()
    names = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
    return {**names, "AWS_SESSION_TOKEN": keys.token}


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
    assert gateway.are_enough(need, "us-east-1", {"s3://acme-data": "us-east-1"})
    assert not gateway.are_enough(need, "us-east-1", {}), "a bucket that may be anywhere is not near"


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
    with pytest.raises(AccessError, match="sojourn/faces/"):
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


@dataclass
class Two:
    """Two runs of the project, of which the first's machine acts, and one that an earlier version kept."""

    bucket: str
    mine: Mailbox
    theirs: Mailbox
    earlier: Mailbox


@pytest.fixture
def two(aws: AwsCloud, foundation: Foundation, machine: Callable[[str], Any]) -> Two:
    """Each with all that a machine might want: who made them may do everything."""
    store = Store(foundation.store)
    boxes = [Mailbox(store, "digits", f"calm-panda-000{number}") for number in range(3)]
    for box, place in zip(boxes, (mint_place(), mint_place(), ""), strict=True):
        store.put(f"{box.control}/plan.json", json.dumps({"run": box.run, "place": place}).encode())
        box.request_stop(Stop(reason="x", at=1.0))
        store.put(f"{box.control}/ledger/000000.json", b"{}")
        store.put(f"{box.control}/receipt.json", b"{}")
        store.put(f"{box.orders}/order/1.json", b"{}")
        store.put(f"{box.machine}/1/0/hello.json", b"{}")
        store.put(f"{box.machine}/1/0/blob/{64 * 'a'}", b"weights")
    store.put(f"{blobs('digits')}/{64 * 'b'}", b"code")
    return Two(foundation.bucket, *boxes)


def test_a_machine_does_all_that_its_own_run_needs(two: Two, machine: Callable[[str], Any]) -> None:
    bucket, s3, orders, own = two.bucket, machine("s3"), two.mine.orders, two.mine.machine
    for key in (f"{orders}/order/1.json", f"{orders}/stop.json", f"{blobs('digits')}/{64 * 'b'}"):
        assert code(lambda key=key: s3.get_object(Bucket=bucket, Key=key)) == "fine"
    for key in (f"{own}/1/0/out/00000001.json", f"{own}/2/7/blob/x"):
        assert code(lambda key=key: s3.put_object(Bucket=bucket, Key=key, Body=b"{}", IfNoneMatch="*")) == "fine"
        assert code(lambda key=key: s3.get_object(Bucket=bucket, Key=key)) == "fine"
        assert code(lambda key=key: s3.delete_object(Bucket=bucket, Key=key)) == "fine"
    assert code(lambda: s3.list_objects_v2(Bucket=bucket, Prefix=f"{own}/")) == "fine"
    upload = s3.create_multipart_upload(Bucket=bucket, Key=f"{own}/1/0/blob/large")["UploadId"]
    large = {"Bucket": bucket, "Key": f"{own}/1/0/blob/large", "UploadId": upload}
    assert code(lambda: s3.abort_multipart_upload(**large)) == "fine"


def test_a_machine_learns_that_something_of_its_run_is_not_there_yet(two: Two, machine: Callable[[str], Any]) -> None:
    s3 = machine("s3")
    missing = [
        (two.bucket, f"{two.mine.orders}/exec/1/00000000.json"),
        (two.bucket, f"{two.mine.machine}/1/0/exit.json"),
        ("acme-data", "dvc/files/md5/00/11"),
    ]
    for bucket, key in missing:
        assert code(lambda bucket=bucket, key=key: s3.get_object(Bucket=bucket, Key=key)) == "NoSuchKey"
        assert code(lambda bucket=bucket, key=key: s3.head_object(Bucket=bucket, Key=key)) == "404"


def test_a_machine_that_goes_on_from_another_run_reads_the_checkpoint_that_its_order_names(
    two: Two, machine: Callable[[str], Any]
) -> None:
    s3 = machine("s3")
    for box in (two.theirs, two.earlier):
        entry = FileEntry(path="a.pt", hash=f"sha256:{64 * 'a'}", size=7, source=f"{box.machine}/1/0/blob/{64 * 'a'}")
        found = Checkpoint(run=box.run, attempt=1, sequence=1, at=1.0, files=(entry,))
        checkpoint.bring(found, two.mine)
        (there,) = checkpoint.brought(found.files, two.mine)
        assert there.source.startswith(two.mine.orders)
        assert s3.get_object(Bucket=two.bucket, Key=there.source)["Body"].read() == b"weights"
        assert code(lambda key=there.source: s3.delete_object(Bucket=two.bucket, Key=key)) == "AccessDenied"
        two.mine.store.delete(there.source)
    earlier = f"{two.earlier.machine}/1/0/blob/{64 * 'a'}"
    assert code(lambda: s3.get_object(Bucket=two.bucket, Key=earlier)) == "AccessDenied"


def test_a_machine_finds_no_other_run(two: Two, machine: Callable[[str], Any]) -> None:
    s3, place = machine("s3"), two.theirs.place
    near = ["", "machine", "machine/", "machine/digits/", "orders/", "orders/digits/", "control/", "control/digits/"]
    near += [f"{blobs('digits')}/", f"machine/digits/{two.earlier.run}/", f"control/digits/{two.theirs.run}/"]
    near += [f"machine/digits/{place[:length]}" for length in (1, 8, 31, 32)]
    near += [f"machine/digits/{two.mine.place}"]
    for prefix in near:
        for more in ({}, {"Delimiter": "/"}, {"StartAfter": "machine/digits/0"}):
            asked = {"Bucket": two.bucket, "Prefix": prefix, **more}
            assert code(lambda asked=asked: s3.list_objects_v2(**asked)) == "AccessDenied", asked
    for refused in (
        lambda: s3.list_objects_v2(Bucket=two.bucket),
        lambda: s3.list_objects(Bucket=two.bucket),
        lambda: s3.list_object_versions(Bucket=two.bucket, Prefix=two.mine.machine),
        lambda: s3.list_multipart_uploads(Bucket=two.bucket),
    ):
        assert code(refused) == "AccessDenied"
    # What it may list is taken as it stands, and is nobody's.
    anything = s3.list_objects_v2(Bucket=two.bucket, Prefix=f"machine/digits/{32 * '?'}-")
    assert anything["KeyCount"] == 0


def test_a_machine_neither_reads_nor_spoils_what_it_can_name_of_another_run(
    aws: AwsCloud, two: Two, machine: Callable[[str], Any]
) -> None:
    bucket, s3 = two.bucket, machine("s3")
    before = {key: Store(f"s3://{bucket}").get(key) for key in Store(f"s3://{bucket}").keys("control")}
    keys = []
    for box in (two.theirs, two.earlier, two.mine):
        keys += [f"{box.control}/{name}" for name in ("plan.json", "ledger/000000.json", "receipt.json")]
    for run in (two.theirs.run, two.earlier.run):  # by all that follows from its name
        for name in ("order/1.json", "stop.json", "exec/1/00000000.json"):
            keys += [f"{root}/digits/{folder}{run}/{name}" for root in ("orders", "control") for folder in ("", "-")]
        keys += [f"machine/digits/{run}/1/0/{name}" for name in ("hello.json", "exit.json", "out/00000001.json")]
    keys += [f"{root}/faces/{two.mine.place}-{two.mine.run}/x" for root in ("orders", "machine")]
    keys += [f"machine/digits/{two.mine.place}", "machine/digits/x", "elsewhere"]
    for key in keys:
        asked = {"Bucket": bucket, "Key": key}
        for act in (
            lambda asked=asked: s3.get_object(**asked),
            lambda asked=asked: s3.put_object(**asked, Body=b"spoilt"),
            lambda asked=asked: s3.delete_object(**asked),
        ):
            assert code(act) == "AccessDenied", key
    for key in (f"{two.mine.orders}/order/2.json", f"{blobs('digits')}/{64 * 'b'}", "control/digits/purge.json"):
        assert code(lambda key=key: s3.put_object(Bucket=bucket, Key=key, Body=b"x")) == "AccessDenied"
        assert code(lambda key=key: s3.delete_object(Bucket=bucket, Key=key)) == "AccessDenied"
    assert code(lambda: s3.put_object(Bucket="acme-private", Key="x", Body=b"x")) == "AccessDenied"
    assert code(lambda: s3.put_object(Bucket="acme-data", Key="dvc/files/x", Body=b"x")) == "AccessDenied"
    aws.enforce(False)
    assert {key: Store(f"s3://{bucket}").get(key) for key in Store(f"s3://{bucket}").keys("control")} == before


def test_a_file_that_is_not_there_under_its_hash_is_refused_in_a_clear_sentence(
    aws: AwsCloud, two: Two, machine: Callable[[str], Any], tmp_path: Path
) -> None:
    told = {**keys_of(machine), "AWS_ENDPOINT_URL": aws.url}
    store = S3Store(f"s3://{two.bucket}", "us-east-1", environ=told)
    fetcher = Fetcher(store, str(tmp_path / "tree"), str(tmp_path / "work"), lambda: None)
    entry = {"path": "code.py", "size": 4, "mode": 0o644, "hash": f"sha256:{64 * 'b'}"}
    with pytest.raises(Refused, match="code.py: expected sha256:bbbb.*, found|has"):
        fetcher.bring([{**entry, "source": f"{blobs('digits')}/{64 * 'b'}"}])
    with pytest.raises(Refused, match="(?s)code.py: .*the store refuses it.*not there any more"):
        fetcher.bring([{**entry, "source": f"{blobs('digits')}/{64 * 'c'}"}])


def test_what_a_machine_spoils_of_its_own_run_can_be_had_back(
    aws: AwsCloud, two: Two, machine: Callable[[str], Any]
) -> None:
    bucket, key, s3, ours = two.bucket, f"{two.mine.machine}/1/0/blob", machine("s3"), aws.client("s3")
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


def test_a_machine_reads_the_secrets_that_its_run_named_and_finds_no_other(
    aws: AwsCloud, clients: Clients, foundation: Foundation, machine: Callable[[str], Any]
) -> None:
    secrets = Secrets(clients, "digits")
    for name in ("KEY", "TOKEN"):
        secrets.set(name, f"the {name}")
    Secrets(clients, "faces").set("KEY", "theirs")
    aws.client("ssm").put_parameter(Name="/sojourn/digits/EARLIER", Value="x", Type="SecureString")
    provider, boot = Ec2Provider(clients, ["us-east-1"]), BOOT.model_copy(update={"store": foundation.store})
    offer = provider.offers(Need(machine="t3.micro", project="digits", secrets=("KEY",))).fitting[0]
    request = provider.request(boot, offer)
    assert request == provider.request(boot, offer), "what is replayed is the same call"
    told = json.loads(shlex.split(request["run_instances"]["UserData"].splitlines()[-1])[-1])["boot"]["secrets"]
    path, identity = told["paths"]["KEY"], Identity(keys_of(machine))

    def read(*names: str) -> dict[str, str]:
        return parameters.read(names, told["paths"], told["region"], lambda: None, identity, aws.url)

    assert set(told["paths"]) == {"KEY"} and read("KEY") == {"KEY": "the KEY"}
    with pytest.raises(Refused, match="the secret TOKEN was not told to it"):
        read("KEY", "TOKEN")
    ssm, of_faces = machine("ssm"), Secrets(clients, "faces").paths(["KEY"])["KEY"]
    refused = [lambda name=name: ssm.get_parameters(Names=[f"/sojourn/digits/{name}"]) for name in ("TOKEN", "EARLIER")]
    refused += [
        lambda: ssm.get_parameters(Names=[of_faces]),
        lambda: ssm.get_parameters(Names=[path, "/sojourn/digits/TOKEN"]),
        lambda: ssm.get_parameters_by_path(Path="/sojourn/digits", Recursive=True),
        lambda: ssm.get_parameters_by_path(Path=path.rpartition("/")[0]),
        ssm.describe_parameters,
        lambda: ssm.get_parameter_history(Name=path),
        lambda: ssm.put_parameter(Name=path, Value="x", Type="SecureString", Overwrite=True),
        lambda: ssm.delete_parameter(Name=path),
    ]
    for one in refused:
        assert code(one) == "AccessDeniedException"
    beside = f"{path.rpartition('/')[0]}/TOKEN"
    assert ssm.get_parameters(Names=[beside])["Parameters"] == [], "each secret has a place of its own"
    secrets.set("KEY", "replaced")
    assert read("KEY") == {"KEY": "replaced"}
    secrets.remove("KEY")
    with pytest.raises(Refused, match="the secret KEY is no more where it was kept"):
        read("KEY")


def test_a_machine_rents_nothing(machine: Callable[[str], Any]) -> None:
    ec2, iam = machine("ec2"), machine("iam")
    for refused in (
        ec2.describe_instances,
        lambda: ec2.run_instances(ImageId="ami-1", InstanceType="t3.micro", MinCount=1, MaxCount=1),
        lambda: ec2.terminate_instances(InstanceIds=["i-1"]),
    ):
        assert code(refused) == "UnauthorizedOperation"
    assert code(iam.list_roles) == "AccessDenied"
