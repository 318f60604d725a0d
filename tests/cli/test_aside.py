"""Work in a fork: its result, its errors, and what happens when it ends without a word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.aside import Aside
from sojourn.errors import SpecError


def test_work_is_done_in_another_process_and_its_result_comes_back() -> None:
    here = os.getpid()
    pid, words = Aside(lambda: (os.getpid(), ["a", "b"])).first()
    assert words == ["a", "b"] and pid != here


def test_an_error_for_the_user_arrives_whole() -> None:
    def refuse() -> None:
        raise SpecError("nodes: 0 is too few", hint="nodes: 1")

    with pytest.raises(SpecError, match="nodes: 0") as caught:
        Aside(refuse).first()
    assert caught.value.hint == "nodes: 1" and caught.value.exit_code == 2


def test_a_fork_that_ends_without_a_word_leaves_the_work_to_the_one_that_asks() -> None:
    here = os.getpid()

    def die_elsewhere() -> int:
        if os.getpid() != here:
            os._exit(9)
        return os.getpid()

    assert Aside(die_elsewhere).first() == here


def double(number: int, echo: Callable[[str], None]) -> tuple[int, int]:
    echo(f"doubling {number}")
    return 2 * number, os.getpid()


def end_the_fork(parent: int, echo: Callable[[str], None]) -> str:
    if os.getpid() != parent:
        os._exit(9)
    return "done here"


def test_more_work_goes_to_the_same_process_which_says_what_it_does() -> None:
    aside, heard = Aside(os.getpid), list[str]()
    there = aside.first()
    assert [aside.call(double, number, echo=heard.append) for number in (2, 3)] == [(4, there), (6, there)]
    assert heard == ["doubling 2", "doubling 3"] and there != os.getpid()
    aside.end()
    assert aside.call(double, 4, echo=heard.append) == (8, os.getpid())


def test_more_work_is_done_here_when_the_fork_ends_on_it() -> None:
    aside = Aside(os.getpid)
    aside.first()
    assert aside.call(end_the_fork, os.getpid(), echo=print) == "done here"


def test_a_fork_leaves_with_whoever_made_it() -> None:
    code = "import os; from cli.aside import Aside; print(Aside(os.getpid).first(), flush=True); os._exit(0)"
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    wait_until_gone(pid)


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


WORKS = """
import os, time
from cli.aside import Aside
def work(echo):
    echo("at it")
    time.sleep(600)
aside = Aside(os.getpid)
print(aside.first(), flush=True)
aside.call(work, echo=lambda text: print(text, flush=True))
"""


def test_a_fork_at_work_dies_with_whoever_made_it() -> None:
    """Or it would place results while another command that took the run over does."""
    maker = subprocess.Popen([sys.executable, "-c", WORKS], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    with maker, maker.stdout as said:
        pid = int(said.readline())
        assert said.readline() == "at it\n"
        maker.kill()
        maker.wait()
    wait_until_gone(pid)


def test_a_forks_work_is_not_for_ctrl_c() -> None:
    aside = Aside(os.getpid)
    os.kill(aside.first(), signal.SIGINT)
    assert aside.call(double, 1, echo=print)[1] != os.getpid()
