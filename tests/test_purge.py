"""What old runs left goes, and never a byte that a run which stays would miss. Real stores, real bundles."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from sojourn.environment import environment
from sojourn.environment.environment import Environment
from sojourn.errors import TransientError
from sojourn.names import LeaseName, mint_run_id
from sojourn.plan.planning import make_plan
from sojourn.project import bundle
from sojourn.project.project import Project
from sojourn.protocol import Bundle, Checkpoint
from sojourn.providers.local import LocalProvider
from sojourn.records import FileEntry
from sojourn.results.publish import Inputs
from sojourn.run.purge import Purged, purge
from sojourn.run.runs import list_runs
from sojourn.spec.launch import make_launch
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox, blobs, purge_mark
from sojourn.store.purge_mark import STALE_S, purging, wait_until_purged
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock

DAY = 86400.0
LARGE = bundle.BLOB_FROM


class Past(SystemClock):
    """The clock of somebody who ran things some days ago."""

    def __init__(self, days: float) -> None:
        self.days = days

    def now(self) -> float:
        return time.time() - self.days * DAY


class BusyStore(Store):
    """Between a purge's look at a shared file and its removal, something happens that may take half a second."""

    meanwhile: threading.Thread | None = None

    def delete(self, *keys: str) -> None:
        if any("/blob/" in key for key in keys) and self.meanwhile is not None and not self.meanwhile.ident:
            self.meanwhile.start()
            self.meanwhile.join(0.5)
        super().delete(*keys)


