"""What a script writes outside its project is told, since it goes with the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sojourn.agent.paths import TREE
from sojourn.agent.results import outside
from sojourn.agent.results.outside import Outside, changed


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_lies_beside_the_tree_is_the_scripts(tmp_path: Path) -> None:
    tree = tmp_path / TREE
    write(tree / "train.py")
    write(tmp_path / "ranks" / "ours.json")
    told = Outside(str(tmp_path), whole_machine=False)
    assert told.written() == {}
    write(tree / "../out/deep/model.pt", "12345")
    write(tree / "../r.bin", "123")
    write(tree / "../../up.txt", "1")
    assert told.written() == {"../out/": (1, 5), "../r.bin": (1, 3), "../../up.txt": (1, 1)}


def test_of_a_machine_of_its_own_what_is_new_since_the_start_is_told(tmp_path: Path) -> None:
    write(tmp_path / "old/data.bin")
    write(tmp_path / "new/before.bin")
    time.sleep(0.05)  # the clock of the file system has steps
    since = time.time()
    time.sleep(0.05)
    write(tmp_path / "new/model.pt", "123")
    write(tmp_path / "alone.txt", "12")
    write(tmp_path / ".cache/hub/model.pt")
    write(tmp_path / "tmpabc123/x")
    write(tmp_path / "mounted/x")
    os.symlink("/etc", tmp_path / "link")
    found = changed([str(tmp_path)], since, {str(tmp_path / "mounted")})
    assert found == {f"{tmp_path}/new/": (1, 3), f"{tmp_path}/alone.txt": (1, 2)}


def test_a_large_place_is_looked_at_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(100):
        write(tmp_path / "many" / str(number))
    monkeypatch.setattr(outside, "LOOK_S", 0.0)
    assert changed([str(tmp_path)], 0.0, set()) == {}


def test_names_that_are_no_text_can_be_told(tmp_path: Path) -> None:
    tree = tmp_path / TREE
    tree.mkdir(parents=True)
    (tree.parent / os.fsdecode(b"\xff.bin")).write_text("x")
    assert list(Outside(str(tmp_path), whole_machine=False).written()) == ["'../\\udcff.bin'"]
