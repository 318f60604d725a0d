"""What is told before money is spent: what was trained already, and what machines cost; and a pull of nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from cli_world import World

from cli.progress import QuietListener
from sojourn.names import mint_run_id
from sojourn.providers.local import LocalProvider
from sojourn.run.journey import Journey, walk
from sojourn.run.runs import find_run, plan_of
from sojourn.store.mailbox import Mailbox

pytestmark = pytest.mark.local


class Warned(QuietListener):
    """Keeps the warnings, and the steps before them."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def warn(self, text: str) -> None:
        """Keep it."""
        self.heard.append(text)

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """Keep its name."""
        self.heard.append(step)


def again(world: World, price: float) -> list[str]:
    """Run what the last run ran, on machines of this price; what was heard."""
    before = plan_of(find_run([world.store], "last"))
    now = time.time()
    fresh = {"run": mint_run_id(), "created_at": now, "deadline_at": now + 600, "ceiling": price}
    plan, told = before.model_copy(update=fresh), Warned()
    mailbox = Mailbox(world.store, plan.project, plan.run)
    walk(Journey.begin(plan, mailbox, LocalProvider(world.home), world.home, told))
    return told.heard


def test_the_same_inputs_are_told_before_machines_that_cost_money_are_rented(world: World) -> None:
    world.script("print('trained')")
    assert world.train().returncode == 0
    run = world.show()["run"]

    heard = again(world, price=1.0)
    (warning,) = [one for one in heard if "same source" in one]
    assert f"as {run}, which succeeded " in warning and f"sojourn pull {run} --to DIR" in warning
    assert heard.index("bundle") < heard.index(warning) < heard.index("provision")
    assert not [one for one in again(world, price=0.0) if "same source" in one], "it costs nothing here"
    world.script("print('trained otherwise')")
    assert not [one for one in again(world, price=1.0) if "same source" in one]


@pytest.mark.slow
def test_a_run_that_left_no_file_has_nothing_to_pull_and_makes_no_directory(world: World) -> None:
    world.script("print('trained')")
    assert world.train().returncode == 0
    run = world.show()["run"]
    done = world.sojourn("pull", "last", "--to", "results")
    assert (done.returncode, done.stdout) == (
        0, f"{run} has left no file, so nothing was fetched; its log: sojourn logs {run}\n"
    )  # fmt: skip
    assert not Path(world.project, "results").exists()
    world.script("open('one.txt', 'w').write('1')")
    assert world.train().returncode == 0
    assert "1 file in results" in world.sojourn("pull", "last", "--to", "results").stdout


def test_who_has_no_account_yet_is_told_what_the_catalogue_knows_of_prices(world: World) -> None:
    world.script("print('trained')")
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    done = world.sojourn("plan", "--where", "aws", "--gpu", "L4", "--", "python", "train.py", **nobody)
    assert done.returncode == 3 and "aws configure" in done.stderr
    assert "catalogue says, on demand: g6.xlarge (4 CPUs, 17 GB, 1 × L4 24 GB) about $0.80/h in 20" in done.stderr


@pytest.mark.slow
def test_results_beside_a_gitignore_that_the_script_wrote_are_as_new_as_the_others(world: World) -> None:
    world.script("""
        import pathlib, sys
        out = pathlib.Path("results")
        out.mkdir(exist_ok=True)
        (out / ".gitignore").write_text("*\\n")
        for name in ("model.pt", "pred.csv"):
            (out / name).write_text(sys.argv[1])
    """)
    world.git("init", "-q", ".")
    world.git("add", "train.py")
    world.git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    for turn in ("first", "second"):
        done = world.train("python", "train.py", turn)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {(world.project / "results" / name).read_text() for name in ("model.pt", "pred.csv")} == {turn}
    assert "from an earlier run" not in done.stdout + done.stderr


SAVES = """
    import os, pathlib, sys
    step = int(sys.argv[1])
    if os.path.lexists("out/last.pt"):
        assert os.readlink("out/last.pt") == f"step-{step - 1}.pt", "a link, as the run before has left it"
        os.remove("out/last.pt"), os.remove("best")
    for name in (f"out/step-{step}.pt", f"checkpoint-{step}/w.pt"):
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(name).write_text(str(step))
    os.symlink(f"step-{step}.pt", "out/last.pt"), os.symlink(f"checkpoint-{step}", "best")
"""


def test_links_to_the_newest_come_home_and_are_there_when_a_run_goes_on(world: World) -> None:
    world.script(SAVES)
    assert world.train("python", "train.py", "1").returncode == 0
    assert os.readlink(world.project / "out/last.pt") == "step-1.pt"
    assert world.show()["report"]["published"]["links"] == ["best -> checkpoint-1", "out/last.pt -> step-1.pt"]
    done = world.sojourn("train", "--from", "last", "--", "python", "train.py", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 links: best -> checkpoint-2, out/last.pt -> step-2.pt" in done.stdout
    assert (world.project / "out/last.pt").read_text() == (world.project / "best/w.pt").read_text() == "2"
