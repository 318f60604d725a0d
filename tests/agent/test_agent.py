from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import pytest

from sojourn.agent.script.launch import command_line
from sojourn.protocol import Bundle
from sojourn.providers.local import LocalProvider
from sojourn.records import FileEntry
from sojourn.renting import Need
from tests.agent.conftest import LEASE, RUN, Lab, old_python, wait_for

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
open("sojourn-outputs/daemon", "w").write(str(os.getpid()))
time.sleep(300)
"""


def test_a_script_that_succeeds_brings_its_outputs_home(lab: Lab) -> None:
    end = lab.run("import os; print('hello'); open('model.bin', 'wb').write(b'\\0' * 10)")
    assert (end.reason, end.exit_code, end.signal, end.message) == ("exited", 0, None, None)
    assert lab.outputs() == {"model.bin": b"\0" * 10}
    assert end.output == 1 and end.checkpoint is None
    assert lab.log() == b"hello\n" and end.tail == "hello" and end.log_bytes == 6
    beat = lab.box.beat(1, 0)
    assert beat is not None and beat.phase == "done"


def test_the_oldest_python_that_a_machine_may_have_is_enough(lab: Lab) -> None:
    lab.boot(python=old_python())
    lab.order("open('model.pt', 'w').write('x'); print('hello')", checkpoint=("*.pt",), inputs=(lab.entry("a", b"a"),))
    end = lab.exit()
    assert (end.reason, end.exit_code, end.message, end.checkpoint) == ("exited", 0, None, 1)
    assert lab.log() == b"hello\n" and lab.outputs() == {"model.pt": b"x"}


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


# --- what the script is given -----------------------------------------------------------


def test_the_environment_is_clean_and_holds_what_the_order_says(lab: Lab) -> None:
    lab.boot(environment={"LEAK": "1", "PYTHONPATH": "/nowhere", "CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C"})
    lab.order("import json, os; print(json.dumps(dict(os.environ)))", environment={"EPOCHS": "3"}, path=("/opt/first",))
    assert lab.exit().exit_code == 0
    env = json.loads(lab.log())
    assert "LEAK" not in env and "PYTHONPATH" not in env
    assert env["EPOCHS"] == "3" and env["LC_ALL"] == "C" and env["PATH"].startswith("/opt/first:")
    assert env["SOJOURN_MACHINE_DIR"] == str(lab.folder / "0"), "else nobody who outlives the agent is found by it"
    assert env["SOJOURN_RUN"] == RUN and env["SOJOURN_OUTPUT_DIR"] == str(lab.tree() / "sojourn-outputs")
    assert not [name for name in env if name.startswith(("PET_", "MASTER_")) or "RANK" in name or "WORLD" in name]


def test_the_script_runs_in_its_directory_with_its_inputs_and_without_what_was_removed(lab: Lab) -> None:
    lab.boot()
    inputs = (
        lab.entry("data/a b.bin", b"a" * 3_000_000),
        lab.entry("data/ü.bin", b"b", "md5").model_copy(update={"mode": 0o755}),
        _by_url(lab, "sub/far", b"far"),
    )
    script = """
