"""What a tree holds: all that stands there travels, or stays for a reason that is told."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.omissions import Look, Omission, in_a_line
from sojourn.project import bundle, contents
from sojourn.project.bundle import Changed, Survey, pack, pack_inputs, survey, unpack
from sojourn.project.inputs import InputTree, sparse
from sojourn.project.project import Project
from sojourn.shorthand import format_bytes
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    """A run's mailbox in an empty store."""
    return Mailbox(Store((tmp_path / "store").as_uri()), "tree", "quiet-heron-7f3a")


def git(where: Path, *words: str) -> None:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *identity, *words], cwd=where, check=True, capture_output=True)


def write(root: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def repository(root: Path, *names: str, ignored: str = "") -> None:
    """A git repository with these files committed, and with a .gitignore."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q")
    write(root, *names)
    write(root, ".gitignore", text=ignored)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")


def paths(root: Path, *skip: str, needed: tuple[str, ...] = ()) -> list[str]:
    return [found.path for found in survey(Project.at(root), skip, needed).files]


def machine(root: Path, mailbox: Mailbox, to: Path) -> Path:
    """The tree as a machine gets it."""
    unpack(pack(survey(Project.at(root)), Project.at(root), ".", mailbox).bundle, mailbox, to)
    return to


def told(root: Path, *skip: str) -> dict[str, Omission]:
    """What the plan says that stays, by its reason."""
    project = Project.at(root)
    return {one.reason: one for one in contents.account(project, survey(project, skip).left, Look(project.root, 60))}


def everything(root: Path) -> dict[str, int]:
    """Each file, link and special file below the root with its size, as `find` sees it."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in [*files, *(name for name in names if Path(folder, name).is_symlink())]:
            path = Path(folder, name)
            size = path.stat().st_size if path.is_file() and not path.is_symlink() else 0
            found[path.relative_to(root).as_posix()] = size
    return found


def whole(root: Path, tree: Survey, otherwise: tuple[str, ...] = ()) -> None:
    """What travels and what stays is all there is: in paths, files and bytes."""
    all_of_it = everything(root)
    left = contents.account(Project.at(root), tree.left, Look(root, 60, 10_000_000))
    stay = tuple(one.path.rstrip("/") for one in tree.left)

    def is_in(path: str, places: tuple[str, ...]) -> bool:
        return any(path == place or path.startswith(place + "/") for place in places)

    travels = {found.path for found in tree.files}
    assert travels <= set(all_of_it)
    assert not [path for path in travels if is_in(path, stay)]
    rest = {path: size for path, size in all_of_it.items() if path not in travels and not is_in(path, otherwise)}
    assert not [path for path in rest if not is_in(path, stay)], "neither carried nor told"
    # What is left out below what travels otherwise (the .git of an input) is told as well.
    assert sum(one.files for one in left) == len(rest), [one for one in left if one.files]
    assert sum(one.bytes for one in left) == sum(rest.values())


def test_of_this_repository_all_is_carried_or_told() -> None:
    for again in (*[True] * 9, False):  # other tests leave their caches in it meanwhile
        before = everything(REPOSITORY)
        try:
            return whole(REPOSITORY, survey(Project.at(REPOSITORY)))
        except AssertionError:
            if not again or everything(REPOSITORY) == before:
                raise


def odd(tree: Path, in_git: bool) -> None:
    """A tree with one of everything."""
    if in_git:
        git(tree, "init", "-q")
    repository(tree / "third/clone", "net.py", "deep/er.py", "made.log", ignored="*.log\nbuild/\n")
    write(tree, "third/clone/new.py", "third/clone/other.log", "third/clone/build/x")
    repository(tree / "third/clone/inner", "inner.py")
    git(tree / "third", "init", "-q", "empty")
    write(tree / "third/empty", "not committed.py")
    write(tree, "train.py", "data/train.bin", "data/deep/more.bin", "data/keep.txt", "logs/old.log", "a/b/.gitignore")
    write(tree, ".gitignore", text="/data/\n*.log\n/ignored clone/\nstill empty/\n")
    write(tree, "a/b/.gitignore", text="here.txt\n")
    write(tree, "a/b/here.txt", "a/here.txt", "a/__pycache__/x.pyc", "node_modules/x/y.js", "venv/pyvenv.cfg", "venv/x")
    write(
        tree, "runs/quiet-heron-7f3a/model.pt", "runs/mine/x", ".sojournignore", "notes/mine.md", "conda/conda-meta/x"
    )
    write(tree, ".sojournignore", text="/notes/\n")
    write(tree, ".dvc/cache/x", "sub/.dvc/tmp/y", "two\nlines.log", "Prüf.log")
    repository(tree / "ignored clone", "x.py")
    for name in ("empty", "nest/ed/empty", "still empty/below", "a/b/c"):
        (tree / name).mkdir(parents=True)
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(tree / "socket"))
    (tree / "to data").symlink_to("data")
    (tree / "to bin").symlink_to("data/train.bin")
    (tree / "broken").symlink_to("nowhere")
    os.link(tree / "train.py", tree / "hard.py")
    if in_git:
        write(tree, "gone.py", "assumed.py", "skipped.py")
        git(tree, "add", "-f", "train.py", "data/keep.txt", "gone.py", "assumed.py", "skipped.py")
        git(tree, "update-index", "--assume-unchanged", "assumed.py")
        git(tree, "update-index", "--skip-worktree", "skipped.py")
        write(tree, "assumed.py", text="changed")
        (tree / "gone.py").unlink()
        (tree / "skipped.py").unlink()


