"""The supervisor by itself: started as the local provider starts it, with a few lines as its agent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sojourn.agent import files
from sojourn.agent.host import clock, processes, supervisor
from sojourn.agent.pack import pack
from tests.agent.conftest import old_python

REPORT = """
import json, os, signal, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
umask = os.umask(0)
print(json.dumps({
    "argv": sys.argv[1:], "cwd": os.getcwd(), "umask": umask, "pid": os.getpid(),
    "blocked": int(status["SigBlk"], 16), "ignored": int(status["SigIgn"], 16),
    "mark": os.environ["SOJOURN_MACHINE"], "key": os.environ.get("WANDB_API_KEY"),
    "stdin": os.readlink("/proc/self/fd/0"), "fds": len(os.listdir("/proc/self/fd")),
}))
"""
TERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
open("ready", "w")
time.sleep(60)
"""
SLEEP = 'import time; open("ready", "w"); time.sleep(60)'
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"

pytestmark = pytest.mark.local
ISOLATIONS = pytest.mark.parametrize("isolation", ["namespace", "subreaper"])


class Box:
    """One machine directory and the supervisors started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True)

    def start(
        self,
        agent: str,
        isolation: str | None = None,
        seconds: float = 60.0,
        grace_s: float = 0.3,
        python: str = sys.executable,
        program: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        (self.folder.parent / "agent.py").write_text(agent)
        if not (self.folder / "boot.json").exists():
            boot = {"deadline_at": time.time() + seconds, "grace_s": grace_s}
            (self.folder / "boot.json").write_text(json.dumps(boot))
        program = program or ["-I", "-S", str(pack().install(self.folder.parent / "program")), "supervise"]
        command = [python, *program, str(self.folder), "--agent", str(self.folder.parent / "agent.py")]
        command += ["--isolation", isolation] if isolation else []
        mark = {"SOJOURN_MACHINE": "machine-n3", "SOJOURN_MACHINE_DIR": str(self.folder)}
        with open(self.folder.parent / "supervisor.log", "ab") as log:
            self.started.append(
                subprocess.Popen(command, env={**os.environ, **mark}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        return self.started[-1]

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < until, (name, self.log())
            time.sleep(0.01)

    def read(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folder / name).read_text()))

    def log(self) -> str:
        return (self.folder.parent / "supervisor.log").read_text()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path / "a 'lease'" / "3")
    yield box
    (box.folder.parent / "release.json").write_text("{}")
    for process in box.started:
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


@ISOLATIONS
def test_the_agent_gets_its_orders_and_a_clean_start(box: Box, isolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    umask = os.umask(0o027)
    os.umask(umask)
    assert box.start(REPORT, isolation).wait(30) == 0
    report = json.loads((box.folder / "agent.log").read_text())
    work = str(box.folder / "work")
    boot = ["run", "--boot", str(box.folder / "boot.json"), "--node", "3", "--scratch", work, "--address", "127.0.0.1"]
    assert report["argv"] == boot
    assert (report["cwd"], report["umask"], report["stdin"]) == (work, umask, "/dev/null")
    assert (report["mark"], report["key"]) == ("machine-n3", "hunter2")
    assert report["blocked"] == 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        assert not report["ignored"] >> (number - 1) & 1, number
    assert report["fds"] <= 4, "stdin, stdout, stderr and the listing itself"
    assert (report["pid"] < 10) == (isolation == "namespace")


@ISOLATIONS
@pytest.mark.parametrize(
    ("agent", "code"),
    [("raise SystemExit(3)", 3), ("", 0), ("import os; os.kill(os.getpid(), 11)", 139), ("not python", 1)],
)
def test_the_exit_code_of_the_agent_is_kept(box: Box, isolation: str, agent: str, code: int) -> None:
    assert box.start(agent, isolation).wait(30) == 0
    ended = box.read("ended.json")
    assert (ended["agent_exit_code"], ended["by"]) == (code, "exit")
    assert not (box.folder / "work").exists()


@ISOLATIONS
def test_sigterm_is_passed_on_to_the_agent(box: Box, isolation: str) -> None:
    process = box.start(TERM, isolation)
    box.wait_for("work/ready")
    process.terminate()
    assert process.wait(30) == 0
    assert box.read("ended.json")["agent_exit_code"] == 7


@ISOLATIONS
def test_a_sigterm_during_the_start_is_not_lost(box: Box, isolation: str) -> None:
    process = box.start(TERM, isolation)
    box.wait_for("state.json")
    process.terminate()
    assert process.wait(30) == 0
    assert box.read("ended.json")["agent_exit_code"] in (7, 143)


@ISOLATIONS
def test_an_agent_that_ignores_sigterm_dies_at_deadline_and_grace(box: Box, isolation: str) -> None:
    process = box.start(DEAF, isolation, seconds=1.0)
    box.wait_for("work/ready")
    process.terminate()
    assert process.wait(30) == 0
    ended, boot = box.read("ended.json"), box.read("boot.json")
    assert (ended["agent_exit_code"], ended["by"]) == (137, "supervisor timer")
    assert 0.3 <= ended["at"] - boot["deadline_at"] < 20


def test_an_agent_that_leaves_between_deadline_and_grace_was_ended_by_its_own_timer(box: Box) -> None:
    until = (
        "import json, sys, time; time.sleep(max(0, json.load(open(sys.argv[3]))['deadline_at'] - time.time() + 0.01))"
    )
    box.start(until, seconds=0.5, grace_s=40).wait(30)
    assert box.read("ended.json")["by"] == "agent timer"


@ISOLATIONS
def test_the_release_mark_ends_it_within_a_moment(box: Box, isolation: str) -> None:
    process = box.start(DEAF, isolation)
    box.wait_for("work/ready")
    began = time.monotonic()
    (box.folder.parent / "release.json").write_text("{}")
    assert process.wait(30) == 0
    assert time.monotonic() - began < 10
    assert box.read("ended.json")["by"] == "release"


def test_a_second_supervisor_leaves_at_once_and_changes_nothing(box: Box) -> None:
    box.start(SLEEP)
    box.wait_for("work/ready")
    state = box.read("state.json")
    assert box.start(SLEEP).wait(30) == 0
    assert box.read("state.json") == state
    assert box.started[0].poll() is None


def test_a_tombstone_keeps_every_later_supervisor_away(box: Box) -> None:
    box.start("").wait(30)
    ended = box.read("ended.json")
    assert box.start('open("started", "w")').wait(30) == 0
    assert box.read("ended.json") == ended
    assert not (box.folder / "work").exists()


def test_a_supervisor_after_a_killed_one_clears_up_and_starts_nothing(box: Box) -> None:
    first = box.start(SLEEP, "subreaper")
    box.wait_for("work/ready")
    first.kill()
    first.wait()
    box.start("raise SystemExit(5)").wait(30)
    assert (box.read("ended.json")["by"], box.read("ended.json")["agent_exit_code"]) == ("killed", None)
    assert not (box.folder / "work").exists()


def test_after_the_deadline_nothing_starts(box: Box) -> None:
    box.start(SLEEP, seconds=-5).wait(30)
    assert box.read("ended.json")["by"] == "supervisor timer"
    assert not (box.folder / "state.json").exists()


def test_a_directory_put_in_place_of_ours_ends_us(box: Box) -> None:
    process = box.start(DEAF)
    box.wait_for("work/ready")
    box.folder.rename(box.folder.with_name("aside"))
    box.folder.mkdir()
    (box.folder / "lock").touch()
    assert process.wait(30) == 0
    assert not (box.folder / "ended.json").exists(), "that directory belongs to another supervisor"


def test_it_weighs_little(box: Box) -> None:
    process = box.start(SLEEP)
    box.wait_for("work/ready")
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident < 16_000, f"{resident} kB"


def test_it_runs_under_an_old_python(box: Box) -> None:
    box.start("raise SystemExit(4)", python=old_python()).wait(30)
    assert box.read("ended.json")["agent_exit_code"] == 4, box.log()


def test_a_wall_clock_set_back_does_not_prolong_the_life(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    (box.folder / "boot.json").write_text(json.dumps({"deadline_at": now + 100, "grace_s": 10}))
    watcher = supervisor.Supervisor("program", str(box.folder), "agent.py", None, lock=0)
    up = clock.HOST.since_boot()
    monkeypatch.setattr(time, "time", lambda: now - 3600)
    assert not watcher.overdue()
    monkeypatch.setattr(clock.Clock, "since_boot", lambda _: up + 111)
    assert watcher.overdue()


def test_a_wall_clock_set_forward_ends_it(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    (box.folder / "boot.json").write_text(json.dumps({"deadline_at": now + 100, "grace_s": 10}))
    watcher = supervisor.Supervisor("program", str(box.folder), "agent.py", None, lock=0)
    monkeypatch.setattr(time, "time", lambda: now + 111)
    assert watcher.overdue()


def test_a_full_disk_at_the_end_does_not_keep_it_from_ending(box: Box) -> None:
    # In a process of its own: a supervisor that ends takes all children of its process with it.
    full = """
