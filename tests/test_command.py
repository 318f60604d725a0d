"""Which commands torchrun may wrap, and which are refused before a machine is paid to find out."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.command import check_script, from_stage, from_words
from sojourn.errors import SpecError
from sojourn.records import Command


@pytest.mark.parametrize(
    ("line", "wrap"),
    [
        ("python train.py --epochs 3", 0),
        ("python3 train.py", 0),
        ("python3.11 -m trainer", 0),
        ("/usr/bin/python train.py", 0),
        ("uv run python train.py", 2),
        ("poetry run python -m trainer", 2),
        ("python", None),
        ("python -c pass", None),
        ("python -u train.py", None),
        ("pythonic train.py", None),
        ("uv run", None),
        ("bash run.sh", None),
        ("./train", None),
    ],
)
def test_only_a_plain_python_script_or_module_can_be_wrapped(line: str, wrap: int | None) -> None:
    assert from_words(tuple(line.split()), processes=1, nodes=1).wrap == wrap


@pytest.mark.parametrize(
    "line", ["torchrun train.py", "accelerate launch x.py", "deepspeed x.py", "uv run torchrun x.py"]
)
def test_what_starts_ranks_by_itself_is_left_alone(line: str) -> None:
    command = from_words(tuple(line.split()), processes="gpu", nodes=2)

    assert (command.wrap, command.argv) == (None, tuple(line.split()))


@pytest.mark.parametrize(("processes", "nodes"), [(2, 1), ("gpu", 1), (1, 2)])
def test_several_ranks_of_anything_else_are_refused(processes: int, nodes: int) -> None:
    with pytest.raises(SpecError, match="'bash run.sh' cannot be started by torchrun"):
        from_words(("bash", "run.sh"), processes, nodes)
    with pytest.raises(SpecError, match="torchrun cannot start the stage's shell command"):
        from_stage(("python train.py > log",), processes, nodes)


def test_a_plain_line_of_a_stage_is_started_without_a_shell() -> None:
    assert from_stage(("python train.py 'a b'",), 2, 1) == Command(
        argv=("python", "train.py", "a b"), wrap=0, processes=2
    )


@pytest.mark.parametrize(
    "lines",
    [
        ("python a.py | tee log",),
        ("echo $HOME",),
        ("rm *.pt",),
        ("cat [ab]",),
        ("echo it's",),
        ("python a.py", "python b.py"),
        ("a\nb",),
    ],
)
def test_shell_in_a_stage_goes_to_a_shell_that_stops_at_the_first_error(lines: tuple[str, ...]) -> None:
    command = from_stage(lines, 1, 1)

    assert command.shell
    assert command.argv == ("set -e\n" + "\n".join(lines),)


def test_a_variable_before_the_program_of_a_stage_is_shell() -> None:
    assert from_stage(("LR=0.1 python train.py",), 1, 1).shell


def test_a_script_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()

    with pytest.raises(SpecError, match=r"'trian\.py' is not a file") as caught:
        check_script(from_words(("python", "trian.py"), 1, 1), tmp_path)
    assert "train.py" in (caught.value.hint or "")


@pytest.mark.parametrize("line", ["python train.py", "python -m trainer", "bash run.sh"])
def test_what_cannot_be_looked_up_is_not_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()

    check_script(from_words(tuple(line.split()), 1, 1), tmp_path)
