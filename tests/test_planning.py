"""A plan is a pure value: decided from what stands there, printed and stored as it is, and nothing made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from wheels import make_wheel

from sojourn.environment.environment import build
from sojourn.errors import SpecError
from sojourn.plan import text as plan_text
from sojourn.plan.planning import Plan, make_plan
from sojourn.project.project import Project
from sojourn.renting import Capability, Need, Offer, Offers
from sojourn.shorthand import format_bytes
from sojourn.spec.launch import make_launch

GOLDEN = Path(__file__).with_name("golden") / "plan.json"
NOW = 1_800_000_000.0
PLACE = "0123456789abcdef0123456789abcdef"


class Catalogue:
    """A provider with one fixed machine, so that a plan is the same on every host."""

    def __init__(self, shares_host: bool = True) -> None:
        self.shares_host = shares_host

    def offers(self, need: Need) -> Offers:
        return Offers(fitting=(
            Offer(provider="local", machine="g6.xlarge", place="us-east-2b", price=0.9, cpus=4, memory=16_000_000_000,
                  gpus=("L4",)),
            Offer(provider="local", machine="g6.xlarge", place="us-east-2a", price=1.2, cpus=4, memory=16_000_000_000),
        ))  # fmt: skip

    def capability(self) -> Capability:
        return Capability(
            provider="local", layers={"timer": "ends it"}, warnings=("mind the gap",), shares_host=self.shares_host
        )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a script and some data."""
    project = tmp_path / "digits"
    (project / "data").mkdir(parents=True)
    (project / "train.py").write_text("pass\n")
    (project / "data/a.bin").write_bytes(b"x" * 1234)
    return project


def plan(
    project: Path, surroundings: Mapping[str, str] | None = None, provider: Catalogue | None = None, **asked: Any
) -> Plan:
    """The plan for `python train.py` and whatever else is asked."""
    return make_plan(
        make_launch({"command": ("python", "train.py"), **asked}, origin="test"),
        Project.at(project),
        provider or Catalogue(),  # type: ignore[arg-type]
        run="quiet-heron-7f3a",
        place=PLACE,
        store="file:///srv/runs",
        home=project.parent / "home",
        now=NOW,
        surroundings={"PATH": str(Path(sys.executable).parent), **(surroundings or {})},
    )


def test_the_plan_of_a_script_is_the_golden_one(project: Path) -> None:
    made = plan(project, inputs=["data"], outputs=["out"], nodes=2, deadline="2h30m", processes=4)

    written = json.loads(made.to_bytes())
    written.update(host="this-host", directory="/home/me/digits")
    written["environment"]["path"] = ["/usr/bin"]
    written["environment"].update(variables={}, notes=[], packages=[])
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(written, indent=1) + "\n")
    assert written == json.loads(GOLDEN.read_text())


def test_variables_of_the_shell_that_do_not_reach_the_script_are_in_the_plan_without_their_values(
    project: Path,
) -> None:
    shell = {"OMP_NUM_THREADS": "7731", "TERM": "xterm"}

    made = plan(project, surroundings=shell)

    assert any("OMP_NUM_THREADS" in note for note in made.notes) and b"7731" not in made.to_bytes()
    assert plan(project, surroundings=shell, variables={"OMP_NUM_THREADS": "1"}).notes == ()


@pytest.mark.parametrize(
    ("name", "hint"), [(".env", "--secret NAME"), ("more.txt", "--input more.txt"), ("nowhere.txt", "name a file")]
)
def test_a_file_that_uv_is_told_to_read_and_that_stays_is_refused_before_anything_is_rented(
    project: Path, name: str, hint: str
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / ".gitignore").write_text(".env\nmore.txt\n")
    for stays in (".env", "more.txt"):
        (project / stays).write_text("")
    flag = "--env-file" if name == ".env" else "--with-requirements"

    with pytest.raises(SpecError, match="does not travel to the machine") as caught:
        plan(project, command=("uv", "run", flag, name, "python", "train.py"))

    assert hint in (caught.value.hint or "")
    plan(project, command=("uv", "run", "--with-requirements", "train.py", "python", "train.py"))


