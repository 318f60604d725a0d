"""What lies in the run's tree now, and what changed since."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

from sojourn.agent.paths import below


class Sign(NamedTuple):
    """What tells two states of a file apart without reading it.

    The mode, for a script may make it executable later. The last of its times, for that is the one which nobody
    can put back after writing in place.
    """

    size: int
    mtime_ns: int
    inode: int
    mode: int
    ctime_ns: int

    def is_like(self, other: Sign | None) -> bool:
        """Whether nothing tells them apart but that time, which a hard link, a rename or a removal changes too."""
        return other is not None and self[:-1] == other[:-1]


def sign_of(state: os.stat_result) -> Sign:
    """The sign of a file in this state."""
    return Sign(state.st_size, state.st_mtime_ns, state.st_ino, stat.S_IMODE(state.st_mode), state.st_ctime_ns)


CACHES = {"__pycache__", ".git", "node_modules", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints"}
CACHE = "in caches"
DOWNLOADED = "downloaded from a hub"
# As huggingface_hub names a repository that it fetched, and torch.hub a file of weights.
_HUB = re.compile(r"(models|datasets|spaces)--[^/]+|.*hub/checkpoints/[^/]+-[0-9a-f]{8,64}\.pth")
ENVIRONMENT = "in virtual environments"
EMPTY = "in empty folders"
OUTWARD = "linked from outside the project"
NOWHERE = "linked to nothing"
AROUND = "linked to a folder around it"
AGAIN = "linked a second time"
SPECIAL = "not a file but a socket, pipe or device"
UNNAMED = "named in no UTF-8"
CLOSED = "in folders that cannot be read"


def scan(
    root: str,
    everything_below: Iterable[str],
    unnamed: dict[str, str],
    aside: dict[str, str] | None = None,
    by_links: dict[str, str] | None = None,
) -> dict[str, Sign]:
    """The regular files of a tree, without caches and virtual environments except where all is wanted.

    A link is followed when its target lies in the tree; a folder by way of one link only.
    Into `unnamed` go names that are no text: they fit in no manifest. Into `aside` goes whatever is not
    in the answer, with the reason; a folder ends with a slash. Into `by_links` go the paths of either that lead
    over a link, with the first one.
    """
    aside = {} if aside is None else aside
    by_links = {} if by_links is None else by_links
    wanted = list(everything_below)
    real_root = os.path.realpath(root)
    found: dict[str, Sign] = {}
    todo = [("", "")]
    while todo:
        folder, linked = todo.pop()
        entries = _listing(os.path.join(root, folder))
        all_of_it = any(below(folder, name) for name in wanted)
        if not entries:
            if folder:
                aside[folder + "/"] = CLOSED if entries is None else EMPTY
            continue
        if folder and not all_of_it and any(entry.name == "pyvenv.cfg" for entry in entries):
            aside[folder + "/"] = ENVIRONMENT
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if path == ".git":  # it came with the tree, see `history`, and is not the user's own
                continue
            if not _is_text(entry.name):
                unnamed[ascii(path)] = "its name is no UTF-8"
                aside[ascii(path)] = UNNAMED
                continue
            state = _state(entry, real_root)
            link = linked or (path if entry.is_symlink() else "")
            if link:
                by_links[path] = link
            if state is None:
                aside[path] = _astray(entry.path, real_root) if entry.is_symlink() else CLOSED
            elif not (all_of_it or path in wanted or not _cache(path)):
                aside[path + "/" * stat.S_ISDIR(state.st_mode)] = CACHE
            elif not (all_of_it or path in wanted) and _downloaded(path, stat.S_ISDIR(state.st_mode)):
                aside[path + "/" * stat.S_ISDIR(state.st_mode)] = DOWNLOADED
            elif stat.S_ISREG(state.st_mode):
                found[path] = sign_of(state)
            elif not stat.S_ISDIR(state.st_mode):
                aside[path] = SPECIAL
            elif linked and entry.is_symlink():
                aside[path] = AGAIN
            else:
                todo.append((path, link))
    return found


def _astray(link: str, real_root: str) -> str:
    """Why a link is not followed."""
    if not os.path.exists(link):
        return NOWHERE
    return AROUND if below(os.path.realpath(link), real_root) else OUTWARD


def _listing(folder: str) -> list[os.DirEntry[str]] | None:
    """What is in a folder; None when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError:
        return None


def _state(entry: os.DirEntry[str], real_root: str) -> os.stat_result | None:
    """The file's state, of a link's target only when that lies in the tree and not above the link."""
    try:
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if not below(real, real_root) or below(os.path.realpath(os.path.dirname(entry.path)), real):
                return None
        return entry.stat()
    except OSError:
        return None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cache(path: str) -> bool:
    name = posixpath.basename(path)
    return name in CACHES or name.endswith(".pyc") or path.endswith((".dvc/tmp", ".dvc/cache"))


def _downloaded(path: str, folder: bool) -> bool:
    """Whether a library fetched this from where it can be fetched again."""
    return _HUB.fullmatch(posixpath.basename(path) if folder else path) is not None
