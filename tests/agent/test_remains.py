"""What the script wrote: home, kept in the store, or named as left behind; nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from node_world import Node, sha256

GB = 10**9


def account(node: Node) -> dict[str, tuple[bool, tuple[str, ...], int, int]]:
    manifest = node.finish()
    lines = manifest.account if manifest else ()
    return {one.reason: (one.kept, one.paths, one.files, one.bytes) for one in lines}


def kept(node: Node) -> set[str]:
    manifest = node.finish()
    return {entry.path for entry in manifest.files} if manifest else set()


def test_what_git_ignores_is_kept_in_the_store_and_named_by_its_folder(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/"], keep=GB)
    node.write({"logs/a.txt": "aa", "logs/deep/b.txt": "b", "result.txt": "r"})
    assert account(node) == {"ignored by git": (True, ("logs/",), 2, 3)}
    assert kept(node) == {"logs/a.txt", "logs/deep/b.txt"} and node.home() == {"result.txt": "r"}
    assert node.blobs() == {"aa", "b", "r"}, "and no pruning takes it away"


def test_with_a_stage_what_is_not_declared_is_kept(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, outputs=["model"], keep=GB)
    node.write({"model/weights": "w", "samples/1.png": "p", "extra.txt": "e"})
    assert account(node) == {"not an output of the stage": (True, ("extra.txt", "samples/"), 2, 2)}
    assert node.home() == {"model/weights": "w"}


def test_beyond_the_limit_the_largest_files_are_left_and_named(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["cache/"], keep=10)
    node.write({"cache/large": "x" * 20, "cache/small": "y" * 8, "cache/tiny": "z"})
    assert account(node) == {
        "ignored by git": (True, ("cache/small", "cache/tiny"), 2, 9),
        "more than launch.keep allows": (False, ("cache/large",), 1, 20),
    }


def test_with_nothing_to_be_kept_all_is_named_as_left(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/"], keep=0)
    node.write({"logs/a": "aa"})
    assert account(node) == {"ignored by git": (False, ("logs/",), 1, 2)}
    assert kept(node) == set()


def test_a_tracked_file_that_a_line_of_gitignore_matches_comes_home(tmp_path: Path) -> None:
    sent = {"listing": [{"path": "best.pkl"}]}
    node = Node(tmp_path, 0, 1, ignore=["*.pkl"], bundle=sent, keep=GB)
    node.write({"best.pkl": "new", "other.pkl": "other"})
    assert account(node) == {"ignored by git": (True, ("other.pkl",), 1, 5)} and node.home() == {"best.pkl": "new"}


def test_a_named_output_comes_home_from_a_folder_that_git_ignores(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/", "!/logs/run1"], named=["logs/run1", "logs/*.csv"], keep=GB)
    node.write({"logs/run1/a.txt": "a", "logs/b.csv": "b", "logs/c.txt": "c"})
    assert node.finish() and node.home() == {"logs/run1/a.txt": "a", "logs/b.csv": "b"}
    assert account(node) == {"ignored by git": (True, ("logs/c.txt",), 1, 1)}


def test_an_input_that_the_script_changed_is_named(tmp_path: Path) -> None:
    data = {"path": "data/x.csv", "hash": "", "size": 1, "mode": 0o644, "source": "control/digits/blob/x"}
    (tmp_path / "tree0" / "data").mkdir(parents=True)
    (tmp_path / "tree0" / "data" / "x.csv").write_text("1")
    node = Node(tmp_path, 0, 1, inputs=[data], keep=GB)
    node.write({"data/x.csv": "12", "data/new.csv": "n"})
    assert account(node) == {"changed by the script, which got them as inputs": (False, ("data/x.csv",), 1, 2)}
    assert node.home() == {"data/new.csv": "n"}


def test_what_the_script_removed_or_moved_away_is_named(tmp_path: Path) -> None:
    (tmp_path / "tree0" / "notes").mkdir(parents=True)
    for name in ("notes/a.md", "notes/b.md", "old.txt"):
        (tmp_path / "tree0" / name).write_text(name)
    node = Node(tmp_path, 0, 1, keep=GB)
    (node.tree / "old.txt").rename(node.tree / "new.txt")
    (node.tree / "notes/a.md").unlink(), (node.tree / "notes/b.md").unlink()
    assert account(node)["removed by the script"][1:3] == (("notes/", "old.txt"), 3)
    assert node.home() == {"new.txt": "old.txt"}


def test_links_sockets_caches_environments_and_odd_names_are_named(tmp_path: Path, monkeypatch: Any) -> None:
    node = Node(tmp_path, 0, 1, keep=GB)
    node.write({"ckpt-8/w.bin": "w", "venv/pyvenv.cfg": "", "venv/lib/x.py": "xx", "pkg/__pycache__/m.pyc": "mmm"})
    (node.tree / "latest").symlink_to("ckpt-8")
    (node.tree / "nas").symlink_to("/etc")
    (node.tree / "gone").symlink_to("nowhere")
    (node.tree / "empty").mkdir()
    os.mkfifo(node.tree / "pipe")
    monkeypatch.chdir(node.tree)  # a socket's path may have 107 bytes
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock")
    with open(os.fsencode(node.tree) + b"/caf\xe9", "w") as file:
        file.write("c")
    found = account(node)
    assert found.pop("in caches") == (False, ("pkg/__pycache__/",), 1, 3)
    assert found.pop("in virtual environments") == (False, ("venv/",), 2, 2)
    assert {reason: paths for reason, (_, paths, _, _) in found.items()} == {
        "linked from outside the project": ("nas",),
        "linked to nothing": ("gone",),
        "in empty folders": ("empty/",),
        "not a file but a socket, pipe or device": ("pipe", "sock"),
        "named in no UTF-8": ("'caf\\udce9'",),
    }
    assert node.home() == {"ckpt-8/w.bin": "w", "latest/w.bin": "w"}, "a link within the tree is whole, as files"


def test_a_name_with_a_newline_is_kept_like_any_other(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/"], keep=GB)
    node.write({"logs/two\nlines": "x"})
    assert kept(node) == {"logs/two\nlines"}


def test_of_very_many_files_all_are_counted_and_few_are_named(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["*.tmp"], keep=0)
    node.write({f"d{at}/{at}.tmp": "x" for at in range(300)} | {f"d{at}/kept.txt": "k" for at in range(300)})
    _, paths, files, size = account(node)["ignored by git"]
    assert (len(paths), files, size) == (20, 300, 300)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/"], keep=GB)
    node.write({"logs/closed": "x"})
    (node.tree / "logs/closed").chmod(0)
    assert account(node) == {"not readable": (False, ("logs/closed",), 1, 1)}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_folder_that_can_be_listed_and_not_entered_is_named_as_closed() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        Path(folder).chmod(0o755)
        (Path(folder) / "half").mkdir()
        (Path(folder) / "half/x.pt").touch()
        (Path(folder) / "half").chmod(0o744)
        code = (
            "import os, sys\nfrom sojourn.agent.results.tree import scan\nos.setuid(65534)\naside = {}\n"
            "scan(sys.argv[1], [], {}, aside)\nprint(aside)"
        )
        said = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert said.stdout == "{'half/x.pt': 'in folders that cannot be read'}\n"


def test_what_was_kept_is_replaced_by_its_newer_state(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/"], keep=GB)
    for text in "abcd":
        node.write({"logs/a": text})
        manifest = node.finish()
    assert manifest and manifest.files[0].hash == f"sha256:{sha256('d')}"
    assert node.blobs() == {"c", "d"}


def test_home_and_kept_and_left_are_all_that_the_script_wrote(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/", "*.csv", "!keep.csv", "deep/*/x"], keep=500)
    names = [
        "a.txt", "keep.csv", "b.csv", "logs/1", "logs/deep/2", "deep/a/x", "deep/a/y", "outputs/c.csv", "m.pt",
        "pkg/__pycache__/m.pyc", "venv/pyvenv.cfg", "venv/bin/python", "node_modules/y.js", "sub/.git/HEAD", "sp ace/ü",
        "out/checkpoint-8/model.safetensors", "out/checkpoint-8/trainer_state.json", "out/checkpoint-8/x.csv",
    ]  # fmt: skip
    node.write({name: "x" * 40 * at for at, name in enumerate(names)})
    manifest = node.finish()
    assert manifest is not None
    home, kept = set(node.home()), {entry.path for entry in manifest.files}
    left = sum(one.files for one in manifest.account if not one.kept)
    assert not home & kept and len(home) + len(kept) + left == len(names)
    sizes = sum((node.tree / name).stat().st_size for name in names)
    told = sum(one.bytes for one in manifest.account)
    assert told + sum(len(text) for text in node.home().values()) == sizes
    assert kept and left, "each way is gone"


def test_a_file_that_is_made_executable_later_comes_home_as_such(tmp_path: Path) -> None:
    (tmp_path / "tree0").mkdir()
    (tmp_path / "tree0" / "sent.sh").write_text("x")
    node = Node(tmp_path, 0, 1, keep=GB)
    node.write({"made.sh": "y"})
    node.finish()
    for name in ("made.sh", "sent.sh"):
        (node.tree / name).chmod(0o755)
    node.finish()
    assert node.home() == {"made.sh": "y", "sent.sh": "x"}
    modes = {entry.path: entry.mode for entry in node.committed("out", 2)}
    assert modes == {"made.sh": 0o755, "sent.sh": 0o755}


def test_what_the_script_writes_into_git_s_own_folder_is_named(tmp_path: Path) -> None:
    root = tmp_path / "tree0"
    (root / ".git" / "refs" / "tags").mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (root / ".git" / "refs" / "tags" / "old").write_text("1234\n")
    node = Node(tmp_path, 0, 1)
    node.write({"model.pt": "m", ".git/index": "i", ".git/refs/tags/best": "56789\n"})
    assert account(node) == {"written into git's own folder": (False, (".git/refs/tags/best",), 1, 6)}
    assert node.home() == {"model.pt": "m"}


def test_of_a_folder_that_nobody_named_so_much_comes_home_as_may_be_brought_the_smallest_first(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, bring=100, keep=GB)
    node.write({"data/set.bin": "x" * 200, "data/b": "y" * 60, "data/readme": "r", "results.csv": "z" * 100})
    assert account(node) == {"more than launch.bring allows": (False, ("data/set.bin",), 1, 200)}
    assert node.home().keys() == {"data/b", "data/readme", "results.csv"}
    assert node.leaving()[0]["paths"] == ["data/set.bin"], "and whoever follows the run is told before its end"


def test_checkpoints_models_outputs_and_what_is_named_come_home_however_large(tmp_path: Path) -> None:
    sent = {"listing": [{"path": "table.csv"}], "directory": "."}
    node = Node(tmp_path, 0, 1, bring=5, checkpoint=["best-*"], named=["data/mine", "*.npy"], bundle=sent)
    large = "x" * 20
    node.write({name: large for name in ("best-1", "m/model.SAFETENSORS", "w.pth", "outputs/a.bin", "table.csv")})
    node.write({"data/mine/1": large, "p.npy": large, "data/other": large, "video.mp4": large})
    assert account(node) == {"more than launch.bring allows": (False, ("data/other", "video.mp4"), 2, 40)}


def test_each_folder_at_the_top_of_the_scripts_own_directory_has_room_of_its_own(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, bring=30, bundle={"directory": "apps/a", "listing": []})
    node.write({"apps/a/x/1": "x" * 25, "apps/a/y/1": "y" * 25, "apps/b/1": "z" * 25, "apps/c/1": "z" * 26})
    assert account(node) == {"more than launch.bring allows": (False, ("apps/c/",), 1, 26)}


def test_with_a_stage_its_outputs_come_home_however_large(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, bring=5, outputs=["data"])
    node.write({"data/prepared": "x" * 20})
    assert account(node) == {} and node.home().keys() == {"data/prepared"}


def test_a_link_from_the_output_folder_brings_what_would_be_left(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, bring=5)
    node.write({"data/set": "x" * 20, "outputs/a": "a"})
    (node.tree / "outputs/data").symlink_to("../data")
    node.finish()
    assert node.home().keys() == {"outputs/a", "outputs/data/set"}


def test_what_a_library_downloaded_from_a_hub_is_left_and_named_unless_it_is_asked_for(tmp_path: Path) -> None:
    files = {
        "cache/models--gpt2/blobs/aa": "m",
        "cache/models--gpt2/snapshots/1/model.safetensors": "m",
        "torch/hub/checkpoints/resnet18-f37072fd.pth": "rr",
        "torch/hub/checkpoints/best-epoch10.pth": "b",
        "data/datasets--c4/x.arrow": "ddd",
    }
    node = Node(tmp_path, 0, 1, checkpoint=["*.safetensors", "*.pth"])
    node.write(files)
    assert account(node) == {
        "downloaded from a hub": (
            False,
            ("data/datasets--c4/", "cache/models--gpt2/", "torch/hub/checkpoints/resnet18-f37072fd.pth"),
            4,
            7,
        )
    }
    assert node.sizes("ckpt").keys() == node.home().keys() == {"torch/hub/checkpoints/best-epoch10.pth"}
    (tmp_path / "again").mkdir()
    again = Node(tmp_path / "again", 0, 1, named=["cache"], checkpoint=["*.safetensors"])
    again.write(files)
    again.finish()
    assert {path for path in again.home() if path.startswith("cache/")} == set(list(files)[:2])


def test_metrics_come_home_where_nothing_else_is_brought(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, bring=0, metrics=["out.json"])
    node.write({"out.json": "{}", "eval/metrics.json": "{}", "notes.txt": "n"})
    node.finish()
    assert node.home().keys() == {"out.json", "eval/metrics.json"}


def test_a_folder_that_is_nested_a_thousand_deep_keeps_nothing_else_from_home(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, ignore=["logs/", "*.tmp"], keep=GB)
    node.write({"model.pt": "m"})
    folder = node.tree
    for _ in range(1_100):  # one by one: some of Python's own functions for it call themselves
        folder = folder / "d"
        folder.mkdir()
    (folder / "deep.txt").write_text("d")
    assert account(node) == {}
    assert node.home() == {"model.pt": "m", "d/" * 1_100 + "deep.txt": "d"}
    subprocess.run(["rm", "-rf", str(node.tree / "d")], check=True)  # which Python's own cannot
