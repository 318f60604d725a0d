"""Calls that fail on demand, and what the stand-in remembers of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from clouds.aws_cloud import AwsCloud

RETRYING: dict[str, Any] = {"retries": {"total_max_attempts": 4, "mode": "standard"}}


def run(client: Any, **more: Any) -> str:
    image = client.describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"][0]["ImageId"]
    asked = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1} | more
    return str(client.run_instances(**asked)["Instances"][0]["InstanceId"])


def test_an_error_comes_instead_of_the_effect(aws: AwsCloud) -> None:
    aws.fault("ec2", "RunInstances", "error", code="InsufficientHostCapacity", status=500, message="none")
    with pytest.raises(ClientError, match="InsufficientHostCapacity.*none") as caught:
        run(aws.client("ec2"))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert aws.rented() == []
    run(aws.client("ec2"))


def test_each_service_spells_its_errors_its_own_way(aws: AwsCloud) -> None:
    calls = {
        "ec2": lambda client: client.describe_instances(),
        "s3": lambda client: client.list_objects_v2(Bucket="b"),
        "iam": lambda client: client.list_roles(),
        "sts": lambda client: client.get_caller_identity(),
        "ssm": lambda client: client.get_parameter(Name="n"),
        "scheduler": lambda client: client.list_schedules(),
        "pricing": lambda client: client.get_products(ServiceCode="AmazonEC2"),
        "service-quotas": lambda client: client.list_service_quotas(ServiceCode="ec2"),
    }
    for service, call in calls.items():
        signed_as = {"service-quotas": "servicequotas"}.get(service, service)
        aws.fault(signed_as, ".*", "error", code="OddError", status=400, message="so <it> is")
        with pytest.raises(ClientError) as caught:
            call(aws.client(service))
        said = caught.value.response
        assert said["Error"] == said["Error"] | {"Code": "OddError", "Message": "so <it> is"}, service
        assert said["ResponseMetadata"]["HTTPStatusCode"] == 400, service


def test_a_throttled_call_is_retried_by_the_client(aws: AwsCloud) -> None:
    aws.fault("ec2", "RunInstances", "throttle", count=2)
    run(aws.client("ec2", **RETRYING))
    assert [call["status"] for call in aws.calls("ec2", "RunInstances")] == [503, 503, 200]


def test_a_reply_lost_after_the_effect_leaves_the_instance(aws: AwsCloud) -> None:
    aws.fault("ec2", "RunInstances", "drop_after")
    with pytest.raises(ConnectionClosedError):
        run(aws.client("ec2"))
    assert len(aws.running()) == 1


def test_a_lost_reply_and_a_retry_are_one_instance(aws: AwsCloud) -> None:
    aws.fault("ec2", "RunInstances", "drop_after")
    run(aws.client("ec2", **RETRYING))
    assert len(aws.rented()) == 1
    assert [call["fault"] for call in aws.calls("ec2", "RunInstances")] == ["drop_after", None]


def test_a_call_lost_before_the_effect_leaves_nothing(aws: AwsCloud) -> None:
    aws.fault("ec2", "RunInstances", "drop_before")
    with pytest.raises(ConnectionClosedError):
        run(aws.client("ec2"))
    assert aws.rented() == []


def test_a_call_can_take_effect_and_never_answer(aws: AwsCloud) -> None:
    aws.fault("ec2", "RunInstances", "hang_after", seconds=5)
    with pytest.raises(ReadTimeoutError):
        run(aws.client("ec2", read_timeout=1))
    assert len(aws.rented()) == 1


def test_half_of_an_object_is_noticed(aws: AwsCloud) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="box")
    s3.put_object(Bucket="box", Key="big", Body=b"x" * 1_000_000)
    aws.fault("s3", "GetObject", "truncate")
    with pytest.raises(ResponseStreamingError):
        s3.get_object(Bucket="box", Key="big")["Body"].read()
    assert len(s3.get_object(Bucket="box", Key="big")["Body"].read()) == 1_000_000


def test_a_refused_upload_does_not_upset_the_connection(aws: AwsCloud) -> None:
    s3 = aws.client("s3", **RETRYING)
    s3.create_bucket(Bucket="box")
    aws.fault("s3", "PutObject", "throttle")
    s3.put_object(Bucket="box", Key="big", Body=b"x" * 3_000_000)
    assert s3.head_object(Bucket="box", Key="big")["ContentLength"] == 3_000_000


def test_a_fault_meets_only_what_it_names(aws: AwsCloud) -> None:
    aws.fault("ec2", "RunInstances", "error", body="InstanceType=t3.small", skip=1, count=None)
    ec2 = aws.client("ec2")
    run(ec2)
    run(ec2, InstanceType="t3.small")
    for _ in range(2):
        with pytest.raises(ClientError):
            run(ec2, InstanceType="t3.small")
    aws.clear_faults()
    run(ec2, InstanceType="t3.small")


def test_an_effect_that_does_not_exist_is_refused(aws: AwsCloud) -> None:
    with pytest.raises(RuntimeError, match="'explode' is none of error"):
        aws.fault("ec2", "RunInstances", "explode")


def test_calls_are_recorded_by_their_api_name(aws: AwsCloud) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="box")
    s3.put_object(Bucket="box", Key="a/b c", Body=b"secret?")
    s3.get_object(Bucket="box", Key="a/b c")
    s3.list_objects_v2(Bucket="box")
    s3.head_object(Bucket="box", Key="a/b c")
    s3.delete_object(Bucket="box", Key="a/b c")
    aws.client("sts").get_caller_identity()
    aws.client("scheduler").list_schedules()
    aws.client("ssm").put_parameter(Name="n", Value="v", Type="String")
    names = "CreateBucket PutObject GetObject ListObjectsV2 HeadObject DeleteObject GetCallerIdentity ListSchedules"
    assert [call["action"] for call in aws.calls()] == [*names.split(), "PutParameter"]
    assert aws.calls("s3", "PutObject")[0]["body"].count("secret?") == 1
    assert aws.calls("s3", "GetObject")[0]["path"] == "/box/a/b c"


def test_an_action_that_nobody_wrote_says_so(aws: AwsCloud) -> None:
    with pytest.raises(ClientError, match="StandInFailure.*describe_capacity_block_offerings"):
        aws.client("ec2").describe_capacity_block_offerings(CapacityDurationHours=24)


def test_a_machine_that_ends_from_inside_follows_its_shutdown_behaviour(aws: AwsCloud) -> None:
    ec2 = aws.client("ec2")
    for behaviour, state in (("terminate", "terminated"), ("stop", "stopped")):
        one = run(ec2, InstanceInitiatedShutdownBehavior=behaviour)
        aws.wait_for(one, "running")
        aws.end_from_inside(one)
        ended = aws.wait_for(one, state)
        assert ended["reason"] == "Client.InstanceInitiatedShutdown"


def test_without_hosts_there_is_nothing_to_freeze(aws: AwsCloud) -> None:
    one = run(aws.client("ec2"))
    with pytest.raises(RuntimeError, match="no hosts"):
        aws.freeze(one)


def test_user_data_and_tags_can_be_looked_at(aws: AwsCloud) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "sojourn:lease", "Value": "l1"}]}]
    one = run(aws.client("ec2"), UserData="#!/bin/sh\necho ü\n", TagSpecifications=tags)
    assert aws.user_data(one) == "#!/bin/sh\necho ü\n"
    assert aws.rented()[0]["tags"] == {"sojourn:lease": "l1"}


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that has a cloud of its own; it prints the cloud's pid and address."""
    script = """if True:
        import time
        from clouds.aws_cloud import AwsCloud
        with AwsCloud() as cloud:
            print(cloud.pid, cloud.url, flush=True)
            time.sleep(60)
    """
    environment = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        process.kill()


def test_clouds_know_nothing_of_each_other_and_end_with_who_started_them(
    aws: AwsCloud, other: subprocess.Popen[str]
) -> None:
    run(aws.client("ec2"))
    assert other.stdout is not None
    pid, url = other.stdout.readline().split()
    there = boto3.client("ec2", endpoint_url=url)
    assert there.describe_instances()["Reservations"] == []
    other.send_signal(signal.SIGKILL)
    other.wait(10)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
