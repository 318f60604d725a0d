"""A project from git: its address read, its commit checked out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sojourn.errors import SpecError
from tasks.checkout import find_project, split_ref


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/digits.git", ("https://example.com/digits.git", None)),
        ("https://example.com/digits.git@main", ("https://example.com/digits.git", "main")),
        ("https://example.com/digits@feature/x", ("https://example.com/digits", "feature/x")),
        ("ssh://git@example.com/digits.git", ("ssh://git@example.com/digits.git", None)),
        ("ssh://git@example.com/digits.git@v1", ("ssh://git@example.com/digits.git", "v1")),
        ("git@example.com:me/digits.git", ("git@example.com:me/digits.git", None)),
        ("git@example.com:me/digits.git@v1", ("git@example.com:me/digits.git", "v1")),
        ("file:///srv/digits.git@main", ("file:///srv/digits.git", "main")),
        ("/srv/digits.git@main", ("/srv/digits.git", "main")),
    ],
)
def test_the_ref_follows_the_last_at_sign_of_the_path(text: str, expected: tuple[str, str | None]) -> None:
    assert split_ref(text) == expected


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of which the first is tagged."""
    folder = tmp_path / "digits"
    git(folder.parent, "init", "-q", "-b", "main", folder.name)
    for text in ("one", "two"):
        (folder / "train.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "-c", "user.name=A", "-c", "user.email=a@example.com", "commit", "-q", "-m", text)
        if text == "one":
            git(folder, "tag", "v1")
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_branch_a_tag_or_a_commit_is_checked_out(repository: Path, tmp_path: Path) -> None:
    first = git(repository, "rev-parse", "v1")
    for ref, text in [("", "two"), ("@main", "two"), ("@v1", "one"), (f"@{first}", "one")]:
        project = find_project(f"git:{repository.as_uri()}{ref}", f"run{len(ref)}", tmp_path / "home")
        assert (project.directory / "train.py").read_text() == text
        assert project.directory.name == "digits" and project.in_git


def test_a_repository_that_is_not_there_is_told_with_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as told:
        find_project(f"git:{(tmp_path / 'nowhere').as_uri()}@main", "run", tmp_path)
    assert "nowhere" in told.value.message and "git ls-remote" in str(told.value.hint)


def test_a_token_in_the_address_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as told:
        find_project("git:https://me:s3cret@127.0.0.1:9/digits.git", "run", tmp_path)
    assert "s3cret" not in str(told.value) and "127.0.0.1:9/digits.git" in str(told.value)
