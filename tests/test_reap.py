"""What a sweep says of a lease, by the ledger alone."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from clouds.aws_cloud import AwsCloud

from sojourn.errors import GoneError, SpecError, TeardownError, TransientError
from sojourn.names import LeaseName
from sojourn.protocol import Hold, Outcome
from sojourn.renting import Lease, Lookalike, Machine
from sojourn.run.reap import SETTLING_S, Finding, forget_stores, raise_for_failed, reap
from sojourn.run.runs import FRESH_S, MANY, find_run
from sojourn.store.known_stores import forget, forget_bucket, remember, remembered
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock

RUN = "quiet-heron-7f3a"
GOLDEN = Path(__file__).parent / "golden" / "plan.json"
NAME = str(LeaseName(RUN, 1, 0))


class Cloud:
    """A provider that has these leases."""

    name = "cloud"

    def __init__(self, *leases: Lease) -> None:
        self._leases = list(leases)

    def leases(self) -> list[Lease]:
        return self._leases

    def now(self) -> float | None:
        return None

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


def sweep(stores: list[Store], *leases: Lease, dry_run: bool = False) -> dict[str, Finding]:
    """What a sweep finds, by name."""
    cloud: Any = Cloud(*leases)
    found = reap(stores, [cloud], lambda *_: pytest.fail("no plan"), now=0.0, dry_run=dry_run)
    return {one.name: one for one in found}


def test_a_store_that_is_gone_is_told_once_and_forgotten(aws: AwsCloud, tmp_path: Path) -> None:
    own, gone = Store((tmp_path / "own").as_uri()), Store("s3://no-such-bucket/runs")
    remember(tmp_path, own)
    remember(tmp_path, gone)
    assert sweep([own, gone], dry_run=True)[gone.url].action == "would forget"
    assert remembered(tmp_path) == [own.url, gone.url]
    found = sweep([own, gone])
    assert found[gone.url].action == "forgotten" and "no bucket 'no-such-bucket'" in found[gone.url].reason
    raise_for_failed(found.values())
    forget_stores(tmp_path, found.values())
    assert remembered(tmp_path) == [own.url]


def test_a_store_that_is_gone_is_remembered_while_anything_stands_that_names_it(aws: AwsCloud, tmp_path: Path) -> None:
    gone = Store("s3://no-such-bucket")
    lease = Lease(name=NAME, project="digits", run=RUN, attempt=1, deadline_at=1e4, machines=(), store=gone.url)
    assert sweep([Store(tmp_path.as_uri()), gone], lease)[gone.url].action == "unseen"


def test_a_run_is_not_looked_for_in_a_store_that_is_gone(aws: AwsCloud, tmp_path: Path) -> None:
    gone, files = Store("s3://no-such-bucket"), Store(tmp_path.as_uri())
    with pytest.raises(SpecError, match="there is no run yet"):
        find_run([gone, files], "last")
    with pytest.raises(GoneError):
        find_run([gone], "last")
    assert sweep([gone])[gone.url].action == "unseen", "a store that is named each time cannot be forgotten"


@pytest.mark.parametrize("position", [0, 1])
def test_a_store_that_cannot_be_asked_fails_a_sweep_only_when_it_is_this_host_s_own(
    aws: AwsCloud, tmp_path: Path, position: int
) -> None:
    closed, files = Store("s3://not-ours"), Store(tmp_path.as_uri())
    aws.fault("s3", "HeadBucket", "error", code="AccessDenied", status=403, message="Forbidden", count=None)
    stores = [files]
    stores.insert(position, closed)
    found = sweep(stores)[closed.url]
    if position == 0:
        with pytest.raises(TeardownError, match="could not be looked at: s3://not-ours"):
            raise_for_failed([found])
    else:
        raise_for_failed([found])
        assert found.action == "unseen" and found.reason.endswith("sojourn runs --forget s3://not-ours")


def test_a_store_is_forgotten_by_its_url_alone(tmp_path: Path) -> None:
    for url in ("s3://one", "s3://one/runs", "s3://one-more"):
        remember(tmp_path, Store(url))
    forget_bucket(tmp_path, "s3://one")
    assert remembered(tmp_path) == ["s3://one-more"]
    with pytest.raises(SpecError, match="remembers no 's3://one', did you mean 's3://one-more'"):
        forget(tmp_path, "s3://one")
    forget(tmp_path, "s3://one-more/")
    assert remembered(tmp_path) == []


class Moments(SystemClock):
    """What happens before the second look."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        self._meanwhile()


