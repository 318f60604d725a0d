"""What `sojourn setup aws` makes in an account: shown first, made once, mended when it differs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from clouds.aws_cloud import ACCOUNT, AwsCloud
from typer.testing import CliRunner, Result

from cli.main import app
from sojourn.clouds.account import differences
from sojourn.clouds.aws import administrator, checkup
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import GROUP, Names, find, find_ground
from sojourn.clouds.aws.policies import allow, document, printed
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.errors import AccessError, SpecError

BUCKET = f"sojourn-{ACCOUNT}-us-east-1"


def make(clients: Clients, project: str = "digits", **more: Any) -> None:
    for change in differences(pieces(clients, project, **more)):
        change.apply()


def changes(clients: Clients, project: str = "digits", **more: Any) -> list[str]:
    """What differs, as `title: aspect, aspect`."""
    found = differences(pieces(clients, project, **more))
    return [f"{one.piece.title}: {', '.join(field for field, _, _ in one.fields)}" for one in found]


def run(folder: Path, *words: str, **more: Any) -> Result:
    return CliRunner().invoke(app, ["setup", "aws", "--project", str(folder), *words], **more)


# --- what is made -------------------------------------------------------------------------


def test_a_second_time_changes_nothing(clients: Clients, aws: AwsCloud) -> None:
    assert len(changes(clients, regions=["eu-west-1"])) == 9
    make(clients, regions=["eu-west-1"])
    assert changes(clients, regions=["eu-west-1"]) == []


def test_what_renting_needs_is_found_once_it_was_made(clients: Clients, aws: AwsCloud) -> None:
    make(clients, remotes=["s3://acme-data/dvc", "s3://whole-bucket"])
    found = find(clients, "digits")
    assert (found.account, found.region, found.store) == (ACCOUNT, "us-east-1", f"s3://{BUCKET}")
    assert found.readable == ("s3://acme-data/dvc/", "s3://whole-bucket/")
    groups = aws.client("ec2").describe_security_groups(GroupIds=[found.group_id])["SecurityGroups"]
    assert [group["GroupName"] for group in groups] == [GROUP]


def test_all_that_is_missing_is_named_with_the_command_that_makes_it(clients: Clients, aws: AwsCloud) -> None:
    make(clients, "digits")
    aws.client("iam").delete_role_policy(RoleName="sojourn-scheduler", PolicyName="sojourn")
    aws.client("iam").delete_role(RoleName="sojourn-scheduler")
    aws.client("s3").delete_bucket(Bucket=BUCKET)
    with pytest.raises(SpecError, match=f": role sojourn-scheduler, bucket {BUCKET}\n") as caught:
        find(clients, "digits")
    assert "sojourn setup aws --region us-east-1" in str(caught.value.hint)


def test_an_account_that_an_earlier_version_set_up_is_refused_before_anything_is_rented_and_put_right(
    clients: Clients, aws: AwsCloud
) -> None:
    make(clients)
    iam, role = aws.client("iam"), {"RoleName": "sojourn-machine-digits", "PolicyName": "sojourn"}
    theirs = f"arn:aws:s3:::{BUCKET}/control/digits/*"
    earlier = document(allow("ReadControl", ["s3:GetObject"], theirs), allow("Other", ["s3:GetObject"], [theirs]))
    iam.put_role_policy(**role, PolicyDocument=json.dumps(earlier))
    with pytest.raises(SpecError, match="role sojourn-machine-digits has the rights of an earlier version") as caught:
        find(clients, "digits")
    assert "sojourn setup aws --region us-east-1" in str(caught.value.hint)
    (told,) = [one for one in checkup.examine(clients, "digits", str) if one.state == "missing"]
    assert (told.what, told.found, told.mend) == ("role", caught.value.message, caught.value.hint)
    assert changes(clients)[0].startswith("role sojourn-machine-digits: ReadByHash, ReadOrders")
    make(clients)
    assert find(clients, "digits") and changes(clients) == []


def test_another_project_of_the_account_needs_a_role_of_its_own_alone(clients: Clients, aws: AwsCloud) -> None:
    make(clients, "digits")
    role = "role sojourn-machine-faces: trusts, ReadByHash, ReadOrders, WriteResults, ListOwnRun, ReadSecrets"
    assert changes(clients, "faces") == [role, "instance profile sojourn-machine-faces: role"]


def test_a_further_region_is_rented_in_and_keeps_nothing(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    with pytest.raises(SpecError, match="eu-west-1: security group sojourn-machines, schedule group") as caught:
        find_ground(clients, "eu-west-1")
    assert "setup aws --region us-east-1 --region eu-west-1" in str(caught.value.hint)
    make(clients, regions=["eu-west-1"])
    assert find_ground(clients, "eu-west-1").group_id != find(clients, "digits").group_id
    assert [one["Name"] for one in aws.client("s3").list_buckets()["Buckets"]] == [BUCKET]


def test_the_bucket_is_encrypted_closed_and_forgets(clients: Clients, aws: AwsCloud) -> None:
    make(clients, days=12)
    s3 = aws.client("s3")
    block = s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert len(block) == 4
    assert all(block.values())
    rules = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    days = {rule["Filter"]["Prefix"]: rule.get("Expiration", {}).get("Days") for rule in rules}
    assert days == {"control/": 12, "orders/": 12, "machine/": 12, "": None}
    encryption = s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    owner = s3.get_bucket_ownership_controls(Bucket=BUCKET)["OwnershipControls"]["Rules"]
    assert owner == [{"ObjectOwnership": "BucketOwnerEnforced"}]


def test_the_bucket_keeps_earlier_versions_for_some_days_and_one_made_before_is_mended(
    clients: Clients, aws: AwsCloud
) -> None:
    make(clients)
    s3 = aws.client("s3")
    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]}
    assert rules["sojourn-versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 7}
    assert rules["sojourn-versions"]["Expiration"] == {"ExpiredObjectDeleteMarker": True}
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})
    assert changes(clients) == [f"bucket {BUCKET}: earlier versions"]
    make(clients)
    assert changes(clients) == [] and s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"


def test_how_long_the_store_keeps_runs_stays_as_it_was_said_once(clients: Clients, aws: AwsCloud) -> None:
    make(clients, days=12)
    assert changes(clients) == []
    assert changes(clients, days=20) == [f"bucket {BUCKET}: keeps control/, keeps orders/, keeps machine/"]


def test_nothing_comes_into_a_machine_but_from_its_peers(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    group = aws.client("ec2").describe_security_groups(GroupIds=[find(clients, "digits").group_id])
    [rule] = group["SecurityGroups"][0]["IpPermissions"]
    assert rule["IpProtocol"] == "-1"
    assert not rule["IpRanges"]
    assert [one["GroupId"] for one in rule["UserIdGroupPairs"]] == [group["SecurityGroups"][0]["GroupId"]]


def test_by_tls_requests_in_the_clear_are_refused_and_other_statements_stay(
    aws: AwsCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://127.0.0.1")
    by_tls = Clients()

    def to_the_stand_in(request: Any, **_: Any) -> None:
        request.url = request.url.replace("https://127.0.0.1", aws.url)
        request.headers["Host"] = "127.0.0.1"  # as it was signed

    by_tls.client("s3").meta.events.register("before-send.s3", to_the_stand_in)
    aws.client("s3").create_bucket(Bucket=BUCKET)
    theirs = {"Sid": "Theirs", "Effect": "Deny", "Principal": "*", "Action": "s3:PutBucketAcl", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [theirs]}
    aws.client("s3").put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    [change] = [one for one in differences(pieces(by_tls, "digits")) if "bucket" in one.piece.title]
    assert ("requests", None, "only by TLS") in change.fields
    change.apply()
    assert not [one for one in differences(pieces(by_tls, "digits")) if "bucket" in one.piece.title]
    statements = json.loads(aws.client("s3").get_bucket_policy(Bucket=BUCKET)["Policy"])["Statement"]
    assert [one["Sid"] for one in statements] == ["Theirs", "SojournTlsOnly"]


# --- what was changed by hand -------------------------------------------------------------


def test_a_port_that_somebody_opened_is_shown_and_closed(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    group = find(clients, "digits").group_id
    door = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    aws.client("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=[door])
    [change] = differences(pieces(clients, "digits"))
    [(aspect, has, wanted)] = change.fields
    assert (aspect, wanted) == ("inbound", ["everything from its own members"])
    assert "tcp 22 from 0.0.0.0/0" in has
    change.apply()
    assert changes(clients) == []


def test_a_policy_that_was_widened_is_shown_by_statement_and_put_right(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    iam = aws.client("iam")
    policy = iam.get_role_policy(RoleName="sojourn-machine-digits", PolicyName="sojourn")["PolicyDocument"]
    policy["Statement"][0]["Resource"] = "*"
    policy["Statement"].append({"Sid": "Everything", "Effect": "Allow", "Action": "*", "Resource": "*"})
    iam.put_role_policy(RoleName="sojourn-machine-digits", PolicyName="sojourn", PolicyDocument=json.dumps(policy))
    assert changes(clients) == ["role sojourn-machine-digits: ReadByHash, Everything"]
    make(clients)
    assert changes(clients) == []


def test_rules_that_somebody_else_gave_the_bucket_stay(clients: Clients, aws: AwsCloud) -> None:
    make(clients)
    s3 = aws.client("s3")
    rules = s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "reports/"}, "Expiration": {"Days": 9}}
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [theirs, *rules[1:]]})
    assert changes(clients) == [f"bucket {BUCKET}: keeps control/"]
    make(clients)
    kept = {rule["ID"] for rule in s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]}
    assert kept == {
        "theirs",
        "sojourn-control",
        "sojourn-orders",
        "sojourn-machine",
        "sojourn-uploads",
        "sojourn-versions",
    }


# --- what an account refuses --------------------------------------------------------------


@pytest.fixture
def taken(aws: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[BaseHTTPRequestHandler]]:
    """An S3 where the bucket's name is taken by another account, as its `head` and `put` answer."""

    class S3(BaseHTTPRequestHandler):
        head, put = (403, ""), (409, "BucketAlreadyExists")

        def _answer(self, status: int, code: str) -> None:
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode() if code else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self._answer(*self.head)

        def do_PUT(self) -> None:
            self._answer(*self.put)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), S3) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        yield S3
        server.shutdown()


