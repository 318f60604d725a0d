"""A fault of ours in the middle of a run: kept in a file, told on the screen and by `show`; no machine stays for it.

A fault that is known is mended, so these are put in from outside: a module that Python loads at its start makes one
function raise what nobody foresaw.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_world import World

if TYPE_CHECKING:
    from conftest import Server

pytestmark = pytest.mark.local
BREAKS = """
    import importlib.util, os, sys

    class Breaks:
        def find_spec(self, name, path, target=None):
            module, _, where = os.environ.get("BREAK_AT", ":").partition(":")
            if name != module:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            load = spec.loader.exec_module

            def load_and_break(loaded):
                load(loaded)
                *owners, last = where.split(".")
                for owner in owners:
                    loaded = getattr(loaded, owner)
                def fault(*_, **__):
                    raise KeyError("a field that is not there")
                setattr(loaded, last, fault)

            spec.loader.exec_module = load_and_break
            return spec

    sys.meta_path.insert(0, Breaks())
"""
SAID = "a fault of Sojourn itself: KeyError: 'a field that is not there'; all of it: "


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (tmp_path / "breaks").mkdir()
    (tmp_path / "breaks/sitecustomize.py").write_text(textwrap.dedent(BREAKS))
    world.environment["PYTHONPATH"] = str(tmp_path / "breaks")
    world.script("open('model.txt', 'w').write('weights')")
    yield world
    assert not world.clean()


def train(world: World, where: str, *words: str, **variables: str) -> Any:
    return world.sojourn("train", *words, "--", "python", "train.py", BREAK_AT=where, **variables)


def the_file(world: World, text: str) -> str:
    """The only file of a fault, which the text names."""
    (file,) = (world.home / "faults").iterdir()
    assert str(file) in text, text
    return file.read_text(encoding="utf-8")


BEFORE_THE_ORDER = ["sojourn.providers.local:LocalProvider.create", "sojourn.run.journey:Journey._order"]


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(BEFORE_THE_ORDER[0], id="before the machine"),
        pytest.param(BEFORE_THE_ORDER[1], id="before its order", marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_a_recorded_run_is_kept_told_and_leaves_no_machine(world: World, server: Server, where: str) -> None:
    known = {"PREFECT_API_URL": server.url, "PREFECT_HOME": str(server.home)}
    done = train(world, where, **known)
    assert done.returncode == 3 and SAID in done.stderr, done.stdout + done.stderr
    assert "Traceback" in the_file(world, done.stderr) and "Traceback" not in done.stdout + done.stderr
    assert not world.machines() and world.kinds()[-3:] == ["release", "gone", "closed"]
    shown = world.sojourn("show", "last").stdout
    the_file(world, re.sub(r"\s+", "", shown))
    assert "a fault of Sojourn itself" in shown and "lost" in world.sojourn("runs").stdout


def test_a_fault_after_the_script_s_end_gives_the_machine_back_and_another_goes_on(world: World) -> None:
    done = train(world, "sojourn.run.journey:collect", "--no-prefect")
    assert done.returncode == 3 and "a fault of Sojourn itself, in sojourn train: KeyError" in done.stderr
    the_file(world, done.stderr)
    assert not world.machines() and world.kinds()[-3:] == ["outcome", "release", "handover"]
    assert SAID in world.sojourn("show", "last").stdout
    done = world.sojourn("attach", "last")
    assert done.returncode == 0 and (world.project / "model.txt").exists(), done.stdout + done.stderr


def test_a_fault_in_what_is_shown_of_a_run_ends_no_run(world: World) -> None:
    done = train(world, "sojourn.watch.follower:Follower.look", "--no-prefect")
    assert done.returncode == 0 and (world.project / "model.txt").exists(), done.stderr
    assert (done.stdout + done.stderr).count("the run goes on, and is not shown any more") == 1
    the_file(world, done.stdout + done.stderr)


def test_a_fault_while_results_are_placed_is_kept_and_told(world: World) -> None:
    done = train(world, "sojourn.results.publish:bring_home", "--no-prefect")
    assert done.returncode == 0 and "the results are in the store and not in place: a fault of Sojourn" in done.stdout
    the_file(world, done.stdout)
    done = world.sojourn("pull", "last", "--apply")
    assert done.returncode == 0 and (world.project / "model.txt").exists(), done.stdout + done.stderr
