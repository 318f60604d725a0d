"""What ran comes home, and dvc.lock never records anything else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import dvc_project
import pytest
from dvc_project import Project, dvc, git, status

from sojourn.errors import TrainingError, TransientError
from sojourn.project.dvc import commit, repo
from sojourn.project.dvc.commit import Applied, Refused

pytestmark = pytest.mark.local


@pytest.fixture
def project(dvc_template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return dvc_template.copy(tmp_path / 'it\'s a "töp"')


def test_a_stage_that_ran_elsewhere_is_here_as_if_it_had_run_here(project: Project) -> None:
    applied = project.send().home()
    assert isinstance(applied, Applied)
    assert set(applied.outputs) == {
        "model.bin", "weights", "deep/er/notes.txt", "ckpt", "metrics.json", "curve.csv",
    }  # fmt: skip
    assert not status(project.root, "train")
    assert "lr 0.1 depth 3" in project.read("weights/layer/1.bin")
    assert "didn't change" in dvc(project.root, "repro", "--single-item", "train")
    lock = project.read("dvc.lock")
    shutil.rmtree(project.root / "weights")
    dvc(project.root, "repro", "--single-item", "--force", "train")
    assert project.read("dvc.lock") == lock


def test_git_sees_small_outputs_and_ignores_cached_ones(project: Project) -> None:
    project.send().home()
    new = git(project.top, "status", "--porcelain", "-uall", "-z").split("\0")
    names = {line[3:].removeprefix("ml project's ü/") for line in new if line}
    assert {"metrics.json", "curve.csv", "dvc.lock"} <= names
    assert not {name for name in names if name.startswith(("model", "weights", "ckpt", "deep/er/notes"))}


def test_dvc_compares_metrics_and_parameters_afterwards(project: Project) -> None:
    project.send().home()
    project.save()
    project.write("params.yaml", "lr: 0.3\n")
    assert isinstance(project.send().home(), Applied)
    assert "val.accuracy" in dvc(project.root, "metrics", "diff")
    assert "0.3" in dvc(project.root, "params", "diff")


def test_other_entries_of_the_lock_stay_as_they_were(project: Project) -> None:
    before = project.read("dvc.lock")
    project.send().home()
    assert project.read("dvc.lock").startswith(before.rstrip("\n"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("train.py", dvc_project.TRAIN + "# edited while it trained\n"),
        ("lib/net.py", "LAYERS = 3\n"),
        ("prepared.csv", "edited\n"),
        ("data/deep/2.txt", "three"),
    ],
)
def test_an_edit_while_it_trains_is_refused_by_name_and_a_revert_applies(
    project: Project, path: str, text: str
) -> None:
    run = project.send()
    original = project.read(path)
    project.write(path, text)
    before = project.tree()
    assert run.home() == Refused(
        paths=(path if path.endswith((".py", ".csv")) and "lib" not in path else path.split("/")[0],)
    )
    assert project.tree() == before
    project.write(path, original)
    assert isinstance(run.home(), Applied)
    assert not status(project.root, "train")


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("params.yaml", "lr: 0.2\n", ("dvc.yaml: command", "params.yaml: lr")),
        ("more.yaml", "model: {depth: 3}\nseed: 2\n", ("more.yaml: seed",)),
        ("more.yaml", "seed: 1\n", ("more.yaml: model.depth",)),
        ("dvc.yaml", dvc_project.DVC_YAML.replace("python3 train.py", "python3 -u train.py"), ("dvc.yaml: command",)),
        ("dvc.yaml", dvc_project.DVC_YAML.replace("      - weights\n", ""), ("dvc.yaml: output weights",)),
        ("dvc.yaml", dvc_project.DVC_YAML.replace("lib, ", ""), ("lib",)),
        ("dvc.yaml", dvc_project.DVC_YAML.replace("  train:", "  fit:"), ("dvc.yaml: train",)),
    ],
)
def test_an_edited_parameter_or_command_is_refused_by_name(
    project: Project, file: str, text: str, named: tuple[str, ...]
) -> None:
    run = project.send()
    original = project.read(file)
    project.write(file, text)
    before = project.tree()
    assert run.home() == Refused(paths=named)
    assert project.tree() == before
    project.write(file, original)
    assert isinstance(run.home(), Applied)


def test_a_command_that_was_edited_before_the_bundle_was_sent_is_not_recorded(project: Project) -> None:
    ran = project.dataset().stage("train").command
    project.write("dvc.yaml", dvc_project.DVC_YAML.replace("python3 train.py", "python3 -u train.py"))
    run = project.send()
    before = project.tree()

    assert commit.apply(project.root, run.commit(ran)) == Refused(paths=("dvc.yaml: command",))
    assert project.tree() == before
    assert isinstance(commit.apply(project.root, run.commit(run.stage.command)), Applied)


def test_edits_elsewhere_do_not_matter(project: Project) -> None:
    run = project.send()
    project.write("unrelated.py", "print('edited')\n")
    project.write("report.py", "# edited\n")
    project.write("more.yaml", "model: {depth: 3, width: 8}\nseed: 1\n")
    assert isinstance(run.home(), Applied)
    assert not status(project.root, "train")


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_runs_only_the_one_whose_parameters_stand_here_is_recorded(project: Project, first: int) -> None:
    slow = project.send()
    project.write("params.yaml", "lr: 0.2\n")
    fast = project.send()
    results = [run.home() for run in ((slow, fast) if first == 0 else (fast, slow))]
    assert [type(result) for result in results] == ([Refused, Applied] if first == 0 else [Applied, Refused])
    assert "lr 0.2" in project.read("model.bin")
    project.write("params.yaml", "lr: 0.1\n")
    assert isinstance(slow.home(), Applied)
    assert "lr 0.1" in project.read("model.bin") and "lr 0.1" in project.read("weights/2.bin")
    project.write("params.yaml", "lr: 0.2\n")
    assert isinstance(fast.home(), Applied)
    assert "lr 0.2" in project.read("model.bin")
    assert not status(project.root, "train")


def test_a_result_made_here_meanwhile_gives_way_and_stays_in_the_cache(project: Project) -> None:
    run = project.send(during=lambda machine: (machine / "model.bin").write_text("made there") and None)
    dvc(project.root, "repro", "-q", "--single-item", "train")
    here = project.read("model.bin")
    applied = run.home()
    assert isinstance(applied, Applied)
    assert project.read("model.bin") == "made there"
    digest = applied.replaced["model.bin"].removeprefix("md5:")
    assert (project.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).read_text() == here
    assert set(applied.replaced) == {"model.bin"}


@pytest.mark.parametrize("path", ["model.bin", "weights/mine.bin", "metrics.json"])
def test_an_output_edited_by_hand_is_never_overwritten(project: Project, path: str) -> None:
    project.send().home()
    run = project.send(during=lambda machine: [p.write_text("new") for p in machine.glob("[mw]*/*.*in")] and None)
    project.write(path, "by hand")
    before = project.tree()
    if path != "weights/mine.bin":
        (run.folder / "outputs" / project.root.relative_to(project.top) / path).write_text("{}")
    assert run.home() == Refused(paths=(path.split("/")[0],), by_hand=True)
    assert project.tree() == before


def test_a_result_that_only_the_cache_knows_may_be_replaced(project: Project) -> None:
    before = project.read("dvc.lock")
    project.send().home()
    project.write("dvc.lock", before)
    (project.root / "metrics.json").unlink()
    project.write("params.yaml", "lr: 0.2\n")
    applied = project.send().home()
    assert isinstance(applied, Applied) and set(applied.replaced) == {
        "model.bin",
        "weights",
        "deep/er/notes.txt",
        "ckpt",
    }
    assert "lr 0.2" in project.read("model.bin")


def test_a_missing_output_is_the_scripts_fault(project: Project) -> None:
    run = project.send(during=lambda machine: (machine / "model.bin").unlink())
    before = project.tree()
    with pytest.raises(TrainingError, match="the stage did not write model.bin"):
        run.home()
    assert project.tree() == before


def test_data_that_is_only_in_the_remote_needs_no_checkout(project: Project) -> None:
    project.dataset().push(project.dataset().stage("train"), lambda line: None)
    shutil.rmtree(project.root / ".dvc/cache")
    shutil.rmtree(project.root / "data")
    (project.root / "prepared.csv").unlink()
    assert isinstance(project.send().home(), Applied)
    dvc(project.root, "pull", "-q", "data", "prepare")
    assert not status(project.root, "train")


def test_a_lock_held_by_dvc_is_waited_for_and_then_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = project.send().commit()
    monkeypatch.setattr(repo, "LOCK_WAIT_S", 0.5)
    before = project.tree()
    with held(project), pytest.raises(TransientError, match="another DVC process is at work"):
        commit.apply(project.root, committed)
    assert project.tree() == before
    assert isinstance(commit.apply(project.root, committed), Applied)


WAIT = """\
import os, time
open("model.bin", "w").write("half")
open("started", "w").close()
while not os.path.exists("go"):
    time.sleep(0.02)
