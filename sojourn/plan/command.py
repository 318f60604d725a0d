"""How the user's command is started: as it is, by a shell, or by torchrun.

Words are one program and its arguments. A text in which a shell would do more than split
words is a script for a shell, whole. Only what is plainly a Python script or module can be
wrapped by torchrun; what starts ranks by itself is started once on each node, and what
would start several trainings instead of one is refused before a machine is paid to find out.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from sojourn.environment import runner
from sojourn.errors import SpecError
from sojourn.protocol import Command
from sojourn.shorthand import is_one_command, is_shell, join_lines

Ranks = int | Literal["gpu"]
Processes = Ranks | Literal["own"]
LINES = 3  # of a script in one line
READ_LIMIT_S = 10.0

_PYTHON = re.compile(r"python(\d+(\.\d+)?)?")
# Flags of the interpreter that take no value, and those that take one.
_FLAGS, _FLAGS_WITH_VALUE = re.compile(r"-[bBdEhiIOPqsSuvVx]+"), {"-W", "-X"}
_LAUNCHER_MODULES = {
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "accelerate",
    "accelerate.commands.accelerate_cli": "accelerate",
    "deepspeed": "deepspeed",
    "deepspeed.launcher.runner": "deepspeed",
    "lightning.fabric.cli": "fabric",
    "lightning_fabric.cli": "fabric",
    "composer.cli.launcher": "composer",
    "horovod.runner.launch": "horovodrun",
}
_LAUNCHERS = {
    "torchrun",
    "accelerate",
    "deepspeed",
    "fabric",
    "composer",
    "horovodrun",
    "mpirun",
    "mpiexec",
    "colossalai",
}
# What each must be told, or it would start one training on every node instead of one over all of them.
_NODE_FLAGS = {
    "accelerate": (
        ("--machine_rank", "--machine-rank"),
        "accelerate launch --num_machines $NNODES --machine_rank $NODE_RANK --main_process_ip $MASTER_ADDR "
        "--main_process_port $MASTER_PORT --num_processes TOTAL train.py",
    ),
    "deepspeed": (
        ("--node_rank", "--hostfile", "-H"),
        "deepspeed --no_ssh --num_nodes $NNODES --node_rank $NODE_RANK --master_addr $MASTER_ADDR "
        "--master_port $MASTER_PORT train.py",
    ),
    "fabric": (
        ("--node-rank", "--node_rank"),
        "fabric run --num-nodes $NNODES --node-rank $NODE_RANK --main-address $MASTER_ADDR --main-port $MASTER_PORT "
        "train.py",
    ),
    "composer": (
        ("--node_rank",),
        "composer --world_size TOTAL --node_rank $NODE_RANK --master_addr $MASTER_ADDR --master_port $MASTER_PORT "
        "train.py",
    ),
}
_BY_SSH = {"mpirun", "mpiexec", "horovodrun", "colossalai"}  # start ranks on other machines, where nothing listens
_MAY_FAIL = {"echo", "printf", "yes", "cat", "ls", "head", "tail", "grep", "sed", "awk", "sort", "find", "cut", "tr"}
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}


class Program(NamedTuple):
    """What some words start: where its name stands, what it is, and the file that it is given."""

    at: int
    kind: Literal["python", "launcher", "other"]
    name: str
    script: int | None = None
    module: str | None = None


def read(asked: tuple[str, ...] | str, processes: Processes, nodes: int) -> Command:
    """The command that `launch.command` means: words, or a script. Raises SpecError when it cannot be started so."""
    if isinstance(asked, str):
        return from_text(asked, processes, nodes)
    return from_words(asked, processes, nodes)


def from_words(argv: tuple[str, ...], processes: Processes, nodes: int) -> Command:
    """The command as typed after `--`. Raises SpecError when its ranks cannot be started."""
    if processes == "own":
        return Command(argv=argv)
    program = program_in(argv)
    if program.kind == "launcher":
        _check_launcher(argv, program, processes, nodes)
        return Command(argv=argv, processes=processes)
    if program.kind == "other":
        _check_ranks(shlex.join(argv), processes)
        check_each(runner.within(list(argv)), processes, nodes)
        return Command(argv=argv)
    if (processes != 1 or nodes > 1) and not _PYTHON.fullmatch(program.name):
        argv = (*argv[: program.at], "python", *argv[program.at :])  # `uv run train.py`
    return Command(argv=argv, wrap=program.at, processes=processes)


def from_text(text: str, processes: Processes, nodes: int) -> Command:
    """A command that only a shell can read. Raises SpecError when its ranks cannot be started."""
    if re.search(r"(?<!&)&\s*$", text) and not re.search(r"\bwait\b", text):
        raise SpecError(
            f"command: {_first(text)!r} leaves its program in the background, where it ends as soon as the script has",
            hint="leave out the & at its end, or end the script with  wait",
        )
    if processes == "own":
        return Command(argv=(text,), shell=True)
    words, program = _simple(text) if not text.startswith("#!") and is_one_command(text) else ((), None)
    if program is not None and program.kind == "launcher":
        _check_launcher(words, program, processes, nodes)
        return Command(argv=(text,), shell=True, processes=processes)
    if program is not None and program.kind == "python" and program.at == 0 and not is_shell(words[0]):
        return Command(argv=(text,), shell=True, wrap=0, processes=processes)
    _check_ranks(_first(text), processes)
    if nodes > 1 and program is not None and program.kind == "python":
        raise SpecError(
            f"nodes: {nodes}: {_first(text)!r} would start one training on each node, not one over all of them",
            hint="start the line with `python`, for torchrun to be put behind it, or leave out what only a shell "
            "expands; a script that finds the other nodes itself takes  processes: own",
        )
    check_each(runner.commands(text), processes, nodes)
    return Command(argv=(text,), shell=True)


def _first(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def from_stage(
    lines: tuple[str, ...], processes: Processes, nodes: int, shell: tuple[str, ...] = ("/bin/sh",)
) -> Command:
    """The command of a DVC stage: each line is given to a shell of its own, as `dvc repro` does it.

    https://github.com/iterative/dvc/blob/3.67.1/dvc/stage/run.py. A plain line is started without one.
    """
    lines = tuple(line for line in lines if line.strip())
    if len(lines) == 1:
        if not is_shell(lines[0]):
            return from_words(tuple(shlex.split(lines[0])), processes, nodes)
        return from_text(lines[0], processes, nodes).model_copy(update={"interpreter": shell})
    if processes != "own":
        _check_ranks(lines[0], processes)
        check_each((words for line in lines for words in runner.commands(line)), processes, nodes)
    each = [f"{shlex.join(shell)} -c {shlex.quote(line)} || exit" for line in lines]
    return Command(argv=("\n".join(each),), shell=True, interpreter=("/bin/sh",))


def shell_of(surroundings: Mapping[str, str], shares_host: bool) -> tuple[str, ...]:
    """The shell that DVC gives a stage's lines to: the user's own; on another machine the nearest that all have."""
    own = surroundings.get("SHELL") or "/bin/sh"
    name = PurePosixPath(own).name.lower()
    options = {"zsh": ("--no-rcs",), "bash": ("--noprofile", "--norc")}
    if shares_host:
        return (own, *options.get(name, ()))
    return ("bash", *options["bash"]) if name in ("bash", "zsh", "fish") else ("/bin/sh",)


def with_arguments(command: Command, more: tuple[str, ...]) -> Command:
    """The same command with further arguments at its end. Raises SpecError for a script for a shell."""
    if more and command.shell:
        raise SpecError(
            f"resume_args: {shlex.join(more)!r} cannot be added to a script for a shell",
            hint="reduce the command to one `python FILE …` line, or let the script find its checkpoint itself",
        )
    return command.model_copy(update={"argv": (*command.argv, *more)})


def by_python(command: Command) -> Command:
    """`uv run python x.py` for `uv run x.py`: uv would make an environment for the script, beside that of the run."""
    by = None if command.shell else runner.in_words(command.argv)
    at = runner.past(command.argv)
    if by is None or not by.reads_script or not 0 < at < len(command.argv):
        return command
    if _PYTHON.fullmatch(PurePosixPath(command.argv[at]).name):
        return command
    before = [word for word in command.argv[:at] if word not in ("-s", "--script")]
    wrap = None if command.wrap is None else len(before)
    return command.model_copy(update={"argv": (*before, "python", *command.argv[at:]), "wrap": wrap})


def check_script(command: Command, directory: Path) -> None:
    """Refuse a script that is not there, naming the files that are. Raises SpecError."""
    script = script_of(command)
    if script is None or (directory / script).is_file():
        return
    there = sorted(path.name for path in directory.glob(f"*{PurePosixPath(script).suffix}") if path.is_file())[:8]
    raise SpecError(
        f"{script!r} is not a file in {directory}",
        hint=f"scripts here: {', '.join(there)}" if there else "no such file is here; is this the right directory?",
    )


def notes(command: Command, live: Iterable[Path]) -> tuple[str, ...]:
    """What to know of a command that names the user's own copy of the project by a whole path.

    Raises SpecError for one that goes there: it would run what stands here, and not what travels.
    """
    # A program may well be the interpreter of an environment that stands there.
    text = command.argv[0] if command.shell else shlex.join(command.argv[1:])
    named = next((path for path in map(str, live) if re.search(rf"{re.escape(path)}(?![\w.-])", text)), None)
    if named is None:
        return ()
    if command.shell and re.search(rf"\b(cd|pushd)\s+[\"']?{re.escape(named)}", text):
        raise SpecError(
            f"command: it goes to {named}, where your own files stand and not the copy that a run is given",
            hint="write the path relative to the directory that you stand in, or leave it out",
        )
    return (f"the command names {named} by its whole path: it reads your own files there, not the copy that travels",)


def unheeded(command: Command, lines: Iterable[str] = ()) -> tuple[str, ...]:
    """What to know of programs whose failure a shell does not heed, as it does not at home either.

    `lines` are those of a stage.
    """
    given = [] if command.shell else [command.argv[at + 1] for at, word in enumerate(command.argv[:-1]) if word == "-c"]
    texts = {*lines, *(command.argv[:1] if command.shell else given)}
    signs = [(name, sign, text) for text in sorted(texts) for name, sign in _ended(text)]
    named = [(name, sign, text) for name, sign, text in signs if name not in _MAY_FAIL]
    piped = [name for name, sign, text in named if sign in ("|", "|&") and "pipefail" not in text]
    beside = [name for name, sign, text in named if sign == "&" and not re.search(r"\bwait\s+[-$\"%\d]", text)]
    return (
        *(
            f"where {name!r} fails, the run succeeds all the same: of programs joined by | the last one's exit code "
            "counts; for each to count, begin the command with the lines  #!/bin/bash -e  and  set -o pipefail"
            for name in piped[:1]
        ),
        *(
            f"where {name!r} fails, the run succeeds all the same: it runs beside the others, and a bare  wait  does "
            "not heed how it ends; wait for each by itself:  wait $PID"
            for name in beside[:1]
        ),
    )


def _ended(text: str) -> Iterator[tuple[str, str]]:
    """Each program of lines of shell, and the sign behind its words and redirections."""
    begun: str | None = None
    for words, sign in runner.with_signs(text):
        name = begun or words[0]
        begun = name if "<" in sign or ">" in sign else None
        if begun is None:
            yield name, sign


def script_of(command: Command) -> str | None:
    """The file that python or a shell is given, seen from the command's directory; None for anything else."""
    found = _started(command)
    if found is None:
        return None
    words, program = found
    script = words[program.script] if program.script is not None else None
    if script is None or (command.shell and is_shell(script)):
        return None
    by = runner.in_words(words)
    return script if by is None else os.path.normpath(os.path.join(by.start, script))


