"""The newest result stands at its place, what is the user's is kept, and results of earlier runs do not travel."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sojourn.plan.planning import Plan
from sojourn.project.bundle import survey
from sojourn.project.contents import PLACED
from sojourn.project.placing import Placings, earlier_results
from sojourn.project.project import Project
from sojourn.protocol import Bundle
from sojourn.records import FileEntry
from sojourn.results.collect import Collected
from sojourn.results.publish import Published, place_files, to_directory
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store


class World:
    """A project directory, a data directory and a store in which runs have left their results."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.store = Store((root / "store").as_uri())
        self.root = root / "project"
        self.root.mkdir()
        self.sent: tuple[str, ...] = ()

    def entry(self, path: str, text: str, mode: int = 0o644) -> FileEntry:
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.store.put(f"machine/p/r/1/0/blob/{digest}", text.encode())
        return FileEntry(
            path=path, hash=f"sha256:{digest}", size=len(text), mode=mode, source=f"machine/p/r/1/0/blob/{digest}"
        )

    def home_comes(self, run: str, planned_at: float, asked: bool = False, **files: str) -> Published:
        """A run's results into the project; `a__b` stands for `a/b`, and `_txt` for `.txt`."""
        entries = [self.entry(_path(name), text) for name, text in files.items()]
        listing = tuple(FileEntry(path=path, hash="", size=0, source="") for path in self.sent)
        sent = Bundle(files=(), listing=listing, directory=".")
        plan = Plan.model_construct(run=run, created_at=planned_at)
        project = Project.at(self.root)
        mailbox = Mailbox(self.store, "p", run)
        return place_files(plan, entries, sent, mailbox, project, Placings(self.home, project.root), asked)

    def read(self, path: str) -> str:
        return (self.root / path).read_text()

    def stays(self, *reads: str) -> dict[str, str]:
        found = earlier_results(self.home, Project.at(self.root), reads)
        return {path: why for path, why in found.items() if why}


def _path(name: str) -> str:
    return name.replace("__", "/").replace("_txt", ".txt")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_result_that_nobody_touched_is_replaced_by_the_newer_one(world: World) -> None:
    for at, text in enumerate(("first", "second", "third")):
        done = world.home_comes(f"run-{at}", float(at), model_txt=text, out__log_txt=text)
        assert world.read("model.txt") == world.read("out/log.txt") == text
        assert done.placed == ("model.txt", "out/log.txt") and not done.beside and not done.warnings
    assert not (world.root / "runs").exists()


