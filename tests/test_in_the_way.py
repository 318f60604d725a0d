"""What is no file of ours in the place of one: a folder, a pipe, a loose link, or a file where a folder should be."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_world import World

from sojourn.agent.errors import Exists, StoreError
from sojourn.agent.stores.store import FileStore
from sojourn.errors import SojournError
from sojourn.lease.state import Seen, State, Terms, step
from sojourn.protocol import Exit
from sojourn.renting import Lease, Machine
from sojourn.store import folders
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import ExistsError, Store
from sojourn.waiting import SystemClock

RUN = "quiet-heron-7f3a"
KEY = "machine/digits/x/1/0/exit.json"
RECORD = f"control/digits/{RUN}/report.json"
SIGN = f"control/digits/{RUN}/owner.json"


def a_folder(path: Path) -> None:
    path.mkdir()


def a_full_folder(path: Path) -> None:
    (path / "sub").mkdir(parents=True)
    (path / "sub/7.json").write_text("{}")


def a_loose_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def a_loop(path: Path) -> None:
    path.symlink_to(path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


NO_FILES = [a_folder, a_full_folder, a_loose_link, a_loop, a_pipe]
NO_FOLDERS = [a_loose_link, a_loop, a_pipe, lambda path: path.write_text("x")]
Made = Callable[[Path], Any]


@pytest.mark.parametrize("made", NO_FILES)
@pytest.mark.parametrize("above", [False, True], ids=["in its place", "in the place of its folder"])
def test_a_machine_s_object_takes_the_place_of_what_is_no_file(tmp_path: Path, made: Made, above: bool) -> None:
    store = FileStore(tmp_path.as_uri())
    for use in (lambda: store.put(KEY, b"ours"), lambda: store.create(KEY, b"ours", durable=True)):
        shutil.rmtree(tmp_path / "machine", ignore_errors=True)
        place = (tmp_path / KEY).parent if above else tmp_path / KEY
        place.parent.mkdir(parents=True)
        if above and made in (a_folder, a_full_folder):
            continue
        made(place)
        use()
        assert store.get(KEY) == b"ours"
        assert Store(tmp_path.as_uri()).keys("machine") == [KEY], "nobody sees what was put aside"
        with pytest.raises(Exists):
            store.create(KEY, b"another")
    Store(tmp_path.as_uri()).clear("machine")
    assert not (tmp_path / "machine").exists(), "and it goes with the run"


@pytest.mark.parametrize("made", NO_FILES)
def test_a_blob_takes_the_place_of_what_is_no_file(tmp_path: Path, made: Made) -> None:
    store = FileStore(tmp_path.as_uri())
    (tmp_path / "model.pt").write_bytes(b"weights")
    with open(tmp_path / "model.pt", "rb") as file:
        digest, _ = store.keep("machine/blob", file, lambda: None)
    path = tmp_path / "machine/blob" / digest
    path.unlink()
    made(path)
    with open(tmp_path / "model.pt", "rb") as file:
        assert store.keep("machine/blob", file, lambda: None) == (digest, 7)
    assert path.read_bytes() == b"weights" and path.is_file() and not path.is_symlink()


@pytest.mark.parametrize("made", NO_FILES)
@pytest.mark.parametrize("key", [RECORD, SIGN])
def test_a_record_takes_the_place_of_what_is_no_file(tmp_path: Path, key: str, made: Made) -> None:
    store = Store(tmp_path.as_uri())
    (tmp_path / key).parent.mkdir(parents=True)
    made(tmp_path / key)
    store.put(key, b"{}")
    assert store.get(key) == b"{}" and store.keys("control") == [key]
    store.delete(key)
    made(tmp_path / key)
    store.create(key, b"[]")
    with pytest.raises(ExistsError):
        store.create(key, b"{}")
    assert store.get(key) == b"[]" and store.keys("control") == [key]


@pytest.mark.parametrize("made", NO_FOLDERS)
def test_a_record_takes_the_place_of_what_is_no_folder(tmp_path: Path, made: Made) -> None:
    store = Store(tmp_path.as_uri())
    (tmp_path / "control/digits").mkdir(parents=True)
    made(tmp_path / "control/digits" / RUN)
    store.create(f"control/digits/{RUN}/ledger/000000.json", b"{}")
    assert store.keys("control") == [f"control/digits/{RUN}/ledger/000000.json"]


@pytest.mark.parametrize("made", NO_FILES)
def test_what_is_waited_for_on_the_disk_and_is_no_file_by_then_holds_nobody_up(tmp_path: Path, made: Made) -> None:
    store = Store(tmp_path.as_uri())
    store.put("control/digits/blob/abc", b"x")
    (tmp_path / "control/digits/blob/abc").unlink()
    made(tmp_path / "control/digits/blob/abc")
    began = time.monotonic()
    store.put(RECORD, b"{}")  # all that was sent before it is on the disk first
    assert time.monotonic() - began < 5 and store.get(RECORD) == b"{}"


def test_a_store_that_does_not_let_a_machine_write_is_not_taken_for_a_file_that_is_gone(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user for a while")
    for folder in (*tmp_path.parents, tmp_path):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o755)
    store = FileStore(tmp_path.as_uri())
    with open(__file__, "rb") as file, pytest.raises(StoreError) as refused:
        os.seteuid(65534)
        try:
            store.keep("machine/blob", file, lambda: None)
        finally:
            os.seteuid(0)
    assert not isinstance(refused.value, (FileNotFoundError, PermissionError))
    assert refused.value.strerror == "the store: Permission denied"


@pytest.mark.parametrize("body", [b"", b"{", b'{"owner": 3}'], ids=range(3))
def test_an_owner_s_sign_of_life_that_cannot_be_read_keeps_nobody_out(tmp_path: Path, body: bytes) -> None:
    box = Mailbox(Store(tmp_path.as_uri()), "digits", RUN)
    first = Ledger(box, SystemClock(), owner="first", beat_every_s=0.05)
    first.join()
    with first.beating():
        box.store.put(SIGN, body)
        until = time.monotonic() + 5
        while b"first" not in (box.store.find(SIGN) or b"") and time.monotonic() < until:
            time.sleep(0.02)
        assert b"first" in (box.store.find(SIGN) or b""), "who lives shows it again"
    box.store.put(SIGN, body)
    second = Ledger(box, SystemClock(), owner="second", beat_every_s=0.05)
    second.join()
    assert second.entries()[-1].kind == "takeover"


@pytest.mark.parametrize("made", [*NO_FILES, lambda path: path.write_text("garbage"), lambda path: path.touch()])
def test_what_lies_in_the_place_of_last_words_is_told(tmp_path: Path, made: Made) -> None:
    box = Mailbox(Store(tmp_path.as_uri()), "digits", RUN)
    path = tmp_path / box.machine / "1/0/exit.json"
    path.parent.mkdir(parents=True)
    assert box.unheard(1, 0, "seal") is None
    made(path)
    told = box.unheard(1, 0, "seal")
    assert told is not None and ("/1/0/exit.json cannot be read: " in told or told.endswith("exit.json leads nowhere"))
    machine = Machine(name="m-n0", state="ended", created_at=1.0)
    lease = Lease(name="m", project="digits", run=RUN, attempt=1, deadline_at=9e9, machines=(machine,))
    state = State(attempt=1, name="m", request={}, intended_at=1.0, created_at=1.0, ordered_at=2.0)
    action = step(state, Seen(now=3.0, lease=lease, exits=(None,), unheard=(told,)), TERMS)
    assert told in action.outcome.message  # type: ignore[union-attr]


TERMS = Terms(nodes=1, offers=1, deadline_at=9e9, grace_s=1.0, visible_after_s=0.0, wait_s=0.0, resumes=0)


def test_last_words_that_the_script_wrote_are_told_as_such(tmp_path: Path) -> None:
    box = Mailbox(Store(tmp_path.as_uri()), "digits", RUN)
    said = Exit(node=0, reason="exited", exit_code=0, ended_at=1.0)
    box.store.put(f"{box.machine}/1/0/exit.json", said.to_bytes())
    assert box.unheard(1, 0, "seal") == f"{box.machine}/1/0/exit.json was not written by the machine's agent"


SPOILS = """
    import glob, os, shutil, sys, time
    home = sys.argv[1]
    (machine,) = glob.glob(home + "/store/machine/*/*/1/0")
    (control,) = [one for one in glob.glob(home + "/store/control/*/*-*") if os.path.isdir(one)]
    (orders,) = glob.glob(home + "/store/orders/*/*")
    open("before.txt", "w").write("x")
    print("before", flush=True)
    time.sleep(1.2)

    def clear(path):
        shutil.rmtree(path) if os.path.isdir(path) else os.path.lexists(path) and os.unlink(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)

    places = {
        machine: dict(folder=["exit.json", "hello.json"], link=["beat.json", "blob"], pipe=["ckpt"],
                      file=["out", "log"]),
        control: dict(folder=["bundle.json"], pipe=["owner.json"], link=["report.json"], file=["inputs.json"]),
        orders: dict(folder=["order/1.json", "stop.json"]),
    }
    for where, kinds in places.items():
        for kind, names in kinds.items():
            for name in names:
                path = os.path.join(where, name)
                clear(path)
                if kind == "folder":
                    os.makedirs(path + "/sub")
                elif kind == "link":
                    os.symlink("/nowhere/at/all", path)
                elif kind == "pipe":
                    os.mkfifo(path)
                else:
                    open(path, "w").write("nothing")
    print("after", flush=True)
    open("after.txt", "w").write("y")
    open("model.pt", "wb").write(b"m" * 1000)
    time.sleep(1.0)
    print("last", flush=True)
