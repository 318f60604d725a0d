"""The commit that a run stands on is there for the script: git and DVC answer as they do at home."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sojourn.agent.results.history import refresh
from sojourn.agent.results.tree import scan
from sojourn.project import history
from sojourn.project.project import Project


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits on a branch, one file changed since, a login in the address of its origin."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "A Tester")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "tester@example.com")
    folder = tmp_path / "home"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "train.py").write_text("print(1)\n")
    git(folder, "init", "-q", "-b", "feature/lr")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    (folder / "params.yaml").write_text("lr: 0.1\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "two")
    git(folder, "remote", "add", "origin", "https://me:token@example.com/me/digits.git")
    (folder / "src" / "train.py").write_text("print(2)\n")
    return folder


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def away(repository: Path, to: Path) -> Path:
    """The tree as a machine has it, with what is packed of its history."""
    to.mkdir()
    listed = git(repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes((repository / name).read_bytes())
    body = history.pack(Project.at(repository))
    assert body is not None
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        tar.extractall(to, filter="data")
    refresh(str(to))
    return to


@pytest.mark.parametrize(
    "question",
    [
        ("rev-parse", "HEAD"),
        ("rev-parse", "--abbrev-ref", "HEAD"),
        ("rev-parse", "--short", "HEAD"),
        ("status", "--porcelain"),
        ("diff", "HEAD"),
        ("log", "-1", "--format=%H %an %s"),
        ("ls-files",),
        ("describe", "--always", "--dirty"),
        ("show", "-s", "--format=%cI", "HEAD"),
    ],
)
def test_git_answers_on_the_machine_as_it_does_here(
    repository: Path, tmp_path: Path, question: tuple[str, ...]
) -> None:
    machine = away(repository, tmp_path / "machine")

    assert git(machine, *question) == git(repository, *question) != ""


def test_neither_a_login_nor_older_commits_travel(repository: Path, tmp_path: Path) -> None:
    machine = away(repository, tmp_path / "machine")

    assert git(machine, "config", "remote.origin.url") == "https://example.com/me/digits.git\n"
    assert b"token" not in (history.pack(Project.at(repository)) or b"")
    assert git(machine, "rev-list", "--count", "HEAD") == "1\n"


def test_a_detached_commit_with_a_tag_is_told_by_its_tag(repository: Path, tmp_path: Path) -> None:
    git(repository, "stash", "-q")
    git(repository, "checkout", "-q", "--detach")
    git(repository, "tag", "-a", "v1.2", "-m", "release")
    machine = away(repository, tmp_path / "machine")

    assert git(machine, "describe", "--tags", "--dirty") == "v1.2\n"
    assert git(machine, "rev-parse", "--abbrev-ref", "HEAD") == "HEAD\n"


def test_equal_commits_are_equal_bytes_and_no_commit_is_none(repository: Path, tmp_path: Path) -> None:
    assert history.pack(Project.at(repository)) == history.pack(Project.at(repository))
    (tmp_path / "empty").mkdir()
    assert history.pack(Project.at(tmp_path / "empty")) is None
    git(tmp_path / "empty", "init", "-q")
    assert history.pack(Project.at(tmp_path / "empty")) is None


def test_of_a_tree_whose_times_git_does_not_know_no_more_travels(repository: Path) -> None:
    git(repository, "checkout", "-q", "--", ".")
    for number in range(20):
        (repository / f"{number}.txt").write_text(str(number))
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "three")
    before = history.pack(Project.at(repository))
    for file in repository.glob("*.txt"):
        os.utime(file, (1, 1))  # as `cp -r` and images of containers leave them
    assert history.pack(Project.at(repository)) == before


def test_a_large_file_that_was_changed_does_not_travel_twice(repository: Path, tmp_path: Path) -> None:
    (repository / "big.bin").write_bytes(os.urandom(2_000_000))
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "big")
    (repository / "big.bin").write_bytes(b"small now")

    assert len(history.pack(Project.at(repository)) or b"") < 100_000
    assert " M big.bin" in git(away(repository, tmp_path / "machine"), "status", "--porcelain")


def test_dvc_s_own_api_works_on_the_machine(repository: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    words = [sys.executable, "-m", "dvc", "init", "-q"]
    subprocess.run(words, cwd=repository, env=environment, check=True)
    machine = away(repository, tmp_path / "machine")

    code = "import dvc.api; print(dvc.api.params_show())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=machine, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "{'lr': 0.1}\n", done.stderr


def test_it_never_comes_home_into_the_repository_that_stands_there(repository: Path, tmp_path: Path) -> None:
    machine = away(repository, tmp_path / "machine")

    assert set(scan(str(machine), ["."], {})) == {"params.yaml", "src/train.py"}


def test_a_tag_with_words_of_its_own_is_one_there_too(repository: Path, tmp_path: Path) -> None:
    git(repository, "tag", "-a", "v2", "-m", "the second"), git(repository, "tag", "light")
    machine = away(repository, tmp_path / "machine")
    for words in (("describe", "--exact-match"), ("describe", "--tags"), ("tag", "-n1"), ("cat-file", "-p", "v2")):
        assert git(machine, *words) == git(repository, *words)
