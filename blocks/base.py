"""Where machines are rented, saved in Prefect.

A provider is one class here: `where` is the name that `sojourn.providers.registry` knows it by, its
fields are what its form asks for, and `open` gives the plain object.
"""

from abc import ABC
from pathlib import Path
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field

from blocks.store import Store
from sojourn.providers.contract import Provider
from sojourn.providers.registry import open_provider
from sojourn.run.runs import data_home
from sojourn.spec.launch import Launch


class ProviderBlock(Block, ABC):
    """What the blocks of all providers have in common."""

    where: ClassVar[str]

    store: Store | None = Field(
        default=None,
        title="Store",
        description="Where runs are kept, unless a run names a store of its own; a directory of the user's if absent.",
    )
    machine: str | None = Field(
        default=None,
        title="Machine",
        description="The machine type to rent, unless a run names one; the provider's default if absent.",
    )

    def prepare(self) -> None:
        """Make this process able to reach the provider and what is kept there; on this host it is already."""

    def open(self, home: Path | None = None) -> Provider:
        """The provider itself, with this host's data directory or another."""
        self.prepare()
        return open_provider(self.where, home or data_home())

    def complete(self, launch: Launch) -> Launch:
        """What was asked for, with this block's answers where the request says nothing."""
        says_which = launch.machine or launch.gpu or launch.cpus or launch.memory
        answers = {
            "where": self.where,
            "machine": launch.machine if says_which else self.machine,
            "store": launch.store or (self.store.url if self.store else None),
        }
        return launch.model_copy(update=answers)
