"""The commit that came with the tree, made ready for git on this machine, where there is one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

LIMIT_S = 30.0
FILES = 1_000
SHORT = 4_096  # bytes of each that are compared


def written(root: str) -> dict[str, bytes]:
    """What somebody may write into `.git` by hand or by git, besides what git does whenever it is asked."""
    found = {}
    for name in ("HEAD", "config", "packed-refs", "refs", "hooks"):
        top = os.path.join(root, ".git", name)
        files = [top, *(os.path.join(folder, one) for folder, _, names in os.walk(top) for one in names)]
        for path in files[:FILES]:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                found[os.path.relpath(path, root)] = file.read(SHORT)
    return found


def refresh(root: str) -> None:
    """Let git note which files are as the commit has them: it would want their old content to compare otherwise."""
    git = shutil.which("git")
    if git is None or not os.path.isdir(os.path.join(root, ".git")):
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            [git, "update-index", "-q", "--refresh"],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_S,
        )
