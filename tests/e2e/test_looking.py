"""Looking at a machine: a command in a run that goes on, and in one that failed and is held."""

from __future__ import annotations

import re
import signal
import time

import pytest
from cli_world import Cli, World

from sojourn.errors import ExitCode

pytestmark = pytest.mark.local

FAILS = """
    import pathlib
    print("about to fail")
    pathlib.Path("part.txt").write_text("this far")
    raise SystemExit(7)
"""


def held(world: World, *words: str) -> Cli:
    """A run whose script has failed, and whose machine waits for somebody to look at it."""
    world.script(FAILS)
    cli = world.start_train("--hold-on-failure", "90s", *words)
    world.wait_until("outcome", 40)
    world.wait(lambda: "held until" in cli.output, 20)
    return cli


def assert_failed_and_closed(world: World) -> None:
    shown = world.show()
    assert (shown["outcome"]["state"], shown["receipt"]["state"]) == ("failed", "closed")
    assert shown["receipt"]["held_s"] > 0 and shown["report"]["held_s"] == shown["receipt"]["held_s"]
    assert (world.project / "runs" / world.run() / "part.txt").read_text() == "this far"
    assert world.kinds()[-1] == "closed"
    world.wait_until_empty()


def test_a_failed_run_is_held_looked_at_and_let_go(world: World) -> None:
    cli = held(world)
    run = world.run()
    look, end = re.search(r"held until [\d:]{8}; look: sojourn (.*?); end it: sojourn (.*)", cli.output).groups()  # type: ignore[union-attr]
    assert (look, end) == (f"exec {run} -- nvidia-smi", f"stop {run}")
    assert "if the script fails its machines stay for 1m 30s at most" in cli.output, "the plan says so"

    looked = world.sojourn("exec", run, "--", "/bin/sh", "-c", "cat part.txt; echo $SOJOURN_RUN >&2; exit 5")
    assert (looked.returncode, looked.stdout, looked.stderr) == (5, "this far", f"{run}\n")
    assert world.sojourn("runs").stdout.split(run)[1].split()[0] == "held"
    swept = world.sojourn("reap", "--json")
    assert swept.returncode == 0 and world.machines(), "a sweep leaves it alone"

    stopped = world.sojourn(*end.split())
    assert stopped.returncode == 0, stopped.stderr
    assert cli.wait(30) == ExitCode.SCRIPT_FAILED, cli.output
    assert "ended by sojourn stop" in cli.output and "after the script had failed" in cli.output
    assert_failed_and_closed(world)
    over = world.sojourn("exec", run, "--", "true")
    assert over.returncode == ExitCode.BAD_INPUT
    assert f"{run} is over (failed)" in over.stderr and "--hold-on-failure 20m" in over.stderr


@pytest.mark.slow
def test_ctrl_c_ends_a_hold_and_the_run_stays_a_failed_one(world: World) -> None:
    cli = held(world)
    cli.signal(signal.SIGINT)
    assert cli.wait(30) == ExitCode.SCRIPT_FAILED, cli.output
    assert_failed_and_closed(world)


@pytest.mark.slow
def test_a_hold_whose_owner_died_is_followed_by_attach_and_ends_by_itself(world: World) -> None:
    world.script(FAILS)
    cli = world.start_train("--hold-on-failure", "25s")
    world.wait(lambda: "held until" in cli.output, 60)
    cli.kill()
    swept = world.sojourn("reap", "--json")
    assert swept.returncode == 0 and '"closed"' not in swept.stdout and world.machines()

    follower = world.start("attach", "last", "--take-over")
    world.wait(lambda: "held until" in follower.output, 30)
    follower.kill()
    world.wait_until_empty(40)

    done = world.sojourn("attach", "last", "--take-over")
    assert done.returncode == ExitCode.SCRIPT_FAILED, done.stdout + done.stderr
    assert_failed_and_closed(world)


def test_a_command_runs_beside_the_script_and_is_ended_after_its_time(world: World) -> None:
    world.script(f"""
        import os, time
        print("up", flush=True)
        while not os.path.exists({str(world.signs / "enough")!r}): time.sleep(0.05)
    """)
    before = world.sojourn("exec", "last", "--", "true")
    assert before.returncode == ExitCode.BAD_INPUT and "there is no run yet" in before.stderr
    cli = world.start_train()
    world.wait(lambda: "up\n" in cli.output, 40)

    slow = world.sojourn("exec", "last", "--timeout", "1s", "--", "sleep", "30")
    assert slow.returncode == 124 and "after 1 s" in slow.stderr
    nowhere = world.sojourn("exec", "last", "--node", "1", "--", "true")
    assert nowhere.returncode == ExitCode.BAD_INPUT and "has no machine 1: it has one machine, 0" in nowhere.stderr
    missing = world.sojourn("exec", "last", "--", "no-such-program")
    assert missing.returncode == 127 and "cannot start 'no-such-program'" in missing.stderr
    much = world.sojourn("exec", "last", "--", "head", "-c", "3000000", "/dev/zero")
    assert len(much.stdout) == 1 << 20 and "3.0 MB, of which the first MB is shown" in much.stderr
    bad = world.sojourn("exec", "last", "--timeout", "5", "--", "true")
    assert bad.returncode == ExitCode.BAD_INPUT and "write it like 45s" in bad.stderr
    assert world.sojourn("exec", "last", "touch", "made.txt").returncode == 0
    (world.signs / "enough").touch()

    begun = time.monotonic()
    assert cli.wait(30) == ExitCode.OK, cli.output
    assert time.monotonic() - begun < 30 and not world.machines()
    assert world.show()["receipt"]["held_s"] == 0 and (world.project / "made.txt").exists()