import os
assert os.getcwd().endswith("/tree/sub"), os.getcwd()
assert os.path.getsize("../data/a b.bin") == 3_000_000
assert os.access("../data/ü.bin", os.X_OK)
assert open("far").read() == "far"
assert not os.path.exists("old") and not os.path.exists("../stale")
os.mkdir("new"); open("new/file", "w").write("x")
"""
    lab.order(
        script,
        directory="sub",
        argv=("/bin/sh", "-c", f"umask; exec {sys.executable} train.py"),
        files={"sub/old/x": "1", "stale": "2", "sub/old/y": "3"},
        inputs=inputs,
        remove=("sub/old", "stale", "never-there"),
    )
    end = lab.exit()
    assert end.exit_code == 0, end.tail
    assert lab.outputs() == {"sub/new/file": b"x"}
    umask = os.umask(0)
    os.umask(umask)
    assert int(lab.log(), 8) == umask


def _by_url(lab: Lab, path: str, body: bytes) -> FileEntry:
    (lab.folder / "far away").write_bytes(body)
    digest = hashlib.sha256(body).hexdigest()
    return FileEntry(path=path, hash=f"sha256:{digest}", size=len(body), source=(lab.folder / "far away").as_uri())


def test_an_input_with_the_wrong_bytes_starts_nothing(lab: Lab) -> None:
    lab.boot()
    wrong = lab.entry("data/train.bin", b"right")
    lab.store.put(wrong.source, b"wrong")
    lab.order("print('started')", inputs=(*(lab.entry(f"x{n}", b"%d" % n) for n in range(20)), wrong))
    end = lab.exit()
    assert (end.reason, end.exit_code, end.started_at) == ("refused", None, None)
    assert "data/train.bin" in (end.message or "") and wrong.hash in (end.message or "")
    assert lab.log() == b""


def test_a_missing_input_starts_nothing(lab: Lab) -> None:
    lab.boot()
    missing = lab.entry("data/train.bin", b"right")
    lab.store.delete(missing.source)
    lab.order("print('started')", inputs=(missing,))
    end = lab.exit()
    assert end.reason == "refused" and "data/train.bin" in (end.message or "") and missing.hash in (end.message or "")
    assert lab.log() == b""


@pytest.mark.parametrize("path", ["../out", "/etc/out", "way/out/x"])
def test_an_archive_cannot_write_outside_the_tree(lab: Lab, path: str) -> None:
    lab.boot()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("way")
        link.type, link.linkname = tarfile.SYMTYPE, ".." if path.startswith("way") else "."
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo(path), io.BytesIO())
    bundle = Bundle(archives=(lab.entry("b", buffer.getvalue()),), files=(), listing=(), directory=".")
    lab.order(bundle=bundle)
    end = lab.exit()
    assert end.reason == "refused" and "would leave" in (end.message or "")
    assert not (lab.scratch() / "out").exists()


def test_a_missing_secret_is_refused_by_name(lab: Lab) -> None:
    end = lab.run("print('started')", secrets=("WANDB_API_KEY",))
    assert (end.reason, end.message) == ("refused", "the secret WANDB_API_KEY is not set on this machine")
    assert lab.log() == b""


def test_a_secret_reaches_the_script_and_never_the_log(lab: Lab) -> None:
    secret = "s3cr3t-value/+="
    script = r"""
import os, sys, time
secret = os.environ["KEY"].encode()
assert len(secret) == 15
for cut in range(len(secret) + 1):
    os.write(1, b"<" + secret[:cut]); time.sleep(0.02); os.write(1, secret[cut:] + b">\n")
