"""An account at Amazon for the live suites, with a project of its own there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from sojourn.clouds.aws.clients import Clients
from sojourn.names import LeaseName, mint_run_id
from sojourn.providers.ec2.provider import Ec2Provider
from sojourn.renting import Boot, Lease

T = TypeVar("T")
PROJECT = "sojourn-live"
MACHINE = "t3.micro"
CAP = 0.05  # dollars for each thing that is rented here
SOJOURN = Path(sys.executable).parent / "sojourn"
STAND_IN = bool(os.environ.get("AWS_ENDPOINT_URL"))
TAGGED = [{"Name": "tag:sojourn:project", "Values": [PROJECT]}]

ONLY_WHEN_ASKED = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("SOJOURN_LIVE") != "aws",
        reason="rents machines in your Amazon account, for some cents: SOJOURN_LIVE=aws make test-live",
    ),
]


class Account:
    """Whoever's credentials are in the environment, and a project of its own there."""

    def __init__(self, root: Path) -> None:
        self.clients = Clients()
        self.provider = Ec2Provider(self.clients, [self.clients.region])
        self.project = root / PROJECT
        self.project.mkdir()
        (self.project / "params.yaml").write_text(f"launch: {{project_name: {PROJECT}}}\n")
        self.rented: list[str] = []  # what the leases of this time were called
        self.environment = {**os.environ, "SOJOURN_HOME": str(root / "home"), "COLUMNS": "160"}

    def sojourn(self, *words: str, seconds: float = 800.0) -> str:
        """What a command prints; it must do what it is asked."""
        done = subprocess.run(
            [str(SOJOURN), *words],
            cwd=self.project,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0, f"sojourn {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def standing(self) -> list[Lease]:
        """Leases of this project alone: others in the account are somebody's work."""
        return [one for one in self.provider.leases() if one.project == PROJECT]

    def sweep(self) -> list[str]:
        """End what stands, and wait until nothing does; what it was."""
        names = [one.name for one in self.standing()]
        for name in names:
            wait(lambda name=name: self.provider.release(name))
        return names

    def billed(self) -> list[str]:
        """What costs money, as EC2 itself says and not the provider."""
        ec2 = self.clients.client("ec2")
        states = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        found = ec2.describe_instances(Filters=[*TAGGED, *states])["Reservations"]
        volumes = ec2.describe_volumes(Filters=TAGGED)["Volumes"]
        machines = [one["InstanceId"] for reservation in found for one in reservation["Instances"]]
        return machines + [one["VolumeId"] for one in volumes]


def wait(done: Callable[[], T | None], seconds: float = 300.0) -> T:
    """Its first true answer; machines of Amazon's take a minute to go."""
    end = time.monotonic() + seconds
    while not (answer := done()):
        assert time.monotonic() < end, f"still not after {seconds:.0f} s"
        time.sleep(0.2 if STAND_IN else 3.0)
    return answer


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    account = Account(tmp_path_factory.mktemp("live"))
    print(f"\naccount {account.clients.account}, region {account.clients.region}")
    account.sojourn("setup", "aws", "--yes")
    yield account
    assert account.sweep() == [], "a test left something standing; it is gone now"


def boot_for(account: Account, nodes: int = 1) -> Boot:
    """For a machine that finds no agent to fetch, and switches itself off some seconds after its start."""
    run = mint_run_id()
    return Boot(
        store=f"s3://sojourn-{account.clients.account}-{account.clients.region}",
        store_region=account.clients.region,
        project=PROJECT,
        run=run,
        attempt=1,
        lease=str(LeaseName(run, 1)),
        nodes=nodes,
        deadline_at=time.time() + 600,
        grace_s=60.0,
        life_s=660.0,
    )
