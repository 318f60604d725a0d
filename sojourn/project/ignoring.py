"""All that git ignores in a project, as the lines of one .gitignore at its root.

On the machine no git can be asked, and what the script writes there is judged by the same lines: those of
the user's and the repository's own exclude files, of the root, and of every folder that has a .gitignore.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from sojourn.project import git

_SPECIAL = re.compile(r"([\\*?\[\]!# ])")


def lines(root: Path, files: Iterable[str], last: Iterable[str]) -> list[str]:
    """Every line that decides, the last match counting: of exclude files, of `files`, each .gitignore, and `last`."""
    found = [line for file in _excludes(root) for line in _read(file)]
    for path in sorted(files, key=lambda path: (path.count("/"), path)):
        folder = PurePosixPath(path).parent
        found += [placed for line in _read(root / path) if (placed := _below(folder, line)) is not None]
    return [*found, *last]


def _excludes(root: Path) -> Iterator[Path]:
    """The files that git reads beside .gitignore, the weakest first."""
    named = (git.ask(root, "config", "--path", "--default", "", "--get", "core.excludesFile") or "").rstrip("\n")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    yield Path(named) if named else settings / "git" / "ignore"
    own = (git.ask(root, "rev-parse", "--git-path", "info/exclude") or "").rstrip("\n")
    if own:
        yield root / own


def _below(folder: PurePosixPath, line: str) -> str | None:
    """A line of a folder's .gitignore as it would stand in that of the root."""
    text = re.sub(r"(?<!\\)\s+$", "", line)
    if not text or text.startswith("#") or folder == PurePosixPath("."):
        return text if text and not text.startswith("#") else None
    wanted, text = ("!", text[1:]) if text.startswith("!") else ("", text)
    place = _SPECIAL.sub(r"\\\1", folder.as_posix())
    anywhere = "/" not in text.rstrip("/")
    return f"{wanted}/{place}/{'**/' if anywhere else ''}{text.lstrip('/')}"


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
