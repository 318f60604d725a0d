"""Thousands of small files go into the store and come home in a few requests, each whole and verified."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from s3_of_files import FilesAsS3, files_as_s3

from sojourn.agent.errors import StoreError
from sojourn.agent.mailbox import Place
from sojourn.agent.results.fetch import Fetcher
from sojourn.agent.results.keep import MANY, SMALL, Keeper
from sojourn.agent.results.manifests import Manifests
from sojourn.agent.results.tree import scan
from sojourn.agent.stores.store import FileStore
from sojourn.errors import SojournError
from sojourn.records import FileEntry
from sojourn.results.collect import LOST, STRANGE, collect, fetch
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

RUN, FOLDER = "quiet-heron-7f3a", "machine/p/quiet-heron-7f3a/1/0"
BOOT = {"project": "p", "run": RUN, "attempt": 1, "lease": "l"}


class Machine:
    """A tree, and the agent that commits it."""

    def __init__(self, folder: Path, store: FileStore | None = None) -> None:
        self.root, self.tree = folder / "store", folder / "tree"
        self.tree.mkdir()
        self.root.mkdir(exist_ok=True)
        self.store = store or FileStore(self.root.as_uri())
        place = Place(self.store, BOOT, 0)
        self.keeper = Keeper(self.store, place, str(self.tree), until=1e18)
        self.manifests = Manifests(self.store, place, "out")
        self.box = Mailbox(Store(self.root.as_uri()), "p", RUN)

    def write(self, count: int, size: int = 100, name: str = "f") -> None:
        for number in range(count):
            (self.tree / f"{name}{number:05d}").write_bytes((b"%s %d " % (name.encode(), number)).ljust(size, b"."))

    def commit(self) -> list[dict[str, Any]]:
        found = scan(str(self.tree), [], {})
        self.keeper.gather(found)
        lines = [line for path in sorted(found) if (line := self.keeper.entry(path, found[path]))]
        self.manifests.write(lines)
        self.keeper.prune(self.manifests.sources_since(self.manifests.sequence), found)
        return lines

    def blobs(self) -> list[Path]:
        return sorted((self.root / FOLDER / "blob").iterdir())

    def home(self, folder: Path) -> dict[str, bytes]:
        fetch(collect(self.box, 1, 1).files, self.box, folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def there(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.tree.iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def far(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], FilesAsS3]]:
    """The machine's store as a bucket, in the hands of the control side."""
    opened = []

    def serve() -> FilesAsS3:
        opened.append(files_as_s3(machine.root))
        files = opened[-1].__enter__()
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        machine.box = Mailbox(Store(files.url), "p", RUN)
        return files

    yield serve
    for one in opened:
        one.__exit__(None, None, None)


def test_a_thousand_small_files_come_home_in_a_few_requests(
    machine: Machine, far: Callable[[], FilesAsS3], tmp_path: Path
) -> None:
    machine.write(1000, size=6000)
    machine.write(3, size=SMALL + 1, name="large")
    machine.commit()
    assert len(machine.blobs()) == 5
    files = far()
    assert machine.home(tmp_path / "home") == machine.there()
    assert files.requests < 50, files.by_verb()  # some 40 whatever there is


def test_many_files_that_lie_alone_are_looked_for_by_pages_and_fetched_side_by_side(
    machine: Machine, far: Callable[[], FilesAsS3], tmp_path: Path
) -> None:
    """As earlier versions stored them, and what is too large for a parcel."""
    machine.write(60, size=SMALL + 1)
    machine.commit()
    assert len(machine.blobs()) == 60
    files = far()
    files.delay_s = 0.05
    files.reset()
    assert machine.home(tmp_path / "home") == machine.there()
    assert files.by_verb()["get"] < 60 + 20 and files.by_verb().get("head", 0) < 3
    assert files.most >= 8


def test_what_reads_them_travels_to_another_process(machine: Machine, tmp_path: Path) -> None:
    """DVC is loaded in one of its own, which is given the mailbox."""
    machine.write(20)
    machine.commit()
    machine.box = pickle.loads(pickle.dumps(machine.box))
    assert machine.home(tmp_path / "home") == machine.there()


def test_a_few_small_files_go_alone(machine: Machine) -> None:
    machine.write(MANY - 1)
    assert all("offset" not in line for line in machine.commit())


def test_what_has_not_changed_stays_in_its_parcel_and_a_parcel_that_nothing_names_goes(
    machine: Machine, tmp_path: Path
) -> None:
    machine.write(50)
    first = {line["path"]: line for line in machine.commit()}
    (machine.tree / "f00007").write_bytes(b"changed")
    second = {line["path"]: line for line in machine.commit()}
    assert {path for path in first if first[path] != second[path]} == {"f00007"}
    assert len(machine.blobs()) == 2 and machine.home(tmp_path / "one") == machine.there()
    machine.write(50, size=200)
    machine.commit()
    machine.commit()
    assert len(machine.blobs()) == 1 and machine.home(tmp_path / "two") == machine.there()


