"""What the project's text names and a run has otherwise is in the plan."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sojourn.plan.command import from_stage, from_words, read, unheeded
from sojourn.project.bundle import survey
from sojourn.project.named_in_code import notes
from sojourn.project.project import Project
from sojourn.spec.launch import make_launch


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "work/digits"
    folder.mkdir(parents=True)
    return folder


def told(root: Path, shares_host: bool = True) -> tuple[str, ...]:
    project = Project.at(root)
    return notes(survey(project).files, project, shares_host)


@pytest.mark.parametrize("name", ["ROOT", "~/work/digits", "$HOME/work/digits", "${HOME}/work/digits"])
@pytest.mark.parametrize("file", ["train.py", "conf/paths.yaml", "run.sh", "Makefile", "list.txt"])
def test_a_file_that_names_the_projects_own_place_is_told(root: Path, name: str, file: str) -> None:
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(f"open('{name.replace('ROOT', str(root))}/out/model.pt', 'w')\n")
    (note,) = told(root)
    assert note.startswith(f"{file} names {root} by its whole path: a run reads and writes your own files there")
    (note,) = told(root, shares_host=False)
    assert "which is not there on the machine" in note


@pytest.mark.parametrize("text", ["ROOT-2/x", "/mntROOT/x", "ROOT.bak", "/data/imagenet", "digits/x"])
def test_another_place_is_none_of_it(root: Path, text: str) -> None:
    (root / "train.py").write_text(text.replace("ROOT", str(root)))
    assert told(root) == ()


def test_of_many_files_a_few_are_named(root: Path) -> None:
    for number in range(5):
        (root / f"{number}.py").write_text(str(root))
    (note,) = told(root)
    assert note.startswith("0.py, 1.py, 2.py and 2 other files name ")


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(['git', 'describe', '--tags'])", "os.popen('git rev-list --count HEAD')",
        "repo.git.describe('--always')", "list(repo.iter_commits())", "setuptools_scm.get_version()",
        "!git -C .. describe",
    ],
)  # fmt: skip
def test_who_asks_git_for_its_past_is_told_that_there_is_none(root: Path, text: str) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *words], cwd=root, check=True)

    (root / "train.py").write_text(text)
    assert told(root) == ()
    git("init", "-q"), git("add", "."), git("commit", "-qm", "one")
    (note,) = told(root)
    assert note.startswith("train.py asks git for tags or older commits: there it knows the newest commit alone")
    git("tag", "v1")
    assert told(root) == (), "the tag travels"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("python train.py | tee log", "python"), ("python train.py 2>&1 | tee log", "python"),
        ("./train |& tee log", "./train"), ("cat x | python a.py | tee log", "python"),
        ("python a.py & python b.py & wait", "python"),
    ],
)  # fmt: skip
def test_a_program_whose_failure_no_shell_heeds_is_told(text: str, name: str) -> None:
    asked = make_launch({"command": text}, origin="test").command
    assert asked is not None
    for command in (read(asked, 1, 1), from_words(("bash", "-c", text), 1, 1)):
        (note,) = unheeded(command)
        assert note.startswith(f"where {name!r} fails, the run succeeds all the same")
    lines = ("echo begin", text)
    assert len(unheeded(from_stage(lines, 1, 1), lines)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "cat list.txt | python train.py", "python a.py || python b.py", "python a.py && python b.py", "echo a | tee b",
        "set -o pipefail\npython a.py | tee b", "python a.py > b 2>&1", "python a.py & p=$!; python b.py; wait $p",
        "python 'a|b'", "python a.py '&' b",
    ],
)  # fmt: skip
def test_any_other_needs_no_word(text: str) -> None:
    asked = make_launch({"command": text}, origin="test").command
    assert asked is not None and unheeded(read(asked, 1, 1)) == ()