@pytest.mark.parametrize("in_git", [True, False])
def test_of_an_odd_tree_all_is_carried_or_told(tree: Path, tmp_path: Path, mailbox: Mailbox, in_git: bool) -> None:
    odd(tree, in_git)

    found = survey(Project.at(tree), ["sub"])

    whole(tree, found, otherwise=("sub",))
    assert set(found.folders) == {"empty", "nest/ed/empty", "still empty/below", "a/b/c"}
    there = machine(tree, mailbox, tmp_path / "machine")
    for path in (*(one.path for one in found.files), *found.folders):
        assert os.path.lexists(there / path), path


@pytest.mark.parametrize("in_git", [True, False])
def test_a_nested_repository_travels_by_its_own_rules(tree: Path, in_git: bool) -> None:
    odd(tree, in_git)

    clone = [path for path in paths(tree) if path.startswith("third/")]

    assert clone == [
        "third/clone/.gitignore",
        "third/clone/deep/er.py",
        "third/clone/inner/.gitignore",
        "third/clone/inner/inner.py",
        "third/clone/net.py",
        "third/clone/new.py",
        "third/empty/not committed.py",
    ]
    assert "third/clone/build/" in told(tree)["ignored by git"].paths


def test_a_tracked_file_travels_although_it_is_ignored(tree: Path) -> None:
    odd(tree, in_git=True)

    found = paths(tree)

    assert "data/keep.txt" in found and "data/train.bin" not in found
    assert "a/here.txt" in found and "a/b/here.txt" not in found
    assert "assumed.py" in found and "gone.py" not in found


