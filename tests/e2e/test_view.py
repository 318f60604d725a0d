"""What is seen while a run is on its way: on terminals wide and narrow, in quiet, and by programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pyte
import pytest
from cli_world import SOJOURN, World

from sojourn.errors import ExitCode
from sojourn.watch.follower import Status

pytestmark = pytest.mark.local
DOCS = Path(__file__).parent.parent.parent / "docs" / "events.md"
LIMIT_S = 60.0
PARAMS = """
launch:
  environment: current
  metrics:
    loss: 'loss=([0-9.]+)'
    step: 'step (\\d+)/'
    steps: 'step \\d+/(\\d+)'
"""
SCRIPT = """
    import json, sys, time
    for step in range(1, {steps} + 1):
        print(f"step {{step}}/{steps} loss={{1 / step:.4f}}", flush=True)
        sys.stderr.write(f"\\r{{step}} of {steps}")
        time.sleep(0.1)
    json.dump({{"accuracy": {accuracy}}}, open("metrics.json", "w"))
"""


@pytest.fixture
def reporting(world: World) -> World:
    """A project whose script reports a loss at each of its steps, ten a second."""
    world.script(PARAMS, "params.yaml")
    world.script(SCRIPT.format(steps=30, accuracy=0.5))
    return world


class Terminal:
    """A command on a terminal of this size, and every screen that it showed."""

    def __init__(
        self, world: World, columns: int, *words: str, type_at: tuple[str, bytes] = ("", b""), **variables: str
    ) -> None:
        self._type_at = type_at
        self.screen = pyte.Screen(columns, 60)
        self.shown: list[list[str]] = []
        self.raw = b""
        reading, writing = pty.openpty()
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
        environment = {key: value for key, value in world.environment.items() if key != "COLUMNS"}
        self._keyboard = reading
        with subprocess.Popen(
            ["setsid", "--ctty", "--wait", str(SOJOURN), *words],
            cwd=world.project,
            env={**environment, "TERM": "xterm-256color", **variables},
            stdin=writing,
            stdout=writing,
            stderr=writing,
            start_new_session=True,
        ) as process:
            os.close(writing)
            self._watch(reading, pyte.ByteStream(self.screen))
            self.code = process.wait(LIMIT_S)
        os.close(reading)

    def _watch(self, reading: int, stream: pyte.ByteStream) -> None:
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            if select.select([reading], [], [], 0.2)[0]:
                try:
                    data = os.read(reading, 1 << 16)
                except OSError:  # Linux's way to say that the other end is closed
                    return
                if not data:
                    return
                self.raw += data
                stream.feed(data)
                self.shown.append([line.rstrip() for line in self.screen.display if line.strip()])
                wanted, keys = self._type_at
                if keys and any(wanted in line for line in self.shown[-1]):
                    self._type_at = ("", b"")
                    os.write(self._keyboard, keys)
        raise AssertionError(f"the command does not end: {self.shown[-1:]}")


def events(output: str) -> list[dict[str, Any]]:
    """The events of a `--json` command."""
    return [json.loads(line) for line in output.splitlines()]


def test_a_narrow_terminal_shows_step_and_loss_in_one_line_and_no_colour_when_none_is_wanted(reporting: World) -> None:
    terminal = Terminal(reporting, 40, "train", "--no-prefect", "--", "python", "train.py", NO_COLOR="1")

    assert terminal.code == 0
    bottoms = {line for screen in terminal.shown for line in screen if re.search(r"train 0:0\d", line)}
    assert any(re.search(r"train 0:0\d  step \d+/30  loss 0\.\d+$", line) for line in bottoms), bottoms
    assert any("30 of 30" in line for screen in terminal.shown for line in screen)
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]m", terminal.raw)
    last = "\n".join(terminal.shown[-1])
    assert "✓ publish" in last and "train 0:" not in last
    assert not any("✓" in line[1:] for screen in terminal.shown for line in screen)
    assert "\n            " in last  # long texts go on below themselves


def test_a_wide_terminal_shows_the_curve_and_the_time_left(reporting: World) -> None:
    terminal = Terminal(reporting, 120, "train", "--no-prefect", "--deadline", "1h", "--", "python", "train.py")

    bottoms = {line for screen in terminal.shown for line in screen if re.search(r"train 0:0\d", line)}
    assert any(re.search(r"steps/s  loss 0\.\d+  █[▁-█]+  59m \d+s left", line) for line in bottoms), bottoms
    assert not any("$" in line for line in bottoms)


def test_ctrl_c_is_answered_on_the_terminal_at_once(reporting: World) -> None:
    words = ("train", "--no-prefect", "--", "python", "train.py")
    terminal = Terminal(reporting, 60, *words, type_at=("step 5/30", b"\x03"))

    assert terminal.code == ExitCode.STOPPED
    running = [screen for screen in terminal.shown if any("train 0:0" in line for line in screen)]
    assert any("stopping: what is committed will come home" in line for screen in running for line in screen)
    assert any(line.startswith("! stopping:") for line in terminal.shown[-1])


def test_events_are_the_documented_ones_and_people_read_the_rest_on_standard_error(reporting: World) -> None:
    documented = DOCS.read_text(encoding="utf-8")
    (_, verb, *words), into = shlex.split(documented.split("```bash\n")[1].split(" > ")[0]), " > events.jsonl\n```"
    assert into in documented
    done = reporting.sojourn(verb, "--no-prefect", *words)

    told = events(done.stdout)
    assert {one["event"] for one in told} <= set(re.findall(r"^\| `(\w+)` \| ", documented, re.MULTILINE))
    assert [one["event"] for one in told if one["event"] in ("plan", "receipt", "report")] == [
        "plan",
        "receipt",
        "report",
    ]
    statuses = [one for one in told if one["event"] == "status"]
    assert set(statuses[0]) - {"event", "at"} == set(re.findall(r"`(\w+)`", documented.split("A `status` says")[1])) & {
        *Status.model_fields
    }
    assert statuses[-1]["values"] == {"loss": 0.0333, "accuracy": 0.5} and statuses[-1]["steps"] == 30
    assert [one["line"] for one in told if one["event"] == "log"][0] == "step 1/30 loss=1.0000"
    assert "✓ train" in done.stderr and "loss=" not in done.stderr


def test_an_error_is_the_last_event(world: World) -> None:
    done = world.train("--json", "--", "python", "trian.py")

    (error,) = events(done.stdout)
    assert (error["event"], error["exit_code"]) == ("error", done.returncode)
    assert "trian.py" in error["message"] and "trian.py" in done.stderr


def test_quiet_leaves_the_report_with_the_change_on_the_last_run(reporting: World) -> None:
    reporting.script(SCRIPT.format(steps=3, accuracy=0.5))
    first = reporting.train("--quiet", "--", "python", "train.py")
    reporting.script(SCRIPT.format(steps=3, accuracy=0.625))
    second = reporting.train("-q", "--", "python", "train.py", "--better")

    assert [line.split()[0] for line in first.stdout.splitlines()] == ["run", "metrics", "results"]
    run = first.stdout.split()[1]
    assert f"accuracy 0.625 (+0.125)  loss 0.3333  against {run}" in second.stdout
    assert "step 1" not in first.stdout + first.stderr


def test_attach_goes_on_where_the_run_is_and_keeps_what_was_reported_before(reporting: World) -> None:
    reporting.script(SCRIPT.format(steps=80, accuracy=0.5))
    train = reporting.start_train("--", "python", "train.py")
    reporting.wait_until("running")
    time.sleep(4.0)
    train.kill()

    attached = reporting.sojourn("attach", "--json", "--take-over")

    told = events(attached.stdout)
    assert any("was begun" in one.get("text", "") for one in told)
    assert "provision" in [one["step"] for one in told if one["event"] == "finished"]
    (ago,) = [one["ago"] for one in told if one["event"] == "started" and one["step"] == "train"]
    assert ago > 3.0
    lines = [one["line"] for one in told if one["event"] == "log"]
    assert "step 1/80 loss=1.0000" not in lines and lines[-1].endswith("80 of 80")
    series = reporting.show()["report"]["series"]["loss"]
    assert [point[0] for point in series["points"]] == list(range(1, 81))


def test_what_the_script_writes_for_tensorboard_and_as_metrics_is_seen_while_it_runs(world: World) -> None:
    world.script(
        """
        import json, time
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        writer = EventFileWriter("logs")
        for step in range(30):
            event = Event(wall_time=time.time(), step=step)
            event.summary.value.add(tag="loss", simple_value=1 / (step + 1))
            writer.add_event(event)
            writer.flush()
            json.dump({"step": step, "accuracy": step / 32}, open("metrics.json", "w"))
            time.sleep(0.2)
        """
    )
    done = world.train("--json", "--", "python", "train.py")

    assert done.returncode == 0, done.stderr
    seen = [one["values"] for one in events(done.stdout) if one["event"] == "status" and one["phase"] == "running"]
    assert {"loss", "accuracy"} <= {name for values in seen for name in values}
    report = world.show()["report"]
    loss, accuracy = report["series"]["loss"], report["series"]["accuracy"]
    assert (loss["source"], accuracy["source"]) == ("tensorboard", "file")
    assert [point[0] for point in loss["points"]] == list(range(30))
    assert report["metrics"]["accuracy"] == 29 / 32 == accuracy["points"][-1][1]
