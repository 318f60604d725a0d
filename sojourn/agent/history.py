"""The commit that came with the tree, made ready for git on this machine, where there is one."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

LIMIT_S = 30.0


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
