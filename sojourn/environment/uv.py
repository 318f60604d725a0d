"""Runs uv, which comes with Sojourn, in the project's directory and with the project's own settings."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sojourn import programs
from sojourn.errors import SpecError, TransientError

LIMIT_S = 1800
_FRAME = re.compile(r"^\s*(×|╰─▶|├─▶|│|error:|cause:)\s?")
SAID_LINES = 80  # a resolver's whole reasoning; a compiler may say more, and its end matters


def run_uv(
    *arguments: str, cwd: Path, source: str = "the dependency file", variables: Mapping[str, str] | None = None
) -> None:
    """Run uv to its end. Raises SpecError with all that it says, and TransientError when it takes too long."""
    done = ask_uv(*arguments, cwd=cwd, variables=variables)
    if done.returncode != 0:
        raise SpecError(
            f"environment: uv could not do it: {_said(done.stderr)}",
            hint=f"mend {source}, or use  environment: current",
        )


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
    except OSError as error:
        said = f"environment: uv, which comes with Sojourn, could not be started: {error.strerror or error}"
        raise SpecError(said, hint=programs.install("--force-reinstall", "uv")) from error
    except subprocess.TimeoutExpired:
        raise TransientError(f"environment: uv {arguments[0]} took longer than {limit_s:g} s") from None


def _said(text: str) -> str:
    """All that uv says, what it concludes first, and without the frame that it draws around it."""
    plain = [_FRAME.sub("", line).rstrip() for line in text.strip().splitlines()]
    lines = [line for line in plain if line]
    because = next((at for at, line in enumerate(lines) if line.startswith("Because ")), None)
    if because is not None:
        lines.insert(0, lines.pop(because))
    kept = lines if len(lines) <= SAID_LINES else [lines[0], "…", *lines[1 - SAID_LINES :]]
    return "\n  ".join(kept)
