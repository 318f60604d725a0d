"""Nouns: saved configuration for the Prefect UI; thin, over the plain objects of `sojourn`.

Register them with `prefect block register -m blocks`. A block is read when a run is planned
and never after: what it says goes into the plan, so that ending a run needs no block.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from blocks.provider import LocalProvider
from blocks.store import Store

if TYPE_CHECKING:
    from blocks.aws import AwsProvider

__all__ = ["LocalProvider", "Store"]
if find_spec("prefect_aws"):
    __all__ += ["AwsProvider"]


def __getattr__(name: str) -> Any:
    # Its import takes as long as Prefect's own, and most runs have no use for it.
    if name == "AwsProvider" and name in __all__:
        from blocks.aws import AwsProvider

        return AwsProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
