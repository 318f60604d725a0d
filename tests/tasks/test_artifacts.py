"""What a run leaves on Prefect's pages."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

import pytest

from sojourn.protocol import Outcome
from sojourn.receipts import Receipt, Resource
from sojourn.results.publish import Published
from sojourn.results.report import Comparison, Report
from sojourn.run.reap import Finding
from sojourn.watch.follower import Status
from sojourn.watch.metrics import Metrics
from tasks.artifacts import findings_page, how_far, receipt_page, report_page


def report(**more: Any) -> Report:
    """A report of a short run."""
    known: dict[str, Any] = {
        "run": "quiet-heron-7f3a", "project": "digits", "store": "file:///store", "state": "succeeded",
        "message": "the script ended with exit code 0", "command": "python train.py", "machine": "this-host",
        "nodes": 1, "commit": None, "changed": 0, "inputs": "", "ended_at": 0.0, "seconds": 9.0, "cost": 0.0,
        "receipt": "closed", "files": 1, "bytes": 61, "checkpoints": 0, "published": Published(),
    }  # fmt: skip
    return Report(**{**known, **more})


def metrics() -> Metrics:
    """Ten steps of a loss, one of an accuracy."""
    told = Metrics()
    for step in range(1, 11):
        told.add("log", "loss", 1 / step, step, None)
    told.add("file", "accuracy", 0.5, None, None)
    return told


def test_curves_are_images_that_the_page_holds_itself() -> None:
    page = report_page(report(series=metrics().series()))

    ((name, data),) = re.findall(r"!\[(.*?)\]\(data:image/svg\+xml;base64,(.*?)\)", page)
    drawing = ElementTree.fromstring(base64.b64decode(data))
    assert name == "loss" and len(drawing.findall("{http://www.w3.org/2000/svg}polyline")) == 1


def test_metrics_stand_beside_their_change_on_the_last_run() -> None:
    compared = Comparison(run="calm-otter-1234", changes={"accuracy": 0.125})
    page = report_page(report(metrics={"accuracy": 0.6251234567, "epochs": 3}, compared=compared))

    assert "| metric | value | change on calm-otter-1234 |" in page
    assert "| accuracy | 0.625123 | +0.125 |" in page and "| epochs | 3 |  |" in page


def test_a_command_stays_as_it_is_and_in_its_line() -> None:
    page = report_page(report(command="python a.py `date` | tee\nlog", message="lost *two* machines"))

    assert "- **command** `` python a.py `date` | tee log ``\n" in page
    assert "- **ended** lost \\*two\\* machines\n" in page


def test_the_receipt_reads_as_people_read() -> None:
    at = datetime(2026, 1, 15, 8, 1).timestamp()
    stood = Resource(
        kind="g6.xlarge", name="sojourn-quiet-heron-7f3a-1-0-9cc1-n0", identity="i-0abc", created_at=at,
        asked_at=at - 1, released_at=at + 80, gone_at=at + 90, ended_by="exit", seconds=80.0, cost=0.1234,
    )  # fmt: skip
    stands = Resource(kind="volume", name="n0", asked_at=at)
    page = receipt_page(Receipt(state="open", resources=(stood, stands)))

    zone = datetime.fromtimestamp(at).astimezone().strftime("%Z")
    since, gone = f"since 15 Jan 08:01:00 {zone}", f"gone 15 Jan 08:02:30 {zone}"
    assert f"- **g6.xlarge** `{stood.name}`, i-0abc, {since}, for 1m 20s, ended by exit, {gone}, $0.12\n" in page
    assert f"- **volume** `n0`, {since}, **NOT CONFIRMED GONE**, $0.00\n" in page


def test_the_report_names_where_the_results_are() -> None:
    home = Published(placed=("model.pt", "a|b.txt"), beside=("train.py",), directory="/home/me/runs/quiet-heron-7f3a")
    page = report_page(report(files=3, published=home))
    assert "- in place: `model.pt`, `a|b.txt`\n" in page
    assert "- in `/home/me/runs/quiet-heron-7f3a`: `train.py`\n" in page
    assert "- in the store `file:///store`; fetch them: `sojourn pull quiet-heron-7f3a --to DIR`\n" in page
    many = report_page(report(files=40, published=Published(placed=tuple(f"{i}.pt" for i in range(40)))))
    assert "`11.pt` and 28 more" in many
    assert "no file came home" in report_page(report(files=0))


def test_the_report_of_a_failed_run_ends_with_the_last_lines_of_the_rank_that_failed() -> None:
    tail = "loss 0.1\n```\nKeyError: 'missing' | x"
    ended = Outcome(state="failed", message="rank 1 ended with exit code 1", tail=tail, failed_rank=1, ended_at=0.0)
    page = report_page(report(state="failed", message=ended.message), ended)
    assert f"## Last lines of its log, rank 1\n\n````text\n{tail}\n````\n" in page
    assert "Last lines" not in report_page(report(), ended.model_copy(update={"state": "succeeded"}))


def test_a_sweep_tells_what_was_done_about_each_and_why() -> None:
    done = Finding(name="sojourn-a-1-0-9cc1", run="quiet-heron-7f3a", action="closed", reason="lost: *gone*")
    told = "- **closed** `sojourn-a-1-0-9cc1` of `quiet-heron-7f3a`: lost: \\*gone\\*\n"
    assert findings_page([done]) == told
    assert "Nothing stands" in findings_page([])


@pytest.mark.parametrize(
    ("told", "share", "of"),
    [
        ({"step": 25, "steps": 100}, 0.25, "steps done"),
        ({"step": 120, "steps": 100}, 1.0, "steps done"),
        ({"step": 25, "expected_s": 120.0}, 0.5, "of the time that its last runs took"),
        ({"expected_s": 10.0}, 1.0, "of the time that its last runs took"),
        ({}, 0.1, "of the time to its deadline"),
        ({"left_s": -5.0}, 1.0, "of the time to its deadline"),
    ],
)
def test_progress_is_of_the_steps_that_are_told_and_else_says_of_what_time(
    told: dict[str, float], share: float, of: str
) -> None:
    known: dict[str, Any] = {"left_s": 540.0, **told}
    status = Status(run="r", project="p", phase="running", at=0.0, elapsed_s=60.0, cost=0.0, ceiling=0.0, **known)
    assert how_far(status) == (pytest.approx(share), of)
