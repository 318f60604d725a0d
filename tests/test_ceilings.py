"""What a host allows its runs to ask for, whatever the project's files say."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.plan.planning import Plan, make_plan
from sojourn.project.project import Project
from sojourn.providers.local import LocalProvider
from sojourn.renting import Offer, Offers
from sojourn.spec.ceilings import ceilings
from sojourn.spec.launch import Launch, make_launch
from tasks.checkout import check_login, without_login


def launch(**asked: object) -> Launch:
    return make_launch({"command": ("python", "train.py"), **asked}, origin="test")


def offer(machine: str, price: float) -> Offer:
    return Offer(provider="aws", machine=machine, place="us-east-1a", price=price, cpus=8, memory=2**34)


@pytest.mark.parametrize(
    ("variable", "limit", "asked", "said"),
    [
        ("SOJOURN_MAX_NODES", "2", {"nodes": 3}, "nodes: 3 is more than this host allows (SOJOURN_MAX_NODES=2)"),
        ("SOJOURN_MAX_DEADLINE", "1h", {}, "deadline: 2h is more than this host allows (SOJOURN_MAX_DEADLINE=1h)"),
        ("SOJOURN_MAX_DEADLINE", "3h", {"grace": "100d"}, "grace: 100d is more than this host allows"),
        ("SOJOURN_MAX_BUDGET", "$5", {"budget": "20 USD"}, "budget: $20 is more than this host allows"),
        ("SOJOURN_SECRETS", "HF_TOKEN, OTHER", {"secrets": ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY"]}, "OTHER"),
        ("SOJOURN_SECRETS", "", {"secrets": ["HF_TOKEN"]}, "(allowed: none)"),
    ],
)
def test_what_asks_for_more_is_refused(variable: str, limit: str, asked: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        ceilings({variable: limit}).hold(launch(**asked))
    assert said in refused.value.message and (variable in f"{refused.value.message} {refused.value.hint}")


def test_what_asks_for_less_is_left_as_it_is_and_without_limits_all_is() -> None:
    limits = {"SOJOURN_MAX_NODES": "2", "SOJOURN_MAX_DEADLINE": "2h", "SOJOURN_SECRETS": "HF_TOKEN"}
    asked = launch(nodes=2, secrets=["HF_TOKEN"], budget=3)
    assert ceilings({**limits, "SOJOURN_MAX_BUDGET": "3"}).hold(asked) == asked
    assert ceilings({}).hold(launch(nodes=9, secrets=["X"])) == launch(nodes=9, secrets=["X"])


def test_a_run_that_names_no_budget_gets_the_host_s() -> None:
    assert ceilings({"SOJOURN_MAX_BUDGET": "7.50"}).hold(launch()).budget == 7.5


def test_machines_that_cost_more_are_left_out_and_told() -> None:
    limits = ceilings({"SOJOURN_MAX_PRICE": "$1"})
    found = limits.within(Offers(fitting=(offer("small", 0.5), offer("large", 9.0)), remarks=("a region is away",)))
    assert [one.machine for one in found.fitting] == ["small"]
    assert found.remarks == ("a region is away", "dearer than this host allows: large on-demand")
    with pytest.raises(SpecError, match=r"large costs \$9 an hour, and this host allows \$1"):
        limits.within(Offers(fitting=(offer("large", 9.0),)))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SOJOURN_MAX_NODES", "many"),
        ("SOJOURN_MAX_NODES", "-1"),
        ("SOJOURN_MAX_BUDGET", "20 €"),
        ("SOJOURN_MAX_PRICE", "nan"),
        ("SOJOURN_MAX_DEADLINE", "8"),
    ],
)
def test_a_limit_that_cannot_be_read_stops_the_run_and_not_itself(variable: str, text: str) -> None:
    with pytest.raises(SpecError, match=variable) as refused:
        ceilings({variable: text})
    assert f"{variable}=" in str(refused.value.hint)


def planned(project: Path, surroundings: dict[str, str], from_git: bool, **asked: object) -> Plan:
    return make_plan(
        launch(**asked),
        Project.at(project),
        LocalProvider(project.parent / "home"),
        run="quiet-heron-7f3a",
        store="file:///srv/runs",
        home=project.parent / "home",
        now=time.time(),
        surroundings={"PATH": str(Path(sys.executable).parent), **surroundings},
        from_git=from_git,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/train.py").write_text("pass\n")
    return tmp_path / "project"


def test_a_project_from_git_gets_no_secret_that_the_worker_does_not_allow_by_name(project: Path) -> None:
    worker = {"HF_TOKEN": "a-secret-of-the-worker"}
    assert planned(project, worker, False, secrets=["HF_TOKEN"]).launch.secrets == ("HF_TOKEN",)
    with pytest.raises(SpecError, match="'HF_TOKEN' is none that this host gives to such a run"):
        planned(project, worker, True, secrets=["HF_TOKEN"])
    allowed = {**worker, "SOJOURN_SECRETS": "HF_TOKEN"}
    assert planned(project, allowed, True, secrets=["HF_TOKEN"]).launch.secrets == ("HF_TOKEN",)


def test_every_plan_of_this_host_is_below_its_ceilings(project: Path) -> None:
    with pytest.raises(SpecError, match="nodes: 3 is more"):
        planned(project, {"SOJOURN_MAX_NODES": "2"}, False, nodes=3, processes="own")
    assert planned(project, {"SOJOURN_MAX_BUDGET": "2"}, False).launch.budget == 2.0


# --- secrets that are written out ---------------------------------------------------------


TOKEN = "ghp_" + "aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"command": ("python", "train.py", "--token", TOKEN)}, "command: holds a GitHub token"),
        ({"command": f"export T={TOKEN} && python train.py"}, "command: holds a GitHub token"),
        ({"variables": {"TOKEN": TOKEN}}, "variables: TOKEN: holds a GitHub token"),
        ({"resume_args": ["--key", TOKEN]}, "command: holds a GitHub token"),
        (
            {"secrets": ["PASSWORD"], "variables": {"URL": "db://me:hunter2-Hunter2@host"}},
            "holds the value of PASSWORD",
        ),
        (
            {"secrets": ["PASSWORD"], "command": ("python", "train.py", "hunter2-Hunter2")},
            "holds the value of PASSWORD",
        ),
    ],
)
def test_a_secret_that_is_written_out_gets_into_no_plan(project: Path, asked: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        planned(project, {"PASSWORD": "hunter2-Hunter2"}, False, **asked)
    assert said in refused.value.message and "--secret NAME" in str(refused.value.hint)
    assert TOKEN not in str(refused.value) and "hunter2" not in str(refused.value)


def test_an_ordinary_value_of_a_secret_may_stand_in_the_command(project: Path) -> None:
    made = planned(project, {"MODE": "dev"}, False, secrets=["MODE"], command=("python", "train.py", "--mode", "dev"))
    assert made.launch.secrets == ("MODE",)


# --- addresses with a login ---------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "https://me:ghp_aB1cD2eF3gH4@example.com/digits.git@main",
        "https://ghp_aB1cD2eF3gH4iJ5kL6mN7oP8@example.com/digits.git",
        "https://:token@example.com/digits.git",
        "ssh://me:password@example.com/digits.git",
        "http://oauth2:token-of-mine@example.com:8080/digits",
    ],
)
def test_a_login_in_an_address_gets_into_no_deployment(address: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="given with a login") as refused:
        check_login(f"git:{address}")
    login = address.split("//")[1].split("@")[0]
    assert login not in f"{refused.value.message}{refused.value.hint}" and "example.com" in refused.value.message
    assert login not in without_login(f"project=git:{address}  skip_after=1h")


@pytest.mark.parametrize(
    "project",
    [
        "git:https://example.com/digits.git@main",
        "git:https://me@example.com/digits.git",
        "git:ssh://git@example.com/digits.git@v1",
        "git:git@example.com:me/digits.git",
        "git:/srv/digits.git@main",
        "/home/me/digits",
    ],
)
def test_an_address_without_one_is_kept_as_it_is(project: str) -> None:
    check_login(project)
    if "https://me@" not in project:
        assert without_login(project) == project


@pytest.mark.local
def test_deploy_refuses_a_login_before_the_server_hears_of_it(tmp_path: Path) -> None:
    from cli_world import World

    world = World(tmp_path)
    words = ("deploy", "--source", "git:https://me:the-token@example.com/x.git", "--dry-run")
    done = world.sojourn(*words, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 2 and "given with a login" in done.stderr, done.stderr
    assert "the-token" not in done.stdout + done.stderr
