from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

from sojourn.records import Exit
from tests.agent.conftest import RUN, Lab, wait_for

pytestmark = pytest.mark.local

HOSTILE = """
import os, signal, sys, time
if os.fork():
    sys.exit(0)
os.setsid()
if os.fork():
    os._exit(0)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
open("outputs/daemon", "w").write(str(os.getpid()))
time.sleep(300)
"""


def test_a_script_that_succeeds_brings_its_outputs_home(lab: Lab) -> None:
    end = lab.run("import os; print('hello'); open('model.bin', 'wb').write(b'\\0' * 10)")
    assert (end.reason, end.exit_code, end.signal, end.message) == ("exited", 0, None, None)
    assert lab.outputs() == {"model.bin": b"\0" * 10}
    assert end.output == 1 and end.checkpoint is None
    assert lab.log() == b"hello\n" and end.tail == "hello" and end.log_bytes == 6
    assert lab.box.beat(1, 0)["phase"] == "done"


def test_a_script_that_writes_nothing_leaves_no_manifest(lab: Lab) -> None:
    end = lab.run("pass")
    assert end.exit_code == 0 and end.output is None and lab.outputs() == {}


def test_the_exit_code_and_the_traceback_are_the_scripts(lab: Lab) -> None:
    end = lab.run("open('part', 'w').write('x'); raise SystemExit(7)")
    assert (end.reason, end.exit_code) == ("exited", 7)
    assert lab.outputs() == {"part": b"x"}


def test_death_by_a_signal_is_named(lab: Lab) -> None:
    end = lab.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (end.reason, end.exit_code, end.signal) == ("exited", 139, "SIGSEGV")


def test_a_kill_that_was_not_ours_points_at_the_memory(lab: Lab) -> None:
    end = lab.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert (end.reason, end.exit_code, end.signal) == ("exited", 137, "SIGKILL")
    assert "out-of-memory" in (end.message or "")
