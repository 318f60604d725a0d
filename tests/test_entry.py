"""A project's own modules on PYTHONPATH are the script's, and do not take the place of ours."""

from __future__ import annotations

import os
from pathlib import Path

from cli_world import World

from sojourn.entry import behind


def test_what_pythonpath_names_comes_last() -> None:
    path = ["/app/src", "/usr/lib/python3", os.getcwd(), "/venv/lib"]
    assert behind(path, "") == path
    assert behind(path, f"/app/src{os.pathsep}.")[-2:] == ["/app/src", os.getcwd()]
    assert behind(path, "/app/src")[:3] == ["/usr/lib/python3", os.getcwd(), "/venv/lib"]


def test_a_project_with_modules_of_our_names_is_trained_with_its_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    for name in ("cli.py", "flows/__init__.py", "tasks/__init__.py", "json.py"):
        world.script("HERE = 'the project s own'", name)
    world.script("import cli, json\nprint(cli.HERE, json.HERE)")
    done = world.train(PYTHONPATH=".")
    assert done.returncode == 0, done.stderr
    assert "the project s own the project s own" in done.stdout
