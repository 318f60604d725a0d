"""What a verb asks of a store does not grow with closed runs; and no run is hidden by what is remembered of others."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import World
from made_once import made_once
from many_runs import Copies, a_run
from s3_of_files import FilesAsS3, files_as_s3

from sojourn.errors import AccessError, SpecError, TransientError
from sojourn.plan.planning import Plan
from sojourn.results.report import Report
from sojourn.run.closed_runs import ClosedRuns, Summary, mark_open, marked_open, shortened
from sojourn.run.purge import purge
from sojourn.run.reap import reap
from sojourn.run.runs import (
    all_mailboxes,
    find_run,
    known_runs,
    list_runs,
    past_runs,
    reports_to_compare,
    summary_of,
    usual_seconds,
)
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox, closed_pages, open_mark, purge_mark
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock

FEW, MANY = 6, 60


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run that was really run."""

    def make(folder: Path) -> None:
        folder.mkdir()
        world = World(folder)
        world.script("import json; json.dump({'loss': 0.5}, open('metrics.json', 'w'))")
        done = world.train()
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.move(world.home / "store", folder / "store")

    return made_once(tmp_path_factory, "one-run", make) / "store"


class House:
    """A store on files, with copies of that run."""

    def __init__(self, one: Path, folder: Path, count: int, known: bool = True) -> None:
        self.folder = folder
        folder.mkdir()
        self.runs = Copies(one).write(folder, count, known=known)
        self.store = Store(folder.as_uri())
        self.project = a_run(Store(one.as_uri())).project

    def box(self, number: int = 0) -> Mailbox:
        return Mailbox(self.store, self.project, self.runs[number])

    def pages(self) -> list[Path]:
        return sorted((self.folder / closed_pages(self.project)).glob("*"))

    def told(self) -> set[str]:
        """The runs that stand in pages."""
        return set(ClosedRuns(self.store, self.project).read())

    def listed(self) -> dict[str, str]:
        """The runs that `sojourn runs` lists, and their states."""
        return {line.run: line.state for line in list_runs([self.store])}

    def reopen(self, number: int = 0) -> Mailbox:
        """Make a closed run one that goes on: nothing of its end is written yet."""
        box = self.box(number)
        for name in ("report", "receipt", "outcome"):
            self.store.delete(f"{box.control}/{name}.json")
        self.store.clear(f"{box.control}/ledger")
        Ledger(box, SystemClock()).join()
        return box


@pytest.fixture
def house(one: Path, tmp_path: Path) -> House:
    return House(one, tmp_path / "store", FEW)


def sweep(store: Store, dry_run: bool = True) -> list[Any]:
    return list(reap([store], [], lambda *_: pytest.fail("opened"), now=time.time(), dry_run=dry_run))


VERBS: dict[str, Callable[[Store, House], object]] = {
    "runs": lambda store, _: list_runs([store]),
    "show last": lambda store, _: find_run([store], "last"),
    "show RUN": lambda store, house: find_run([store], house.runs[1]),
    "plan": lambda store, house: usual_seconds(past_runs(store, house.project), "python train.py"),
    "close": lambda store, house: reports_to_compare(
        store, house.project, known_runs(store, house.project), "train.py"
    ),
    "reap": lambda store, _: sweep(store, dry_run=False),
    "reap --dry-run": lambda store, _: sweep(store),
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[House], FilesAsS3]]:
    opened = []

    def serve(house: House) -> FilesAsS3:
        opened.append(files_as_s3(house.folder))
        files = opened[-1].__enter__()
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        return files

    yield serve
    for one in opened:
        one.__exit__(None, None, None)