"""


def test_a_stage_that_runs_here_at_the_moment_is_waited_for(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = project.send().commit()
    monkeypatch.setattr(repo, "LOCK_WAIT_S", 0.5)
    project.write("wait.py", WAIT)
    slow = dvc_project.DVC_YAML.replace("cmd: python3 train.py", "cmd: python3 wait.py && python3 train.py")
    project.write("dvc.yaml", slow)
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro", "-q", "-s", "train"], cwd=project.root) as repro:
        try:
            while not (project.root / "started").exists():
                assert repro.poll() is None
                time.sleep(0.02)
            project.write("dvc.yaml", dvc_project.DVC_YAML)
            with pytest.raises(TransientError, match="another DVC process is at work"):
                commit.apply(project.root, committed)
            monkeypatch.setattr(repo, "LOCK_WAIT_S", 30)
            threading.Timer(0.5, project.write, ("go", "")).start()
            assert isinstance(commit.apply(project.root, committed), Applied)
        finally:
            project.write("go", "")
    assert repro.returncode == 0 and not status(project.root, "train")


class held:
    """DVC's lock on a project, in another process."""

    def __init__(self, project: Project) -> None:
        script = (
            "from dvc.repo import Repo; import sys\nwith Repo(sys.argv[1]).lock: print('held', flush=True); input()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, str(project.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout and self._process.stdout.readline()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._process.communicate(b"\n")


def test_frozen_stages_and_working_directories_come_home(project: Project) -> None:
    project.write("sub/fit.py", "open('out.txt', 'w').write(open('../prepared.csv').read())\n")
    project.write("sub/own.yaml", "k: 1\n")
    stage = (
        "  fit:\n    wdir: sub\n    frozen: true\n    cmd: [python3 fit.py, echo done]\n"
        "    deps: [fit.py, ../prepared.csv]\n    params: [own.yaml: [k]]\n    outs: [out.txt]\n"
    )
    project.write("dvc.yaml", dvc_project.DVC_YAML + stage)
    run = project.send("fit")
    project.write("sub/own.yaml", "k: 2\n")
    project.write("sub/fit.py", "pass\n")
    assert run.home() == Refused(paths=("sub/fit.py", "sub/own.yaml: k"))
    project.write("sub/own.yaml", "k: 1\n")
    project.write("sub/fit.py", "open('out.txt', 'w').write(open('../prepared.csv').read())\n")
    assert run.home() == Applied(outputs=("sub/out.txt",))
    project.write("dvc.yaml", dvc_project.DVC_YAML + stage.replace("    frozen: true\n", ""))
    assert not status(project.root, "fit")


def test_a_stage_of_another_file_and_one_of_a_grid_come_home(project: Project) -> None:
    project.write(
        "sub/dvc.yaml", "stages:\n  fit:\n    cmd: cp ../prepared.csv x\n    deps: [../prepared.csv]\n    outs: [x]\n"
    )
    assert project.send("sub/dvc.yaml:fit").home() == Applied(outputs=("sub/x",))
    assert project.send("grid@a-1").home() == Applied(outputs=("g-a-1",))
    assert not status(project.root, "sub/dvc.yaml:fit")


def test_a_project_that_keeps_no_git_for_dvc_comes_home(project: Project) -> None:
    plain = Project(project.folder / "plain", ".")
    shutil.copytree(project.root, plain.top, symlinks=True)
    git(plain.top, "init", "-q", ".")
    plain.write(".dvc/config", plain.read(".dvc/config").replace("[core]\n", "[core]\n    no_scm = true\n"))
    assert isinstance(plain.send().home(), Applied)
    assert not status(plain.root, "train")


def test_an_output_that_was_a_file_comes_home_as_a_directory(project: Project) -> None:
    project.write("make.py", "open('o', 'w').write('file')\n")
    project.write("dvc.yaml", "stages:\n  make: {cmd: python3 make.py, deps: [make.py], outs: [o]}\n")
    assert isinstance(project.send("make").home(), Applied)
    project.write("make.py", "import os; os.mkdir('o'); open('o/x', 'w').write('directory')\n")
    assert isinstance(project.send("make").home(), Applied)
    assert project.read("o/x") == "directory" and not status(project.root, "make")
    project.write("make.py", "open('o', 'w').write('file')\n")
    assert isinstance(project.send("make").home(), Applied)
    assert project.read("o") == "file" and not status(project.root, "make")


def test_the_users_cache_settings_are_honoured(project: Project) -> None:
    dvc(project.root, "config", "--local", "cache.dir", os.path.relpath(project.folder / "other cache", project.root))
    dvc(project.root, "config", "--local", "cache.type", "symlink")
    shutil.move(project.root / ".dvc/cache", project.folder / "other cache")
    assert isinstance(project.send().home(), Applied)
    assert (project.root / "model.bin").is_symlink()
    assert not (project.root / ".dvc/cache").exists()
    assert not status(project.root, "train")


def test_dvc_keeps_no_state_of_the_scratch_tree(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    site = project.folder / "site"
    with_site = project.read(".dvc/config").replace("[core]\n", "[core]\n    site_cache_dir = ../../../site\n")
    project.write(".dvc/config", with_site)
    monkeypatch.chdir(project.root / ".dvc")
    assert isinstance(project.send().home(), Applied)
    assert len(list((site / "repo").iterdir())) == 1