os.write(1, b"z" * 262_140 + secret + b"\n")
raise SystemExit("no " + os.environ["KEY"])
"""
    end = lab.run(script, secrets=("KEY",), environment={"KEY": secret})
    assert secret.encode() not in lab.log() and b"s3cr3t" not in lab.log()
    assert lab.log() == b"<***>\n" * 16 + b"z" * 262_140 + b"***\nno ***\n"
    assert end.tail.endswith("no ***") and end.exit_code == 1


def test_what_a_script_leaves_in_the_background_is_named_as_ended_with_it(lab: Lab) -> None:
    end = lab.run("import subprocess; subprocess.Popen(['sleep', '300'])")
    assert end.exit_code == 0 and "left in the background: sleep 300" in (end.message or "")


def test_a_helper_that_ends_by_itself_is_not_worth_a_word(lab: Lab) -> None:
    end = lab.run("import subprocess; subprocess.Popen(['sleep', '0.3'])")
    assert (end.exit_code, end.message) == (0, None)


def test_a_command_that_is_not_there_is_refused(lab: Lab) -> None:
    end = lab.run(argv=("pyhton", "train.py"))
    assert end.reason == "refused" and "'pyhton'" in (end.message or "")


def test_a_script_for_a_shell_runs_whole_and_stops_at_its_first_error(lab: Lab) -> None:
    end = lab.run(argv=("echo one | tr o 0\ncd sub\nfalse\necho never",), command={"shell": True}, files={"sub/x": ""})
    assert lab.log() == b"0ne\n" and end.exit_code == 1


def test_a_script_with_a_first_line_of_its_own_is_read_by_what_that_names(lab: Lab) -> None:
    text = f"#!{sys.executable} -I\nimport os, sys\nprint(sys.flags.isolated, sorted(os.listdir('.')))\n"
    end = lab.run(argv=(text,), command={"shell": True})
    assert end.exit_code == 0
    assert lab.log() == b"1 ['sojourn-outputs', 'train.py']\n"
    assert set(lab.outputs()) == set()


def test_a_launcher_of_the_script_s_own_hears_of_the_nodes_and_of_no_rank(lab: Lab) -> None:
    lab.nodes = 2
    for node in range(2):
        lab.boot(node)
    lab.order(argv=("env",), command={"processes": 4})
    for node in range(2):
        assert lab.exit(node).exit_code == 0
        env = dict(line.split("=", 1) for line in lab.log(node).decode().splitlines() if "=" in line)
        assert (env["NODE_RANK"], env["NNODES"]) == (env["PET_NODE_RANK"], env["PET_NNODES"]) == (str(node), "2")
        assert env["PET_MASTER_ADDR"] == env["MASTER_ADDR"] and env["PET_MASTER_PORT"] == env["MASTER_PORT"]
        assert env["PET_NPROC_PER_NODE"] == "4"
        assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} & set(env)


def test_a_variable_that_the_user_sets_counts_more_than_ours(lab: Lab) -> None:
    lab.nodes = 2
    for node in range(2):
        lab.boot(node)
    lab.order("import os; print(os.environ['MASTER_PORT'])", environment={"MASTER_PORT": "29500"})
    assert [lab.exit(node).exit_code for node in range(2)] == [0, 0]
    assert lab.log(0) == lab.log(1) == b"29500\n"


def test_no_order_ends_the_machine(lab: Lab) -> None:
    lab.boot(order_wait_s=0.5)
    end = lab.exit()
    assert end.reason == "refused" and "no order" in (end.message or "")


def test_a_stop_before_the_order_ends_the_machine(lab: Lab) -> None:
    lab.boot()
    wait_for(lambda: lab.box.hello(1, 0))
    lab.stop()
    assert lab.exit().reason == "stopped"


def test_an_order_that_no_agent_can_read_is_waited_for_and_then_refused(lab: Lab) -> None:
    lab.boot(order_wait_s=1.0)
    lab.store.put(f"{lab.box.orders}/order/1.json", b"{")
    end = lab.exit()
    assert (end.reason, end.message) == ("refused", "no order that can be read came within 1 s")


LAID = [
    "os.mkfifo(exit)",
    "os.symlink('exit.json', exit)",
    "os.makedirs(exit + '/sub')",
    "os.symlink('/no/where', exit)",
]


@pytest.mark.parametrize("laid", LAID)
def test_what_is_no_file_keeps_the_agent_from_no_last_word(lab: Lab, laid: str) -> None:
    exit_json = Path(lab.folder, "store", lab.box.machine, "1", "0", "exit.json")
    end = lab.run(f"import os\nexit = {str(exit_json)!r}\n{laid}")
    assert (end.reason, end.exit_code) == ("exited", 0)
    assert "exit.json was no file, and was put aside" in (lab.scratch() / "agent.err").read_text()


def test_an_order_of_wrong_types_is_our_fault(lab: Lab) -> None:
    lab.boot()
    lab.order(odd={"deadline_at": "soon"})
    end = lab.exit()
    assert end.reason == "fault" and "the agent failed while waiting: TypeError" in (end.message or "")
    assert "Traceback" in (lab.scratch() / "agent.err").read_text()


def test_a_fault_of_ours_brings_home_what_the_script_made(lab: Lab) -> None:
    lab.boot()
    lab.order("open('part', 'w').write('x'); print('ready'); raise SystemExit(3)", odd={"hold_s": "long"})
    end = lab.exit()
    assert (end.reason, end.exit_code) == ("fault", 3)
    assert "the agent failed while" in (end.message or "") and "TypeError" in (end.message or "")
    assert lab.outputs() == {"part": b"x"} and lab.log() == b"ready\n" and lab.alive() == []


# --- the log ----------------------------------------------------------------------------


def test_bytes_that_are_no_text_pass_unharmed(lab: Lab) -> None:
    lab.run("import os; os.write(1, bytes(range(256))); os.write(2, b'\\xff\\n')")
    assert lab.log() == bytes(range(256)) + b"\xff\n"


def test_a_line_is_in_the_store_while_the_script_runs(lab: Lab) -> None:
    lab.boot()
    lab.order("import time; print('early'); time.sleep(60)")
    wait_for(lambda: lab.log() == b"early\n")
    lab.stop()
    assert lab.exit().reason == "stopped"


@pytest.mark.parametrize("megabytes", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_much_output_arrives_whole_in_bounded_memory(lab: Lab, megabytes: int) -> None:
    script = f"""
