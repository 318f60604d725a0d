"""Commands of the programs that came with Sojourn, as a user can type them.

Installed by `uv tool install` or pipx, `sojourn` alone is on the PATH; DVC and Prefect are in its
environment. `sojourn dvc` and `sojourn prefect` run them there. A DVC of the user's own does as well;
another environment's Prefect has none of our flows, so hints always say `sojourn prefect`.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path


def dvc(words: str) -> str:
    """`dvc push`, or `sojourn dvc push` where DVC is not on the PATH."""
    return f"dvc {words}" if shutil.which("dvc") else f"sojourn dvc {words}"


def install(*packages: str) -> str:
    """What adds packages to Sojourn's own environment: `uv tool install` makes one without pip."""
    python, named = shlex.quote(sys.executable), shlex.join(packages)
    if find_spec("pip"):
        return f"{python} -m pip install {named}"
    beside = Path(sys.executable).parent / "uv"  # which came with Sojourn
    return f"{'uv' if shutil.which('uv') else shlex.quote(str(beside))} pip install --python {python} {named}"


def install_extra(extra: str) -> str:
    """What adds the packages of one of Sojourn's extras to its environment; typed in any directory."""
    from packaging.requirements import Requirement

    lines = map(Requirement, importlib.metadata.requires("sojourn") or [])
    asked = [one for one in lines if one.marker and one.marker.evaluate({"extra": extra})]
    wanted = [one for one in asked if not one.marker.evaluate({"extra": ""})]  # type: ignore[union-attr]
    return install(*(f"{one.name}{one.specifier}" for one in wanted))
