"""A first `launch:` section, from what a project already has."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from sojourn.project import Project

_LIKELY = ("train.py", "main.py", "run.py")
_TRAINS = re.compile(
    r"^\s*(import|from) (torch|lightning|transformers|accelerate|sklearn|jax|tensorflow)\b", re.MULTILINE
)
_DATA = ("data", "datasets", "dataset")


def launch_section(project: Project) -> str:
    """YAML text with a comment for each line; lines for things not found here are commented out."""
    stage, script = _stage(project.directory), _script(project.directory)
    data = next((name for name in _DATA if (project.directory / name).is_dir()), None)
    lines = [
        _line("stage: " + stage, "the stage of dvc.yaml that runs on the machine")
        if stage
        else _line(f"command: python {script or 'train.py'}", "what runs on the machine, from this directory"),
        _line("processes: 1", "ranks on each machine, started by torchrun; gpu is one for each GPU"),
        _line("# nodes: 2", "machines"),
        _line("deadline: 2h", "everything is stopped and given back after this long, whatever happens"),
        _line("# environment: current", "take the python on your PATH instead of building one"),
        _line(
            f"{'' if data and not stage else '# '}inputs: [{data or 'data'}/]",
            "large files that travel beside the code",
        ),
        _line("# outputs: [results/]", "what comes home even though git ignores it"),
        _line("# secrets: [WANDB_API_KEY]", "names of variables that the script needs"),
    ]
    return "launch:\n" + "".join(f"  {line}\n" for line in lines)


def _line(text: str, comment: str) -> str:
    return f"{text:<26}# {comment}" if not text.startswith("#") else f"{text:<26}  {comment}"


def _stage(directory: Path) -> str | None:
    path = directory / "dvc.yaml"
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = [str(name) for name in content["stages"]]
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        return None  # a broken dvc.yaml is told by `sojourn plan`, with its line
    return next((name for name in names if "train" in name), names[0] if names else None)


def _script(directory: Path) -> str | None:
    found = {path.name: path for path in sorted(directory.glob("*.py"))}
    likely = next((name for name in _LIKELY if name in found), None)
    return likely or next((name for name, path in found.items() if _TRAINS.search(_text(path))), None)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
