"""The kinds of machines that an agent may run on, and what each answers."""

from __future__ import annotations

import pytest

from sojourn.agent.clouds.machine import Container, Machine
from sojourn.agent.clouds.registry import MACHINES, open_machine
from sojourn.agent.errors import Refused


def test_this_host_is_nobody_s_to_take_and_its_user_s_environment_holds_the_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "t-1")
    machine = open_machine(None)
    assert (type(machine), machine.identity(), machine.notice(), machine.whole) == (Machine, None, None, False)
    assert machine.asked_to_end == "stopped"
    assert machine.secrets(["TOKEN"], {}, lambda: None) == {"TOKEN": "t-1"}
    with pytest.raises(Refused, match="the secret OTHER is not set on this machine"):
        machine.secrets(["TOKEN", "OTHER"], {}, lambda: None)


def test_a_container_has_environment_variables_alone_and_is_asked_to_end_by_its_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOSTNAME", "trainer-0")
    monkeypatch.setenv("TOKEN", "t-2")
    machine = open_machine("container")
    assert isinstance(machine, Container) and machine.identity() == "trainer-0" and machine.whole
    assert machine.asked_to_end == "preempted" and machine.notice() is None
    assert machine.secrets(["TOKEN"], {}, lambda: None) == {"TOKEN": "t-2"}


def test_a_machine_of_amazons_that_names_no_secret_asks_nobody_for_one() -> None:
    machine = open_machine("ec2")
    assert machine.whole and machine.asked_to_end == "preempted" and machine.secrets([], {}, lambda: None) == {}


def test_a_kind_that_this_agent_does_not_know_is_refused_by_name() -> None:
    assert set(MACHINES) == {None, "container", "ec2"}
    with pytest.raises(Refused, match="no machine of the kind 'gce'"):
        open_machine("gce")