def test_no_verb_asks_more_of_a_store_that_has_ten_times_as_many_closed_runs(
    one: Path, tmp_path: Path, served: Callable[[House], FilesAsS3]
) -> None:
    asked: dict[str, list[int]] = {verb: [] for verb in VERBS}
    for count in (FEW, MANY):
        house = House(one, tmp_path / str(count), count)
        files = served(house)
        for verb, ask in VERBS.items():
            files.reset()
            ask(Store(files.url), house)
            asked[verb].append(files.requests)
    assert {verb: few for verb, (few, _) in asked.items()} == {verb: many for verb, (_, many) in asked.items()}
    assert max(few for few, _ in asked.values()) < 20, asked


def test_what_a_page_tells_is_what_the_records_tell(house: House) -> None:
    told = list_runs([house.store])
    last, past = find_run([house.store], "last").run, past_runs(house.store, house.project)
    shutil.rmtree(house.folder / closed_pages(house.project))
    assert past_runs(house.store, house.project) == past and not house.pages(), "a plan writes nothing"
    assert list_runs([house.store]) == told and {line.state for line in told} == {"succeeded"}
    assert find_run([house.store], "last").run == last == house.runs[-1]
    assert house.told() == set(house.runs), "pages that were lost are written anew by the next list"


def test_a_sweep_writes_lost_pages_anew_and_a_dry_one_nothing(house: House) -> None:
    shutil.rmtree(house.folder / closed_pages(house.project))
    assert sweep(house.store) == [] and not house.pages()
    assert sweep(house.store, dry_run=False) == []
    assert house.told() == set(house.runs)


def _zipped(body: bytes) -> bytes:
    """Without a time, which every worker of a run would put into the test's name as another one."""
    return gzip.compress(body, mtime=0)


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"\0" * 40, b"\xff", b'{"runs": []}', _zipped(b"[1]"), _zipped(b'{"runs": [{"run": 7}]}'),
        _zipped(b'{"runs": 1'), _zipped(b'{"runs": []}')[:-12], _zipped(bytes(100 << 20)),
    ],
)  # fmt: skip
def test_a_page_that_cannot_be_read_hides_no_run_and_is_replaced(house: House, damage: bytes) -> None:
    (page,) = house.pages()
    page.write_bytes(damage)
    assert set(house.listed()) == set(house.runs)
    assert house.told() == set(house.runs) and not page.exists()


def test_a_page_of_a_later_version_is_read_as_far_as_it_is_understood(house: House) -> None:
    (page,) = house.pages()
    whole = gzip.decompress(page.read_bytes())
    page.write_bytes(gzip.compress(whole.replace(b'{"runs":[{', b'{"later":{"a":1},"runs":[{"mood":"good",'), mtime=0))
    shutil.move(house.folder / house.box(1).control / "report.json", house.folder / "away")  # it is not looked at
    assert house.listed()[house.runs[1]] == "succeeded"


def test_a_run_that_is_open_is_listed_and_swept_whatever_pages_say(house: House) -> None:
    box = house.reopen(2)
    assert house.runs[2] in house.told(), "as if another's page had come back"
    mark_open(house.store, house.project, box.run)
    assert house.listed()[box.run] == "preparing"
    opened = []

    def journey_of(plan: Plan, _: Mailbox) -> Any:
        opened.append(plan.run)
        raise SpecError("not today")

    list(reap([house.store], [], journey_of, now=time.time(), dry_run=True))
    assert opened == [box.run]
    assert marked_open(house.store, house.project) == {box.run}


def test_a_run_is_marked_as_open_until_it_stands_in_a_page(house: House) -> None:
    box = house.box(3)
    mark_open(house.store, house.project, box.run)
    plan, report = box.read("plan", Plan), box.read("report", Report)
    assert plan and report
    ClosedRuns(house.store, house.project).add([Summary.of(plan, report)])
    assert not house.store.exists(open_mark(house.project, box.run))


def test_a_mark_that_a_closed_run_still_has_goes_with_the_next_list(house: House) -> None:
    mark_open(house.store, house.project, house.runs[0])
    assert house.listed()[house.runs[0]] == "succeeded"
    assert not marked_open(house.store, house.project)