import os, hashlib
digest = hashlib.sha256()
for n in range({megabytes} * 16):
    chunk = (b"%015d\\n" % n) * 4096
    digest.update(chunk)
    view = memoryview(chunk)
    while view:
        view = view[os.write(1, view):]
open("digest", "w").write(digest.hexdigest())
"""
    agent = lab.boot()
    lab.order(script)
    peak = 0
    while agent.poll() is None:
        peak = max(peak, _resident(agent.pid))
        time.sleep(0.05)
    end = lab.exit()
    log = hashlib.sha256()
    for segment in lab.box.log(1, 0):
        log.update(segment.body)
    assert end.log_bytes == megabytes << 20
    assert log.hexdigest() == lab.outputs()["digest"].decode()
    assert peak < 160 << 20
    assert end.started_at is not None and end.ended_at - end.started_at < megabytes / 20


def test_the_log_waits_while_the_store_fails(lab: Lab) -> None:
    lab.boot()
    lab.order(
        "import os, time; open('ready', 'w')\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "[os.write(1, b'%04095d\\n' % n) for n in range(5000)]; open('done', 'w')"
    )
    wait_for(lambda: (lab.tree() / "ready").exists())
    away = (lab.folder / "store").rename(lab.folder / "elsewhere")
    (lab.tree() / "go").touch()
    wait_for(lambda: (lab.tree() / "done").exists())
    time.sleep(0.5)
    away.rename(lab.folder / "store")
    end = lab.exit()
    assert end.exit_code == 0 and end.message is None and end.log_bytes == 5000 * 4096
    assert lab.log() == b"".join(b"%04095d\n" % n for n in range(5000))


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


# --- nothing of it stays ----------------------------------------------------------------


def test_what_the_script_leaves_behind_is_ended(lab: Lab) -> None:
    end = lab.run(
        HOSTILE.replace(
            "sys.exit(0)",
            "[time.sleep(0.01) for _ in range(500) if not os.path.exists('sojourn-outputs/daemon')]; sys.exit(0)",
        )
    )
    assert "sojourn-outputs/daemon" in lab.outputs() and end.exit_code == 0
    assert lab.alive() == []


def test_what_outlives_its_agent_and_supervisor_is_found_by_whoever_releases_the_machine(lab: Lab) -> None:
    provider = LocalProvider(lab.folder / "home", isolation="subreaper")
    provider.create(provider.request(lab.born(), provider.offers(Need()).fitting[0]))
    lab.order("import time; print('ready'); time.sleep(300)")
    wait_for(lambda: b"ready" in lab.log())
    state = json.loads((provider.machines / str(LEASE) / "0" / "state.json").read_text())
    os.kill(state["pid"], signal.SIGKILL)
    os.kill(state["agent_pid"], signal.SIGKILL)
    assert lab.alive(), "nobody is left to end the script"
    assert provider.release(str(LEASE)) is True
    assert lab.alive() == []


def test_the_deadline_ends_a_script_that_hangs(lab: Lab) -> None:
    lab.deadline_at, lab.grace_s = time.time() + 5.0, 4.0
    end = lab.run(
        "import signal, time; open('part', 'w').write('x');"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {15}); time.sleep(300)"
    )
    assert (end.reason, end.exit_code, end.failed_rank) == ("deadline", 134, None)
    assert 'train.py", line 1 in <module>' in end.tail, "Python says where it hung"
    assert not list(lab.tree().glob("core*"))
    assert end.ended_at < lab.deadline_at + lab.grace_s and time.time() < lab.deadline_at + lab.grace_s
    assert lab.outputs() == {"part": b"x"} and lab.alive() == []


def test_a_hang_that_no_python_tells_of_ends_as_well(lab: Lab) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(300)"
    lab.boot()
    lab.order(deaf, deadline_at=time.time() + 4.0, grace_s=3.0, environment={"PYTHONFAULTHANDLER": ""})
    end = lab.exit()
    assert (end.reason, end.exit_code, end.tail) == ("deadline", 137, "")


def test_an_earlier_deadline_in_the_order_counts(lab: Lab) -> None:
    end = lab.run("import time; time.sleep(300)", deadline_at=time.time() + 1.5)
    assert end.reason == "deadline" and time.time() < lab.deadline_at


CHECKPOINTS_ON_SIGTERM = """
import signal, sys, time
def save(*_):
    time.sleep(0.5)
    open("last.pt", "w").write("step 9")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("ready")
