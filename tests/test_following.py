"""Following a script through the store: from its start or from the middle, on one machine or several."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sojourn.lease.state import State
from sojourn.plan.planning import Plan
from sojourn.protocol import Outcome, Scalar, Scalars
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from sojourn.watch.follower import HISTORY_LINES, Follower, Status

GOLDEN = Path(__file__).parent / "golden" / "plan.json"


class Watch:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.at = time.time()

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class Run:
    """A run of one attempt as its machines would leave it in the store, and who hears of it."""

    def __init__(self, folder: Path, nodes: int = 1, price: float = 0.0, **launch: Any) -> None:
        content = json.loads(GOLDEN.read_text())
        content["launch"] |= {"nodes": nodes, **launch}
        content["offers"][0]["price"] = price
        self.clock = Watch()
        content |= {"deadline_at": self.clock.at + 3600, "ceiling": price * nodes}
        self.plan = Plan.model_validate_json(json.dumps(content))
        self.box = Mailbox(Store((folder / "store").as_uri()), self.plan.project, self.plan.run)
        self.state = State(offer=0, created_at=self.clock.at, ordered_at=self.clock.at)
        self.lines: dict[int, list[str]] = {}
        self.statuses: list[Status] = []
        self.said: list[str] = []
        self.pieces: dict[str, int] = {}
        self.follower = Follower(self.plan, self.box, self, self.clock)

    # -- what the machines do --

    def prints(self, *lines: str, node: int = 0) -> None:
        self._put(node, "log", "".join(f"{line}\n" for line in lines).encode(), "")

    def writes(self, *points: Scalar) -> None:
        self._put(0, "scalars", Scalars(points=points).to_bytes(), ".json")

    def _put(self, node: int, what: str, body: bytes, ending: str) -> None:
        at = self.pieces.get(f"{what}{node}", 0)
        self.pieces[f"{what}{node}"] = at + 1
        self.box.store.put(f"{self.box.machine}/1/{node}/{what}/{at:08d}{ending}", body)

    # -- who hears of it --

    def look(self, after: float = 1.0) -> None:
        self.clock.sleep(after)
        self.follower.look(self.state)

    def script(self, node: int, data: bytes) -> None:
        self.lines.setdefault(node, []).extend(data.decode().splitlines())

    def status(self, status: Status) -> None:
        self.statuses.append(status)

    def note(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append("! " + text)


def test_what_is_reported_is_told_once_a_second_at_most_and_else_every_five(tmp_path: Path) -> None:
    run = Run(tmp_path, metrics={"loss": "loss ([0-9.]+)"})
    run.box.store.put(f"{run.box.machine}/1/0/beat.json", b'{"phase": "running", "at": 1}')
    run.look()
    told = len(run.statuses)
    for at in range(10):
        run.prints(f"loss {at}")
        run.look(after=0.1)
    assert len(run.statuses) <= told + 2
    run.look()
    quiet_from = len(run.statuses)
    for _ in range(10):
        run.look()
    assert len(run.statuses) == quiet_from + 2
    assert run.statuses[-1].values == {"loss": 9.0} and run.lines[0] == [f"loss {at}" for at in range(10)]


def test_what_will_not_come_home_is_told_once_while_its_machine_stands_with_what_brings_it(tmp_path: Path) -> None:
    run = Run(tmp_path, nodes=2)
    for node, size in ((0, 14 * 10**9), (1, 2 * 10**10)):
        line = {"reason": "more than launch.bring allows", "kept": False, "paths": ["data/set.bin"], "files": 1}
        beat = {"phase": "running", "at": 1, "leaving": [{**line, "bytes": size}]}
        run.box.store.put(f"{run.box.machine}/1/{node}/beat.json", json.dumps(beat).encode())
    for _ in range(30):
        run.look(after=5.0)
    told = "data/set.bin, {} so far, will not come home: nobody named it, and launch.bring is 10 GB; if it is a result:"
    link = "-- ln -s ../data/set.bin sojourn-outputs/"
    name = run.box.run
    assert run.said == [
        f"! {told.format('14 GB')} sojourn exec {name} {link}",
        f"! {told.format('20 GB')} sojourn exec {name} --node 1 {link}",
    ]


def test_nothing_is_told_before_the_order_and_after_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path, metrics={"loss": "loss ([0-9.]+)"})
    began, run.state = run.state, State()
    run.look()
    run.state = began
    run.prints("loss 1")
    run.look()
    told = len(run.statuses)
    run.state = State(ordered_at=run.clock.at, outcome=Outcome(state="succeeded", message="", ended_at=run.clock.at))
    run.prints("loss 2")
    run.look()
    assert told == len(run.statuses) == 1
    run.follower.finish(run.state)
    assert run.statuses[-1].values == {"loss": 2.0}


@pytest.mark.parametrize("patterns", [{}, {"loss": "loss ([0-9]+)"}])
def test_from_the_middle_the_numbers_are_all_there_and_of_the_log_the_last_lines(
    tmp_path: Path, patterns: dict[str, str]
) -> None:
    run = Run(tmp_path, nodes=2, metrics=patterns)
    for at in range(50):
        run.prints(f"loss {at}")
    run.prints("few", node=1)
    run.look(after=60.0)
    run.prints("loss 50")
    run.look()
    assert run.lines[0] == [f"loss {at}" for at in range(50 - HISTORY_LINES, 51)] and run.lines[1] == ["few"]
    assert run.said == [f"its log up to here: sojourn logs {run.plan.run}"]
    if patterns:
        assert run.follower.metrics.series()["loss"].values() == list(range(51))


def test_money_is_what_the_machines_cost_since_they_were_made(tmp_path: Path) -> None:
    run = Run(tmp_path, nodes=2, price=3.0)
    run.look(after=600.0)
    assert run.statuses[-1].cost == pytest.approx(1.0) and run.statuses[-1].ceiling == 6.0
    assert run.statuses[-1].elapsed_s == pytest.approx(600) and run.statuses[-1].left_s == pytest.approx(3000)


def test_event_files_of_other_folders_are_told_apart_by_their_names(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for folder in ("logs/train", "logs/validation"):
        run.writes(Scalar("tensorboard", folder, "loss", 1.0, 0.5, 0.0))
    run.writes(Scalar("file", "metrics.json", "accuracy", None, 0.9, 0.0))
    run.look()
    assert set(run.statuses[-1].values) == {"loss", "validation/loss", "accuracy"}


def test_numbers_that_cannot_be_read_do_not_end_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run._put(0, "scalars", b'{"points": [["odd"]]}', ".json")
    run.look()
    run.prints("on it goes")
    run._put(0, "scalars", b"", ".json")
    run.writes(Scalar("file", "metrics.json", "accuracy", None, 0.9, 0.0))
    run.look()
    assert run.lines[0] == ["on it goes"] and len(run.said) == 1
    assert "scalars/00000000.json cannot be read: points.0" in run.said[0]
    assert set(run.statuses[-1].values) == {"accuracy"}, "what comes after a gap counts"
