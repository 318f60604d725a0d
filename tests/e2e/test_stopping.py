"""Ending a run early: the script is asked first, what it committed comes home, the machines go."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cli_world import SOJOURN, Cli, World

from sojourn.errors import ExitCode
from sojourn.run.runs import all_mailboxes, entries_of
from sojourn.store.storage import Store

pytestmark = pytest.mark.local

SAVES_ON_SIGTERM = """
    import pathlib, signal, sys, time

    def save(*_):
        pathlib.Path("last.pt").write_text("saved on SIGTERM")
        sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    pathlib.Path({ready!r}).touch()
    time.sleep(120)
"""
DEAF = """
    import pathlib, signal, time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path("early.pt").write_text("written before")
    pathlib.Path({ready!r}).touch()
    time.sleep(120)
"""


def train_until_ready(world: World, script: str, *words: str) -> Cli:
    world.script(script.format(ready=str(world.signs / "ready")))
    cli = world.start_train("--grace", "4s", *words)
    world.wait_for_file("ready")
    world.wait_until("ordered")
    return cli


def assert_stopped(world: World) -> None:
    shown = world.show()
    assert shown["outcome"]["state"] == "stopped"
    assert shown["receipt"]["state"] == "closed"
    assert world.kinds()[-1] == "closed"
    assert not world.machines()


def test_ctrl_c_brings_home_what_the_script_saves_when_asked(world: World) -> None:
    cli = train_until_ready(world, SAVES_ON_SIGTERM)
    cli.signal(signal.SIGINT)

    assert cli.wait() == ExitCode.STOPPED, cli.output
    assert "stopping" in cli.output
    assert_stopped(world)
    assert (world.project / "runs" / world.run() / "last.pt").read_text() == "saved on SIGTERM"


def test_ctrl_c_ends_a_script_that_ignores_sigterm(world: World) -> None:
    cli = train_until_ready(world, DEAF)
    cli.signal(signal.SIGINT)

    assert cli.wait(60) == ExitCode.STOPPED, cli.output
    assert_stopped(world)
    assert (world.project / "runs" / world.run() / "early.pt").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_gives_the_machines_back_at_once(world: World) -> None:
    world.script(
        f"""
        import pathlib, signal, time
        signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({str(world.signs / "asked")!r}).touch())
        pathlib.Path({str(world.signs / "ready")!r}).touch()
        while True:
            time.sleep(0.1)
        """
    )
    cli = world.start_train("--grace", "60s")
    world.wait_for_file("ready")
    world.wait_until("ordered")
    cli.signal(signal.SIGINT)
    world.wait_for_file("asked")
    began = time.monotonic()
    cli.signal(signal.SIGINT)

    assert cli.wait(60) == ExitCode.STOPPED, cli.output
    assert time.monotonic() - began < 50
    assert_stopped(world)


def test_ctrl_c_before_the_script_started_starts_nothing(world: World) -> None:
    world.script(f"import pathlib\npathlib.Path({str(world.signs / 'ran')!r}).touch()")
    for number in range(3000):  # to be sent before a machine is asked for
        world.script("", f"data/{number}.txt")
    cli = world.start_train()
    world.wait_until("opened")
    cli.signal(signal.SIGINT)

    assert cli.wait() == ExitCode.STOPPED, cli.output
    assert_stopped(world)
    assert not (world.signs / "ran").exists()


def test_ctrl_c_while_planning_leaves_nothing(world: World) -> None:
    world.script("print('never')")
    cli = world.start_train()
    loaded = Path(f"/proc/{cli.process.pid}/maps")
    # It has begun to plan; before, it would be Python's own start that is interrupted.
    world.wait(lambda: "pydantic_core" in loaded.read_text(), every=0.005)
    cli.signal(signal.SIGINT)

    assert cli.wait() in (ExitCode.STOPPED, -signal.SIGINT), cli.output
    assert world.mailbox() is None and not world.leases()


def test_ctrl_c_from_a_terminal_reaches_the_command_and_not_the_machine(world: World) -> None:
    world.script(SAVES_ON_SIGTERM.format(ready=str(world.signs / "ready")))
    ours, theirs = pty.openpty()
    command = [str(SOJOURN), "train", "--no-prefect", "--grace", "4s", "--", "python", "train.py"]
    os.set_inheritable(theirs, True)
    # setsid --ctty makes the terminal its own, so that the key ^C becomes a signal to its foreground group.
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command],
        cwd=world.project,
        env={**world.environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            world.wait_for_file("ready")
            world.wait_until("ordered")
            os.write(ours, b"\x03")
            screen = read_all(ours)
            assert process.wait(60) == ExitCode.STOPPED, screen
        finally:
            process.kill()
            os.close(ours)
    assert "stopping" in screen
    assert_stopped(world)
    assert (world.project / "runs" / world.run() / "last.pt").exists()


def read_all(terminal: int) -> str:
    """Everything until the other side closes the terminal."""
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            return shown.decode(errors="replace")
        if not chunk:
            return shown.decode(errors="replace")
        shown += chunk


def test_sojourn_stop_ends_a_run_from_another_terminal(world: World) -> None:
    cli = train_until_ready(world, SAVES_ON_SIGTERM)
    stopped = world.sojourn("stop", world.run())

    assert stopped.returncode == 0, stopped.stderr
    assert cli.wait() == ExitCode.STOPPED, cli.output
    assert_stopped(world)
    assert (world.project / "runs" / world.run() / "last.pt").exists()
    again = world.sojourn("stop", world.run())
    assert again.returncode == 0 and "over already" in again.stdout


@pytest.mark.slow
def test_sojourn_stop_ends_a_run_that_nobody_follows(world: World) -> None:
    cli = train_until_ready(world, SAVES_ON_SIGTERM)
    cli.kill()
    stopped = world.sojourn("stop", world.run())

    assert stopped.returncode == 0, stopped.stderr
    world.wait_until_empty()
    attached = world.sojourn("attach", world.run(), "--take-over")
    assert attached.returncode == ExitCode.STOPPED, attached.stdout
    assert_stopped(world)
    assert (world.project / "runs" / world.run() / "last.pt").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_command_that_is_told_to_leave_hands_its_run_over(world: World, number: signal.Signals) -> None:
    world.script(
        f"""
        import pathlib, time
        pathlib.Path({str(world.signs / "ready")!r}).touch()
        while not pathlib.Path({str(world.signs / "go")!r}).exists():
            time.sleep(0.05)
        pathlib.Path("model.txt").write_text("weights")
        """
    )
    cli = world.start_train("--deadline", "60s")
    world.wait_for_file("ready")
    world.wait_until("ordered")
    cli.signal(number)

    assert cli.wait(60) == 128 + number, cli.output
    assert "attach" in cli.output
    assert world.kinds()[-1] == "handover"
    assert world.supervisors() and world.agents()
    (world.signs / "go").touch()
    attached = world.sojourn("attach", world.run())
    assert attached.returncode == 0, attached.stdout + attached.stderr
    assert (world.project / "model.txt").read_text() == "weights"
    assert len(world.leases()) == 1


@pytest.mark.slow
def test_nohup_keeps_a_command_through_a_lost_terminal(world: World) -> None:
    world.script(
        f"""
        import pathlib, time
        pathlib.Path({str(world.signs / "ready")!r}).touch()
        while not pathlib.Path({str(world.signs / "go")!r}).exists():
            time.sleep(0.05)
        """
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        cli = world.start_train("--deadline", "60s")
    finally:
        signal.signal(signal.SIGHUP, before)
    world.wait_for_file("ready")
    cli.signal(signal.SIGHUP)
    (world.signs / "go").touch()

    assert cli.wait() == 0, cli.output


def test_a_closed_pipe_does_not_end_the_run(world: World) -> None:
    world.script("for n in range(3000):\n    print('line', n, 'x' * 200)\nopen('model.txt', 'w').write('weights')")
    with subprocess.Popen(
        [str(SOJOURN), "train", "--no-prefect", "--", "python", "train.py"],
        cwd=world.project,
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
    assert (world.project / "model.txt").exists()
    assert world.show()["receipt"]["state"] == "closed"


FLOOD = """
    import sys, time
    while True:
        print("\\n".join(f"step {number} " + "x" * 60 for number in range(400)), flush=True)
        time.sleep(0.04)