import sys
from sojourn.agent import files
from sojourn.agent.host import supervisor
end = supervisor.Supervisor.end
def full(path, value):
    raise OSError(28, "No space left on device", path)
def end_on_a_full_disk(self, by):
    files.write = full
    end(self, by)
supervisor.Supervisor.end = end_on_a_full_disk
supervisor.supervise("program", sys.argv[1], sys.argv[3], sys.argv[5])
"""
    assert box.start("", "subreaper", program=["-c", full]).wait(30) == 0
    assert not (box.folder / "work").exists() and not (box.folder / "ended.json").exists()
    assert "No space left" in box.log()


def test_a_fault_of_its_own_leaves_no_agent_without_a_watcher(box: Box) -> None:
    faulty = """
import sys
from sojourn.agent.host import supervisor
supervisor.Supervisor.released = lambda self: 1 // 0 if self.child else False
supervisor.supervise("program", sys.argv[1], sys.argv[3], sys.argv[5])
"""
    assert box.start(DEAF, "subreaper", program=["-c", faulty]).wait(30) == 0
    ended = box.read("ended.json")
    assert (ended["by"], ended["agent_exit_code"]) == ("supervisor error", 137)
    assert "ZeroDivisionError" in box.log()


def test_a_signal_never_reaches_a_process_that_took_over_a_pid() -> None:
    with subprocess.Popen(["sleep", "60"]) as innocent:
        found = processes.process(innocent.pid)
        assert found is not None
        processes.send(found._replace(start="1"), signal.SIGKILL)
        time.sleep(0.05)
        assert innocent.poll() is None
        processes.send(found, signal.SIGKILL)
        assert innocent.wait(30) == -signal.SIGKILL


def test_a_zombie_is_not_alive() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert processes.process(child) is None
    os.waitpid(child, 0)


def test_the_process_table_of_ps_agrees_with_proc() -> None:
    """What macOS uses."""
    with subprocess.Popen(["sleep", "60"]) as child:
        listed = {(p.pid, p.parent) for p in processes._processes_by_ps()}
        assert (child.pid, os.getpid()) in listed
        assert all(Path(f"/proc/{pid}").exists() for pid, parent in listed if parent == os.getpid()), "ps itself"
        assert (child.pid, os.getpid()) in {(p.pid, p.parent) for p in processes.processes()}
        child.kill()


def test_remove_takes_away_what_is_hard_to_remove(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "link").symlink_to(kept)
    (tree / "a" / "b" / os.fsdecode(b"\xff\n name")).write_text("x")
    os.mkfifo(tree / "a" / "pipe")
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0o500)
    assert files.remove(str(tree))
    assert not tree.exists() and kept.read_text() == "kept"
    assert files.remove(str(tree)), "what is not there is gone"


def test_an_owner_who_is_not_root_removes_read_only_directories(tmp_path: Path) -> None:
    deep = tmp_path / "tree" / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    for folder in (deep, deep.parent, deep.parent.parent):
        folder.chmod(0o500 if folder != deep else 0)
    command = [
        sys.executable,
        "-c",
        "import sys; from sojourn.agent import files; print(files.remove(sys.argv[1]))",
    ]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv to give up its right to write anywhere")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run([*command[:2], "touch", str(deep.parent / "new")], check=True, capture_output=True)
    answer = subprocess.run([*command, str(tmp_path / "tree")], capture_output=True, text=True, check=True)
    assert (answer.stdout.strip(), os.listdir(tmp_path)) == ("True", [])


def test_remove_takes_away_what_lies_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.mkdir(tmp_path / "tree")
    os.chdir(tmp_path / "tree")
    name = "deeper" * 20
    for _ in range(50):
        os.mkdir(name)
        os.chdir(name)
    os.fchdir(here)
    os.close(here)
    assert files.remove(str(tmp_path / "tree"))


def test_of_many_writers_at_once_one_writes_and_no_draft_is_left(tmp_path: Path) -> None:
    path = str(tmp_path / "request.json")
    assert files.write_once(path, {"a": 1})
    assert not files.write_once(path, {"a": 2})
    files.write(path, {"a": 3})
    assert files.read(path) == {"a": 3}
    assert os.listdir(tmp_path) == ["request.json"]


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_a_file_that_is_no_json_object_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert files.read(str(tmp_path / "state.json")) is None
