"""Scripts that are started on each of several machines, and what they start themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.plan.command import from_words, read
from sojourn.plan.node_scripts import look
from sojourn.protocol import Command
from sojourn.spec.launch import make_launch


def on_two(text: str) -> Command:
    """The command that a `command:` of params.yaml is, on two machines."""
    asked = make_launch({"command": text}, origin="test").command
    assert asked is not None
    return read(asked, 1, 2)


FILES = {
    "accel.sh": "#!/bin/bash\nset -e\naccelerate launch \\\n  --mixed_precision bf16 x.py\n",
    "knows.sh": "#!/bin/bash\naccelerate launch --machine_rank $NODE_RANK x.py\n",
    "plain.sh": "#!/bin/bash\n# accelerate launch x.py\necho accelerate launch\n./tool\n",
    "train.py": "#!/usr/bin/env python3\nprint(1)\n",
    "tool": "#!/usr/bin/perl\n",
}


@pytest.mark.parametrize(
    "text",
    [
        "bash accel.sh",
        "./accel.sh --a",
        "nohup bash accel.sh",
        "sleep 1 && bash accel.sh",
        "bash -c './accel.sh'",
        "./train.py",
    ],
)
def test_a_script_file_that_would_start_one_training_on_each_node_is_refused(text: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    command = on_two(text)

    with pytest.raises(SpecError, match="would start one training on each node"):
        look(command, tmp_path, 1, 2)
    look(command, tmp_path, 1, 1)
    look(command, tmp_path, "own", 2)


@pytest.mark.parametrize(
    "text", ["bash knows.sh", "bash plain.sh", "./tool", "bash elsewhere.sh", "ls", "python train.py"]
)
def test_any_other_script_file_is_started_once_on_each_node(text: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)

    look(on_two(text), tmp_path, 1, 2)


def test_a_launcher_in_a_makefile_is_refused_like_the_bare_one(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("train: data\n\t@accelerate launch x.py\n")
    make = from_words(("make", "train"), processes=1, nodes=2)
    with pytest.raises(SpecError, match="would start one training on each node"):
        look(make, tmp_path, 1, 2)
    look(make, tmp_path, "own", 2)
    (tmp_path / "Makefile").write_text("train: data\n\tbash go.sh\n")
    look(make, tmp_path, 1, 2)


DEEP = {
    "sub/accel.sh": "accelerate launch x.py\n",
    "run.sh": "#!/bin/bash\nset -e\ncd sub\nbash accel.sh\n",
    "outer.sh": "#!/bin/sh\n./run.sh\n",
    "env.sh": "source sub/accel.sh\n",
    "dot.sh": ". ./sub/accel.sh\n",
    "round.sh": "bash round.sh\nbash round.sh\n",
    "other.mk": "all:\n\tcd sub && ./accel.sh\n",
    "sub/deep.mk": "all:\n\tbash run.sh\n",
    "sub/Makefile": "all:\n\tbash accel.sh\n",
    "knowing.sh": "export RANK=$NODE_RANK\nbash run.sh\n",
}


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    for name, text in DEEP.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "cd sub && bash accel.sh", "cd sub; ./accel.sh", "(cd sub && bash accel.sh)",
        "bash -c 'cd sub && bash accel.sh'", "bash run.sh", "bash outer.sh",
        "bash env.sh", "sh dot.sh", "source sub/accel.sh", "make -f other.mk",
        "make -C sub", "pushd sub && bash ./accel.sh", "python prepare.py && bash run.sh",
        "timeout 1h bash run.sh", "make -f sub/deep.mk",
    ],
)  # fmt: skip
def test_a_launcher_in_a_script_that_another_one_starts_or_in_another_folder_is_refused(text: str, deep: Path) -> None:
    with pytest.raises(SpecError, match="would start one training on each node"):
        look(on_two(text), deep, 1, 2)


@pytest.mark.parametrize("text", ["bash knowing.sh", "torchrun x.py && echo done", "echo $MASTER_ADDR; ./tool"])
def test_what_knows_of_the_other_machines_needs_no_word(text: str, deep: Path) -> None:
    assert look(on_two(text), deep, 1, 2) == ()


def test_where_nothing_knows_of_the_other_machines_the_plan_says_so(deep: Path) -> None:
    (note,) = look(on_two("bash round.sh && ./tool --fast && $RUN; my-trainer"), deep, 1, 2)
    assert note.startswith("nodes: 2: ") and "is started once on each machine" in note
    assert note.endswith(
        "2 trainings apart from each other, unless it finds the others itself; "
        "not looked into: ./tool, $RUN, my-trainer"
    )
    (deep / "plain.py").write_text("print(1)")
    (deep / "knows.py").write_text("import os; os.environ['MASTER_ADDR']")
    (deep / "train.sh").write_text("python plain.py\n")
    assert len(look(on_two("bash train.sh"), deep, 1, 2)) == 1
    assert look(on_two("bash train.sh"), deep, 1, 1) == look(on_two("bash train.sh"), deep, "own", 2) == ()
    (deep / "train.sh").write_text("python knows.py\n")
    assert look(on_two("bash train.sh"), deep, 1, 2) == ()
    assert look(on_two("python plain.py"), deep, 1, 2) == (), "torchrun is put behind it"
