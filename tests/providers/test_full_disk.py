"""A disk without a byte left keeps no machine alive: what is dead and gone comes first, what is written last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.contract.provider", "tests.providers.local_world")

from small_disk import fill, small_disk  # noqa: E402

from cli.progress import SilentListener  # noqa: E402
from sojourn.agent.pack import pack  # noqa: E402
from sojourn.errors import FullError, TransientError  # noqa: E402
from sojourn.plan.planning import Plan  # noqa: E402
from sojourn.providers.local import LocalProvider  # noqa: E402
from sojourn.renting import Boot, Lease, Machine  # noqa: E402
from sojourn.run.journey import Journey  # noqa: E402
from sojourn.store.mailbox import Mailbox  # noqa: E402
from sojourn.store.purge_mark import purging  # noqa: E402
from sojourn.store.storage import Store  # noqa: E402
from tests.contract.provider import NAME, ProviderCase  # noqa: E402
from tests.providers.local_world import LocalWorld, state_of  # noqa: E402

pytestmark = [pytest.mark.local, pytest.mark.root]
ISOLATIONS = pytest.mark.parametrize("isolation", ["namespace", "subreaper"])
GOLDEN = Path(__file__).parents[1] / "golden" / "plan.json"


class Machines(ProviderCase):
    """Machines with a stand-in for their agent."""

    def boot(self, deadline_at: float, nodes: int = 1, attempt: int = 1) -> Boot:
        return super().boot(deadline_at, nodes, attempt).model_copy(update={"variables": ("STANDIN*",)})


class TestFullDisk(Machines):
    """The disk that holds the machines is full."""

    @pytest.fixture
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorld]:
        with small_disk(tmp_path / "disk") as disk:
            world = LocalWorld(disk / "data")
            world.starts = tmp_path / "starts"
            monkeypatch.setenv("STANDIN_STARTS", str(world.starts))
            world.home.mkdir(parents=True)
            yield world
            world.clean()

    @pytest.fixture
    def start(self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
        def run(verb: str, isolation: Any, seconds: float = 60.0) -> Path:
            monkeypatch.setenv("STANDIN", verb)
            world.isolation = isolation
            provider = world.provider()
            provider.create(provider.request(self.boot(time.time() + seconds), self.offer(provider)))
            folder = provider.machines / str(NAME) / "0"
            world.wait(lambda: (folder / "work" / "ready").exists())
            return folder

        return run

    @ISOLATIONS
    def test_what_fills_it_ends_at_the_deadline_and_makes_room(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        folder = start("evil 3", isolation, seconds=2.0)
        fill(folder / "work" / "ballast")
        world.wait(lambda: world.alive() == {}, 20)
        world.wait(lambda: not (folder / "work").exists())
        assert self.states(world) == {"gone"} and (folder / "ended.json").exists()
        assert not list(folder.parent.rglob(".*.json.*")), "no half file stays"

    @ISOLATIONS
    def test_what_fills_it_ends_by_release_though_agent_and_supervisor_are_frozen(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        folder = start("evil 3", isolation)
        for pid in world.alive("--agent"):
            os.kill(pid, signal.SIGSTOP)
        fill(folder / "work" / "ballast")
        assert world.provider().release(str(NAME)) is True
        assert world.alive() == {} and not (folder / "work").exists()
        assert (folder.parent / "release.json").exists() and not list(folder.parent.rglob(".*.json.*"))

    def test_a_release_on_a_disk_that_others_fill_ends_all_the_same(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("evil 3", "subreaper")
        fill(world.home.parent / "ballast")
        with pytest.raises(Exception, match="No space left"):
            world.provider().release(str(NAME))
        assert world.alive() == {} and not (folder / "work").exists()
        assert not list(folder.parent.rglob(".*.json.*"))
        (world.home.parent / "ballast").unlink()
        assert world.provider().release(str(NAME)) is True and self.states(world) == {"gone"}


class TestKept(Machines):
    """What the store may not have is not thrown away while there is room for it."""

    @pytest.fixture
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorld]:
        world = LocalWorld(tmp_path / "data")
        monkeypatch.setenv("STANDIN_STARTS", str(world.starts))
        world.home.mkdir(parents=True)
        yield world
        world.clean()

    def result(self, world: LocalWorld, verb: str, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Path:
        """A machine whose script has written a result."""
        monkeypatch.setenv("STANDIN", verb)
        provider = world.provider()
        provider.create(provider.request(self.boot(time.time() + seconds), self.offer(provider)))
        folder = provider.machines / str(NAME) / "0"
        world.wait(lambda: (folder / "work" / "ready").exists())
        tree = folder / "work" / "outer" / "inner" / "tree"
        tree.mkdir(parents=True)
        (tree / "model.pt").write_text("weights")
        return folder

    def test_of_an_agent_that_hung_until_the_end(self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.result(world, "evil 1", monkeypatch, 2.0)
        world.wait(lambda: (folder / "ended.json").exists())
        assert (folder / "kept" / "model.pt").read_text() == "weights" and not (folder / "work").exists()
        machine = self.lease(world).machines[0]
        assert machine.kept == str(folder / "kept")
        world.wait(lambda: self.states(world) == {"gone"})

    def test_of_one_that_says_that_the_store_did_not_take_all(
        self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = self.result(world, "exit 3", monkeypatch, 60.0)
        (folder / "end").touch()
        world.wait(lambda: (folder / "ended.json").exists())
        assert (folder / "kept" / "model.pt").exists()

    def test_and_not_of_one_whose_last_words_are_stored_or_that_was_given_back(
        self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = self.result(world, "exit 0", monkeypatch, 60.0)
        (folder / "end").touch()
        world.wait(lambda: (folder / "ended.json").exists())
        assert not (folder / "kept").exists() and not (folder / "work").exists()

    def test_of_one_whose_supervisor_was_killed(self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = self.result(world, "sleep", monkeypatch, 60.0)
        os.kill(int(str(state_of(folder)["pid"])), signal.SIGKILL)
        world.wait(lambda: world.alive() == {})
        assert world.provider().release(str(NAME)) is True
        assert (folder / "kept" / "model.pt").exists() and self.lease(world).machines[0].ended_by == "killed"


class TestStillborn(Machines):
    @pytest.fixture
    def world(self, tmp_path: Path) -> LocalWorld:
        return LocalWorld(tmp_path / "data")

    def test_a_supervisor_that_was_killed_before_its_first_word_is_not_waited_for(self, world: LocalWorld) -> None:
        provider = world.provider()
        request = provider.request(self.boot(time.time() + 600), self.offer(provider))
        folder = provider.machines / str(NAME)
        provider._write_down(folder, request)
        assert self.states(world) == {"starting"}
        os.utime(folder / "0" / "boot.json", (time.time() - 30, time.time() - 30))
        (machine,) = self.lease(world).machines
        assert (machine.state, machine.ended_by) == ("gone", "killed")


def test_a_rank_on_a_full_disk_prints_and_ends_as_it_would(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        fill(disk / "ballast")
        program = str(pack().install(tmp_path / "program"))
        words = [sys.executable, "-I", "-S", program, "rank", "--record", str(disk / "ranks"), "--"]
        done = subprocess.run([*words, "sh", "-c", "echo trained; exit 7"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (7, "trained\n"), done.stderr


def test_a_purge_makes_room_on_a_store_that_has_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = Store((disk / "store").as_uri())
        store.put("control/digits/blob/a", bytes(1000))
        fill(disk / "ballast")
        with pytest.raises(FullError):
            store.put("control/digits/blob/b", bytes(100_000))
        with purging(store, "digits") as renew:
            with pytest.raises(TransientError, match="another `sojourn purge`"), purging(store, "digits"):
                pass
            renew()
            store.delete("control/digits/blob/a")
            renew()
        assert store.keys("control") == []


class Cloud(LocalProvider):
    """One machine, which goes when it is asked to."""

    def __init__(self, home: Path, name: str) -> None:
        super().__init__(home)
        self.lease_name, self.released = name, 0

    def observe(self, name: str) -> Lease | None:
        state: Any = "gone" if self.released else "running"
        machine = Machine(name=f"{self.lease_name}-n0", state=state, created_at=time.time())
        ends = time.time() + 600
        return Lease(name=name, project="digits", run="r", attempt=1, deadline_at=ends, machines=(machine,))

    def release(self, name: str) -> bool:
        self.released += 1
        return True


def test_a_run_that_is_stopped_at_once_on_a_full_store_gives_its_machine_back_first(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = Store((disk / "store").as_uri())
        plan = Plan.model_validate_json(GOLDEN.read_bytes())
        launch = plan.launch.model_copy(update={"nodes": 1})
        plan = plan.model_copy(
            update={"store": store.url, "created_at": time.time(), "deadline_at": time.time() + 600, "launch": launch}
        )
        cloud = Cloud(tmp_path, "lease")
        mailbox = Mailbox(store, plan.project, plan.run, plan.place)
        journey = Journey.begin(plan, mailbox, cloud, tmp_path, SilentListener())
        journey.ledger.join()
        journey.ledger.append("intent", attempt=1, offer=0, name="lease", request={"token": "lease"})
        journey.ledger.append("created", name="lease")
        journey.ledger.append("ordered", attempt=1, machines={})
        fill(disk / "ballast")
        said: list[str] = []
        orchestrator = journey.orchestrator
        orchestrator.warn = said.append
        orchestrator.stop_for = "Ctrl-C"
        seen = orchestrator._look(orchestrator.state)
        assert seen.stop is not None and "the store is full" in said[0] and "the machines end within" in said[0]
        orchestrator.release_now = True
        with pytest.raises(FullError):
            orchestrator._drive(lambda state: state.outcome is not None)
        assert cloud.released == 1
        (disk / "ballast").unlink()
        orchestrator._drive(lambda state: state.outcome is not None)
        assert orchestrator.state.outcome is not None and orchestrator.state.outcome.state == "stopped"


def test_first_words_that_are_lost_or_none_are_told_and_break_nothing(tmp_path: Path) -> None:
    store = Store((tmp_path / "store").as_uri())
    plan = Plan.model_validate_json(GOLDEN.read_bytes())
    launch = plan.launch.model_copy(update={"nodes": 1})
    times = {"created_at": time.time(), "deadline_at": time.time() + 600}
    plan = plan.model_copy(update={"store": store.url, "launch": launch, **times})
    mailbox = Mailbox(store, plan.project, plan.run)
    journey = Journey.begin(plan, mailbox, Cloud(tmp_path, "lease"), tmp_path, SilentListener())
    said: list[str] = []
    journey.orchestrator.warn = said.append
    journey.orchestrator._tell_machines(1)
    assert "gone from the store" in said[0]
    store.put(f"{mailbox.machine}/1/0/hello.json", b"garbage")
    assert journey.orchestrator._hellos(1) == ()
