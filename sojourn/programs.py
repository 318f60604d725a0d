"""Commands of the programs that came with Sojourn, as a user can type them.

Installed by `uv tool install` or pipx, `sojourn` alone is on the PATH; DVC and Prefect are in its
environment. `sojourn dvc` and `sojourn prefect` run them there. A DVC of the user's own does as well;
another environment's Prefect has none of our flows, so hints always say `sojourn prefect`.
"""

from __future__ import annotations

import shutil


def dvc(words: str) -> str:
    """`dvc push`, or `sojourn dvc push` where DVC is not on the PATH."""
    return f"dvc {words}" if shutil.which("dvc") else f"sojourn dvc {words}"