while True:
    time.sleep(0.1)
"""


@pytest.mark.parametrize("argv", [(sys.executable, "train.py"), ("/bin/sh", "-c", f"{sys.executable} train.py; true")])
def test_a_stop_lets_the_script_save_its_checkpoint(lab: Lab, argv: tuple[str, ...]) -> None:
    lab.boot()
    lab.order(CHECKPOINTS_ON_SIGTERM, argv=argv, checkpoint=("*.pt",))
    wait_for(lambda: b"ready" in lab.log())
    lab.stop()
    end = lab.exit()
    assert (end.reason, end.exit_code, end.checkpoint) == ("stopped", 0, 1)
    assert "the test says so" in (end.message or "")
    assert lab.outputs("ckpt") == {"last.pt": b"step 9"} == lab.outputs()


def test_sigterm_to_the_agent_is_a_stop(lab: Lab) -> None:
    agent = lab.boot()
    lab.order(CHECKPOINTS_ON_SIGTERM, checkpoint=("*.pt",))
    wait_for(lambda: b"ready" in lab.log())
    agent.terminate()
    end = lab.exit()
    assert (end.reason, end.checkpoint) == ("stopped", 1) and "SIGTERM" in (end.message or "")


def test_a_script_that_ignores_sigterm_is_ended_at_once(lab: Lab) -> None:
    lab.grace_s = 60.0  # of which a script that listens would have 20
    lab.boot()
    lab.order(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "open('o', 'w').write('x'); print('ready'); time.sleep(300)"
    )
    wait_for(lambda: b"ready" in lab.log())
    lab.stop()
    start = time.monotonic()
    end = lab.exit()
    assert time.monotonic() - start < 18
    assert (end.reason, end.exit_code, end.signal) == ("stopped", 137, "SIGKILL")
    assert lab.outputs() == {"o": b"x"} and lab.alive() == []


def test_a_checkpoint_torn_by_our_kill_is_not_committed(lab: Lab) -> None:
    lab.boot()
    script = """
import time
with open("model.pt", "w") as file:
    print("ready")
    while True:
        file.write("x"); file.flush(); time.sleep(0.01)
