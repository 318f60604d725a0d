"""A sweep over many leases of an account: what it asks grows by pages, and what is ended is ended by the hundred."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from many_leases import Fleet
from simulation.amazon import refused

from sojourn.providers.ec2.inventory import APART, NAMED_AT_ONCE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.run.reap.GONE_EVERY_S", 0.01)
    monkeypatch.setattr("simulation.amazon.ENDING_S", (0.0, 0.0))


@pytest.mark.parametrize("market", ["spot", "on-demand"])
def test_a_sweep_asks_an_account_with_ten_times_as_many_leases_by_pages(tmp_path: Path, market: str) -> None:
    few, many = Fleet(tmp_path / "few", 20, market), Fleet(tmp_path / "many", 200, market)
    asked = []
    for fleet in (few, many):
        assert {one.action for one in fleet.sweep(dry_run=True).values()} == {"left"}
        asked.append(fleet.amazon.calls)
    once = {"describe_instances": 1, "describe_volumes": 1, "describe_placement_groups": 1, "list_schedules": 1}
    assert dict(asked[0]) == once
    assert dict(asked[1]) == {**once, "list_schedules": 2}, "a hundred by a page"


def test_runs_whose_machines_a_list_shows_are_not_asked_for_one_by_one(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 30, "on-demand", planned=True)
    assert len(fleet.sweep(dry_run=True)) == 30 and fleet.amazon.calls.total() == 4
    ended = [one for one in fleet.amazon.amazon.instances.values() if one.lease in fleet.names[:3]]
    for one in ended:
        fleet.amazon.amazon.terminate(one, "Client.InstanceInitiatedShutdown")
    found = fleet.sweep(dry_run=True)
    runs = [one.tags["sojourn:run"] for one in ended]
    assert {name for name, one in found.items() if one.action == "would close"} == {*runs}
    assert fleet.amazon.calls["describe_instances"] == 1 + 3, "what a list does not show as whole is looked at itself"


def test_what_is_over_is_ended_a_hundred_machines_by_a_call(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 230, "on-demand", over=210)
    found = fleet.sweep()
    assert [one.action for one in found.values()].count("ended") == 210
    assert fleet.standing() == set(fleet.names[210:])
    calls = fleet.amazon.calls
    assert calls["terminate_instances"] == 3, "a hundred of each, of the names that one filter takes"
    assert calls["delete_schedule"] == 210 and calls["get_schedule"] <= APART, "none removes many"
    assert calls["describe_instances"] <= 1 + 2 * -(-210 // NAMED_AT_ONCE) + 2


@pytest.mark.parametrize(
    ("code", "status", "most"), [("InvalidInstanceID.NotFound", 400, 30), ("OperationNotPermitted", 400, 30),
                                 ("InternalError", 500, 60)]
)  # fmt: skip
def test_one_that_cannot_be_ended_keeps_no_other_of_its_call_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, status: int, most: int
) -> None:
    monkeypatch.setattr("sojourn.run.reap.GONE_LIMIT_S", 0.0)
    fleet = Fleet(tmp_path, 60, "on-demand", over=50)
    (stubborn,) = [one for one in fleet.amazon.amazon.instances.values() if one.lease == fleet.names[17]]

    def refuse(action: str, what: dict[str, Any]) -> Exception | None:
        meant = action == "terminate_instances" and stubborn.identity in what["InstanceIds"]
        return refused(code, "TerminateInstances", status) if meant else None

    fleet.amazon.refuses = refuse
    found = fleet.sweep()
    assert fleet.standing() == {stubborn.lease, *fleet.names[50:]}
    assert found[stubborn.lease].action == "failed" and fleet.amazon.calls["terminate_instances"] <= most
    assert fleet.amazon.amazon.disarmed == set(), "a timer stays until its machine is gone"
    fleet.amazon.refuses = lambda action, what: None
    assert fleet.sweep()[stubborn.lease].action == "failed" and fleet.standing() == set(fleet.names[50:])


def test_a_copy_of_a_spot_machine_is_told_from_it_among_many_and_lives(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 30, over=5)
    amazon = fleet.amazon.amazon
    models = [one for one in amazon.instances.values() if one.lease in (fleet.names[2], fleet.names[20])]
    for model in models:
        amazon.run_instances("us-east-1", **{**model.call, "ClientToken": f"stranger-{model.identity}"})
    copies = {one.identity for one in amazon.instances.values() if one.is_strangers}
    for identity in copies:
        amazon.instances[identity].shown_at = 0.0
    assert copies <= fleet.sweep(dry_run=True).keys()
    assert fleet.amazon.calls["get_schedule"] == 2, "of those leases alone whose machines are doubtful"
    copies_of = {one.lease: one.identity for one in amazon.instances.values() if one.is_strangers}
    found = fleet.sweep()
    assert {found[one].action for one in copies} == {"left"}
    assert {one.identity for one in amazon.billable() if one.is_strangers} == copies
    assert [one.action for one in found.values()].count("ended") == 5
    again = fleet.sweep()
    assert fleet.names[2] in again[copies_of[fleet.names[2]]].reason, "a lease is told from its copy by their ages"


def test_a_tag_that_is_no_number_costs_no_other_lease(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 4, over=2)
    for name, value in (("sojourn:deadline", "soon"), ("sojourn:nodes", "\u0663"), ("sojourn:grace", "9" * 400)):
        (one,) = [one for one in fleet.amazon.amazon.instances.values() if one.lease == fleet.names[3]]
        before = dict(one.tags)
        one.tags[name] = value
        found = fleet.sweep(dry_run=True)
        assert [found[name].action for name in fleet.names] == ["would end", "would end", "left", "left"]
        one.tags.update(before)
