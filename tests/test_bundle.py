"""The tree as it travels: what is in it, what is refused, and that the same tree is sent once."""

from __future__ import annotations

import json
import os
import random
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sojourn.errors import SojournError, SpecError
from sojourn.project import bundle
from sojourn.project.bundle import Found, Survey, check_size, pack, pack_inputs, survey, unpack
from sojourn.project.inputs import InputTree
from sojourn.project.project import Project
from sojourn.store.blobs import SEND_AGAIN_AFTER_S
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

HOSTILE = [
    "a b.py",
    "it's.py",
    'say "hi".py',
    "two\nlines.py",
    "Prüf.py",
    "🚀.py",
    "-n",
    "*.py",
    "a\\b.py",
    "日 本/x.py",
]
LARGE = bundle.BLOB_FROM


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


def paths(root: Path, *skip: str) -> list[str]:
    return [found.path for found in survey(Project.at(root), skip).files]


def round_trip(root: Path, mailbox: Mailbox, to: Path) -> bundle.Packed:
    """Send the tree and lay it out again at `to`."""
    packed = pack(survey(Project.at(root)), Project.at(root), ".", mailbox)
    to.mkdir()
    unpack(packed.bundle, mailbox, to)
    return packed


def content(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_without_git_caches_environments_and_ignored_files_stay(tree: Path) -> None:
    write(tree, "train.py", "pkg/net.py", ".gitignore", "a.log", "__pycache__/x.pyc", "node_modules/x.js", "tmp/x")
    write(tree, "myenv/pyvenv.cfg", "myenv/bin/tool", ".dvc/cache/x", ".dvc/config", "pkg/__pycache__/y.pyc")
    (tree / ".gitignore").write_text("*.log\n/tmp/\n")

    assert paths(tree) == [".dvc/config", ".gitignore", "pkg/net.py", "train.py"]


def test_in_git_what_is_tracked_or_not_ignored_travels(tree: Path) -> None:
    git(tree, "init", "-q")
    write(tree, "kept.py", "ignored.log", "tracked.log", "gone.py", ".gitignore", "deep/new.py")
    (tree / ".gitignore").write_text("*.log\n")
    git(tree, "add", "-f", "kept.py", "tracked.log", "gone.py")
    (tree / "gone.py").unlink()

    assert paths(tree) == [".gitignore", "deep/new.py", "kept.py", "tracked.log"]


def test_a_tracked_file_stays_when_it_is_left_out_by_name(tree: Path) -> None:
    git(tree, "init", "-q")
    write(tree, "train.py", "notes/private.md", ".sojournignore", text="/notes/\n")
    git(tree, "add", "-A")

    assert paths(tree) == [".sojournignore", "train.py"]


def test_from_a_directory_below_the_whole_git_tree_travels(tree: Path) -> None:
    git(tree, "init", "-q")
    write(tree, "lib.py", "experiments/train.py")
    project = Project.at(tree / "experiments")

    assert [found.path for found in survey(project).files] == ["experiments/train.py", "lib.py"]
    assert project.relative == "experiments"


def test_a_submodule_travels_with_its_files(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    (tmp_path / "lib").mkdir()
    git(tmp_path / "lib", "init", "-q")
    write(tmp_path / "lib", "net.py", "deep/er.py")
    git(tmp_path / "lib", "add", "-A")
    git(tmp_path / "lib", "commit", "-q", "-m", "net")
    git(tree, "init", "-q")
    git(tree, "submodule", "--quiet", "add", str(tmp_path / "lib"), "third/lib")
    write(tree, "train.py")

    assert paths(tree) == [".gitmodules", "third/lib/deep/er.py", "third/lib/net.py", "train.py"]


def test_our_own_results_and_the_paths_to_skip_stay(tree: Path) -> None:
    write(
        tree,
        "train.py",
        "runs/quiet-heron-7f3a/model.pt",
        "exp/runs/quiet-heron-7f3a/x",
        "runs/mine/x",
        "data/a",
        "data/b/c",
        "data.py",
        ".sojournignore",
    )
    (tree / ".sojournignore").write_text("/runs/mine/\n")

    assert paths(tree, "data") == [".sojournignore", "data.py", "train.py"]


def test_a_skipped_path_is_no_pattern(tree: Path) -> None:
    write(tree, "data[1]/a", "data1/b", "keep!", "#x", "sp ", "*")

    assert paths(tree, "data[1]") == ["#x", "*", "data1/b", "keep!", "sp "]
    assert paths(tree, "*") == ["#x", "data1/b", "data[1]/a", "keep!", "sp "]
    assert "sp " not in paths(tree, "sp ")


@pytest.mark.parametrize("in_git", [True, False])
def test_hostile_names_survive_the_round_trip(tree: Path, tmp_path: Path, mailbox: Mailbox, in_git: bool) -> None:
    if in_git:
        git(tree, "init", "-q")
    for name in HOSTILE:
        write(tree, name, text=name)
    write(tree, "large\n'🚀'.bin", text="x" * LARGE)

    round_trip(tree, mailbox, tmp_path / "machine")

    assert content(tmp_path / "machine") == content(tree)


def test_executable_bits_and_links_survive_the_round_trip(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    write(tree, "run.sh", "data/a.txt")
    write(tree, "big.sh", text="x" * LARGE)
    for name in ("run.sh", "big.sh"):
        (tree / name).chmod(0o755)
    (tree / "alias.sh").symlink_to("run.sh")
    (tree / "absolute").symlink_to(tree / "data")
    (tree / "data/up").symlink_to("../run.sh")
    (tree / "dangling").symlink_to("nowhere")

    round_trip(tree, mailbox, tmp_path / "machine")

    there = tmp_path / "machine"
    assert [stat.S_IMODE((there / name).stat().st_mode) for name in ("run.sh", "big.sh")] == [0o755, 0o755]
    assert stat.S_IMODE((there / "data/a.txt").stat().st_mode) & 0o111 == 0
    links = ("alias.sh", "absolute", "data/up", "dangling")
    assert [os.readlink(there / name) for name in links] == ["run.sh", "data", "../run.sh", "nowhere"]


def test_an_empty_tree_is_an_empty_bundle(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    packed = round_trip(tree, mailbox, tmp_path / "machine")

    assert (packed.bundle.archives, packed.uploaded, packed.bundle.bytes) == ((), 0, 0)


def test_a_second_time_nothing_is_sent_and_after_an_edit_only_the_archive(tree: Path, mailbox: Mailbox) -> None:
    write(tree, "train.py")
    write(tree, "weights.bin", text="w" * 3 * LARGE)
    project = Project.at(tree)

    first = pack(survey(project), project, ".", mailbox)
    os.utime(tree / "train.py", (1, 1))
    second = pack(survey(project), project, ".", mailbox)
    write(tree, "train.py", text="y")
    third = pack(survey(project), project, ".", mailbox)

    assert first.uploaded > 3 * LARGE
    (archive,) = first.bundle.archives
    assert mailbox.store.get(archive.source)[4:8] == bytes(4)  # gzip's own date
    assert (second.uploaded, second.bundle.archives, second.bundle.files) == (
        0,
        first.bundle.archives,
        first.bundle.files,
    )
    assert {entry.path: entry.mtime_ns for entry in second.bundle.listing}["train.py"] == 1_000_000_000
    assert 0 < third.uploaded < 1000


def test_of_many_small_files_an_edit_sends_only_its_neighbours_again(
    tree: Path, tmp_path: Path, mailbox: Mailbox
) -> None:
    letters = random.Random(1)
    for number in range(600):
        write(tree, f"data/{number % 7}/{number}.txt", text=letters.randbytes(15_000).hex())
    project = Project.at(tree)

    def sent() -> bundle.Packed:
        return pack(survey(project), project, ".", mailbox)

    first = sent()
    write(tree, "data/3/10.txt", text="edited")
    edited = sent()
    write(tree, "data/0/new.txt", text=letters.randbytes(15_000).hex())
    added = sent()
    (tree / "data/5/5.txt").unlink()
    removed = sent()

    assert 5 < len(first.bundle.archives) < 60
    sizes = [entry.size for entry in first.bundle.archives]
    assert max(sizes) < 5_000_000
    for again in (edited, added, removed):
        assert 0 < again.uploaded < first.uploaded / 4
    unpack(removed.bundle, mailbox, tmp_path / "machine")
    assert content(tmp_path / "machine") == content(tree)


def test_a_bundle_of_one_archive_as_earlier_versions_wrote_it_can_be_read(tree: Path, mailbox: Mailbox) -> None:
    write(tree, "train.py")
    sent = pack(survey(Project.at(tree)), Project.at(tree), ".", mailbox).bundle
    old = json.loads(sent.to_bytes())
    (old["archive"],) = old.pop("archives")

    assert bundle.Bundle.model_validate_json(json.dumps(old)) == sent
    assert bundle.Bundle.model_validate_json(json.dumps({**old, "archive": None})).archives == ()


def test_a_blob_that_is_not_what_was_committed_is_refused(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    write(tree, "weights.bin", text="w" * LARGE)
    packed = pack(survey(Project.at(tree)), Project.at(tree), ".", mailbox)
    mailbox.store.put(packed.bundle.files[0].source, b"W" * LARGE)

    with pytest.raises(SojournError, match="does not have the hash that was committed"):
        unpack(packed.bundle, mailbox, tmp_path / "machine")
    assert not any((tmp_path / "machine").iterdir())


def test_an_archive_that_is_not_what_was_sent_is_refused(tree: Path, tmp_path: Path, mailbox: Mailbox) -> None:
    write(tree, "train.py")
    sent = pack(survey(Project.at(tree)), Project.at(tree), ".", mailbox).bundle
    write(tree, "train.py", text="other")
    other = pack(survey(Project.at(tree)), Project.at(tree), ".", mailbox).bundle
    mailbox.store.put(sent.archives[0].source, mailbox.store.get(other.archives[0].source))

    with pytest.raises(SojournError, match="does not have the (hash sent|size that was committed)"):
        unpack(sent, mailbox, tmp_path / "machine")
    assert not (tmp_path / "machine").exists()


def test_inputs_travel_as_a_blob_each(tree: Path, mailbox: Mailbox) -> None:
    write(tree, "data/a.bin", "data/b/c d.bin", "one.bin")

    entries, sent = pack_inputs(Project.at(tree), ("data", "one.bin"), mailbox)

    assert [entry.path for entry in entries] == ["data/a.bin", "data/b/c d.bin", "one.bin"]
    assert sent == 1  # they are equal, and one blob


def test_an_input_that_is_not_there_is_refused_with_the_nearest_name(tree: Path) -> None:
    write(tree, "data/a.bin")

    with pytest.raises(SpecError, match="'dta' is not in .*, did you mean 'data'"):
        InputTree(Project.at(tree), ("dta",))


def link(target: str) -> Callable[[Path], None]:
    return lambda root: (root / "link").symlink_to(target)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (link("/etc/passwd"), "links to /etc/passwd, which is outside the project"),
        (link("../other"), "which is outside the project"),
        (lambda root: write(root, ".env"), "looks like a secret"),
        (lambda root: write(root, "a/.env.prod"), "looks like a secret"),
        (lambda root: write(root, ".aws/credentials"), "looks like a secret"),
        (lambda root: write(root, "home/.docker/config.json"), "looks like a secret"),
        (lambda root: write(root, ".dvc/config.local"), "looks like a secret"),
        (lambda root: write(root, "service-account-1.json"), "looks like a secret"),
        (lambda root: write(root, "key", text="-----BEGIN PRIVATE KEY-----"), "looks like a secret"),
        (lambda root: write(root, "m.bin", text="version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    ],
)
def test_what_must_not_travel_is_refused(tree: Path, make: Callable[[Path], None], message: str) -> None:
    make(tree)

    with pytest.raises(SpecError, match=message):
        survey(Project.at(tree))


@pytest.mark.parametrize(
    "name", ["environment.py", "env.yaml", "public.pem", "credentials.py", "config.json", "keys.txt"]
)
def test_a_harmless_name_is_no_secret(tree: Path, name: str) -> None:
    write(tree, name)

    assert paths(tree) == [name]


def test_an_ignored_secret_stays_and_is_no_reason_to_refuse(tree: Path) -> None:
    write(tree, ".env", "train.py")
    (tree / ".gitignore").write_text(".env\n")

    assert paths(tree) == [".gitignore", "train.py"]


def test_a_tree_of_too_many_files_is_refused_with_the_directory_to_name() -> None:
    files = tuple(Found(f"images/{number}", 10, 0o644) for number in range(20_001))
    tree = Survey((*files, Found("train.py", 900, 0o644)))

    with pytest.raises(SpecError, match=r"20,002 files, .*; largest: images/ \(20,001 files, 0 MB\)") as caught:
        check_size(tree, accepted=False)
    assert "inputs: [images/]" in (caught.value.hint or "")
    check_size(tree, accepted=True)


def test_a_tree_of_too_many_bytes_is_refused_with_the_file_to_name() -> None:
    tree = Survey((Found("all.bin", 200_000_000, 0o644), Found("train.py", 1, 0o644)))

    with pytest.raises(SpecError, match="200 MB are too much") as caught:
        check_size(tree, accepted=False)
    assert "inputs: [all.bin]" in (caught.value.hint or "")
    check_size(Survey(tree.files[:1]), accepted=False)


def test_what_the_store_may_soon_forget_is_sent_again(tree: Path, mailbox: Mailbox) -> None:
    write(tree, "train.py")
    (tree / "large.bin").write_bytes(bytes(LARGE))

    def sent() -> int:
        return pack(survey(Project.at(tree)), Project.at(tree), ".", mailbox).uploaded

    assert sent() > LARGE
    assert sent() == 0
    root = mailbox.store.root
    assert root is not None
    old = time.time() - SEND_AGAIN_AFTER_S - 60
    for file in (root / "control/tree/blob").iterdir():
        os.utime(file, (old, old))
    assert sent() > LARGE
    assert sent() == 0


def test_what_was_cut_off_in_the_store_is_sent_again(tree: Path, mailbox: Mailbox, tmp_path: Path) -> None:
    write(tree, "train.py")
    (tree / "large.bin").write_bytes(bytes(LARGE))
    round_trip(tree, mailbox, tmp_path / "first")
    root = mailbox.store.root
    assert root is not None
    for file in (root / "control/tree/blob").iterdir():
        file.write_bytes(file.read_bytes()[:1])
    round_trip(tree, mailbox, tmp_path / "second")
    assert content(tmp_path / "second") == content(tree)
