"""A long log is read in few requests, whole, whatever becomes of its packs."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_of_files import files_as_s3

from sojourn.agent.errors import StoreError
from sojourn.agent.results.packs import Packs
from sojourn.agent.script.log import Log
from sojourn.agent.script.mask import Mask
from sojourn.agent.stores.store import FileStore
from sojourn.store.mailbox import Mailbox
from sojourn.store.pieces import Pieces
from sojourn.store.storage import Store

NODE = "machine/p/quiet-heron-7f3a/1/0"


class Machine:
    """What an agent does with its pieces."""

    def __init__(self, root: Path, store: FileStore | None = None) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.store = store or FileStore(root.as_uri())
        self.packs = Packs(self.store, f"{NODE}/packed/log")
        self.written: list[bytes] = []

    def write(self, count: int, size: int = 40) -> None:
        for _ in range(count):
            body = (b"%d " % len(self.written)).ljust(size, b".") + b"\n"
            self.store.create(f"{NODE}/log/{len(self.written):08d}", body)
            self.packs.add(len(self.written), body)
            self.written.append(body)

    def packed(self) -> list[Path]:
        return sorted((self.root / NODE / "packed/log").glob("*"))


def pieces(store: Store) -> Pieces:
    return Pieces(store, f"{NODE}/log", f"{NODE}/packed/log")


def read(root: Path, start: int = 0) -> list[bytes]:
    return [piece.body for piece in pieces(Store(root.as_uri())).read(start)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("over", [True, False])
def test_a_log_of_thousands_of_pieces_is_read_in_twenty_requests(
    machine: Machine, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.write(4095)  # the worst number below 4,096
    if over:
        machine.packs.close()
    with files_as_s3(machine.root) as files:
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        store = Store(files.url)
        store.exists("x")
        for start in (0, 1, 2000):
            files.reset()
            assert [piece.body for piece in pieces(store).read(start)] == machine.written[start:]
            assert files.requests <= (10 if over else 30 if start else 24), (start, files.by_verb())
        files.reset()
        assert pieces(store).length() == 4095
        assert files.requests <= 8


def test_pieces_are_the_same_packed_or_not_whenever_one_looks(machine: Machine) -> None:
    for count in itertools.chain(range(40), (64, 65, 100, 256, 257)):
        machine.write(count - len(machine.written))
        for start in {0, 1, count // 2, count}:
            assert read(machine.root, start) == machine.written[start:], (count, start)
        assert pieces(Store(machine.root.as_uri())).length() == count


def test_whoever_reads_a_while_and_comes_back_misses_nothing_and_fetches_no_pack_twice(machine: Machine) -> None:
    machine.write(1500)
    fetched: list[str] = []

    class Watched(Store):
        def find(self, key: str) -> bytes | None:
            fetched.append(key)
            return super().find(key)

    found: list[bytes] = []
    reader = pieces(Watched(machine.root.as_uri()))
    while some := [piece.body for piece in itertools.islice(reader.read(len(found)), 7)]:
        found += some
    assert found == machine.written
    assert len(fetched) == len(set(fetched)) and len(fetched) <= len(machine.packed())


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\0" * 99,
        b"[1]\nxx",
        b'{"first": 0, "sizes": [1e999], "times": [0]}\nx',
        b'{"sizes": 3}\n',
        b"{}",
        b"\xff\n",
    ],
)
def test_a_pack_that_cannot_be_read_costs_requests_alone(machine: Machine, damage: bytes) -> None:
    machine.write(100)
    for pack in machine.packed():
        pack.write_bytes(damage)
    (machine.root / NODE / "packed/log/00000000-4").write_bytes(b'{"first": 0, "sizes": [-1, 1, 0, 0], "times": [0]}\n')
    (machine.root / NODE / "packed/log/notes").write_bytes(b"a stranger's")
    assert read(machine.root) == machine.written


def test_a_pack_that_is_merged_into_another_while_somebody_reads_is_found_there(machine: Machine) -> None:
    machine.write(15)

    class Late(Store):
        def keys(self, prefix: str) -> list[str]:
            listed = super().keys(prefix)
            machine.write(1 if len(machine.written) == 15 else 0)
            return listed

    found = [piece.body for piece in pieces(Late(machine.root.as_uri())).read()]
    assert len(machine.packed()) == 1 and found == machine.written


def test_a_long_log_without_packs_is_read_sixteen_pieces_at_a_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As agents of earlier versions left it, and where pieces are large."""
    machine.write(500)
    for pack in machine.packed():
        pack.unlink()
    with files_as_s3(machine.root, delay_s=0.01) as files:
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        for start in (0, 77, 499):
            files.reset()
            found = [piece.body for piece in pieces(Store(files.url)).read(start)]
            assert found == machine.written[start:] and files.most > (8 if start < 400 else 0)
            assert files.by_verb()["get"] <= 500 - start + 17


def test_large_pieces_are_not_written_twice(machine: Machine) -> None:
    machine.write(3)
    machine.write(8, size=300_000)
    machine.write(6)
    machine.packs.close()
    assert [pack.name for pack in machine.packed()] == ["00000000-3", "00000011-6"]
    assert read(machine.root) == machine.written


def test_packs_stay_small_enough_for_memory(machine: Machine) -> None:
    machine.write(300, size=100_000)
    machine.packs.close()
    assert all(pack.stat().st_size < 4.2e6 for pack in machine.packed())
    assert read(machine.root) == machine.written


class Failing(FileStore):
    """A store that takes no packs, or takes its time for them."""

    def __init__(self, url: str, delay_s: float | None) -> None:
        super().__init__(url)
        self._delay_s = delay_s

    def create(self, key: str, body: bytes, durable: bool = False) -> None:
        if "/packed/" in key:
            if self._delay_s is None:
                raise StoreError("no room")
            time.sleep(self._delay_s)
        super().create(key, body, durable)


@pytest.fixture(params=[None, 20.0])
def failing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Failing]:
    yield Failing(tmp_path.as_uri(), request.param)


def test_a_log_is_whole_and_ends_in_time_though_its_packs_fail_or_hang(failing: Failing, tmp_path: Path) -> None:
    log = Log(failing, f"{NODE}/log", Packs(failing, f"{NODE}/packed/log"), Mask([]))
    script = os.dup(log.pipe)
    log.start()
    for number in range(3):
        os.write(script, b"line %d\n" % number)
        time.sleep(0.3)
    os.close(script)
    began = time.monotonic()
    threading.Thread(target=log.finish, args=(30.0,), daemon=True).start()
    while b"".join(read(tmp_path)) != b"line 0\nline 1\nline 2\n":
        assert time.monotonic() - began < 5
        time.sleep(0.05)
    assert log.finish(8.0) and time.monotonic() - began < 10


def test_the_control_side_finds_a_node_s_log_and_numbers_packed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write(50)
    for file in (tmp_path / NODE / "log").iterdir():
        if 0 < int(file.name) < 48:
            file.unlink()  # what stands in packs is taken from there
    box = Mailbox(Store(tmp_path.as_uri()), "p", "quiet-heron-7f3a")
    assert [piece.body for piece in box.log(1, 0)] == machine.written and box.log_length(1, 0) == 50
