"""Amazon for a test: starts the stand-in, gives its address and keys, and breaks it on demand.

    with AwsCloud() as cloud:
        os.environ.update(cloud.environment)
        cloud.fault("ec2", "RunInstances", "drop_after")

The fixture `aws` shares one process among the tests of a worker and resets it before each.
"""

from __future__ import annotations

import http.client
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from clouds.aws.hosts import obstacle

TESTS = Path(__file__).parents[1]
READY_LIMIT_S = 60.0
ANSWER_LIMIT_S = 60.0
REGION = "us-east-1"
# What a machine in a cloud would not have: the developer's files and this checkout.
HIDDEN = (Path("/root"), Path("/home"), TESTS.parent)
MACHINES = r"172\.31\..*"  # addresses that machines call from
ACCOUNT = "123456789012"


class AwsCloud:
    """One cloud: a process of its own on a port of its own."""

    def __init__(self, *, hosts: bool = False, hide: Iterable[Path] = (), bare: bool = False) -> None:
        """With `hosts` machines run; they see what is installed here, but the folders of `hide` empty."""
        self._arguments = ["--bare"] if bare else ["--hosts"] if hosts else []
        for one in [*HIDDEN, *hide] if hosts else []:
            self._arguments += ["--hide", str(one)]
        self._process: subprocess.Popen[str] | None = None
        self._session: Any = None
        self._clients: dict[tuple[str, str, str], Any] = {}
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.stop()
        # Nothing of the developer's own account may reach moto.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MOTO_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "clouds.aws", *self._arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=TESTS,
            env=environment | {"PYTHONPATH": str(TESTS)},
            start_new_session=True,  # what is meant for a test's terminal is not meant for it
        )
        self._clients = {}  # they know the former address
        self.url = self._first_line()

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the cloud is not started"
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """What makes every client in a process speak to this cloud, as its administrator."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            # Files of the developer's own are not read.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str, region: str = REGION, **config: Any) -> Any:
        """A boto3 client of this cloud, without retries unless `config` says otherwise. Made once: that takes long."""
        key = service, region, repr(sorted(config.items()))
        if key not in self._clients:
            self._clients[key] = self._client(service, region, config)
        return self._clients[key]

    def _client(self, service: str, region: str, config: dict[str, Any]) -> Any:
        import boto3
        from botocore.config import Config

        self._session = self._session or boto3.Session()
        return self._session.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(**{"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}} | config),
        )

    def fault(
        self,
        service: str,
        action: str,
        effect: str,
        *,
        body: str = "",
        source: str = "",
        count: int | None = 1,
        skip: int = 0,
        **more: Any,
    ) -> None:
        """Let calls fail that match: `action` is a pattern of the whole name, `body` one found in what is said,
        `source` one of the caller's address (MACHINES).

        Effects: error (code, status, message), throttle, drop_before, drop_after, hang_after (seconds), truncate,
        delay (seconds). `skip` so many first, then `count` of them; None is for ever.
        """
        what = {"service": service, "action": action, "body": body, "source": source}
        self._ask("fault", **what, effect=effect, count=count, skip=skip, **more)

    def clear_faults(self) -> None:
        self._ask("clear_faults")

    def calls(self, service: str = "", action: str = "") -> list[dict[str, Any]]:
        """Every call since the last reset, as it came over the wire."""
        calls: list[dict[str, Any]] = self._ask("calls")
        return [call for call in calls if service in ("", call["service"]) and action in ("", call["action"])]

    def rented(self) -> list[dict[str, Any]]:
        """Every instance ever started: id, type, zone, market, state, reason, address, tags, times."""
        rented: list[dict[str, Any]] = self._ask("rented")
        return rented

    def running(self) -> list[str]:
        """Ids of what would be billed now."""
        return [one["id"] for one in self.rented() if one["state"] in ("pending", "running", "stopping")]

    def wait_for(self, instance_id: str, *states: str, limit_s: float = 90.0) -> dict[str, Any]:
        """The machine's record once it is in one of these states."""
        deadline = time.monotonic() + limit_s
        while True:
            record = next(one for one in self.rented() if one["id"] == instance_id)
            if record["state"] in states:
                return record
            if time.monotonic() > deadline:
                raise TimeoutError(f"{instance_id} is {record['state']} after {limit_s} s, not {' or '.join(states)}")
            time.sleep(0.05)

    def fired(self) -> list[dict[str, Any]]:
        """The schedules that went off."""
        fired: list[dict[str, Any]] = self._ask("fired")
        return fired

    def user_data(self, instance_id: str) -> str:
        return str(self._ask("user_data", id=instance_id))

    def timing(self, **seconds: float) -> None:
        """How slow the cloud is: boot_s, shutdown_s, visible_after_s (until Describe shows a new instance)."""
        self._ask("timing", **seconds)

    def capacity(self, machines: int, *, type: str = "*", zone: str = "*", market: str = "*") -> None:
        """So many machines and no more; patterns as of files. What was said last about a place counts."""
        self._ask("capacity", machines=machines, type=type, zone=zone, market=market)

    def quota(self, code: str, vcpus: float, region: str = REGION) -> None:
        self._ask("quota", code=code, vcpus=vcpus, region=region)

    def spot_price(self, type: str, zone: str, dollars: float) -> None:
        self._ask("spot_price", type=type, zone=zone, dollars=dollars)

    def close_region(self, region: str) -> None:
        """Its organization denies whatever is asked for there, in a region that is enabled all the same."""
        for service, code in (("ec2", "UnauthorizedOperation"), ("scheduler", "AccessDeniedException")):
            said = f"User: {service} is not authorized with an explicit deny in a service control policy"
            refusal: dict[str, Any] = {"code": code, "status": 403, "message": said}
            self.fault(service, ".*", "error", region=region, count=None, **refusal)

    def enforce(self, on: bool = True) -> None:
        """From now on every call needs a policy that allows it, but the administrator's; until the next reset."""
        self._ask("enforce", on=on)

    def user(self, name: str, *policies: dict[str, Any]) -> dict[str, str]:
        """The environment of somebody who may do what these policies say, once they are enforced."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        for number, policy in enumerate(policies):
            iam.put_user_policy(UserName=name, PolicyName=f"p{number}", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        return self.environment | keys

    def decisions(self, principal: str = "") -> list[dict[str, Any]]:
        """What was weighed while policies were enforced: principal ("user/ci", "role/…"), action, resource, allowed."""
        decided: list[dict[str, Any]] = self._ask("decisions")
        return [one for one in decided if principal in ("", one["principal"])]

    def used(self) -> list[tuple[str, str]]:
        """Who did what while policies were enforced: principal and action."""
        return sorted({(one["principal"], one["action"]) for one in self.decisions() if one["allowed"]})

    def end_from_inside(self, instance_id: str) -> None:
        """The machine powers itself off (without hosts: with hosts they do it themselves)."""
        self._ask("end_from_inside", id=instance_id)

    def interrupt(self, instance_id: str, notice_s: float = 120.0) -> None:
        """Spot wants the machine back: the notice now, the end after `notice_s`."""
        self._ask("interrupt", id=instance_id, notice_s=notice_s)

    def freeze(self, instance_id: str) -> None:
        """Nothing on the host moves any more."""
        self._ask("freeze", id=instance_id, frozen=True)

    def thaw(self, instance_id: str) -> None:
        self._ask("freeze", id=instance_id, frozen=False)

    def partition(self, instance_id: str) -> None:
        """The host's network is cut, both ways."""
        self._ask("partition", id=instance_id, cut=True)

    def heal(self, instance_id: str) -> None:
        self._ask("partition", id=instance_id, cut=False)

    def crash(self, instance_id: str) -> None:
        """The host's processes are gone, and EC2 takes it for running."""
        self._ask("crash", id=instance_id)

    def console(self, instance_id: str) -> str:
        """What the host has printed."""
        return str(self._ask("console", id=instance_id))

    def reset(self, *, hosts: bool | None = None) -> None:
        """A new, empty account. `hosts` says whether its machines run; None leaves that as it was."""
        self._ask("reset", hosts=hosts)

    def _ask(self, verb: str, **what: Any) -> Any:
        address = urlsplit(self.url).netloc
        connection = http.client.HTTPConnection(address, timeout=ANSWER_LIMIT_S)
        try:
            connection.request("POST", f"/.stand-in/{verb}", json.dumps(what), {"Content-Type": "application/json"})
            response = connection.getresponse()
            said = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"the stand-in could not {verb}: {said.get('traceback') or said['error']}")
        return said

    def _first_line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            said = self._process.stdout.readline().strip() if selector.select(READY_LIMIT_S) else ""
        if not said.startswith("http://"):
            self.stop()
            raise RuntimeError(f"the stand-in for Amazon did not start within {READY_LIMIT_S:.0f} s: {said!r}")
        return said