def test_the_same_question_has_the_same_plan_and_makes_nothing(project: Path) -> None:
    before = sorted(project.parent.rglob("*"))

    assert plan(project) == plan(project)
    assert sorted(project.parent.rglob("*")) == before


def test_a_plan_is_read_back_from_the_store_as_it_was(project: Path) -> None:
    made = plan(project, environment="current")

    assert Plan.model_validate_json(made.to_bytes()) == made


def test_the_ceiling_is_the_dearest_offer_over_the_longest_time(project: Path) -> None:
    made = plan(project, nodes=2, deadline="59m", grace="60s")

    assert made.ceiling == pytest.approx(2 * 1.2)
    assert made.deadline_at == NOW + 59 * 60


def test_named_inputs_are_counted_apart_from_the_source(project: Path) -> None:
    made = plan(project, inputs=["data"])

    assert (made.files, made.bytes) == (1, 5)
    assert (made.input_files, made.input_bytes) == (1, 1234)


def test_a_store_inside_the_project_does_not_travel(project: Path) -> None:
    (project / ".sojourn/store").mkdir(parents=True)
    (project / ".sojourn/store/key").touch()

    made = make_plan(
        make_launch({"command": ("python", "train.py")}, origin="test"),
        Project.at(project),
        Catalogue(),  # type: ignore[arg-type]
        run="quiet-heron-7f3a",
        store=(project / ".sojourn/store").as_uri(),
        home=project / ".sojourn",
        now=NOW,
    )

    assert (made.files, set(made.left_out)) == (2, {".sojourn", ".sojourn/store"})


def test_a_secret_is_in_the_plan_by_name_alone(project: Path) -> None:
    made = plan(project, {"TOKEN": "hunter2"}, secrets=("TOKEN",))

    assert made.launch.secrets == ("TOKEN",)
    assert b"hunter2" not in made.to_bytes()
    assert b"hunter2" not in made.boot(1, 0).to_bytes()


@pytest.mark.parametrize("value", [{}, {"TOKEN": ""}])
def test_a_secret_that_is_not_set_is_refused(project: Path, value: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="'TOKEN' is not set"):
        plan(project, value, secrets=("TOKEN",))


def test_the_boot_of_a_lease_is_named_after_run_attempt_and_offer(project: Path) -> None:
    made = plan(project, nodes=2)

    assert made.boot(2, 1).lease.startswith("sojourn-quiet-heron-7f3a-2-1-")
    assert made.boot(2, 1) == made.boot(2, 1) != made.boot(2, 0)
    assert made.boot(2, 1).deadline_at == made.deadline_at