class Ending(Cloud):
    """A cloud that ends what it is told to."""

    def __init__(self, *leases: Lease) -> None:
        super().__init__(*leases)
        self.asked = 0
        self.released: list[str] = []
        self.silent = False

    def leases(self) -> list[Lease]:
        self.asked += 1
        if self.silent:
            raise TransientError("no answer")
        return list(self._leases)

    def release(self, name: str) -> bool:
        self.released.append(name)
        return True

    def release_all(self, names: Sequence[str]) -> list[bool | Exception]:
        return [self.release(name) for name in names]

    def forget(self) -> None:
        self._leases = []


def leased(store: Store, run: str = RUN, deadline_at: float = 1e4) -> Lease:
    name = str(LeaseName(run, 1, 0))
    machine = Machine(name=f"{name}-n0", state="running", created_at=10.0)
    return Lease(
        name=name, project="digits", run=run, attempt=1, deadline_at=deadline_at, machines=(machine,), store=store.url
    )


@pytest.mark.parametrize(
    ("meanwhile", "action", "told"),
    [
        ("nothing", "ended", "no ledger knows it"),
        ("its ledger is seen", "left", "its run goes on"),
        ("it is gone", "left", "not seen any more"),
        ("its cloud is silent", "left", "no second answer"),
    ],
)
def test_what_no_ledger_knows_is_ended_when_a_second_look_finds_the_same(
    tmp_path: Path, meanwhile: str, action: str, told: str
) -> None:
    store = Store(tmp_path.as_uri())
    cloud: Any = Ending(leased(store))

    def happens() -> None:
        if meanwhile == "its ledger is seen":
            ledger = Ledger(Mailbox(store, "digits", RUN), SystemClock())
            ledger.join()
            ledger.append("intent", attempt=1, offer=0, name=NAME, request={})
        elif meanwhile == "it is gone":
            cloud.forget()
        cloud.silent = meanwhile == "its cloud is silent"

    store.put("any", b"")  # the store is there
    opened = lambda *_: pytest.fail("no plan")  # noqa: E731
    (found,) = reap([store], [cloud], opened, now=2000.0, dry_run=False, clock=Moments(happens))
    assert (found.action, cloud.asked) == (action, 2) and told in found.reason
    assert cloud.released == ([NAME] if action == "ended" else [])


@pytest.mark.parametrize(
    "gone", ["000000.json", "000001.json", ""], ids=["its first line", "its second line", "all of it"]
)
def test_a_machine_whose_run_is_there_and_whose_ledger_is_not_whole_is_left_until_its_deadline(
    tmp_path: Path, gone: str
) -> None:
    store = Store(tmp_path.as_uri())
    mailbox = Mailbox(store, "digits", RUN)
    ledger = Ledger(mailbox, SystemClock())
    ledger.join()
    ledger.append("intent", attempt=1, offer=0, name=NAME, request={})
    ledger.append("created")
    ledger.append("release", name=NAME)  # but for the gap it would be reason enough
    store.put(f"{mailbox.control}/plan.json", b"{}")
    for key in store.keys(f"{mailbox.control}/ledger"):
        if key.endswith(gone):
            store.delete(key)
    cloud: Any = Ending(leased(store))
    opened = lambda *_: pytest.fail("opened")  # noqa: E731
    findings = reap([], [cloud], opened, now=2000.0, dry_run=False, clock=Moments(lambda: None))
    (found,) = [one for one in findings if one.name == NAME]
    told = "its run goes on" if gone == "000001.json" else "is not there, and more of its run is"
    assert found.action == "left" and told in found.reason and cloud.released == []


