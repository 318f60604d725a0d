"""Whoever dies, the machines are gone by the deadline, and the run is continued from where it stood."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_world import Cli, World
from wheels import make_wheel

from cli.progress import SilentListener
from cli.world import prepare_plan
from sojourn.errors import ExitCode, SupersededError
from sojourn.plan.planning import Plan
from sojourn.protocol import Order
from sojourn.providers.contract import Request
from sojourn.providers.local import LocalProvider
from sojourn.results.report import Report
from sojourn.run.journey import Journey, walk
from sojourn.store.mailbox import Mailbox

pytestmark = pytest.mark.local

LATE_S = 6.0  # beyond deadline and grace, on a busy host

# Forks twice, leaves its session, drops its environment and ignores every polite signal.
DAEMON = """
    import os, pathlib, signal, subprocess, sys, time

    signs = pathlib.Path({signs!r})
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            write = "import pathlib, time\\nfor n in range(1200):\\n"
            write += " pathlib.Path({beat!r}).write_text(str(n))\\n time.sleep(0.1)"
            os.execve(sys.executable, [sys.executable, "-c", write], {{}})
        os._exit(0)
    while not (signs / "beat").exists():
        time.sleep(0.02)
    (signs / "ready").touch()
    time.sleep({seconds})
"""


def daemon(world: World, seconds: float) -> None:
    signs = world.signs
    world.script(DAEMON.format(signs=str(signs), beat=str(signs / "beat"), seconds=seconds))


def assert_silent(world: World) -> None:
    """No process of the script writes any more, however well it hid."""
    before = (world.signs / "beat").read_text()
    time.sleep(0.4)
    assert (world.signs / "beat").read_text() == before
    assert not world.machines()


# -- a script that does not want to go --


def test_a_daemon_of_the_script_is_gone_after_a_normal_end(world: World) -> None:
    daemon(world, 0)
    done = world.train()

    assert done.returncode == 0, done.stderr
    assert_silent(world)


@pytest.mark.slow
def test_a_daemon_of_the_script_is_gone_after_a_stop(world: World) -> None:
    daemon(world, 120)
    cli = world.start_train("--grace", "3s")
    world.wait_for_file("ready")
    world.sojourn("stop", world.run())

    assert cli.wait() == ExitCode.STOPPED, cli.output
    assert_silent(world)


def test_a_daemon_of_the_script_is_gone_after_the_deadline(world: World) -> None:
    daemon(world, 120)
    done = world.train("--deadline", "5s", "--grace", "2s")

    assert done.returncode == ExitCode.SCRIPT_FAILED, done.stderr
    assert_silent(world)


# -- the deadline --


def kill_cli(world: World, cli: Cli) -> None:
    cli.kill()


def freeze_agent(world: World, cli: Cli) -> None:
    cli.kill()
    for pid in world.agents():
        os.kill(pid, signal.SIGSTOP)


def kill_agent(world: World, cli: Cli) -> None:
    cli.kill()
    for pid in world.agents():
        os.kill(pid, signal.SIGKILL)


def freeze_cli(world: World, cli: Cli) -> None:
    cli.signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    "harm", [freeze_agent, *(pytest.param(one, marks=pytest.mark.slow) for one in (kill_cli, kill_agent, freeze_cli))]
)
def test_the_deadline_is_kept_whoever_dies(world: World, harm: Callable[[World, Cli], None]) -> None:
    daemon(world, 120)
    cli = world.start_train("--deadline", "7s", "--grace", "2s")
    world.wait_for_file("ready")
    deadline_at = world.show()["plan"]["deadline_at"]
    assert world.agents() and world.supervisors()
    harm(world, cli)

    world.wait_until_empty(deadline_at + 2 + LATE_S - time.time())
    assert_silent(world)


@pytest.mark.slow
def test_a_frozen_agent_and_supervisor_are_ended_by_the_reaper(world: World) -> None:
    daemon(world, 120)
    cli = world.start_train("--deadline", "7s", "--grace", "2s")
    world.wait_for_file("ready")
    deadline_at = world.show()["plan"]["deadline_at"]
    cli.kill()
    for pid in world.machines():
        os.kill(pid, signal.SIGSTOP)
    early = world.sojourn("reap", "--json")
    assert early.returncode == 0, early.stderr
    (left,) = json.loads(early.stdout)
    assert left["action"] == "left" and "goes on" in left["reason"]

    time.sleep(max(0.0, deadline_at + 2 + 15.5 - time.time()))
    assert world.supervisors()
    standing = set(world.machines())
    would = world.sojourn("reap", "--dry-run")
    assert would.returncode == 0 and "would end" in would.stdout, would.stdout
    assert set(world.machines()) == standing

    reaped = world.sojourn("reap")
    assert reaped.returncode == 0, reaped.stdout + reaped.stderr
    assert "ended" in reaped.stdout and "closed" in reaped.stdout
    assert_silent(world)
    assert world.show()["receipt"]["state"] == "closed"
    assert "Nothing stands" in world.sojourn("reap").stdout


# -- kill -9 of the command --

MOMENTS = ["planned", "opened", "intent", "created", "hello", "ordered", "running", "outcome", "release", "gone"]
RARELY = {"planned", "opened", "created", "hello", "ordered", "outcome", "release"}  # others stand for them


@pytest.mark.parametrize(
    "moment", [pytest.param(one, marks=pytest.mark.slow) if one in RARELY else one for one in MOMENTS]
)
def test_a_killed_command_is_continued_by_attach(world: World, moment: str) -> None:
    world.script_that_waits()
    if moment in ("outcome", "release", "gone"):
        (world.signs / "go").touch()
    if moment == "gone":  # enough to bring home that the command is killed in the middle of it
        world.script(
            """
            for n in range(500):
                open(f"part-{n}.txt", "w").write("x" * n)
            open("model.txt", "w").write("weights")
            """
        )
    cli = world.start_train("--deadline", "60s", "--grace", "2s")
    world.wait_until(moment)
    cli.kill()
    assert "closed" not in world.kinds()
    (world.signs / "go").touch()

    attached = world.sojourn("attach", world.run(), "--take-over")
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert (world.project / "model.txt").read_text() == "weights"
    assert world.kinds()[-1] == "closed" and world.kinds().count("intent") == 1
    assert world.show()["receipt"]["state"] == "closed"
    assert len(world.leases()) == 1
    assert not world.machines()
    assert all((world.project / f"part-{n}.txt").stat().st_size == n for n in range(500 if moment == "gone" else 0))


@pytest.mark.parametrize("moment", ["ready", pytest.param("opened", marks=pytest.mark.slow)])
def test_a_run_whose_directory_was_moved_is_continued_or_told_where_it_needs_its_files(
    world: World, moment: str
) -> None:
    make_wheel(world.project / "wheels", "tiny", "1.0")
    world.script("--no-index\n--find-links wheels\ntiny\n", "requirements.txt")
    world.script_that_waits()
    cli = world.start_train("--deadline", "60s", "--grace", "2s")
    world.wait_for_file("ready") if moment == "ready" else world.wait_until("opened")
    cli.kill()
    world.project.rename(world.root / "moved")
    (world.signs / "go").touch()

    attached = world.sojourn("attach", world.run(), "--take-over", cwd=world.root)

    if moment == "ready":
        assert attached.returncode == 0, attached.stdout + attached.stderr
        assert f"get the results: sojourn pull {world.run()} --to DIR" in attached.stdout
    else:
        assert attached.returncode == ExitCode.BAD_INPUT and f"in {world.project}, which is not here" in attached.stderr
        assert f"sojourn stop {world.run()}" in attached.stderr


@pytest.mark.slow
def test_attach_waits_for_three_heartbeats_and_then_takes_a_dead_owners_run(world: World) -> None:
    world.script_that_waits()
    cli = world.start_train("--deadline", "90s")
    world.wait_for_file("ready")
    refused = world.sojourn("attach", world.run())
    assert refused.returncode == ExitCode.INFRASTRUCTURE and "alive" in refused.stderr
    cli.kill()
    (world.signs / "go").touch()

    attached = world.sojourn("attach", world.run())
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert (world.project / "model.txt").exists()
    again = world.sojourn("attach", world.run())
    assert again.returncode == 0 and "home already" in again.stdout


@pytest.mark.slow
def test_a_run_that_nobody_continues_ends_by_itself_and_comes_home_later(world: World) -> None:
    world.script("open('model.pt', 'w').write('weights')\nimport time\ntime.sleep(120)")
    cli = world.start_train("--deadline", "15s", "--grace", "2s")  # time enough to start, on a busy host
    world.wait_until("running")
    cli.kill()
    world.wait_until_empty()

    attached = world.sojourn("attach", world.run(), "--take-over")
    assert attached.returncode == ExitCode.SCRIPT_FAILED and "deadline" in attached.stderr
    assert (world.project / "runs" / world.run() / "model.pt").read_text() == "weights"
    assert world.show()["receipt"]["state"] == "closed"


@pytest.mark.slow
def test_of_two_that_attach_at_once_one_brings_the_run_home(world: World) -> None:
    world.script_that_waits()
    cli = world.start_train("--deadline", "60s")
    world.wait_for_file("ready")
    cli.kill()
    both = [world.start("attach", world.run(), "--take-over") for _ in range(2)]
    world.wait(lambda: world.kinds().count("takeover") >= 1)
    time.sleep(1.0)
    (world.signs / "go").touch()

    codes = sorted(one.wait(120) for one in both)
    assert codes == [0, ExitCode.INFRASTRUCTURE], [one.output for one in both]
    assert any("taken over by" in one.output for one in both)
    assert world.kinds().count("closed") == 1 and len(world.leases()) == 1


# -- terms: an owner that was away too long --


class Paused(LocalProvider):
    """Stops before or after one of its calls until it is told to go on."""

    def __init__(self, home: Path, at: str) -> None:
        super().__init__(home)
        self.at = at
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        self.released: list[str] = []

    def create(self, request: Request) -> None:
        self._pause("before create")
        super().create(request)
        self._pause("after create")

    def release(self, name: str) -> bool:
        self._pause("before release")
        self.released.append(name)
        return super().release(name)

    def _pause(self, here: str) -> None:
        if here == self.at and not self.arrived.is_set():
            self.arrived.set()
            assert self.go_on.wait(120)


class PausedMailbox(Mailbox):
    """Stops before it posts the order."""

    def __init__(self, mailbox: Mailbox, provider: Paused) -> None:
        super().__init__(mailbox.store, mailbox.project, mailbox.run)
        self._provider = provider

    def post_order(self, order: Order) -> None:
        self._provider._pause("before the order")
        super().post_order(order)


class Owner(threading.Thread):
    """One orchestrator, walking a run's whole way in a thread."""

    def __init__(self, journey: Journey, take_over: bool = False) -> None:
        super().__init__(daemon=True)
        self.journey = journey
        self.report: Report | None = None
        self.error: BaseException | None = None
        self._take_over = take_over

    def run(self) -> None:
        try:
            self.report = walk(self.journey, take_over=self._take_over)
        except BaseException as error:
            self.error = error

    def end(self, seconds: float = 120.0) -> None:
        self.join(seconds)
        assert not self.is_alive()


