"""What to type instead of a script or program that would not be on the machine."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sojourn.errors import SpecError
from sojourn.project import contents
from sojourn.project.project import Project
from sojourn.secrets.secret_files import is_secret


def does_not_travel(name: str, directory: Path, project: Project) -> SpecError:
    """The refusal of a file that the command names, with the way for this one."""
    file = Path(os.path.normpath(directory / name))
    inside = file.is_relative_to(project.root)
    why = "an absolute path" if name.startswith("/") else "ignored" if inside else "outside the project"
    message = f"command: {name!r} does not travel to the machine: it is {why}"
    return SpecError(message, hint=_way(file, directory, inside))


def _way(file: Path, directory: Path, inside: bool) -> str:
    if contents.is_environment(file.parent.parent):
        activate = shlex.quote(str(file.parent / "activate"))
        return f"write {file.name} for it; to take that environment:  source {activate}  and  --environment current"
    if inside and file.is_file() and is_secret(file.name, file):
        return "it looks like a secret: leave it out, and name the variables that the script needs:  --secret NAME"
    if not inside or not file.exists():
        return "name a file that travels by its relative path: sojourn train -- python train.py"
    relative = shlex.quote(os.path.relpath(file, directory))
    return f"write {relative} for it, and if git ignores it send it all the same:  --input {relative}"
