"""What stands in the project is there on the machine, or a line says what is not."""

from __future__ import annotations

import subprocess

import pytest
from cli_world import World

pytestmark = pytest.mark.local

LOOKS = """
import pathlib, sys
sys.path.insert(0, "third_party/lib")
import net
open("logs/new/log.txt", "w").write("logged")
print("found", net.WHAT, sorted(path.read_text() for path in pathlib.Path("data").rglob("*.bin")))
print("bytes", len(open("data/train/weights.bin").read()))
"""


def test_a_nested_clone_linked_data_and_empty_folders_are_there_on_the_machine(world: World) -> None:
    world.script(LOOKS)
    world.script("WHAT = 'the clone'", "third_party/lib/net.py")
    world.script("w" * 1_500_000, "../nas/train/weights.bin")
    world.script("", ".gitignore").write_text("/data\n/logs/\n")
    (world.project / "data").mkdir()
    (world.project / "data/train").symlink_to(world.root / "nas/train")
    (world.project / "logs/new").mkdir(parents=True)
    for place in (world.project / "third_party/lib", world.project):
        subprocess.run(["git", "init", "-q"], cwd=place, check=True, env=world.environment)

    done = world.train("--input", "data", "--", "python", "train.py")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "found the clone" in done.stdout and "bytes 1500000" in done.stdout


def test_data_that_git_ignores_is_in_the_plan_and_beside_the_error_of_the_script_that_misses_it(world: World) -> None:
    world.script("print(len(open('data/train.bin').read()))")
    world.script("x" * 2_000_000, "data/train.bin")
    world.script("/data/", ".gitignore")
    world.git("init", "-q")

    planned = world.sojourn("plan", "--", "python", "train.py").stdout
    done = world.train()
    again = world.train("--input", "data/train.bin", "--", "python", "train.py")

    assert "left out" in planned and "1 file, 2.0 MB ignored by git: data/ (--input data)" in planned
    assert done.returncode == 1
    assert "data/train.bin exists here and git ignores it: --input data/train.bin" in done.stderr
    assert again.returncode == 0 and "2000000" in again.stdout
