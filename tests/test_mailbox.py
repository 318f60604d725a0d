"""How the objects of a run are named: by what nobody can guess, alike on both sides, and found again without a plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sojourn.agent.mailbox import Place
from sojourn.agent.stores.store import FileStore
from sojourn.names import LeaseName, is_place, mint_place, run_of
from sojourn.protocol import ExecRequest, Stop
from sojourn.store.mailbox import Mailbox, projects, runs_of
from sojourn.store.storage import Store

RUN = "calm-heron-7f3a"
PLACE = "0123456789abcdef0123456789abcdef"
EXEC = ExecRequest(node=0, argv=("true",), timeout_s=1.0, at=1.0, until=2.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path.as_uri())


def planned(store: Store, place: str | None = PLACE, run: str = RUN) -> Mailbox:
    """A run of which only that is known."""
    plan = {"run": run} if place is None else {"run": run, "place": place}
    store.put(f"control/digits/{run}/plan.json", json.dumps(plan).encode())
    return Mailbox(store, "digits", run)


def test_each_run_has_a_place_of_128_bits_that_its_folders_are_named_by() -> None:
    minted = {mint_place() for _ in range(100)}
    assert len(minted) == 100 and all(is_place(one) and len(one) == 32 for one in minted)
    assert run_of(f"{minted.pop()}-{RUN}") == run_of(RUN) == RUN
    for other in (f"{PLACE[1:]}-{RUN}", f"-{RUN}", f"{PLACE}-{PLACE}-{RUN}", f"{PLACE.upper()}-{RUN}", "blob", PLACE):
        assert run_of(other) is None


@pytest.mark.parametrize("place", [PLACE, "", None])
def test_both_sides_look_in_the_same_places(store: Store, place: str | None) -> None:
    box = planned(store, place)
    lease = str(LeaseName(RUN, 2))
    told = {"project": "digits", "run": RUN, "attempt": 2, "lease": lease} | ({"place": place} if place else {})
    node = Place(FileStore(store.url), told, 3)
    box.request_stop(Stop(reason="x", at=1.0))
    assert box.request_exec(2, EXEC) == 0 and box.request_exec(2, EXEC) == 1
    store.put(f"{box.orders}/order/2.json", b"{}")
    assert all(store.exists(key) for key in (node.stop, node.exec(0), node.exec(1), node.order))
    store.put(node.key("diagnosis.txt"), b"seen")
    assert (box.diagnosis(2, 3), box.attempts()) == ("seen", [2])
    hidden = [key for key in store.keys("") if key != f"control/digits/{RUN}/plan.json"]
    assert all((f"/{PLACE}-{RUN}/" in key) is (place == PLACE) for key in hidden)
    assert set(store.folders()) == ({"control", "orders", "machine"} if place else {"control", "machine"})


def test_a_place_that_is_known_since_the_plan_was_written_is_not_asked_for_again(store: Store) -> None:
    box = Mailbox(store, "digits", RUN)
    assert box.place == "", "there is no plan yet"
    planned(store)
    assert box.place == PLACE
    store.delete(f"{box.control}/plan.json")
    assert box.place == PLACE and box.machine == f"machine/digits/{PLACE}-{RUN}"


@pytest.mark.parametrize("plan", [None, b"", b"{}", b'{"run": "x", "place": "../../other"}', b'{"place": 7}'])
def test_a_run_whose_plan_does_not_say_its_place_is_found_by_what_no_machine_can_have_made(
    store: Store, plan: bytes | None
) -> None:
    planned(store).request_stop(Stop(reason="x", at=1.0))
    for forged in ("0" * 32, "f" * 32):
        store.put(f"machine/digits/{forged}-{RUN}/1/0/hello.json", b"{}")
    store.delete(f"control/digits/{RUN}/plan.json")
    if plan is not None:
        store.put(f"control/digits/{RUN}/plan.json", plan)
    box = Mailbox(store, "digits", RUN)
    assert box.place == PLACE and box.stop_request() is not None


def test_a_folder_that_a_machine_made_in_another_run_s_name_is_not_taken_for_that_run_s(store: Store) -> None:
    box = planned(store)
    forged = "f" * 32
    for attempt in (1, 2):
        store.put(f"machine/digits/{forged}-{RUN}/{attempt}/0/log/00000000", b"forged")
    (found,) = runs_of(store, "digits")
    assert found.run == RUN and found.place == PLACE and list(found.log(1, 0)) == []
    assert set(found.sizes()) == {
        f"{box.control}/plan.json",
        *(f"machine/digits/{forged}-{RUN}/{attempt}/0/log/00000000" for attempt in (1, 2)),
    }


def test_removing_a_run_takes_all_of_its_folders_and_nothing_of_another(store: Store) -> None:
    box, other = planned(store), planned(store, mint_place(), "calm-heron-0000")
    for one in (box, other):
        one.request_stop(Stop(reason="x", at=1.0))
        store.put(f"{one.machine}/1/0/blob/a", b"weights")
    store.put(f"machine/digits/{'f' * 32}-{RUN}/1/0/hello.json", b"forged")
    store.put(f"machine/digits/{RUN}/1/0/hello.json", b"forged")
    store.put("control/digits/blob/b", b"shared")
    box.clear(keep=[f"{box.machine}/1/0/blob/a"])
    left = {f"{box.machine}/1/0/blob/a", "control/digits/blob/b", *other.sizes()}
    assert set(store.keys("")) == left
    (rest, same) = runs_of(store, "digits")
    assert (rest.run, same.run) == (other.run, RUN) and set(same.sizes()) == {f"{box.machine}/1/0/blob/a"}
    same.clear(keep=[])
    assert set(store.keys("")) == left - {f"{box.machine}/1/0/blob/a"}


def test_a_project_of_which_only_orders_or_results_are_left_is_still_found(store: Store) -> None:
    store.put(f"orders/a/{PLACE}-{RUN}/stop.json", b"{}")
    store.put(f"machine/b/{PLACE}-{RUN}/1/0/hello.json", b"{}")
    store.put(f"machine/c/{RUN}/1/0/hello.json", b"{}")
    assert projects(store) == ["a", "b", "c"]
    assert [[one.run for one in runs_of(store, project)] for project in "abc"] == [[RUN]] * 3
