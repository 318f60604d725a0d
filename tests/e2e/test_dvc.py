"""A DVC stage makes the round trip, and dvc.lock says only what is true of the tree it stands in."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_world import Cli, World
from dvc_project import TRAIN, Project, dvc, git

pytestmark = pytest.mark.local

WAITING = """
import pathlib, time
signs = pathlib.Path({signs!r})
(signs / "started").touch()
until = time.monotonic() + 60
while not (signs / "go").exists() and time.monotonic() < until:
    time.sleep(0.02)
"""
HOLDING = """
from dvc.repo import Repo
repo = Repo(".")
with repo.lock:
    print("held", flush=True)
    input()
"""


@pytest.fixture
def project(world: World, dvc_template: Project) -> Project:
    """A DVC project under a hostile name below its git root; its first stage is made, the second never ran."""
    project = dvc_template.copy(world.root / 'it\'s "mein" pröject')
    world.project = project.root
    return project


def clean(project: Project, stage: str = "train") -> bool:
    """Whether DVC says that the stage is as dvc.lock records it."""
    return dvc(project.root, "status", stage).strip().endswith("up to date.")


def train(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    return world.sojourn("train", "--no-prefect", "--stage", "train", *words)


def trained(world: World, *words: str) -> str:
    done = train(world, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_waiting(world: World, project: Project) -> Cli:
    """Start the stage with a script that waits for `let_go`; its inputs have travelled when this returns."""
    project.write("train.py", WAITING.format(signs=str(world.signs)) + TRAIN)
    project.save()
    cli = world.start("train", "--no-prefect", "--stage", "train")
    world.wait_for_file("started", 150)
    return cli


def let_go(world: World, cli: Cli) -> str:
    """Let the script end; what the command printed."""
    (world.signs / "go").touch()
    assert cli.wait(150) == 0, cli.output
    return cli.output


def remote_object(project: Project, name: str) -> Path:
    """The object of a tracked file in the remote."""
    (md5,) = (line.split("md5: ")[1] for line in project.read(f"{name}.dvc").splitlines() if "md5: " in line)
    return project.remote / "files" / "md5" / md5[:2] / md5[2:]


def test_a_stage_comes_home_into_dvc_lock_and_the_remote_and_its_second_run_pushes_nothing(
    world: World, project: Project
) -> None:
    trained(world)

    assert clean(project)
    assert project.read("model.bin").startswith("lr 0.1 depth 3")
    assert world.show()["metrics"]["val.accuracy"] == 0.9
    assert dvc(project.root, "status", "--cloud", "train").strip() == "Cache and remote 'store' are in sync."
    run = world.run()

    again = trained(world)

    assert "nothing to move" in again
    assert f"{run} had the same inputs" in again


@pytest.mark.slow
def test_a_stage_finds_its_commit_and_dvc_as_at_home(world: World, project: Project) -> None:
    told = """
