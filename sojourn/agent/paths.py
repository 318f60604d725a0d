"""Paths of a run's tree are relative, and none leads out of it."""

from __future__ import annotations

import os

from sojourn.agent.errors import Refused

TREE = os.path.join("outer", "inner", "tree")  # of the scratch directory: `..` and `../..` hold nothing of ours


def inside(root: str, path: str) -> str:
    """The full name of a relative path. Raises Refused when it would leave the root, by a link too."""
    if "\0" in path:
        raise Refused(f"{path!r} holds a null byte, which is in no name")
    parts = path.split("/")
    full = os.path.join(root, *parts)
    folder = os.path.realpath(os.path.dirname(full))
    if path.startswith("/") or ".." in parts or not below(folder, os.path.realpath(root)):
        raise Refused(f"{path!r} would leave the run's directory")
    return full


def below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return folder in (".", "") or path == folder or path.startswith(folder.rstrip("/") + "/")
