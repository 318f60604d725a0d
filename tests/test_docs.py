"""Every example in the documentation works as it is written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import World
from clouds.aws_cloud import AwsCloud
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from cli.main import app
from sojourn import __version__
from sojourn.spec.launch import read_launch
from sojourn.spec.metric_patterns import LogReader

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Without torch, whose import takes longer than a run; other tests' ranks meet in groups of their own.
SCRIPT = """
    import json, os

    if os.environ.get("RANK", "0") == "0":
        json.dump({"world": int(os.environ.get("WORLD_SIZE", 1))}, open("metrics.json", "w"))
"""


def block(heading: str, language: str) -> str:
    """The first fenced block of a language below a heading."""
    section = README.split(f"## {heading}\n", 1)[1]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"  # nobody there: runs go on without
    yield world
    assert not world.clean()


@pytest.mark.local
def test_the_ten_lines_of_the_readme_work(world: World) -> None:
    world.script(SCRIPT)
    lines = [shlex.split(line, comments=True) for line in block("Ten lines that work", "bash").splitlines()]
    assert len(lines) == 10
    for words in lines:
        done = world.sojourn(*words[1:])
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    assert (world.project / "results" / "metrics.json").is_file()


def test_the_commands_of_the_readme_for_amazon_work(aws: AwsCloud, world: World) -> None:
    world.environment.update(aws.environment)
    lines = [shlex.split(line, comments=True) for line in block("Amazon", "bash").splitlines()]
    said = ""
    for words in lines:
        done = world.sojourn(*words[1:], given="hunter2")
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        said += done.stdout
    for told in ("Nothing was made", "7 to make", '"who_runs_sojourn"', "✓ bucket", "WANDB_API_KEY"):
        assert told in said
    assert "hunter2" not in said


def test_the_launch_section_of_the_readme_is_valid(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(block("What it does with your project", "yaml"))
    launch = read_launch(tmp_path, {})
    assert (launch.stage, launch.processes, launch.deadline) == ("train", 2, 9000.0)


def test_the_metrics_of_the_readme_find_what_its_script_prints(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(block("Watching it", "yaml"))
    reader = LogReader(read_launch(tmp_path, {"command": ("python", "train.py")}).metrics, pytest.fail)
    found = reader.feed(re.search(r"epoch.*\n", block("Watching it", ""))[0].encode())  # type: ignore[index]
    assert [(one.name, one.value, one.step) for one in found] == [("loss", 0.527, 350), ("steps", 1000, 350)]


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/events.md", "docs/machines.md", "docs/secrets.md"],
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert not [target for target in targets if not ((ROOT / page).parent / target).exists()]


def verbs() -> dict[str, TyperCommand]:
    """Each verb by its words; `setup` and `secret` have some of their own."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    found: dict[str, TyperCommand] = {}
    for name, command in group.commands.items():
        inner = command.commands if isinstance(command, TyperGroup) else {}
        found |= {f"{name} {one}": under for one, under in inner.items()} or {name: command}
    return found


def examples() -> dict[str, list[str]]:
    """The example in each verb's help, as words."""
    found = {name: re.findall(r"Example: (sojourn .*)", command.help or "") for name, command in verbs().items()}
    return {name: shlex.split(lines[0]) if len(lines) == 1 else [] for name, lines in found.items()}


def test_every_verb_shows_one_example_in_its_help_that_its_parser_takes() -> None:
    known = verbs()
    for name, words in examples().items():
        said = ["sojourn", *name.split()]
        assert words[: len(said)] == said, name
        known[name].make_context(name, words[len(said) :])


@pytest.mark.local
def test_the_examples_in_the_help_work(aws: AwsCloud, world: World) -> None:
    world.script("pass\n")
    found = examples()
    # Tested elsewhere: they need a server, an account, a DVC project, or a run that goes on.
    elsewhere = {"deploy", "ui", "doctor", "secret", "exec", "prefect", "dvc"}
    for name in sorted(found, key=lambda name: name != "train"):
        if name not in elsewhere:
            account = aws.environment if name.startswith(("setup", "secret")) else {}
            done = world.sojourn(*found[name][1:], given="hunter2", **account)
            assert done.returncode == 0, f"{shlex.join(found[name])}\n{done.stdout}{done.stderr}"


def test_the_version_is_that_of_the_package(world: World) -> None:
    assert world.sojourn("--version").stdout == f"sojourn {__version__}\n"