def test_a_bucket_of_another_account_is_never_used(taken: Any) -> None:
    for look in (find, make):
        with pytest.raises(AccessError, match="belongs to another account") as caught:
            look(Clients(), "digits")
        assert "aws s3api list-buckets" in str(caught.value.hint)


def test_a_bucket_name_that_another_account_takes_meanwhile_is_told_as_that(taken: Any) -> None:
    taken.head = (404, "")
    with pytest.raises(SpecError, match="belongs to another account") as caught:
        make(Clients())
    assert "--store s3://BUCKET" in str(caught.value.hint)


def test_an_account_without_a_default_network_is_told_how_to_get_one(clients: Clients, aws: AwsCloud) -> None:
    ec2 = aws.client("ec2")
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    for subnet in ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for gate in ec2.describe_internet_gateways(Filters=[{"Name": "attachment.vpc-id", "Values": [vpc]}])[
        "InternetGateways"
    ]:
        ec2.detach_internet_gateway(InternetGatewayId=gate["InternetGatewayId"], VpcId=vpc)
    ec2.delete_vpc(VpcId=vpc)
    with pytest.raises(SpecError, match="us-east-1 has no default VPC") as caught:
        find(clients, "digits")
    assert "aws ec2 create-default-vpc --region us-east-1" in str(caught.value.hint)


