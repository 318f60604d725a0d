"""A file that a script misses on its machine and that stands here is named with what takes it along."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sojourn.plan.planning import Plan, make_plan
from sojourn.project.bundle import survey
from sojourn.project.project import Project
from sojourn.protocol import Bundle
from sojourn.providers.local import LocalProvider
from sojourn.records import FileEntry
from sojourn.results.missing import missing
from sojourn.spec.launch import Launch

FAST = "pkg/_fast.cpython-311.so"
ABSOLUTE = "/home/u/.local/share/sojourn/machines/quiet-heron-7f3a/tree"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository that ignores its data, its logs and a generated module."""
    root = tmp_path / "digits"
    for name in (
        "train.py",
        "data/train.bin",
        "logs/old.txt",
        "pkg/__init__.py",
        "pkg/_version.py",
        "pkg/_fast.cpython-311.so",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / ".gitignore").write_text("/data/*.bin\n/logs/\n_version.py\n*.so\n/clone/\n")
    (root / "data/readme.md").write_text("x")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def plan(root: Path, home: Path) -> Plan:
    launch = Launch(command=("python3", "train.py"))
    place = {"run": "quiet-heron-7f3a", "store": (home / "store").as_uri(), "home": home, "now": 1_800_000_000.0}
    return make_plan(launch, Project.at(root), LocalProvider(home), **place)  # type: ignore[arg-type]


def said(root: Path, tail: str, home: Path) -> tuple[str, ...]:
    """The hints for a log that ends with `tail`."""
    tree = survey(Project.at(root))
    listing = tuple(FileEntry(path=one.path, hash="", size=0, source="") for one in tree.files)
    sent = Bundle(files=(), listing=listing, folders=tree.folders, directory=".")
    return missing(plan(root, home), tail, sent, ())


DATA = ("data/train.bin exists here and git ignores it: --input data/train.bin",)


@pytest.mark.parametrize(
    ("tail", "hints"),
    [
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'", DATA),
        (f"FileNotFoundError: [Errno 2] No such file or directory: '{ABSOLUTE}/data/train.bin'", DATA),
        ("cat: data/train.bin: No such file or directory", DATA),
        ("ls: cannot access 'data/train.bin': No such file or directory", DATA),
        ("OSError: Unable to synchronously open file (unable to open file: name = 'data/train.bin', errno = 2", DATA),
        ("ValueError: ./data/train.bin does not exist", DATA),
        (f"RuntimeError: Dataset not found at {ABSOLUTE}/data/train.bin.", DATA),
        ("No such file or directory: 'logs/new.txt'", ("logs exists here and git ignores it: --input logs",)),
        ("IndexError\nno files found for 'logs/*.txt'", ("logs exists here and git ignores it: --input logs",)),
        (
            "ModuleNotFoundError: No module named 'pkg._version'",
            ("pkg/_version.py exists here and git ignores it: --input pkg/_version.py",),
        ),
        (
            "ImportError: cannot import name '_fast' from 'pkg' (/x/pkg/__init__.py)",
            ("pkg/_fast.cpython-311.so exists here and git ignores it: --input pkg/_fast.cpython-311.so",),
        ),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.bin'", ()),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/etc/nowhere/data.conf'", ()),
        ("FileNotFoundError: 'pkg/__init__.py' is not there: no such file", ()),
        ("ModuleNotFoundError: No module named 'torch'", ()),
        ("ValueError: the data are odd", ()),
        ("", ()),
    ],
)
def test_what_is_missed_and_stands_here_is_named(
    project: Path, tmp_path: Path, tail: str, hints: tuple[str, ...]
) -> None:
    assert said(project, tail, tmp_path / "home") == hints


def test_a_clone_that_git_ignores_is_named_with_its_reason(project: Path, tmp_path: Path) -> None:
    (project / "clone/lib").mkdir(parents=True)
    (project / "clone/lib/net.py").write_text("x")
    subprocess.run(["git", "init", "-q", "clone"], cwd=project, check=True)

    hints = said(project, "No such file or directory: 'clone/lib/net.py'", tmp_path / "home")

    (hint,) = hints
    assert hint.startswith("clone/lib/net.py exists here and did not travel: it is in repositories that git ignores")
    assert hint.endswith(": --input clone/lib/net.py")


def test_a_secret_that_is_missed_is_not_offered_as_an_input(project: Path, tmp_path: Path) -> None:
    (project / ".env").write_text("KEY=1")
    (project / ".gitignore").write_text(".env\n")

    (hint,) = said(project, "OSError: .env not found", tmp_path / "home")

    assert hint.startswith(".env exists here and secrets stay: secrets: [NAME]")
    kept = next(one for one in plan(project, tmp_path / "home").omissions if ".env" in one.paths)
    assert (kept.reason, kept.remedy) == ("that looks like a secret", "secrets: [NAME]")


def test_the_plan_has_what_stays_with_its_size(project: Path, tmp_path: Path) -> None:
    first, *_ = plan(project, tmp_path / "home").omissions

    assert (first.reason, first.files, first.bytes) == ("ignored by git", 4, 4)
    assert set(first.paths) == {"data/train.bin", "logs/", "pkg/_version.py", FAST}