def test_a_closed_run_is_never_hidden_because_its_page_is_missing(house: House) -> None:
    ClosedRuns(house.store, house.project).drop({house.runs[4]})
    assert house.runs[4] not in house.told()
    assert set(house.listed()) == set(house.runs) == house.told()


def test_an_entry_without_a_run_counts_for_nothing(house: House) -> None:
    house.box(5).clear(keep=())
    assert house.runs[5] in house.told()
    assert set(house.listed()) == set(house.runs[:5])
    assert find_run([house.store], "last").run == house.runs[4]
    assert house.runs[5] not in {one.run for one in past_runs(house.store, house.project)}


def test_two_that_close_at_once_leave_both_runs_told(house: House) -> None:
    class Slow(Store):
        """Between its look at the pages and its own page another's comes."""

        def create(self, key: str, body: bytes) -> None:
            if meanwhile:
                meanwhile.pop()()
            super().create(key, body)

    summaries = [summary for number in (0, 1) if (summary := summary_of(house.box(number)))]
    ClosedRuns(house.store, house.project).drop({one.run for one in summaries})
    meanwhile = [lambda: ClosedRuns(house.store, house.project).add(summaries[:1])]
    ClosedRuns(Slow(house.store.url), house.project).add(summaries[1:])
    assert house.told() == set(house.runs)


def test_a_writer_that_dies_after_any_step_loses_no_run_that_was_told(house: House) -> None:
    """One page too many is all that is left of it, and the next writer takes that along."""
    before = {page: page.read_bytes() for page in house.pages()}
    summary = summary_of(house.box())
    assert summary
    ClosedRuns(house.store, house.project).add([summary])
    for page, body in before.items():  # as if it had died before it took the old one away
        page.write_bytes(body)
    assert house.told() == set(house.runs) and len(house.pages()) == 2
    ClosedRuns(house.store, house.project).add([summary])
    assert house.told() == set(house.runs) and len(house.pages()) == 1


def test_full_pages_are_not_written_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.run.closed_runs.FULL", 4)
    pages = ClosedRuns(house.store, house.project)
    shutil.rmtree(house.folder / closed_pages(house.project))
    for number in range(FEW):
        summary = summary_of(house.box(number))
        assert summary
        pages.add([summary])
    assert sorted(page.name[:6] for page in house.pages()) == ["000002", "000004"]
    assert house.told() == set(house.runs)


def test_a_store_that_may_not_be_written_is_listed_all_the_same(house: House) -> None:
    class ReadOnly(Store):
        def create(self, key: str, body: bytes) -> None:
            raise AccessError("not yours")

    shutil.rmtree(house.folder / closed_pages(house.project))
    assert {line.run for line in list_runs([ReadOnly(house.store.url)])} == set(house.runs)


def test_long_commands_are_told_apart_by_more_than_their_beginning() -> None:
    first, second = "python train.py " + "x" * 9000 + "1", "python train.py " + "x" * 9000 + "2"
    assert shortened(first) != shortened(second) and len(shortened(first)) < 500
    assert shortened("short") == "short" and shortened("\ud800" * 9000)


def test_a_run_that_has_been_run_stands_in_a_page_and_has_no_mark(one: Path) -> None:
    store = Store(one.as_uri())
    (box,) = all_mailboxes(store)
    assert set(ClosedRuns(store, box.project).read()) == {box.run}
    assert not marked_open(store, box.project)


def test_many_projects_are_asked_for_side_by_side(
    one: Path, tmp_path: Path, served: Callable[[House], FilesAsS3]
) -> None:
    house = House(one, tmp_path / "store", 1)
    for number in range(40):
        for root in ("control", "orders", "machine"):
            shutil.copytree(house.folder / root / house.project, house.folder / root / f"other-{number}")
    files = served(house)
    files.delay_s = 0.02
    for verb in ("runs", "show last", "show RUN", "reap --dry-run"):
        files.reset()
        if verb == "show RUN":
            find_run([Store(files.url)], house.runs[0])
        else:
            VERBS[verb](Store(files.url), house)
        assert files.most > 8, verb
    assert len(list_runs([Store(files.url)])) == 41


