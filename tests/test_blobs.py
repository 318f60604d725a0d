"""Data in many small files is sent in a few objects, once, and is whole on the machine and here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_of_files import FilesAsS3, files_as_s3

from sojourn.agent.errors import Refused
from sojourn.agent.results.fetch import Fetcher
from sojourn.agent.stores.stores import open_store
from sojourn.project.bundle import pack_inputs
from sojourn.project.project import Project
from sojourn.records import FileEntry
from sojourn.results.collect import fetch
from sojourn.store.blobs import MANY, PARCEL, SMALL
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

FILES = 2_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for number in range(FILES):
        path = root / f"data/{number % 7}/f{number:05d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(hashlib.sha256(b"%d" % number).digest() * (number % 100))
    (root / "data/0/f00000").chmod(0o755)
    os.utime(root / "data/1/f00001", ns=(1_500_000_000_000_000_007,) * 2)
    (root / "data/large").write_bytes(b"L" * (SMALL + 1))
    (root / "data/empty").touch()
    return root


@pytest.fixture(params=["files", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    (tmp_path / "store").mkdir()
    if request.param == "files":
        yield Store((tmp_path / "store").as_uri())
        return
    with files_as_s3(tmp_path / "store") as files:
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        yield Store(files.url)


def send(tree: Path, store: Store) -> tuple[tuple[FileEntry, ...], int]:
    return pack_inputs(Project.at(tree), ["data"], Mailbox(store, "p", "calm-panda-a2e3"))


def on_a_machine(entries: tuple[FileEntry, ...], store: Store, folder: Path) -> None:
    folder.mkdir()
    machines = open_store(store.url)
    fetcher = Fetcher(machines, str(folder / "tree"), str(folder), lambda: None)
    order: dict[str, Any] = {"bundle": {"archives": [], "files": [], "links": []}, "remove": []}
    try:
        fetcher.fetch({**order, "inputs": [one.model_dump(mode="json") for one in entries]})
    finally:
        machines.close()
    assert fetcher.bytes_done == fetcher.bytes_total


def seen(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(folder)): (path.read_bytes(), state.st_mode, state.st_mtime_ns)
        for path, state in found.items()
    }


def test_thousands_of_small_files_are_a_few_objects_and_whole_wherever_they_are_read(
    tree: Path, store: Store, tmp_path: Path
) -> None:
    entries, sent = send(tree, store)
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert len(entries) == FILES + 2 and sent == size
    assert len({one.source for one in entries}) <= 3 * size / PARCEL + 2
    on_a_machine(entries, store, tmp_path / "machine")
    assert seen(tmp_path / "machine/tree") == seen(tree)
    fetch(entries, Mailbox(store, "p", "calm-panda-a2e3"), tmp_path / "here")
    assert seen(tmp_path / "here").keys() == seen(tree).keys(), "and each is verified by its hash"


def test_what_is_there_is_not_sent_again_and_an_edit_sends_its_neighbours_alone(tree: Path, store: Store) -> None:
    before, sent = send(tree, store)
    assert send(tree, store) == (before, 0)
    (tree / "data/3/f00150").write_bytes(b"edited")
    (tree / "data/3/f00157").unlink()
    (tree / "data/3/new").write_bytes(b"new")
    after, again = send(tree, store)
    assert 0 < again < 0.6 * sent
    assert len({one.source for one in after} - {one.source for one in before}) <= 4
    assert send(tree, store) == (after, 0)


def test_a_parcel_that_was_cut_off_is_sent_again(tree: Path, store: Store, tmp_path: Path) -> None:
    entries, _ = send(tree, store)
    source = next(one.source for one in entries if one.offset)
    whole = store.get(source)
    store.put(source, whole[:-1])
    with pytest.raises(Refused, match="found|has"):
        on_a_machine(entries, store, tmp_path / "machine")
    assert send(tree, store) == (entries, len(whole)) and store.get(source) == whole


def test_a_few_small_files_go_alone_as_earlier_versions_sent_all(tmp_path: Path) -> None:
    for number in range(MANY - 1):
        (tmp_path / "project/data").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"project/data/{number}").write_text(str(number))
    entries, _ = send(tmp_path / "project", Store((tmp_path / "store").as_uri()))
    assert [one.offset for one in entries] == [None] * (MANY - 1) and len({one.source for one in entries}) == MANY - 1


def test_they_take_few_requests(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    with files_as_s3(tmp_path / "store") as files:
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        assert isinstance(files, FilesAsS3)
        store = Store(files.url)
        entries, _ = send(tree, store)
        objects = len({one.source for one in entries})
        assert files.by_verb()["put"] <= objects + 1 and files.requests < 4 * objects
        files.reset()
        send(tree, store)
        assert not [key for verb, key in files.calls if verb == "put" and "blob" in key]
        assert files.requests < 2 * objects
        files.reset()
        on_a_machine(entries, store, tmp_path / "machine")
        assert files.requests < 2 * objects, files.by_verb()