"""
    lab.order(script, checkpoint=("*.pt",))
    wait_for(lambda: b"ready" in lab.log())
    lab.stop()
    assert lab.exit().checkpoint is None
    assert "model.pt" in lab.outputs()


def test_a_script_that_removes_its_own_directory_is_said_so(lab: Lab) -> None:
    end = lab.run("import os, shutil; print('bye'); shutil.rmtree(os.getcwd()); raise SystemExit(5)")
    assert end.exit_code == 5 and "removed its own working directory" in (end.message or "")
    assert lab.log() == b"bye\n"


# --- outputs and checkpoints ------------------------------------------------------------


def test_a_script_may_make_the_usual_folder_of_outputs_itself_and_it_comes_home_though_git_ignores_it(lab: Lab) -> None:
    end = lab.run("import os; os.mkdir('outputs'); open('outputs/x', 'w').write('x')", ignore=("outputs/",))
    assert end.exit_code == 0, lab.log()
    assert lab.outputs() == {"outputs/x": b"x"}


def test_outputs_are_in_the_store_before_the_script_ends(lab: Lab) -> None:
    lab.boot()
    script = """
import os, time
open("first", "w").write("1")
while not os.path.exists("go"): time.sleep(0.02)
os.remove("first"); open("second", "w").write("2")
while not os.path.exists("stop"): time.sleep(0.02)
"""
    lab.order(script)
    wait_for(lambda: lab.outputs() == {"first": b"1"})
    assert lab.agents[0].poll() is None
    (lab.tree() / "go").touch()
    wait_for(lambda: lab.outputs() == {"second": b"2", "go": b""})
    (lab.tree() / "stop").touch()
    assert lab.exit().exit_code == 0
    assert lab.outputs() == {"second": b"2", "go": b"", "stop": b""}


def test_what_is_an_output_without_a_list(lab: Lab) -> None:
    script = r"""
import os
def write(path, text="new"):
    if os.path.dirname(path): os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write(text)
for path in ["new", "deep/new file", "tracked", "data/in", "scratch/x", "a.tmp", "keep.tmp", "runs/7/model.pt",
             "__pycache__/m.pyc", ".git/x", "venv/pyvenv.cfg", "venv/x", "node_modules/x", ".dvc/tmp/x",
             "outputs/a.tmp", "outputs/.git/y"]:
    write(path)
os.symlink("new", "link"); os.symlink("/etc/passwd", "passwd"); os.symlink("deep", "same"); os.symlink("..", "deep/up")
os.mkfifo("fifo"); write("line\nbreak"); open(b"raw\xff", "w").close(); os.chmod("new", 0o750)
"""
    end = lab.run(
        script,
        files={"tracked": "old", "same as before": "old"},
        inputs=(lab.entry("data/in", b"old"),),
        ignore=("scratch/", "*.tmp", "!keep.tmp", "/runs"),
        checkpoint=("*.pt",),
    )
    assert end.exit_code == 0, end.tail
    assert "raw" in (end.message or "") and "no UTF-8" in (end.message or "")
    names = {"new", "deep/new file", "tracked", "keep.tmp", "runs/7/model.pt", "outputs/a.tmp", "outputs/.git/y"}
    assert set(lab.outputs()) == names | {"link", "same/new file", "line\nbreak"}
    manifest = lab.box.manifest(1, 0, "out", end.output or 0)
    assert manifest is not None and {e.path: e.mode for e in manifest.files}["new"] == 0o750


def test_listed_outputs_are_all_that_comes_home(lab: Lab) -> None:
    script = "import os; os.mkdir('model'); open('model/x', 'w'); open('other', 'w'); open('metrics.json', 'w')"
    end = lab.run(script, files={"kept": "as it was"}, outputs=("model", "metrics.json", "kept", "never"))
    assert set(lab.outputs()) == {"model/x", "metrics.json", "kept"} and end.output == 1


def test_checkpoints_are_numbered_and_complete(lab: Lab) -> None:
    lab.boot()
    script = """
import os, time
os.mkdir("ckpt")
for step in (1, 2):
    open("ckpt/model", "w").write("step %d" % step); open("best.pt", "w").write("step %d" % step)
    while not os.path.exists("go%d" % step): time.sleep(0.02)