def read_by_runner(command: Command) -> list[str]:
    """Files that `uv run` and its like are told to read, seen from the command's directory."""
    found = _started(command)
    by = runner.in_words(found[0]) if found else None
    return [os.path.normpath(os.path.join(by.start, name)) for name in by.read] if by else []


def program_of(command: Command) -> str | None:
    """The program that is started first, as far as that can be told without a shell."""
    found = _started(command)
    word = found[0][0] if found else None
    return None if word is None or (command.shell and is_shell(word)) else word


def title(command: Command) -> str:
    """What runs, without its arguments: a script, a module or a program."""
    found = _started(command)
    if found is None:
        return _body(command)[0]
    words, program = found
    if program.module:
        return f"-m {program.module}"
    return words[program.script if program.script is not None else program.at]


def shown(command: Command) -> str:
    """The command in one line; a script with what reads it."""
    if not command.shell:
        return shlex.join(command.argv).replace("\n", "; ")
    body = _body(command)
    rest = f" … {len(body)} lines" if len(body) > LINES else ""
    return f"{'; '.join(body[:LINES])}{rest}  (a script for {shlex.join(reader(command))})"


def reader(command: Command) -> tuple[str, ...]:
    """What reads a script: the program of its `#!` line, or a shell that stops at the first error."""
    first = command.argv[0].splitlines()[0]
    return tuple(first[2:].split()) if first.startswith("#!") else command.interpreter


