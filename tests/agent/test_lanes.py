"""Large files go beside: they hold up no checkpoint, no small result and no last word."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from node_world import Node
from small_disk import small_disk

from sojourn.agent.results import commit
from sojourn.agent.stores.store import MIB, FileStore
from tests.agent.conftest import wait_for

FAR = 4 * MIB  # bytes a second


def repeatedly(call: Callable[[int], object], seconds: float, every: float) -> None:
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        number += 1
        call(number)
        time.sleep(every)


def left(node: Node) -> dict[str, tuple[tuple[str, ...], int]]:
    manifest = node.account()
    return {one.reason: (one.paths, one.bytes) for one in (manifest.account if manifest else ()) if not one.kept}


def test_at_the_deadline_all_that_is_small_is_home_and_what_is_large_is_named(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=FAR)
    node.large("a_big.bin", 150)
    node.write({"metrics.json": "{}", "model.pt": "m", "z.txt": "z"})
    began = time.monotonic()
    node.finish(seconds=3)
    assert time.monotonic() - began < 4
    assert node.home() == {"metrics.json": "{}", "model.pt": "m", "z.txt": "z"}
    assert node.manifest("ckpt", 1) == {"model.pt": "m"}
    assert left(node) == {"not stored in time": (("a_big.bin",), 150 * MIB)}


def test_while_a_large_file_is_on_its_way_checkpoints_and_small_files_are_committed(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=FAR, commit_every_s=0.3)
    node.large("data/set.bin", 100)
    node.commit_on(time.time)
    repeatedly(lambda at: node.write({"ckpt.pt": f"step {at}", "metrics.json": str(at)}), 6, every=1.6)
    node.finish(seconds=2)
    assert node.count("ckpt") >= 3
    assert node.sizes("out").keys() == {"ckpt.pt", "metrics.json"}


def test_a_large_file_that_has_arrived_is_in_the_next_commit(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=4 * FAR, commit_every_s=0.3)
    node.large("b.bin", 18, b"b")
    node.write({"a.txt": "a"})
    node.commit_on(time.time)
    wait_for(lambda: node.sizes("out") == {"a.txt": 1}, 5)
    wait_for(lambda: node.sizes("out") == {"a.txt": 1, "b.bin": 18 * MIB}, 5)


def test_of_several_large_ones_the_smaller_come_first_and_each_is_home_or_named(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=4 * FAR)
    for name, size in (("a", 225), ("b", 18), ("c", 125)):
        node.large(name, size)
    node.write({"d": "small"})
    node.finish(seconds=4)
    assert node.sizes("out") == {"b": 18 * MIB, "d": 5}
    assert left(node) == {"not stored in time": (("a", "c"), 350 * MIB)}


def test_a_large_checkpoint_goes_before_other_large_files_that_were_there_earlier(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=4 * FAR, commit_every_s=0.3)
    node.large("data.bin", 150)
    node.commit_on(time.time)
    time.sleep(1)
    node.large("model.pt", 33)
    began = time.monotonic()
    wait_for(lambda: node.sizes("ckpt") == {"model.pt": 33 * MIB}, 8)
    assert time.monotonic() - began < 5, "it takes two seconds alone"
    assert "data.bin" not in node.sizes("out")


@pytest.mark.slow
def test_a_checkpoint_that_is_saved_faster_than_it_is_sent_comes_through_all_the_same(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=2 * FAR, commit_every_s=0.3, checkpoint=["*.safetensors"])
    (node.tree / "checkpoint-1").mkdir()

    def save(step: int) -> None:
        for name, size in (("model-00001-of-00002.safetensors", 20), ("model-00002-of-00002.safetensors", 1)):
            node.large(f"../new/{name}", size, b"%d" % (step % 10))
            os.replace(tmp_path / "new" / name, node.tree / "checkpoint-1" / name)

    save(1)
    node.commit_on(time.time)
    repeatedly(save, 7, every=1.5)
    assert node.count("ckpt") >= 1
    for number in range(1, node.count("ckpt") + 1):
        texts = node.manifest("ckpt", number)
        assert len(texts) == 2 and len({text[0] for text in texts.values()}) == 1, "both of one step"


def test_a_file_that_is_replaced_while_it_is_sent_comes_as_it_was_and_then_as_it_is(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=2 * FAR, commit_every_s=0.3)
    node.large("b.bin", 23, b"1")
    node.commit_on(time.time)
    time.sleep(0.8)
    os.replace(node.large("../b.new", 23, b"2"), node.tree / "b.bin")
    wait_for(lambda: node.sizes("out") == {"b.bin": 23 * MIB}, 6)
    assert node.home()["b.bin"][0] == "1"
    node.finish(seconds=10)
    assert node.home()["b.bin"] == "2" * 23 * MIB


def test_a_file_that_is_written_to_while_it_is_sent_is_sent_anew(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=2 * FAR, commit_every_s=0.3)
    big = node.large("b.bin", 15, b"1")
    node.commit_on(time.time)
    time.sleep(1)
    with open(big, "r+b") as file:
        file.write(b"2")
    time.sleep(1)
    assert not node.sizes("out")
    node.finish(seconds=20)
    assert node.home()["b.bin"] == "2" + "1" * (15 * MIB - 1)
    assert node.count("out") == 1 and len(node.blobs()) == 1


def test_a_file_that_grows_all_the_time_holds_nothing_up_and_comes_at_the_end(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=2 * FAR, commit_every_s=0.3)
    big = node.large("trace.bin", 20, b"t")
    over = threading.Event()

    def grow() -> None:
        while not over.wait(0.05):
            with open(big, "ab") as file:
                file.write(b"t" * 1000)

    writer = threading.Thread(target=grow)
    writer.start()
    node.commit_on(time.time)
    node.write({"a.txt": "a", "m.pt": "m"})
    wait_for(lambda: node.sizes("out") == {"a.txt": 1, "m.pt": 1} and node.count("ckpt") == 1, 4)
    over.set()
    writer.join()
    node.finish(seconds=20)
    assert node.sizes("out")["trace.bin"] == big.stat().st_size


def test_many_small_files_hold_up_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "TURN_S", 0.5)
    node = Node(tmp_path, 0, 1, rate=FAR, commit_every_s=0.3)
    for at in range(100):
        node.write({f"data/{at}.jpg": f"{at:4}" * (MIB // 16)})
    node.commit_on(time.time)
    time.sleep(0.5)
    node.write({"model.pt": "m"})
    began = time.monotonic()
    wait_for(lambda: node.sizes("ckpt") == {"model.pt": 1}, 6)
    assert time.monotonic() - began < 4 and len(node.sizes("out")) < 100
    node.finish(seconds=30)
    assert len(node.sizes("out")) == 101


def test_a_large_checkpoint_goes_on_while_the_script_is_asked_to_end(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=2 * FAR, commit_every_s=0.3)
    node.large("model.pt", 24)
    node.commit_on(time.time)
    time.sleep(1)
    until = time.monotonic() + 4
    node.committer.stable(time.monotonic() + 0.4)
    time.sleep(1.6)
    node.committer.final(until, time.time())
    assert node.sizes("ckpt") == {"model.pt": 24 * MIB}, "it takes three seconds in one go"


def test_on_two_nodes_a_large_part_is_waited_for_and_small_results_are_not(tmp_path: Path) -> None:
    first, second = (Node(tmp_path, at, 2, rate=2 * FAR, commit_every_s=0.3) for at in (0, 1))
    first.write({"a.pt": "a"})
    second.large("b.pt", 20, b"b")
    second.write({"b.txt": "b"})
    time.sleep(1.1)
    first.commit_on(time.time), second.commit_on(time.time)
    wait_for(lambda: second.sizes("out") == {"b.txt": 1}, 3)
    wait_for(lambda: (tmp_path / "store" / first.prefix / "commit/00000001.json").exists(), 10)
    assert first.sizes("ckpt") == {"a.pt": 1} and second.sizes("ckpt") == {"b.pt": 20 * MIB}


def test_a_large_file_that_is_kept_is_waited_for_too(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=4 * FAR, ignore=["logs/"], keep=1e9)
    node.large("logs/trace", 18)
    manifest = node.finish(seconds=20)
    assert manifest and [(one.path, one.size) for one in manifest.files] == [("logs/trace", 18 * MIB)]


def test_a_hole_stays_one_in_a_store_on_files(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = FileStore((tmp_path / "store").as_uri())
    with open(tmp_path / "holes", "w+b") as file:
        file.write(b"begin")
        file.truncate(200 * MIB)
        file.seek(0)
        digest, size = store.keep("blob", file, lambda: None)
    blob = tmp_path / "store" / "blob" / digest
    assert (size, blob.stat().st_size) == (200 * MIB, 200 * MIB)
    assert blob.stat().st_blocks * 512 < 4 * MIB
    assert blob.read_bytes() == b"begin" + bytes(200 * MIB - 5)


def test_what_cannot_arrive_before_the_deadline_is_foreseen(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, rate=FAR, seconds=12, commit_every_s=0.3)
    node.large("fits.bin", 10, b"f")
    node.large("huge.bin", 120)
    node.commit_on(time.time)
    wait_for(node.leaving, 8)
    assert node.leaving()[0] == {
        "reason": "will not be stored in time",
        "kept": False,
        "paths": ["huge.bin"],
        "unnamed": 0,
        "files": 1,
        "bytes": 120 * MIB,
    }
    node.finish(seconds=1)
    assert node.sizes("out") == {"fits.bin": 10 * MIB}


def test_a_file_that_finds_no_room_in_a_store_on_files_does_not_fill_its_disk_first(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with small_disk(tmp_path / "store", "16m"), open(tmp_path / "large", "w+b") as file:
        for _ in range(70):
            file.write(b"x" * MIB)
        file.flush()
        file.seek(0)
        seen: list[int] = []
        store = FileStore((tmp_path / "store").as_uri())
        with pytest.raises(OSError, match="No space left"):
            store.keep("blob", file, lambda: seen.append(file.tell()))
    assert not seen, "nothing of it was written"
