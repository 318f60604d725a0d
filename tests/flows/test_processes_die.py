"""Whatever happens to a flow run's process: what stands afterwards is seen by us, and closed by somebody.

docs/guarantee.md holds the table of all such cases. Each test looks at the processes of the
machine, not at our own records alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_world import Cli, World
from prefect_server import Server, wait
from prefect_world import assert_home, let_it_end, reap

from sojourn.errors import ExitCode

pytestmark = [pytest.mark.local, pytest.mark.timeout(300)]


def recorded(world: World, server: Server, *words: str) -> Cli:
    """`sojourn train` as a flow run of this server, its script running."""
    cli = world.start("train", *words, "--", "python", "train.py", PREFECT_API_URL=server.url)
    world.wait_for_file("ready", 150)
    world.wait_until("ordered")
    return cli


def state_of(world: World, server: Server) -> str:
    return str(server.flow_run(world.run())["state_type"])


# -- one process --


@pytest.mark.slow
def test_an_exception_in_a_task_leaves_the_run_to_the_reaper(world: World, server: Server) -> None:
    cli = recorded(world, server)
    mailbox = world.mailbox()
    assert mailbox is not None and mailbox.store.root is not None
    obstacle = mailbox.store.root / mailbox.control / "outcome.json"
    obstacle.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(obstacle)], capture_output=True).returncode:
        pytest.skip("only root can mount what gives way to nobody")  # so that the task which writes there fails
    (world.signs / "go").touch()
    try:
        assert cli.wait(90) == ExitCode.INFRASTRUCTURE, cli.output
        assert world.kinds()[-1] == "handover" and state_of(world, server) == "FAILED"
        world.wait_until_empty(20)
    finally:
        subprocess.run(["umount", str(obstacle)], check=True)

    obstacle.rmdir()
    done = reap(world, server)
    assert done["closed"].startswith("succeeded") and "it is Completed" in done["mended"], done
    assert_home(world)


def test_ctrl_c_ends_script_and_machine_and_prefect_has_it_cancelled(world: World, server: Server) -> None:
    cli = recorded(world, server, "--grace", "2s")
    cli.signal(signal.SIGINT)
    assert cli.wait(90) == ExitCode.STOPPED, cli.output
    assert not world.machines() and not (world.project / "model.txt").exists()
    assert world.show()["receipt"]["state"] == "closed" and state_of(world, server) == "CANCELLED"
    assert reap(world, server) == {}


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_killed_command_leaves_its_script_running_and_the_reaper_closes_it(
    world: World, server: Server, number: signal.Signals
) -> None:
    cli = recorded(world, server)
    cli.signal(number)
    assert cli.wait(60) in (-number, 128 + number), cli.output
    assert world.supervisors() and world.agents()
    assert "goes on" in reap(world, server)["left"]
    let_it_end(world)

    done = wait(lambda: one if "closed" in (one := reap(world, server)) else None, 60)
    assert done["closed"].startswith("succeeded"), done
    assert_home(world)
    wait(lambda: state_of(world, server) == "COMPLETED" or reap(world, server) and False, 60)


TIMED = """
import sys
from flows.train import train
from sojourn.spec.launch import Launch
train.with_options(timeout_seconds=40)(Launch(command=("python", "train.py")), sys.argv[1])
"""


@pytest.mark.slow
def test_a_flow_that_times_out_hands_its_run_over(world: World, server: Server) -> None:
    timed = subprocess.Popen(
        [sys.executable, "-c", TIMED, str(world.project)],
        cwd=world.project,
        env={**world.environment, "PREFECT_API_URL": server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    world.wait_for_file("ready", 40)
    said, _ = timed.communicate(timeout=120)
    assert timed.returncode != 0 and b"TimedOut" in said, said.decode()
    assert world.kinds()[-1] == "handover" and world.machines()
    let_it_end(world)
    done = reap(world, server)
    assert done["closed"].startswith("succeeded") and "TimedOut, and it is Completed" in done["mended"], done
    assert_home(world)


BY_A_BLOCK = """
import sys
from flows.train import train
from sojourn.spec.launch import Launch
train(Launch(command=("python", "train.py")), sys.argv[1], provider="going")
"""
SAVE_IT = """
import sys
from blocks import LocalProvider, Store
print(LocalProvider(store=Store(url=sys.argv[1])).save("going", overwrite=True))
"""


@pytest.mark.slow
def test_a_run_whose_provider_block_is_deleted_either_rents_nothing_or_comes_home(world: World, server: Server) -> None:
    """There a machine was rented for a fleet that was being deleted, and nothing could end it any more:
    https://github.com/dstackai/dstack/issues/3449"""
    known = {**world.environment, "PREFECT_API_URL": server.url}
    words = (world.project, known)
    assert _python(SAVE_IT, world.store.url, *words).wait(60) == 0
    with _python(BY_A_BLOCK, str(world.project), *words) as running:
        world.wait_for_file("ready", 150)
        for document in server.ask("/block_documents/filter"):
            if document["name"] == "going":
                server.delete(f"/block_documents/{document['id']}")
        (world.signs / "go").touch()
        assert running.wait(90) == 0
    assert_home(world)
    with _python(BY_A_BLOCK, str(world.project), *words) as late:
        assert late.wait(90) != 0
    assert len(world.leases()) == 1 and not world.machines()