"""
    lab.order(script, checkpoint=("*.pt", "ckpt/"), ignore=("ckpt",))
    for step in (1, 2):
        whole = {"ckpt/model": b"step %d" % step, "best.pt": b"step %d" % step}
        wait_for(partial(_committed, lab, step, whole))
        (lab.tree() / f"go{step}").touch()
    assert lab.exit().checkpoint == 2
    assert lab.store.exists(f"{lab.box.machine}/1/0/commit/00000002.json")


def _committed(lab: Lab, step: int, whole: dict[str, bytes]) -> bool:
    return lab.outputs("ckpt") == whole and lab.box.manifests(1, 0, "commit") == list(range(1, step + 1))


def test_a_checkpoint_is_not_taken_while_somebody_has_it_open(lab: Lab) -> None:
    lab.boot()
    script = """
import os, time
with open("model.pt", "w") as file:
    file.write("half"); file.flush()
    while not os.path.exists("go"): time.sleep(0.02)
    file.write(" and half")
while not os.path.exists("stop"): time.sleep(0.02)
"""
    lab.order(script, checkpoint=("*.pt",))
    wait_for(lambda: lab.outputs() == {"model.pt": b"half"})
    time.sleep(2)
    assert lab.outputs("ckpt") == {}
    (lab.tree() / "go").touch()
    wait_for(lambda: lab.outputs("ckpt") == {"model.pt": b"half and half"})
    (lab.tree() / "stop").touch()
    assert lab.exit().checkpoint == 1


def test_a_restored_checkpoint_that_the_script_overwrites_counts(lab: Lab) -> None:
    lab.boot()
    body = b"step 1"
    key = f"{lab.box.machine}/blob/{hashlib.sha256(body).hexdigest()}"
    lab.store.put(key, body)
    restored = [
        FileEntry(path=path, hash=f"sha256:{hashlib.sha256(body).hexdigest()}", size=6, source=key)
        for path in ("model.pt", "frozen.pt")
    ]
    lab.order("open('model.pt', 'w').write('step 2')", inputs=tuple(restored), checkpoint=("*.pt",))
    assert lab.exit().checkpoint == 1
    assert lab.outputs("ckpt") == {"model.pt": b"step 2", "frozen.pt": b"step 1"}
    assert lab.outputs() == {"model.pt": b"step 2", "frozen.pt": b"step 1"}, "what stands in the tree comes home"


# --- torchrun ---------------------------------------------------------------------------

ALL_REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor(float(dist.get_rank() + 1))
dist.all_reduce(total)
print(f"sum {total.item():g} of {dist.get_world_size()}")
dist.destroy_process_group()
"""
WRAPPED = {"wrap": 0, "processes": 2}


def test_a_python_without_torch_says_what_its_ranks_need() -> None:
    words = {"argv": [sys.executable, "-S", "x.py"], "shell": False, **WRAPPED, "wrap": 1}
    line = command_line({"command": words, "nodes": ["one"]}, 0, [], "")

    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1 and "has no torch" in done.stderr and "--processes own" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_torchrun_starts_two_ranks(lab: Lab) -> None:
    end = lab.run(ALL_REDUCE, command=WRAPPED)
    assert (end.reason, end.exit_code, end.failed_rank) == ("exited", 0, None), end.tail
    assert b"[rank 0] sum 3 of 2\n" in lab.log() and b"[rank 1] sum 3 of 2\n" in lab.log()
    assert sorted(rank.rank for rank in end.ranks) == [0, 1]


def test_the_rank_that_failed_first_is_the_one_that_is_shown(lab: Lab) -> None:
    script = """
import os, signal, time
if os.environ["RANK"] == "1":
    raise RuntimeError("rank one has had enough")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
try:
    time.sleep(0.12)
finally:
    print("rank zero hangs")
time.sleep(300)
"""
    end = lab.run(script, command=WRAPPED)
    assert (end.reason, end.failed_rank, end.exit_code) == ("exited", 1, 1)
    assert end.tail.endswith("RuntimeError: rank one has had enough") and "[rank" not in end.tail
    assert end.ended_at - end.ranks[0].at < 60 and lab.alive() == [], "the others are not waited for"


