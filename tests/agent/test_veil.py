"""What is told of a script's files holds none of its secrets; the files themselves are as they were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from node_world import Node

from sojourn.agent.script.mask import Mask

SECRET = "hunter2-Hunter2"
METRICS = json.dumps({"loss": 0.5, "model": SECRET})


@pytest.mark.parametrize("name", ["metrics.json", "eval_results.json", "told/scores.json", "declared.json"])
def test_metrics_with_a_secret_have_a_copy_that_may_be_shown(tmp_path: Path, name: str) -> None:
    node = Node(tmp_path, 0, 1, mask=Mask([SECRET]), metrics=["declared.json"])
    node.write({name: METRICS, "plain_metrics.json": '{"loss": 0.1}', "notes.txt": SECRET})
    node.commit()
    entries = {entry.path: entry for entry in node.committed("out", 1)}
    shown = entries[name].shown
    assert shown is not None
    assert json.loads((node.root / shown).read_text()) == {"loss": 0.5, "model": "***"}
    assert node.home()[name] == METRICS, "the result itself"
    assert entries["plain_metrics.json"].shown is None and entries["notes.txt"].shown is None


def test_a_file_whose_name_holds_a_secret_stays_and_is_named_without_it(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, mask=Mask([SECRET]))
    node.write({f"outputs/{SECRET}/model.pt": "weights", f"run-{SECRET}.txt": "x", "fine.txt": "y"})
    node.finish()
    assert node.home() == {"fine.txt": "y"}
    assert set(node.committer.left_out) == {"outputs/***/model.pt", "run-***.txt"}
    assert not [path for path in node.root.rglob("*") if SECRET in str(path) or _holds(path)]


@pytest.mark.parametrize("value", ["outputs", "digits", "/data/train", "resnet50", "my-project", "model.pt", "weights"])
def test_a_result_is_not_lost_to_a_secret_that_is_a_word(tmp_path: Path, value: str) -> None:
    node = Node(tmp_path, 0, 1, mask=Mask([value]))
    files = {"outputs/resnet50/model.pt": "weights", "digits/my-project.txt": "x", "data/train/a": "y"}
    node.write(files)
    node.finish()
    assert node.home() == files


def test_an_account_of_what_stays_names_no_secret(tmp_path: Path) -> None:
    (tmp_path / "tree0").mkdir()
    (tmp_path / "tree0" / f"{SECRET}.csv").write_text("sent")
    node = Node(tmp_path, 0, 1, mask=Mask([SECRET]), ignore=["*.log"])
    (tmp_path / "tree0" / f"{SECRET}.csv").unlink()
    node.write({"train.log": "x"})
    node.finish()
    assert not [path for path in node.root.rglob("*") if _holds(path)]


def _holds(path: Path) -> bool:
    return path.is_file() and SECRET.encode() in path.read_bytes()