def _body(command: Command) -> list[str]:
    lines = [line.strip() for line in command.argv[0].splitlines() if line.strip()]
    return [line for line in lines if not line.startswith("#")] or lines


def _started(command: Command) -> tuple[tuple[str, ...], Program] | None:
    if not command.shell:
        return command.argv, program_in(command.argv)
    text = command.argv[0]
    return None if text.startswith("#!") or not is_one_command(text) else _simple(text)


# --- what the words start ---------------------------------------------------------------------


def program_in(argv: tuple[str, ...]) -> Program:
    """What these words start, whatever stands before it."""
    at = runner.past(argv)
    behind = _behind(argv, at)
    if behind > at:
        found = program_in(argv[behind:])
        script = None if found.script is None else found.script + behind
        return found._replace(at=found.at + behind, script=script)
    if at >= len(argv):
        return Program(min(at, len(argv) - 1), "other", argv[-1])
    name, rest = PurePosixPath(argv[at]).name, at + 1
    if _PYTHON.fullmatch(name):
        return _python(argv, at, rest, name)
    if at and PurePosixPath(argv[0]).name == "uv" and (argv[at] == "-m" or name.endswith(".py")):
        return _python(argv, at, at, name)
    if name in _LAUNCHERS:
        return Program(at, "launcher", name)
    script = rest if name in _SHELLS and rest < len(argv) and not argv[rest].startswith("-") else None
    return Program(at, "other", name, script)


