"""A user whose machines are Amazon's: the real command here, the real boot script, agent and processes there.

Both act under exactly the policies that `sojourn setup aws` prints and makes, and Amazon enforces them.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli_world import BIN, World
from clouds.aws_cloud import ACCOUNT, REGION, AwsCloud

from sojourn.clouds.account import differences
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import Names
from sojourn.clouds.aws.policies import orchestrator
from sojourn.clouds.aws.setup.pieces import pieces
from sojourn.project.dvc.repo import remotes_on
from sojourn.project.project import Project
from sojourn.store.storage import Store

PROJECT = "digits"
DATA = "acme-data"  # the bucket of the project's DVC remote
QUICK = ("--where", "aws", "--machine", "t3.micro", "--environment", "current")


@cache
def administrators(endpoint: str) -> Clients:
    """Clients of the stand-in at this address, with the keys that the test itself has; making them takes a second."""
    return Clients()


class AmazonWorld(World):
    """The same user, with an account that was set up for the project."""

    def __init__(self, root: Path, cloud: AwsCloud) -> None:
        super().__init__(root)
        self.cloud = cloud
        self.users = 0
        self.forgiven: set[str] = set()
        self.own = ""  # a bucket that the user keeps runs in, below a prefix
        (self.project / "params.yaml").write_text(f"launch: {{project_name: {PROJECT}}}\n")
        self.set_up()

    def set_up(self, store: str = "") -> None:
        """What an administrator does by `sojourn setup aws`, in this process, and a user who may do what it prints."""
        self.own = urlsplit(store).netloc
        assert os.environ.get("AWS_ENDPOINT_URL") == self.cloud.url, "this process would speak to another account"
        remotes = remotes_on("s3", Project.at(self.project).dvc)
        for change in differences(pieces(administrators(self.cloud.url), PROJECT, remotes=remotes, store=store)):
            change.apply()
        self.users += 1
        ann = self.cloud.user(f"ann{self.users}", orchestrator(Names(ACCOUNT, REGION, PROJECT, store), remotes))
        # This user's home has no files of Amazon's, and DVC does not take /dev/null for one.
        self.environment |= {name: value for name, value in ann.items() if value != os.devnull}
        self.cloud.enforce()

    def denied(self) -> list[tuple[str, str, str]]:
        """Who was refused what by a policy, but for what DVC can do without."""
        found = {
            (one["principal"], one["action"], one["resource"]) for one in self.cloud.decisions() if not one["allowed"]
        }
        # HeadBucket tells where a bucket lies also by its refusal, of who may list what is below a prefix alone.
        looked = {("s3:ListBucket", f"arn:aws:s3:::{bucket}") for bucket in (DATA, self.own)}
        return sorted(one for one in found if one[1:] not in looked and one[0] not in self.forgiven)

    def forgive(self, principal: str) -> None:
        """What this one was refused in the test was meant to be."""
        self.forgiven.add(principal)

    def dvc(self, *words: str) -> str:
        """A DVC command in the project."""
        done = subprocess.run(
            [str(BIN / "dvc"), *words], cwd=self.project, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def store(self) -> Store:
        return Store(f"s3://sojourn-{ACCOUNT}-{REGION}")

    def instances(self) -> list[dict[str, Any]]:
        """Every machine ever rented, the oldest first."""
        return self.cloud.rented()

    def running(self) -> list[str]:
        """The ids of what is billed now."""
        return self.cloud.running()

    def left(self) -> dict[str, list[str]]:
        """What still stands in the account that nobody should pay for or stumble over."""
        ec2, scheduler = self.cloud.client("ec2"), self.cloud.client("scheduler")
        found = {
            "instances": self.cloud.running(),
            "volumes": [one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]],
            "schedules": [one["Name"] for one in scheduler.list_schedules()["Schedules"]],
            "placement groups": [one["GroupName"] for one in ec2.describe_placement_groups()["PlacementGroups"]],
        }
        return {kind: names for kind, names in found.items() if names}

    def wait_until_nothing_is_left(self, seconds: float = 90.0) -> None:
        self.wait(lambda: not self.left(), seconds, every=0.2)

    def story(self) -> str:
        """What is worth reading when something did not happen."""
        consoles = [self.cloud.console(one["id"]) for one in self.instances()]
        printed = [cli.output for cli in self.started]
        return "\n".join([json.dumps(self.instances(), default=str), str(self.kinds()), *consoles, *printed])
