"""Short words for what tests of the stand-in do in an account, in boto3's own terms."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from clouds.aws_cloud import AwsCloud

UBUNTU = "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id"
LEARNING = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
SOON_S = 60.0


class Account:
    def __init__(self, cloud: AwsCloud) -> None:
        self.cloud = cloud
        self.ec2 = cloud.client("ec2")

    def image(self, parameter: str = UBUNTU) -> str:
        found = self.ec2.describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"]
        if parameter == UBUNTU:
            return str(next((one for one in found if "ubuntu-jammy" in one.get("Name", "")), found[0])["ImageId"])
        return str(self.cloud.client("ssm").get_parameter(Name=parameter)["Parameter"]["Value"])

    def run(self, **more: Any) -> list[dict[str, Any]]:
        asked = {"ImageId": self.image(), "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1} | more
        instances: list[dict[str, Any]] = self.ec2.run_instances(**asked)["Instances"]
        return instances

    def describe(self, *ids: str, **more: Any) -> list[dict[str, Any]]:
        answer = self.ec2.describe_instances(InstanceIds=list(ids), **more)
        return [one for reservation in answer["Reservations"] for one in reservation["Instances"]]

    def state(self, instance_id: str) -> str:
        return str(self.describe(instance_id)[0]["State"]["Name"])

    def until(self, instance_id: str, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + SOON_S
        while self.state(instance_id) != state:
            assert time.monotonic() < deadline, f"{instance_id} is {self.state(instance_id)}, not {state}"
            time.sleep(0.05)
        return self.describe(instance_id)[0]

    def until_forgotten(self, instance_id: str) -> None:
        deadline = time.monotonic() + SOON_S
        with refused("InvalidInstanceID.NotFound"):
            while time.monotonic() < deadline:
                self.describe(instance_id)
                time.sleep(0.05)

    def profile(self, name: str = "machine", trusting: str = "ec2.amazonaws.com") -> str:
        iam = self.cloud.client("iam")
        trust = {"Effect": "Allow", "Principal": {"Service": trusting}, "Action": "sts:AssumeRole"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        return str(role)


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=rf"\({re.escape(code)}\)")
