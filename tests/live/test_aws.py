"""The provider and one whole run in an account at Amazon, for a few cents: `SOJOURN_LIVE=aws make test-live`.

Nothing here runs by itself, and nothing is rented before its price was seen to be within the
cap. The same steps run against the stand-in where AWS_ENDPOINT_URL names it. They come in the
order of the file: sweep, rent twice, give back twice, a tiny run, sweep.
"""

from __future__ import annotations

import json
import re
import socket
import time
from typing import Any

from sojourn.renting import Need
from tests.live.account import CAP, MACHINE, ONLY_WHEN_ASKED, PROJECT, STAND_IN, Account, account, boot_for, wait

__all__ = ["account"]  # the fixture of every test here

RUN = ("--where", "aws", "--machine", MACHINE, "--environment", "current", "--deadline", "15m", "--budget", f"{CAP}")

pytestmark = ONLY_WHEN_ASKED


def test_what_an_earlier_time_left_is_swept(account: Account) -> None:
    account.sweep()
    wait(lambda: account.billed() == [])
    assert account.standing() == []


def test_rented_twice_is_one_machine_and_given_back_twice_is_none(account: Account) -> None:
    provider = account.provider
    offer = provider.offers(Need(machine=MACHINE, project=PROJECT)).fitting[0]
    boot = boot_for(account)
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
