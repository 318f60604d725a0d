"""A computer whose clock is wrong ends nothing, removes nothing and calls nothing late that is not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from clouds.aws_cloud import AwsCloud

from cli.progress import SilentListener
from sojourn.errors import SpecError, TransientError
from sojourn.names import LeaseName
from sojourn.plan.planning import Plan, make_plan
from sojourn.project.project import Project
from sojourn.providers.local import LocalProvider
from sojourn.renting import Lease, Lookalike, Machine
from sojourn.run.journey import Journey
from sojourn.run.reap import reap
from sojourn.run.runs import list_runs
from sojourn.spec.launch import make_launch
from sojourn.store import blobs
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox, purge_mark
from sojourn.store.purge_mark import Mark, purging
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock

DAY = 86_400.0
NOT_TOLD = "its ledger cannot be read, and nobody knows whether it is late: neither store nor provider tells the time"
RUN = "quiet-heron-7f3a"
NAME = str(LeaseName(RUN, 1, 0))
WRONG = pytest.mark.parametrize("off", [DAY, 300.0, -300.0, -DAY], ids=lambda off: f"{off:+.0f} s")


class Cloud:
    """A provider that has these leases, and perhaps a clock of its own."""

    name = "cloud"

    def __init__(self, *leases: Lease, tells: float | None = None) -> None:
        self._leases = list(leases)
        self._tells = tells

    def leases(self) -> list[Lease]:
        return self._leases

    def now(self) -> float | None:
        return self._tells

    def lookalikes(self) -> list[Lookalike]:
        return []


def wrong(monkeypatch: pytest.MonkeyPatch, off: float) -> float:
    """From now on this computer's clock is off; the right time."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + off)
    return right()


def lease_of(store: Store, deadline_at: float, born: float) -> Lease:
    machine = Machine(name=f"{NAME}-n0", state="running", created_at=born)
    return Lease(
        name=NAME, project="digits", run=RUN, attempt=1, deadline_at=deadline_at, grace_s=60.0, machines=(machine,),
        store=store.url,
    )  # fmt: skip


def going_on(folder: Path) -> Store:
    """The store of a run whose machine works."""
    store = Store(folder.as_uri())
    store.provide()
    ledger = Ledger(Mailbox(store, "digits", RUN), SystemClock())
    ledger.join()
    ledger.append("intent", attempt=1, offer=0, name=NAME, request={})
    ledger.append("created")
    return store


def swept(*leases: Lease, tells: float | None = None) -> dict[str, Any]:
    cloud: Any = Cloud(*leases, tells=tells)
    found, *_ = reap([], [cloud], lambda *_: pytest.fail("no plan"), dry_run=True)
    return {"action": found.action, "reason": found.reason}


@WRONG
def test_a_sweep_ends_what_is_late_by_the_store_s_clock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    store = going_on(tmp_path)
    now = wrong(monkeypatch, off)
    well = swept(lease_of(store, now + 1800, now - 60))
    assert well == {"action": "left", "reason": "its run goes on; 30m to its deadline"}
    late = swept(lease_of(store, now - 180, now - 900))
    assert late == {"action": "would end", "reason": "its deadline passed 3m ago"}


@WRONG
def test_a_lease_that_no_ledger_knows_is_as_old_as_the_store_s_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    store = going_on(tmp_path)
    store.clear(f"control/digits/{RUN}")
    Mailbox(store, "digits", "calm-otter-1111").write("other", Mark(owner="somebody"))
    now = wrong(monkeypatch, off)
    assert swept(lease_of(store, now + 1800, now - 60))["action"] == "left"
    assert swept(lease_of(store, now + 1800, now - 660))["action"] == "would end"


def test_without_the_store_the_provider_s_clock_counts_and_without_both_nothing_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Store((tmp_path / "away").as_uri())
    now = wrong(monkeypatch, DAY)
    late = lease_of(away, now - 180, now - 900)
    assert swept(late, tells=now)["action"] == "would end"
    unknown = swept(late)
    assert unknown == {"action": "left", "reason": NOT_TOLD} and not away.root.exists()  # type: ignore[union-attr]


def planned(folder: Path, deadline: str = "30m") -> Plan:
    project = Project(folder / "digits")
    project.directory.mkdir()
    (project.directory / "train.py").write_text("pass\n")
    launch = make_launch({"command": "python train.py", "environment": "current", "deadline": deadline}, origin="test")
    url, home = (folder / "store").as_uri(), folder / "home"
    return make_plan(launch, project, LocalProvider(home), run=RUN, store=url, home=home, now=time.time())


def journey(plan: Plan, folder: Path, begin: bool = True) -> Journey:
    mailbox = Mailbox(Store(plan.store), plan.project, plan.run)
    parts = (plan, mailbox, LocalProvider(folder / "home"), folder / "home", SilentListener())
    return Journey.begin(*parts) if begin else Journey(*parts)


@pytest.mark.parametrize("off", [DAY, 300.0, -300.0])
def test_a_run_that_is_refused_for_this_computer_s_clock_leaves_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    wrong(monkeypatch, off)
    plan = planned(tmp_path)
    with pytest.raises(SpecError, match=f"clock is {abs(off):.0f} s off the store's"):
        journey(plan, tmp_path)
    assert Store(plan.store).folders("control") == []


@WRONG
def test_whoever_continues_a_run_goes_by_the_store_s_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    plan = planned(tmp_path)
    journey(plan, tmp_path)
    now = wrong(monkeypatch, off)
    going = journey(plan, tmp_path, begin=False)
    with going.held():
        assert going.clock.now() == pytest.approx(now, abs=30)
        assert going.ledger.entries()[-1].at == pytest.approx(now, abs=30)
        monkeypatch.setattr(time, "time", lambda: now + 10 * DAY)  # and whatever is done to it later
        assert going.orchestrator.clock.now() == pytest.approx(now, abs=30)


def test_the_list_of_runs_calls_nobody_late_by_a_clock_that_is_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path)
    started = journey(plan, tmp_path)
    with started.held():
        started.ledger.append("intent", attempt=1, offer=0, name=NAME, request={})
        wrong(monkeypatch, 2 * DAY)
        (line,) = list_runs([Store(plan.store)])
        assert line.orphan is None and line.state == "provisioning"


def test_a_purge_that_goes_on_keeps_its_mark_whatever_another_computer_s_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = going_on(tmp_path)
    with purging(store, "digits"):
        wrong(monkeypatch, DAY)
        with pytest.raises(TransientError, match="another `sojourn purge` is at work"), purging(store, "digits"):
            pass
        assert store.exists(purge_mark("digits"))


def test_what_a_bucket_is_about_to_forget_is_sent_again_also_by_a_clock_that_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path)
    mailbox = Mailbox(Store(plan.store), plan.project, plan.run)
    mailbox.store.provide()
    mailbox.store.put("control/digits/blob/abc", b"body")
    assert blobs.stays("control/digits/blob/abc", 4, mailbox)
    wrong(monkeypatch, -30 * DAY)
    assert blobs.stays("control/digits/blob/abc", 4, Mailbox(Store(plan.store), plan.project, plan.run))


def test_a_bucket_tells_the_time_with_an_answer_that_it_gives_anyway(
    aws: AwsCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.client("s3").create_bucket(Bucket="runs")
    store = Store("s3://runs/digits")
    assert store.folders("control") == []
    before, now = len(aws.calls()), wrong(monkeypatch, DAY)
    assert store.now() == pytest.approx(now, abs=5)
    assert len(aws.calls()) == before
    assert store.clock_off() == pytest.approx(DAY, abs=5)
