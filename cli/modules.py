"""Makes sure that our plainly named folders are ours.

`tasks` and `flows` are common names. A PYTHONPATH or a stray installed package can put
somebody else's module in front of ours, which would fail far from its cause.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import sojourn
from sojourn.errors import SpecError

OURS = ("tasks", "flows", "blocks")


def check_modules(*more: str) -> None:
    """Raise SpecError naming the intruder when one of our packages resolves to another's module."""
    home = Path(sojourn.__file__).parent.parent
    for name in (*OURS, *more):
        spec = find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None or origin.parent.parent != home:
            raise SpecError(
                f"Python finds {name!r} at {origin or 'no file'}, not in {home}",
                hint="take that directory off PYTHONPATH, or install Sojourn by itself: uv tool install ./sojourn",
            )
