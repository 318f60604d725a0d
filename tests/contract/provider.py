"""What every provider must do, whatever it rents; `docs/architecture.md` says why.

Inherit `ProviderContract`, name the module and the golden file, and give a `world`: what
the provider acts on, real (processes) or a stand-in with state at the vendor's wire. The
tests speak to the provider only through its six verbs, and to the world to ask what
stands there and to break things.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from sojourn.errors import SojournError, SpecError
from sojourn.names import LeaseName
from sojourn.providers.contract import Provider, Request
from sojourn.renting import Boot, Lease, Need, Offer

SECRET = "hunter2-is-nobodys-business"
SDKS = ("prefect", "boto3", "botocore", "google", "googleapiclient", "kubernetes", "azure", "dvc", "torch", "requests")
NAME = LeaseName("quiet-heron-7f3a", 1)


class World(Protocol):
    """What a provider acts on, and how to break it."""

    def provider(self) -> Provider:
        """A new provider over this world, as another process would have it."""
        ...

    def now(self) -> float:
        """The time by which deadlines are judged here."""
        ...

    def wait(self, done: Callable[[], bool]) -> None:
        """Let time pass until `done`; fail when it takes far too long."""
        ...

    def settle(self) -> None:
        """Let whatever is in flight come out."""
        ...

    def billable(self) -> int:
        """How many machines cost money now."""
        ...

    def rented(self) -> int:
        """How many machines have ever been started."""
        ...

    def end_machines(self, name: str) -> None:
        """Let the scripts of this lease end by themselves."""
        ...

    def create_and_lose_the_response(self, request: Request) -> None:
        """The create takes effect; whoever sent it dies before hearing so."""
        ...

    def create_twice_at_once(self, request: Request) -> None:
        """Two orchestrators send the same create at the same moment."""
        ...

    def half_make(self, request: Request) -> None:
        """What a create leaves that died on its way; machines may have started, and not be all that there is to be."""
        ...

    def exhaust(self, request: Request, after: int) -> None:
        """Only `after` machines of this request can be had."""
        ...

    def add_strangers(self) -> None:
        """Things of other people, some with names much like ours."""
        ...

    def strangers_untouched(self) -> bool: ...

    def written(self) -> bytes:
        """Everything that left the house: recorded calls, files on disk."""
        ...


class ProviderCase:
    """The tools of the contract, also for a provider's own tests; inherit, and give the fixture `world`."""

    grace_s = 1.0

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    @pytest.fixture
    def provider(self, world: World) -> Provider:
        return world.provider()

    @pytest.fixture
    def request_for(self, world: World, provider: Provider) -> Callable[..., Request]:
        """Makes the request for a lease of `nodes` machines that may live for `seconds`."""

        def make(nodes: int = 1, seconds: float = 60.0, attempt: int = 1) -> Request:
            return provider.request(
                self.boot(world.now() + seconds, nodes, attempt), provider.offers(self.need(nodes=nodes)).fitting[0]
            )

        return make

    def boot(self, deadline_at: float, nodes: int = 1, attempt: int = 1) -> Boot:
        return Boot(
            store="file:///store",
            project="digits",
            run=NAME.run,
            place="0123456789abcdef0123456789abcdef",
            attempt=attempt,
            lease=str(LeaseName(NAME.run, attempt)),
            nodes=nodes,
            deadline_at=deadline_at,
            grace_s=self.grace_s,
        )

    @staticmethod
    def need(**what: Any) -> Need:
        return Need(project="digits", **what)

    @staticmethod
    def offer(provider: Provider) -> Offer:
        return Offer(provider=provider.name, machine="any", place="here", price=0.5, cpus=8, memory=2**34, gpus=("L4",))

    @staticmethod
    def lease(world: World) -> Lease:
        lease = world.provider().observe(str(NAME))
        assert lease is not None
        return lease

    @staticmethod
    def states(world: World) -> set[str]:
        lease = world.provider().observe(str(NAME))
        return {machine.state for machine in lease.machines} if lease else {"gone"}

    def wait_until_running(self, world: World) -> None:
        world.wait(lambda: self.states(world) == {"running"})

    @staticmethod
    def release(world: World) -> None:
        world.wait(lambda: world.provider().release(str(NAME)))

    def assert_rented_once(self, world: World) -> None:
        world.settle()
        assert (world.billable(), world.rented()) == (1, 1)