class House:
    """A store, a data directory and a project, with runs as the steps of a journey leave them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.store = Store((folder / "store").as_uri())
        self.project = Project(folder / "digits")
        self.project.directory.mkdir()
        (self.project.directory / "train.py").write_text("pass\n")

    def checkpoint(self, of: Mailbox) -> Checkpoint:
        """What such a run has left."""
        entry = FileEntry(path="last.pt", hash="sha256:0", size=1000, source=f"{of.machine}/blob/last")
        return Checkpoint(run=of.run, attempt=1, sequence=1, at=0.0, files=(entry,))

    def plan(self, days: float, resume: Checkpoint | None = None, place: str | None = None) -> Mailbox:
        """A run that has just been planned."""
        made = make_plan(
            make_launch({"command": "python train.py", "environment": "current"}, origin="test"),
            self.project,
            LocalProvider(self.home),
            run=mint_run_id(),
            place=place,
            store=self.store.url,
            home=self.home,
            now=time.time() - days * DAY,
        )
        mailbox = Mailbox(self.store, made.project, made.run)
        assert mailbox.write_once("plan", made.model_copy(update={"resume": resume}))
        return mailbox

    def send(self, mailbox: Mailbox, **files: str) -> None:
        """The bundle of such a run; each file is large enough to be a blob of its own, named by its content."""
        for path in self.project.directory.glob("*.bin"):
            path.unlink()
        for name, content in files.items():
            (self.project.directory / f"{name}.bin").write_bytes(content.encode() * LARGE)
        packed = bundle.pack(bundle.survey(self.project), self.project, ".", mailbox)
        mailbox.write_once("bundle", packed.bundle)
        mailbox.write_once("inputs", Inputs(files=()))

    def close(self, mailbox: Mailbox, days: float) -> None:
        """Its ledger, to the end."""
        ledger = Ledger(mailbox, Past(days))
        ledger.join()
        ledger.append("closed")

    def run(
        self,
        days: float,
        closed: bool = True,
        resume: Checkpoint | None = None,
        place: str | None = None,
        **files: str,
    ) -> Mailbox:
        """A whole run that began and, if it did, ended some days ago; it committed one checkpoint."""
        mailbox = self.plan(days, resume, place)
        self.send(mailbox, **files)
        self.store.put(f"{mailbox.machine}/1/0/log/00000000", b"x" * 1000)
        self.store.put(f"{mailbox.machine}/blob/last", b"y" * 1000)
        if closed:
            self.close(mailbox, days)
        return mailbox

    def purge(self, days: float = 30, remove: bool = True) -> Purged:
        """`sojourn purge`, now."""
        return purge(self.store, self.home, now=time.time(), older_than_s=days * DAY, remove=remove)

    def blobs(self) -> dict[str, bool]:
        """The contents (as `a`, `b`) of large files whose blob is in the store."""
        keys = self.store.keys(blobs("digits"))
        return {chr(self.store.get(key)[0]): True for key in keys if len(self.store.get(key)) >= LARGE}

    def whole(self, mailbox: Mailbox) -> bool:
        """Whether everything that a run names is in the store."""
        sent = mailbox.read("bundle", bundle.Bundle)
        assert sent is not None
        entries = [*sent.files, *sent.archives]
        return all(self.store.exists(entry.source) for entry in entries)

    def ids(self) -> set[str]:
        """The runs that `sojourn runs` would list."""
        return {line.run for line in list_runs([self.store])}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_old_runs_go_with_all_that_only_they_name(house: House) -> None:
    old, young = house.run(40, one="a", two="b"), house.run(3, one="a", three="c")

    found = house.purge(remove=False)
    assert house.ids() == {old.run, young.run}, "listing removes nothing"
    assert [one.run for one in found.runs] == [old.run]
    assert (found.blobs, found.blob_bytes) == (1, LARGE), "b; the archive and a are shared"

    assert house.purge() == found
    assert house.ids() == {young.run}
    assert house.blobs().keys() == {"a", "c"}
    assert house.whole(young)
    assert not [path for path in house.store.root.rglob("*") if old.run in str(path)]  # type: ignore[union-attr]
    assert house.purge().bytes == 0


def test_what_a_machine_left_in_another_run_s_name_goes_with_that_run_and_shows_no_run_of_its_own(house: House) -> None:
    old, young = house.run(40), house.run(3)
    forged = [f"machine/digits/{'f' * 32}-{run}/1/0/log/00000000" for run in (old.run, young.run, "calm-heron-0000")]
    for key in forged:
        house.store.put(key, b"forged")
    assert house.ids() == {old.run, young.run} and list(young.log(1, 0))[0].body == b"x" * 1000
    assert {one.run for one in house.purge().runs} == {"calm-heron-0000", old.run} and house.ids() == {young.run}
    assert [house.store.exists(key) for key in forged] == [False, True, False]
    assert not [key for key in house.store.keys("") if old.run in key] and house.whole(young)


def test_a_run_that_is_not_closed_stays_however_old_it_is(house: House) -> None:
    left = house.run(400, closed=False, one="a")

    found = house.purge(days=0)

    assert not found.runs
    assert [(one.run, f"sojourn attach {left.run}" in one.reason) for one in found.kept] == [(left.run, True)]
    assert house.whole(left)
    assert house.store.exists(f"{left.machine}/blob/last")


def test_the_checkpoint_that_a_younger_run_begins_with_stays_until_that_one_has_it(house: House) -> None:
    first = house.run(40)
    resume = house.checkpoint(first)
    second = house.plan(0, resume=resume)

    house.purge()
    assert house.ids() == {second.run}
    assert house.store.keys(first.machine) == [resume.files[0].source]

    house.send(second)
    house.purge()
    assert not house.store.keys(first.machine)


def test_the_checkpoint_of_a_run_that_an_earlier_version_began_stays_until_that_one_goes(house: House) -> None:
    first = house.run(40)
    entry = house.checkpoint(first).files[0]
    second = house.run(10, resume=house.checkpoint(first), place="")

    house.purge()
    assert house.ids() == {second.run}
    assert house.store.keys(first.machine) == [entry.source]

    assert [one.run for one in house.purge(days=5).runs] == sorted([first.run, second.run])
    assert not house.store.keys(first.machine)


def test_blobs_stay_while_any_run_is_being_prepared(house: House) -> None:
    """It may have seen a blob there already and will not send it again."""
    old = house.run(40, one="a")
    preparing = house.plan(0)

    found = house.purge()

    assert [one.run for one in found.runs] == [old.run]
    assert any(one.run == preparing.run and "prepared" in one.reason for one in found.kept)
    assert house.blobs().keys() == {"a"}
    house.send(preparing, one="b")
    house.purge()
    assert house.blobs().keys() == {"b"}, "the next purge finds what this one left"


def test_a_run_that_begins_while_a_purge_removes_what_it_would_share_misses_nothing(house: House) -> None:
    house.run(40, one="a")
    begun: list[Mailbox] = []

    def begin() -> None:
        begun.append(house.plan(0))
        wait_until_purged(house.store, "digits", SystemClock())
        house.send(begun[0], one="a")

    busy = BusyStore(house.store.url)
    busy.meanwhile = threading.Thread(target=begin)
    assert purge(busy, house.home, now=time.time(), older_than_s=DAY, remove=True).blobs
    busy.meanwhile.join(20)
    assert house.whole(begun[0])


def test_two_purges_exclude_each_other_and_one_that_died_holds_nobody(house: House) -> None:
    house.run(40, one="a")
    with purging(house.store, "digits"), pytest.raises(TransientError, match="another `sojourn purge`"):
        house.purge()

    house.store.put(purge_mark("digits"), b"{}")
    assert house.store.root is not None
    long_ago = time.time() - STALE_S - 1
    os.utime(house.store.root / purge_mark("digits"), (long_ago, long_ago))
    wait_until_purged(house.store, "digits", SystemClock())
    assert house.purge().runs


def test_a_purge_whose_mark_was_taken_removes_nothing_more(house: House) -> None:
    with pytest.raises(TransientError, match="held up"), purging(house.store, "digits") as renew:
        renew()
        house.store.put(purge_mark("digits"), b"another's")
        renew()
    assert house.store.get(purge_mark("digits")) == b"another's"


def test_what_a_purge_that_died_has_left_goes_with_the_next(house: House) -> None:
    old = house.run(40, one="a")
    house.store.delete(f"{old.control}/plan.json")

    found = house.purge()

    assert [(one.run, one.closed_at) for one in found.runs] == [(old.run, None)]
    assert not house.store.keys(old.control) and not house.store.keys(old.machine)
    assert not house.blobs()


def test_records_of_another_version_are_read_as_far_as_needed(house: House) -> None:
    old, young = house.run(40, one="a"), house.run(3, one="b")
    for mailbox in (old, young):
        plan = mailbox.raw("plan")
        assert plan is not None
        del plan["host"]
        house.store.put(f"{mailbox.control}/plan.json", json.dumps({**plan, "future": 1}).encode())

    assert [one.run for one in house.purge().runs] == [old.run]
    assert house.whole(young)


def test_a_run_that_cannot_be_read_keeps_all_of_its_project(house: House) -> None:
    old, broken = house.run(40, one="a"), house.run(3, one="b")
    house.store.put(f"{broken.control}/bundle.json", b"{")

    found = house.purge()

    assert (found.runs, found.blobs) == ((), 0)
    assert [one.run for one in found.kept if "cannot be read" in one.reason] == [broken.run]
    assert house.whole(old)


# --- what lies on this host -------------------------------------------------------------------


def make_environment(house: House, digest: str, days: float) -> Path:
    """An environment that was last used some days ago."""
    place = house.home / "environments" / digest
    place.mkdir(parents=True)
    (place / "lib.py").write_bytes(b"x" * 500)
    (place / environment.READY).touch()
    at = time.time() - days * DAY
    os.utime(place / environment.READY, (at, at))
    return place


def test_environments_go_by_their_last_use(house: House) -> None:
    old, young = make_environment(house, "0123", 40), make_environment(house, "4567", 40)
    environment.build(Environment(kind="built", digest="4567"), house.project.directory, house.home)

    found = house.purge()

    assert (found.environments, found.environment_bytes) == (("0123",), 500)
    assert (old.exists(), young.exists()) == (False, True)


def test_environments_stay_while_a_machine_of_another_store_stands(house: House) -> None:
    place = make_environment(house, "0123", 40)
    (house.home / "machines" / str(LeaseName("calm-panda-a2e3", 1))).mkdir(parents=True)

    assert not house.purge().environments
    assert place.exists()


def test_an_environment_that_a_run_takes_into_use_at_that_moment_stays(house: House) -> None:
    place = make_environment(house, "0123", 0)
    assert not environment.remove("0123", house.home, since=time.time() - DAY)
    assert place.exists()


def test_records_of_machines_go_unless_their_run_is_open(house: House) -> None:
    closed, open_ = house.run(40), house.run(40, closed=False)
    provider = LocalProvider(house.home)
    names = {mailbox.run: str(LeaseName(mailbox.run, 1)) for mailbox in (closed, open_)}
    for name in names.values():
        provider.release(name)
        for path in (provider.machines / name, *(provider.machines / name).rglob("*")):
            os.utime(path, (time.time() - 40 * DAY,) * 2)

    assert house.purge().machines == (names[closed.run],)
    assert [path.name for path in provider.machines.iterdir()] == [names[open_.run]]


def test_a_run_goes_by_its_name_however_young_and_takes_nothing_of_another(house: House) -> None:
    named, other = house.run(1, only="a", both="b"), house.run(1, both="b")
    unfinished = house.run(1, closed=False, c="c")
    would = purge(house.store, house.home, now=time.time(), older_than_s=30 * DAY, remove=False, runs=[named.run])
    assert [one.run for one in would.runs] == [named.run] and would.blobs == 1 and len(list_runs([house.store])) == 3
    for names in ([named.run], [unfinished.run]):
        done = purge(house.store, house.home, now=time.time(), older_than_s=30 * DAY, remove=True, runs=names)
    assert [(one.run, "not closed" in one.reason) for one in done.kept] == [(unfinished.run, True)]
    assert {line.run for line in list_runs([house.store])} == {other.run, unfinished.run}
    bundle_of = other.read("bundle", Bundle)
    assert bundle_of is not None and all(house.store.exists(entry.source) for entry in bundle_of.files)


def test_whoever_has_run_nothing_here_yet_purges_nothing_and_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["purge", "--older-than", "0s", "--yes", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["runs"] == [], done.output
    assert not (tmp_path / "home" / "store").exists(), "a look makes nothing"
