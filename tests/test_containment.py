"""One damaged, foreign or newer object in a store costs what hangs on it, and no other run, machine or sweep."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_world import World
from made_once import made_once
from pydantic import ValidationError

from cli.console import out, show_runs
from cli.world import named_run, open_stores
from sojourn.agent.stores.store import FileStore
from sojourn.decoding import decode
from sojourn.errors import SojournError, UnreadableError
from sojourn.lease import retained
from sojourn.plan import checkpoint
from sojourn.protocol import Manifest
from sojourn.renting import Lease, Lookalike, Machine
from sojourn.results.collect import TORN, collect
from sojourn.run.purge import purge
from sojourn.run.reap import reap
from sojourn.run.runs import AWAY, RunLine, all_mailboxes, entries_of, find_run, list_runs, past_runs, records_of
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

WRITES = """
    import json, pathlib
    pathlib.Path("metrics.json").write_text(json.dumps({"loss": 0.5}))
    pathlib.Path("last.pt").write_bytes(b"weights")
"""


def _newer(body: bytes) -> bytes:
    record = json.loads(body)
    return json.dumps({**record, "of_a_later_version": {"a": [1]}}).encode()


def _other_kind(body: bytes) -> bytes:
    record = json.loads(body)
    return json.dumps({name: "later" if isinstance(value, str) else value for name, value in record.items()}).encode()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "zeros": lambda body: bytes(len(body)),
    "half": lambda body: body[: len(body) // 2],
    "garbage": lambda _: b"\xff\xfe garbage",
    "a list": lambda _: b"[1]",
    "null": lambda _: b"null",
    "an empty object": lambda _: b"{}",
    "a deep list": lambda _: b"[" * 50_000,
    "words of a later version": _other_kind,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two runs that ended well."""

    def make(folder: Path) -> None:
        folder.mkdir()
        world = World(folder)
        world.script(WRITES)
        for _ in range(2):
            done = world.train()
            assert done.returncode == 0, done.stdout + done.stderr
        shutil.move(world.home / "store", folder / "store")

    return made_once(tmp_path_factory, "finished", make) / "store"


