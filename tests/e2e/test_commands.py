"""What was typed is what is started: all of a script, ranks only where they were asked for, launchers on every node."""

from __future__ import annotations

import json

import pytest
from cli_world import World

pytestmark = pytest.mark.local

TELL = """
import json, os, sys
facts = {"argv": sys.argv[1:], "rank": os.environ.get("RANK"), "world": os.environ.get("WORLD_SIZE")}
os.write(1, f"told {json.dumps(facts)}\\n".encode())  # at once: print writes the end of the line by itself
"""


def told(log: str) -> list[dict[str, object]]:
    """What the ranks of TELL have printed, in the order of their ranks."""
    lines = [line.split("told ", 1)[1] for line in log.splitlines() if "told " in line]
    return sorted((json.loads(line) for line in lines), key=lambda one: str(one["rank"]))


def test_a_command_of_two_programs_runs_both_and_ends_with_the_first_that_fails(world: World) -> None:
    world.script(TELL)
    world.script("import sys; print('prepared', sys.argv[1:]); sys.exit(len(sys.argv) - 1)", "prepare.py")
    world.script("launch: {command: python prepare.py && python train.py --epochs 1}\n", "params.yaml")

    planned = world.sojourn("plan")
    done = world.sojourn("train", "--no-prefect")
    failed = world.sojourn("train", "--no-prefect", "--", "python prepare.py x && python train.py")

    assert "python prepare.py && python train.py --epochs 1  (a script for /bin/sh -e)" in planned.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert "prepared []" in done.stdout
    assert [one["argv"] for one in told(done.stdout)] == [["--epochs", "1"]]
    assert failed.returncode == 1
    assert "prepared ['x']" in failed.stdout and not told(failed.stdout)


def test_a_command_of_several_lines_is_a_script(world: World) -> None:
    world.script(TELL)
    world.script("launch:\n  command: |\n    echo one\n    cd ..\n    cd -\n    python train.py a\n", "params.yaml")

    done = world.sojourn("train", "--no-prefect")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "one\n" in done.stdout
    assert told(done.stdout) == [{"argv": ["a"], "rank": None, "world": None}]


def test_ranks_of_a_command_that_a_shell_expands_see_its_words_and_modules_as_plain_torchrun_has_them(
    world: World,
) -> None:
    world.script(TELL, "src/train.py")
    world.script("raise SystemExit('this is the project s own queue')", "queue.py")
    world.script('launch: {variables: {WHAT: "a b"}}\n', "params.yaml")

    done = world.sojourn(
        "train", "--no-prefect", "--processes", "2", "--", 'python src/train.py layers=[1,2] "$WHAT" *.yaml'
    )

    assert done.returncode == 0, done.stdout + done.stderr
    words = ["layers=[1,2]", "a b", "params.yaml"]
    assert told(done.stdout) == [{"argv": words, "rank": str(rank), "world": "2"} for rank in range(2)]


@pytest.mark.slow
def test_plain_torchrun_on_two_nodes_is_one_training_over_both(world: World) -> None:
    world.script(TELL)

    done = world.sojourn("train", "--no-prefect", "--nodes", "2", "--processes", "2", "--", "torchrun", "train.py")

    assert done.returncode == 0, done.stdout + done.stderr
    log = world.sojourn("logs", "last").stdout + world.sojourn("logs", "last", "--node", "1").stdout
    assert [(one["rank"], one["world"]) for one in told(log)] == [(str(rank), "4") for rank in range(4)]


def test_a_script_of_one_s_own_is_started_once_on_each_node(world: World) -> None:
    world.script("echo node $NODE_RANK of $NNODES at $MASTER_ADDR\n", "launch.sh")

    done = world.sojourn("train", "--no-prefect", "--nodes", "2", "--", "bash", "launch.sh")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "once on each node" in done.stdout
    log = world.sojourn("logs", "last").stdout + world.sojourn("logs", "last", "--node", "1").stdout
    assert {f"node {rank} of 2 at 127.0.0.1" for rank in range(2)} <= set(log.splitlines())


def test_a_script_knows_its_commit_and_its_stage(world: World) -> None:
    world.script("""
        import os, subprocess
        def ask(*words): return subprocess.run(words, capture_output=True, text=True).stdout.strip()
        print("commit", os.environ["SOJOURN_COMMIT"] == ask("git", "rev-parse", "HEAD"), "DVC_ROOT" in os.environ)
        print("status", repr(ask("git", "status", "--porcelain")))
    """)
    world.git("init", "-q")
    world.git("add", "-A")
    world.git("commit", "-q", "-m", "one")

    done = world.sojourn("train", "--no-prefect", "--output", ".", "--", "python", "train.py")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "commit True False" in done.stdout
    # The directory for outputs is ours, and empty: git does not see it.
    assert "status ''" in done.stdout
    assert (world.project / ".git" / "index").is_file() and not (world.project / ".git" / "shallow").exists()
    assert not list(world.project.glob("runs/*/.git"))
