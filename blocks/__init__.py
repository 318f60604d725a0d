"""Nouns: saved configuration for the Prefect UI; thin, over the plain objects of `sojourn`.

Register them with `prefect block register -m blocks`. A block is read when a run is planned
and never after: what it says goes into the plan, so that ending a run needs no block.
"""

from blocks.provider import LocalProvider
from blocks.store import Store

__all__ = ["LocalProvider", "Store"]
