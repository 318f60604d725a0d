"""An account with as many leases as one likes, of a machine each, and a store with the ledgers of their runs."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simulation.counted import CountedAmazon

from cli.progress import SilentListener
from sojourn.agent.pack import Archive
from sojourn.names import LeaseName
from sojourn.plan.planning import Plan
from sojourn.providers.ec2.provider import Ec2Provider
from sojourn.renting import Boot
from sojourn.run.journey import Journey
from sojourn.run.reap import Finding, reap
from sojourn.store.ledger import Entry
from sojourn.store.mailbox import Mailbox, open_mark
from sojourn.store.storage import Store

GOLDEN = Path(__file__).parent / "golden" / "plan.json"
AGENT = Archive(b"not looked at: no machine boots here", "0" * 64)
AGE_S = 600.0
DETAILS = {
    "image": "ami-1", "profile": "p", "subnet": "s", "group": "g", "root_device": "/dev/sda1", "disk": 8,
    "scheduler_role": "arn:role",
}  # fmt: skip


class Fleet:
    """Leases whose machines have run for a while; the first `over` were given back, and stand all the same.

    With `planned` their runs have plans and owners that beat, or with `left` some that have handed them over. `folder`
    holds the store, at `url` or where it is.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        market: str = "spot",
        over: int = 0,
        planned: bool = False,
        left: bool = False,
        url: str = "",
    ) -> None:
        self.folder = folder
        self.url = url or folder.as_uri()
        self.amazon = CountedAmazon()
        self.names = [str(LeaseName(f"calm-heron-{number:04x}", 1)) for number in range(count)]
        self._golden = Plan.model_validate_json(GOLDEN.read_bytes())
        self._market = market
        self._last: list[tuple[str, dict[str, Any]]] = [("handover", {"why": "a test"})] if left else []
        for number, name in enumerate(self.names):
            self._rent(name, given_back=number < over, planned=planned)
        self._grow_old()
        self.amazon.calls.clear()

    def provider(self) -> Ec2Provider:
        """The account in the hands of somebody who knows nothing of it."""
        clients: Any = self.amazon
        return Ec2Provider(clients, ["us-east-1"], agent=AGENT)

    def sweep(self, dry_run: bool = False) -> dict[str, Finding]:
        """What a sweep finds, by name; calls are counted from here."""
        self.amazon.calls.clear()
        provider = self.provider()

        def opened(plan: Plan, mailbox: Mailbox) -> Journey:
            return Journey(plan, mailbox, provider, self.folder, SilentListener())

        return {one.name: one for one in reap([Store(self.url)], [provider], opened, dry_run=dry_run)}

    def standing(self) -> set[str]:
        """The leases that are paid for."""
        return {one.lease for one in self.amazon.amazon.billable()}

    def _rent(self, name: str, given_back: bool, planned: bool) -> None:
        parsed, now, provider = LeaseName.parse(name), time.time(), self.provider()
        assert parsed is not None
        offer = self._golden.offers[0].model_copy(
            update={"region": "us-east-1", "market": self._market, "details": DETAILS}
        )
        boot = Boot(
            store="s3://many", store_region="us-east-1", project="digits", run=parsed.run, attempt=1, lease=name,
            nodes=1, deadline_at=now + 7200, grace_s=60.0, life_s=9000.0,
        )  # fmt: skip
        provider.create(provider.request(boot, offer))
        intent = {"attempt": 1, "offer": 0, "name": name, "request": {"token": name}}
        last: Any = ("release", {"name": name}) if given_back else ("ordered", {})
        lines = [("opened", {}), ("intent", intent), ("created", {}), last, *self._last]
        for sequence, (kind, body) in enumerate(lines):
            entry = Entry(sequence=sequence, term=1, owner="gone:1", at=now - AGE_S, kind=kind, body=body)
            self._write(f"control/digits/{parsed.run}/ledger/{sequence:06d}.json", entry.to_bytes())
        if planned:
            self._write(open_mark("digits", parsed.run), b"{}")
            launch = self._golden.launch.model_copy(update={"where": "aws", "nodes": 1})
            kept = {
                "run": parsed.run,
                "store": self.url,
                "launch": launch,
                "offers": (offer,),
                "deadline_at": now + 7200,
            }
            plan = self._golden.model_copy(update={**kept, "project": "digits", "capability": provider.capability()})
            self._write(f"control/digits/{parsed.run}/plan.json", plan.to_bytes())
            self.beat(parsed.run)

    def beat(self, run: str) -> None:
        """A sign of life of its owner."""
        self._write(f"control/digits/{run}/owner.json", json.dumps({"owner": "gone:1", "term": 1, "count": 1}).encode())

    def _write(self, key: str, body: bytes) -> None:
        """Not as the product does it: none of these need survive a power cut."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def _grow_old(self) -> None:
        born = time.time() - AGE_S
        for one in self.amazon.amazon.instances.values():
            one.shown_at = one.running_at = one.launched_at = born
            one.tags["sojourn:store"] = self.url
        for schedule in self.amazon.amazon.schedules.values():
            schedule["CreationDate"] = datetime.fromtimestamp(born + 1, UTC)