# --- the command --------------------------------------------------------------------------


def test_nothing_is_made_before_it_was_accepted(aws: AwsCloud, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("launch: {project_name: digits}")
    asked = ["--project", str(tmp_path), "--region", "us-east-1", "--keep-days", "20"]
    done = CliRunner().invoke(app, ["setup", "aws", *asked], terminal_width=400)
    assert done.exit_code == 0, done.output
    assert f"+ bucket {BUCKET}" in done.output
    again = "".join(done.output.splitlines()[-2:])  # in a narrow terminal it is folded
    assert set(asked) <= set(again.split("Make it: ")[1].split()), again
    assert again.endswith("--yes")
    assert aws.client("s3").list_buckets()["Buckets"] == []

    done = run(tmp_path, "--yes")
    assert done.exit_code == 0, done.output
    assert "7 to make" in done.output
    assert "No change: 7 as they should be." in run(tmp_path).output


def test_dvc_s_remotes_on_s3_become_readable_and_no_others(clients: Clients, aws: AwsCloud, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    remote = part\n"
        "['remote \"main\"']\n    url = s3://acme-data/dvc\n"
        "['remote \"part\"']\n    url = remote://main/part\n"
        "['remote \"disk\"']\n    url = /srv/dvc\n"
    )
    (tmp_path / "params.yaml").write_text("launch: {project_name: digits}")
    assert run(tmp_path, "--yes").exit_code == 0
    assert find(clients, "digits").readable == ("s3://acme-data/dvc/", "s3://acme-data/dvc/part/")


def test_what_is_printed_for_an_administrator_needs_no_credentials_and_is_what_would_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "params.yaml").write_text("launch: {project_name: digits}")
    done = run(tmp_path, "--print", "--account", ACCOUNT, "--region", "eu-west-1")
    assert done.exit_code == 0, done.output
    names = Names(ACCOUNT, "eu-west-1", "digits")
    assert json.loads(done.output) == {**printed(names), "who_sets_up": administrator.policy(names)}
