"""What is started: words as they were typed, shell as a whole script, ranks only where they were asked for."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.plan.command import (
    check_script,
    check_shell,
    from_stage,
    from_words,
    notes,
    program_of,
    read,
    script_of,
    shell_of,
    shown,
    title,
    with_arguments,
)
from sojourn.protocol import Command
from sojourn.spec.launch import make_launch


def asked(command: object) -> object:
    """What a `command:` of params.yaml is kept as."""
    return make_launch({"command": command}, origin="test").command


# --- words or a script ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("python train.py --epochs 3", ("python", "train.py", "--epochs", "3")),
        ("python train.py 'two words; && |' \"a (b)\"", ("python", "train.py", "two words; && |", "a (b)")),
        ("python train.py \\\n  --epochs 3 \\\n  --lr 0.1\n", ("python", "train.py", "--epochs", "3", "--lr", "0.1")),
        ("python train.py --tag a\\&b it\\'s", ("python", "train.py", "--tag", "a&b", "it's")),
        ('python train.py "say \\"hi\\""', ("python", "train.py", 'say "hi"')),
        ("python train.py lr=0.1 x.y=a#b", ("python", "train.py", "lr=0.1", "x.y=a#b")),
        ("python -c 'a = 1\nprint(a)'", ("python", "-c", "a = 1\nprint(a)")),
    ],
)
def test_what_a_shell_would_only_split_is_a_program_and_its_arguments(text: str, words: tuple[str, ...]) -> None:
    assert asked(text) == words


@pytest.mark.parametrize(
    "text",
    [
        "python prepare.py && python train.py --epochs 1",
        "python prepare.py || true",
        "python prepare.py; python train.py",
        "echo one\necho two\npython train.py",
        "python train.py > log.txt",
        "python train.py 2>&1 | tee log.txt",
        "LR=0.1 python train.py",
        "python train.py --data $DATA",
        'python train.py --data "$HOME/data"',
        "python train.py `date`",
        "python train.py $(date +%s)",
        "python train.py data/*.csv",
        "python train.py layers=[64,64]",
        "python train.py +trainer={max_epochs:1}",
        "python train.py ~/data",
        "(cd src; python train.py)",
        "cd src\npython train.py",
        "for seed in 1 2; do python train.py $seed; done",
        "python train.py # all of it",
        "#!/bin/bash\nset -o pipefail\npython train.py | tee log",
        "cat <<END > x.txt\nit's\nEND\npython train.py",
    ],
)
def test_what_a_shell_would_do_more_with_is_a_script_and_nothing_of_it_is_dropped(text: str) -> None:
    kept = asked(text)

    assert isinstance(kept, str) and kept.strip() == text
    command = read(kept, 1, 1)
    assert (command.shell, command.argv[0].strip()) == (True, text)
    assert command.interpreter == ("/bin/sh", "-e"), "a script stops at its first error"


def test_a_script_survives_the_plan_s_json() -> None:
    launch = make_launch({"command": "a && b"}, origin="test")

    assert make_launch(launch.model_dump(mode="json", exclude_unset=True), origin="test") == launch


@pytest.mark.parametrize("text", ["# nothing but a comment", "\n", "  ", "# a\n\n# b\n"])
def test_a_script_that_runs_nothing_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="the command is empty"):
        asked(text)


@pytest.mark.parametrize("sign", ["&&", "|", ">", ";", "2>&1"])
def test_a_sign_for_a_shell_in_a_list_is_refused(sign: str) -> None:
    with pytest.raises(SpecError, match="is a sign for a shell, and a list starts one program"):
        asked(["python", "prepare.py", sign, "python", "train.py"])


def test_an_argument_that_looks_like_shell_can_be_given_in_quotes() -> None:
    assert asked("python plot.py --operator '>' '&&'") == ("python", "plot.py", "--operator", ">", "&&")


def test_variables_typed_before_a_program_are_set_for_it() -> None:
    words = asked(["CUDA_VISIBLE_DEVICES=0,1", "TAG=", "python", "train.py", "a=b"])
    assert words == ("env", "CUDA_VISIBLE_DEVICES=0,1", "TAG=", "python", "train.py", "a=b")
    assert isinstance(words, tuple)
    assert read(words, 2, 1).wrap == 3  # so several ranks of it can be started
    assert asked(["LR=1"]) == ("LR=1",)  # no program: refused by its name


def test_a_command_is_shown_as_it_can_be_typed_again() -> None:
    words = ("python", "train.py", "--name", "two words", "a && b", "", "x=[1,2]")
    assert tuple(shlex.split(shown(read(words, 1, 1)))) == words


@pytest.mark.parametrize("text", ["python train.py &", "nohup python train.py > log 2>&1 &\n", "a\nb & \n"])
def test_a_program_that_would_be_left_in_the_background_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="leaves its program in the background"):
        read(str(asked(text)), 1, 1)


def test_background_programs_that_are_waited_for_are_a_script() -> None:
    assert read("python a.py &\npython b.py &\nwait\n", 1, 1).shell


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a && b", "a && b  (a script for /bin/sh -e)"),
        ("# hi\na\nb\n", "a; b  (a script for /bin/sh -e)"),
        ("#!/bin/bash -eu\na\n", "a  (a script for /bin/bash -eu)"),
        ("a\nb\nc\nd\ne\n", "a; b; c … 5 lines  (a script for /bin/sh -e)"),
    ],
)
def test_a_script_is_shown_with_what_reads_it(text: str, line: str) -> None:
    assert shown(read(text, 1, 1)) == line


def test_a_script_that_cannot_be_read_is_refused_in_the_shell_s_words() -> None:
    with pytest.raises(SpecError, match="cannot read it: .*(end of file|fi)"):
        check_shell(read("if true\nthen echo\n", 1, 1), "/bin:/usr/bin")
    with pytest.raises(SpecError, match="'/bin/zzsh', which is no program here"):
        check_shell(read("#!/bin/zzsh\necho\n", 1, 1), "/bin:/usr/bin")
    check_shell(read("#!/usr/bin/env python3\nimport this\n", 1, 1), "/bin:/usr/bin")


# --- ranks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wrap"),
    [
        ("python train.py --epochs 3", 0),
        ("python3 train.py", 0),
        ("python3.11 -m trainer", 0),
        ("/usr/bin/python train.py", 0),
        ("python -u train.py", 0),
        ("python -W ignore -X dev -O train.py", 0),
        ("uv run python train.py", 2),
        ("uv run --extra gpu --with wandb python train.py", 6),
        ("poetry run python -m trainer", 2),
        ("conda run -n train python train.py", 4),
        ("env LR=1 OMP_NUM_THREADS=2 python train.py", 3),
        ("python", None),
        ("python -c pass", None),
        ("python -", None),
        ("pythonic train.py", None),
        ("uv run", None),
        ("bash run.sh", None),
        ("./train", None),
    ],
)
def test_only_a_plain_python_script_or_module_can_be_wrapped(line: str, wrap: int | None) -> None:
    assert from_words(tuple(line.split()), processes=1, nodes=1).wrap == wrap


@pytest.mark.parametrize(
    "line",
    [
        "torchrun train.py",
        "/opt/venv/bin/torchrun train.py",
        "python -m torch.distributed.run train.py",
        "python3 -u -m torch.distributed.launch train.py",
        "uv run torchrun x.py",
        "uv run --extra cpu torchrun x.py",
        "env A=1 torchrun x.py",
        "accelerate launch --machine_rank 0 x.py",
        "python -m accelerate.commands.launch --machine_rank 0 x.py",
        "deepspeed --hostfile hosts x.py",
    ],
)
def test_what_starts_ranks_by_itself_is_started_once_on_each_node(line: str) -> None:
    command = from_words(tuple(line.split()), processes="gpu", nodes=2)

    assert (command.wrap, command.argv) == (None, tuple(line.split()))


@pytest.mark.parametrize("line", ["accelerate launch x.py", "deepspeed x.py", "uv run accelerate launch x.py"])
def test_a_launcher_that_knows_nothing_of_the_other_nodes_is_refused(line: str) -> None:
    with pytest.raises(SpecError, match="would start one training on each node"):
        from_words(tuple(line.split()), processes=1, nodes=2)
    with pytest.raises(SpecError, match="would start one training on each node"):
        read(f"{line} --data $DATA", processes=1, nodes=2)
    assert from_words(tuple(line.split()), processes=1, nodes=1).wrap is None


@pytest.mark.parametrize(
    "asked",
    [
        ("nohup", "accelerate", "launch", "x.py"),
        ("stdbuf", "-oL", "deepspeed", "x.py"),
        ("env", "-u", "A", "accelerate", "launch", "x.py"),
        ("nice", "-n", "5", "uv", "run", "accelerate", "launch", "x.py"),
        ("bash", "-c", "cd src\naccelerate launch x.py"),
        "python prepare.py && accelerate launch x.py",
        "export A=1\nexec accelerate launch x.py",
    ],
)
def test_a_launcher_behind_another_program_or_in_lines_of_shell_is_refused_as_well(
    asked: str | tuple[str, ...],
) -> None:
    with pytest.raises(SpecError, match="would start one training on each node"):
        read(asked, processes=1, nodes=2)
    assert read(asked, processes=1, nodes=1).wrap is None
    assert read(asked, processes="own", nodes=2).wrap is None


@pytest.mark.parametrize("before", ["nohup", "nice -n 5", "env -u A", "stdbuf -oL", "timeout 60"])
def test_python_behind_another_program_is_one_training_over_all_nodes(before: str) -> None:
    command = from_words((*before.split(), "python", "-u", "x.py", "--a"), processes=2, nodes=2)

    assert command.wrap == len(before.split())
    assert script_of(command) == "x.py"


@pytest.mark.parametrize(
    ("line", "processes", "nodes", "says"),
    [
        ("torchrun --nproc_per_node 2 x.py", 4, 1, "processes: 4 and --nproc_per_node 2"),
        ("torchrun --nproc-per-node=2 x.py", 4, 1, "processes: 4 and --nproc_per_node 2"),
        ("torchrun --nnodes 1 x.py", 1, 2, "nodes: 2 and --nnodes 1"),
        ("torchrun --nnodes=2 x.py", 1, 1, "nodes: 1 and --nnodes 2"),
        ("torchrun --standalone x.py", 1, 2, "nodes: 2 and --standalone"),
        ("accelerate launch x.py", 4, 1, "accelerate starts its own ranks"),
    ],
)
def test_two_numbers_of_ranks_are_refused(line: str, processes: int, nodes: int, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        from_words(tuple(line.split()), processes, nodes)


@pytest.mark.parametrize("processes", [2, "gpu"])
def test_several_ranks_of_anything_else_are_refused(processes: int) -> None:
    for text in ("bash run.sh", "python a.py && python b.py", "LR=1 python a.py", "#!/bin/sh\npython a.py\n"):
        with pytest.raises(SpecError, match="cannot be started by torchrun"):
            read(asked(text), processes, 1)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="cannot be started by torchrun"):
        from_stage(("python train.py > log",), processes, 1)


@pytest.mark.parametrize("text", ["bash launch.sh", "./launch", "bash launch.sh > log", "a && b"])
def test_anything_may_be_started_once_on_each_node(text: str) -> None:
    command = read(asked(text), 1, 3)  # type: ignore[arg-type]

    assert (command.wrap, command.processes) == (None, 1)


def test_a_script_that_starts_its_own_ranks_is_not_wrapped_on_several_nodes() -> None:
    assert from_words(("python", "train.py"), "own", 2) == Command(argv=("python", "train.py"))
    assert from_words(("python", "train.py"), 1, 2).wrap == 0


def test_one_command_that_only_a_shell_can_expand_is_wrapped_too() -> None:
    command = read('python train.py layers=[1,2] "$DATA"', 2, 1)

    assert (command.shell, command.wrap, command.processes) == (True, 0, 2)


def test_uv_runs_a_file_by_its_python_so_ranks_of_it_can_be_started() -> None:
    assert from_words(("uv", "run", "train.py"), 2, 1).argv == ("uv", "run", "python", "train.py")
    assert from_words(("uv", "run", "-m", "trainer"), 2, 1).argv == ("uv", "run", "python", "-m", "trainer")
    assert from_words(("uv", "run", "train.py"), 1, 1).argv == ("uv", "run", "train.py")


def test_a_launcher_that_needs_ssh_is_refused_on_several_nodes() -> None:
    with pytest.raises(SpecError, match="mpirun reaches other machines by SSH"):
        from_words(("mpirun", "-np", "4", "python", "train.py"), 1, 2)


@pytest.mark.parametrize("text", ["cd /home/me/digits && python train.py", "cd '/home/me/digits/src'\npython train.py"])
def test_a_script_that_goes_to_the_user_s_own_tree_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="it goes to /home/me/digits, where your own files stand"):
        notes(read(asked(text), 1, 1), [Path("/home/me/digits")])  # type: ignore[arg-type]


def test_an_argument_in_the_user_s_own_tree_is_told() -> None:
    live = [Path("/home/me/digits")]
    assert "reads your own files" in notes(from_words(("python", "a.py", "--data=/home/me/digits/x"), 1, 1), live)[0]
    assert notes(from_words(("python", "a.py", "--data=/home/me/digits-2/x"), 1, 1), live) == ()
    assert notes(from_words(("python", "a.py", "--data=data"), 1, 1), live) == ()


# --- stages -------------------------------------------------------------------------------------


def test_a_plain_line_of_a_stage_is_started_without_a_shell() -> None:
    assert from_stage(("python train.py 'a b'",), 2, 1) == Command(
        argv=("python", "train.py", "a b"), wrap=0, processes=2
    )


@pytest.mark.parametrize("line", ["python a.py | tee log", "echo $HOME", "rm *.pt", "cat [ab]", "echo it's", "A=1 b"])
def test_shell_in_a_stage_goes_to_the_shell_that_dvc_would_take(line: str) -> None:
    command = from_stage((line,), 1, 1, ("/bin/bash", "--noprofile", "--norc"))

    assert (command.argv, command.interpreter) == ((line,), ("/bin/bash", "--noprofile", "--norc"))


def test_each_line_of_a_stage_has_a_shell_of_its_own_as_in_dvc(tmp_path: Path) -> None:
    import subprocess

    def run(*lines: str) -> subprocess.CompletedProcess[str]:
        command = from_stage(lines, 1, 1)
        words = [*command.interpreter, "-c", command.argv[0]]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    (tmp_path / "sub").mkdir()
    here = run("cd sub; X=1", "pwd; echo it's \"$X\" '\"'")
    assert here.returncode != 0  # the second line's own quote does not end
    here = run("cd sub; X=1", 'pwd; echo "it\'s $X"')
    assert here.stdout.splitlines() == [str(tmp_path), "it's "]
    stopped = run("echo one", "exit 3", "echo two")
    assert (stopped.returncode, stopped.stdout) == (3, "one\n")
    assert run("false; echo goes on", "true").stdout == "goes on\n"


def test_the_shell_of_a_stage_is_the_user_s_own_here_and_one_that_all_have_elsewhere() -> None:
    assert shell_of({"SHELL": "/usr/bin/zsh"}, True) == ("/usr/bin/zsh", "--no-rcs")
    assert shell_of({"SHELL": "/usr/bin/zsh"}, False) == ("bash", "--noprofile", "--norc")
    assert shell_of({}, False) == shell_of({"SHELL": ""}, True) == ("/bin/sh",)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "program", "script", "called"),
    [
        ("python train.py --lr 1", "python", "train.py", "train.py"),
        ("python -u src/train.py", "python", "src/train.py", "src/train.py"),
        ("python -m trainer --lr 1", "python", None, "-m trainer"),
        ("uv run --extra gpu train.py", "uv", "train.py", "train.py"),
        ("bash launch.sh 2", "bash", "launch.sh", "launch.sh"),
        ("torchrun train.py", "torchrun", None, "torchrun"),
        ("python train.py layers=[1,2]", "python", "train.py", "train.py"),
        ("python $SCRIPT", "python", None, "$SCRIPT"),
        ("python a.py && python b.py", None, None, "python a.py && python b.py"),
        ("#!/bin/bash\npython a.py\n", None, None, "python a.py"),
    ],
)
def test_the_program_the_script_and_what_a_run_is_called(
    text: str, program: str | None, script: str | None, called: str
) -> None:
    command = read(asked(text), 1, 1)  # type: ignore[arg-type]

    assert (program_of(command), script_of(command), title(command)) == (program, script, called)


def test_arguments_are_added_to_words_and_refused_for_a_script() -> None:
    assert with_arguments(from_words(("python", "x.py"), 1, 1), ("--resume",)).argv == ("python", "x.py", "--resume")
    with pytest.raises(SpecError, match="cannot be added to a script"):
        with_arguments(read("a && b", 1, 1), ("--resume",))


def test_a_script_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "launch.sh").touch()

    with pytest.raises(SpecError, match=r"'trian\.py' is not a file") as caught:
        check_script(from_words(("python", "trian.py"), 1, 1), tmp_path)
    assert "train.py" in (caught.value.hint or "")
    with pytest.raises(SpecError, match=r"'run\.sh' is not a file") as caught:
        check_script(from_words(("bash", "run.sh"), 1, 1), tmp_path)
    assert "launch.sh" in (caught.value.hint or "")


@pytest.mark.parametrize("line", ["python train.py", "python -m trainer", "bash -c run.sh", "make train"])
def test_what_cannot_be_looked_up_is_not_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()

    check_script(from_words(tuple(line.split()), 1, 1), tmp_path)


@pytest.mark.parametrize("text", ["uv run python x.py $DATA", "nohup python x.py $DATA", "env A=1 python x.py [1]"])
def test_python_that_torchrun_cannot_be_put_behind_is_refused_on_several_nodes(text: str) -> None:
    with pytest.raises(SpecError, match="would start one training on each node"):
        read(asked(text), 1, 2)  # type: ignore[arg-type]
    assert read(asked(text), "own", 2).wrap is None  # type: ignore[arg-type]
    assert read(asked(text), 1, 1).wrap is None  # type: ignore[arg-type]


def test_a_launcher_in_one_of_several_lines_of_a_stage_is_refused_on_several_nodes() -> None:
    with pytest.raises(SpecError, match="would start one training on each node"):
        from_stage(("python prepare.py", "accelerate launch x.py"), 1, 2)


@pytest.mark.parametrize("line", ["uvx accelerate launch x.py", "uv tool run accelerate launch x.py"])
def test_a_launcher_that_uv_fetches_is_known_too(line: str) -> None:
    with pytest.raises(SpecError, match="would start one training on each node"):
        from_words(tuple(line.split()), processes=1, nodes=2)
