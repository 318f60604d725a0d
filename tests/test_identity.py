"""An address is no proof of what lies there: a store has an identity, and another one in its place is not believed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli_world import World
from s3_of_files import FilesAsS3, files_as_s3
from small_disk import small_disk

from sojourn.agent.errors import StoreError
from sojourn.agent.stores.store import FileStore
from sojourn.errors import SojournError, UnreadableError
from sojourn.names import LeaseName
from sojourn.renting import Lease, Lookalike, Machine
from sojourn.run.reap import reap
from sojourn.run.runs import find_run
from sojourn.store import identity
from sojourn.store.identity import OtherStoreError
from sojourn.store.known_stores import each_once, forget, known_store, remember, remembered
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock

RUN = "quiet-heron-7f3a"
NAME = str(LeaseName(RUN, 1, 0))


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sojourn.store.storage.AWAY_S", 0.1)


class House:
    """A host that has a run in a store, and what may come to lie in that store's place."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.root = folder / "disk" / "store"
        self.aside = folder / "aside"
        self.url = self.root.as_uri()
        self.use()

    def use(self) -> Store:
        """Begin a run there, as `Journey.begin` does."""
        store = known_store(self.home, self.url)
        store.identify()
        remember(self.home, store)
        ledger = Ledger(Mailbox(store, "digits", RUN), SystemClock())
        ledger.join(take_over=True)
        ledger.append("intent", attempt=1, offer=0, name=NAME, request={})
        ledger.append("created")
        store.put(f"control/digits/{RUN}/plan.json", json.dumps({"store": store.url}).encode())
        return store

    def known(self) -> Store:
        """The store as a later command opens it."""
        return known_store(self.home, self.url)

    def another(self, made: Callable[[Path], object]) -> None:
        """Put another one in its place."""
        self.root.rename(self.aside)
        self.root.mkdir()
        made(self.root)

    def back(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.aside.rename(self.root)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def a_strangers(root: Path) -> None:
    store = Store(root.as_uri())
    store.identify()
    store.put("control/theirs/calm-otter-1111/plan.json", b"{}")


def one_of_an_earlier_version(root: Path) -> None:
    Store(root.as_uri()).put("control/theirs/calm-otter-1111/plan.json", b"{}")


def an_emptied_one(root: Path) -> None:
    (root / "control").mkdir()


def says(body: bytes, root: Path) -> None:
    an_emptied_one(root)
    (root / identity.KEY).write_bytes(body)


def a_pipe(root: Path) -> None:
    an_emptied_one(root)
    os.mkfifo(root / identity.KEY)


def a_folder(root: Path) -> None:
    (root / identity.KEY).mkdir(parents=True)


def a_loop(root: Path) -> None:
    an_emptied_one(root)
    (root / identity.KEY).symlink_to(root / identity.KEY)


OTHERS = {
    "a stranger's": a_strangers, "of an earlier version": one_of_an_earlier_version, "emptied": an_emptied_one,
    "empty": partial(says, b""), "garbage": partial(says, b"\xff{"), "a list": partial(says, b"[]"),
    "huge": partial(says, bytes(10 << 20)), "a pipe": a_pipe, "a folder": a_folder, "a loop": a_loop,
    "no id": partial(says, b'{"made_at": 1.0, "host": "x"}'),
}  # fmt: skip
USES: list[Callable[[Store], object]] = [
    lambda store: store.put("control/x", b"x"),
    lambda store: store.create("control/digits/x.json", b"{}"),
    lambda store: store.find("control/x"),
    lambda store: store.keys("control"),
    lambda store: list(store.walk("control")),
    lambda store: store.folders("control"),
    lambda store: store.delete("control/theirs/calm-otter-1111/plan.json"),
    lambda store: store.clear("control/theirs"),
    lambda store: store.modified("control/x"),
]


def stands(root: Path) -> list[tuple[str, int]]:
    return sorted((path.relative_to(root).as_posix(), path.lstat().st_mtime_ns) for path in root.rglob("*"))


@pytest.mark.parametrize("made", OTHERS.values(), ids=OTHERS)
def test_another_store_in_the_place_of_a_known_one_is_neither_read_nor_written(
    house: House, made: Callable[[Path], object]
) -> None:
    held = house.known()
    assert held.folders("control") == ["digits"]
    house.another(made)
    there = stands(house.root)
    for store, uses in ((house.known(), USES), (held, USES[:1])):  # who comes now, and who had it in use and waits
        for use in uses:
            with pytest.raises(SojournError) as refused:
                use(store)
            assert house.url in refused.value.message, refused.value
            if not isinstance(refused.value, OtherStoreError):
                assert made is a_loop, refused.value
                continue
            assert "is another store than the one in which this host has runs; known: " in refused.value.message
            assert f"sojourn runs --forget {house.url}" in str(refused.value.hint)
            assert str(house.known().identity) in refused.value.message
    assert stands(house.root) == there, "nothing was changed"
    house.back()
    for store in (house.known(), held):
        assert store.find(f"control/digits/{RUN}/plan.json"), "the right one is used again"


def test_what_is_known_and_what_is_there_are_both_named(house: House) -> None:
    house.another(a_strangers)
    with pytest.raises(OtherStoreError) as refused:
        house.known().folders("control")
    there = identity.decode((house.root / identity.KEY).read_bytes(), identity.Identity, "")
    known = house.known().identity
    assert f"known: {known}; there now: {there}" in refused.value.message and known != there


def test_a_store_that_was_forgotten_is_known_anew_by_what_is_there(house: House) -> None:
    house.another(a_strangers)
    forget(house.home, house.url)
    assert house.known().identity is None and house.known().folders("control") == ["theirs"]
    there = (house.root / identity.KEY).read_bytes()
    house.use()
    assert (house.root / identity.KEY).read_bytes() == there and house.known().folders("control") == [
        "digits",
        "theirs",
    ]


def test_a_store_that_was_put_back_as_a_copy_is_the_same_one(house: House) -> None:
    held = house.known()
    held.folders("control")
    moved = house.root.rename(house.aside)
    shutil.copytree(moved, house.root)
    assert held.folders("control") == house.known().folders("control") == ["digits"]


def test_two_disks_whose_top_folders_have_the_same_number_are_told_apart(tmp_path: Path) -> None:
    with small_disk(tmp_path / "mount") as disk:
        house = House(tmp_path)
        house.root, house.url = disk, disk.as_uri()
        house.use()
        machine = FileStore(house.url)
        machine.put("machine/a", b"a")
        held = house.known()
        held.folders("control")
        number = disk.stat().st_ino
        with small_disk(disk) as other:
            a_strangers(other)
            assert other.stat().st_ino == number
            there = stands(other)
            for store in (held, house.known()):
                with pytest.raises(OtherStoreError):
                    store.put("control/x", b"x")
            for _ in range(2):
                with pytest.raises(StoreError, match="is another store"):
                    machine.put("machine/b", b"b")
            assert stands(other) == there
        held.put("control/x", b"x")
        machine.put("machine/b", b"b")


def test_many_that_use_a_new_store_at_once_know_the_same_one(tmp_path: Path) -> None:
    stores = [Store(tmp_path.as_uri()) for _ in range(8)]
    threads = [threading.Thread(target=store.identify) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({store.identity for store in stores}) == 1 and stores[0].identity is not None


@pytest.mark.parametrize("body", [b"", b"\0" * 20, b"{", b'{"id": ""}'], ids=range(4))
def test_an_identity_that_a_power_cut_left_and_nobody_knows_is_made_anew(tmp_path: Path, body: bytes) -> None:
    says(body, tmp_path)
    store = Store(tmp_path.as_uri())
    store.identify()
    assert store.identity is not None and Store(store.url, identity=store.identity).folders("control") == []


def test_a_store_of_an_earlier_version_gets_one_with_its_next_run_and_both_versions_read_the_list(house: House) -> None:
    (house.root / identity.KEY).unlink()
    (house.home / "stores.json").write_text(json.dumps({"stores": [house.url]}))  # as it was written before
    old = house.known()
    assert old.identity is None and old.folders("control") == ["digits"], "it is used as it is"
    assert not (house.root / identity.KEY).exists(), "who only looks gives none"
    house.use()
    assert house.known().identity is not None and (house.root / identity.KEY).exists()
    assert json.loads((house.home / "stores.json").read_bytes())["stores"] == remembered(house.home) == [house.url]


ODD = [None, 7, [], {"x": 1}, {"URL": None}, {"URL": 3}, {"URL": {"id": 3}}, {"URL": {"id": "x" * 100}}]


@pytest.mark.parametrize("said", ODD, ids=range(len(ODD)))
def test_a_note_of_an_identity_that_is_none_hides_no_store(house: House, said: object) -> None:
    text = json.dumps({"stores": [house.url], "identities": said}).replace("URL", house.url)
    (house.home / "stores.json").write_text(text)
    assert remembered(house.home) == [house.url] and house.known().folders("control") == ["digits"]
    house.use()
    assert house.known().identity is not None


def test_stores_that_are_noted_at_once_are_all_known(tmp_path: Path) -> None:
    def note(number: int) -> None:
        store = Store((tmp_path / str(number)).as_uri())
        store.identify()
        remember(tmp_path / "home", store)

    threads = [threading.Thread(target=note, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(remembered(tmp_path / "home")) == 8
    assert all(known_store(tmp_path / "home", url).identity for url in remembered(tmp_path / "home"))


# -- a bucket --


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FilesAsS3]:
    (tmp_path / "bucket").mkdir()
    with files_as_s3(tmp_path / "bucket") as files:
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        yield files


def test_a_bucket_that_was_made_anew_is_not_believed_and_knowing_it_costs_a_request(
    bucket: FilesAsS3, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    store = known_store(home, bucket.url)
    store.identify()
    remember(home, store)
    store.put("control/digits/x", b"x")
    bucket.reset()
    known = known_store(home, bucket.url)
    for _ in range(3):
        SystemClock().together([partial(known.folders, "control") for _ in range(4)])
    asked = [key for _, key in bucket.calls if identity.KEY in key]
    assert len(asked) == 1, "many that come at once wait for one answer"
    for left in ((), ("control/theirs/plan.json",)):
        shutil.rmtree(bucket.root / "control", ignore_errors=True)
        bucket.look()
        for key in left:
            Store(bucket.url).put(key, b"{}")
        known = known_store(home, bucket.url)
        for use in USES:
            with pytest.raises(OtherStoreError, match="has no control/store.json"):
                use(known)
    anew = Store(bucket.url)
    anew.identify()
    with pytest.raises(OtherStoreError, match="there now: "):
        known_store(home, bucket.url).delete("control/theirs/plan.json")
    assert anew.find("control/theirs/plan.json") == b"{}"


def test_a_bucket_that_is_used_for_long_is_asked_now_and_then_which_one_it_is(
    bucket: FilesAsS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.store.storage.CONFIRMED_S", 0.2)
    store = Store(bucket.url)
    store.identify()
    store.put("control/x", b"x")
    shutil.rmtree(bucket.root / "control")
    bucket.look()
    time.sleep(0.3)
    with pytest.raises(OtherStoreError):
        store.find("control/x")


# -- who acts on it --


class Cloud:
    """One machine of the run, whose deadline is in two hours or has passed."""

    name = "cloud"

    def __init__(self, url: str) -> None:
        self.url = url
        self.late = 0.0

    def leases(self) -> list[Lease]:
        machine = Machine(name=f"{NAME}-n0", state="running", created_at=time.time() - 3600)
        deadline = time.time() + 7200 - self.late
        return [
            Lease(
                name=NAME, project="digits", run=RUN, attempt=1, deadline_at=deadline, machines=(machine,),
                store=self.url,
            )
        ]  # fmt: skip

    def now(self) -> float | None:
        return time.time()

    def lookalikes(self) -> list[Lookalike]:
        return []


@pytest.mark.parametrize("given", [True, False], ids=["among those that are looked into", "by the lease alone"])
@pytest.mark.parametrize("made", OTHERS.values(), ids=OTHERS)
def test_a_sweep_ends_no_machine_on_the_word_of_another_store_before_its_deadline(
    house: House, made: Callable[[Path], object], given: bool
) -> None:
    house.another(made)
    cloud: Any = Cloud(house.url)
    sweep = partial(
        reap, [house.known()] if given else [], [cloud], lambda *_: pytest.fail("a run was opened"), dry_run=True,
        open_store=partial(known_store, house.home),
    )  # fmt: skip
    machine, *others = sweep()
    assert machine.action == "left" and "cannot be read" in machine.reason, machine
    assert [(one.name, one.action) for one in others] == [(house.url, "failed" if given else "unseen")]
    cloud.late = 7300.0
    machine, *_ = sweep()
    assert machine.action == "would end" and "its deadline passed" in machine.reason


def test_two_addresses_of_one_store_are_one(house: House, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(house.root)
    (tmp_path / "mounted").mkdir()
    stores = [house.known(), Store((tmp_path / "link").as_uri()), Store((tmp_path / "disk" / "." / "store").as_uri())]
    assert [store.url for store in each_once(stores)] == [house.url]
    done = subprocess.run(["mount", "--bind", str(house.root), str(tmp_path / "mounted")], capture_output=True)
    if done.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        assert len(each_once([*stores, Store((tmp_path / "mounted").as_uri())])) == 1
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "mounted")], check=True)


def test_a_copy_of_a_store_is_told_and_its_runs_are_found_where_they_go_on(house: House, tmp_path: Path) -> None:
    shutil.copytree(house.root, tmp_path / "copy")
    copy = Store((tmp_path / "copy").as_uri())
    copy.identify()
    assert f"is a copy of {house.url}, or was moved from there" in str(remember(house.home, copy))
    assert remember(house.home, copy) is None, "it is told once"
    assert copy.identity == house.known().identity and len(each_once([copy, house.known()])) == 2
    for stores in ([copy, house.known()], [house.known(), copy]):
        assert find_run(stores, RUN).store.url == house.url
    assert find_run([copy], RUN).store.url == copy.url, "it is asked for by name"
    house.root.rename(house.aside)
    with pytest.raises(SojournError, match="is not there"):
        find_run([copy, house.known()], RUN)


def test_a_machine_writes_nothing_into_another_store(house: House) -> None:
    machine = FileStore(house.url)
    machine.put("machine/a", b"a")
    house.another(a_strangers)
    there = stands(house.root)
    with pytest.raises(StoreError, match="is another store"):
        machine.put("machine/b", b"b")
    assert stands(house.root) == there
    house.back()
    machine.put("machine/b", b"b")


def test_what_is_no_identity_is_one_of_our_errors() -> None:
    for body in (b"", b"null", b"[" * 50_000, b'{"id": "x", "made_at": NaN, "host": ""}', b'{"id":"a","made_at":"x"}'):
        with pytest.raises(UnreadableError):
            identity.decode(body, identity.Identity, identity.KEY)
        with pytest.raises(OtherStoreError, match="cannot be read"):
            identity.check("file:///x", identity.mint(0.0), body)
    assert "at an odd time" in str(identity.Identity(id="x", made_at=1e300, host="h"))


def test_no_verb_acts_where_another_store_lies_and_all_is_well_when_it_is_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.script_that_waits()
    command = world.start_train()
    world.wait_until("running")
    run = world.run()
    os.kill(command.process.pid, 9)
    command.process.wait()
    (world.home / "store").rename(tmp_path / "aside")
    a_strangers(world.home / "store")
    there = stands(world.home / "store")
    verbs = [
        ["runs"], ["show", run], ["logs", run], ["attach", run], ["stop", run], ["pull", run, "--to", "x"],
        ["purge", "--older-than", "0s", "--yes"], ["purge", run, "--yes"], ["plan", "--", "python", "train.py"],
        ["train", "--no-prefect", "--", "python", "train.py"], ["exec", run, "--", "ls"],
    ]  # fmt: skip
    for words in verbs:
        done = world.sojourn(*words)
        said = done.stdout + done.stderr
        assert done.returncode not in (0, 1) and "is another store than the one in which this host has runs" in said
        assert "sojourn runs --forget" in said and "Traceback" not in said, said
    done = world.sojourn("reap")
    assert "left" in done.stdout and "ended" not in done.stdout and world.machines(), done.stdout + done.stderr
    shutil.copystat(tmp_path / "aside", world.home / "store")
    now = {path for path, _ in stands(world.home / "store")}
    assert now == {path for path, _ in there}, "nothing was begun or removed"
    shutil.rmtree(world.home / "store")
    (tmp_path / "aside").rename(world.home / "store")
    (world.signs / "go").touch()
    done = world.sojourn("attach", run)
    assert done.returncode == 0 and (world.project / "model.txt").exists(), done.stdout + done.stderr
    world.wait_until_empty()
