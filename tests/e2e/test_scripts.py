"""Scripts that go wrong: the outcome says how, the log is whole, and the machines are given back."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import SOJOURN, World

from sojourn.errors import ExitCode

pytestmark = pytest.mark.local

MEGABYTE = 10**6
RANKS = """
    import os, signal, sys, time
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    dist.barrier()
    if rank == {fails}:
        raise ValueError("the gradient of rank {fails} exploded")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(120)
"""


def assert_ended(world: World, state: str) -> dict[str, Any]:
    """The run is over in this state, its receipt is closed, and nothing lives."""
    shown = world.show()
    assert shown["outcome"]["state"] == state, shown["outcome"]
    assert shown["receipt"]["state"] == "closed"
    assert world.kinds()[-1] == "closed"
    assert not world.machines()
    return shown


def test_a_script_that_fails_is_shown_with_its_last_words(world: World) -> None:
    world.script("print('one')\nprint('two')\nraise KeyError('no such layer')")
    done = world.train()

    assert done.returncode == ExitCode.SCRIPT_FAILED
    assert "exit code 1" in done.stderr and "KeyError: 'no such layer'" in done.stderr
    assert "'train.py', line" in done.stderr or 'train.py", line 3' in done.stderr
    outcome = assert_ended(world, "failed")["outcome"]
    assert outcome["exit_code"] == 1 and "KeyError" in outcome["tail"]
    logs = world.sojourn("logs")
    assert logs.stdout.startswith("one\ntwo\nTraceback") and logs.stdout.endswith("KeyError: 'no such layer'\n")


def test_what_a_failed_script_made_comes_home_beside_the_project(world: World) -> None:
    world.script("open('model.pt', 'w').write('half')\nraise SystemExit(7)")
    done = world.train()

    assert done.returncode == ExitCode.SCRIPT_FAILED and "exit code 7" in done.stderr
    assert_ended(world, "failed")
    assert not (world.project / "model.pt").exists()
    assert (world.project / "runs" / world.run() / "model.pt").read_text() == "half"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL"])
def test_a_script_that_dies_by_a_signal_is_named_with_it(world: World, name: str) -> None:
    world.script(f"import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.{name})")
    done = world.train()

    assert done.returncode == ExitCode.SCRIPT_FAILED
    assert f"killed by {name}" in done.stderr
    assert assert_ended(world, "failed")["outcome"]["signal"] == name


def test_a_script_that_hangs_ends_at_its_deadline(world: World) -> None:
    world.script("import time\nopen('model.pt', 'w').write('epoch 3')\ntime.sleep(120)")
    began = time.monotonic()
    done = world.train("--deadline", "4s", "--grace", "2s")

    assert time.monotonic() - began < 60
    assert done.returncode == ExitCode.SCRIPT_FAILED and "deadline" in done.stderr
    assert_ended(world, "deadline")
    assert (world.project / "runs" / world.run() / "model.pt").read_text() == "epoch 3"


@pytest.mark.parametrize("size", [10, *(pytest.param(size, marks=pytest.mark.slow) for size in (60, 500))])
def test_a_script_that_prints_without_end_loses_no_byte(world: World, size: int) -> None:
    world.script(
        f"""
        import sys
        for n in range({size}):
            sys.stdout.buffer.write(f"{{n:07d}} ".encode() * 125_000)
        """
    )
    cli = world.start_train("--deadline", "150s")
    assert cli.wait(150) == 0, cli.output[-2000:]
    assert_ended(world, "succeeded")

    expected = hashlib.sha256()
    for number in range(size):
        expected.update(f"{number:07d} ".encode() * 125_000)
    told = hashlib.sha256()
    with subprocess.Popen(
        [str(SOJOURN), "logs"],
        cwd=world.project,
        env=world.environment,
        stdout=subprocess.PIPE,
    ) as logs:
        assert logs.stdout is not None
        while chunk := logs.stdout.read(MEGABYTE):
            told.update(chunk)
    assert logs.returncode == 0
    assert told.hexdigest() == expected.hexdigest()


def test_bytes_that_are_no_text_stay_as_they_are_in_the_log(world: World) -> None:
    world.script(
        r"""
        import sys
        sys.stdout.buffer.write(b"\xff\xfe caf\xe9 \x00\x1b[31m [bold] [/]\n" + bytes(range(256)))
        raise SystemExit(3)
        """
    )
    done = world.train()

    assert done.returncode == ExitCode.SCRIPT_FAILED, done.stderr
    assert_ended(world, "failed")
    logs = subprocess.run(
        [str(SOJOURN), "logs"],
        cwd=world.project,
        env=world.environment,
        capture_output=True,
        check=True,
    )
    assert logs.stdout == b"\xff\xfe caf\xe9 \x00\x1b[31m [bold] [/]\n" + bytes(range(256))


def test_a_script_that_deletes_its_own_directory_still_ends_with_an_outcome(world: World) -> None:
    world.script("import os, shutil\nshutil.rmtree(os.getcwd())\nprint('gone')")
    done = world.train()

    assert "directory" in done.stdout + done.stderr
    outcome = world.show()["outcome"]
    assert_ended(world, outcome["state"])
    assert outcome["exit_code"] == 0 and world.sojourn("logs").stdout == "gone\n"


def test_a_program_that_cannot_be_started_is_refused_with_its_reason(world: World) -> None:
    (world.script("#!/nowhere/python\n", "run.sh")).chmod(0o755)
    done = world.train("--", "./run.sh")

    assert done.returncode == ExitCode.INFRASTRUCTURE
    assert "run.sh" in done.stderr
    assert_ended(world, "refused")


def test_an_error_of_ours_before_the_start_closes_the_run(world: World) -> None:
    world.script("print('never')")
    (world.project / "requirements.txt").write_text("no-such-package-of-anybody==1.0\n")
    done = world.train("--environment", "requirements.txt", UV_OFFLINE="1", UV_CACHE_DIR=str(world.root / "uv"))

    assert done.returncode not in (0, ExitCode.SCRIPT_FAILED), done.stdout
    assert "error:" in done.stderr
    assert_ended(world, "refused")
    assert not world.leases()
    attached = world.sojourn("attach")
    assert attached.returncode == 0 and "home already" in attached.stdout


@pytest.mark.slow
def test_one_dead_rank_ends_the_others_and_is_the_one_that_is_shown(world: World) -> None:
    world.script(RANKS.format(fails=1))
    done = world.train("--processes", "2", "--deadline", "90s")

    assert done.returncode == ExitCode.SCRIPT_FAILED
    assert "ValueError: the gradient of rank 1 exploded" in done.stderr
    outcome = assert_ended(world, "failed")["outcome"]
    assert outcome["failed_rank"] == 1 and "rank 1 exploded" in outcome["tail"]
    first = min(rank["at"] for one in outcome["exits"] for rank in one["ranks"])
    assert outcome["ended_at"] - first < 60


@pytest.mark.slow
def test_a_dead_rank_of_one_node_ends_the_other_node(world: World) -> None:
    world.script(RANKS.format(fails=1))
    done = world.train("--nodes", "2", "--deadline", "90s")

    assert done.returncode == ExitCode.SCRIPT_FAILED
    assert "ValueError: the gradient of rank 1 exploded" in done.stderr
    outcome = assert_ended(world, "failed")["outcome"]
    assert outcome["failed_rank"] == 1 and outcome["failed_node"] == 1
    first = min(rank["at"] for one in outcome["exits"] for rank in one["ranks"])
    assert outcome["ended_at"] - first < 60


# -- a full disk --


@pytest.fixture
def small_disk(world: World) -> Iterator[Path]:
    """A store's directory with room for four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place = world.root / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    yield place
    world.clean()
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.root
def test_a_store_too_small_for_the_source_is_a_clear_error_and_rents_nothing(world: World, small_disk: Path) -> None:
    world.script("print('never')")
    (world.project / "big.bin").write_bytes(os.urandom(9 * MEGABYTE))
    done = world.train("--store", small_disk.as_uri())

    assert done.returncode == ExitCode.INFRASTRUCTURE
    assert "the store is full" in done.stderr and "Traceback" not in done.stderr
    assert not world.leases()


@pytest.mark.root
@pytest.mark.slow
def test_an_output_that_finds_no_room_in_the_store_is_named(world: World, small_disk: Path) -> None:
    world.script(
        """
        import os
        print("trained")
        open("small.txt", "w").write("kept")
        open("big.bin", "wb").write(os.urandom(9_000_000))
        """
    )
    done = world.train("--store", small_disk.as_uri(), "--grace", "5s", "--deadline", "60s")

    assert "big.bin" in done.stderr and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert done.returncode not in (ExitCode.OK, ExitCode.BAD_INPUT)
    world.wait_until_empty()