def test_a_sweep_over_many_machines_asks_their_cloud_for_a_list_and_reads_ledgers_side_by_side(tmp_path: Path) -> None:
    store = Store(tmp_path.as_uri())
    runs = [f"quiet-heron-{number:04x}" for number in range(300)]
    for number, run in enumerate(runs):
        ledger = Ledger(Mailbox(store, "digits", run), SystemClock())
        ledger.join()
        ledger.append("intent", attempt=1, offer=0, name=str(LeaseName(run, 1, 0)), request={})
        if number % 3 == 0:
            ledger.append("release", name=str(LeaseName(run, 1, 0)))
    cloud: Any = Ending(*(leased(store, run) for run in runs))
    opened = lambda *_: pytest.fail("no plan")  # noqa: E731
    found = [
        one for one in reap([store], [cloud], opened, now=2000.0, dry_run=False) if one.name.startswith("sojourn-")
    ]
    assert Counter(one.action for one in found) == {"ended": 100, "left": 200}
    assert cloud.asked == 1 and len(cloud.released) == 100


def test_a_run_whose_books_could_not_be_written_is_not_called_one_that_could_not_be_ended() -> None:
    lease = Finding(name=NAME, run=RUN, action="failed", reason="busy")
    books = Finding(name="calm-otter-1111", run="calm-otter-1111", action="failed", reason="the store is full")
    with pytest.raises(TeardownError) as told:
        raise_for_failed([lease, books])
    assert told.value.message == (
        f"found and could not be ended: {NAME}; could not be closed, by their books alone: calm-otter-1111"
    )


def test_of_many_open_runs_those_whose_owners_beat_are_left_to_them(tmp_path: Path) -> None:
    store, opened, plan = Store(tmp_path.as_uri()), list[str](), GOLDEN.read_bytes()
    for number in range(MANY + 10):
        box = Mailbox(store, "digits", f"quiet-heron-{number:04x}")
        store.put(f"{box.control}/plan.json", plan.replace(json.loads(plan)["run"].encode(), box.run.encode()))
        if number >= 3:
            store.put(f"{box.control}/owner.json", b"{}")
        if 3 <= number < 5:
            at = time.time() - FRESH_S - 1 if number == 3 else time.time() + 3600  # the last is no beat that was
            os.utime(tmp_path / box.control / "owner.json", (at, at))

    def journey_of(_: object, mailbox: Mailbox) -> Any:
        opened.append(mailbox.run)
        raise SpecError("not today")

    found = list(reap([store], [], journey_of, dry_run=True))
    assert sorted(opened) == [f"quiet-heron-{number:04x}" for number in range(5)] and len(found) == 5


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that takes every question and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield Store("s3://silent")


def test_a_store_that_does_not_answer_holds_up_no_end_of_another_machine(
    tmp_path: Path, silent: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.run.reap.JUDGED_WITHIN_S", 0.5)
    store = Store(tmp_path.as_uri())
    store.put("any", b"")
    other, late = "calm-panda-a2e3", "brave-otter-11ab"
    cloud: Any = Ending(
        leased(silent, deadline_at=time.time() + 3600),
        leased(store, other, deadline_at=time.time() - 3600),
        leased(silent, late, deadline_at=time.time() - 3600),
    )
    cloud.now = time.time
    begun = time.monotonic()
    found: dict[str, Finding] = {}
    for one in reap([], [cloud], lambda *_: pytest.fail("no plan"), dry_run=False):
        found[one.run] = one
        if len(found) == 3:
            break
    assert time.monotonic() - begun < 5.0
    assert (found[RUN].action, found[RUN].reason) == ("left", "its records take too long to read")
    assert found[other].action == "ended"
    assert found[late].action == "ended", "by its provider's clock"