@pytest.fixture(scope="session")
def aws_process() -> Iterator[AwsCloud]:
    """A cloud for all tests of a worker, with hosts where they can be. Tests want `aws` or `aws_hosts`."""
    from botocore.client import ClientCreator
    from botocore.loaders import create_loader

    # To see that tests of a repair fail without it.
    bare = bool(os.environ.get("STAND_IN_BARE"))
    with AwsCloud(bare=bare, hosts=not bare and obstacle() is None) as cloud, pytest.MonkeyPatch.context() as patch:
        # Or every session would read Amazon's description of EC2 anew, for half a second, and every client of each
        # region would make a class of 770 methods of it.
        patch.setattr("botocore.session.create_loader", cache(create_loader))
        patch.setattr(ClientCreator, "_create_client_class", _once(ClientCreator._create_client_class))
        cloud.reset(hosts=None if bare else False)
        yield cloud


def _once(make: Callable[..., type]) -> Callable[..., type]:
    """What makes the class of a service's clients, with a memory by the service's name."""
    made: dict[str, type] = {}

    def remembered(creator: Any, service: str, model: Any) -> type:
        if service not in made:
            made[service] = make(creator, service, model)
        return made[service]

    return remembered


@pytest.fixture
def aws(aws_process: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> AwsCloud:
    """Amazon, empty, and every client of this process speaks to it. Nothing runs on its machines."""
    return _spoken_to(aws_process, monkeypatch, hosts=False)


@pytest.fixture
def aws_hosts(aws_process: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> AwsCloud:
    """The same with machines that run. Skips, with a sentence, where they cannot."""
    if obstacle():
        pytest.skip(str(obstacle()))
    return _spoken_to(aws_process, monkeypatch, hosts=True)


def _spoken_to(cloud: AwsCloud, monkeypatch: pytest.MonkeyPatch, *, hosts: bool) -> AwsCloud:
    cloud.reset(hosts=hosts)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)
    return cloud