def _behind(argv: tuple[str, ...], at: int) -> int:
    """Where Python or a launcher stands behind `nohup`, `nice -n 5`, `env -u A`; `at` where there is none."""
    name = PurePosixPath(argv[at]).name if at < len(argv) else ""
    tool = name == "uv" and argv[at + 1 : at + 2] == ("tool",)
    if not (tool or name in runner.BEFORE or (at == 1 and argv[0] == "env")):
        return at
    for one in range(at + 1, len(argv)):
        name = PurePosixPath(argv[one]).name
        if _PYTHON.fullmatch(name) or name in _LAUNCHERS or name in _SHELLS or runner.is_known(name):
            return one
    return at


def _python(argv: tuple[str, ...], at: int, rest: int, name: str) -> Program:
    """A Python that is given a file or a module; anything else it may be given cannot be wrapped."""
    while rest < len(argv) and (_FLAGS.fullmatch(argv[rest]) or argv[rest] in _FLAGS_WITH_VALUE):
        rest += 2 if argv[rest] in _FLAGS_WITH_VALUE else 1
    if rest >= len(argv):
        return Program(at, "other", name)
    if argv[rest] == "-m" and rest + 1 < len(argv):
        module = argv[rest + 1]
        launcher = _LAUNCHER_MODULES.get(module)
        return Program(at, "launcher", launcher) if launcher else Program(at, "python", name, module=module)
    if argv[rest].startswith("-"):
        return Program(at, "other", name)
    return Program(at, "python", name, script=rest)