class ProviderContract(ProviderCase):
    """Inherit, and set `module` and `golden` too."""

    module: str
    golden: Path

    # -- the request is a pure value --

    def test_the_request_equals_its_golden_file(self, provider: Provider) -> None:
        expected = json.loads(self.golden.read_text(encoding="utf-8"))
        assert json.loads(json.dumps(provider.request(self.boot(2e9, nodes=2), self.offer(provider)))) == expected

    def test_the_request_is_the_same_in_a_replay(self, world: World) -> None:
        one, other = world.provider(), world.provider()
        assert one.request(self.boot(2e9), self.offer(one)) == other.request(self.boot(2e9), self.offer(other))

    def test_the_request_carries_name_project_run_and_deadline(self, provider: Provider) -> None:
        deadline = 2_000_000_000
        found = [str(leaf) for leaf in _leaves(provider.request(self.boot(deadline), self.offer(provider)))]
        for word in (str(NAME), "digits", NAME.run):
            assert any(word in leaf for leaf in found), word
        spellings = (str(deadline), datetime.fromtimestamp(deadline, UTC).isoformat()[:16])
        assert any(spelling in leaf for leaf in found for spelling in spellings)

    def test_nothing_exists_before_create(self, world: World, request_for: Callable[..., Request]) -> None:
        request_for(nodes=2)
        world.settle()
        assert world.billable() == world.rented() == 0

    def test_an_unknown_machine_is_refused_with_a_known_one(self, provider: Provider) -> None:
        with pytest.raises(SpecError, match=r"machine: .*(did you mean|known)"):
            provider.offers(self.need(machine="9xZ9000"))

    def test_offers_name_their_provider_and_come_cheapest_first(self, provider: Provider) -> None:
        offers = provider.offers(self.need()).fitting
        assert offers and {offer.provider for offer in offers} == {provider.name}
        assert [offer.price for offer in offers] == sorted(offer.price for offer in offers)

    def test_the_capability_names_a_layer_that_ends_the_billing(self, provider: Provider) -> None:
        assert provider.capability().provider == provider.name
        assert provider.capability().layers

    # -- create --

    def test_create_twice_rents_once(self, world: World, request_for: Callable[..., Request]) -> None:
        request = request_for()
        world.provider().create(request)
        world.provider().create(request)
        self.wait_until_running(world)
        world.provider().create(request)
        self.assert_rented_once(world)

    def test_create_at_once_from_two_processes_rents_once(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        world.create_twice_at_once(request_for())
        self.wait_until_running(world)
        self.assert_rented_once(world)

    def test_a_lost_create_response_does_not_rent_twice(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        request = request_for()
        world.create_and_lose_the_response(request)
        world.provider().create(request)
        self.wait_until_running(world)
        self.assert_rented_once(world)

    def test_a_half_made_lease_is_completed_by_the_same_create(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        request = request_for()
        world.half_make(request)
        world.provider().create(request)
        self.wait_until_running(world)
        self.assert_rented_once(world)

    def test_a_token_whose_machine_ended_is_an_ended_lease_and_starts_nothing(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        request = request_for()
        world.provider().create(request)
        self.wait_until_running(world)
        world.end_machines(str(NAME))
        world.wait(lambda: self.states(world) <= {"ended", "gone"})
        world.provider().create(request)
        world.settle()
        assert self.states(world) <= {"ended", "gone"}
        assert (world.billable(), world.rented()) == (0, 1)

    def test_nodes_appear_all(self, world: World, request_for: Callable[..., Request]) -> None:
        world.provider().create(request_for(nodes=3))
        self.wait_until_running(world)
        assert [machine.name for machine in self.lease(world).machines] == [NAME.machine(node) for node in range(3)]
        assert world.billable() == 3

    def test_nodes_appear_none_when_one_cannot_be_had(self, world: World, request_for: Callable[..., Request]) -> None:
        request = request_for(nodes=3)
        world.exhaust(request, after=2)
        with pytest.raises(SojournError):
            world.provider().create(request)
        world.wait(lambda: world.billable() == 0)

    # -- observe --

    def test_a_lease_never_made_is_none(self, provider: Provider) -> None:
        assert provider.observe(str(NAME)) is None

    def test_a_lease_tells_what_it_was_asked_for(self, world: World, request_for: Callable[..., Request]) -> None:
        request = request_for(seconds=60)
        world.provider().create(request)
        self.wait_until_running(world)
        lease = self.lease(world)
        assert (lease.name, lease.project, lease.run, lease.attempt) == (str(NAME), "digits", NAME.run, 1)
        assert lease.deadline_at == pytest.approx(world.now() + 60, abs=30)
        assert lease.machines[0].identity is not None
        assert lease.machines[0].created_at == pytest.approx(world.now(), abs=30)

    def test_nothing_but_release_ever_waits(
        self, world: World, request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        request = request_for()
        provider = world.provider()

        sleep, here = time.sleep, threading.current_thread()

        def refuse(seconds: float) -> None:
            assert threading.current_thread() is not here, f"slept {seconds} s"
            sleep(seconds)

        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", refuse)
            provider.create(request)
            began = time.monotonic()
            provider.observe(str(NAME))
            provider.leases()
        assert time.monotonic() - began < 1.0

    # -- release --

    def test_release_ends_the_lease(self, world: World, request_for: Callable[..., Request]) -> None:
        world.provider().create(request_for(nodes=2))
        self.wait_until_running(world)
        self.release(world)
        assert world.billable() == 0
        assert self.states(world) <= {"gone"}
        assert world.provider().leases() == []

    def test_what_was_released_says_when_and_by_which_layer(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        world.provider().create(request_for())
        self.wait_until_running(world)
        self.release(world)
        lease = world.provider().observe(str(NAME))
        if lease is not None:  # a vendor may forget at once what is gone
            assert lease.machines[0].ended_by == "release"
            assert lease.machines[0].ended_at == pytest.approx(world.now(), abs=30)

    def test_release_twice_is_true(self, world: World, request_for: Callable[..., Request]) -> None:
        world.provider().create(request_for())
        self.release(world)
        assert world.provider().release(str(NAME)) is True

    def test_release_of_the_never_created_is_true(self, world: World) -> None:
        assert world.provider().release(str(NAME)) is True
        assert self.states(world) <= {"gone"}
        assert world.provider().leases() == []

    def test_many_leases_are_released_at_once_and_each_has_its_answer(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        for attempt in (1, 2):
            world.provider().create(request_for(attempt=attempt))
        self.wait_until_running(world)
        names = [str(LeaseName(NAME.run, attempt)) for attempt in (2, 3, 1)]
        answers: list[list[bool | Exception]] = []
        world.wait(lambda: answers.append(world.provider().release_all([*names, "somebody-elses"])) or all(answers[-1]))
        assert answers[-1] == [True] * 4 and world.billable() == 0 and world.provider().leases() == []
        assert not any(isinstance(one, Exception) for said in answers for one in said)
        assert world.provider().release_all([]) == []

    def test_a_stale_create_after_release_starts_nothing(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        request = request_for(nodes=2)
        self.release(world)
        world.provider().create(request)
        world.settle()
        assert self.states(world) <= {"gone"}
        assert world.billable() == world.rented() == 0

    def test_release_right_after_create_leaves_nothing(self, world: World, request_for: Callable[..., Request]) -> None:
        world.provider().create(request_for(nodes=2))
        self.release(world)
        world.settle()
        assert world.billable() == 0
        assert self.states(world) <= {"gone"}

    def test_a_half_made_lease_is_shown_and_can_be_released(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        request = request_for()
        world.half_make(request)
        assert [lease.name for lease in world.provider().leases()] == [str(NAME)]
        self.release(world)
        assert world.provider().leases() == []
        started = world.rented()
        world.provider().create(request)
        world.settle()
        assert (world.billable(), world.rented()) == (0, started)

    # -- leases --

    def test_leases_shows_every_lease_that_stands(self, world: World, request_for: Callable[..., Request]) -> None:
        for attempt in (1, 2):
            world.provider().create(request_for(attempt=attempt))
        self.wait_until_running(world)
        self.release(world)
        assert [lease.name for lease in world.provider().leases()] == [str(LeaseName(NAME.run, 2))]

    def test_strangers_are_never_shown_and_never_touched(self, world: World) -> None:
        world.add_strangers()
        provider = world.provider()
        assert provider.leases() == []
        for name in ("sojourn", "my-data", f"{NAME}0", NAME.machine(0), "../..", ""):
            assert provider.observe(name) is None
            assert provider.release(name) is True
        assert world.strangers_untouched()

    # -- whatever dies --

    def test_the_machine_ends_at_deadline_and_grace_without_us(
        self, world: World, request_for: Callable[..., Request]
    ) -> None:
        world.provider().create(request_for(nodes=2, seconds=1.5))
        self.wait_until_running(world)
        deadline = self.lease(world).deadline_at
        world.wait(lambda: world.billable() == 0)
        assert deadline <= world.now() <= deadline + self.grace_s + 5
        world.wait(lambda: self.states(world) <= {"ended", "gone"})

    def test_a_create_after_the_deadline_costs_nothing(self, world: World, request_for: Callable[..., Request]) -> None:
        request = request_for(seconds=-60)
        with suppress(SojournError):
            world.provider().create(request)
        world.wait(lambda: world.billable() == 0)
        self.release(world)

    # -- secrets and imports --

    def test_no_secret_leaves_the_house(
        self, world: World, request_for: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", SECRET)
        request = request_for()
        world.provider().create(request)
        self.wait_until_running(world)
        self.release(world)
        assert SECRET not in json.dumps(request)
        assert world.written(), "nothing was recorded, so nothing was shown"
        assert SECRET.encode() not in world.written()

    def test_importing_the_module_imports_no_sdk(self) -> None:
        code = f"import sys, {self.module}; print(*sorted(set(sys.modules) & {set(SDKS)!r}))"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert answer.stdout.split() == []


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
