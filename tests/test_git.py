"""What git refuses is told in its own sentence, and never taken for a tree without git."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sojourn.errors import SpecError, TransientError
from sojourn.plan.planning import Plan
from sojourn.project import bundle
from sojourn.project.git import refusal
from sojourn.project.project import Project
from sojourn.run.doctor import examine_project

IDENTITY = ["-c", "user.name=A", "-c", "user.email=a@example.com"]


def git(where: Path, *words: str) -> None:
    subprocess.run(["git", *IDENTITY, *words], cwd=where, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with one commit, one tracked and one ignored file."""
    root = tmp_path / "tree"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "train.py").write_text("1")
    (root / ".gitignore").write_text("*.log\n")
    (root / "much.log").write_text("ignored")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    return root


def look(root: Path) -> None:
    """What a plan asks of git."""
    project = Project.at(root)
    bundle.survey(project)
    assert project.commit
    bundle.changed_files(project)


def broken_branch(root: Path, content: str) -> None:
    (root / ".git/refs/heads/main").write_text(content)


def lost_filter(root: Path) -> None:
    (root / ".gitattributes").write_text("* filter=lfs\n")
    git(root, "config", "filter.lfs.process", "no-such-git-lfs filter-process")
    git(root, "config", "filter.lfs.required", "true")
    for file in root.glob("*.py"):
        os.utime(file, (1, 1))


