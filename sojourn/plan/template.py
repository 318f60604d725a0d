"""A first `launch:` section that fits what a project has, and its place in params.yaml.

Each line says what it means. What was found is set, what was not stands there as a comment,
and the result is read back by our own parser before it is written.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sojourn.environment import sources
from sojourn.errors import SpecError, first_line
from sojourn.project.project import Project
from sojourn.spec.dependencies import Dependencies
from sojourn.spec.launch import make_launch
from sojourn.spec.params import PARAMS

_TRAINS = re.compile(r"(?<![a-z])(pre|fine)?[_-]?(train|training|tune|tuning|fit)(?![a-z])", re.IGNORECASE)
_LIBRARIES = re.compile(
    r"^\s*(import|from) (torch|lightning|pytorch_lightning|transformers|accelerate|sklearn|jax|keras|tensorflow)\b",
    re.MULTILINE,
)
_RANKS = re.compile(r"torch\.distributed|DistributedDataParallel|fully_shard|\b(lightning|accelerate|transformers)\b")
_NOT_RUN = re.compile(r"test_.*|.*_test|conftest|setup|__init__")
_NOT_SEARCHED = {"tests", "test", "docs", "runs"}
_DATA = ("data", "datasets", "dataset")


@dataclass(frozen=True)
class Draft:
    """A section, and what it would run: nothing when no script and no stage was found."""

    text: str
    runs: str | None


def draft(project: Project, gpus: int) -> Draft:
    """The section for this project on a host with so many GPUs."""
    stage = _stage(project)
    script = None if stage else _script(project.directory)
    code = _text(project.directory / script) if script else stage.command if stage else ""
    lines = [_what(stage, script), _ranks(code, gpus), *_fixed(), _environment(project)]
    lines.append(_inputs(project.directory, bool(stage)))
    lines += [
        _line("# outputs: [results/]", "what comes home even though git ignores it"),
        _line('# checkpoint: ["ckpt/*.bin"]', "what to resume from, instead of *.pt, *.ckpt, checkpoint-8/ and kin"),
        _line("# resume_args: --resume", "added to the command by `sojourn train --from RUN`"),
        _line("# metrics: {loss: 'loss=([0-9.]+)'}", "numbers to find in its log, and show while it runs"),
        _line("# secrets: [WANDB_API_KEY]", "names of environment variables that the script needs"),
    ]
    text = "launch:\n" + "".join(f"  {line}\n" for line in lines)
    return Draft(text, f"stage {stage.name}" if stage else f"python {script}" if script else None)


def append(before: bytes, section: str) -> bytes:
    """The content of a params.yaml with the section below it, every byte of it as it was.

    Raises SpecError when the file has such a section or could not be read with it as before.
    """
    try:
        text = before.decode("utf-8")
        content = yaml.safe_load(text)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        hint = f"mend it, or put this into it yourself:\n{section}"
        raise SpecError(f"{PARAMS}: not valid YAML: {first_line(error)}", hint=hint) from None
    if not isinstance(content, dict | None):
        raise SpecError(f"{PARAMS} is not a mapping, so no section fits into it", hint="write `name: value` lines")
    if "launch" in (content or {}):
        raise SpecError(f"{PARAMS} has a launch: section already", hint="see what it means: sojourn plan")
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text.strip() else newline if text.endswith("\n") else newline * 2
    after = text + gap + section.replace("\n", newline)
    if not _same(after, content, section):
        raise SpecError(
            f"{PARAMS} cannot be continued with a section below its end", hint=f"put this into it:\n{section}"
        )
    return before + (gap + section.replace("\n", newline)).encode()


def _same(after: str, content: dict[str, Any] | None, section: str) -> bool:
    """Whether the file reads as before, with a section that our own parser takes."""
    try:
        read = yaml.safe_load(after)
        launch = read.pop("launch")
    except (yaml.YAMLError, AttributeError, KeyError):
        return False
    make_launch(launch, origin=PARAMS)
    return yaml.safe_dump(read) == yaml.safe_dump(content or {}) and launch == yaml.safe_load(section)["launch"]


# --- lines ------------------------------------------------------------------------------


def _line(text: str, comment: str) -> str:
    # With its sign taken away, a commented line must be one that our parser takes.
    return f"{text:<35} # {comment}"


def _field(name: str, value: str) -> str:
    # As YAML writes it: a name may hold quotes, colons, or look like a number.
    return f"{name}: {yaml.safe_dump(value, width=math.inf, allow_unicode=True).splitlines()[0]}"


def _what(stage: _Stage | None, script: str | None) -> str:
    if stage:
        return _line(_field("stage", stage.name), "the stage of dvc.yaml that runs on the machine")
    if script:
        return _line(_field("command", _command(script)), "what runs on the machine, from this directory")
    return _line("command: python train.py", "no script was found here: name yours, with its arguments")


def _command(script: str) -> str:
    # Debian has no `python` outside of environments.
    missing = not shutil.which("python") and shutil.which("python3")
    return shlex.join(["python3" if missing else "python", script])


def _ranks(code: str, gpus: int) -> str:
    if gpus and _RANKS.search(code):
        return _line("processes: gpu", f"one rank for each GPU (this host has {gpus}), started by torchrun")
    return _line("processes: 1", "ranks on each machine, started by torchrun; `gpu` is one for each GPU")


def _fixed() -> Iterator[str]:
    yield _line("# where: aws", "who rents the machines; without it everything runs on this host")
    yield _line("# gpu: L4", "what they must have: L4:4 for four, 80GB for any with that much memory")
    yield _line("# nodes: 2", "machines")
    yield _line("deadline: 2h", "everything is stopped and given back after this long, whatever happens")


def _environment(project: Project) -> str:
    directory = project.directory
    chosen = sources.choose(
        Dependencies(), directory, project.root, script=None, path=os.environ.get("PATH", os.defpath), away=False
    )
    if chosen.source:
        file = sources.shown(chosen.source.file, directory)
        return _line("environment: auto", f"built once from {file}; `current` is the python on your PATH")
    other = next((sources.shown(file, directory) for file in sources.requirement_files(directory)), None)
    if other:
        return _line(_field("environment", other), "built once from it; `current` is the python on your PATH")
    why = chosen.notes[0] if chosen.notes else "no requirements.txt or the like is here"
    return _line("environment: current", f"the python on your PATH; {why}")


def _inputs(directory: Path, has_stage: bool) -> str:
    data = next((name for name in _DATA if (directory / name).is_dir()), None)
    set_it = data and not has_stage  # a stage names its own data
    return _line(f"{'' if set_it else '# '}inputs: [{data or 'data'}/]", "large files that travel beside the code")


# --- what is here -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    name: str
    command: str


def _stage(project: Project) -> _Stage | None:
    """The stage of dvc.yaml that trains, by its name or its command, else the last one."""
    if project.dvc is None:
        return None
    try:
        content = yaml.safe_load((project.directory / "dvc.yaml").read_text(encoding="utf-8"))
        stages = [one for name, body in content["stages"].items() if (one := _described(str(name), body))]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return None  # a broken dvc.yaml is told by `sojourn plan`, with its line
    named = (one for one in stages if _TRAINS.search(one.name))
    calls = (one for one in stages if any(_TRAINS.search(Path(word).stem) for word in one.command.split()))
    return next(named, None) or next(calls, None) or (stages[-1] if stages else None)


def _described(name: str, body: dict[str, Any]) -> _Stage | None:
    if "matrix" in body:
        return None  # which of its cells is meant, only the user knows
    if "foreach" in body:
        over = body["foreach"]
        name, body = f"{name}@{next(iter(over))}", body["do"]
        if isinstance(over, str) or "${" in name:
            return None
    command = body["cmd"]
    return _Stage(name, command if isinstance(command, str) else "\n".join(command))


def _script(directory: Path) -> str | None:
    """The file that most looks like the one that people run, relative to the directory."""
    ranked = [(_likeness(path), str(path.relative_to(directory)), path) for path in _files(directory)]
    likely = sorted((rank, name.count("/"), name) for rank, name, _ in ranked if rank is not None)
    return likely[0][-1] if likely else None


def _files(directory: Path) -> Iterator[Path]:
    yield from sorted(directory.glob("*.py"))
    for folder in sorted(directory.glob("*/")):
        if (
            not folder.name.startswith(".")
            and folder.name not in _NOT_SEARCHED
            and not (folder / "pyvenv.cfg").exists()
        ):
            yield from sorted(folder.glob("*.py"))


def _likeness(path: Path) -> int | None:
    """0 for what must be it, larger for what may be it, None for what is not."""
    if _NOT_RUN.fullmatch(path.stem) or not path.is_file():
        return None
    if path.stem == "train":
        return 0
    if _TRAINS.search(path.stem):
        return 1
    entry, code = path.stem in ("main", "run"), _text(path)
    if _LIBRARIES.search(code):
        return 2 if entry else 3 if "__main__" in code else 4
    return 5 if entry else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
