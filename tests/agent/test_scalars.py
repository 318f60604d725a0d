"""Numbers are read from real event files and metric files while they are being written."""

from __future__ import annotations

import json
import math
import random
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from sojourn.agent.mailbox import Place
from sojourn.agent.script import scalars as module
from sojourn.agent.script.scalars import Scalars
from sojourn.agent.script.tfevents import NoEventsError, Scalar, crc32c, read
from sojourn.agent.stores.store import FileStore
from sojourn.errors import SojournError
from sojourn.protocol import Scalar as Record
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

MIB = 1 << 20


def event_file(folder: Path) -> Path:
    """The only event file of a folder."""
    (found,) = folder.glob("events.out.tfevents.*")
    return found


def read_all(path: Path, budget: int = 100 * MIB) -> list[tuple[str, int, float]]:
    with path.open("rb") as file:
        found, _ = read(file, 0, budget)
    return [(one.tag, one.step, round(one.value, 5)) for one in found]


def summary_writer(folder: Path) -> Any:
    """torch's own writer; loaded late, since every process of a run reads this file and torch takes seconds."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """An event file with a bit of everything that torch can write."""
    writer = summary_writer(tmp_path / "tb")
    before = time.time()
    for step in range(3):
        writer.add_scalar("train/loss ü", 1 / (step + 1), step)
        writer.add_scalar("new style", step / 2, step, new_style=True, double_precision=step == 2)
        writer.add_histogram("weights", numpy.arange(100.0), step)
    writer.add_text("note", "a text", 1)
    writer.add_image("large", numpy.zeros((3, 300, 300)) + numpy.random.default_rng(0).random((3, 300, 300)), 1)
    writer.add_scalar("negative step", 7.0, -1, walltime=before)
    writer.close()
    return event_file(tmp_path / "tb")


# --- event files ---


def test_scalars_are_read_and_nothing_else(written: Path) -> None:
    assert sorted(read_all(written)) == sorted(
        [("train/loss ü", step, round(1 / (step + 1), 5)) for step in range(3)]
        + [("new style", step, step / 2) for step in range(3)]
        + [("negative step", -1, 7.0)]
    )


def test_a_scalar_carries_the_time_it_was_written(written: Path) -> None:
    with written.open("rb") as file:
        found, _ = read(file, 0, MIB)
    assert all(abs(one.at - time.time()) < 600 for one in found)


def test_a_scalar_as_tensorflow_2_writes_it_is_read(tmp_path: Path) -> None:
    event = Event(wall_time=5.0, step=9)
    value = event.summary.value.add(tag="epoch_loss")
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = 1
    value.tensor.tensor_content = struct.pack("<f", 0.25)
    path = tmp_path / "events"
    with path.open("wb") as file:
        RecordWriter(file).write(event.SerializeToString())
    with path.open("rb") as file:
        assert read(file, 0, MIB)[0] == [Scalar("epoch_loss", 9, 0.25, 5.0)]


def test_a_file_cut_at_any_byte_gives_its_whole_records_and_goes_on_from_there(written: Path, tmp_path: Path) -> None:
    whole, everything, torn = written.read_bytes(), read_all(written), tmp_path / "torn"
    for cut in [*range(0, 2000, 7), *range(len(whole) - 200, len(whole))]:
        torn.write_bytes(whole[:cut])
        with torn.open("rb") as file:
            first, after = read(file, 0, 100 * MIB)
        torn.write_bytes(whole)
        with torn.open("rb") as file:
            rest, end = read(file, after, 100 * MIB)
        assert [(one.tag, one.step, round(one.value, 5)) for one in first + rest] == everything and end == len(whole)


def test_one_look_reads_no_more_than_it_may(tmp_path: Path) -> None:
    writer = summary_writer(tmp_path)
    for step in range(2000):
        writer.add_scalar("loss", 1.0, step)
    writer.close()
    path = event_file(tmp_path)
    with path.open("rb") as file:
        found, after = read(file, 0, 10_000)
        assert 100 < len(found) < 1000 and after < 11_000
        while after < path.stat().st_size:
            more, after = read(file, after, 10_000)
            found += more
    assert [one.step for one in found] == list(range(2000))


def test_what_is_no_event_file_is_told_from_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"these are no records at all")
    with (tmp_path / "x").open("rb") as file, pytest.raises(NoEventsError):
        read(file, 0, MIB)


def test_damaged_bytes_do_no_harm(written: Path, tmp_path: Path) -> None:
    whole, damaged, dice = written.read_bytes()[:3000], tmp_path / "damaged", random.Random(0)
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        damaged.write_bytes(body)
        with damaged.open("rb") as file:
            try:
                read(file, 0, MIB)
            except NoEventsError:
                continue


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's check value


# --- while the script runs ---


class Desk:
    """A tree that a script writes into, and what the reader tells the store about it."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir()
        store = (folder / "store").as_uri()
        self.box = Mailbox(Store(store), "p", "r")
        boot = {"project": "p", "run": "r", "attempt": 1, "lease": "sojourn-r"}
        Store(store).provide()
        self.store, self.place = FileStore(store), Place(FileStore(store), boot, 0)

    def reader(self, *metrics: str) -> Scalars:
        return Scalars(self.store, self.place, {"metrics": metrics}, str(self.tree))

    def told(self) -> list[Record]:
        return [
            point for piece in self.box.scalars(1, 0) if not isinstance(piece, SojournError) for point in piece.points
        ]

    def wait(self, what: Callable[[list[Record]], Any]) -> None:
        until = time.monotonic() + 60
        while not what(self.told()):
            assert time.monotonic() < until, self.told()
            time.sleep(0.02)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    return Desk(tmp_path)


