"""What git ignores is judged on the machine as git judges it here, also below the root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sojourn.agent.results.patterns import Patterns
from sojourn.project import bundle
from sojourn.project.project import Project

FILES = {
    ".gitignore": "*.log\n/top.txt\nout/\n",
    "exp/.gitignore": "/anchored.txt\n*.csv\n!keep.csv\nlogs/\nsub/deep.txt\n# a comment\n\n",
    "exp/sub/.gitignore": "!*.log\n*.tmp \n",
    "self/.gitignore": "*\n",
    "odd [name]/.gitignore": "x\n",
}
PROBES = (
    "a.log", "exp/a.log", "top.txt", "exp/top.txt", "exp/anchored.txt", "exp/sub/anchored.txt", "exp/a.csv",
    "exp/sub/b.csv", "exp/keep.csv", "a.csv", "exp/logs/x", "exp/sub/logs/x", "logs/x", "exp/sub/deep.txt",
    "exp/sub/a.log", "exp/sub/c/d.log", "exp/sub/e.tmp", "e.tmp", "self/anything", "self/deep/er", "odd [name]/x",
    "odd n/x", "out/x", "exp/out/x", "private.key2", "mine.swp", "exp/mine.swp",
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / ".git" / "info").mkdir(exist_ok=True)
    (root / ".git/info/exclude").write_text("private.*\n")
    (tmp_path / "config/git").mkdir(parents=True)
    (tmp_path / "config/git/ignore").write_text("*.swp\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return Project.at(root)


def test_every_gitignore_counts_and_the_exclude_files_as_git_itself_says(project: Project) -> None:
    ours = Patterns(bundle.survey(project).ignore)
    said = {
        path: subprocess.run(["git", "check-ignore", "-q", path], cwd=project.root).returncode == 0 for path in PROBES
    }
    assert {path: ours.match(path) for path in PROBES} == said
    assert len({*said.values()}) == 2


def test_without_git_the_lines_of_the_root_alone_count_as_they_do_for_what_travels(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".gitignore").write_text("*\n")
    assert bundle.survey(Project.at(tmp_path)).ignore == ("*.log",)