import os, subprocess
import dvc.api
head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
print("told", os.environ["DVC_STAGE"], os.environ["SOJOURN_COMMIT"] == head, dvc.api.params_show()["lr"])
print("root", os.path.samefile(os.environ["DVC_ROOT"], "."))
"""
    project.write("train.py", told + TRAIN)
    project.save()

    said = trained(world)

    assert "told train True 0.1" in said and "root True" in said
    assert clean(project)


def test_stages_behind_run_here_first_and_those_after_when_the_results_are_home(world: World, project: Project) -> None:
    project.write("raw.csv", "c,d\n3,4\n")
    dvc(project.root, "add", "-q", "raw.csv")

    printed = trained(world)

    assert "runs here: prepare" in printed and "runs here: report, publish" in printed
    assert "C,D" in project.read("model.bin") and "C,D" in project.read("published.txt")
    assert clean(project, "prepare") and clean(project, "train") and clean(project, "publish")
    assert not (project.root / "unrelated.txt").exists()


@pytest.mark.slow
def test_what_stages_before_and_after_wrote_here_is_pushed_with_what_the_trained_one_wrote(
    world: World, project: Project
) -> None:
    stages = project.read("dvc.yaml").replace("outs: [prepared.csv]", "outs: [prepared.csv, columns.txt]")
    project.write("dvc.yaml", stages)
    project.write("prepare.py", project.read("prepare.py") + "open('columns.txt', 'w').write('2')\n")
    project.save()

    trained(world)

    everything = ("prepare", "train", "report", "publish")
    assert dvc(project.root, "status", "--cloud", *everything).strip() == "Cache and remote 'store' are in sync."


@pytest.mark.slow
def test_metrics_are_compared_by_dvc_as_ever(world: World, project: Project) -> None:
    trained(world)
    project.save()
    project.write("params.yaml", "lr: 0.3\n")

    trained(world)

    (change,) = json.loads(dvc(project.root, "metrics", "diff", "--json"))["metrics.json"].values()
    assert (change["old"], change["new"]) == (0.9, 0.7)


@pytest.mark.slow
def test_an_output_that_stands_here_and_that_dvc_does_not_know_is_told_before_and_after(
    world: World, project: Project
) -> None:
    project.write("model.bin", "made by hand")
    done = world.sojourn("train", "--no-prefect", "--stage", "train")
    assert done.returncode == 0, done.stderr
    printed = " ".join(f"{done.stdout} {done.stderr}".split())
    assert "model.bin stands here and dvc.lock does not record it" in printed
    assert "what stands at model.bin is yours" in printed and "tree changed" not in printed
    assert project.read("model.bin") == "made by hand"
    (project.root / "model.bin").unlink()
    assert world.sojourn("pull", world.run(), "--apply").returncode == 0
    assert clean(project)


@pytest.mark.slow
def test_a_stage_is_found_from_a_directory_below(world: World, project: Project) -> None:
    world.project = project.root / "lib"

    trained(world)

    assert clean(project)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        pytest.param("train.py", "print('edited')\n", "train.py", marks=pytest.mark.slow),
        ("params.yaml", "lr: 0.7\n", "params.yaml: lr"),
    ],
)
def test_an_edit_while_it_trains_leaves_the_tree_alone_and_results_wait(
    world: World, project: Project, name: str, text: str, said: str
) -> None:
    cli = start_waiting(world, project)
    before, ran = project.read("dvc.lock"), project.read(name)
    project.write(name, text)

    printed = let_go(world, cli)

    run = world.run()
    assert "your tree changed meanwhile (" in printed and said in printed
    assert project.read("dvc.lock") == before
    assert not (project.root / "model.bin").exists()
    assert git(project.top, "status", "--porcelain").count("\n") == 1

    refused = world.sojourn("pull", run, "--apply")
    assert said in refused.stdout + refused.stderr
    assert project.read("dvc.lock") == before

    aside = world.root / "aside"
    assert world.sojourn("pull", run, "--to", str(aside)).returncode == 0
    (model,) = aside.rglob("model.bin")
    assert model.read_text().startswith("lr 0.1")

    project.write(name, ran)
    applied = world.sojourn("pull", run, "--apply")
    assert applied.returncode == 0, applied.stderr
    assert clean(project)
    assert project.read("model.bin").startswith("lr 0.1")


@pytest.mark.slow
@pytest.mark.parametrize("first_home", ["0.2", "0.4"])
def test_two_runs_come_home_in_either_order(world: World, project: Project, first_home: str) -> None:
    runs: dict[str, str] = {}
    for lr in ("0.2", "0.4"):
        project.write("params.yaml", f"lr: {lr}\n")
        trained(world)
        runs[lr] = str(world.show()["run"])
    order = ["0.2", "0.4"] if first_home == "0.2" else ["0.4", "0.2"]

    for lr in order:
        project.write("params.yaml", f"lr: {lr}\n")
        done = world.sojourn("pull", runs[lr], "--apply")
        assert done.returncode == 0, done.stdout + done.stderr
        assert project.read("model.bin").startswith(f"lr {lr}")
        assert clean(project)


@pytest.mark.slow
def test_an_object_that_is_broken_in_the_remote_is_refused_by_the_machine(world: World, project: Project) -> None:
    dvc(project.root, "push", "-q")
    broken = remote_object(project, "raw.csv")
    data = sorted(project.remote.rglob("*"))
    prepared = next(path for path in data if path.is_file() and path.read_bytes() == b"A,B\n1,2\n")
    assert broken.exists()
    prepared.chmod(0o644)
    prepared.write_bytes(b"X,X\n1,2\n")

    done = train(world)

    assert done.returncode == 3
    assert "not started" in done.stderr and "prepared.csv" in done.stderr
    assert world.show()["outcome"]["state"] == "refused"
    assert not (project.root / "model.bin").exists()


def test_data_that_is_nowhere_ends_the_run_before_a_machine_is_rented(world: World, project: Project) -> None:
    shutil.rmtree(project.root / ".dvc/cache")
    shutil.rmtree(project.root / "data")
    before = project.tree()

    done = train(world)

    assert done.returncode == 2, done.stdout + done.stderr
    assert "neither in the DVC cache nor in remote 'store'" in done.stderr
    assert world.leases() == []
    assert project.tree() == before


def test_a_project_without_a_remote_is_told_before_anything_runs(world: World, project: Project) -> None:
    (project.root / ".dvc/config").write_text("")

    done = train(world)

    assert done.returncode == 2
    assert "no DVC remote is configured" in done.stderr and "dvc remote add -d" in done.stderr
    assert world.mailbox() is None


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [("trian", "did you mean 'train'?"), ("lib/dvc.yaml:train", "does not exist"), ("grid", "'grid'")],
)
def test_a_stage_that_is_not_there_is_named_with_the_nearest(
    world: World, project: Project, stage: str, sentence: str
) -> None:
    done = world.sojourn("train", "--no-prefect", "--stage", stage)

    assert done.returncode == 2
    assert sentence in done.stderr and "Traceback" not in done.stderr
    assert world.mailbox() is None


def test_a_stage_that_fails_leaves_dvc_lock_as_it_was(world: World, project: Project) -> None:
    project.write("train.py", TRAIN + "raise SystemExit(3)\n")
    before = project.read("dvc.lock")

    done = train(world)

    assert done.returncode == 1
    assert project.read("dvc.lock") == before
    assert not (project.root / "model.bin").exists()
    (model,) = project.root.rglob("runs/*/**/model.bin")
    assert model.read_text().startswith("lr 0.1")


def test_an_upstream_stage_that_fails_here_rents_nothing(world: World, project: Project) -> None:
    project.write("prepare.py", "raise SystemExit('no such column')\n")

    done = train(world)

    assert done.returncode == 2, done.stdout
    assert "stage 'prepare' failed here" in done.stderr and "no such column" in done.stderr
    assert world.leases() == []


@pytest.mark.slow
def test_a_push_that_fails_is_a_warning_that_names_the_command_and_the_run_ends(world: World, project: Project) -> None:
    cli = start_waiting(world, project)
    away = project.remote.with_name("away")
    project.remote.rename(away)
    project.remote.write_text("no directory any more")

    printed = let_go(world, cli)

    assert "the outputs are not pushed" in printed and "dvc push --remote store train report publish" in printed
    assert world.kinds()[-1] == "closed" and world.show()["report"]["state"] == "succeeded"
    assert clean(project) and project.read("model.bin").startswith("lr 0.1")
    project.remote.unlink(), away.rename(project.remote)
    dvc(project.root, "push", "--remote", "store", "train")


@pytest.mark.slow
def test_what_a_stage_does_not_declare_is_kept_and_named_and_a_named_output_lands(
    world: World, project: Project
) -> None:
    more = """
