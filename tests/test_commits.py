"""What a commit may say, and how many there may be: machines write them, and a script may be root there."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from test_collect import RUN, Run

from sojourn.agent.mailbox import Place
from sojourn.agent.results.manifests import Manifests
from sojourn.agent.stores.store import FileStore
from sojourn.lease.retained import count_left
from sojourn.plan.checkpoint import newest
from sojourn.protocol import Exit, Manifest, Remainder
from sojourn.records import FileEntry
from sojourn.results.collect import TORN, collect
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "store")
    made.commit(1, 0, "a.pt")
    return made


def _forge(run: Run, what: str, files: int = 0, account: tuple[Remainder, ...] = (), number: int = 99) -> None:
    prefix = f"{run.mailbox.machine}/1/0"
    entries = tuple(
        FileEntry(path=f"f{at}", hash="sha256:0", size=1, source=f"{prefix}/blob/x{at}") for at in range(files)
    )
    forged = Manifest(sequence=number, at=0.0, files=entries, account=account)
    run.mailbox.store.put(f"{prefix}/{what}/{number:08d}.json", forged.to_bytes())


def _line(number: int, paths: int = 1, letters: int = 1) -> Remainder:
    names = tuple(f"{at}".rjust(letters, "x") for at in range(paths))
    return Remainder(reason=f"reason {number}".ljust(letters), kept=number % 2 == 0, paths=names, files=2, bytes=3)


def test_an_account_of_thousands_of_reasons_is_heard_so_far_and_the_rest_is_counted(run: Run) -> None:
    _forge(run, "kept", account=tuple(_line(number, paths=30, letters=400) for number in range(500)))
    found = collect(run.mailbox, 1, 1)
    assert [entry.path for entry in found.files] == ["a.pt"]
    assert len(found.account) <= 42 and len(found.model_dump_json()) < 300_000
    assert sum(one.files for one in found.account) == 2 * 500, "all of them are counted"


def test_a_commit_of_more_kept_files_than_a_machine_keeps_is_heard_so_far_and_the_rest_is_counted(run: Run) -> None:
    _forge(run, "kept", files=5_000)
    found = collect(run.mailbox, 1, 1)
    told = [(one.files, one.unnamed + len(one.paths)) for one in found.account]
    assert len(found.kept) == 4_000 and told[0][0] == 1_000, "and what is not there is not asked for"


def test_an_account_that_is_too_large_to_be_one_is_not_parsed_and_told(run: Run) -> None:
    _forge(run, "kept", account=tuple(_line(number, letters=4_000) for number in range(3_000)))
    begun = time.process_time()
    found = collect(run.mailbox, 1, 1)
    assert time.process_time() - begun < 1.0
    assert [(one.reason, one.paths) for one in found.account] == [(TORN, ("kept/00000099.json",))]


def test_what_is_said_to_be_kept_after_the_machine_s_last_words_is_the_script_s_own(run: Run) -> None:
    run.commit(1, 0, "logs/0.txt", what="kept")
    _forge(run, "kept", files=1, account=(_line(1),))
    last = Exit(node=0, reason="exited", ended_at=1.0, output=1, kept=1, seal="s")
    assert [entry.path for entry in collect(run.mailbox, 1, 1, exits=(last,)).kept] == ["logs/0.txt"]
    earlier = last.model_copy(update={"kept": None})
    assert [entry.path for entry in collect(run.mailbox, 1, 1, exits=(earlier,)).kept] == ["f0"], "nobody said then"
    none = last.model_copy(update={"kept": 0})
    assert collect(run.mailbox, 1, 1, exits=(none,)).kept == ()


def test_thousands_of_commits_that_cannot_be_read_are_not_gone_through(run: Run) -> None:
    folder = Path(run.mailbox.store.url.removeprefix("file://"), run.mailbox.machine, "1/0/out")
    (folder / "00000002.json").write_bytes(b"{")
    for number in range(3, 3_000):
        os.link(folder / "00000002.json", folder / f"{number:08d}.json")
    found = collect(run.mailbox, 1, 1)
    assert [(one.reason, one.files) for one in found.account] == [(TORN, 200)]


def test_an_agent_commits_at_once_where_a_script_has_taken_thousands_of_its_numbers(tmp_path: Path) -> None:
    store = FileStore(tmp_path.as_uri())
    place = Place(store, {"project": "digits", "run": RUN, "attempt": 1, "lease": "l"}, 0)
    folder = tmp_path / place.key("out")
    folder.mkdir(parents=True)
    (folder / "00000001.json").write_bytes(b"{}")
    for number in range(2, 5_000):
        os.link(folder / "00000001.json", folder / f"{number:08d}.json")
    manifests, asked = Manifests(store, place, "out"), 0
    create = store.create

    def counted(*args: object, **more: object) -> None:
        nonlocal asked
        asked += 1
        create(*args, **more)  # type: ignore[arg-type]

    store.create = counted  # type: ignore[method-assign]
    manifests.write([])
    manifests.write([])
    assert asked < 20 and manifests.sequence > 5_000
    assert Mailbox(Store(tmp_path.as_uri()), "digits", RUN).manifests(1, 0, "out")[-1] == manifests.sequence


def test_a_checkpoint_that_is_said_to_be_complete_and_is_none_hides_no_other(run: Run) -> None:
    run.order(1)
    prefix = f"{run.mailbox.machine}/1/0"
    run.commit(1, 0, "c.pt", what="ckpt")
    for number in (1, 98, 99):
        run.mailbox.store.put(f"{prefix}/commit/{number:08d}.json", b"{}")
    run.mailbox.store.put(f"{prefix}/ckpt/00000098.json", b"{")
    found = newest(run.mailbox)
    assert found is not None and [entry.path for entry in found.files] == ["c.pt"]


@pytest.mark.parametrize("source", ["blob/a.pt/below", "blob/link", "blob/dangling", "blob/pipe", "out"])
def test_a_source_under_which_no_file_can_lie_costs_that_file_alone(run: Run, source: str) -> None:
    prefix = f"{run.mailbox.machine}/1/0"
    folder = Path(run.mailbox.store.url.removeprefix("file://"), prefix)
    os.symlink("link", folder / "blob/link")
    os.symlink("nowhere", folder / "blob/dangling")
    os.mkfifo(folder / "blob/pipe")
    told = [
        FileEntry(path=name, hash="sha256:0", size=1, source=f"{prefix}/{key}")
        for name, key in (("a.pt", "blob/a.pt"), ("metrics.json", source))
    ]
    run.mailbox.store.put(f"{prefix}/out/00000002.json", Manifest(sequence=2, at=0.0, files=tuple(told)).to_bytes())
    assert "a.pt" in [entry.path for entry in collect(run.mailbox, 1, 1).files]
    assert count_left(run.mailbox).results > 0
    assert run.mailbox.store.find(f"{prefix}/blob/a.pt/below") is None
    assert run.mailbox.store.folders(f"{prefix}/blob/a.pt") == []


def test_a_file_where_a_machine_s_folder_was_is_a_machine_that_said_nothing(run: Run) -> None:
    folder = Path(run.mailbox.store.url.removeprefix("file://"), run.mailbox.machine, "1")
    shutil.rmtree(folder / "0")
    (folder / "0").write_text("no folder")
    box = run.mailbox
    assert box.hello(1, 0) is None and box.exit(1, 0) is None and box.beat(1, 0) is None
    assert list(box.log(1, 0)) == [] and collect(box, 1, 1).files == ()