def test_files_that_change_or_go_while_they_are_read_are_left_for_the_next_commit(
    machine: Machine, tmp_path: Path
) -> None:
    machine.write(40)
    found = scan(str(machine.tree), [], {})
    (machine.tree / "f00003").write_bytes(b"longer than it was when the tree was walked" * 10)
    (machine.tree / "f00004").unlink()
    machine.keeper.gather(found)
    lines = [line for path in sorted(found) if (line := machine.keeper.entry(path, found[path]))]
    assert {line["path"] for line in lines} == {*found} - {"f00003", "f00004"}
    machine.commit()
    assert machine.home(tmp_path / "home") == machine.there()


def test_files_that_cannot_be_read_cost_themselves_alone(machine: Machine, tmp_path: Path) -> None:
    machine.write(40)
    os.mkfifo(machine.tree / "f00005x")
    (machine.tree / "f00006").unlink()
    (machine.tree / "f00006").symlink_to("f00006")
    machine.commit()
    assert len(machine.home(tmp_path / "home")) == 39


class Full(FileStore):
    """A store that takes nothing for a while."""

    full = True
    tried = 0

    def keep(self, prefix: str, source: BinaryIO, check: Callable[[], None]) -> tuple[str, int]:
        self.tried += 1
        if self.full:
            raise StoreError(28, "no room")
        return super().keep(prefix, source, check)


def test_while_the_store_takes_nothing_a_parcel_is_tried_once_and_not_each_of_its_files(tmp_path: Path) -> None:
    store = Full((tmp_path / "store").as_uri())
    machine = Machine(tmp_path, store)
    machine.write(100)
    assert machine.commit() == [] and store.tried == 1
    assert len(machine.keeper.troubles) == 100 and "no room" in machine.keeper.troubles["f00000"]
    store.full = False
    assert len(machine.commit()) == 100
    assert machine.home(tmp_path / "home") == machine.there()


def test_when_the_time_is_over_nothing_more_is_sent(machine: Machine) -> None:
    machine.write(40)
    machine.keeper.until = 0.0
    assert machine.commit() == [] and len(machine.keeper.troubles) == 40


@pytest.mark.parametrize("more", [{"offset": 99999}, {"offset": 5}, {"size": 7}, {"hash": "sha256:0"}])
def test_a_line_that_names_another_part_of_a_parcel_is_refused(
    machine: Machine, tmp_path: Path, more: dict[str, Any]
) -> None:
    machine.write(20)
    line = {**machine.commit()[3], **more}
    with pytest.raises(SojournError, match="does not have"):
        fetch([FileEntry(**line)], machine.box, tmp_path / "home")
    assert not (tmp_path / "home" / line["path"]).exists()


def test_a_negative_offset_is_no_place(machine: Machine) -> None:
    machine.write(20)
    lines = machine.commit()
    machine.manifests.write([{**lines[0], "offset": -1}, *lines[1:]])
    found = collect(machine.box, 1, 1)
    assert len(found.files) == 19 and [one.reason for one in found.account] == [STRANGE]


def test_a_parcel_that_is_gone_costs_its_own_files(machine: Machine) -> None:
    machine.write(20)
    machine.write(1, size=SMALL + 1, name="large")
    lines = machine.commit()
    (machine.root / lines[0]["source"]).unlink()
    found = collect(machine.box, 1, 1)
    assert [entry.path for entry in found.files] == ["large00000"]
    assert [(one.reason, one.files) for one in found.account] == [(LOST, 20)]


def test_a_machine_restores_files_out_of_parcels(machine: Machine, tmp_path: Path) -> None:
    machine.write(200, size=50_000)
    lines = machine.commit()
    opened: list[str] = []

    class Watched(FileStore):
        def open(self, key: str) -> BinaryIO:
            opened.append(key)
            return super().open(key)

    fetcher = Fetcher(Watched(machine.root.as_uri()), str(tmp_path / "new"), str(tmp_path), lambda: None)
    fetcher.bring(lines)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == machine.there()
    assert len(opened) == len(machine.blobs()) == 3


def test_a_parcel_s_name_is_its_hash_and_its_files_have_theirs(machine: Machine) -> None:
    machine.write(20)
    for line in machine.commit():
        body = (machine.root / line["source"]).read_bytes()
        assert line["source"].endswith(hashlib.sha256(body).hexdigest())
        part = body[line["offset"] :][: line["size"]]
        assert line["hash"] == f"sha256:{hashlib.sha256(part).hexdigest()}"
