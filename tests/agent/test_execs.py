"""Commands that somebody sends to a machine by way of the store, while its script runs or it is held."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sojourn.agent.mailbox import Place
from sojourn.agent.pack import pack
from sojourn.agent.script.execs import POLL_S, Execs
from sojourn.agent.stores.store import FileStore
from sojourn.protocol import ExecAnswer, ExecRequest
from tests.agent.conftest import Lab, old_python, wait_for

pytestmark = pytest.mark.local

WAITS = "print('up'); import os, time\nwhile not os.path.exists('enough'): time.sleep(0.05)"


def ask(lab: Lab, *argv: str, node: int = 0, timeout_s: float = 30.0, until: float | None = None) -> int:
    at = time.time()
    request = ExecRequest(node=node, argv=argv, timeout_s=timeout_s, at=at, until=until or at + 60)
    return lab.box.request_exec(1, request)


def answer(lab: Lab, number: int, node: int = 0) -> ExecAnswer:
    found: ExecAnswer = wait_for(lambda: lab.box.exec_answer(1, node, number), 30)
    return found


def printed(lab: Lab, number: int, node: int = 0) -> tuple[bytes, bytes]:
    out, err = (lab.box.exec_output(1, node, number, name) for name in ("out", "err"))
    return out, err


def running(lab: Lab, script: str = WAITS, boot: dict[str, Any] | None = None, **fields: Any) -> None:
    """A machine whose script runs."""
    lab.boot(**(boot or {}))
    lab.order(script, **fields)
    wait_for(lambda: lab.log().startswith(b"up\n"), 30)


def end(lab: Lab) -> None:
    """Let the script end; it must not have noticed anything."""
    (lab.tree() / "enough").touch()
    assert lab.exit().exit_code == 0 and lab.alive() == []


def test_a_command_runs_as_the_script_does_and_its_exit_code_and_output_come_back(lab: Lab) -> None:
    running(lab, environment={"EPOCHS": "3"}, path=("/opt/first",))
    number = ask(lab, "/bin/sh", "-c", "pwd; echo $EPOCHS $PATH; echo oops >&2; umask; exit 7")
    done = answer(lab, number)
    assert (done.exit_code, done.signal, done.message) == (7, None, None)
    out, err = printed(lab, number)
    pwd, words, mask = out.decode().splitlines()
    assert Path(pwd).samefile(lab.tree()) and words.startswith("3 /opt/first:") and err == b"oops\n"
    assert int(mask, 8) == os.umask(os.umask(0o22))
    assert (done.stdout_bytes, done.stderr_bytes) == (len(out), 5) and done.ended_at >= done.started_at
    end(lab)


def test_the_script_is_supervised_as_before_while_commands_end_around_it(lab: Lab) -> None:
    running(lab, WAITS + "\nraise SystemExit(5)")
    numbers = [ask(lab, "/bin/sh", "-c", f"sleep 0.{n}; exit {n}") for n in range(6)]
    assert [answer(lab, number).exit_code for number in numbers] == list(range(6))
    (lab.tree() / "enough").touch()
    done = lab.exit()
    assert (done.reason, done.exit_code, done.message) == ("exited", 5, None)


def test_the_oldest_python_that_a_machine_may_have_runs_them(lab: Lab) -> None:
    running(lab, boot={"python": old_python()})
    number = ask(lab, "echo", "hello")
    assert answer(lab, number).exit_code == 0 and printed(lab, number) == (b"hello\n", b"")
    end(lab)


def test_a_command_is_ended_after_its_time_with_all_that_came_of_it(lab: Lab) -> None:
    running(lab)
    detached = "import os, time\nif os.fork(): time.sleep(99)\nos.setsid(); print('there', flush=True); time.sleep(99)"
    number = ask(lab, sys.executable, "-c", detached, timeout_s=2.0)
    done = answer(lab, number)
    assert done.exit_code == 124 and "after 2 s" in (done.message or "") and printed(lab, number)[0] == b"there\n"
    assert len(lab.alive()) == 1, "the script alone"
    end(lab)


def test_what_a_command_leaves_behind_ends_with_it(lab: Lab) -> None:
    running(lab)
    number = ask(lab, "/bin/sh", "-c", "setsid sleep 99 & echo started")
    assert answer(lab, number).exit_code == 0 and printed(lab, number)[0] == b"started\n"
    assert len(lab.alive()) == 1
    end(lab)


def test_too_much_output_is_cut_and_secrets_are_masked_to_the_last_byte(lab: Lab) -> None:
    running(lab, boot={"environment": {"TOKEN": "hunter2-and-more"}}, secrets=("TOKEN",))
    program = "import os; print('x' * ((1 << 20) - 7), end=os.environ['TOKEN']); print(os.environ['TOKEN'] * 9)"
    number = ask(lab, sys.executable, "-c", program)
    done = answer(lab, number)
    out = printed(lab, number)[0]
    assert done.exit_code == 0 and done.stdout_bytes > 1 << 20
    assert out == b"x" * ((1 << 20) - 7), "the cut goes through the secret"
    number = ask(lab, "/bin/sh", "-c", "echo it is $TOKEN")
    assert answer(lab, number).exit_code == 0 and printed(lab, number)[0] == b"it is ***\n"
    end(lab)


def test_what_cannot_run_is_answered_too(lab: Lab) -> None:
    running(lab)
    nowhere, late = ask(lab, "no-such-program"), ask(lab, "touch", "late", until=time.time() - 5)
    done = answer(lab, nowhere)
    assert (done.exit_code, done.message) == (127, "cannot start 'no-such-program': No such file or directory")
    done = answer(lab, late)
    assert done.exit_code is None and "too late" in (done.message or "") and not (lab.tree() / "late").exists()
    lab.store.put(f"{lab.box.orders}/exec/1/00000002.json", b"[no")
    assert answer(lab, ask(lab, "true")).exit_code == 0, "what cannot be read hides nothing"
    end(lab)


def test_a_command_ends_with_the_script_and_a_held_machine_takes_others(lab: Lab) -> None:
    running(lab, WAITS + "\nraise SystemExit(3)", hold_s=50.0)
    cut_short = ask(lab, "sleep", "99", timeout_s=99)
    time.sleep(1.0)
    (lab.tree() / "enough").touch()
    done = answer(lab, cut_short)
    assert done.exit_code is None and "together with the script" in (done.message or "")
    wait_for(lambda: lab.box.exit(1, 0))
    looked, unfinished = ask(lab, "ls"), ask(lab, "sleep", "98", timeout_s=98)
    assert answer(lab, looked).exit_code == 0 and b"train.py" in printed(lab, looked)[0]
    lab.stop()
    lab.exit()
    assert answer(lab, unfinished).exit_code is None and lab.alive() == []


def test_each_node_takes_its_own(lab: Lab) -> None:
    lab.nodes = 2
    lab.boot(0), lab.boot(1)
    wait_for(lambda: lab.box.hello(1, 1))
    lab.order(WAITS)
    numbers = [ask(lab, "/bin/sh", "-c", "echo $NODE_RANK", node=node) for node in (1, 0, 1)]
    assert numbers == [0, 1, 2]
    answers = [answer(lab, number, node) for number, node in zip(numbers, (1, 0, 1), strict=True)]
    assert [one.exit_code for one in answers] == [0, 0, 0]
    shown = [printed(lab, number, node)[0] for number, node in zip(numbers, (1, 0, 1), strict=True)]
    assert shown == [b"1\n", b"0\n", b"1\n"] and lab.box.exec_answer(1, 0, 0) is None
    for node in (0, 1):
        (lab.tree(node) / "enough").touch()
    assert [lab.exit(node).exit_code for node in (0, 1)] == [0, 0]


def test_nothing_is_run_while_the_script_s_files_are_committed(lab: Lab, tmp_path: Path) -> None:
    place = Place(FileStore(lab.store.url), lab.born().model_dump(mode="json"), 0)
    script = SimpleNamespace(cwd=str(tmp_path), umask=0o22)
    keeper = [sys.executable, "-I", "-S", str(pack().install(tmp_path / "agent")), "execute"]
    execs = Execs(FileStore(lab.store.url), place, keeper, script, dict(os.environ), str(tmp_path / "scratch"), ())  # type: ignore[arg-type]
    execs.open()
    execs.shut()
    number = ask(lab, "touch", "done")
    time.sleep(3 * POLL_S)
    assert lab.box.exec_answer(1, 0, number) is None
    assert execs._execute(str(tmp_path / "late"), {"argv": ["touch", "done"], "timeout_s": 9.0})[0].endswith("it began")
    assert not (tmp_path / "done").exists()
    execs.open()
    assert answer(lab, number).exit_code == 0 and (tmp_path / "done").exists()
