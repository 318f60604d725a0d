"""The local provider under the contract, and what only processes can do to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.contract.provider", "tests.providers.local_world")

from sojourn.agent.pack import pack  # noqa: E402
from sojourn.errors import CapacityError, SpecError  # noqa: E402
from sojourn.providers.contract import Request  # noqa: E402
from sojourn.providers.local import Isolation, LocalProvider  # noqa: E402
from sojourn.renting import Boot, GpuNeed, Need  # noqa: E402
from tests.contract.provider import NAME, ProviderCase, ProviderContract  # noqa: E402
from tests.providers.local_world import STANDIN, LocalWorld, state_of  # noqa: E402

pytestmark = pytest.mark.local
MakeRequest = Callable[..., Request]


class Processes:
    """The world of real processes, below a home with a hostile name."""

    isolation: Isolation | None = None

    @pytest.fixture
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorld]:
        world = LocalWorld(tmp_path / "a 'home' \"of\" Jürgen" / "data", self.isolation)
        monkeypatch.setenv("STANDIN_STARTS", str(world.starts))
        world.home.mkdir(parents=True)
        yield world
        world.clean()

    def boot(self, deadline_at: float, nodes: int = 1, attempt: int = 1) -> Boot:
        plain: Boot = super().boot(deadline_at, nodes, attempt)  # type: ignore[misc]
        return plain.model_copy(update={"variables": ("STANDIN*",)})


class TestContract(Processes, ProviderContract):
    module = "sojourn.providers.local"
    golden = Path(__file__).with_name("golden") / "local_request.json"


@pytest.mark.slow
class TestSubreaper(Processes, ProviderContract):
    """The contract again, on a host that allows no namespaces."""

    module = "sojourn.providers.local"
    golden = TestContract.golden
    isolation = "subreaper"


ISOLATIONS = pytest.mark.parametrize("isolation", ["namespace", "subreaper"])


def killed(world: LocalWorld, folder: Path) -> dict[str, object]:
    """The last state of a supervisor that was killed, and its namespace with it."""
    state = state_of(folder)
    os.kill(int(str(state["pid"])), signal.SIGKILL)
    world.wait(lambda: world.alive() == {})
    return state


class TestProcesses(Processes, ProviderCase):
    """What only real processes can do."""

    @pytest.fixture
    def start(self, world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
        """Starts one machine whose stand-in does `verb`; its directory, once the stand-in is ready."""

        def run(
            verb: str, isolation: Isolation | None = None, seconds: float = 60.0, ready: str = "work/ready"
        ) -> Path:
            monkeypatch.setenv("STANDIN", verb)
            world.isolation = isolation
            provider = world.provider()
            provider.create(provider.request(self.boot(time.time() + seconds), self.offer(provider)))
            folder = provider.machines / str(NAME) / "0"
            world.wait(lambda: (folder / ready).exists())
            return folder

        return run

    @pytest.fixture
    def innocent(self) -> Iterator[subprocess.Popen[bytes]]:
        """A process that is none of ours."""
        with subprocess.Popen(["sleep", "60"]) as innocent:
            time.sleep(0.02)  # start times are counted in hundredths of a second, and its own must differ
            yield innocent
            innocent.kill()

    @ISOLATIONS
    def test_a_hostile_script_with_20_daemons_is_dead_after_release(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        folder = start("evil 20", isolation)
        world.wait(lambda: len(world.alive("time.sleep(120)")) == 20)
        assert world.provider().release(str(NAME)) is True
        assert world.alive() == {}
        assert not (folder / "work").exists()

    @ISOLATIONS
    def test_a_hostile_script_with_20_daemons_is_dead_after_the_deadline(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        folder = start("evil 20", isolation, seconds=1.0)
        world.wait(lambda: (folder / "ended.json").exists())
        world.wait(lambda: world.alive() == {})
        ended = json.loads((folder / "ended.json").read_text())
        assert ended["by"] == "supervisor timer"
        assert ended["agent_exit_code"] == 128 + signal.SIGKILL
        assert ended["leftovers"] >= 21
        assert 0 <= ended["at"] - state_of(folder)["deadline_at"] < 30

    def test_a_machine_that_lives_is_ended_whatever_was_written_over_its_state(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("evil 3")
        (folder / "state.json").write_text('{"pid": -1, "created_at": "x"}')
        assert self.states(world) == {"running"}
        assert world.provider().release(str(NAME)) is True
        assert world.alive() == {}

    @ISOLATIONS
    def test_what_a_script_leaves_behind_is_killed_when_it_exits(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        start("leave 5", isolation, ready="ended.json")
        world.wait(lambda: self.states(world) == {"gone"})
        assert world.alive() == {}
        machine = self.lease(world).machines[0]
        assert machine.ended_by == "exit"

    def test_no_process_of_a_machine_keeps_a_key_of_the_terminal(
        self, world: LocalWorld, start: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-terminal")
        start("sleep")
        kept = [Path(f"/proc/{pid}/environ").read_bytes() for pid in world.alive()]
        assert len(kept) >= 2 and not any(b"of-the-terminal" in one for one in kept)
        assert all(b"STANDIN=sleep" in one and b"PATH=" in one for one in kept)

    @ISOLATIONS
    def test_daemons_that_emptied_their_environment_are_dead_after_release(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        start("bare 5", isolation)
        world.wait(lambda: len(world.alive("time.sleep(120)")) == 5)
        assert world.provider().release(str(NAME)) is True
        assert world.alive() == {}

    def test_a_killed_supervisor_takes_its_namespace_with_it(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("evil 20", "namespace")
        world.wait(lambda: len(world.alive("time.sleep(120)")) == 20)
        os.kill(int(str(state_of(folder)["pid"])), signal.SIGKILL)
        world.wait(lambda: world.alive() == {}, limit_s=1.0)
        assert self.states(world) == {"ended"}, "its scratch directory still stands"
        assert [lease.name for lease in world.provider().leases()] == [str(NAME)]
        assert world.provider().release(str(NAME)) is True
        assert self.lease(world).machines[0].ended_by == "killed"
        assert self.states(world) == {"gone"}

    def test_without_a_namespace_release_finds_what_a_killed_supervisor_left(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("evil 20", "subreaper")
        world.wait(lambda: len(world.alive("time.sleep(120)")) == 20)
        os.kill(int(str(state_of(folder)["pid"])), signal.SIGKILL)
        world.wait(lambda: self.states(world) == {"ended"})
        world.wait(lambda: len(world.alive("time.sleep(120)")) == 20)
        assert world.provider().release(str(NAME)) is True
        assert world.alive() == {}
        assert self.states(world) == {"gone"}

    def test_the_same_create_after_the_supervisor_was_killed_starts_nothing(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("sleep")
        os.kill(int(str(state_of(folder)["pid"])), signal.SIGKILL)
        world.wait(lambda: self.states(world) == {"ended"})
        world.provider().create(json.loads((folder.parent / "request.json").read_text()))
        world.wait(lambda: len(world.alive()) == 0)
        assert world.rented() == 1
        assert self.states(world) <= {"ended", "gone"}

    @ISOLATIONS
    def test_release_ends_a_supervisor_that_does_not_answer(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        folder = start("evil 3", isolation)
        os.kill(int(str(state_of(folder)["pid"])), signal.SIGSTOP)
        began = time.monotonic()
        assert world.provider().release(str(NAME)) is True
        assert 1.9 < time.monotonic() - began < 30
        assert world.alive() == {}
        assert self.states(world) == {"gone"}

    def test_a_supervisor_that_is_busy_removing_a_large_scratch_directory_is_left_to_it(
        self, world: LocalWorld, start: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sojourn.providers.local.RELEASE_WAIT_S", 0.1)
        folder = start("sleep")
        state = state_of(folder)
        os.kill(int(str(state["pid"])), signal.SIGSTOP)
        (folder / "state.json").write_text(json.dumps({**state, "ending_at": time.time()}))
        assert world.provider().release(str(NAME)) is False
        assert world.alive(" supervise ")
        assert [lease.name for lease in world.provider().leases()] == [str(NAME)]
        (folder / "state.json").write_text(json.dumps({**state, "ending_at": time.time() - 3600}))
        assert world.provider().release(str(NAME)) is True
        assert world.alive() == {}

    def test_a_pid_that_somebody_else_has_now_is_not_running_and_never_killed(
        self, world: LocalWorld, start: Callable[..., Path], innocent: subprocess.Popen[bytes]
    ) -> None:
        folder = start("sleep", "namespace")
        state = killed(world, folder)
        (folder / "state.json").write_text(json.dumps({**state, "pid": innocent.pid, "agent_pid": innocent.pid}))
        assert self.states(world) == {"ended"}
        assert world.provider().release(str(NAME)) is True
        assert self.states(world) == {"gone"}
        assert innocent.poll() is None

    def test_after_a_restart_of_the_host_nothing_runs_and_the_scratch_is_cleared(
        self, world: LocalWorld, start: Callable[..., Path], innocent: subprocess.Popen[bytes]
    ) -> None:
        folder = start("sleep", "namespace")
        state = killed(world, folder)
        born = Path(f"/proc/{innocent.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        same = {**state, "pid": innocent.pid, "start_time": born}
        (folder / "state.json").write_text(json.dumps(same))
        assert self.states(world) == {"running"}, "the check below would prove nothing"
        (folder / "state.json").write_text(json.dumps({**same, "boot_id": "another"}))
        assert self.states(world) == {"ended"}
        assert world.provider().release(str(NAME)) is True
        assert self.states(world) == {"gone"}
        assert self.lease(world).machines[0].ended_by == "restart of the host"

    def test_a_machine_of_another_host_on_a_shared_home_counts_as_running_until_its_deadline(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("sleep")
        world.provider().release(str(NAME))
        (folder / "ended.json").unlink()
        there = {**state_of(folder), "host": "elsewhere", "boot_id": "another"}
        (folder / "state.json").write_text(json.dumps(there))
        assert self.states(world) == {"running"}
        (folder / "state.json").write_text(json.dumps({**there, "deadline_at": time.time() - 3600}))
        assert self.states(world) == {"gone"}

    @ISOLATIONS
    def test_the_scratch_directory_goes_even_with_read_only_directories(
        self, world: LocalWorld, start: Callable[..., Path], isolation: str
    ) -> None:
        folder = start("readonly", isolation)
        assert world.provider().release(str(NAME)) is True
        assert not (folder / "work").exists()
        assert os.listdir("/"), "a link to / was followed"

    def test_a_removed_machine_directory_ends_the_machine_at_once(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        start("evil 5")
        shutil.rmtree(world.home)
        world.wait(lambda: world.alive() == {}, limit_s=3.0)

    def test_processes_whose_directory_is_missing_are_shown_and_can_be_released(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("evil 5", "subreaper")
        os.kill(int(str(state_of(folder)["pid"])), signal.SIGKILL)
        world.wait(lambda: self.states(world) == {"ended"})
        shutil.rmtree(world.home)
        (lease,) = world.provider().leases()
        assert (lease.name, lease.machines[0].state, lease.deadline_at) == (str(NAME), "running", 0.0)
        assert world.provider().release(str(NAME)) is True
        assert world.alive() == {}
        assert world.provider().leases() == []

    def test_the_processes_of_another_home_are_left_alone(
        self, world: LocalWorld, start: Callable[..., Path], tmp_path: Path
    ) -> None:
        start("sleep")
        other = LocalProvider(tmp_path / "other", STANDIN)
        assert other.leases() == []
        assert other.release(str(NAME)) is True
        assert self.states(world) == {"running"}

    def test_one_unreadable_directory_does_not_hide_the_others(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        start("sleep")
        for attempt, text in ((2, "not json"), (3, '{"machines": 7}')):
            folder = world.home / "machines" / str(type(NAME)(NAME.run, attempt))
            folder.mkdir()
            (folder / "request.json").write_text(text)
        leases = world.provider().leases()
        assert [(lease.attempt, lease.deadline_at > 0) for lease in leases] == [(1, True), (2, False), (3, False)]

    def test_a_machine_of_an_older_version_is_found_and_released(
        self, world: LocalWorld, request_for: MakeRequest
    ) -> None:
        """Its supervisor had another program and another command line; these files it wrote."""
        folder = world.home / "machines" / str(NAME)
        (folder / "0" / "work").mkdir(parents=True)
        (folder / "request.json").write_text(json.dumps(request_for()))
        mark = {"SOJOURN_MACHINE": f"{NAME}-n0", "SOJOURN_MACHINE_DIR": str(folder / "0")}
        with subprocess.Popen(["sleep", "60"], env={**os.environ, **mark}) as older:
            state = {
                "pid": older.pid,
                "start_time": Path(f"/proc/{older.pid}/stat").read_text().rsplit(")", 1)[1].split()[19],
                "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                "host": os.uname().nodename,
                "created_at": time.time(),
                "deadline_at": time.time() + 60,
                "agent_pid": older.pid,
                "isolation": "subreaper",
            }
            (folder / "0" / "state.json").write_text(json.dumps(state))
            assert self.states(world) == {"running"}
            assert [lease.name for lease in world.provider().leases()] == [str(NAME)]
            assert world.provider().release(str(NAME)) is True
            assert older.wait(5) == -signal.SIGKILL
        assert self.states(world) == {"gone"}
        assert state_of(folder / "0").keys() == state.keys()

    def test_what_a_machine_writes_about_itself_can_be_read_by_other_versions(self, start: Callable[..., Path]) -> None:
        names = {"pid", "start_time", "boot_id", "host", "created_at", "deadline_at", "agent_pid", "isolation"}
        assert state_of(start("sleep")).keys() == names

    def test_machines_share_one_program_by_its_hash_and_none_touches_it(
        self, world: LocalWorld, start: Callable[..., Path], request_for: MakeRequest
    ) -> None:
        start("sleep")
        (program,) = (world.home / "agent").iterdir()
        before = program.stat()
        assert program.name.startswith(pack().name.removesuffix(".pyz"))
        assert program == pack().install_compiled(world.home / "agent")
        world.provider().create(request_for(attempt=2))
        world.settle()
        assert len([line for line in world.alive(" supervise ").values() if str(program) in line]) == 2
        after = program.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert list((world.home / "agent").iterdir()) == [program]

    def test_a_create_killed_before_any_spawn_is_completed_by_a_reaper_or_a_replay(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        (world.home / "machines" / str(NAME)).mkdir(parents=True)
        (lease,) = world.provider().leases()
        assert (lease.name, lease.project, lease.deadline_at, lease.machines) == (str(NAME), "", 0.0, ())
        start("sleep")
        assert self.states(world) == {"running"}

    def test_a_supervisor_that_comes_after_release_starts_nothing(
        self, world: LocalWorld, request_for: MakeRequest
    ) -> None:
        """The creator was stopped between looking for the mark and starting the supervisor."""
        request = request_for()
        provider = world.provider()
        provider._write_down(provider.machines / str(NAME), request)
        assert provider.release(str(NAME)) is True
        (provider.machines / str(NAME) / "0" / "ended.json").unlink()
        provider._start_all(provider.machines / str(NAME), request["machines"])
        world.wait(lambda: world.alive() == {})
        assert not (provider.machines / str(NAME) / "0" / "state.json").exists()
        assert world.rented() == 0
        assert self.states(world) == {"gone"}

    def test_when_one_supervisor_cannot_start_the_others_end(self, world: LocalWorld, request_for: MakeRequest) -> None:
        class OneShort(LocalProvider):
            def _start(self, program: Path, node: Path, name: str) -> None:
                if node.name == "1":
                    raise BlockingIOError("Resource temporarily unavailable")
                super()._start(program, node, name)

        with pytest.raises(CapacityError):
            OneShort(world.home, STANDIN).create(request_for(nodes=2))
        assert world.alive() == {}
        assert self.states(world) == {"gone"}

    def test_another_request_under_the_same_token_is_refused(self, world: LocalWorld, request_for: MakeRequest) -> None:
        world.provider().create(request_for())
        with pytest.raises(SpecError, match="another request"):
            world.provider().create(request_for(seconds=600))

    def test_create_takes_less_than_a_tenth_of_a_second(self, world: LocalWorld, request_for: MakeRequest) -> None:
        took = []
        for attempt in range(5):
            request = request_for(attempt=attempt)
            began = time.monotonic()
            world.provider().create(request)
            took.append(time.monotonic() - began)
        assert min(took) < 0.1, took

    def test_the_machine_outlives_its_creator_and_its_session(
        self, world: LocalWorld, request_for: MakeRequest
    ) -> None:
        creator = world._creator(request_for())
        creator.wait()
        self.wait_until_running(world)
        pid = int(str(state_of(world.folders()[0])["pid"]))
        assert os.getsid(pid) not in (os.getsid(0), os.getsid(os.getpid()))
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        fds = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        home = str(world.provider().machines)
        assert all(fd == "/dev/null" or fd.startswith(home) for fd in fds), fds

    def test_forget_removes_only_what_has_been_gone_for_long(
        self, world: LocalWorld, start: Callable[..., Path]
    ) -> None:
        folder = start("sleep")
        provider = world.provider()
        assert provider.past(0.0) == [], "it still runs"
        world.add_strangers()
        provider.release(str(NAME))
        assert provider.past() == [], "thirty days are not over"
        assert provider.past(0.0) == [str(NAME)]
        provider.forget(str(NAME))
        assert not folder.parent.exists()
        assert world.strangers_untouched()


@pytest.mark.root
def test_an_ordinary_user_gets_a_namespace_where_the_host_allows_it() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become somebody else")
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    unshare = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    allowed = subprocess.run([*nobody, *unshare, "true"], capture_output=True).returncode == 0
    code = "from sojourn.agent.host.namespace import namespace; print(*namespace(None))"
    answer = subprocess.run([*nobody, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == (unshare if allowed else [])


def test_nvidia_gpus_are_named_by_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "NVIDIA L4"\necho "NVIDIA L4"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert LocalProvider(tmp_path).offers(Need()).fitting[0].gpus == ("NVIDIA L4", "NVIDIA L4")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert LocalProvider(tmp_path).offers(Need()).fitting[0].gpus == ()


def test_a_need_that_this_host_meets_is_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "NVIDIA L4"\necho "NVIDIA L4"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    need = Need(cpus=1, memory=10**6, gpu=GpuNeed(name="l4", count=2))
    assert [offer.machine for offer in LocalProvider(tmp_path).offers(need).fitting] == ["this-host"]


def test_a_size_that_this_host_satisfies_is_this_host_and_any_other_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # so that there is no nvidia-smi
    here = LocalProvider(tmp_path)
    assert [offer.machine for offer in here.offers(Need(machine="s")).fitting] == ["this-host"]
    more = {
        "l+t4": "machine: 'l+t4' is more than this host is: gpu: 4 × t4 asked for, and this host has none",
        "s+t4": "machine: 's+t4' has no GPU",
        "g6.xlarge": "machine: the local provider has no 'g6.xlarge'",
    }
    if (os.cpu_count() or 1) < 64:
        more["xl"] = "machine: 'xl' is more than this host is: cpus: this host has "
    for size, told in more.items():
        with pytest.raises(SpecError) as caught:
            here.offers(Need(machine=size))
        assert caught.value.message.startswith(told) and caught.value.hint


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (Need(gpu=GpuNeed(name="L4")), "gpu: 1 × L4 asked for, and this host has none"),
        (Need(gpu=GpuNeed(count=2)), "gpu: 2 × GPU asked for, and this host has none"),
        (Need(cpus=1024), r"cpus: this host has \d+, and 1024 are asked for"),
        (Need(memory=10**15), r"memory: this host has [\d.]+ GB, and 1,000,000.0 GB are asked for"),
        (Need(boot_image="ubuntu"), "boot_image: 'ubuntu' cannot be had on this host"),
        (Need(market="spot"), "market: 'spot' cannot be had on this host"),
        (Need(regions=("us-east-1",)), "regions: 'us-east-1' cannot be had on this host"),
        (Need(network="none"), "network: 'none' cannot be had on this host"),
    ],
)
def test_a_need_that_this_host_does_not_meet_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need: Need, message: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # so that there is no nvidia-smi
    with pytest.raises(SpecError, match=message) as caught:
        LocalProvider(tmp_path).offers(need)
    assert "--where aws" in (caught.value.hint or "")
