"""What a sweep says of a lease, by the ledger alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sojourn.ledger import Ledger
from sojourn.mailbox import Mailbox
from sojourn.names import LeaseName
from sojourn.reap import SETTLING_S, reap
from sojourn.records import Hold, Lease, Lookalike, Machine, Outcome
from sojourn.storage import Store
from sojourn.waiting import SystemClock

RUN = "quiet-heron-7f3a"
NAME = str(LeaseName(RUN, 1, 0))


class Cloud:
    """A provider that has this one lease."""

    name = "cloud"

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def leases(self) -> list[Lease]:
        return [self._lease]

    def lookalikes(self) -> list[Lookalike]:
        return []


@pytest.mark.parametrize(("held", "late"), [(None, 100.0), (Hold(since=101.0, until=500.0), 500.0)])
def test_held_machines_are_left_until_their_hold_is_over(tmp_path: Path, held: Hold | None, late: float) -> None:
    store = Store(tmp_path.as_uri())
    ledger = Ledger(Mailbox(store, "digits", RUN), SystemClock())
    ledger.join()
    ledger.append("intent", attempt=1, offer=0, name=NAME, request={})
    ledger.append("created")
    outcome = Outcome(state="failed", message="exit code 3", ended_at=100.0, hold=held)
    ledger.append("outcome", **outcome.model_dump(mode="json"))
    machine = Machine(name=f"{NAME}-n0", state="running", created_at=10.0)
    lease = Lease(
        name=NAME, project="digits", run=RUN, attempt=1, deadline_at=1e4, machines=(machine,), store=store.url
    )

    def found(now: float) -> list[str]:
        cloud: Any = Cloud(lease)
        return [one.action for one in reap([], [cloud], lambda *_: pytest.fail("no plan"), now=now, dry_run=True)]

    assert found(late + SETTLING_S - 1) == ["left"]
    assert found(late + SETTLING_S + 1) == ["would end"]