@pytest.fixture
def here(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The world as this process's own surroundings."""
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.project)
    yield world


def plan_for(world: World) -> Plan:
    flags = {"command": ("python", "train.py"), "deadline": "60s", "grace": "2s"}
    return prepare_plan(world.project, flags, None, False)


PAUSES = ["before create", "after create", "before the order", "before release"]


@pytest.mark.parametrize(
    ("at", "by"),
    [*((at, "take over") for at in PAUSES), ("before create", "dead heartbeat"), ("before release", "dead heartbeat")],
)
def test_an_owner_that_comes_back_after_a_takeover_does_nothing_more(here: World, at: str, by: str) -> None:
    here.script("open('model.txt', 'w').write('weights')")
    plan = plan_for(here)
    mailbox, slow = Mailbox(here.store, plan.project, plan.run), Paused(here.home, at)
    first = Owner(Journey.begin(plan, PausedMailbox(mailbox, slow), slow, here.home, SilentListener(), owner="first"))
    first.journey.ledger.beat_every_s = 3600  # one heartbeat, and then as good as dead
    first.start()
    assert slow.arrived.wait(60)

    prompt = Paused(here.home, "never")
    second = Owner(
        Journey(plan, mailbox, prompt, here.home, SilentListener(), owner="second"), take_over=by == "take over"
    )
    second.journey.ledger.beat_every_s = 0.2
    second.start()
    second.end()
    assert second.error is None and second.report is not None, second.error
    assert second.report.state == "succeeded" and second.report.receipt == "closed"

    slow.go_on.set()
    first.end()
    assert isinstance(first.error, SupersededError), first.error
    assert "second" in first.error.message
    assert slow.released == ([] if at != "before release" else here.leases())
    assert len(here.leases()) == 1 and not here.machines()
    kinds = here.kinds()
    assert kinds.count("intent") == 1 and kinds.count("closed") == 1 and kinds[-1] == "closed"