def _python(code: str, word: str, cwd: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, word], cwd=cwd, env=environment)


# -- asleep --


@pytest.mark.slow
def test_a_laptop_that_slept_through_every_heartbeat_goes_on_with_its_run(world: World, server: Server) -> None:
    cli = recorded(world, server)
    cli.signal(signal.SIGSTOP)
    time.sleep(8)  # three heartbeats are six seconds
    cli.signal(signal.SIGCONT)
    (world.signs / "go").touch()
    assert cli.wait(90) == 0, cli.output
    assert_home(world)


@pytest.mark.slow
def test_a_laptop_that_wakes_up_after_a_takeover_does_nothing_more(world: World, server: Server) -> None:
    cli = recorded(world, server)
    cli.signal(signal.SIGSTOP)
    attached = world.start("attach", world.run())
    world.wait_until("takeover", 60)
    cli.signal(signal.SIGCONT)
    (world.signs / "go").touch()
    assert attached.wait(90) == 0, attached.output
    # Where the other has brought it home before there was anything left to write, it has nothing to complain of.
    assert (code := cli.wait(90)) in (0, ExitCode.INFRASTRUCTURE), cli.output
    assert code == 0 or "was taken over by" in cli.output
    written = world.ledger()
    since = next(number for number, entry in enumerate(written) if entry.kind == "takeover")
    assert len({entry.owner for entry in written[since:]}) == 1 and written[since].owner != written[0].owner
    assert world.kinds().count("closed") == 1
    assert_home(world)


# -- a full disk --


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, which only root may")
def test_a_full_disk_leaves_a_run_that_is_closed_once_there_is_room(world: World, server: Server) -> None:
    disk = world.root / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], check=True)
    try:
        world.environment["SOJOURN_STORE"] = (disk / "store").as_uri()
        cli = recorded(world, server, "--deadline", "60s", "--grace", "2s")
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(b"x" * 4096)
        (world.signs / "go").touch()
        assert cli.wait(150) == ExitCode.INFRASTRUCTURE and "store is full" in cli.output, cli.output
        world.wait_until_empty(120)

        ballast.unlink()
        done = reap(world, server)
        assert "closed" in done, done
        shown = world.show()
        assert shown["receipt"]["state"] == "closed" and world.kinds()[-1] == "closed" and not world.machines()
    finally:
        world.clean()
        subprocess.run(["umount", "-l", str(disk)], check=True)