def _simple(text: str) -> tuple[tuple[str, ...], Program]:
    """The words of a text that is one command, as they stand before a shell expands them, and its program."""
    words = tuple(join_lines(text).split())
    return words, program_in(words)


# --- what is refused ----------------------------------------------------------------------------


def _check_ranks(text: str, processes: Ranks) -> None:
    """What torchrun cannot wrap can be started once on each node, and no more."""
    if processes != 1:
        raise SpecError(
            f"processes: {processes}: {text!r} cannot be started by torchrun",
            hint="several ranks on a machine need `python FILE` or `python -m MODULE`; what starts its ranks itself "
            "is started once on each node by  processes: own",
        )


def check_each(commands: Iterable[list[str]], processes: Ranks, nodes: int) -> None:
    """Of lines of shell that are started on each node: a launcher that knows nothing of the others is refused."""
    for words in commands if nodes > 1 else ():
        program = program_in(tuple(words))
        if program.kind == "launcher":
            _check_launcher(tuple(words), program, processes, nodes)


def _check_launcher(argv: tuple[str, ...], program: Program, processes: Ranks, nodes: int) -> None:
    if program.name == "torchrun":
        _check_torchrun(argv, processes, nodes)
        return
    if processes not in (1, "gpu"):
        raise SpecError(
            f"processes: {processes}: {program.name} starts its own ranks and is not told of it",
            hint=f"say how many in the words of {program.name}, and leave out processes:",
        )
    if nodes > 1 and program.name in _BY_SSH:
        raise SpecError(
            f"nodes: {nodes}: {program.name} reaches other machines by SSH, and nothing listens on ours",
            hint="start the ranks by torchrun: sojourn train --nodes N --processes M -- python train.py",
        )
    flags, example = _NODE_FLAGS.get(program.name, ((), ""))
    if nodes > 1 and flags and not any(word.split("=")[0] in flags for word in argv):
        raise SpecError(
            f"nodes: {nodes}: {shlex.join(argv)!r} would start one training on each node, not one over all of them",
            hint=f"tell {program.name} of the nodes, as one text for a shell:  command: {example}  "
            "(where its words hide that it knows of them:  processes: own)",
        )


def _check_torchrun(argv: tuple[str, ...], processes: Ranks, nodes: int) -> None:
    """torchrun takes from its environment what its flags leave open; a flag that says otherwise is refused."""
    ranks, machines = _flag(argv, "nproc_per_node"), _flag(argv, "nnodes")
    if processes != 1 and ranks is not None and ranks != str(processes):
        raise SpecError(
            f"processes: {processes} and --nproc_per_node {ranks} say two things",
            hint="keep one of the two",
        )
    if nodes > 1 and "--standalone" in argv:
        raise SpecError(f"nodes: {nodes} and --standalone say two things", hint="leave out --standalone, or nodes:")
    if machines is not None and machines.isdecimal() and int(machines) != nodes:
        raise SpecError(f"nodes: {nodes} and --nnodes {machines} say two things", hint=f"say --nodes {machines} too")


def _flag(argv: tuple[str, ...], name: str) -> str | None:
    """The value of a flag of torchrun, which takes hyphens and underscores alike."""
    for at, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            return value if equals else next(iter(argv[at + 1 :]), None)
    return None


def check_shell(command: Command, path: str) -> None:
    """Refuse a script that cannot be read, or for whose reader there is no program on this path. Raises SpecError."""
    if not command.shell:
        return
    words = reader(command)
    program = shutil.which(words[0], path=path) if words else None
    if program is None:
        raise SpecError(
            f"command: a script for {' '.join(words)!r}, which is no program here",
            hint="name another in its first line, like  #!/bin/bash -e",
        )
    if PurePosixPath(program).name not in _SHELLS:
        return
    said = subprocess.run(
        [program, "-n", "-c", command.argv[0]], capture_output=True, text=True, timeout=READ_LIMIT_S, check=False
    )
    if said.returncode:
        raise SpecError(f"command: {words[0]} cannot read it: {said.stderr.strip()}", hint="mend what it names")
