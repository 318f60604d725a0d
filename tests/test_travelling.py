"""A file that the command names and the machine would not have is refused with the way for this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.project.project import Project
from sojourn.project.travelling import does_not_travel


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A script, one that git ignores, and a virtual environment beside them."""
    for name in ("p/train.py", "p/my own.py", "p/.venv/pyvenv.cfg", "p/.venv/bin/python", "p/.venv/bin/mlp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "p"


@pytest.mark.parametrize(
    ("name", "why", "ways"),
    [
        (".venv/bin/python", "ignored", ("write python for it", "bin/activate", "--environment current")),
        ("./.venv/bin/mlp", "ignored", ("write mlp for it", "bin/activate", "--environment current")),
        ("my own.py", "ignored", ("--input 'my own.py'",)),
        ("{root}/train.py", "an absolute path", ("write train.py for it",)),
        ("../other.py", "outside the project", ("name a file that travels",)),
        ("gone.py", "ignored", ("name a file that travels",)),
    ],
)
def test_the_hint_is_for_this_file(project: Path, name: str, why: str, ways: tuple[str, ...]) -> None:
    refusal = does_not_travel(name.format(root=project), project, Project.at(project))

    assert refusal.message.endswith(f"does not travel to the machine: it is {why}")
    assert refusal.hint and all(way in refusal.hint for way in ways)
