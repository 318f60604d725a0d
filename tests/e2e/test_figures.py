"""What a plan says in files, bytes and dollars is what the run then says."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest
from cli_world import World
from dvc_project import Project

from sojourn.protocol import Bundle
from sojourn.results.publish import Inputs
from sojourn.run.runs import find_run
from sojourn.shorthand import format_bytes

pytestmark = pytest.mark.local


class Figures(NamedTuple):
    """A plan, the lines of a run's steps, and its report."""

    plan: dict[str, Any]
    text: str
    steps: dict[str, str]
    report: dict[str, Any]


def both(world: World, *words: str) -> Figures:
    """Plan and train the same; whatever is promised of files and bytes is what travelled."""
    planned = world.sojourn("plan", "--json", *words)
    assert planned.returncode == 0, planned.stderr
    plan, text = json.loads(planned.stdout), world.sojourn("plan", *words).stdout
    done = world.sojourn("train", "--no-prefect", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = dict(re.findall(r"^✓ (\w+) +(.*?)  [\d.]+ s$", done.stdout, re.MULTILINE))
    box = find_run([world.store], "last")
    bundle, inputs = box.read("bundle", Bundle), box.read("inputs", Inputs)
    assert bundle is not None and inputs is not None
    assert (plan["files"], plan["bytes"]) == (len(bundle.listing) + len(bundle.links), bundle.bytes)
    assert (plan["input_files"], plan["input_bytes"]) == (len(inputs.files), sum(one.size for one in inputs.files))
    report = world.show()["report"]
    assert report["cost"] <= plan["ceiling"] and report["commit"] == plan["commit"]
    assert report["changed"] == plan["changed"] and report["machine"] == plan["offers"][0]["machine"]
    return Figures(plan, text, steps, report)


def moved(figures: Figures, how: str) -> str | None:
    """What the run says that it has `sent` or `pushed` of the data."""
    found = re.search(rf"([\d.]+ \w?B) {how}", figures.steps["data"])
    return found[1] if found else None


def test_what_a_plan_says_of_named_inputs_is_what_is_sent_and_no_more(world: World) -> None:
    world.script("open('model.pt', 'w').write('m')")
    for number in range(20):
        world.script(str(number // 2), f"data/{number}.txt")  # two of each are equal
    world.script("x" * 200_000, "data/large.bin")
    (world.project / "data/link").symlink_to("0.txt")
    world.script("data/\n", ".gitignore")
    world.script("y" * 1_100_000, "assets/vocabulary.txt")
    (world.project / "vocabulary.txt").symlink_to("assets/vocabulary.txt")
    world.git("init", "-q"), world.git("add", "."), world.git("commit", "-qm", "first")
    words = ("--input", "data", "--", "python", "train.py")

    first = both(world, *words)
    assert "to push" not in first.text and f"at most {format_bytes(first.plan['send_bytes'])} to send" in first.text
    assert moved(first, "pushed") is None and moved(first, "sent") == format_bytes(200_030 + 1)
    assert "of it git's" in first.steps["bundle"]

    again = both(world, *words)
    assert again.steps["data"] == "22 files, nothing to move" and again.steps["bundle"].endswith("nothing to send")


def test_what_a_plan_says_of_dvc_s_data_is_what_is_pushed(world: World, dvc_template: Project) -> None:
    project = dvc_template.copy(world.root / "dvc")
    world.project = project.root
    project.write("extra/more.csv", "1,2,3\n")

    first = both(world, "--stage", "train", "--input", "extra", "--input", "data")
    assert first.plan["push_bytes"] > 0 and first.plan["send_bytes"] == 6, "the rest is DVC's"
    assert moved(first, "pushed") == format_bytes(first.plan["push_bytes"])
    assert f"{format_bytes(first.plan['push_bytes'])} to push, at most 6 B to send" in first.text
    assert moved(first, "sent") == "6 B"

    again = both(world, "--stage", "train", "--input", "extra", "--input", "data")
    assert again.plan["push_bytes"] == 0 and "0 B to push" in again.text and again.steps["data"].endswith("to move")
