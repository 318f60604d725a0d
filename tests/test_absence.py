"""A store that is away is no empty store; what one object of it lacks costs what hangs on that alone."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_world import World

from sojourn.agent.clouds import machine as kinds
from sojourn.agent.errors import Stop, StoreError
from sojourn.agent.host.clock import Deadline
from sojourn.agent.interrupts import Interrupts
from sojourn.agent.mailbox import Place
from sojourn.agent.stores.store import FileStore
from sojourn.names import LeaseName
from sojourn.protocol import Stop as StopRequest
from sojourn.renting import Lease, Lookalike, Machine
from sojourn.run.reap import reap
from sojourn.run.runs import list_runs
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox, projects
from sojourn.store.storage import AwayError, Store
from sojourn.waiting import SystemClock

RUN = "quiet-heron-7f3a"
NAME = str(LeaseName(RUN, 1, 0))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of a run that goes on."""
    monkeypatch.setattr("sojourn.store.storage.AWAY_S", 0.3)
    store = Store((tmp_path / "disk" / "store").as_uri())
    ledger = Ledger(Mailbox(store, "digits", RUN), SystemClock())
    ledger.join()
    ledger.append("intent", attempt=1, offer=0, name=NAME, request={})
    ledger.append("created")
    return store


def move_away(store: Store) -> Path:
    assert store.root is not None
    return store.root.rename(store.root.with_name("elsewhere"))


def empty_it(store: Store) -> Path:
    """As the place looks where a disk was mounted."""
    moved = move_away(store)
    assert store.root is not None
    store.root.mkdir()
    return moved


AWAY = pytest.mark.parametrize("go", [move_away, empty_it], ids=["moved", "unmounted"])


@AWAY
def test_a_store_that_went_away_is_not_made_anew_and_is_used_again_when_it_is_back(store: Store, go: Any) -> None:
    moved = go(store)
    for use in (
        lambda: store.put("control/x", b"x"),
        lambda: store.create("control/digits/x.json", b"{}"),
        lambda: store.find("control/x"),
        lambda: store.keys("control"),
        lambda: store.folders("control"),
    ):
        with pytest.raises(AwayError, match="is not there, or shows nothing, though there are runs in it"):
            use()
    assert store.root is not None
    assert not store.root.exists() or not list(store.root.iterdir())
    if store.root.exists():
        store.root.rmdir()
    moved.rename(store.root)
    store.put("control/x", b"x")
    assert store.find("control/x") == b"x"


@AWAY
def test_a_sweep_leaves_a_machine_whose_store_is_away_until_its_deadline(store: Store, go: Any) -> None:
    go(store)
    machine = Machine(name=f"{NAME}-n0", state="running", created_at=time.time() - 3600)

    class Cloud:
        name = "cloud"
        late = 0.0

        def leases(self) -> list[Lease]:
            return [
                Lease(
                    name=NAME, project="digits", run=RUN, attempt=1, deadline_at=time.time() + 7200 - self.late,
                    machines=(machine,), store=store.url,
                )
            ]  # fmt: skip

        def now(self) -> float | None:
            return time.time()

        def lookalikes(self) -> list[Lookalike]:
            return []

    cloud: Any = Cloud()
    found = list(reap([], [cloud], lambda *_: pytest.fail("no plan"), dry_run=True))
    assert found[0].action == "left" and "is not there" in found[0].reason
    cloud.late = 7300.0
    found = list(reap([], [cloud], lambda *_: pytest.fail("no plan"), dry_run=True))
    assert found[0].action == "would end"


def test_a_new_store_is_made_by_the_first_that_writes_there_and_by_nobody_who_reads(tmp_path: Path) -> None:
    store = Store((tmp_path / "new" / "store").as_uri())
    assert store.folders("control") == [] and store.find("control/x") is None and not (tmp_path / "new").exists()
    store.put("control/x", b"x")
    assert store.find("control/x") == b"x"
    with pytest.raises(AwayError):
        Store((tmp_path / "never").as_uri(), expected=True).provide()


