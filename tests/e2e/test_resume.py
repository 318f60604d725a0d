"""`--from RUN`: a script goes on where an earlier run's newest checkpoint is, in every kind of project."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import World
from dvc_project import dvc, git

from sojourn.run.runs import find_run

pytestmark = pytest.mark.local

# Three steps further than the checkpoint that it finds, and a word of what it was started with.
SCRIPT = """
import pathlib, sys
saved = pathlib.Path("{path}")
step = int(saved.read_text()) if saved.exists() else 0
print("began at", step, "with", *sys.argv[1:], flush=True)
saved.parent.mkdir(exist_ok=True)
saved.write_text(str(step + 3))
sys.exit({code})
"""


def begin(world: World, *words: str, code: int) -> str:
    done = world.train(*words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def newest(world: World) -> str:
    """The newest run's id."""
    return str(world.show()["run"])


def test_a_run_that_failed_goes_on_from_its_checkpoint_with_todays_code(world: World) -> None:
    world.script(SCRIPT.format(path="models/last.pt", code=1))
    world.script("{}", "models/base.json")
    begin(world, "--input", "models", "--resume-args", "--resume models/last.pt", "--", "python", "train.py", code=1)
    first = newest(world)
    world.script("999", "models/last.pt")  # the user's own, newer, and not what is asked for
    world.script(SCRIPT.format(path="models/last.pt", code=0))

    done = world.sojourn("train", "--no-prefect", "--from", "last", "--deadline", "10m")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"models/last.pt of {first}, made " in done.stdout
    assert "resumes if the script loads it" in done.stdout
    assert "began at 3 with --resume models/last.pt" in done.stdout
    assert f"resumed     from models/last.pt of {first}" in done.stdout
    shown = world.show()
    assert (shown["spec"]["deadline"], shown["spec"]["inputs"]) == (600.0, ["models"])
    assert (shown["report"]["resumed_from"], shown["report"]["resumed_checkpoint"]) == (first, 1)
    assert (world.project / "models/last.pt").read_text() == "999"
    assert (world.project / "runs" / shown["run"] / "models/last.pt").read_text() == "6"

    goes_on, earlier = (find_run([world.store], run) for run in (shown["run"], first))
    order = world.store.get(f"{goes_on.orders}/order/1.json").decode()
    assert f"{goes_on.orders}/restored/" in order and earlier.place not in order, "a machine is not told of other runs"
    assert shown["receipt"]["leaves"]["checkpoints"] >= 1

    again = world.sojourn("plan", "--from", "last", "--", "python", "train.py", "--epochs", "9")
    assert f"models/last.pt of {shown['run']}, made " in again.stdout
    assert "python train.py --epochs 9 --resume models/last.pt" in again.stdout


def test_a_run_without_a_checkpoint_or_of_another_project_is_refused(world: World) -> None:
    world.script("pass\n")
    begin(world, code=0)
    run = newest(world)

    bare = world.sojourn("train", "--no-prefect", "--from", run)
    assert bare.returncode == 2
    assert f"{run} has no complete checkpoint" in bare.stderr
    assert "sojourn train -- python train.py" in bare.stderr

    world.script("pass\n", "../elsewhere/train.py")
    moved = world.sojourn("train", "--no-prefect", "--from", run, cwd=world.root / "elsewhere")
    assert moved.returncode == 2
    assert f"{run} is a run of project project, and this is elsewhere" in moved.stderr
    assert f"cd {world.project}" in moved.stderr
    assert len(world.sojourn("runs").stdout.splitlines()) == 2, "nothing was begun"


STAGES = """
stages:
  train:
    cmd: python train.py
    deps: [train.py]
    outs:
      - weights
      - kept.txt: {persist: true}
"""
STAGE_SCRIPT = """
import pathlib, sys
kept, last = pathlib.Path("kept.txt"), pathlib.Path("weights/last.pt")
print("began with", *(path.read_text() if path.exists() else None for path in (kept, last)), flush=True)
kept.write_text("kept")
last.parent.mkdir(exist_ok=True)
last.write_text("weights")
"""


@pytest.mark.slow
def test_a_stage_finds_its_persisted_and_its_removed_outputs_restored(world: World) -> None:
    """DVC removes `weights` before the stage runs, and keeps `kept.txt`; a restored checkpoint survives both."""
    world.git("init", "-q")
    dvc(world.project, "init", "-q")
    dvc(world.project, "remote", "add", "-q", "-d", "store", str(world.root / "remote"))
    world.script(STAGES, "dvc.yaml")
    world.script(STAGE_SCRIPT)
    git(world.project, "add", "-A")
    words = ("--stage", "train", "--environment", "current")
    (world.project / "params.yaml").write_text("launch: {checkpoint: [kept.txt, weights/*.pt]}\n")
    first = world.sojourn("train", "--no-prefect", *words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "began with None None" in first.stdout
    world.script(STAGE_SCRIPT + "# changed\n")
    fresh = world.sojourn("train", "--no-prefect", *words)
    assert "began with None None" in fresh.stdout, "without --from each run starts afresh"

    done = world.sojourn("train", "--no-prefect", "--from", "last")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "began with kept weights" in done.stdout
    assert "up to date" in dvc(world.project, "status")
    assert Path(world.project, "weights/last.pt").read_text() == "weights"