@pytest.mark.slow
def test_each_rank_says_where_it_hung_at_the_deadline(lab: Lab) -> None:
    lab.deadline_at = time.time() + 40  # for two ranks to start on a busy host
    script = "import os, time\ndef stuck():\n    time.sleep(300)\nprint('up')\nstuck()"
    lab.boot()
    lab.order(script, command=WRAPPED)
    wait_for(lambda: lab.log().count(b"up") == 2, 60)
    end = lab.exit()
    assert (end.reason, end.failed_rank) == ("deadline", None)
    for rank in (b"0", b"1"):
        assert b"[rank " + rank + b"]   File" in lab.log()
    assert lab.log().count(b"line 3 in stuck") == 2 and lab.alive() == []


def test_of_two_ranks_that_fail_together_the_first_is_shown(lab: Lab) -> None:
    script = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun may notice the first end before the second
open("ready" + os.environ["RANK"], "w").close()
if os.environ["RANK"] == "1":
    while not os.path.exists("ready0"): time.sleep(0.001)
    print("the cause"); open("cue", "w").close(); os._exit(3)
while not os.path.exists("cue"): time.sleep(0.001)
time.sleep(0.03); print("the consequence"); os._exit(4)
"""
    end = lab.run(script, command=WRAPPED)
    assert (end.failed_rank, end.exit_code, end.tail) == (1, 3, "the cause")
    assert [(rank.rank, rank.exit_code) for rank in end.ranks] == [(1, 3), (0, 4)]


def test_a_stop_reaches_the_ranks_and_not_their_workers(lab: Lab) -> None:
    script = """
import os, signal, subprocess, sys, time
program = "import signal, time; signal.signal(15, lambda *_: exit(9)); time.sleep(300)"
worker = subprocess.Popen([sys.executable, "-c", program])
def save(*_):
    time.sleep(0.3)
    assert worker.poll() is None
    open("rank%s.pt" % os.environ["RANK"], "w").write("saved")
    os._exit(0)
signal.signal(signal.SIGTERM, save)
print("ready")
while True:
    time.sleep(0.1)
"""
    lab.boot()
    lab.order(script, command=WRAPPED, checkpoint=("*.pt",))
    wait_for(lambda: lab.log().count(b"ready") == 2)
    lab.stop()
    end = lab.exit()
    assert (end.reason, end.checkpoint) == ("stopped", 1)
    assert lab.outputs("ckpt") == {"rank0.pt": b"saved", "rank1.pt": b"saved"} and lab.alive() == []


def test_two_nodes_meet_and_their_checkpoints_agree(lab: Lab) -> None:
    lab.nodes = 2
    lab.boot(0), lab.boot(1)
    wait_for(lambda: lab.box.hello(1, 1))
    script = ALL_REDUCE + "import os; open('shard%s.pt' % os.environ['NODE_RANK'], 'w').write(os.environ['NODE_RANK'])"
    # So rare that only the last commits, when both scripts are over, can agree.
    lab.order(script, command={"wrap": 0}, checkpoint=("*.pt",), commit_every_s=60)
    ends = [lab.exit(0), lab.exit(1)]
    assert [end.exit_code for end in ends] == [0, 0], ends
    assert b"sum 3 of 2" in lab.log(0) and b"sum 3 of 2" in lab.log(1)
    assert [end.checkpoint for end in ends] == [1, 1]
    assert lab.outputs("ckpt", 0) == {"shard0.pt": b"0"} and lab.outputs("ckpt", 1) == {"shard1.pt": b"1"}
    assert lab.store.exists(f"{lab.box.machine}/1/0/commit/00000001.json")


def test_a_node_that_fails_ends_the_others(lab: Lab) -> None:
    lab.nodes = 2
    lab.boot(0), lab.boot(1)
    wait_for(lambda: lab.box.hello(1, 1))
    script = (
        "import os, time; print('up'); time.sleep(1 if os.environ['NODE_RANK'] == '1' else 300); raise SystemExit(4)"
    )
    lab.order(script)
    assert (lab.exit(1).reason, lab.exit(1).exit_code) == ("exited", 4)
    start = time.monotonic()
    end = lab.exit(0)
    assert end.reason == "peer" and "node 1" in (end.message or "") and time.monotonic() - start < 90
    assert lab.alive() == []