def test_excludes_outside_the_tree_are_honoured_and_told(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tree, "train.py")
    write(tmp_path, "excludes", text="*.csv\n")
    write(tmp_path, "config", text=f"[core]\n excludesFile = {tmp_path}/excludes\n quotepath = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    write(tree, ".git/info/exclude", text="secret plan.md\n")
    write(tree, "a.csv", "secret plan.md", "Prüfung.py")

    assert paths(tree) == [".gitignore", "Prüfung.py", "train.py"]
    assert set(told(tree)["ignored by git"].paths) == {"a.csv", "secret plan.md"}


def test_a_submodule_travels_as_it_stands(tree: Path, tmp_path: Path) -> None:
    repository(tmp_path / "lib", "net.py", "gone.py")
    repository(tree, "train.py")
    git(tree, "submodule", "--quiet", "add", str(tmp_path / "lib"), "third/lib")
    write(tree, "third/lib/new.py")
    (tree / "third/lib/gone.py").unlink()

    assert [path for path in paths(tree) if "lib" in path] == [
        "third/lib/.gitignore", "third/lib/net.py", "third/lib/new.py",
    ]  # fmt: skip


def test_a_submodule_that_is_not_fetched_is_told_with_the_command(tree: Path, tmp_path: Path) -> None:
    repository(tmp_path / "lib", "net.py")
    repository(tmp_path / "origin", "train.py")
    git(tmp_path / "origin", "submodule", "--quiet", "add", str(tmp_path / "lib"), "third/lib")
    git(tmp_path / "origin", "commit", "-q", "-m", "lib")
    git(tmp_path, "clone", "-q", str(tmp_path / "origin"), str(tree))

    submodules = told(tree)["in submodules that are not fetched"]

    assert (submodules.paths, submodules.remedy) == (("third/lib/",), "git submodule update --init")
    assert survey(Project.at(tree)).folders == ("third/lib",)
    assert not submodules.trivial


def test_a_repository_that_was_added_as_a_link_and_is_no_submodule_travels_as_it_stands(tree: Path) -> None:
    repository(tree, "train.py")
    repository(tree / "lib", "net.py", ignored="build/\n")
    git(tree, "add", "lib")
    git(tree, "commit", "-q", "-m", "a link to a commit, and no .gitmodules")
    write(tree, "lib/new.py", "lib/build/made.py")

    staged = subprocess.run(["git", "ls-files", "--stage", "lib"], cwd=tree, capture_output=True, text=True).stdout
    assert staged.startswith("160000") and not (tree / ".gitmodules").exists()
    assert [path for path in paths(tree) if "lib" in path] == ["lib/.gitignore", "lib/net.py", "lib/new.py"]
    assert told(tree)["ignored by git"].paths == ("lib/build/",)


def test_another_worktree_below_is_told_and_a_worktree_can_be_the_project(tree: Path) -> None:
    repository(tree, "train.py")
    git(tree, "worktree", "add", "-q", "wt", "-b", "other")

    assert paths(tree) == [".gitignore", "train.py"]
    assert told(tree)["in other worktrees of this repository"].remedy == "--input wt"
    assert paths(tree / "wt") == [".gitignore", "train.py"]


def test_files_in_a_submodules_place_that_no_repository_keeps_travel(tree: Path, tmp_path: Path) -> None:
    repository(tmp_path / "lib", "net.py")
    repository(tree, "train.py")
    git(tree, "submodule", "--quiet", "add", str(tmp_path / "lib"), "third/lib")
    (tree / "third/lib/.git").unlink()

    assert "third/lib/net.py" in paths(tree)


def test_files_that_the_outer_repository_tracks_travel_whatever_the_inner_one_ignores(tree: Path) -> None:
    repository(tree, "lib/build/made.py")
    repository(tree / "lib", "net.py", ignored="build/\n")
    write(tree, "lib/build/more.py")

    assert "lib/build/made.py" in paths(tree) and "lib/build/more.py" not in paths(tree)


def test_an_environment_and_caches_stay_in_git_too_unless_tracked(tree: Path) -> None:
    repository(tree, "train.py", "node_modules/kept.js")
    write(tree, "env/pyvenv.cfg", "env/bin/x", "conda/conda-meta/history", "src/__pycache__/x.pyc")

    assert paths(tree) == [".gitignore", "node_modules/kept.js", "train.py"]
    assert all(one.trivial for one in told(tree).values())
    assert in_a_line(told(tree).values(), format_bytes) == ""


@pytest.mark.parametrize("in_git", [True, False])
def test_files_of_one_s_own_beside_an_environment_travel(tree: Path, in_git: bool) -> None:
    write(tree, "exp/pyvenv.cfg", "exp/bin/python", "exp/lib/x.py", "exp/helper.py", "exp/deep/net.py", "train.py")
    if in_git:
        git(tree, "init", "-q")

    assert paths(tree) == ["exp/deep/net.py", "exp/helper.py", "train.py"]
    assert set(told(tree)["in virtual environments"].paths) == {"exp/pyvenv.cfg", "exp/bin/", "exp/lib/"}


def test_a_link_that_git_ignores_is_told_as_one(tree: Path, tmp_path: Path) -> None:
    write(tmp_path / "nas", "1.bin")
    repository(tree, "train.py", ignored="/data\n")
    (tree / "data").symlink_to(tmp_path / "nas")

    line = in_a_line(told(tree).values(), format_bytes)

    assert line == "1 file behind a link that leads elsewhere: data (--input data)"


def test_the_line_names_what_a_script_may_need_with_the_flag_that_takes_it_along(tree: Path) -> None:
    repository(tree, "train.py", ignored="/data/\n/logs/\n")
    write(tree, "data/train.bin", text="x" * 2_000_000)
    write(tree, "logs/old.txt", "venv/pyvenv.cfg")
    repository(tree / "data/clone", "x.py")

    line = in_a_line(told(tree).values(), format_bytes)

    assert ", 2.0 MB ignored by git: data/, logs/ (--input data)" in line
    assert "venv" not in line


def test_what_is_not_looked_into_to_its_end_is_at_least(tree: Path) -> None:
    repository(tree, "train.py", ignored="/data/\n")
    write(tree, *(f"data/{folder}/{name}" for folder in range(30) for name in range(30)))
    project = Project.at(tree)
    left = survey(project).left

    short = next(one for one in contents.account(project, left, Look(tree, entries=100)) if not one.trivial)
    long = next(one for one in contents.account(project, left, Look(tree, seconds=60)) if not one.trivial)

    assert 0 < short.files < 900 and short.at_least and "at least " in in_a_line([short], format_bytes)
    assert (long.files, long.bytes, long.at_least) == (900, 900, False)


def test_from_a_directory_below_the_flag_is_as_it_is_typed_there(tree: Path) -> None:
    repository(tree, "exp/train.py", ignored="data/\n")
    write(tree, "exp/data/x", "exp/data/z", "data/y")
    project = Project.at(tree / "exp")

    def remedies() -> set[str | None]:
        return {one.remedy for one in contents.account(project, survey(project).left) if not one.trivial}

    assert remedies() == {"--input data"}
    write(tree, "data/v", "data/w")  # now the larger of the two
    assert remedies() == {"--input ../data"}


def test_a_name_that_is_no_text_is_told(tree: Path) -> None:
    repository(tree, "train.py", ignored="/data/\n")
    (tree / "data").mkdir()
    Path(os.fsdecode(os.fsencode(tree / "data") + b"/\xff")).touch()
    Path(os.fsdecode(os.fsencode(tree) + b"/\xfe.log")).touch()
    write(tree, ".gitignore", text="/data/\n*.log\n")

    (ignored,) = [one for one in told(tree).values() if not one.trivial]

    assert set(ignored.paths) == {"data/", r"\xfe.log"}
    assert r"\\xfe.log" in ignored.to_bytes().decode()
    shutil.rmtree(tree / "data")
    (alone,) = [one for one in told(tree).values() if not one.trivial]
    assert (alone.remedy, alone.to_bytes().decode().count("xfe")) == (None, 1)


def test_a_file_that_git_was_told_not_to_look_at_counts_as_changed(tree: Path) -> None:
    repository(tree, "assumed.py", "skipped.py", "same.py", "renamed.py")
    for name, mark in (("assumed", "assume-unchanged"), ("skipped", "skip-worktree"), ("same", "assume-unchanged")):
        git(tree, "update-index", f"--{mark}", f"{name}.py")
    assert bundle.changed_files(Project.at(tree)) == 0

    write(tree, "assumed.py", "skipped.py", text="changed")

    assert bundle.changed_files(Project.at(tree)) == 2


def test_of_data_that_dvc_keeps_what_dvc_ignores_is_told(tree: Path) -> None:
    write(tree, "train.py", "data/1.bin", "data/1.tmp", "data/cache/x", "data/deep/2.tmp")
    write(tree, ".dvcignore", text="*.tmp\ncache/\n")

    found = survey(Project.at(tree), {"data": contents.KEPT_BY_DVC})

    assert [one.path for one in found.left] == ["data/cache/", "data/1.tmp", "data/deep/2.tmp"]
    assert {one.reason for one in found.left} == {"ignored by DVC"}


def test_a_sparse_file_is_told_with_what_it_takes_when_it_travels(tree: Path) -> None:
    write(tree, "train.py")
    with (tree / "holes.bin").open("wb") as file:
        file.truncate(6_000_000_000)

    (note,) = sparse(InputTree(Project.at(tree), ["holes.bin"]).files)

    assert note == "holes.bin is sparse: 0.0 MB on this disk, 6,000 MB as it travels"


# --- links ---


def test_a_file_that_only_a_link_leads_to_travels_in_its_place(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    repository(tree, "train.py", ignored="/cache/\n")
    write(tree, "cache/weights.bin", ".git/annex/objects/key", text="weights")
    (tree / "weights.bin").symlink_to("cache/weights.bin")
    (tree / "annexed.bin").symlink_to(".git/annex/objects/key")

    there = machine(tree, mailbox, tmp_path / "machine")

    assert (there / "weights.bin").read_text() == (there / "annexed.bin").read_text() == "weights"


def test_a_link_to_a_folder_that_stays_is_told(tree: Path) -> None:
    repository(tree, "train.py", ignored="/cache/\n")
    write(tree, "cache/weights.bin")
    (tree / "data").symlink_to("cache")

    behind = told(tree)["behind a link that leads elsewhere"]

    assert (behind.paths, behind.remedy) == (("data",), "--input data")


def test_a_link_to_a_secret_that_stays_is_refused(tree: Path) -> None:
    repository(tree, "train.py", ignored=".env\n")
    write(tree, ".env")
    (tree / "settings").symlink_to(".env")

    with pytest.raises(SpecError, match="looks like a secret"):
        survey(Project.at(tree))


def test_a_link_through_another_link_arrives_where_it_led(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    write(tree, "a/b/x", "a/y", "y", text="wrong")
    (tree / "a/y").write_text("right")
    (tree / "d").symlink_to("a/b")
    (tree / "link").symlink_to("d/../y")
    (tree / "whole").symlink_to(tree / "d/../y")

    there = machine(tree, mailbox, tmp_path / "machine")

    assert (tree / "link").read_text() == (there / "link").read_text() == "right"
    assert (there / "whole").read_text() == (tree / "whole").read_text()


def test_a_link_that_leaves_by_way_of_another_is_refused(tree: Path, tmp_path: Path) -> None:
    write(tmp_path, "outside/x")
    write(tree, ".gitignore", text="/out\n")
    (tree / "out").symlink_to(tmp_path / "outside")
    (tree / "x").symlink_to("out/x")

    with pytest.raises(SpecError, match="x: links to .*outside/x, which is outside the project"):
        survey(Project.at(tree))


@pytest.mark.parametrize("name", [".env", "data", "data/sub"])
def test_a_secret_is_refused_also_where_inputs_name_it_or_what_holds_it(tree: Path, name: str) -> None:
    write(tree, "train.py", ".env", "data/sub/id_rsa", "data/a.bin")

    with pytest.raises(SpecError, match="looks like a secret") as caught:
        InputTree(Project.at(tree), [name])
    assert "secrets: [NAME]" in (caught.value.hint or "")


# --- what is no secret ---


@pytest.mark.parametrize("name", [".env.example", ".env.sample", ".env.template", ".env.dist", ".env.prod.example"])
def test_an_example_of_a_secrets_file_travels(tree: Path, name: str) -> None:
    repository(tree, name)

    assert paths(tree) == sorted([name, ".gitignore"])


@pytest.mark.parametrize("name", [".env", ".env.local", ".env.prod", ".env.example.local", ".envrc"])
def test_a_real_one_is_refused(tree: Path, name: str) -> None:
    repository(tree, name)

    with pytest.raises(SpecError, match="looks like a secret"):
        survey(Project.at(tree))


# --- a tree that changes while it is packed ---


def test_a_file_that_goes_after_the_survey_is_missed_and_the_tree_listed_again(tree: Path, mailbox: Mailbox) -> None:
    write(tree, "train.py", ".train.py.swp")
    project = Project.at(tree)
    listed = survey(project)
    (tree / ".train.py.swp").unlink()

    with pytest.raises(Changed, match=r".train.py.swp was removed while the tree was packed"):
        pack(listed, project, ".", mailbox)
    sent = bundle.send(project, (), (), (), ".", mailbox).bundle
    assert [entry.path for entry in sent.listing] == ["train.py"]


def test_a_large_file_that_is_being_written_is_refused_by_name(tree: Path, mailbox: Mailbox) -> None:
    write(tree, "train.py")
    write(tree, "download.bin", text="x" * 4_000_000)
    stop = threading.Event()

    def download() -> None:
        with (tree / "download.bin").open("a") as file:
            while not stop.is_set():
                file.write("more")
                file.flush()
                time.sleep(0.0005)

    writer = threading.Thread(target=download)
    writer.start()
    try:
        with pytest.raises(Changed, match=r"download.bin is being written"):
            bundle.send(Project.at(tree), (), (), (), ".", mailbox)
    finally:
        stop.set()
        writer.join()


# --- inputs ---


def test_a_linked_folder_below_an_input_is_followed(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    write(tmp_path / "nas", "train/1.bin", "train/deep/2.bin")
    write(tree, "data/3.bin", "train.py")
    (tree / "data/train").symlink_to(tmp_path / "nas/train")
    (tree / "data/one.bin").symlink_to(tmp_path / "nas/train/1.bin")
    (tree / "data/up").symlink_to("..")
    (tree / "data/train/loop").symlink_to(".")

    project = Project.at(tree)
    inputs = InputTree(project, ["data"])
    entries, _ = pack_inputs(project, ["data"], mailbox)

    assert [entry.path for entry in entries] == [
        "data/3.bin", "data/one.bin", "data/train/1.bin", "data/train/deep/2.bin", "data/up/train.py",
    ]  # fmt: skip
    assert {one.path for one in inputs.left} == {"data/train/loop", "data/up/data"}


def test_the_folder_itself_may_be_a_link_and_one_inside_a_link(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    write(tmp_path / "nas", "train/1.bin", "test/2.bin")
    write(tree, "train.py")
    (tree / "data").symlink_to(tmp_path / "nas")
    project = Project.at(tree)

    for name in ("data", "data/train"):
        entries, _ = pack_inputs(project, [name], mailbox)
        assert "data/train/1.bin" in [entry.path for entry in entries]
        assert [one.path for one in survey(project, [name]).files] == ["train.py"]
    assert told(tree, "data/train")["behind a link that leads elsewhere"].paths == ("data",)


def broken(tree: Path) -> None:
    (tree / "data/odd").symlink_to("nowhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken, "'data/odd' links to nowhere, which is not there"),
        (lambda tree: os.mkfifo(tree / "data/odd"), "'data/odd' is neither a file nor a folder"),
        (
            lambda tree: write(tree, "data/odd", text="version https://git-lfs.github.com/spec/v1\n"),
            "data/odd: is a Git LFS pointer",
        ),
        (
            lambda tree: write(tree, "data/odd", text="/annex/objects/SHA256E-s4--0123.bin\n"),
            "data/odd: is a git-annex pointer",
        ),
        (
            lambda tree: Path(os.fsdecode(os.fsencode(tree) + b"/data/\xff")).touch(),
            r"data/\\xff: the name is not UTF-8",
        ),
    ],
)
def test_what_cannot_travel_as_an_input_is_refused_by_name(
    tree: Path, make: Callable[[Path], None], message: str
) -> None:
    write(tree, "data/1.bin")
    make(tree)

    with pytest.raises(SpecError, match=message):
        InputTree(Project.at(tree), ["data"])


def test_inputs_that_dvc_keeps_and_that_are_not_here_are_told_with_the_command(tree: Path) -> None:
    write(tree, "data.dvc", "database/x")

    with pytest.raises(SpecError, match="'data' is kept by DVC and not here") as told:
        InputTree(Project.at(tree), ["data"])
    assert "dvc pull data" in str(told.value.hint)


def test_folders_too_deep_to_be_walked_are_told(tree: Path) -> None:
    here = Path.cwd()
    os.chdir(tree)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(here)
        for look in (lambda: survey(Project.at(tree)), lambda: InputTree(Project.at(tree), ["d"])):
            with pytest.raises(SpecError, match="folders lie in each other too deep"):
                look()
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", str(tree / "d")], check=True)  # Python cannot


def test_inputs_are_whole_and_each_file_once(tree: Path, mailbox: Mailbox, tmp_path: Path) -> None:
    write(tree, "data/a", "data/.hidden", "data/b/c", "data/__pycache__/x.pyc", "data/.git/config", "train.py")
    (tree / "data/empty/deep").mkdir(parents=True)
    (tree / "data/run.sh").write_text("exit")
    (tree / "data/run.sh").chmod(0o755)
    os.link(tree / "data/a", tree / "data/hard")
    project = Project.at(tree)

    entries, _ = pack_inputs(project, ["data", "data/b", "./data/a"], mailbox)
    found = survey(project, ["data"], inputs=InputTree(project, ["data"]))

    names = ["data/.hidden", "data/a", "data/b/c", "data/hard", "data/run.sh"]
    assert [entry.path for entry in entries] == names
    assert [entry.mode & 0o111 for entry in entries] == [0, 0, 0, 0, 0o111]
    assert found.folders == ("data/empty/deep",)
    whole(tree, found, otherwise=tuple(names))


def test_folders_of_tools_below_an_input_are_told(tree: Path) -> None:
    write(tree, "corpus/node_modules/x.js", "corpus/.git/config", "corpus/env/pyvenv.cfg", "corpus/own.js")
    write(tree, "corpus/__pycache__/x.pyc", "train.py")
    inputs = InputTree(Project.at(tree), ["corpus"])
    assert list(inputs.files) == ["corpus/own.js"]
    told = contents.account(Project.at(tree), inputs.left)
    assert [(sorted(one.paths), one.files, one.trivial) for one in told] == [
        (["corpus/.git/", "corpus/env/", "corpus/node_modules/"], 3, False),
        (["corpus/__pycache__/"], 1, True),
    ]
    assert "corpus/node_modules/x.js" in InputTree(Project.at(tree), ["corpus/node_modules"]).files, "by its name"


def test_results_of_another_tool_whose_names_look_like_ours_travel(tree: Path) -> None:
    write(tree, "runs/super-sun-1234/best.bin", "runs/calm-panda-a2e3/old.bin")
    assert [found.path for found in survey(Project.at(tree)).files] == ["runs/super-sun-1234/best.bin"]


needs_an_ordinary_user = pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="no setpriv")


@needs_an_ordinary_user
@pytest.mark.parametrize("look", ["InputTree(project, ['data'])", "survey(project)"])
def test_what_its_user_cannot_read_is_named(look: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        tree = Path(folder)
        tree.chmod(0o755)
        write(tree, "train.py", "data/locked/x", "data/closed.bin")
        (tree / "data/closed.bin").chmod(0)
        (tree / "data/locked").chmod(0)
        code = (
            "import os, pathlib, sys\nfrom sojourn.project.bundle import survey\n"
            "from sojourn.project.inputs import InputTree\n"
            "from sojourn.project.project import Project\nfrom sojourn.errors import SpecError\n"
            f"os.seteuid(65534)\nproject = Project(pathlib.Path({str(tree)!r}))\n"
            f"try:\n    {look}\n"
            "except SpecError as error:\n    print(error.message)\n"
        )
        said = subprocess.run(["python", "-c", code], capture_output=True, text=True, check=False)
    assert "data/closed.bin" in said.stdout and "cannot be read: Permission denied" in said.stdout, said.stderr


@pytest.mark.parametrize("in_git", [True, False])
def test_an_empty_file_called_git_is_no_repository(tmp_path: Path, in_git: bool) -> None:
    (tmp_path / "cache" / "sdists").mkdir(parents=True)
    (tmp_path / "cache" / "sdists" / ".git").touch()
    (tmp_path / "cache" / "sdists" / "a.txt").write_text("a")
    if in_git:
        subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    assert "cache/sdists/a.txt" in {one.path for one in survey(Project.at(tmp_path)).files}


def test_what_the_script_names_is_told_before_what_is_larger(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import csv, pathlib\nrows = csv.reader(open('prepared/x.csv'))\n")
    left = [contents.Left(path, contents.PLACED) for path in ("config_out.yaml", "big.bin", "xx.csv", "prepared/x.csv")]
    for size, one in enumerate(left[::-1], 1):
        (tmp_path / one.path).parent.mkdir(exist_ok=True)
        (tmp_path / one.path).write_bytes(bytes(size))
    project = Project.at(tmp_path)
    (told,) = contents.account(project, left, script=tmp_path / "train.py")
    assert (told.paths[0], told.remedy) == ("prepared/x.csv", "--input prepared/x.csv")
    assert told.paths[1:] == ("config_out.yaml", "big.bin", "xx.csv")
    (told,) = contents.account(project, left, script=tmp_path / "gone.py")
    assert told.remedy == "--input config_out.yaml"
