"""Whoever saves a checkpoint every second has checkpoints, and none of them is half a file."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from node_world import Node

HEAD = """
import os, sys, time
def body(step, size):
    return f"{step:08d}".encode() * (size // 8)
def atomic(name, step, size):
    with open(name + ".tmp", "wb") as file:
        file.write(body(step, size))
    os.replace(name + ".tmp", name)
def in_place(name, step, size):
    with open(name, "wb") as file:
        for _ in range(4):
            file.write(body(step, size // 4)); file.flush(); time.sleep(0.02)
print("ready", flush=True)
"""


def saved(tmp_path: Path, loop: str, seconds: float) -> list[dict[str, str]]:
    """The checkpoints that are left of a script that saves all the time; each file of one step throughout."""
    node = Node(tmp_path, 0, 1, commit_every_s=0.5)
    script = subprocess.Popen(
        [sys.executable, "-c", HEAD + textwrap.dedent(loop)], cwd=node.tree, stdout=subprocess.PIPE, text=True
    )
    try:
        assert script.stdout and script.stdout.readline() == "ready\n"
        node.commit_on(well_until=time.time)
        time.sleep(seconds)
    finally:
        script.kill()
        script.communicate()
        node.committer._still(5.0)
    found = []
    for path in sorted((node.root / node.prefix / "ckpt").glob("*.json"))[-2:]:
        found.append(node.manifest("ckpt", int(path.stem)))
    for files in found:
        for name, text in files.items():
            assert text and len({text[at : at + 8] for at in range(0, len(text), 8)}) == 1, f"{name} is torn"
    return found


@pytest.mark.parametrize(
    ("size", "pause"), [(4_000_000, 0.5), (64, 0.5), (64, 0.05)], ids=["large", "within a tick", "without a pause"]
)
def test_a_file_that_takes_the_place_of_another_by_a_rename_is_whole(tmp_path: Path, size: int, pause: float) -> None:
    found = saved(
        tmp_path,
        f"""
        for step in range(10_000):
            atomic("last.pt", step, {size})
            time.sleep({pause})
        """,
        3.0,
    )
    assert found and all(set(files) == {"last.pt"} for files in found)


def test_files_that_are_saved_together_come_from_one_save(tmp_path: Path) -> None:
    found = saved(
        tmp_path,
        """
        for step in range(10_000):
            atomic("model.pt", step, 100_000)
            time.sleep(0.1)
            atomic("optimizer.pt", step, 100_000)
            time.sleep(0.8)
        """,
        6.0,
    )
    both = [files for files in found if len(files) == 2]
    assert both and all(files["model.pt"][:8] == files["optimizer.pt"][:8] for files in both)


def test_a_file_that_is_written_in_place_all_the_time_is_read_while_nobody_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.agent.results.checkpoints.BUSY_S", 1.0)
    loop = """
    for step in range(10_000):
        in_place("last.pt", step, 200_000)
        time.sleep(0.4)
    """
    assert saved(tmp_path, loop, 5.0)


def test_a_file_that_is_written_in_place_is_waited_for_at_first(tmp_path: Path) -> None:
    loop = """
    for step in range(10_000):
        in_place("last.pt", step, 200_000)
        time.sleep(0.4)
    """
    assert saved(tmp_path, loop, 2.0) == []


def test_what_was_renamed_before_its_writer_was_killed_is_whole_and_what_was_not_is_none(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1)
    (node.tree / "a.pt.tmp").write_text("a1")
    time.sleep(0.02)
    (node.tree / "a.pt.tmp").rename(node.tree / "a.pt")
    node.commit(torn_at=time.time())
    assert node.manifest("ckpt", 1) == {"a.pt": "a1"}
    (node.tree / "a.pt").unlink()
    (node.tree / "a.pt").write_text("a2, half")
    node.commit(torn_at=time.time())
    assert not (node.root / node.prefix / "ckpt" / "00000002.json").exists()
