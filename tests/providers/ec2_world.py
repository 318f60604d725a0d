"""Amazon for the contract: what stands there, asked of the stand-in and not of our provider."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from clouds.aws_cloud import REGION, AwsCloud

from sojourn.agent.pack import Archive
from sojourn.clouds.account import differences
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.errors import SojournError
from sojourn.providers.contract import Request
from sojourn.providers.ec2.provider import Ec2Provider

AGENT = Archive(b"not looked at: no machine boots here", "0" * 64)


@cache
def clients(endpoint: str) -> Clients:
    """Clients of a stand-in's address; boto3 takes a second to make them anew."""
    return Clients()


def set_up(cloud: AwsCloud, project: str = "digits", *regions: str) -> None:
    """What `sojourn setup aws` makes."""
    for change in differences(pieces(clients(cloud.url), project, regions)):
        change.apply()


class Ec2World:
    """Without hosts: machines run until they are ended."""

    def __init__(self, cloud: AwsCloud) -> None:
        self.cloud = cloud
        self.strangers: list[str] = []

    def provider(self) -> Ec2Provider:
        return Ec2Provider(clients(self.cloud.url), [REGION], AGENT)

    def now(self) -> float:
        return time.time()

    def wait(self, done: Callable[[], bool], limit_s: float = 60.0) -> None:
        until = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > until:
                pytest.fail(f"still not after {limit_s} s: {self.ours()}")
            time.sleep(0.1)

    def settle(self) -> None:
        time.sleep(0.2)

    def ours(self) -> list[dict[str, object]]:
        return [one for one in self.cloud.rented() if one["id"] not in self.strangers]

    def billable(self) -> int:
        """Machines, and volumes that nothing else counts."""
        volumes = self.cloud.client("ec2").describe_volumes()["Volumes"]
        left = [one for one in volumes if one["State"] == "available"]
        return len([one for one in self.ours() if one["id"] in self.cloud.running()]) + len(left)

    def rented(self) -> int:
        return len(self.ours())

    def end_machines(self, name: str) -> None:
        for one in self.ours():
            if one["tags"]["sojourn:lease"] == name:  # type: ignore[index]
                self.cloud.end_from_inside(str(one["id"]))

    def create_and_lose_the_response(self, request: Request) -> None:
        self.cloud.fault("ec2", "RunInstances", "drop_after", count=2)
        with suppress(SojournError):
            self.provider().create(request)
        self.cloud.clear_faults()

    def create_twice_at_once(self, request: Request) -> None:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(self.provider().create, request) for _ in range(2)]:
                done.result()

    def half_make(self, request: Request) -> None:
        """Machines without the timer that ends them."""
        self.cloud.fault("scheduler", "CreateSchedule", "error", count=None)
        with suppress(SojournError):
            self.provider().create(request)
        self.cloud.clear_faults()
        assert self.schedules() == []

    def exhaust(self, request: Request, after: int) -> None:
        self.cloud.capacity(after)

    def add_strangers(self) -> None:
        ec2 = self.cloud.client("ec2")
        image = ec2.describe_images()["Images"][0]["ImageId"]
        for tags in (
            {"Name": "my-data"},
            {"sojourn:lease": "sojourn-quiet-heron-7f3a-1-0-0000"},
            {"sojourn:lease": "ours"},
        ):
            specification = {"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
            made = ec2.run_instances(
                ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1, TagSpecifications=[specification]
            )
            self.strangers.append(made["Instances"][0]["InstanceId"])

    def strangers_untouched(self) -> bool:
        return set(self.strangers) <= set(self.cloud.running())

    def written(self) -> bytes:
        data = [self.cloud.user_data(str(one["id"])) for one in self.ours()]
        return json.dumps([self.cloud.calls(), data]).encode()

    # -- beyond the contract --

    def copy(self, model: dict[str, Any], kinds: tuple[str, ...] = ("instance", "volume"), **words: Any) -> str:
        """A stranger's machine with the tags of another, on what these kinds name; its id. `words` go to Amazon."""
        ec2 = self.cloud.client("ec2")
        tags = [{"Key": key, "Value": value} for key, value in model["tags"].items()]
        made = ec2.run_instances(
            ImageId=ec2.describe_images()["Images"][0]["ImageId"],
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": kind, "Tags": tags} for kind in kinds],
            **words,
        )
        self.strangers.append(made["Instances"][0]["InstanceId"])
        return self.strangers[-1]

    def let_minute_end(self, moment: float) -> None:
        """The scheduler acts to the minute; here the next one comes at this moment."""
        self.cloud.timing(minute_ahead_s=-moment % 60)

    def schedules(self) -> list[str]:
        return [one["Name"] for one in self.cloud.client("scheduler").list_schedules()["Schedules"]]

    def groups(self) -> list[dict[str, object]]:
        return list(self.cloud.client("ec2").describe_placement_groups()["PlacementGroups"])
