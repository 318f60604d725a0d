"""Links that a script makes between its results come home as links; those to anything else as what they lead to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from security.hostile import Home

from sojourn.agent.mailbox import Place
from sojourn.agent.results.commit import Committer
from sojourn.agent.results.fetch import Fetcher
from sojourn.agent.results.links import Via, leading
from sojourn.agent.stores.store import Check, FileStore
from sojourn.plan.checkpoint import newest
from sojourn.plan.planning import Plan
from sojourn.project.placing import Placings, earlier_results
from sojourn.project.project import Project
from sojourn.protocol import Bundle, Command, Order
from sojourn.records import FileEntry, Link
from sojourn.results.collect import Collected, collect
from sojourn.results.publish import Published, keep_aside, place_files, to_directory
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store


class Counting(FileStore):
    """Tells how many files it was given to keep."""

    kept = 0

    def keep(self, prefix: str, source: BinaryIO, check: Check) -> tuple[str, int]:
        self.kept += 1
        return super().keep(prefix, source, check)


class World:
    """A project, a machine that runs its script, and the store between the two."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.store = root / "project", root / "home", root / "store"
        self.root.mkdir(), self.store.mkdir()
        self._runs = 0

    def begin(self, sent: tuple[str, ...] = (), **order: Any) -> Path:
        """The tree of the next run's machine, in which `sent` files of the project lie."""
        self._runs += 1
        self.run = f"calm-panda-000{self._runs}"
        self.tree = self.root.parent / f"machine-{self._runs}"
        self.tree.mkdir()
        boot = {"project": "p", "run": self.run, "attempt": 1, "lease": f"{self.run}-a1"}
        self.machine = store = Counting(self.store.as_uri())
        place = Place(store, boot, 0)
        place.rank_by([place.name])
        for name in sent:
            shutil.copy2(self.root / name, self.tree / name, follow_symlinks=False)
        self.sent = sent
        told = {
            "nodes": [place.name],
            "inputs": [],
            "outputs": None,
            "ignore": [],
            "checkpoint": ["*.pt"],
            "commit_every_s": 9,
        }
        self.committer = Committer(store, place, {**told, **order}, str(self.tree), [], 1e18)
        self.mailbox = Mailbox(Store(self.store.as_uri()), "p", self.run)
        body = Order(
            run=self.run,
            project="p",
            attempt=1,
            nodes=(place.name,),
            master_address="x",
            master_port=1,
            command=Command(argv=("x",)),
            bundle=Bundle(files=(), listing=(), directory="."),
            checkpoint=("*.pt",),
            deadline_at=1.0,
            grace_s=1.0,
        )
        self.mailbox.store.put(f"{self.mailbox.orders}/order/1.json", body.to_bytes())
        return self.tree

    def end(self) -> Collected:
        self.committer.final(1e18, None)
        self.committer.keep_rest(1e18)
        return collect(self.mailbox, 1, 1)

    def home(self) -> Published:
        """The run ends well, and its results come home."""
        found, project = self.end(), Project.at(self.root)
        plan = Plan.model_construct(run=self.run, created_at=float(self._runs), named_outputs=())
        listing = tuple(
            FileEntry(path=one, hash="", size=0, source="") for one in self.sent if not (self.root / one).is_symlink()
        )
        links = tuple(
            Link(path=one, target=os.readlink(self.root / one)) for one in self.sent if (self.root / one).is_symlink()
        )
        sent = Bundle(files=(), listing=listing, links=links, directory=".")
        return place_files(plan, found.files, sent, self.mailbox, project, Placings(self.data, project.root))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def write(tree: Path, **files: str) -> None:
    """`a__b` stands for `a/b`, and `_pt` for `.pt`."""
    for name, text in files.items():
        path = tree / name.replace("__", "/").replace("_pt", ".pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def seen(folder: Path) -> dict[str, str]:
    """All that is there: a file's text, a link's target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_text()
    return found


def test_links_between_results_come_home_as_links(world: World) -> None:
    tree = world.begin()
    write(tree, out__step_100_pt="w", checkpoint_8__w_pt="8", checkpoint_8__x__y="y", root_pt="r")
    (tree / "out/latest.pt").symlink_to("step_100.pt")
    (tree / "out/dot.pt").symlink_to("./../out/step_100.pt")
    (tree / "newest.pt").symlink_to("out/latest.pt")
    (tree / "out/up.pt").symlink_to("../root.pt")
    (tree / "absolute.pt").symlink_to(tree / "root.pt")
    (tree / "best").symlink_to("checkpoint_8")
    (tree / "out/last").symlink_to("../checkpoint_8/x", target_is_directory=True)
    done = world.home()
    assert seen(world.root) == {
        "out/step_100.pt": "w",
        "checkpoint_8/w.pt": "8",
        "checkpoint_8/x/y": "y",
        "root.pt": "r",
        "out/latest.pt": "-> step_100.pt",
        "out/dot.pt": "-> step_100.pt",
        "newest.pt": "-> out/latest.pt",
        "out/up.pt": "-> ../root.pt",
        "absolute.pt": "-> root.pt",
        "best": "-> checkpoint_8",
        "out/last": "-> ../checkpoint_8/x",
    }
    assert done.placed == ("checkpoint_8/w.pt", "checkpoint_8/x/y", "out/step_100.pt", "root.pt")
    assert "best -> checkpoint_8" in done.links and len(done.links) == 7 and not done.copied and not done.beside
    assert world.machine.kept == 4, "each was sent once"


def test_a_link_to_what_does_not_come_home_comes_as_what_it_leads_to_and_is_told(world: World) -> None:
    write(world.root, config="c")
    tree = world.begin(("config",), ignore=["logs/"])
    write(tree, logs__a__x="x", out__w="w", logs__a__y="y")
    (tree / "out/run").symlink_to("../logs/a")
    (tree / "out/config").symlink_to("../config")
    (tree / "out/nowhere").symlink_to("nothing")
    (tree / "out/outside").symlink_to("/etc/hostname")
    (tree / "out/loop").symlink_to("loop")
    (tree / "out/self").symlink_to("..")
    done = world.home()
    assert seen(world.root) == {"config": "c", "out/w": "w", "out/run/x": "x", "out/run/y": "y", "out/config": "c"}
    assert done.copied == ("out/config", "out/run") and not done.links
    told = {one.reason: one.paths for one in collect(world.mailbox, 1, 1).account}
    assert set(told["linked to nothing"]) == {"out/loop", "out/nowhere"}
    assert told["linked from outside the project"] == ("out/outside",)
    assert told["linked to a folder around it"] == ("out/self",)


def test_a_hard_link_is_sent_once_and_comes_as_a_file_of_its_own(world: World) -> None:
    tree = world.begin()
    write(tree, step_1_pt="w")
    os.link(tree / "step_1.pt", tree / "best.pt")
    world.home()
    assert seen(world.root) == {"step_1.pt": "w", "best.pt": "w"} and world.machine.kept == 1


def test_a_link_in_a_linked_folder_comes_along_with_it(world: World) -> None:
    tree = world.begin()
    write(tree, run_5__step_3__w="3")
    (tree / "run_5/last").symlink_to("step_3")
    (tree / "latest").symlink_to("run_5")
    world.home()
    assert seen(world.root) == {"run_5/step_3/w": "3", "run_5/last": "-> step_3", "latest": "-> run_5"}
    assert collect(world.mailbox, 1, 1).account == (), "nothing of it is left behind"


def test_the_next_run_s_link_takes_the_place_of_the_last_one_s(world: World) -> None:
    for step in ("1", "2"):
        write(tree := world.begin(), **{f"step_{step}_pt": step, f"checkpoint_{step}__w": step})
        (tree / "latest.pt").symlink_to(f"step_{step}.pt")
        (tree / "best").symlink_to(f"checkpoint_{step}")
        assert not world.home().beside
    assert (world.root / "latest.pt").read_text() == (world.root / "best/w").read_text() == "2"
    assert os.readlink(world.root / "best") == "checkpoint_2" and (world.root / "checkpoint_1/w").read_text() == "1"


def test_nothing_is_written_through_a_link_of_an_earlier_run(world: World) -> None:
    write(tree := world.begin(), checkpoint_1__w="1", step_1="s")
    (tree / "best").symlink_to("checkpoint_1")
    (tree / "latest").symlink_to("step_1")
    world.home()
    write(world.begin(), best__w="2", latest="2")
    assert world.home().placed == ("best/w", "latest")
    assert seen(world.root) == {"best/w": "2", "checkpoint_1/w": "1", "latest": "2", "step_1": "s"}


def test_nor_is_a_link(world: World) -> None:
    write(tree := world.begin(), checkpoint_1__w="1")
    (tree / "best").symlink_to("checkpoint_1")
    world.home()
    write(tree := world.begin(), model="m")
    (tree / "best").mkdir(), (tree / "best/last").symlink_to("../model")
    world.home()
    assert seen(world.root) == {"best/last": "-> ../model", "checkpoint_1/w": "1", "model": "m"}


def test_a_file_takes_the_place_of_a_link_to_the_same(world: World) -> None:
    write(tree := world.begin(), step_1_pt="1")
    (tree / "latest.pt").symlink_to("step_1.pt")
    world.home()
    write(world.begin(), step_1_pt="1", latest_pt="1")
    world.home()
    assert seen(world.root) == {"step_1.pt": "1", "latest.pt": "1"}, "both of its own, as the script left them"


def test_a_link_that_the_user_took_into_git_is_theirs(world: World) -> None:
    write(tree := world.begin(), step_1_pt="1")
    (tree / "latest.pt").symlink_to("step_1.pt")
    world.home()
    write(tree := world.begin(("step_1.pt", "latest.pt")), step_2_pt="2")
    (tree / "latest.pt").unlink(), (tree / "latest.pt").symlink_to("step_2.pt")
    assert world.home().beside == ("latest.pt",)
    assert os.readlink(world.root / "latest.pt") == "step_1.pt"
    assert (world.root / f"runs/{world.run}/latest.pt").read_text() == "2"


def test_a_link_takes_the_place_of_a_file_that_an_earlier_run_placed(world: World) -> None:
    write(world.begin(), latest_pt="1")
    world.home()
    write(tree := world.begin(), step_2_pt="2")
    (tree / "latest.pt").symlink_to("step_2.pt")
    world.home()
    assert seen(world.root) == {"step_2.pt": "2", "latest.pt": "-> step_2.pt"}


def test_what_is_the_user_s_stays_and_the_link_s_file_lies_beside(world: World) -> None:
    write(world.root, latest_pt="mine")
    write(tree := world.begin(), step_2_pt="2", best__w="w")
    (tree / "latest.pt").symlink_to("step_2.pt")
    done = world.home()
    assert (world.root / "latest.pt").read_text() == "mine" and done.beside == ("latest.pt",)
    assert (world.root / f"runs/{world.run}/latest.pt").read_text() == "2"
    (world.root / "step_2.pt").unlink(), (world.root / "step_2.pt").symlink_to("best/w")
    write(tree := world.begin(), step_2_pt="3", other="o")
    (tree / "new.pt").symlink_to("step_2.pt")
    done = world.home()
    assert os.readlink(world.root / "step_2.pt") == "best/w" and (world.root / "best/w").read_text() == "w"
    assert (world.root / "new.pt").read_text() == "3" and done.copied == ("new.pt",), "not what the user's link says"


def test_a_link_of_the_user_s_that_travelled_is_kept_and_followed(world: World) -> None:
    (world.root / "store").mkdir()
    (world.root / "store/w").write_text("w")
    (world.root / "data").symlink_to("store")
    tree = world.begin(("data",))
    (tree / "store").mkdir()
    (tree / "data/new").write_text("n")
    done = world.home()
    assert os.readlink(world.root / "data") == "store" and (world.root / "store/new").read_text() == "n"
    assert not done.beside and done.placed == ("store/new",)


def test_where_the_user_s_folders_are_links_a_relative_one_of_ours_is_a_file(world: World) -> None:
    (world.root / "far/away").mkdir(parents=True)
    (world.root / "out").symlink_to("far/away")
    tree = world.begin()
    write(tree, model="m", out__w="w")
    (tree / "out/up").symlink_to("../model")
    (tree / "out/near").symlink_to("w")
    done = world.home()
    assert (world.root / "out/up").read_text() == "m" and not (world.root / "out/up").is_symlink()
    assert os.readlink(world.root / "far/away/near") == "w" and done.copied == ("out/up",)


def test_links_of_ours_do_not_travel_with_the_next_run(world: World) -> None:
    write(tree := world.begin(), step_1_pt="1", checkpoint_1__w="1")
    (tree / "latest.pt").symlink_to("step_1.pt")
    (tree / "best").symlink_to("checkpoint_1")
    world.home()
    stay = earlier_results(world.data, Project.at(world.root), [])
    assert {"latest.pt", "best"} <= {path for path, why in stay.items() if why}
    (world.root / "latest.pt").unlink(), (world.root / "latest.pt").symlink_to("checkpoint_1/w")
    stay = earlier_results(world.data, Project.at(world.root), [])
    assert "latest.pt" not in stay, "the user has made it theirs"


def test_pull_and_what_is_kept_aside_have_the_links_too(world: World, tmp_path: Path) -> None:
    tree = world.begin(ignore=["logs/"], keep=10**9)
    write(tree, out__step_1_pt="1", logs__run_1__x="x")
    (tree / "out/latest.pt").symlink_to("step_1.pt")
    (tree / "logs/latest").symlink_to("run_1")
    found = world.end()
    done = to_directory(found, world.mailbox, tmp_path / "there")
    assert seen(tmp_path / "there") == {
        "out/step_1.pt": "1",
        "out/latest.pt": "-> step_1.pt",
        "logs/run_1/x": "x",
        "logs/latest": "-> run_1",
    }
    assert done.links == ("logs/latest -> run_1", "out/latest.pt -> step_1.pt")
    plan = Plan.model_construct(run=world.run, created_at=1.0)
    for _ in range(2):  # the second time it is there
        aside = keep_aside(plan, found, world.mailbox, Project.at(world.root))
        assert aside.directory == str(world.root / "runs" / world.run) and len(aside.links) == 1
    assert os.readlink(world.root / "runs" / world.run / "out/latest.pt") == "step_1.pt"
    (world.root / "runs" / world.run / "best").symlink_to("out")
    entry = found.files[0].model_copy(update={"path": "best/new.pt", "link": None})
    later = keep_aside(plan, found.model_copy(update={"files": (entry,)}), world.mailbox, Project.at(world.root))
    assert later.directory == str(world.root / "runs" / world.run / "later-2"), "not through a link"


def test_a_checkpoint_is_restored_with_its_links(world: World, tmp_path: Path) -> None:
    tree = world.begin()
    write(tree, out__step_1_pt="1", checkpoint_1__w_pt="w", checkpoint_1__trainer_state_json="{}")
    (tree / "out/last.pt").symlink_to("step_1.pt")
    (tree / "out/up.pt").symlink_to("../checkpoint_1/w.pt")
    (tree / "best").symlink_to("checkpoint_1")
    world.end()
    found = newest(world.mailbox)
    assert found is not None
    new = tmp_path / "new"
    fetcher = Fetcher(FileStore(world.store.as_uri()), str(new), str(tmp_path), lambda: None)
    order: dict[str, Any] = {
        "bundle": {"archives": [], "files": [], "links": []},
        "inputs": [one.model_dump(mode="json") for one in found.files],
        "remove": [],
    }
    fetcher.fetch(order)
    assert os.readlink(new / "out/last.pt") == "step_1.pt" and os.readlink(new / "best") == "checkpoint_1"
    assert fetcher.bytes_done == fetcher.bytes_total
    (new / "best").unlink(), (new / "best").mkdir()
    fetcher.fetch(order)
    assert os.readlink(new / "best") == "checkpoint_1", "an empty folder is in nobody's way"
    shutil.rmtree(new / "out"), (new / "best").unlink(), write(new, best__mine="m")
    (new / "far/away").mkdir(parents=True), (new / "out").symlink_to("far/away")
    fetcher.fetch(order)
    assert (new / "out/up.pt").read_text() == "w" and not (new / "out/up.pt").is_symlink(), "it would lead elsewhere"
    assert (new / "best/mine").read_text() == "m" and (new / "best/w.pt").read_text() == "w", "as files, then"


def test_an_earlier_version_reads_the_files_behind_the_links(world: World) -> None:
    tree = world.begin()
    write(tree, step_1_pt="1")
    (tree / "latest.pt").symlink_to("step_1.pt")
    lines = {one.path: one for one in world.end().files}
    assert lines["latest.pt"].source == lines["step_1.pt"].source and lines["latest.pt"].hash == lines["step_1.pt"].hash


@pytest.mark.parametrize(
    "said",
    [
        {"a": ("a", "/etc/passwd")}, {"a": ("a", "../b")}, {"a": ("a", "x/../f")}, {"a": ("a", "a")}, {"a": ("a", "")},
        {"a": ("a", ".")}, {"a": ("a", "gone")}, {"a": ("b", "f")}, {"a": ("", "f")}, {"a": ("/a", "f")},
        {"a": ("../a", "f")}, {"a/b": ("a", "../f")}, {"a": ("a", "b"), "b": ("b", "a")}, {"d/x": ("d", "."), },
        {"a": ("a", "other")}, {"d/f": ("d/f", "../../f")}, {"d/x": ("d", "d"), "d/d/x": ("d", "d")},
        {"d/x": ("d", "e"), "d/y": ("d", "e")}, {"a": ("a", "./f")}, {"a": ("a", "f/")},
        {"d/x": ("d", "e"), "d": ("d", "f")},
        {"e/g/h/x": ("e/g/h", "..")},
    ],
    ids=range(22),
)  # fmt: skip
def test_what_a_manifest_says_of_a_link_that_is_none_is_not_believed(said: dict[str, tuple[str, str]]) -> None:
    files: dict[str, tuple[str, Via | None]] = {"f": ("1", None), "other": ("2", None), "e/x": ("1", None)}
    files |= {path: ("1", Via(*via)) for path, via in said.items()}
    assert leading(files) == {}


def test_a_file_that_is_said_to_lie_below_a_link_makes_it_none() -> None:
    files: dict[str, tuple[str, Via | None]] = {"e/x": ("1", None), "d/x": ("1", Via("d", "e"))}
    assert leading(files) == {"d": "e"}
    assert leading({**files, "d/hooks/run": ("1", None)}) == {} == leading({**files, "d": ("1", None)})


def test_a_chain_of_links_ends_somewhere() -> None:
    files: dict[str, tuple[str, Via | None]] = {"0": ("1", None)}
    files |= {str(n): ("1", Via(str(n), str(n - 1))) for n in range(1, 2_000)}
    assert set(leading(files).values()) >= {"0", "1"}
    ring: dict[str, tuple[str, Via | None]] = {str(n): ("1", Via(str(n), str((n + 1) % 2_000))) for n in range(2_000)}
    assert leading(ring) == {}


def test_a_machine_s_link_leads_nowhere_but_to_results_that_are_there(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (home.root / "secret").write_text("evil")
    linked = [
        home.entry(path).model_copy(update={"link": Link(path=path, target=target)})
        for path, target in [
            ("a", "secret"), ("b", "../elsewhere/x"), ("c", "/etc/passwd"), ("d", ".git/config"), ("train.py", "w"),
            (".envrc", "w"), ("e\nf", "w"),
        ]
    ]  # fmt: skip
    home.comes_home(home.entry("w"), *linked)
    assert [path for path in home.root.rglob("*") if path.is_symlink()] == []
    assert (home.root / "train.py").read_text() == "pass"
    fine = home.entry("ok").model_copy(update={"link": Link(path="ok", target="w")})
    home.comes_home(home.entry("w"), fine)
    assert os.readlink(home.root / "ok") == "w"