"""


def test_a_script_that_lays_folders_pipes_and_links_over_its_run_s_objects_loses_nothing_it_made(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.script(SPOILS)
    done = world.train("--", "python", "train.py", str(world.home), seconds=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "succeeded: the script ended with exit code 0" in said, said
    assert not world.machines() and "bundle.json cannot be read: it is no file" in said
    run = world.run()
    assert f"sojourn pull {run} --to DIR" in said
    pulled = world.sojourn("pull", run, "--to", "home")
    assert pulled.returncode == 0, pulled.stderr
    assert {path.name for path in (world.project / "home").iterdir()} == {"before.txt", "after.txt", "model.pt"}
    assert world.sojourn("logs", run).stdout == "[piece 0 of this log is not in the store]\nafter\nlast\n"
    (line,) = [line for line in world.sojourn("runs").stdout.splitlines() if line.startswith(run)]
    assert "succeeded" in line and "closed" in line
    world.wait_until_empty()


@pytest.mark.parametrize("key", ["control", "control/digits", "machine", "machine/digits"])
def test_what_lies_above_the_projects_may_be_the_user_s_and_stays(tmp_path: Path, key: str) -> None:
    (tmp_path / key).parent.mkdir(exist_ok=True)
    (tmp_path / key).write_text("mine")
    with pytest.raises(SojournError, match=str(tmp_path)):
        Store(tmp_path.as_uri()).put(f"{key}/x/y/report.json", b"{}")
    with pytest.raises(OSError, match="Not a directory"):
        FileStore(tmp_path.as_uri()).put(f"{key}/x/y/z.json", b"{}")
    assert (tmp_path / key).read_text() == "mine"


def test_a_name_that_was_put_aside_is_none_of_an_object() -> None:
    assert folders.TEMPORARY.search("exit.json#123") and not folders.TEMPORARY.search("exit.json")
