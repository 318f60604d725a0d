"""Nouns: saved configuration for the Prefect UI; thin, over the plain objects of `sojourn`.

Register them with `prefect block register -m blocks`. A block is read when a run is planned
and never after: what it says goes into the plan, so that ending a run needs no block.
"""

from typing import Any

from blocks.local import LocalProvider
from blocks.registry import KINDS
from blocks.store import Store

_BY_NAME = {kind.name: kind for kind in KINDS.values() if kind.installed}
__all__ = ["LocalProvider", "Store"]
__all__ += [name for name in _BY_NAME if name not in __all__]


def __getattr__(name: str) -> Any:
    # A cloud's takes as long to import as Prefect itself, and most runs have no use for it.
    if name in _BY_NAME:
        return _BY_NAME[name].load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