def test_the_command_runs_where_the_user_stands_in_the_git_tree(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / "exp").mkdir()
    (project / "exp/train.py").touch()

    made = plan(project / "exp", inputs=[], outputs=["out"])

    assert made.work_directory == "exp"
    assert made.ignore[-1] == "!/exp/out"
    assert made.project == "digits"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (("pyhton", "x.py"), "'pyhton' is not a program on your PATH"),
        (("./run.sh",), r"'\./run\.sh' is not a file in"),
        (("./train.py",), r"'\./train\.py' cannot be executed"),
        (("bin/python", "train.py"), "'bin/python' is not a file in"),
    ],
)
def test_a_program_that_cannot_start_is_refused(project: Path, program: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan(project, command=program)


SEQLAB = """
[project]
name = "seqlab"
version = "1"
dependencies = []
scripts = {seqlab-train = "seqlab.cli:main"}
"""


@pytest.mark.parametrize("shares_host", [True, False])
def test_a_console_script_of_the_project_can_be_the_command(project: Path, shares_host: bool) -> None:
    (project / "pyproject.toml").write_text(SEQLAB)
    provider = Catalogue(shares_host=shares_host)

    assert plan(project, provider=provider, command=("seqlab-train", "--lr", "1")).program() == "seqlab-train"
    with pytest.raises(SpecError, match="'seqlab-trian' is not a program") as caught:
        plan(project, provider=provider, command=("seqlab-trian",))
    assert "did you mean 'seqlab-train'?" in (caught.value.hint or "")


def test_a_program_that_the_built_environment_does_not_have_is_refused(project: Path) -> None:
    (project / "pyproject.toml").write_text(SEQLAB)
    made = plan(project)
    build(made.environment, project, project.parent / "home")

    assert plan(project, command=("pip", "list")).environment_ready
    with pytest.raises(SpecError, match="'torchrunner' is not a program of the environment from pyproject.toml"):
        plan(project, command=("torchrunner", "x.py"))


def test_a_console_script_of_a_project_that_is_not_installed_is_refused(project: Path) -> None:
    (project / "pyproject.toml").write_text(SEQLAB)

    with pytest.raises(SpecError, match="'seqlab-train' is not a program on your PATH"):
        plan(project, environment="current", command=("seqlab-train",))


@pytest.mark.parametrize("wanted", ["auto", "current"])
def test_nothing_of_this_host_counts_on_another_one(project: Path, wanted: str) -> None:
    made = plan(project, {"VIRTUAL_ENV": "/venv"}, Catalogue(shares_host=False), environment=wanted,
                command=("only-on-the-image", "x"))  # fmt: skip

    assert (made.environment.path, made.environment.variables) == ((), {})
    assert dict(plan_text.lines(made))["environment"] == "the python on the image’s PATH"


def test_what_is_locked_for_another_host_is_in_the_plan(project: Path) -> None:
    make_wheel(project / "wheels", "tiny", "1.0")
    (project / "requirements.txt").write_text("--no-index\n--find-links wheels\ntiny\n")
    made = plan(project, provider=Catalogue(shares_host=False), network="none")

    assert Plan.model_validate_json(made.to_bytes()) == made
    assert made.environment.locks[0].text.startswith("./wheels/tiny-1.0-py3-none-any.whl --hash=sha256:")
    shown = dict(plan_text.lines(made))["environment"]
    assert shown.startswith("requirements.txt, 1 package for Python 3.12, ")
    assert shown.endswith("of wheels by way of the store, once")


def test_a_program_that_does_not_travel_is_refused(project: Path) -> None:
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/pyvenv.cfg").touch()
    (project / ".venv/bin/python").symlink_to("/bin/sh")

    with pytest.raises(SpecError, match=r"'\.venv/bin/python' does not travel") as caught:
        plan(project, command=(".venv/bin/python", "train.py"))
    assert "write python for it" in (caught.value.hint or "")


def test_a_script_that_does_not_travel_is_refused(project: Path) -> None:
    (project / ".gitignore").write_text("train.py\n")

    with pytest.raises(SpecError, match=r"'train\.py' does not travel"):
        plan(project)


def test_a_script_by_its_absolute_path_is_refused(project: Path) -> None:
    with pytest.raises(SpecError, match=r"does not travel to the machine: it is an absolute path"):
        plan(project, command=("python", str(project / "train.py")))


def test_an_interpreter_by_its_absolute_path_is_the_machines_own(project: Path) -> None:
    assert plan(project, command=(sys.executable, "train.py")).command.argv[0] == sys.executable


def test_a_script_behind_a_link_or_among_the_inputs_travels(project: Path) -> None:
    (project / "data/evaluate.py").touch()
    (project / "link").symlink_to("data")

    assert plan(project, command=("python", "data/evaluate.py"), inputs=["data"]).command.wrap == 0
    assert plan(project, command=("python", "./link/../train.py")).command.wrap == 0
    assert plan(project, command=("python", "link/evaluate.py")).command.wrap == 0


def test_a_stage_without_a_dvc_project_is_refused(project: Path) -> None:
    with pytest.raises(SpecError, match="'train': no DVC project at"):
        plan(project, command=None, stage="train")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (83_500, "84 KB"),
        (1.94e9, "1.9 GB"),
        (5e12, "5.0 TB"),
        (999_999, "1.0 MB"),
    ],
)
def test_sizes_are_short(size: float, text: str) -> None:
    assert format_bytes(size) == text


def test_a_rank_for_each_gpu_is_refused_where_a_machine_has_none(project: Path) -> None:
    with pytest.raises(SpecError, match="processes: gpu: .* has no GPU, so nothing would be started"):
        plan(project, processes="gpu")
