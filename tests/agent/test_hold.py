"""A machine whose script failed stays for a while, when the order says so, with all that matters in the store."""

from __future__ import annotations

import os
import time

import pytest

from sojourn.protocol import Exit
from tests.agent.conftest import Lab, wait_for

pytestmark = pytest.mark.local

FAILS = "print('hello'); open('part', 'w').write('x'); raise SystemExit(3)"


def said(lab: Lab, node: int = 0) -> Exit:
    """The node's last words, while its agent lives on."""
    end: Exit = wait_for(lambda: lab.box.exit(1, node), 30)
    return end


def phase(lab: Lab, node: int = 0) -> str:
    return getattr(lab.box.beat(1, node), "phase", "")


def test_a_failed_scripts_machine_stays_for_as_long_as_was_asked_and_has_said_everything_before(lab: Lab) -> None:
    agent = lab.boot()
    lab.order(FAILS, hold_s=6.0)
    end = said(lab)
    assert end.hold is not None and time.time() < end.hold.until, "its last words came before"
    assert (end.reason, end.exit_code) == ("exited", 3)
    assert lab.outputs() == {"part": b"x"} and lab.log() == b"hello\n" and (lab.tree() / "part").exists()
    assert 5.5 < end.hold.until - end.hold.since < 6.5
    wait_for(lambda: phase(lab) == "held")
    assert agent.poll() is None
    assert lab.exit() == end and time.time() >= end.hold.until - 0.5
    assert phase(lab) == "done"


def test_a_stop_ends_the_hold(lab: Lab) -> None:
    lab.boot()
    lab.order(FAILS, hold_s=50.0)
    end = said(lab)
    lab.stop()
    begun = time.monotonic()
    assert lab.exit() == end and time.monotonic() - begun < 20


def test_no_hold_goes_beyond_the_deadline(lab: Lab) -> None:
    lab.deadline_at = time.time() + 8
    lab.boot()
    lab.order("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", hold_s=500.0)
    end = said(lab)
    assert end.hold is not None and abs(end.hold.until - lab.deadline_at) < 1
    lab.exit(seconds=30)
    assert time.time() < lab.deadline_at + lab.grace_s


@pytest.mark.parametrize("how", ["success", "stop", "deadline"])
def test_what_did_not_fail_by_itself_is_not_held(lab: Lab, how: str) -> None:
    lab.deadline_at = time.time() + (4 if how == "deadline" else 60)
    lab.boot()
    lab.order("pass" if how == "success" else "print('up'); import time; time.sleep(50)", hold_s=30.0)
    if how == "stop":
        wait_for(lambda: lab.log() == b"up\n")
        lab.stop()
    end = lab.exit(seconds=25)
    assert end.hold is None, end


def test_both_nodes_are_held_when_one_script_failed(lab: Lab) -> None:
    lab.nodes = 2
    agents = [lab.boot(0), lab.boot(1)]
    wait_for(lambda: lab.box.hello(1, 1))
    lab.order(
        "import os, time; print('up'); time.sleep(0.5 if os.environ['NODE_RANK'] == '1' else 300); raise SystemExit(4)",
        hold_s=40.0,
    )
    failed, other = said(lab, 1), said(lab, 0)
    assert (failed.reason, other.reason) == ("exited", "peer")
    assert failed.hold is not None and other.hold is not None and other.hold.until == failed.hold.until
    assert [agent.poll() for agent in agents] == [None, None]
    lab.stop()
    lab.exit(0), lab.exit(1)


def test_the_agents_end_ends_the_hold_and_what_lives_on_the_machine(lab: Lab) -> None:
    agent = lab.boot()
    lab.order(FAILS, hold_s=50.0)
    end = said(lab)
    os.kill(agent.pid, 15)
    assert lab.exit(seconds=20) == end and lab.alive() == []