def test_numbers_are_told_while_they_are_written(desk: Desk) -> None:
    reader = desk.reader("metrics.json")
    reader.start()
    writer = summary_writer(desk.tree / "tb")
    writer.add_scalar("loss", 0.5, 1)
    writer.flush()
    desk.wait(lambda told: [(one.folder, one.name, one.step, one.value) for one in told] == [("tb", "loss", 1.0, 0.5)])
    (desk.tree / "metrics.json").write_text(json.dumps({"step": 4, "eval": {"accuracy": 0.75, "good": True}}))
    desk.wait(lambda told: ("file", "eval.accuracy", 4.0, 0.75) in [(o.source, o.name, o.step, o.value) for o in told])
    writer.add_scalar("loss", math.nan, 2)
    writer.close()
    reader.finish(10)
    assert [(one.name, one.value) for one in desk.told()] == [("loss", 0.5), ("eval.accuracy", 0.75), ("loss", None)]


def test_files_of_metrics_are_found_wherever_they_lie_with_numbers_as_text(desk: Desk) -> None:
    reader = desk.reader("metrics.json")
    reader.start()
    files = {
        "out/eval_results.json": '{"eval_loss": "3.9", "eval_accuracy": 1e-3, "note": "93%", "gone": null}',
        "logs/metrics.csv": "epoch,step,train_loss,val_loss\n0,1,0.5,\n0,2,,0.25\n",
        "logs/metrics.jsonl": '{"f1": 0.5, "step": 1}\n{"f1": 0.75, "step": 2}\n{"f1": 0.',
        "fold_1/metrics.json": '{"auc": 0.5}',
        "fold_2/metrics.json": '{"auc": 0.75}',
        "results.json": json.dumps({f"image {at}": at for at in range(100)}),
        "broken/metrics.json": "{",
        "bytes/metrics.json": "\0\1",
        "deep/metrics.json": "[" * 100_000,
        "other.json": '{"x": 1}',
    }
    for name, text in files.items():
        (desk.tree / name).parent.mkdir(exist_ok=True)
        (desk.tree / name).write_text(text)
    desk.wait(lambda told: {one.name for one in told} >= {"eval_loss", "f1", "auc", "val_loss"})
    with (desk.tree / "logs/metrics.csv").open("a") as file:
        file.write("1,3,0.125,\n")
    reader.finish(10)
    assert [(one.name, one.step, one.value) for one in desk.told() if one.name in ("train_loss", "val_loss", "f1")] == [
        ("train_loss", 1.0, 0.5), ("val_loss", 2.0, 0.25), ("f1", 1.0, 0.5), ("f1", 2.0, 0.75),
        ("train_loss", 3.0, 0.125),
    ]  # fmt: skip
    assert {(one.name, one.value) for one in desk.told() if one.name.startswith(("eval", "auc"))} == {
        ("eval_loss", 3.9), ("eval_accuracy", 0.001), ("auc", 0.5),
    }  # fmt: skip
    assert {one.name for one in desk.told()} == {
        "eval_loss", "eval_accuracy", "train_loss", "val_loss", "epoch", "f1", "auc",
    }  # fmt: skip


def test_the_lines_of_a_table_from_before_the_script_are_not_its_own(desk: Desk) -> None:
    (desk.tree / "metrics.csv").write_text("loss\n9\n8\n")
    reader = desk.reader()
    reader.start()
    with (desk.tree / "metrics.csv").open("a") as file:
        file.write("1\n")
    reader.finish(10)
    assert [one.value for one in desk.told()] == [1.0]


def test_what_lay_there_before_the_script_is_not_its_own(desk: Desk) -> None:
    old = summary_writer(desk.tree)
    old.add_scalar("loss", 9.0, 1)
    old.flush()
    (desk.tree / "metrics.json").write_text('{"loss": 9.0}')
    reader = desk.reader("metrics.json")
    reader.start()
    old.add_scalar("loss", 1.0, 2)
    old.close()
    reader.finish(10)
    assert [(one.step, one.value) for one in desk.told()] == [(2.0, 1.0)]


def test_a_script_that_logs_without_end_is_thinned(desk: Desk) -> None:
    reader = desk.reader()
    writer = summary_writer(desk.tree)
    for step in range(5000):
        writer.add_scalar("loss", 1.0, step)
    for tag in range(200):
        writer.add_scalar(f"tag {tag}", 1.0, 1)
    writer.close()
    reader.start()
    reader.finish(20)
    losses = [one.step for one in desk.told() if one.name == "loss"]
    assert len(losses) <= 2 * module.POINTS and losses[-1] == 4999.0 and losses == sorted(losses)
    assert len({one.name for one in desk.told()}) == module.NAMES


def test_numbers_wait_for_a_store_that_fails(desk: Desk) -> None:
    reader = desk.reader("metrics.json")
    root = Path(str(desk.box.store.root))
    away = root.rename(root.with_name("elsewhere"))
    reader.start()
    (desk.tree / "metrics.json").write_text('{"loss": 1.0}')
    time.sleep(0.5)
    away.rename(root)
    reader.finish(10)
    assert [one.value for one in desk.told()] == [1.0]


def test_other_nodes_than_the_first_tell_nothing(desk: Desk) -> None:
    desk.place.rank = 1
    reader, before = desk.reader("metrics.json"), threading.active_count()
    reader.start()
    assert threading.active_count() == before
    (desk.tree / "metrics.json").write_text('{"loss": 1.0}')
    reader.finish(10)
    assert desk.told() == []
