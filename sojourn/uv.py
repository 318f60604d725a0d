"""Runs uv, which comes with Sojourn, in the project's directory and with the project's own settings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sojourn.errors import SpecError, TransientError

LIMIT_S = 1800
SAID_LINES = 80  # a resolver's whole reasoning; a compiler may say more, and its end matters


def run_uv(
    *arguments: str, cwd: Path, source: str = "the dependency file", variables: Mapping[str, str] | None = None
) -> None:
    """Run uv to its end. Raises SpecError with all that it says, and TransientError when it takes too long."""
    done = ask_uv(*arguments, cwd=cwd, variables=variables)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        said = "\n  ".join([*(["…"] if len(lines) > SAID_LINES else []), *lines[-SAID_LINES:]])
        raise SpecError(f"environment: uv could not do it: {said}", hint=f"mend {source}, or use  environment: current")


def ask_uv(
    *arguments: str, cwd: Path, variables: Mapping[str, str] | None = None, limit_s: float = LIMIT_S
) -> subprocess.CompletedProcess[str]:
    """What uv answers. Raises TransientError when it takes too long."""
    from uv import find_uv_bin

    env = {**os.environ, **(variables or {})}
    try:
        return subprocess.run(
            [find_uv_bin(), *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        raise TransientError(f"environment: uv {arguments[0]} took longer than {limit_s:g} s") from None