def test_the_verbs_say_that_a_store_is_away_and_begin_nothing_there(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.script('print("trained")')
    assert world.train().returncode == 0
    (world.home / "store").rename(tmp_path / "elsewhere")
    for words in (["runs"], ["train", "--no-prefect", "--", "python", "train.py"], ["show", "last"], ["reap"]):
        done = world.sojourn(*words)
        said = done.stdout + done.stderr
        assert done.returncode not in (0, 1) and "is not there, or shows nothing" in said, said
        assert ("runs --forget" in said or words == ["reap"]) and "Traceback" not in said
    assert not (world.home / "store").exists()
    shutil.move(tmp_path / "elsewhere", world.home / "store")
    assert world.train().returncode == 0


def test_an_agent_s_store_that_went_away_is_not_made_anew(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = FileStore((tmp_path / "store").as_uri())
    store.put("machine/a", b"a")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is not there"):
        store.put("machine/b", b"b")
    (tmp_path / "store").mkdir()
    with pytest.raises(StoreError, match="is not there"), open(__file__, "rb") as file:
        store.keep("machine/blob", file, lambda: None)
    assert not list((tmp_path / "store").iterdir()) and store.find("machine/a") is None
    (tmp_path / "store").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    store.put("machine/b", b"b")


# -- one object --


@contextmanager
def another_user() -> Iterator[None]:
    """Somebody who may do less, for as long as the block lasts."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user for a while")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_this_user_may_not_read_costs_itself_alone(tmp_path: Path) -> None:
    for folder in (*tmp_path.parents, tmp_path):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    store = Store((tmp_path / "store").as_uri())
    for project in ("digits", "secret"):
        ledger = Ledger(Mailbox(store, project, RUN), SystemClock())
        ledger.join()
        store.put(f"control/{project}/{RUN}/plan.json", b"{}")
    assert store.root is not None
    for path in [store.root, *store.root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (store.root / "control" / "secret").chmod(0o700)
    other = Mailbox(store, "digits", "calm-otter-1111")
    store.put(f"{other.control}/plan.json", b"{}")
    (store.root / other.control).chmod(0o700)
    with another_user():
        lines = list_runs([Store(store.url)])
    assert {(one.project, one.run) for one in lines} == {("digits", RUN), ("digits", "calm-otter-1111")}
    assert all("plan.json" in (one.unreadable or "") for one in lines), lines


def test_a_folder_that_is_named_in_no_utf_8_is_nobody_s(tmp_path: Path, store: Store) -> None:
    assert store.root is not None
    os.mkdir(os.fsencode(store.root / "control") + b"/\xff\xfe")
    (store.root / "control" / os.fsdecode(b"\xff\xfe") / RUN).mkdir()
    assert projects(store) == ["digits"]
    assert all(key.encode() for key in store.keys("control"))


def place_of(store: FileStore) -> Place:
    return Place(store, {"project": "digits", "run": RUN, "attempt": 1, "lease": NAME}, 0)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 50_000], ids=range(5))
def test_a_stop_that_cannot_be_read_ends_no_script_and_a_later_one_does(tmp_path: Path, body: bytes) -> None:
    store = Store(tmp_path.as_uri())
    mailbox = Mailbox(store, "digits", RUN)
    store.put(f"control/digits/{RUN}/stop.json", body)
    there = FileStore(store.url)
    interrupts = Interrupts(there, place_of(there), Deadline(time.time() + 600), kinds.Machine())
    interrupts.check()
    assert mailbox.stop_request() is None
    mailbox.request_stop(StopRequest(reason="by hand", at=time.time()))
    interrupts._next_look["stop"] = 0.0
    with pytest.raises(Stop, match="by hand"):
        interrupts.check()
    mailbox.request_stop(StopRequest(reason="a second time", at=time.time()))
    told = mailbox.stop_request()
    assert told is not None and told.reason == "by hand"


@pytest.mark.parametrize("body", [b"", b"garbage", b"[1]", b'{"reason": 3}'], ids=range(4))
def test_a_node_whose_last_words_cannot_be_read_has_failed_and_breaks_no_other(tmp_path: Path, body: bytes) -> None:
    store = FileStore(tmp_path.as_uri())
    place = place_of(store)
    place.rank_by([place.name, place.name[:-1] + "1"])
    (peer,) = place.others
    assert peer.failure() is None
    store.put(f"machine/digits/{RUN}/1/1/exit.json", body)
    assert peer.failure() == "node 1 ended first: its last words cannot be read"


@pytest.mark.local
def test_an_order_that_cannot_be_read_is_waited_for_and_told(tmp_path: Path) -> None:
    from agent.conftest import Lab

    lab = Lab(tmp_path)
    lab.store.put(f"{lab.box.orders}/order/1.json", b"")
    agent = lab.boot(order_wait_s=2.0)
    end = lab.exit()
    assert agent.returncode == 0 and end.reason == "refused"
    assert end.message == "no order that can be read came within 2 s"