def test_a_result_that_the_user_edited_in_place_with_its_times_put_back_is_theirs(world: World) -> None:
    world.home_comes("first", 1.0, model_txt="first", other_txt="first")
    before = (world.root / "model.txt").stat()
    with (world.root / "model.txt").open("r+") as file:
        file.write("yours")
    os.utime(world.root / "model.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(world.stays()) == {"other.txt"}, "so it travels with the next run"
    done = world.home_comes("later", 2.0, model_txt="again", other_txt="again")
    assert world.read("model.txt") == "yours" and world.read("runs/later/model.txt") == "again"
    assert done.placed == ("other.txt",)


def test_a_result_that_the_user_changed_is_kept_and_the_report_says_which_is_the_older_one(world: World) -> None:
    world.home_comes("first", 1.0, model_txt="first", other_txt="first")
    (world.root / "model.txt").write_text("mine!")
    done = world.home_comes("second", 2.0, model_txt="second", other_txt="second")
    assert world.read("model.txt") == "mine!" and world.read("other.txt") == "second"
    assert world.read("runs/second/model.txt") == "second"
    (warning,) = done.warnings
    assert warning.startswith("model.txt at its place is yours since ") and "the one of this run is in" in warning
    assert warning.endswith("runs/second")


def test_an_older_run_that_comes_home_later_does_not_replace_a_newer_ones_result(world: World) -> None:
    world.home_comes("newer", 2.0, model_txt="newer")
    done = world.home_comes("older", 1.0, model_txt="older")
    assert world.read("model.txt") == "newer" and world.read("runs/older/model.txt") == "older"
    assert "model.txt at its place is of the newer run newer" in done.warnings[0]


def test_an_older_run_replaces_it_when_it_is_asked_for_and_the_next_one_replaces_that(world: World) -> None:
    world.home_comes("newer", 2.0, model_txt="newer")
    world.home_comes("older", 1.0, asked=True, model_txt="older")
    assert world.read("model.txt") == "older"
    world.home_comes("newest", 3.0, model_txt="newest")
    assert world.read("model.txt") == "newest"


def test_a_file_of_the_users_is_never_replaced_whatever_it_holds(world: World) -> None:
    for name in ("notes.txt", "same.txt"):
        (world.root / name).write_text("same")
    done = world.home_comes("first", 1.0, notes_txt="new", same_txt="same")
    assert done.placed == ("same.txt",) and world.read("notes.txt") == "same"
    world.home_comes("second", 2.0, same_txt="other")
    assert world.read("same.txt") == "same", "that it equalled a result makes it no result of ours"


def test_a_file_that_travelled_is_never_replaced(world: World) -> None:
    world.home_comes("first", 1.0, model_txt="first")
    world.sent = ("model.txt",)
    world.home_comes("second", 2.0, model_txt="second")
    assert world.read("model.txt") == "first" and world.read("runs/second/model.txt") == "second"


def test_links_folders_and_files_in_the_way_are_kept_and_the_result_lies_beside(world: World) -> None:
    world.home_comes("first", 1.0, link_txt="first")
    (world.root / "link.txt").rename(world.root / "moved.txt")
    (world.root / "link.txt").symlink_to("moved.txt")
    (world.root / "folder.txt").mkdir()
    (world.root / "blocked").write_text("a file")
    done = world.home_comes("second", 2.0, link_txt="second", folder_txt="second", blocked__deep__x_txt="second")
    assert done.beside == ("blocked/deep/x.txt", "folder.txt", "link.txt") and not done.placed
    assert world.read("moved.txt") == "first" and world.read("blocked") == "a file"
    assert world.read("runs/second/blocked/deep/x.txt") == "second"


def test_placing_that_was_interrupted_is_continued_and_what_it_placed_is_ours(world: World) -> None:
    world.home_comes("first", 1.0, a_txt="first", b_txt="first")
    entry = world.entry("a.txt", "second")
    placings = Placings(world.home, world.root)
    placings.note([entry, world.entry("b.txt", "second")], "second", 2.0)
    (world.root / "a.txt").unlink(), (world.root / "a.txt").write_text("second")  # and then it died
    assert set(world.stays()) == {"a.txt", "b.txt"}
    done = world.home_comes("second", 2.0, a_txt="second", b_txt="second")
    assert done.placed == ("a.txt", "b.txt") and world.read("b.txt") == "second"
    world.home_comes("third", 3.0, a_txt="third")
    assert world.read("a.txt") == "third"


def test_a_touched_file_with_the_same_content_is_still_ours(world: World) -> None:
    world.home_comes("first", 1.0, a_txt="first")
    os.utime(world.root / "a.txt", (1, 1))
    assert set(world.stays()) == {"a.txt"}
    world.home_comes("second", 2.0, a_txt="second")
    assert world.read("a.txt") == "second"


def test_results_stay_unless_git_tracks_them_or_a_stage_reads_them_or_they_were_changed(world: World) -> None:
    subprocess.run(["git", "init", "-q"], cwd=world.root, check=True)
    files = {f"{name}_txt": name for name in ("stays", "tracked", "changed", "gone")}
    world.home_comes("first", 1.0, raw__x_txt="x", **files)
    subprocess.run(["git", "add", "tracked.txt"], cwd=world.root, check=True)
    (world.root / "changed.txt").write_text("changes")
    (world.root / "gone.txt").unlink()
    assert world.stays("raw") == {"stays.txt": PLACED}


def test_folders_that_were_made_for_results_stay_too_and_those_of_the_user_travel(world: World) -> None:
    for name in ("empty/inner", "out/mine"):
        (world.root / name).mkdir(parents=True)
    world.home_comes("first", 1.0, out__deep__er__a_txt="a", empty__b_txt="b", new__c_txt="c", with__d_txt="d")
    (world.root / "with/mine.txt").write_text("mine")
    found = earlier_results(world.home, Project.at(world.root), ())
    assert {path for path in found if path.endswith("/")} == {"out/deep/", "out/deep/er/", "new/", "with/"}
    tree = survey(Project.at(world.root), found)
    assert [one.path for one in tree.files] == ["with/mine.txt"]
    assert set(tree.folders) == {"empty/inner", "out/mine", "out"}
    assert survey(Project.at(world.root), tuple(found)).folders == tree.folders


def test_a_mixture_of_two_runs_in_one_folder_is_told(world: World) -> None:
    world.home_comes(
        "first", 1.0, out__c100__m_txt="1", out__model_txt="1", other__a_txt="1", top_txt="1", out__mine_txt="1"
    )
    (world.root / "out/mine.txt").write_text("!")
    done = world.home_comes("second", 2.0, out__c50__m_txt="2", out__model_txt="2")
    assert done.warnings == (
        "out/c100/m.txt: from an earlier run; this one wrote beside it and did not write it again",
    )
    assert not world.home_comes("second", 2.0, top_txt="2").warnings


def test_older_checkpoints_of_a_series_at_the_top_are_told_too(world: World) -> None:
    world.home_comes("first", 1.0, checkpoint_10__m_txt="1", step100_pt="1", best_pt="1", v2_txt="1")
    done = world.home_comes("second", 2.0, checkpoint_6__m_txt="2", step50_pt="2")
    assert done.warnings == (
        "checkpoint_10/m.txt, step100_pt: from an earlier run; this one wrote beside it and did not write it again",
    )


def test_another_directory_knows_nothing_of_these(world: World, tmp_path: Path) -> None:
    world.home_comes("first", 1.0, a_txt="first")
    world.root = tmp_path / "clone"
    world.root.mkdir()
    (world.root / "a.txt").write_text("first")
    assert world.stays() == {}
    world.home_comes("second", 2.0, a_txt="second")
    assert world.read("a.txt") == "first"


def test_a_project_that_was_moved_takes_its_record_along(world: World, tmp_path: Path) -> None:
    world.home_comes("first", 1.0, a_txt="first")
    world.root = world.root.rename(tmp_path / "moved")
    assert set(world.stays()) == {"a.txt"}
    world.home_comes("second", 2.0, a_txt="second")
    assert world.read("a.txt") == "second"


def test_a_record_that_cannot_be_read_makes_everything_the_users(world: World) -> None:
    world.home_comes("first", 1.0, a_txt="first")
    for file in (world.home / "placed").glob("*.json"):
        file.write_text('{"paths": {"a.txt": [{"hash": 1}]}}')
    assert world.stays() == {}
    world.home_comes("second", 2.0, a_txt="second")
    assert world.read("a.txt") == "first" and world.read("runs/second/a.txt") == "second"


def test_two_runs_that_come_home_at_once_leave_the_newer_results(world: World) -> None:
    names = [f"f{at}_txt" for at in range(30)]
    runs = [
        threading.Thread(target=world.home_comes, args=(run, at), kwargs=dict.fromkeys(names, run))
        for at, run in ((1.0, "older"), (2.0, "newer"))
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert {world.read(_path(name)) for name in names} == {"newer"}


def test_what_became_executable_is_no_longer_the_same(world: World) -> None:
    (world.root / "mine.sh").write_text("x")
    entry = world.entry("mine.sh", "x", 0o755)
    plan = Plan.model_construct(run="first", created_at=1.0)
    sent = Bundle(archive=None, files=(), listing=(entry,), directory=".")
    project = Project.at(world.root)
    placings = Placings(world.home, project.root)
    done = place_files(plan, [entry], sent, Mailbox(world.store, "p", "first"), project, placings)
    assert done.beside == ("mine.sh",) and (world.root / "runs/first/mine.sh").stat().st_mode & 0o100

    for mode in (0o644, 0o755):
        entry = world.entry("ours.sh", "y", mode)
        place_files(plan, [entry], sent, Mailbox(world.store, "p", "first"), project, placings)
        assert (world.root / "ours.sh").stat().st_mode & 0o777 == mode


def test_a_folder_that_is_a_link_out_of_the_project_gets_no_result(world: World, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (world.root / "out").symlink_to(tmp_path / "disk")
    done = world.home_comes("first", 1.0, out__a_txt="a")
    assert not list((tmp_path / "disk").iterdir()) and world.read("runs/first/out/a.txt") == "a"
    assert "out/a.txt at its place is behind a link that leads out of the project" in done.warnings[0]


def test_a_result_whose_object_is_broken_costs_itself_alone(world: World) -> None:
    broken = world.entry("bad.txt", "good")
    world.store.put(broken.source, b"oops")
    plan = Plan.model_construct(run="first", created_at=1.0)
    sent = Bundle(archive=None, files=(), listing=(), directory=".")
    project = Project.at(world.root)
    files = [broken, world.entry("fine.txt", "fine")]
    done = place_files(
        plan, files, sent, Mailbox(world.store, "p", "first"), project, Placings(world.home, project.root)
    )
    assert done.placed == ("fine.txt",) and world.read("fine.txt") == "fine"
    assert "bad.txt cannot be brought into " in done.warnings[-1]


def test_a_result_that_can_be_written_nowhere_is_named_with_the_command_that_brings_it(world: World) -> None:
    (world.root / "runs").write_text("in the way")
    (world.root / "a.txt").write_text("mine")
    done = world.home_comes("first", 1.0, a_txt="result", b_txt="b")
    assert world.read("b.txt") == "b" and done.placed == ("b.txt",) and not done.beside
    assert done.warnings[-1].startswith("a.txt cannot be brought into ")
    assert done.warnings[-1].endswith("either: sojourn pull first --to DIR")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written_costs_no_result(world: World) -> None:
    (world.root / "out").mkdir(mode=0o555)
    done = world.home_comes("first", 1.0, out__a_txt="a", b_txt="b")
    assert world.read("b.txt") == "b" and world.read("runs/first/out/a.txt") == "a"
    assert "out/a.txt cannot be written at its place" in done.warnings[0]


def test_pull_to_a_directory_brings_what_is_kept_too(world: World, tmp_path: Path) -> None:
    found = Collected(
        files=(world.entry("a.txt", "a"),), bytes=1, checkpoints=0, kept=(world.entry("logs/b.txt", "b", 0o755),)
    )
    done = to_directory(found, Mailbox(world.store, "p", "r"), tmp_path / "there")
    assert done.placed == ("a.txt", "logs/b.txt")
    assert (tmp_path / "there/logs/b.txt").read_text() == "b"
    assert (tmp_path / "there/logs/b.txt").stat().st_mode & 0o777 == 0o755


def test_several_files_that_are_kept_are_told_in_the_plural(world: World) -> None:
    for name in ("a.txt", "b.txt"):
        (world.root / name).write_text("mine")
    (warning,) = world.home_comes("first", 1.0, a_txt="new", b_txt="new").warnings
    assert warning.startswith("a.txt, b.txt at their places are yours") and "those of this run are in" in warning


def test_thousands_of_results_are_looked_up_in_a_list_that_is_read_once(tmp_path: Path) -> None:
    def seconds(many: int) -> float:
        root = tmp_path / str(many)
        root.mkdir()
        entries = []
        for number in range(many):
            (root / f"{number}.png").write_bytes(b"%d" % number)
            digest = hashlib.sha256(b"%d" % number).hexdigest()
            entries.append(FileEntry(path=f"{number}.png", hash=f"sha256:{digest}", size=len(str(number)), source="x"))
        placings = Placings(tmp_path / "home", root)
        placings.note(entries, "calm-owl-0a1b", 1.0)
        placings.settle(entries)
        began = time.process_time()
        assert {placings.look(entry, 2.0).whose for entry in entries} == {"same"}
        return time.process_time() - began

    assert seconds(2_000) < 30 * seconds(200), "ten times as many take ten times as long, not a hundred"


@pytest.mark.parametrize(
    "odd",
    [
        {"mtime_ns": 10**30}, {"mode": -1}, {"mode": 10**30}, {"size": -1}, {"size": 1 << 60}, {"offset": -5},
        {"source": "../x"}, {"source": "a\nb"}, {"source": "a\0b"}, {"source": "\ud800"}, {"source": ""},
        {"source": "s3://x/y"}, {"source": "x" * 300}, {"path": ("n" * 249 + "/") * 15 + "b" * 245},
        {"path": "a\0b"}, {"path": "../b"},
        {"path": "n" * 300}, {"hash": ""}, {"path": "ok.txt/below"},
    ],
    ids=range(19),
)  # fmt: skip
def test_a_file_that_cannot_be_written_keeps_no_other_from_coming(
    world: World, tmp_path: Path, odd: dict[str, Any]
) -> None:
    bad = world.entry("bad.txt", "bad").model_copy(update=odd)
    found = Collected(files=(world.entry("ok.txt", "ok"), bad, world.entry("z.txt", "z")), bytes=1, checkpoints=0)
    done = to_directory(found, Mailbox(world.store, "p", "r"), tmp_path / "there")
    assert {"ok.txt", "z.txt"} <= set(done.placed)
    assert len(done.placed) + len(done.warnings) == 3


def test_of_thousands_of_files_that_cannot_be_brought_a_few_are_named(world: World, tmp_path: Path) -> None:
    bad = world.entry("bad.txt", "bad").model_copy(update={"hash": ""})
    many = tuple(bad.model_copy(update={"path": f"{number}.txt"}) for number in range(1_000))
    found = Collected(files=many, bytes=1, checkpoints=0)
    done = to_directory(found, Mailbox(world.store, "p", "r"), tmp_path / "there")
    assert len(done.warnings) == 21 and done.warnings[-1].startswith("980 other files could not be brought")


def test_a_result_whose_path_is_too_long_for_this_place_keeps_no_other_from_home(tmp_path: Path) -> None:
    root = tmp_path / ("r" * 200)
    root.mkdir()
    world = World(root)
    name = ("n" * 249 + "__") * 15 + "b" * 245
    done = world.home_comes("first", 1.0, **{name: "x", "z_txt": "z"})
    assert done.placed == ("z.txt",) and world.read("z.txt") == "z"
    assert "longer, with the folders above it, than paths may be here" in str(done.warnings)
    assert "cannot be brought" in str(done.warnings)
