"""The provider and one whole run in an account at Amazon, for a few cents: `SOJOURN_LIVE=aws make test-live`.

Nothing here runs by itself, and nothing is rented before its price was seen to be within the
cap. The same steps run against the stand-in where AWS_ENDPOINT_URL names it. They come in the
order of the file: sweep, rent twice, give back twice, a tiny run, sweep.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sojourn.names import LeaseName, mint_run_id
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.lease import Ec2Provider
from sojourn.records import Boot, Lease, Need

PROJECT = "sojourn-live"
MACHINE = "t3.micro"
CAP = 0.05  # dollars for each thing that is rented here, of which there are two
RUN = ("--where", "aws", "--machine", MACHINE, "--environment", "current", "--deadline", "15m", "--budget", f"{CAP}")
SOJOURN = Path(sys.executable).parent / "sojourn"
STAND_IN = bool(os.environ.get("AWS_ENDPOINT_URL"))
TAGGED = [{"Name": "tag:sojourn:project", "Values": [PROJECT]}]

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("SOJOURN_LIVE") != "aws",
        reason="rents machines in your Amazon account, for about a cent: SOJOURN_LIVE=aws make test-live",
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


def wait(done: Callable[[], object], seconds: float = 300.0) -> None:
    """Until it is so; machines of Amazon's take a minute to go."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"still not after {seconds:.0f} s"
        time.sleep(0.2 if STAND_IN else 3.0)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    account = Account(tmp_path_factory.mktemp("live"))
    print(f"\naccount {account.clients.account}, region {account.clients.region}")
    account.sojourn("setup", "aws", "--yes")
    yield account
    assert account.sweep() == [], "a test left something standing; it is gone now"


def test_what_an_earlier_time_left_is_swept(account: Account) -> None:
    account.sweep()
    wait(lambda: account.billed() == [])
    assert account.standing() == []


def test_rented_twice_is_one_machine_and_given_back_twice_is_none(account: Account) -> None:
    provider = account.provider
    offer = provider.offers(Need(machine=MACHINE, project=PROJECT)).fitting[0]
    boot = _boot(account)
    assert offer.price * (boot.deadline_at + boot.grace_s - time.time()) / 3600 < CAP
    request = provider.request(boot, offer)
    account.rented.append(f"{boot.lease}-n0")
    try:
        provider.create(request)
        provider.create(request)
        wait(lambda: _states(account, boot.lease) == ["running"])
        (machine,) = _machines(account, boot.lease)
        assert machine["MetadataOptions"]["HttpTokens"] == "required" and "KeyName" not in machine
        if machine.get("InstanceLifecycle") != "spot":  # of which Amazon does not say that they show it
            assert machine["ClientToken"] == boot.lease  # by which a copy of its tags is told from it
        assert [one["Groups"][0]["GroupName"] for one in machine["NetworkInterfaces"]] == ["sojourn-machines"]
        assert [one.name for one in account.standing()] == [boot.lease]
        if not STAND_IN:  # whose machines have no address that the world could knock at
            assert _shut(machine["PublicIpAddress"])
    finally:
        provider.release(boot.lease)
        wait(lambda: provider.release(boot.lease))
    assert provider.release(boot.lease) is True
    provider.create(request)  # a reply that was lost for minutes
    assert _states(account, boot.lease) == [] and account.standing() == [] and account.billed() == []


def test_a_tiny_run_goes_there_and_comes_home(account: Account) -> None:
    (account.project / "train.py").write_text(
        "import json, os, platform\n"
        "print('on', platform.node(), 'with', len([n for n in os.environ if n.startswith('AWS')]), 'keys')\n"
        "json.dump({'accuracy': 0.75}, open('metrics.json', 'w'))\n"
    )
    words = (*RUN, "--", "python3", "train.py")
    planned = json.loads(account.sojourn("plan", "--json", *words))
    assert 0 < planned["ceiling"] <= CAP

    printed = account.sojourn("train", "--no-prefect", *words)

    assert re.search(r"on ip-[\d-]+\S* with 0 keys", printed)
    shown = json.loads(account.sojourn("show", "last", "--json"))
    assert shown["report"]["metrics"] == {"accuracy": 0.75}
    receipt = shown["receipt"]
    assert receipt["state"] == "closed" and all(one["gone_at"] for one in receipt["resources"])
    assert receipt["cost"] <= CAP
    account.rented += [one["name"] for one in receipt["resources"] if one["kind"] == "schedule"]
    print(f"\nit cost about ${receipt['cost']:.4f}")


def test_nothing_is_left_but_what_the_store_keeps(account: Account) -> None:
    assert account.sweep() == [] and account.billed() == []
    pages = account.clients.client("scheduler").get_paginator("list_schedules").paginate(GroupName="sojourn")
    timers = {one["Name"] for page in pages for one in page["Schedules"]}
    assert len(account.rented) == 2 and timers.isdisjoint(account.rented)
    account.sojourn("purge", "--older-than", "0s", "--yes")


def _boot(account: Account) -> Boot:
    """For a machine that finds no agent to fetch, and switches itself off some seconds after its start."""
    run = mint_run_id()
    return Boot(
        store=f"s3://sojourn-{account.clients.account}-{account.clients.region}",
        store_region=account.clients.region,
        project=PROJECT,
        run=run,
        attempt=1,
        lease=str(LeaseName(run, 1)),
        nodes=1,
        deadline_at=time.time() + 600,
        grace_s=60.0,
        life_s=660.0,
    )


def _machines(account: Account, lease: str) -> list[dict[str, Any]]:
    filters = [{"Name": "tag:sojourn:lease", "Values": [lease]}]
    found = account.clients.client("ec2").describe_instances(Filters=filters)["Reservations"]
    machines = [one for reservation in found for one in reservation["Instances"]]
    return [one for one in machines if one["State"]["Name"] not in ("terminated", "shutting-down")]


def _states(account: Account, lease: str) -> list[str]:
    return [one["State"]["Name"] for one in _machines(account, lease)]


def _shut(address: str) -> bool:
    """Whether nobody answers at the port of SSH, nor says that there is no such port."""
    try:
        socket.create_connection((address, 22), timeout=5).close()
    except TimeoutError:
        return True
    return False
