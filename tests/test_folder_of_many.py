"""One folder of a repository of many: what lies beside it in the repository can be sent and comes home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sojourn.errors import SpecError
from sojourn.plan.planning import Plan, make_plan
from sojourn.project import bundle
from sojourn.project.project import Project
from sojourn.providers.local import LocalProvider
from sojourn.spec.launch import make_launch
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder with a script that reads `../data`, which git ignores."""
    root = tmp_path / "examples"
    for name, text in {
        "mnist/main.py": "open('../data/a.bin')\n",
        "data/a.bin": "xyz",
        ".gitignore": "data/\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", root], check=True)
    return root / "mnist"


def plan(directory: Path, tmp_path: Path, **asked: Any) -> Plan:
    """The plan for its script on this host."""
    return make_plan(
        make_launch({"command": ("python", "main.py"), **asked}, origin="test"),
        Project.at(directory),
        LocalProvider(tmp_path / "home"),
        run="quiet-heron-7f3a",
        store="file:///srv/runs",
        home=tmp_path / "home",
        now=1.0,
        surroundings={"PATH": f"{Path(sys.executable).parent}:{os.defpath}"},
    )


@pytest.mark.parametrize("spelling", ["../data", "../mnist/../data/", "../data/a.bin", "{root}/data"])
def test_data_beside_the_folder_is_sent(mnist: Path, tmp_path: Path, spelling: str) -> None:
    asked = spelling.format(root=mnist.parent)
    mailbox = Mailbox(Store((tmp_path / "store").as_uri()), "examples", "quiet-heron-7f3a")

    assert plan(mnist, tmp_path, inputs=[asked]).input_files == 1
    entries, _ = bundle.pack_inputs(Project.at(mnist), [asked], mailbox)
    assert [entry.path for entry in entries] == ["data/a.bin"]


def test_data_named_in_full_by_way_of_a_link_is_sent(mnist: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(mnist.parent)

    assert plan(mnist, tmp_path, inputs=[f"{tmp_path}/mine/data"]).input_files == 1


def test_the_plan_names_the_flag_that_sends_what_git_ignores_beside_the_folder(mnist: Path, tmp_path: Path) -> None:
    found = next(one for one in plan(mnist, tmp_path).omissions if not one.trivial)

    assert (found.paths, found.remedy) == (("data/",), "--input ../data")


def test_an_output_beside_the_folder_comes_home_though_git_ignores_it(mnist: Path, tmp_path: Path) -> None:
    made = plan(mnist, tmp_path, outputs=["../models"])

    assert made.named_outputs == ("models",)
    assert "!/models" in made.ignore


@pytest.mark.parametrize("field", ["inputs", "outputs"])
@pytest.mark.parametrize("path", ["../..", "../../data", "/data", "/"])
def test_what_lies_outside_the_repository_is_refused(mnist: Path, tmp_path: Path, field: str, path: str) -> None:
    with pytest.raises(SpecError, match=f"{field}: '{path}' is not inside the project, {mnist.parent}") as caught:
        plan(mnist, tmp_path, **{field: [path]})
    assert caught.value.hint


def test_an_input_that_is_not_there_is_named_with_what_is(mnist: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'\.\./dat' is not in .*, did you mean 'data'"):
        plan(mnist, tmp_path, inputs=["../dat"])


def test_an_input_from_a_folder_that_stays_is_not_told_as_left_out(mnist: Path, tmp_path: Path) -> None:
    (mnist.parent / "data/b.bin").write_text("rest")

    def told(*inputs: str) -> list[tuple[int, int]]:
        omissions = plan(mnist, tmp_path, inputs=inputs).omissions
        return [(one.files, one.bytes) for one in omissions if one.reason == "ignored by git"]

    assert told() == [(2, 7)]
    assert told("../data/a.bin") == [(1, 4)]
    assert told("../data/a.bin", "../data/b.bin") == []
    assert told("../data") == []
