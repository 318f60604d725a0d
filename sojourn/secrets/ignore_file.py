"""`.sojournignore` at the top of the project: where it lies for whoever types, and the lines that go into it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

IGNORE_FILE = ".sojournignore"


def leave_out(paths: Iterable[str], root: Path) -> str:
    """The command that leaves files of the project out, for whoever stands here."""
    return add((f"/{path}" for path in paths), root)


def add(lines: Iterable[str], root: Path) -> str:
    """The command that adds these lines, for whoever stands here."""
    words = " ".join(map(shlex.quote, lines))
    return f"printf '%s\\n' {words} >> {shlex.quote(os.path.relpath(root / IGNORE_FILE))}"


def root_of(path: str, file: Path) -> Path:
    """The root, by a file and its path from there; its own folder for one that lies elsewhere."""
    return Path(str(file)[: -len(path) - 1]) if str(file).endswith(f"/{path}") else file.parent