class Case:
    """A copy of that store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder.as_uri())
        self.damaged, self.sound = sorted(all_mailboxes(self.store), key=lambda one: one.run)

    def records(self) -> list[Path]:
        """Every record of the one that is damaged."""
        one = self.damaged
        roots = [self.folder / root for root in (one.control, one.orders, one.machine)]
        return [file for root in roots for file in sorted(root.rglob("*.json"))]

    def forget_closed(self) -> None:
        """Take the pages away, which tell of a closed run without a look at what is damaged."""
        for pages in (self.folder / "control").glob("*/closed"):
            shutil.rmtree(pages)


def test_a_run_whose_results_nobody_placed_is_not_listed_like_one_that_is_home(case: Case) -> None:
    one = case.damaged
    control = case.folder / one.control
    (control / "report.json").unlink()
    *_, closed = sorted((control / "ledger").iterdir())

    def told() -> RunLine:
        return next(line for line in list_runs([case.store]) if line.run == one.run)

    os.utime(control / "owner.json")
    assert (told().state, told().not_home) == ("succeeded", "on its way home"), "its owner lives"
    entry = json.loads(closed.read_bytes())
    closed.write_text(json.dumps({**entry, "kind": "handover", "body": {"why": "KeyboardInterrupt"}}))
    assert (told().not_home, told().remedy) == (AWAY, f"sojourn attach {one.run}"), "its owner has left"
    closed.unlink()
    os.utime(control / "owner.json", (0, 0))
    assert (told().not_home, told().remedy) == (AWAY, f"sojourn attach {one.run}"), "its owner was killed"
    with out.capture() as said:
        show_runs(list_runs([case.store]), time.time())
    told_all = said.get()
    assert f"! {one.run}  its results are not home yet; bring them: sojourn attach {one.run}" in told_all
    assert "succeeded, not home" in told_all
    assert [line.not_home for line in list_runs([case.store]) if line.run != one.run] == [None]


@pytest.fixture
def case(finished: Path, tmp_path: Path) -> Case:
    case = Case(Path(shutil.copytree(finished, tmp_path / "store")))
    case.forget_closed()
    return case


def damages(case: Case) -> Iterator[str]:
    """Each record with each damage in turn, and whole again afterwards."""
    for file in case.records():
        whole = file.read_bytes()
        for name, damage in DAMAGES.items():
            file.write_bytes(damage(whole))
            case.forget_closed()
            yield f"{file.relative_to(case.folder)} is {name}"
        file.write_bytes(whole)


class Cloud:
    """An account in which one machine of each run stands."""

    name = "cloud"

    def __init__(self, *mailboxes: Mailbox, deadline_at: float) -> None:
        self._mailboxes = mailboxes
        self._deadline_at = deadline_at
        self.released: list[str] = []

    def leases(self) -> list[Lease]:
        return [self._lease(one) for one in self._mailboxes if f"sojourn-{one.run}-1-0" not in self.released]

    def _lease(self, mailbox: Mailbox) -> Lease:
        name = f"sojourn-{mailbox.run}-1-0"
        machine = Machine(name=f"{name}-n0", state="running", created_at=1.0)
        return Lease(
            name=name, project=mailbox.project, run=mailbox.run, attempt=1, deadline_at=self._deadline_at,
            machines=(machine,), store=mailbox.store.url,
        )  # fmt: skip

    def release(self, name: str) -> bool:
        self.released.append(name)
        return True

    def release_all(self, names: Sequence[str]) -> list[bool | Exception]:
        return [self.release(name) for name in names]

    def now(self) -> float | None:
        return None

    def lookalikes(self) -> list[Lookalike]:
        return []


def test_the_other_runs_are_listed_found_shown_and_compared_with(case: Case) -> None:
    sound = case.sound.run
    for damage in damages(case):
        lines = {line.run: line for line in list_runs([case.store])}
        assert lines[sound].state == "succeeded", damage
        told = lines.get(case.damaged.run)
        assert told is not None, f"{damage}, and the run is not listed"
        assert find_run([case.store], "last").run in (sound, case.damaged.run), damage
        assert records_of(case.sound).report is not None, damage
        assert sound in {one.run for one in past_runs(case.store, case.sound.project)}, damage


def test_what_is_asked_of_the_damaged_run_itself_is_answered_in_a_sentence(case: Case, tmp_path: Path) -> None:
    home = tmp_path / "home"
    asked: list[Callable[[Mailbox], Any]] = [
        records_of, entries_of, checkpoint.newest, retained.count_left, lambda one: collect(one, 1, 1),
        lambda one: one.beat(1, 0), lambda one: one.exit(1, 0), lambda one: one.hello(1, 0),
        lambda one: list(one.scalars(1, 0)),
        lambda one: purge(one.store, home, now=time.time(), older_than_s=0, remove=False),
    ]  # fmt: skip
    for damage in damages(case):
        for ask in asked:
            began = time.process_time()
            try:
                ask(case.damaged)
            except SojournError as error:
                assert "cannot be read" in error.message, damage
            assert time.process_time() - began < 1, damage


def test_a_sweep_ends_what_outlived_its_run_whatever_lies_in_the_store(case: Case) -> None:
    now = time.time()
    for damage in damages(case):
        cloud: Any = Cloud(case.damaged, case.sound, deadline_at=now - 10_000)
        found = list(reap([case.store], [cloud], lambda *_: pytest.fail("opened"), now=now, dry_run=False))
        ended = {one.run for one in found if one.action == "ended"}
        assert ended == {case.damaged.run, case.sound.run}, f"{damage}: {found}"


def test_before_its_deadline_a_machine_whose_books_cannot_be_read_is_left_and_told(case: Case) -> None:
    entry = case.folder / case.damaged.control / "ledger" / "000001.json"
    entry.write_bytes(b"")
    cloud: Any = Cloud(case.damaged, deadline_at=time.time() + 1_000)
    (told,) = reap([], [cloud], lambda *_: pytest.fail("opened"), now=time.time(), dry_run=False)
    assert told.action == "left" and "000001.json cannot be read: it is empty" in told.reason


def test_records_of_a_later_version_are_read_as_far_as_they_are_understood(case: Case) -> None:
    for file in case.records():
        file.write_bytes(_newer(file.read_bytes()))
    lines = {line.run: line for line in list_runs([case.store])}
    assert lines[case.damaged.run].state == "succeeded" and lines[case.damaged.run].receipt == "closed"
    assert {entry.path for entry in collect(case.damaged, 1, 1).files} == {"last.pt", "metrics.json"}
    assert records_of(case.damaged).report is not None


def test_an_entry_of_a_kind_that_a_later_version_writes_changes_nothing(case: Case) -> None:
    ledger = case.folder / case.damaged.control / "ledger"
    entry = json.loads((ledger / "000000.json").read_bytes())
    number = len(list(ledger.iterdir()))
    late = {**entry, "sequence": number, "kind": "rented-a-boat", "body": {"knots": 7}}
    (ledger / f"{number:06d}.json").write_text(json.dumps(late))
    assert {line.state for line in list_runs([case.store])} == {"succeeded"}
    assert len(purge(case.store, case.folder, now=time.time(), older_than_s=0, remove=False).runs) == 2


def test_a_run_that_cannot_be_read_is_removed_when_it_is_named(case: Case) -> None:
    (case.folder / case.damaged.control / "plan.json").write_bytes(b"")
    now, name = time.time(), case.damaged.run
    (kept,) = purge(case.store, case.folder, now=now, older_than_s=0, remove=True).kept
    assert "plan.json cannot be read: it is empty" in kept.reason and f"sojourn purge {name} --yes" in kept.reason
    purge(case.store, case.folder, now=now, older_than_s=0, remove=True, runs=[name])
    assert [line.run for line in list_runs([case.store])] == [case.sound.run]
    assert collect(case.sound, 1, 1).files


def test_a_commit_that_cannot_be_read_is_told_and_the_one_before_it_counts(case: Case) -> None:
    commits = case.folder / case.damaged.machine / "1/0/out"
    newest = sorted(commits.iterdir())[-1]
    (commits / "00000099.json").write_bytes(newest.read_bytes()[:100])
    (commits / "notes.txt").write_text("a stranger's")
    found = collect(case.damaged, 1, 1)
    assert {entry.path for entry in found.files} == {"last.pt", "metrics.json"}
    (told,) = [one for one in found.account if one.reason == TORN]
    assert told.paths == ("out/00000099.json",)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_whose_encoding_lacks_a_sign_ends_no_run(tmp_path: Path, encoding: str) -> None:
    world = World(tmp_path)
    world.script("print('é × ✓ 😀')")
    done = world.train(PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stderr


def test_an_address_that_is_none_in_the_list_of_stores_costs_no_other(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.script("pass")
    assert world.train().returncode == 0
    for stores in ('{"stores": ["gopher://x", 7]}', "{}", "[1]", ""):
        (world.home / "stores.json").write_text(stores)
        done = world.sojourn("runs")
        assert done.returncode == 0 and "succeeded" in done.stdout, done.stderr
        assert ("gopher" in done.stderr) is ("gopher" in stores)


def _is_contained(case: Case, file: Path) -> None:
    """The other run is as it was, and whatever is asked of this one is answered or an error of ours."""
    lines = {line.run: line.state for line in list_runs([case.store])}
    assert lines[case.sound.run] == "succeeded" and case.damaged.run in lines, file
    for ask in (records_of, lambda one: collect(one, 1, 1), lambda one: list(one.scalars(1, 0))):
        with contextlib.suppress(UnreadableError):
            ask(case.damaged)
    case.damaged.exit(1, 0), case.damaged.beat(1, 0)


def test_an_object_that_is_larger_than_any_record_is_not_read_to_find_that_out(case: Case, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log = case.folder / case.damaged.machine / "1" / "0" / "log" / "00000000"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(b"step 1\n")
    for file in [*case.records(), log]:
        whole = file.read_bytes()
        os.truncate(file, 5 << 30)  # sparse: nothing on the disk
        _is_contained(case, file)
        shown = b"".join(piece.body for piece in case.damaged.log(1, 0))
        assert len(shown) < 1000 and (file != log or b"5,368,709,120 bytes are no record of ours" in shown)
        file.write_bytes(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kilobytes


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [os.mkfifo, _loop, Path.mkdir], ids=["a pipe", "a link to itself", "a folder"])
def test_what_is_no_file_is_never_waited_for(case: Case, make: Callable[[Path], None], tmp_path: Path) -> None:
    agent = FileStore(case.store.url)
    for file in case.records():
        whole = file.read_bytes()
        file.unlink()
        make(file)
        _is_contained(case, file)
        assert agent.find(file.relative_to(case.folder).as_posix()) is None
        file.rmdir() if file.is_dir() else file.unlink()
        file.write_bytes(whole)
    with pytest.raises(UnreadableError, match="it is no file"):
        os.mkfifo(case.folder / "pipe")
        case.store.get("pipe")


def test_last_is_the_newest_run_of_the_project_that_one_stands_in(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    case = Case(Path(shutil.copytree(finished, tmp_path / "data/store")))
    older, newer = reversed(list_runs([case.store]))
    for root in ("control", "machine", "orders"):
        (case.folder / root / "mine").mkdir(exist_ok=True)
        if (there := case.folder / root / older.project / older.run).exists():
            there.rename(case.folder / root / "mine" / older.run)
    case.forget_closed()
    mine = f"{case.folder}/control/mine/{older.run}"
    for name in ("plan", "report"):
        record = json.loads(Path(mine, f"{name}.json").read_bytes())
        Path(mine, f"{name}.json").write_text(json.dumps({**record, "project": "mine"}))
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "data"))
    for here, run, said in (("mine", older.run, ""), ("another", newer.run, f"last is {newer.run} of {newer.project}")):
        (tmp_path / here).mkdir()
        monkeypatch.chdir(tmp_path / here)
        assert named_run("last", open_stores(None)).run == run
        told = " ".join(capfd.readouterr().err.split())
        assert said in told and bool(told) == bool(said)


@pytest.mark.parametrize("entry", [{}, 1, {"path": 1}])
def test_a_manifest_of_many_wrong_entries_is_refused_at_the_first(entry: object) -> None:
    body = json.dumps({"sequence": 1, "at": 1.0, "files": [entry] * 1000}).encode()
    with pytest.raises(UnreadableError, match="files.0") as caught:
        decode(body, Manifest, "out/1.json")
    assert isinstance(caught.value.__cause__, ValidationError)
    assert len({error["loc"][:2] for error in caught.value.__cause__.errors()}) == 1
