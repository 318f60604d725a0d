"""Runs whose records another version wrote: each verb does what it can, or names something that works."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import World
from made_once import made_once

from cli import main
from sojourn import __version__
from sojourn.decoding import decode
from sojourn.errors import UnreadableError
from sojourn.plan.planning import Plan
from sojourn.results.report import Report
from sojourn.run.closed_runs import ClosedRuns
from sojourn.run.purge import purge
from sojourn.run.runs import all_mailboxes, list_runs
from sojourn.store.ledger import Entry
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

LATER = "97.1.0"
WRITES = """
    import pathlib, time
    print("step 1", flush=True)
    pathlib.Path("model.txt").write_text("weights")
    pathlib.Path("last.pt").write_bytes(b"x")
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a run that is closed and, in another store, one that is over and was never closed."""

    def make(folder: Path) -> None:
        folder.mkdir()
        world = World(folder)
        world.script(WRITES)
        done = world.train()
        assert done.returncode == 0, done.stdout + done.stderr
        (world.home / "store").rename(folder / "closed")
        (world.home / "stores.json").unlink()
        world.script_that_waits()
        command = world.start_train()
        world.wait_until("running")
        command.kill()
        (world.signs / "go").touch()
        world.wait_until_empty()
        (world.home / "store").rename(folder / "open")

    return made_once(tmp_path_factory, "two-runs", make)


Done = tuple[int, str]


class Case:
    """A copy of one of them, as this user's own store."""

    def __init__(self, source: Path, world: World, typed: Callable[..., Done]) -> None:
        self.typed = typed
        self.folder = Path(shutil.copytree(source, world.home / "store"))
        self.store = Store(self.folder.as_uri())
        for file in self.folder.rglob("*.json"):
            text = file.read_text().replace((source.parent / "data/store").as_uri(), self.store.url)
            file.write_text(text.replace(str(source.parent / "project"), str(world.project)))
        for folder in ("closed", "open"):
            for pages in (self.folder / "control").glob(f"*/{folder}"):
                shutil.rmtree(pages)
        (self.mailbox,) = all_mailboxes(self.store)
        self.run = self.mailbox.run

    def record(self, name: str) -> Path:
        found = [self.folder / root / name for root in (self.mailbox.control, self.mailbox.orders)]
        return next(file for file in found if file.exists())

    def rewrite(self, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        file = self.record(name)
        file.write_text(json.dumps(change(json.loads(file.read_bytes()))))


@pytest.fixture
def case_of(tmp_path: Path, two: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Iterator[Callable[[str], Case]]:
    world = World(tmp_path)
    world.script(WRITES)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.project)
    threshold = gc.get_threshold()

    def typed(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["sojourn", *words])
        with pytest.raises(SystemExit) as left:
            main._run()
        said = capfd.readouterr()
        return int(left.value.code or 0), f"{said.out}\n{said.err}"

    yield lambda which: Case(two / which, world, typed)
    gc.unfreeze()
    gc.set_threshold(*threshold)


def reshaped(record: dict[str, Any]) -> dict[str, Any]:
    """As a version writes it that has thought again about most fields."""
    kept = ("run", "project", "place", "sequence", "term", "owner", "at", "kind", "receipt", "created_at")
    return {name: value if name in kept else {"form": 2, "value": value} for name, value in record.items()} | {
        "made_by": LATER
    }


def verbs(run: str) -> list[list[str]]:
    return [
        ["runs"], ["runs", "--json"], ["show", run], ["show", run, "--json"], ["logs", run], ["attach", run],
        ["stop", run, "--no-wait"], ["pull", run, "--to", "home"], ["pull", run], ["pull", run, "--apply"],
        ["exec", run, "--", "true"], ["reap", "--dry-run"], ["reap"], ["plan", "--from", run], ["purge", run],
        ["purge", "--older-than", "0s"],
    ]  # fmt: skip


CLOSED = ["plan.json", "report.json", "receipt.json", "ledger/000001.json", "ledger/000003.json"]
OPEN = ["plan.json", "bundle.json", "inputs.json", "order/1.json", "ledger/000000.json", "ledger/000003.json"]
CASES = [("closed", name) for name in CLOSED] + [("open", name) for name in OPEN]
HINT = re.compile(r"sojourn ((?:show|logs|runs|pull|purge|stop|reap)\b[^;,\n)]*)")


@pytest.mark.parametrize(("which", "record"), CASES, ids=lambda value: value)
def test_each_verb_does_what_it_can_or_names_what_works(
    case_of: Callable[[str], Case], which: str, record: str
) -> None:
    case = case_of(which)
    case.rewrite(record, reshaped)
    whole = case.record(record).read_bytes()
    for words in verbs(case.run):
        code, said = case.typed(*words)
        told = f"{' '.join(words)}: {said}"
        assert "Traceback" not in said and "a fault of Sojourn" not in said and "KeyError" not in said, told
        if code != 0:
            works(case, words, said)
        if not record.startswith("order/"):  # which is said once more to machines that may not have heard it
            assert case.record(record).read_bytes() == whole, f"{told}\nit was written over"
    code, said = case.typed("show", case.run)
    assert code == 0
    assert case.typed("logs", case.run)[0] == 0
    code, said = case.typed("pull", case.run, "--to", "again")
    assert code == 0 and Path("again/model.txt").read_text() == "weights", said
    for pages in (case.folder / "control").glob("*/closed"):
        shutil.rmtree(pages)
    os.utime(case.folder / case.mailbox.control / "owner.json", (0, 0))
    code, said = case.typed("runs")
    assert code == 0 and case.run in said
    if case.run in said and "cannot be read" in said:
        assert "nobody can say whether" in said or f"sojourn show {case.run}" in said or "nobody has followed" in said


def works(case: Case, words: list[str], said: str) -> None:
    """What was refused is answered all the same, or names a command that is not refused."""
    if any(sign in said for sign in ("its machines are gone", "start afresh: sojourn train", "sojourn attach")):
        return
    hints = [hint.replace("DIR", f"there-{time.monotonic_ns()}").split() for hint in HINT.findall(said)]
    tried = [hint for hint in hints if hint[: len(words)] != words and "--yes" not in hint]
    assert tried, f"{words}: no next step: {said}"
    answers = {" ".join(hint): case.typed(*hint) for hint in tried}
    assert any(code == 0 for code, _ in answers.values()), f"{words} leads to what is refused too: {answers}"


def test_a_closed_run_of_a_later_version_is_no_orphan_and_no_sweep_tells_of_it_for_ever(
    case_of: Callable[[str], Case],
) -> None:
    case = case_of("closed")
    case.rewrite("plan.json", reshaped)
    (line,) = list_runs([case.store])
    assert (line.state, line.orphan, line.remedy) == ("succeeded", None, None)
    assert "plan.json cannot be read" in str(line.unreadable) and f"sojourn show {case.run}" in str(line.unreadable)
    assert case.typed("reap")[1].strip() == "Nothing stands: no machine carries our name."


def test_who_wrote_a_record_is_named_where_it_says_so() -> None:
    for version, said in (
        (LATER, f"Sojourn {LATER} wrote it, and this is {__version__}: use that one"),
        ("", "update"),
    ):
        with pytest.raises(UnreadableError) as refused:
            decode(json.dumps({"made_by": version, "run": 3}).encode(), Plan, "x/plan.json")
        assert said in str(refused.value.hint)
    for odd in (3, None, [1], {"a": 1}, "x" * 10_000):
        with pytest.raises(UnreadableError) as refused:
            decode(json.dumps({"made_by": odd}).encode(), Plan, "x/plan.json")
        assert len(str(refused.value.hint)) < 300


def test_plan_and_report_say_which_version_made_them(case_of: Callable[[str], Case]) -> None:
    case = case_of("closed")
    plan, report = case.mailbox.read("plan", Plan), case.mailbox.read("report", Report)
    assert plan is not None and report is not None and plan.made_by == report.made_by == __version__


@pytest.mark.parametrize("which", ["closed", "open"])
def test_records_of_an_earlier_version_lack_what_came_later_and_every_verb_works(
    case_of: Callable[[str], Case], which: str
) -> None:
    case = case_of(which)

    def without(kind: type[Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        later = {name for name, field in kind.model_fields.items() if not field.is_required()} - {"place", "stage"}
        return lambda record: {name: value for name, value in record.items() if name not in later}

    case.rewrite("plan.json", without(Plan))
    if which == "closed":
        case.rewrite("report.json", without(Report))
    for line in sorted((case.folder / case.mailbox.control / "ledger").iterdir()):
        case.rewrite(f"ledger/{line.name}", lambda entry: {**entry, "body": entry.get("body", {})})
    for words in (
        ["runs"],
        ["show", case.run],
        ["logs", case.run],
        ["pull", case.run, "--to", "home"],
        ["reap", "--dry-run"],
    ):
        code, said = case.typed(*words)
        assert code == 0 and "cannot be read" not in said, f"{words}: {said}"
    assert Path("home/model.txt").read_text() == "weights"


def test_a_run_that_cannot_be_read_and_is_at_work_is_not_removed(case_of: Callable[[str], Case]) -> None:
    case = case_of("open")
    case.rewrite("plan.json", reshaped)
    owner = case.folder / case.mailbox.control / "owner.json"
    owner.touch()
    code, said = case.typed("purge", case.run, "--yes")
    assert "somebody was at work on it within the last minute" in said and owner.exists()
    for file in [owner, *case.folder.rglob("beat.json")]:
        os.utime(file, (0, 0))
    code, said = case.typed("purge", case.run, "--yes")
    assert code == 0 and "of which something cannot be read" in said and not owner.exists()


def test_what_only_a_later_version_s_record_names_stays_while_its_run_does(case_of: Callable[[str], Case]) -> None:
    case = case_of("closed")
    key = f"control/{case.mailbox.project}/blob/{'ab' * 32}"
    case.store.put(key, b"a layer")
    case.store.put(f"{case.mailbox.control}/layers.json", json.dumps({"files": [{"source": key}]}).encode())
    now = time.time()
    assert purge(case.store, case.folder, now=now, older_than_s=1e6, remove=False).blobs == 1, "nobody of ours names it"
    case.rewrite("plan.json", lambda plan: {**plan, "made_by": LATER})
    ClosedRuns(case.store, case.mailbox.project).drop({case.run})
    assert purge(case.store, case.folder, now=now, older_than_s=1e6, remove=False).blobs == 0


def test_a_later_version_s_line_of_the_ledger_is_told_in_few_words() -> None:
    body = json.dumps({"sequence": 0, "term": 1, "owner": "x", "at": 1.0, "kind": {"v": 2}}).encode()
    with pytest.raises(UnreadableError) as refused:
        decode(body, Entry, "x/ledger/000000.json")
    assert "kind: Input should be" in refused.value.message and len(refused.value.message) < 250


def test_two_mailboxes_count_machines_and_attempts_by_their_folders(tmp_path: Path) -> None:
    box = Mailbox(Store(tmp_path.as_uri()), "digits", "quiet-heron-7f3a")
    assert (box.attempts_of_machines(), box.machines(1)) == ([], 0)
    for name in ("1/0", "1/1", "1/99999999", "1/x", "2/0", "x/0", "0/0"):
        box.store.put(f"{box.machine}/{name}/hello.json", b"{}")
    assert (box.attempts_of_machines(), box.machines(1), box.machines(2)) == ([1, 2], 2, 1)