# --- purging ----------------------------------------------------------------------------------------


DAY = 86400.0


def purged(store: Store, house: House, days: float = 30, remove: bool = True, runs: tuple[str, ...] = ()) -> Any:
    home = house.folder.parent / "home"
    return purge(store, home, now=time.time(), older_than_s=days * DAY, remove=remove, runs=runs)


def left(house: House, run: str) -> list[str]:
    """What of a run is still in the store."""
    return [str(path) for path in house.folder.rglob("*") if run in str(path) and path.is_file()]


def test_a_purge_of_many_runs_asks_for_them_by_pages_and_removes_them_by_the_thousand(
    one: Path, tmp_path: Path, served: Callable[[House], FilesAsS3]
) -> None:
    house = House(one, tmp_path / "store", MANY)
    files = served(house)
    found = purged(Store(files.url), house, days=10)
    kept = MANY - len(found.runs)
    assert 3 <= kept <= 8 and found.blobs == 0 and not found.kept
    assert files.requests < 60 + 5 * kept, files.by_verb()
    files.look()
    assert set(house.listed()) == set(house.runs[-kept:]) == house.told()
    assert not any(left(house, run) for run in house.runs[:-kept])
    assert all(summary_of(house.box(number)) for number in range(MANY - kept, MANY))


def test_a_purge_that_dies_at_any_removal_leaves_whole_runs_and_the_next_ends_it(one: Path, tmp_path: Path) -> None:
    class Dying(Store):
        left = 0

        def delete(self, *keys: str) -> None:
            self.left -= 1
            if self.left < 0:
                raise TransientError("died")
            super().delete(*keys)

    for after in range(30):
        house = House(one, tmp_path / str(after), FEW)
        store = Dying(house.store.url)
        store.left = after
        try:
            purged(store, house, days=10)
        except TransientError:
            ended = False
        else:
            ended = True
        listed = house.listed()
        assert house.runs[-1] in listed and set(listed.values()) == {"succeeded"}, after
        house.store.delete(purge_mark(house.project))
        purged(house.store, house, days=10)
        assert set(house.listed()) == {house.runs[-1]} and not left(house, house.runs[0]), after
        shutil.rmtree(house.folder)
        if ended:
            return
    pytest.fail("it never ended")


def test_no_run_is_purged_on_the_word_of_a_page_alone(house: House) -> None:
    box = house.reopen(0)
    assert house.runs[0] in house.told()
    found = purged(house.store, house, days=10)
    assert [one.run for one in found.kept] == [box.run] and box.run not in {one.run for one in found.runs}
    assert summary_of(box) is None and box.read("plan", Plan) is not None


def test_the_files_of_a_run_that_stays_are_read_though_a_page_tells_of_it(house: House) -> None:
    stays = house.box(FEW - 1)
    key = stays.blob_key("0" * 64)
    house.store.put(key, b"shared")
    bundle = house.folder / stays.control / "bundle.json"
    bundle.write_text(json.dumps({**json.loads(bundle.read_bytes()), "files": [{"source": key}]}))
    assert len(purged(house.store, house, days=10).runs) == FEW - 1
    assert house.store.exists(key)
    bundle.write_bytes(b"")
    assert "cannot be read" in purged(house.store, house, days=10).kept[0].reason


def test_a_mark_of_a_run_that_was_never_begun_goes_after_a_day(house: House) -> None:
    mark_open(house.store, house.project, "quiet-heron-7f3a")
    purged(house.store, house)
    assert marked_open(house.store, house.project) == {"quiet-heron-7f3a"}
    long_ago = time.time() - 2 * DAY
    os.utime(house.folder / open_mark(house.project, "quiet-heron-7f3a"), (long_ago, long_ago))
    purged(house.store, house)
    assert not marked_open(house.store, house.project)