REFUSALS: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("a corrupted index", lambda root: (root / ".git/index").write_text("junk"), "index file smaller", "git/index"),
    ("a broken HEAD", lambda root: (root / ".git/HEAD").write_text("junk"), "broken or not whole", "status"),
    ("an empty HEAD", lambda root: (root / ".git/HEAD").write_text(""), "broken or not whole", "status"),
    ("an emptied branch", lambda root: broken_branch(root, ""), "broken ref", "fsck"),
    ("a branch of junk", lambda root: broken_branch(root, "junk\n"), "broken ref", "fsck"),
    ("lost objects", lambda root: shutil.rmtree(root / ".git/objects"), "broken or not whole", "status"),
    ("a config of junk", lambda root: (root / ".git/config").write_text("[bad"), "bad config line", "mend that file"),
    ("a newer format", lambda root: git(root, "config", "core.repositoryformatversion", "9"), "version", "newer"),
    ("a bare one", lambda root: git(root, "config", "core.bare", "true"), "work tree", "worktree list"),
    ("a filter that is not here", lost_filter, "hung up|packet write", "often git-lfs: install it"),
    ("one for another tree", lambda root: git(root, "config", "core.worktree", "/"), "that of /", "status"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "said", "remedy"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_a_repository_that_git_refuses_is_told_in_git_s_words_with_a_remedy(
    tree: Path, spoil: Callable[[Path], object], said: str, remedy: str
) -> None:
    look(tree)
    spoil(tree)
    with pytest.raises(SpecError, match="git refused") as caught:
        look(tree)
    assert re.search(said, caught.value.message)
    assert remedy in str(caught.value.hint)
    assert "\n" not in caught.value.message


def test_a_repository_of_somebody_else_s_is_refused_with_git_s_own_remedy(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(SpecError, match="dubious ownership") as caught:
        look(tree)
    assert str(caught.value.hint).endswith(f"git config --global --add safe.directory {tree}")


def test_trust_that_a_container_gives_by_variables_is_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": "*"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    look(tree)


def test_a_worktree_whose_repository_is_elsewhere_is_refused(tree: Path) -> None:
    git(tree, "worktree", "add", "-q", "../other")
    look(tree.parent / "other")
    tree.rename(tree.with_name("moved"))
    with pytest.raises(SpecError, match="not a git repository: ") as caught:
        look(tree.parent / "other")
    assert "git worktree repair" in str(caught.value.hint)


def test_a_broken_repository_does_not_become_a_folder_of_the_one_above(tree: Path) -> None:
    inner = tree / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / ".git/HEAD").write_text("")
    with pytest.raises(SpecError, match="takes the repository to be that of"):
        look(inner)


@pytest.mark.parametrize("folder", ["", ".git"])
def test_no_tree_stands_in_a_bare_repository_or_in_a_git_directory(tree: Path, folder: str) -> None:
    where = tree / folder if folder else tree.parent / "bare"
    if not folder:
        git(tree.parent, "init", "-q", "--bare", "bare")
    with pytest.raises(SpecError, match="must be run in a work tree"):
        look(where)


def test_where_a_hook_points_git_does_not_count(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    (other / "foreign.py").write_text("2")
    git(other, "add", "-A")
    git(other, "commit", "-q", "-m", "two")
    commit = Project.at(tree).commit
    elsewhere = {
        "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / ".git/index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git/objects"), "GIT_PREFIX": "x/", "GIT_COMMON_DIR": str(other / ".git"),
        "GIT_CEILING_DIRECTORIES": str(tree), "GIT_NAMESPACE": "x",
    }  # fmt: skip
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    project = Project.at(tree)
    assert [file.path for file in bundle.survey(project).files] == [".gitignore", "train.py"]
    assert (project.root, project.commit) == (tree, commit)


def test_a_repository_before_its_first_commit_has_none_and_works(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").touch()
    project = Project.at(tmp_path)
    assert (project.in_git, project.commit, bundle.changed_files(project)) == (True, None, 1)


def test_a_plain_no_of_git_s_is_no_refusal(tree: Path) -> None:
    project = Project.at(tree)
    assert project.git("check-ignore", "--quiet", "train.py") is None
    assert project.git("check-ignore", "--quiet", "much.log") == ""
    assert project.git("config", "--get", "no.such") is None
    with pytest.raises(SpecError, match="No names found"):
        project.git("describe", "--tags")
    assert project.git_if_it_will("describe", "--tags") is None


def test_a_lock_that_another_git_holds_keeps_nobody_from_reading(tree: Path) -> None:
    (tree / ".git/index.lock").touch()
    look(tree)


def test_a_tree_outside_git_is_no_refusal(tmp_path: Path) -> None:
    project = Project.at(tmp_path)
    assert (project.in_git, project.root, project.commit, project.notes) == (False, tmp_path, None, ())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user, who may not read everything")
def test_a_folder_that_git_may_not_read_is_refused_and_not_passed_over(tree: Path) -> None:
    (tree / "closed").mkdir(mode=0o700)
    (tree / "closed/part.py").touch()
    code = "import os; from sojourn.project import git; from pathlib import Path; os.setuid(65534)\n"
    code += f"git.ask(Path({str(tree)!r}), 'ls-files', '--others')"
    for folder in (tree, *tree.parents[: -len(Path(tempfile.gettempdir()).parts)]):
        folder.chmod(0o755)
    trusted = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **trusted, "HOME": "/nowhere"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert "could not open directory 'closed/'" in done.stderr


def test_the_remedy_for_a_folder_that_git_may_not_read_names_it(tree: Path) -> None:
    hint = str(refusal(tree, "could not open directory 'pg data/': Permission denied").hint)
    assert "ls -ld 'pg data'" in hint and f"echo 'pg data'/ >> {tree}/.git/info/exclude" in hint


def test_a_project_whose_path_is_no_text_is_refused(tree: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tree) + b"/nu\xff"))
    odd.mkdir()
    with pytest.raises(SpecError, match="nu.xff: the name is not UTF-8"):
        Project.at(odd)


def test_a_git_that_does_not_answer_is_an_error_with_a_hint(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tree.parent / "bin/git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("sojourn.project.git.LIMIT_S", 0.2)
    with pytest.raises(TransientError, match="did not answer within"):
        look(tree)


def test_without_git_the_plan_says_that_a_repository_s_ignore_file_decides_alone(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    below = tree / "below"
    below.mkdir()
    project = Project.at(below)
    assert project.root == tree
    assert "is not on your PATH" in project.notes[0]
    assert [file.path for file in bundle.survey(project).files] == [".gitignore", "train.py"]


def test_doctor_says_what_git_refuses_and_goes_on(tree: Path) -> None:
    def no_plan() -> Plan:
        raise AssertionError

    (tree / ".git/HEAD").write_text("")
    checks = list(examine_project(tree, no_plan))
    assert [(one.what, one.state) for one in checks] == [("project", "missing")]
    assert "git refused" in checks[0].found


def test_a_repository_in_the_tree_starts_no_program_when_it_is_looked_at(tmp_path: Path) -> None:
    inner = tmp_path / "project" / "data" / "unpacked"
    for folder in (tmp_path / "project", inner):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)
    (inner / "a.txt").write_text("a")
    subprocess.run(["git", "add", "."], cwd=inner, check=True)
    mark = tmp_path / "started"
    subprocess.run(["git", "config", "core.fsmonitor", f"touch {mark}; false"], cwd=inner, check=True)
    hook = inner / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {mark}\n")
    hook.chmod(0o755)
    found = bundle.survey(Project.at(tmp_path / "project"))
    assert "data/unpacked/a.txt" in {one.path for one in found.files} and not mark.exists()
