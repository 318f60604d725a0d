"""An account in two regions, and in it what runs leave whose orchestrator died."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from clouds.aws_cloud import ACCOUNT, REGION, AwsCloud

from cli.progress import SilentListener
from sojourn.names import LeaseName
from sojourn.plan.planning import Plan
from sojourn.providers.ec2.provider import Ec2Provider
from sojourn.renting import Boot, Offer
from sojourn.run.journey import Journey
from sojourn.run.reap import Finding, kept_stores, reap
from sojourn.store.ledger import Entry, Kind
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock
from tests.providers.ec2_world import AGENT, clients, set_up

FAR = "us-west-2"
BUCKET = f"s3://sojourn-{ACCOUNT}-{REGION}"
GOLDEN = Path(__file__).parents[1] / "golden" / "plan.json"


class Hasty(SystemClock):
    """This computer's clock, on which two minutes of waiting pass in six seconds."""

    def monotonic(self) -> float:
        return super().monotonic() * 20

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds / 20)


class Fast(SystemClock):
    """Nobody waits: what sleeps for a second finds that ten have passed."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        self.ahead += 10 * seconds
        super().sleep(0.02)


class Account:
    """An account in two regions, and runs in all the states that a dead orchestrator leaves."""

    def __init__(self, cloud: AwsCloud, home: Path) -> None:
        self.cloud = cloud
        self.home = home
        self.store = Store(BUCKET)
        self.clock: SystemClock = Hasty()
        cloud.timing(boot_s=0.0, shutdown_s=0.05)
        set_up(cloud, "digits", FAR)

    def provider(self) -> Ec2Provider:
        return Ec2Provider(clients(self.cloud.url), [REGION, FAR], AGENT)

    def rent(
        self, run: str, *, deadline: float = 3600.0, region: str = REGION, project: str = "digits", store: str = BUCKET
    ) -> str:
        """A lease of this run; the id of its machine."""
        now, name = time.time(), str(LeaseName(run, 1))
        boot = Boot(
            store=store, store_region=REGION, project=project, run=run, attempt=1, lease=name, nodes=1,
            deadline_at=now + deadline, grace_s=1.0, life_s=7200.0,
        )  # fmt: skip
        provider = self.provider()
        request = provider.request(boot, self.offer(region))
        if deadline < 0:  # it would be refused now; it was asked for in time
            request["ends_at"] = 32472144000
            for one in request["create_schedules"]:
                one["ScheduleExpression"] = "at(2999-01-01T00:00:00)"
        before = {one["id"] for one in self.cloud.rented()}
        provider.create(request)
        (made,) = [one for one in self.cloud.rented() if one["id"] not in before]
        return str(made["id"])

    def offer(self, region: str = REGION, **changes: Any) -> Offer:
        """A machine that can be had there."""
        golden = Plan.model_validate_json(GOLDEN.read_bytes()).offers[0]
        details = {
            "image": self._image(region), "root_device": "/dev/sda1", "disk": 8, "subnet": self._subnet(region),
            "group": self._group(region), "profile": "sojourn-machine-digits",
            "scheduler_role": f"arn:aws:iam::{ACCOUNT}:role/sojourn-scheduler",
        }  # fmt: skip
        return golden.model_copy(
            update={"provider": "aws", "machine": "t3.micro", "region": region, "details": details, **changes}
        )

    def copy(self, machine: str, **tags: str) -> str:
        """Somebody else's machine with the tags of one of ours, its disk's too, but for these."""
        (model,) = [one for one in self.cloud.rented() if one["id"] == machine]
        ec2 = self.cloud.client("ec2")
        named = [{"Key": key, "Value": tags.get(key, value)} for key, value in model["tags"].items()]
        made = ec2.run_instances(
            ImageId=self._image(REGION), InstanceType="t3.micro", MinCount=1, MaxCount=1,
            TagSpecifications=[{"ResourceType": kind, "Tags": named} for kind in ("instance", "volume")],
        )  # fmt: skip
        return str(made["Instances"][0]["InstanceId"])

    def ledger(self, run: str, *kinds: tuple[Kind, dict[str, Any]], ago: float = 120.0) -> Mailbox:
        """What the run's orchestrator wrote before it died: an intent, and what is named."""
        mailbox, name = Mailbox(self.store, "digits", run), str(LeaseName(run, 1))
        intent: tuple[Kind, dict[str, Any]] = (
            "intent", {"attempt": 1, "offer": 0, "name": name, "request": {"token": name}}
        )  # fmt: skip
        for number, (kind, body) in enumerate([("opened", {}), intent, ("created", {"name": name}), *kinds]):
            entry = Entry(sequence=number, term=1, owner="gone:1", at=time.time() - ago, kind=kind, body=body)  # type: ignore[arg-type]
            mailbox.write_ledger(number, entry.to_bytes())
        return mailbox

    def plan(self, mailbox: Mailbox, **changes: Any) -> Plan:
        """The plan of a run of this account, kept as it would have been."""
        golden = Plan.model_validate_json(GOLDEN.read_bytes())
        launch = golden.launch.model_copy(update={"where": "aws", "nodes": 1, "checkpoint": ()})
        kept: dict[str, Any] = {
            "run": mailbox.run, "store": mailbox.store.url, "store_region": REGION, "launch": launch, "stage": None,
            "deadline_at": time.time(), "directory": "/nowhere", "capability": self.provider().capability(),
        }  # fmt: skip
        plan = golden.model_copy(update=kept | changes)
        mailbox.write_once("plan", plan)
        return plan

    def sweep(self, later: float = 0.0, stores: list[Store] | None = None, **how: Any) -> dict[str, Finding]:
        """What a sweep found, by the name of the lease or run; nothing is known to it but the account."""
        providers = self.provider().apart()
        known = kept_stores(providers) if stores is None else stores
        how = {"dry_run": False, "clock": self.clock, **how}
        found = reap(known, providers, self.journey, now=self.clock.now() + later, **how)
        return {finding.run or finding.name: finding for finding in found}

    def journey(self, plan: Plan, mailbox: Mailbox, provider: Ec2Provider | None = None) -> Journey:
        """The run in the hands of another process."""
        made = Journey(plan, mailbox, provider or self.provider(), self.home, SilentListener(), clock=self.clock)
        made.ledger.beat_every_s = 0.2
        return made

    def running(self) -> set[str]:
        return set(self.cloud.running())

    def _image(self, region: str) -> str:
        return str(self.cloud.client("ec2", region).describe_images()["Images"][0]["ImageId"])

    def _subnet(self, region: str) -> str:
        return str(self.cloud.client("ec2", region).describe_subnets()["Subnets"][0]["SubnetId"])

    def _group(self, region: str) -> str:
        wanted = [{"Name": "group-name", "Values": ["sojourn-machines"]}]
        groups = self.cloud.client("ec2", region).describe_security_groups(Filters=wanted)["SecurityGroups"]
        return str(groups[0]["GroupId"])