"""


@pytest.mark.parametrize(
    "reads",
    [
        pytest.param(True, id="a terminal that draws", marks=pytest.mark.slow),
        pytest.param(False, id="a reader that does not read"),
    ],
)
def test_ctrl_c_ends_a_script_that_prints_ten_thousand_lines_a_second(world: World, reads: bool) -> None:
    world.script(FLOOD)
    ours, theirs = pty.openpty() if reads else os.pipe()
    run = subprocess.Popen(
        [str(SOJOURN), "train", "--no-prefect", "--", "python", "train.py"],
        cwd=world.project, env=world.environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    if reads:
        threading.Thread(target=read_all, args=(ours,), daemon=True).start()
    try:
        world.wait(lambda: "ordered" in kinds(world) or None)
        time.sleep(2)
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        world.wait(lambda: "gone" in kinds(world) or None)
        assert time.monotonic() - began < 10, "its machines are given back while nobody can read"
    finally:
        run.kill()
        run.wait()
        os.close(ours)
    assert kinds(world)[-1] in ("gone", "closed")


@pytest.mark.slow
def test_a_command_that_is_told_to_end_while_nobody_reads_hands_its_run_over_and_ends(world: World) -> None:
    world.script(FLOOD)
    ours, theirs = os.pipe()
    run = subprocess.Popen(
        [str(SOJOURN), "train", "--no-prefect", "--", "python", "train.py"],
        cwd=world.project, env=world.environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        world.wait(lambda: "ordered" in kinds(world) or None)
        time.sleep(2)
        run.terminate()
        run.wait(10)
        assert kinds(world)[-1] == "handover"
    finally:
        run.kill()
        run.wait()
        os.close(ours)
    assert world.sojourn("stop", "last").returncode == 0
    assert world.sojourn("attach", "last", "--quiet").returncode == ExitCode.STOPPED


def kinds(world: World) -> list[str]:
    """What the ledger of the only run says."""
    mailboxes = all_mailboxes(Store((world.home / "store").as_uri())) if (world.home / "store").exists() else []
    return [entry.kind for mailbox in mailboxes for entry in entries_of(mailbox)]
