"""Commits made one by one: which blobs stay in the store, and that only a node's own ever go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from node_world import PLACE, RUN, Node, sha256

from sojourn.agent.stores.store import MIB


def test_the_newest_two_checkpoints_stay_and_older_ones_leave_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    for step in range(1, 6):
        node.commit(model_pt=f"step {step}")
    assert node.blobs() == {"step 4", "step 5"}
    assert node.manifest("ckpt", 4) == {"model.pt": "step 4"} and node.manifest("ckpt", 5) == {"model.pt": "step 5"}


def test_a_file_that_every_commit_names_stays(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    node.commit(frozen_pt="frozen", report="report")
    for step in range(4):
        node.commit(model_pt=f"step {step}", report="report")
    assert node.blobs() == {"frozen", "report", "step 2", "step 3"}
    assert node.manifest("out", 5) == {"frozen.pt": "frozen", "model.pt": "step 3", "report": "report"}


def test_the_last_but_one_outputs_can_still_be_fetched_by_whoever_has_just_read_of_them(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    for epoch in "1234":
        node.commit(metrics=epoch)
    assert node.manifest("out", 3) == {"metrics": "3"} and node.manifest("out", 4) == {"metrics": "4"}
    assert node.blobs() == {"3", "4"}


def test_a_file_that_was_gone_and_comes_back_is_stored_anew(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    node.commit(best_pt="best", last_pt="0")
    node.commit(best_pt=None, last_pt="1")
    for step in ("2", "3"):
        node.commit(last_pt=step)
    assert node.blobs() == {"2", "3"}
    node.commit(best_pt="best")
    assert node.manifest("ckpt", 5) == {"best.pt": "best", "last.pt": "3"}


def test_a_state_of_a_file_that_comes_back_by_renaming_can_still_be_fetched(tmp_path: Path) -> None:
    (tmp_path / "tree0").mkdir()
    model, old, new = (tmp_path / "tree0" / name for name in ("model", "model.old", "model.new"))
    model.write_text("sent along")
    node = Node(tmp_path, 0, 1, ignore=["*.old", "*.new"])
    model.rename(old)
    node.commit(model="trained")
    model.rename(new), old.rename(model)
    for text in "abc":
        node.commit(report=text)
    model.rename(old), new.rename(model)
    node.commit(report="d")
    assert node.manifest("out", 5) == {"model": "trained", "report": "d"}


def test_files_that_the_script_rotates_do_not_pile_up(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    node.commit(step1_pt="1")
    for step in range(2, 7):
        node.commit(**{f"step{step}_pt": str(step), f"step{step - 1}_pt": None})
    assert node.blobs() == {"5", "6"}


def test_what_is_not_complete_yet_on_every_node_does_not_push_out_what_is(tmp_path: Path) -> None:
    first, second = Node(tmp_path, 0, 2), Node(tmp_path, 1, 2)
    for step in ("1", "2"):
        first.commit(a_pt=f"a{step}")
        second.commit(b_pt=f"b{step}")
        second.settle(), first.settle(), second.settle()
    for step in ("3", "4", "5"):
        first.commit(a_pt=f"a{step}")
    assert first.blobs() == {"a1", "a2", "a3", "a4", "a5"}, "the newest that can be resumed from are 1 and 2"
    assert second.manifest("ckpt", 1) == {"b.pt": "b1"} and second.manifest("ckpt", 2) == {"b.pt": "b2"}


def test_every_node_prunes_its_own_part(tmp_path: Path) -> None:
    first, second = Node(tmp_path, 0, 2), Node(tmp_path, 1, 2)
    for step in range(1, 6):
        first.commit(a_pt=f"a{step}")
        second.commit(b_pt=f"b{step}")
        second.settle(), first.settle(), second.settle()
    first.commit(), second.commit()
    assert (first.blobs(), second.blobs()) == ({"a4", "a5"}, {"b4", "b5"})
    assert (first.manifest("ckpt", 4), second.manifest("ckpt", 4)) == ({"a.pt": "a4"}, {"b.pt": "b4"})
    assert not (tmp_path / "store" / second.prefix / "commit").exists(), "rank 0's agent writes the commits"


def test_nothing_of_another_node_attempt_or_run_is_deleted(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    digest = sha256("step 1")
    elsewhere = [
        f"{RUN}/1/1/blob",
        f"{RUN}/2/0/blob",
        f"{RUN}/blob",
        "machine/digits/other/1/0/blob",
        "control/digits/blob",
    ]
    for folder in elsewhere:
        (tmp_path / "store" / folder).mkdir(parents=True)
        (tmp_path / "store" / folder / digest).write_text("step 1")
    for step in range(1, 5):
        node.commit(model_pt=f"step {step}")
    assert node.blobs() == {"step 3", "step 4"}
    assert all((tmp_path / "store" / folder / digest).exists() for folder in elsewhere)


@pytest.mark.parametrize("folder", ["machine/digits/earlier/1/0/blob", f"orders/digits/{PLACE}-earlier/restored"])
def test_a_restored_file_that_nobody_touches_is_named_where_it_lies(tmp_path: Path, folder: str) -> None:
    source = f"{folder}/{sha256('restored')}"
    (tmp_path / "store" / source).parent.mkdir(parents=True)
    (tmp_path / "store" / source).write_text("restored")
    restored = {
        "path": "frozen.pt",
        "hash": f"sha256:{sha256('restored')}",
        "size": 8,
        "mode": 0o644,
        "source": source,
    }
    (tmp_path / "tree0").mkdir()
    (tmp_path / "tree0" / "frozen.pt").write_text("restored")
    node = Node(tmp_path, 0, 1, inputs=[restored])
    for step in range(4):
        node.commit(model_pt=f"step {step}")
    assert node.manifest("ckpt", 4) == {"model.pt": "step 3", "frozen.pt": "restored"}
    assert node.home() == {"model.pt": "step 3", "frozen.pt": "restored"}, "it stands in the tree, so it comes home"
    node.commit(frozen_pt=None)
    assert node.manifest("ckpt", 5) == {"model.pt": "step 3"}, "what the script removed is not restored again"
    assert node.home() == {"model.pt": "step 3"}


def test_a_manifest_that_stands_though_its_answer_was_lost_keeps_its_files(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    node.commit(model_pt="step 1")
    obstacle = tmp_path / "store" / node.prefix / "ckpt/00000002.json"
    lines = json.dumps({"sequence": 2, "at": 0, "files": []})
    obstacle.write_text(lines)
    node.commit(model_pt="step 2")
    node.commit(model_pt="step 3")
    assert obstacle.read_text() == lines
    assert node.manifest("ckpt", 3) == {"model.pt": "step 2"} and node.manifest("ckpt", 4) == {"model.pt": "step 3"}


def test_a_blob_that_cannot_be_deleted_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = Node(tmp_path, 0, 1)
    for step in range(1, 3):
        node.commit(model_pt=f"step {step}")
    blob = tmp_path / "store" / node.prefix / "blob" / sha256("step 1")
    blob.unlink(), blob.mkdir()
    node.commit(model_pt="step 3")
    assert "cannot be deleted" in capsys.readouterr().err
    blob.rmdir(), blob.write_text("step 1")
    node.commit(model_pt="step 4")
    assert node.blobs() == {"step 3", "step 4"}


MAPS = """
import mmap
file = open("pred.bin", "w+b")
file.truncate(8)
memory = mmap.mmap(file.fileno(), 8)
file.close()
memory[:] = b"too soon"
print(flush=True)
input()
memory[:] = b"the last"
"""


def test_what_is_written_through_memory_is_read_anew_at_the_end(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    with subprocess.Popen(
        [sys.executable, "-c", MAPS], cwd=node.tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdin is not None and script.stdout is not None
        script.stdout.readline()
        node.look()
        assert node.manifest("out", 1) == {"pred.bin": "too soon"}
        before = (node.tree / "pred.bin").stat()
        script.communicate("\n")
    after = (node.tree / "pred.bin").stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size), "nothing shows that it changed"
    node.commit()
    assert node.manifest("out", 2) == {"pred.bin": "the last"}
    node.commit()
    assert node.blobs() == {"too soon", "the last"}


def test_what_was_being_written_by_whoever_was_killed_is_no_checkpoint_however_late_it_is_looked_at(
    tmp_path: Path,
) -> None:
    first, second = Node(tmp_path, 0, 2), Node(tmp_path, 1, 2)
    first.commit(a_pt="a1"), second.commit(b_pt="b1")
    second.settle(), first.settle(), second.settle()
    (first.tree / "a.pt").write_text("a2, half"), (second.tree / "b.pt").write_text("b2, half")
    killed_at = time.time()
    time.sleep(1.2)
    first.commit(torn_at=killed_at)
    assert not (first.root / first.prefix / "ckpt" / "00000002.json").exists()
    first.commit(a_pt="a2")  # where this node's writer had ended in time
    second.commit(torn_at=killed_at), second.settle()
    assert not (second.root / second.prefix / "ckpt" / "00000002.json").exists()


def test_nor_is_it_one_while_the_rest_of_the_log_is_still_on_its_way(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, commit_every_s=0.2)
    killed_at = time.time()
    node.commit_on(well_until=lambda: killed_at)
    (node.tree / "a.pt").write_text("a1, half")
    time.sleep(2.0)
    node.commit(torn_at=killed_at)
    assert node.manifest("out", 1) == {"a.pt": "a1, half"}
    assert not (node.root / node.prefix / "ckpt").exists()


def in_place(file: Path, text: str) -> None:
    """Write the same number of bytes over a file and put its times back, as `shutil.copystat` after an edit does."""
    before = file.stat()
    with file.open("r+") as opened:
        opened.write(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)


@pytest.mark.parametrize("name", ["pred.csv", "model.pt"])
def test_a_result_that_is_edited_in_place_with_its_times_put_back_is_the_newest(tmp_path: Path, name: str) -> None:
    node = Node(tmp_path, 0, 1)
    node.write({name: "too soon"})
    node.look()
    node.commit()
    in_place(node.tree / name, "the last")
    node.commit()
    assert node.home() == {name: "the last"}
    if name == "model.pt":
        assert node.manifest("ckpt", node.count("ckpt")) == {name: "the last"}


@pytest.mark.parametrize("kind", ["listing", "restored"])
def test_what_was_sent_and_is_edited_in_place_with_its_times_put_back_is_changed(tmp_path: Path, kind: str) -> None:
    node = sent(tmp_path, kind, "model.pt", "too soon")
    in_place(node.tree / "model.pt", "the last")
    node.finish()
    assert node.home() == {"model.pt": "the last"}


def test_an_input_that_is_edited_in_place_with_its_times_put_back_is_named(tmp_path: Path) -> None:
    node = sent(tmp_path, "inputs", "data.csv", "too soon")
    in_place(node.tree / "data.csv", "the last")
    told = node.finish()
    assert told and [line.reason for line in told.account] == ["changed by the script, which got them as inputs"]


@pytest.mark.parametrize("kind", ["listing", "inputs", "restored"])
def test_what_was_sent_and_is_only_linked_to_or_renamed_and_back_is_not_changed(tmp_path: Path, kind: str) -> None:
    node = sent(tmp_path, kind, "model.pt", "restored")
    model = node.tree / "model.pt"
    before = model.stat()
    os.link(model, tmp_path / "elsewhere")
    model.rename(node.tree / "aside"), (node.tree / "aside").rename(model)
    assert model.stat().st_ctime_ns > before.st_ctime_ns
    assert node.finish() is None
    assert node.home() == ({"model.pt": "restored"} if kind == "restored" else {})
    blobs = tmp_path / "store" / node.prefix / "blob"
    assert not blobs.is_dir() or not list(blobs.iterdir()), "nothing was sent again"


def sent(tmp_path: Path, kind: str, name: str, text: str) -> Node:
    """A node in whose tree lies a file that it was sent: with the bundle, as an input, or as a checkpoint."""
    folder = "machine/digits/earlier/1/0/blob" if kind == "restored" else "control/digits/blob"
    line = {"path": name, "hash": f"sha256:{sha256(text)}", "size": 8, "mode": 0o644}
    line["source"] = f"{folder}/{sha256(text)}"
    for place in (tmp_path / "store" / folder, tmp_path / "tree0"):
        place.mkdir(parents=True)
    (tmp_path / "store" / folder / sha256(text)).write_text(text)
    (tmp_path / "tree0" / name).write_text(text)
    time.sleep(0.02)  # a tick of the file system's clock
    if kind == "listing":
        return Node(tmp_path, 0, 1, bundle={"listing": [line]})
    return Node(tmp_path, 0, 1, inputs=[line])


def test_a_checkpoint_that_is_linked_to_and_removed_while_it_is_sent_arrives(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=8 * MIB, commit_every_s=0.2)
    first = node.large("step-1.pt", 12, b"1")
    node.commit_on(time.time)
    until = time.monotonic() + 20
    while not (sending := list((tmp_path / "store" / node.prefix).glob("blob/*#*"))) and time.monotonic() < until:
        time.sleep(0.02)
    assert sending
    os.link(first, node.tree / "best.bin")
    first.unlink()
    while not (tmp_path / "store" / node.prefix / "ckpt").is_dir() and time.monotonic() < until:
        time.sleep(0.05)
    assert node.sizes("ckpt") == {"step-1.pt": 12 * MIB}
    node.commit()
