"""Any plain script makes the round trip from wherever it stands, and nothing of the user's is overwritten."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from cli_world import World
from dvc_project import TRAIN, Project, dvc
from wheels import make_wheel

pytestmark = pytest.mark.local

RESULTS = """
import pathlib, sys
here = pathlib.Path(".")
(here / "model.pt").write_bytes(b"weights" * 100)
(here / "out/deep").mkdir(parents=True, exist_ok=True)
(here / "out/deep/log.txt").write_text(" ".join(sys.argv[1:]))
(here / "metrics.json").write_text('{"accuracy": 0.9}')
(here / "notes.md").write_text("rewritten by the script")
"""
RANKS = """
import json, os, pathlib
import torch, torch.distributed as dist

dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK".split()
text = json.dumps({"sum": total.item(), **{name: int(os.environ[name]) for name in names}})
pathlib.Path(f"rank-{dist.get_rank()}.json").write_text(text)
dist.destroy_process_group()
"""


def trained(world: World, *words: str, **more: str) -> str:
    """What `sojourn train` printed; it must have succeeded."""
    done = world.train(*words, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines_of(world: World, run: str = "last") -> str:
    """The whole log of a run."""
    return world.sojourn("logs", run).stdout


def test_a_script_needs_no_git_no_dvc_and_no_file_of_ours(world: World) -> None:
    world.script(RESULTS)
    (world.project / "notes.md").write_text("mine")
    before = {entry.name for entry in world.project.iterdir()}

    # The dashes before the program may be left out.
    done = world.sojourn("train", "--no-prefect", "python", "train.py", "--epochs", "3", "--nodes", "x y")
    assert done.returncode == 0, done.stdout + done.stderr

    run = world.show()["run"]
    assert (world.project / "model.pt").read_bytes() == b"weights" * 100
    assert (world.project / "out/deep/log.txt").read_text() == "--epochs 3 --nodes x y"
    assert (world.project / "notes.md").read_text() == "mine"
    assert (world.project / "runs" / run / "notes.md").read_text() == "rewritten by the script"
    made = {entry.name for entry in world.project.iterdir()} - before
    assert made == {"model.pt", "out", "metrics.json", "runs"}
    assert world.show()["metrics"] == {"accuracy": 0.9}


@pytest.mark.slow
def test_the_same_run_again_sends_nothing_and_names_the_first(world: World) -> None:
    world.script("print(1)")
    world.script("w" * 2_000_000, "weights.txt")
    first = trained(world)
    run = world.run()

    again = trained(world)
    world.script("print(2)")
    edited = trained(world)

    assert "2.0 MB, 2.0 MB sent" in first
    assert "nothing to send" in again
    assert f"{run} had the same inputs" in again
    assert " B sent" in edited
    assert "had the same inputs" not in edited


def test_a_run_that_failed_is_not_named_as_one_with_the_same_inputs(world: World) -> None:
    world.script(f"import pathlib; assert pathlib.Path({str(world.signs / 'sound')!r}).exists()")
    assert world.train().returncode == 1
    (world.signs / "sound").touch()
    assert "had the same inputs" not in trained(world)


def test_in_git_a_checkpoint_comes_home_although_ignored_and_other_ignored_files_do_not(world: World) -> None:
    world.git("init", "-q")
    world.script("*.pt\nwandb/\n*.log\n", ".gitignore")
    world.script("""
        import pathlib, torch_like
        pathlib.Path("wandb/run-1").mkdir(parents=True)
        pathlib.Path("wandb/run-1/junk.bin").write_text("junk")
        pathlib.Path("wandb/run-1/best.pt").write_text("best")
        pathlib.Path("a.log").write_text("log")
        pathlib.Path("model.pt").write_text("weights")
        pathlib.Path("result.txt").write_text("result")
    """)
    world.script("", "torch_like.py")
    world.git("add", "-A")
    world.git("commit", "-q", "-m", "work")

    printed = trained(world)

    assert (world.project / "model.pt").read_text() == "weights"
    assert (world.project / "result.txt").read_text() == "result"
    assert os.listdir(world.project / "wandb/run-1") == ["best.pt"]
    assert "2 files, 7 B ignored by git: wandb/run-1/junk.bin, a.log    sojourn pull" in printed
    assert "or next time --output wandb --output a.log" in printed  # the next one may be wandb/run-2
    (line,) = world.show()["report"]["kept"]
    assert (line["reason"], line["files"], line["bytes"]) == ("ignored by git", 2, 7)
    assert world.sojourn("pull", "last", "--to", str(world.root / "all")).returncode == 0
    assert (world.root / "all/wandb/run-1/junk.bin").read_text() == "junk"
    assert world.git("status", "--porcelain").split() == ["??", "result.txt"]


@pytest.mark.parametrize(
    ("keep", "told", "more"),
    [
        ("1MB", "2 files, 2.6 MB more than launch.keep allows: logs/run-1/larger.bin, logs/run-1/large.bin", "3.6MB"),
        pytest.param("0", "3 files, 2.6 MB ignored by git: logs/", "2.7MB", marks=pytest.mark.slow),
    ],
)
def test_what_is_too_large_to_be_kept_is_named_with_the_flags_that_bring_it_next_time(
    world: World, keep: str, told: str, more: str
) -> None:
    world.git("init", "-q")
    world.script("logs/\n", ".gitignore")
    world.script("""
        import pathlib
        pathlib.Path("logs/run-1").mkdir(parents=True)
        for name, size in (("small", 9), ("large", 1_200_000), ("larger", 1_400_000)):
            pathlib.Path(f"logs/run-1/{name}.bin").write_bytes(b"x" * size)
    """)

    printed = trained(world, "--keep", keep)

    assert f"left there  {told}    next time --output logs, or --keep {more}" in printed
    (line,) = world.show()["report"]["left_behind"]
    assert line["remedy"] == f"next time --output logs, or --keep {more}"
    trained(world, "--keep", more)
    assert world.show()["report"]["left_behind"] == [] and world.show()["report"]["kept"][0]["files"] == 3


def test_an_ignored_directory_comes_home_when_it_is_named(world: World) -> None:
    world.git("init", "-q")
    world.script("out/\n", ".gitignore")
    world.script("import os; os.mkdir('out'); open('out/x.txt', 'w').write('x')")

    done = world.train("--output", "out", "--output", "uot/*.csv")

    assert done.returncode == 0, done.stderr
    assert (world.project / "out/x.txt").read_text() == "x"
    assert "output 'uot/*.csv' was not written" in done.stdout + done.stderr


def test_the_command_may_stand_in_the_file(world: World) -> None:
    world.script("launch:\n  command: python train.py 'two words'\n  variables: {PORT: 29500}\n", "params.yaml")
    world.script("import os, sys; open('seen.txt', 'w').write(sys.argv[1] + os.environ['PORT'])")

    done = world.sojourn("train", "--no-prefect")

    assert done.returncode == 0, done.stderr
    assert (world.project / "seen.txt").read_text() == "two words29500"


def test_a_script_below_the_git_root_runs_where_the_user_stands(world: World) -> None:
    world.git("init", "-q")
    world.script("VALUE = 7", "shared.py")
    world.script("""
        import sys; sys.path.insert(0, "..")
        import shared
        open("seen.txt", "w").write(str(shared.VALUE))
    """, "experiments/train.py")  # fmt: skip

    done = world.sojourn("train", "--no-prefect", "python", "train.py", cwd=world.project / "experiments")

    assert done.returncode == 0, done.stderr
    assert (world.project / "experiments/seen.txt").read_text() == "7"


@pytest.mark.parametrize("name", ['it\'s a "Prüf" dir/-rf', "two\nlines/🚀 $HOME `x` %s"])
def test_a_directory_may_have_any_name(world: World, name: str) -> None:
    here = world.root / name
    here.mkdir(parents=True)
    (here / "my train.py").write_text(RESULTS)
    (here / "data 'ü'\n").mkdir()

    done = world.sojourn("train", "--no-prefect", "--", "python", "my train.py", "it's", cwd=here)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (here / "out/deep/log.txt").read_text() == "it's"
    assert (here / "notes.md").exists()


def test_results_may_have_any_name_that_can_be_shown(world: World) -> None:
    names = ["a b", "it's", 'say "hi"', "Prüf", "🚀", "*", "{x}", "[red]"]
    refused = ["two\nlines", "a\\b"]
    world.script(f"for name in {[*names, *refused, '-n']!r}: open(name, 'w').write(name)")

    said = trained(world)

    assert {name: (world.project / name).read_text() for name in names} == {name: name for name in names}
    assert (world.project / "runs" / world.run() / "-n").read_text() == "-n"
    assert "2 files with control characters or a backslash in their names: a\\b, two\\nlines" in said
    where = f"{(world.home / 'store').as_uri()}/machine/{world.project.name}/{world.run()}"
    assert f"what it holds is below {where}; next time write it under another name" in said
    assert "1 file that commands would take for an option" in said


def test_executable_bits_and_links_reach_the_script_and_come_home(world: World) -> None:
    world.script("#!/bin/sh\necho ran > ran.txt\n", "tool.sh").chmod(0o755)
    (world.project / "alias.sh").symlink_to("tool.sh")
    world.script("""
        import os, pathlib, subprocess
        subprocess.run(["./alias.sh"], check=True)
        pathlib.Path("made.sh").write_text("#!/bin/sh\\n")
        os.chmod("made.sh", 0o755)
    """)

    trained(world)

    assert (world.project / "ran.txt").read_text() == "ran\n"
    assert stat.S_IMODE((world.project / "made.sh").stat().st_mode) == 0o755


def test_a_submodule_travels(world: World) -> None:
    library = world.root / "library"
    library.mkdir()
    git = ["git", "-c", "protocol.file.allow=always"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], cwd=library, env=world.environment, check=True)
    (library / "net.py").write_text("LAYERS = 2")
    for words in (["add", "-A"], ["commit", "-q", "-m", "net"]):
        subprocess.run([*git, *words], cwd=library, env=world.environment, check=True)
    world.git("init", "-q")
    world.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    world.script("from lib import net; open('seen.txt', 'w').write(str(net.LAYERS))")

    trained(world)

    assert (world.project / "seen.txt").read_text() == "2"


@pytest.mark.slow
def test_a_second_run_starts_without_the_results_of_the_first_and_replaces_what_nobody_touched(world: World) -> None:
    world.script("""
        import pathlib, sys
        pathlib.Path("out").mkdir()  # it would be in the way
        pathlib.Path("out/deep.txt").write_text(sys.argv[1])
        for name in ("mine.txt", "other.txt"):
            assert not pathlib.Path(name).exists(), "it would go on from there"
            pathlib.Path(name).write_text(sys.argv[1])
    """)
    trained(world, "--", "python", "train.py", "first")
    (world.project / "mine.txt").write_text("edited")
    (world.project / "mine.txt").rename(world.project / "edited.txt")
    (world.project / "mine.txt").symlink_to("edited.txt")
    world.script("mine.txt\n", ".sojournignore")

    planned = world.sojourn("plan", "--json", "--", "python", "train.py", "second")
    printed = trained(world, "--output", "mine.txt", "--", "python", "train.py", "second")

    run = world.show()["run"]
    (said,) = [one for one in json.loads(planned.stdout)["omissions"] if one["reason"] == "placed by an earlier run"]
    assert set(said["paths"]) == {"other.txt", "out/deep.txt"} and said["remedy"].startswith("--input o")
    assert (world.project / "other.txt").read_text() == "second"
    assert (world.project / "mine.txt").read_text() == "edited"
    assert (world.project / "runs" / run / "mine.txt").read_text() == "second"
    assert "mine.txt at its place is yours since" in printed + world.sojourn("show", "last").stdout


def test_a_result_does_not_follow_a_link_of_the_users(world: World) -> None:
    (world.root / "elsewhere").mkdir()
    world.script("out\n", ".sojournignore")
    (world.project / "out").symlink_to(world.root / "elsewhere")
    world.script("import os; os.mkdir('out'); open('out/x.txt', 'w').write('x')")

    trained(world, "--output", "out")

    run = world.run()
    assert not any((world.root / "elsewhere").iterdir())
    assert (world.project / "runs" / run / "out/x.txt").read_text() == "x"


def test_large_inputs_travel_beside_the_bundle_and_do_not_come_back(world: World) -> None:
    world.script("x,y\n", "data/train.csv")
    world.script("open('seen.txt', 'w').write(open('data/train.csv').read())")

    trained(world, "--input", "data")

    assert (world.project / "seen.txt").read_text() == "x,y\n"
    assert world.show()["report"]["files"] == 1


def test_a_secret_reaches_the_script_and_no_file_of_ours(world: World) -> None:
    value = "hunter2-" + "s3cret" * 4
    world.script("""
        import os, sys
        print("token", os.environ["TOKEN"], flush=True)
        print(os.environ["TOKEN"], file=sys.stderr)
        open("seen.txt", "w").write(str(len(os.environ["TOKEN"])))
    """)

    done = world.train("--secret", "TOKEN", TOKEN=value)

    assert done.returncode == 0, done.stderr
    assert (world.project / "seen.txt").read_text() == str(len(value))
    assert "token ***" in lines_of(world)
    assert value not in done.stdout + done.stderr
    files = [path for path in world.home.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if value.encode() in path.read_bytes()] == []


def test_the_script_sees_a_clean_environment(world: World) -> None:
    world.script("import json, os; open('seen.json', 'w').write(json.dumps(dict(os.environ)))")

    done = world.train("--secret", "NAMED", NAMED="a-secret-value", UNNAMED="not-to-travel", AWS_SECRET_ACCESS_KEY="k")

    assert done.returncode == 0, done.stderr
    seen = json.loads((world.project / "seen.json").read_text())
    assert seen["NAMED"] == "a-secret-value"
    assert {"UNNAMED", "AWS_SECRET_ACCESS_KEY", "SOJOURN_HOME"} & set(seen) == set()
    assert Path(seen["SOJOURN_OUTPUT_DIR"]).is_absolute()


@pytest.mark.slow
def test_two_machines_with_two_ranks_each_meet_in_one_group(world: World) -> None:
    world.script(RANKS)

    trained(world, "--nodes", "2", "--processes", "2", "--", "python", "train.py")

    ranks = [json.loads((world.project / f"rank-{number}.json").read_text()) for number in range(4)]
    assert [rank["sum"] for rank in ranks] == [10.0] * 4
    assert [rank["RANK"] for rank in ranks] == [0, 1, 2, 3]
    assert [rank["GROUP_RANK"] for rank in ranks] == [0, 0, 1, 1]
    assert {(rank["WORLD_SIZE"], rank["LOCAL_WORLD_SIZE"]) for rank in ranks} == {(4, 2)}
    assert len(world.show()["receipt"]["resources"]) == 2


# --- environments ---------------------------------------------------------------------------

VERSION = "import tiny; open('seen.txt', 'w').write(f'{tiny.VERSION} {tiny.__file__}')"


@pytest.mark.slow
def test_requirements_are_built_once_and_again_only_when_they_change(world: World) -> None:
    for version in ("1.0", "2.0"):
        make_wheel(world.project / "wheels", "tiny", version)
    world.script("--no-index\n--find-links wheels\ntiny==1.0\n", "requirements.txt")
    world.script(VERSION)
    environments = world.home / "environments"

    first = trained(world)
    assert "requirements.txt (to build)" in first
    assert (world.project / "seen.txt").read_text().startswith(f"1.0 {environments}")

    (world.project / "seen.txt").unlink()
    world.script(VERSION + "  # edited")
    assert "requirements.txt (built)" in trained(world)
    assert len(list(environments.glob("*/ready"))) == 1

    (world.project / "seen.txt").unlink()
    world.script("--no-index\n--find-links wheels\ntiny==2.0\n", "requirements.txt")
    assert "requirements.txt (to build)" in trained(world)
    assert (world.project / "seen.txt").read_text().startswith(f"2.0 {environments}")


def test_a_pyproject_gives_its_dependencies_and_its_own_package(world: World) -> None:
    make_wheel(world.project / "wheels", "tiny", "1.0")
    world.script("""
        [project]
        name = "mine"
        version = "1"
        dependencies = ["tiny"]
        [tool.uv]
        no-index = true
        find-links = ["wheels"]
    """, "pyproject.toml")  # fmt: skip
    world.script("LAYERS = 2", "src/mine/__init__.py")
    world.script(f"import mine\n{VERSION}")

    trained(world)

    assert (world.project / "seen.txt").read_text().startswith("1.0 ")


@pytest.mark.slow
def test_dependencies_that_cannot_be_had_end_the_run_before_a_machine_is_rented(world: World) -> None:
    make_wheel(world.project / "wheels", "tiny", "1.0")
    world.script("--no-index\n--find-links wheels\ntiny==3.0\n", "requirements.txt")
    world.script("pass")

    done = world.train()

    assert done.returncode == 2
    assert "tiny==3.0" in done.stderr and "environment: current" in done.stderr
    assert world.leases() == []
    shown = world.show()
    assert shown["report"]["state"] == "refused" and "tiny==3.0" in shown["report"]["message"]
    everything = " ".join(world.sojourn("show", "last").stdout.split())
    assert "No solution found" in everything and "mend requirements.txt" in everything


@pytest.mark.slow
def test_a_stage_that_imports_a_package_of_the_project_is_recorded_with_the_code_that_ran(
    world: World, dvc_template: Project
) -> None:
    project = dvc_template.copy(world.root / "dvc")
    world.project = project.root
    make_wheel(project.root / "wheels", "tiny", "1.0")
    project.write("lib/pyproject.toml", '[project]\nname = "net"\nversion = "1"\ndependencies = ["tiny"]\n')
    project.write("requirements.txt", "--no-index\n--find-links wheels\n-e ./lib\n")
    project.write("train.py", "import net, tiny\nprint('layers', net.LAYERS, tiny.VERSION)\n" + TRAIN)
    project.save()
    words = ("train", "--no-prefect", "--stage", "train")
    said = []
    for layers in (2, 3):
        project.write("lib/net.py", f"LAYERS = {layers}\n")
        done = world.sojourn(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(world.sojourn("logs", "last").stdout)
        assert dvc(project.root, "status", "train").strip().endswith("up to date.")

    assert "layers 2 1.0" in said[0] and "layers 3 1.0" in said[1]
    assert not list(project.root.glob("**/*.egg-info")) and len(list(world.home.glob("environments/*/ready"))) == 1


def test_what_a_script_writes_beside_its_project_is_told(world: World) -> None:
    world.script(
        "import pathlib\npathlib.Path('../beside').mkdir()\npathlib.Path('../beside/r.bin').write_bytes(b'12')"
    )
    out = trained(world)
    assert "left there" in out and "1 file, 2 B outside the project: ../beside/" in out
    assert "write it below the project" in out


@pytest.mark.slow
def test_data_that_a_script_makes_and_nobody_named_is_left_and_told_before_and_after_the_end(world: World) -> None:
    script = """
        import pathlib, time
        pathlib.Path("data").mkdir()
        pathlib.Path("data/set.bin").write_bytes(b"x" * 3_000_000)
        pathlib.Path("model.pt").write_bytes(b"m" * 3_000_000)
        pathlib.Path("metrics.json").write_text("{}")
        time.sleep(%s)
    """
    world.script(script % 26)

    printed = trained(world, "--bring", "2MB")

    assert "data/, 3.0 MB so far, will not come home: nobody named it, and launch.bring is 2.0 MB" in printed
    assert "-- ln -s ../data sojourn-outputs/" in printed
    told = "1 file, 3.0 MB more than launch.bring allows: data/    next time --output data, or --bring 5MB"
    assert f"left there  {told}" in printed
    assert (world.project / "model.pt").exists() and (world.project / "metrics.json").exists()
    assert not (world.project / "data").exists()
    world.script(script % 0)
    trained(world, "--output", "data")
    assert (world.project / "data/set.bin").stat().st_size == 3_000_000


def test_results_of_a_project_that_was_moved_go_nowhere_unasked(world: World, tmp_path: Path) -> None:
    world.script("open('model.txt', 'w').write('weights')")
    trained(world)
    moved = world.project.rename(tmp_path / "moved")
    for words in (("pull",), ("pull", "last", "--apply")):
        done = world.sojourn(*words, cwd=moved)
        assert done.returncode == 2 and "not there any more" in done.stderr and "--to DIR" in done.stderr, done.stderr
        assert not world.project.exists()
    assert world.sojourn("pull", "last", "--to", "got", cwd=moved).returncode == 0
    assert (moved / "got" / "model.txt").read_text() == "weights"


@pytest.mark.parametrize("in_git", [True, False])
def test_an_ignore_file_that_the_script_writes_keeps_no_later_result_from_its_place(world: World, in_git: bool) -> None:
    if in_git:
        world.git("init", "-q")
    where = "results" if in_git else "."
    script = """
        import pathlib
        where = pathlib.Path({where!r})
        where.mkdir(exist_ok=True)
        (where / ".gitignore").write_text("*.csv\\n*.gitignore\\n")
        (where / "model.pt").write_text("model {run}")
        (where / "pred.csv").write_text("predictions {run}")
    """
    for run in (1, 2):
        world.script(script.format(where=where, run=run))
        done = world.train()
        assert done.returncode == 0, done.stdout + done.stderr
    assert (world.project / where / "pred.csv").read_text() == "predictions 2"
    assert "from an earlier run" not in done.stdout + done.stderr
    assert "✓ publish" in done.stdout, "and a file that is put beside is no failure"


def test_results_that_are_put_beside_make_no_step_red(world: World) -> None:
    (world.project / "notes.md").write_text("mine")
    world.script("open('notes.md', 'w').write('rewritten')")
    said = trained(world)
    assert "✓ publish" in said and "✗" not in said
    assert f"1 in {world.project / 'runs' / world.run()}" in said
