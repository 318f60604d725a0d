"""The example is the first thing that people run and copy: here it runs as they would run it, without us.

A copy of the example in a temporary directory, real processes, and the parameters that are shipped.
"""

import ast
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.local

ROOT = Path(__file__).parents[2]
SCRIPTS = Path("examples/digits")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS_PER_EPOCH = 21
OURS = {"sojourn", "blocks", "tasks", "flows", "cli"}


def command(script: str, *options: str, launcher: list[str] | None = None) -> list[str]:
    return [sys.executable, *(launcher or []), str(SCRIPTS / script), *options]


def run(project: Path, script: str, *options: str, launcher: list[str] | None = None) -> str:
    """What the script printed; it must succeed."""
    done = subprocess.run(
        command(script, *options, launcher=launcher), cwd=project, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def interrupt(project: Path, after: str, signum: signal.Signals, launcher: list[str] | None = None) -> tuple[str, int]:
    """Train for long, send the signal once a line starts with `after`, and return the output and the status."""
    endless = command("train.py", "--epochs", "1000", "--no-profile", launcher=launcher)
    printed = ""
    with subprocess.Popen(endless, cwd=project, stdout=subprocess.PIPE, text=True) as train:
        for line in train.stdout:
            printed += line
            if line.startswith(after):
                break
        train.send_signal(signum)
        printed += train.stdout.read()
    return printed, train.returncode


def metrics(project: Path, name: str = "metrics.json") -> dict:
    return json.loads((project / name).read_text())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("digits")
    shutil.copytree(ROOT / SCRIPTS, project / SCRIPTS)
    shutil.copy(ROOT / "params.yaml", project)
    run(project, "prepare.py")
    return project


@pytest.fixture
def project(prepared: Path, tmp_path: Path) -> Path:
    """Scripts, parameters and data; nothing trained yet."""
    copy = tmp_path / "project"
    shutil.copytree(prepared, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.mark.parametrize("script", ["prepare.py", "train.py", "evaluate.py"])
def test_the_scripts_import_nothing_of_ours(script: str) -> None:
    tree = ast.parse((ROOT / SCRIPTS / script).read_text())
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    from_ = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name.split(".")[0] for name in plain | from_} & OURS


def test_the_stages_depend_on_every_script_they_read() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == ["prepare", "train", "evaluate"]
    for stage in stages.values():
        assert stage["cmd"].removeprefix("python ") in stage["deps"]
    assert "examples/digits/train.py" in stages["evaluate"]["deps"], "evaluate.py imports the model from it"


def test_preparing_twice_gives_the_same_bytes(project: Path) -> None:
    files = [project / "data/digits/train.npz", project / "data/digits/test.npz"]
    before = [file.read_bytes() for file in files]
    run(project, "prepare.py")
    assert [file.read_bytes() for file in files] == before


def test_two_processes_reach_the_promised_accuracy_and_leave_every_output(project: Path) -> None:
    epochs = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["epochs"]
    printed = run(project, "train.py", launcher=TORCHRUN)
    assert sum(line.startswith("epoch ") for line in printed.splitlines()) == epochs, "one line, from rank 0 alone"
    assert metrics(project).keys() == {"accuracy", "loss", "epochs", "steps"}
    assert metrics(project)["accuracy"] > 0.9
    assert metrics(project)["epochs"] == epochs
    assert (project / "checkpoints/last.pt").exists()
    assert list(project.glob("tensorboard/events.out.tfevents.*"))
    assert len(list(project.glob("tensorboard/*.pt.trace.json"))) == 1, "the profile, from rank 0 alone"

    run(project, "evaluate.py")
    evaluation = metrics(project, "evaluation.json")
    assert evaluation["accuracy"] > 0.9
    assert set(evaluation["per_digit"]) == set("0123456789")
    assert (project / "confusion.csv").read_text().splitlines()[0] == "actual,predicted"


@pytest.mark.slow
def test_one_process_needs_no_launcher_and_other_settings_no_old_checkpoint(project: Path) -> None:
    first = run(project, "train.py", "--epochs", "2", "--no-profile")
    assert first.startswith("epoch 1/2 step 21 loss ")
    assert not list(project.glob("tensorboard/*.pt.trace.json"))
    other = run(project, "train.py", "--epochs", "3", "--lr", "0.01", "--no-profile")
    assert other.startswith("starts from scratch: checkpoints/last.pt was made with other settings")


@pytest.mark.slow
def test_a_training_that_was_killed_and_stopped_continues_to_the_very_same_result(project: Path) -> None:
    _, status = interrupt(project, "epoch 3/", signal.SIGKILL)
    assert status == -signal.SIGKILL

    stopped, status = interrupt(project, "epoch ", signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert stopped.startswith("resumes from epoch "), "each epoch is saved"
    step = int(stopped.split("stopped by SIGTERM at step ")[1].split(",")[0])
    finished, one_more = step // STEPS_PER_EPOCH, str(step // STEPS_PER_EPOCH + 1)

    resumed = run(project, "train.py", "--epochs", one_more, "--no-profile")
    assert resumed.startswith(f"resumes from epoch {finished} step {step} in checkpoints/last.pt")
    result = metrics(project)
    uninterrupted = run(project, "train.py", "--epochs", one_more, "--no-profile")
    assert uninterrupted.startswith(f"starts from scratch: checkpoints/last.pt has finished its {one_more} epochs")
    assert metrics(project) == result


@pytest.mark.slow
def test_stopping_torchrun_stops_all_ranks_after_one_checkpoint(project: Path) -> None:
    printed, status = interrupt(project, "epoch 2/", signal.SIGTERM, launcher=TORCHRUN)
    assert status != 0
    assert printed.count("stopped by SIGTERM") == 1
    assert printed.endswith("saved in checkpoints/last.pt\n")
    assert (project / "checkpoints/last.pt").exists()