class Wordless(LocalProvider):
    """Rents, and then fails in a way that nobody foresaw and that says nothing about itself."""

    def create(self, request: Request) -> None:
        super().create(request)
        raise AssertionError


def test_an_error_without_a_word_before_the_order_gives_the_machines_back(here: World) -> None:
    here.script("print('hello')")
    plan = plan_for(here)
    mailbox = Mailbox(here.store, plan.project, plan.run)
    owner = Owner(Journey.begin(plan, mailbox, Wordless(here.home), here.home, SilentListener()))
    owner.start()
    owner.end()
    assert isinstance(owner.error, AssertionError) and not str(owner.error)
    assert not here.machines()
    report = mailbox.read("report", Report)
    assert report is not None and (report.state, report.receipt) == ("lost", "closed")
    assert report.message.startswith(f"a fault of Sojourn itself: AssertionError; all of it: {here.home}/faults/")


def test_a_create_that_comes_late_starts_nothing(here: World) -> None:
    here.script("print('hello')")
    done = here.train()
    assert done.returncode == 0, done.stderr
    (intent,) = [entry for entry in here.ledger() if entry.kind == "intent"]

    LocalProvider(here.home).create(intent.body["request"])
    with contextlib.suppress(AssertionError):
        here.wait(here.machines, 1.0)
    assert not here.machines() and len(here.leases()) == 1
