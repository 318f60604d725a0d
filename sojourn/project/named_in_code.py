"""What the project's own text names and a run has otherwise: the project's place on this host, and git's past.

A script, or its configuration, that names the project by its whole path reads and writes what stands there and not
the copy that travels, without a word. And the `.git` that travels holds one commit: whoever counts commits or looks for
the nearest tag gets another answer. Both are told in the plan.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sojourn.project.bundle import Found
from sojourn.project.project import Project
from sojourn.shorthand import counted

FILES, SIZE = 2_000, 256_000  # looked into, and bytes of the largest
NAMED = 3
_TEXT = frozenset(
    ".py .sh .bash .yaml .yml .json .jsonl .toml .cfg .ini .conf .txt .csv .env .ipynb .mk .gin .r .lst .list".split()
)
_NAMES = ("Makefile", "makefile", "GNUmakefile", "justfile")
_OTHERS_SAY = ("dvc.lock", "uv.lock", "poetry.lock")
_PAST = re.compile(
    rb"\bgit[\"',\s\[\]]+(?:-C\s+\S+\s+)?(?:describe|rev-list|shortlog|reflog)\b|\.git\.(?:describe|rev_list|shortlog)\b|"
    rb"\biter_commits\(|\bsetuptools_scm\.get_version|\bversioneer\.get_version|\bdunamai\b"
)


def notes(files: Iterable[Found], project: Project, shares_host: bool) -> tuple[str, ...]:
    """A sentence for each."""
    looked = [one for one in files if _is_text(one)][:FILES]
    own = _own_path(project.root)
    here: list[str] = []
    past: list[str] = []
    for one in looked:
        body = _read(project.root / one.path)
        if own is not None and own.search(body):
            here.append(one.path)
        if _PAST.search(body):
            past.append(one.path)
    return (*_told_of_place(here, project.root, shares_host), *_told_of_past(past, project))


def _is_text(found: Found) -> bool:
    path = PurePosixPath(found.path)
    text = path.suffix.lower() in _TEXT or path.name in _NAMES
    return text and found.target is None and found.size <= SIZE and path.name not in _OTHERS_SAY


def _own_path(root: Path) -> re.Pattern[bytes] | None:
    """What the project is called where it stands; None where that says nothing, as of a folder at the top."""
    if len(root.parts) < 3:
        return None
    names = {os.fsencode(root)}
    home = os.path.expanduser("~")
    if os.path.isabs(home) and root.is_relative_to(home) and str(root) != home:
        below = os.fsencode(root.relative_to(home))
        names |= {b"~/" + below, b"$HOME/" + below, b"${HOME}/" + below}
    return re.compile(rb"(?<![\w/.$~}])(?:" + b"|".join(map(re.escape, sorted(names))) + rb")(?![\w.-])")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # gone meanwhile, and told elsewhere
        return b""


def _told_of_place(files: list[str], root: Path, shares_host: bool) -> tuple[str, ...]:
    if not files:
        return ()
    what = "a run reads and writes your own files there, and not the copy that travels"
    away = f"{what}: write paths relative to the project" if shares_host else "which is not there on the machine"
    return (f"{_shown(files)} name{'s' * (len(files) == 1)} {root} by its whole path: {away}",)


def _told_of_past(files: list[str], project: Project) -> tuple[str, ...]:
    if not files or project.commit is None or (project.git("tag", "--points-at", project.commit) or "").strip():
        return ()
    asks = f"{_shown(files)} ask{'s' * (len(files) == 1)} git for tags or older commits"
    return (f"{asks}: there it knows the newest commit alone, which is also in SOJOURN_COMMIT",)


def _shown(files: list[str]) -> str:
    more = f" and {counted(len(files) - NAMED, 'other file')}" if len(files) > NAMED else ""
    return ", ".join(files[:NAMED]) + more