import pathlib
for name in ("samples/1.png", "logs/a.txt", "extra.pt"):
    pathlib.Path(name).parent.mkdir(exist_ok=True)
    pathlib.Path(name).write_text(name)
"""
    project.write("train.py", TRAIN + more)
    project.save()

    printed = trained(world, "--output", "samples")

    assert clean(project)
    assert project.read("samples/1.png") == "samples/1.png"
    assert not (project.root / "logs").exists() and not (project.root / "extra.pt").exists()
    assert "2 files, 18 B not an output of the stage: " in printed and "logs/" in printed and "extra.pt" in printed
    aside = world.root / "aside"
    assert world.sojourn("pull", "last", "--to", str(aside)).returncode == 0
    assert {path.name for path in aside.rglob("*") if path.is_file()} > {"a.txt", "extra.pt", "1.png", "model.bin"}


@pytest.mark.slow
def test_a_later_stage_that_fails_here_is_a_warning_and_an_evaluation_that_succeeds_tells_its_metrics(
    world: World, project: Project
) -> None:
    stages = project.read("dvc.yaml").replace("cmd: cp report.txt published.txt", "cmd: sh -c 'exit 3'")
    evaluate = "import json; json.dump({'f1': '0.75'}, open('eval.json', 'w'))\n"
    project.write("report.py", evaluate + project.read("report.py"))
    stages = stages.replace("outs: [report.txt]", "outs: [report.txt, eval.json]") + "metrics: [eval.json]\n"
    project.write("dvc.yaml", stages)
    project.save()

    done = train(world)

    assert done.returncode == 0, done.stdout + done.stderr
    report = world.show()["report"]
    assert report["state"] == "succeeded" and report["metrics"]["f1"] == 0.75
    (warning,) = report["published"]["warnings"]
    assert "'publish' failed here" in warning and "dvc repro publish" in warning


@pytest.mark.slow
def test_a_stage_that_did_not_write_its_output_ends_as_failed_and_its_files_can_be_pulled(
    world: World, project: Project
) -> None:
    project.write("train.py", TRAIN.replace('pathlib.Path("model.bin").write_text(result)', "pass"))
    project.save()
    before = project.read("dvc.lock")

    done = train(world)

    assert done.returncode != 0 and "the stage did not write model.bin" in done.stdout + done.stderr
    assert world.kinds()[-1] == "closed" and world.show()["report"]["state"] == "failed"
    assert project.read("dvc.lock") == before
    assert world.sojourn("pull", "last", "--to", str(world.root / "aside")).returncode == 0
    assert list((world.root / "aside").rglob("metrics.json"))


@pytest.mark.slow  # DVC's lock is waited for half a minute
def test_a_lock_that_another_dvc_holds_costs_a_command_and_no_result(world: World, project: Project) -> None:
    cli = start_waiting(world, project)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING], cwd=project.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdin is not None and holder.stdout.readline()
    try:
        printed = let_go(world, cli)
    finally:
        holder.communicate(b"\n")
    assert "another DVC process is at work" in printed and f"sojourn pull {world.run()} --apply" in printed
    assert world.kinds()[-1] == "closed"
    applied = world.sojourn("pull", world.run(), "--apply")
    assert applied.returncode == 0, applied.stderr
    assert clean(project)
