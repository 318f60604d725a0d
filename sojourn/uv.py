"""Runs uv, which comes with Sojourn, in the project's directory and with the project's own settings."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sojourn.errors import SpecError, TransientError

LIMIT_S = 1800


def run_uv(*arguments: str, cwd: Path, source: str = "the dependency file") -> None:
    """Run uv to its end. Raises SpecError with its last words, and TransientError when it takes too long."""
    from uv import find_uv_bin

    try:
        done = subprocess.run([find_uv_bin(), *arguments], cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise TransientError(f"environment: uv {arguments[0]} took longer than {LIMIT_S} s") from None
    if done.returncode != 0:
        said = "\n  ".join(done.stderr.strip().splitlines()[-6:])
        raise SpecError(f"environment: uv could not do it: {said}", hint=f"mend {source}, or use  environment: current")
