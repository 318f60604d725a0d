"""Where machines are rented, saved in Prefect.

A provider is one class here: `where` is the name that `sojourn.providers` knows it by, its
fields are what its form asks for, and `open` gives the plain object.
"""

from abc import ABC
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, cast

from prefect.blocks.core import Block
from pydantic import Field

from blocks.store import Store
from sojourn import programs, providers
from sojourn.errors import SpecError
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

    def open(self, home: Path | None = None) -> providers.Provider:
        """The provider itself, with this host's data directory or another."""
        self.prepare()
        return providers.open_provider(self.where, home or data_home())

    def complete(self, launch: Launch) -> Launch:
        """What was asked for, with this block's answers where the request says nothing."""
        says_which = launch.machine or launch.gpu or launch.cpus or launch.memory
        answers = {
            "where": self.where,
            "machine": launch.machine if says_which else self.machine,
            "store": launch.store or (self.store.url if self.store else None),
        }
        return launch.model_copy(update=answers)


class LocalProvider(ProviderBlock):
    """
    The host of the worker: machines are processes there, ended by a supervisor at their deadline.

    The same agent, mailbox, ledger and teardown as on machines that are rented elsewhere.

    Example:
        Run a script by a saved provider:
        ```python
        from blocks import LocalProvider
        from flows.train import train
        from sojourn.spec.launch import Launch

        provider = LocalProvider.load("BLOCK_NAME")
        train(Launch(command=("python", "train.py")), provider=provider)
        ```
    """

    _block_type_name = "Sojourn Local Provider"
    _block_type_slug = "sojourn-local-provider"
    _documentation_url = "https://docs.prefect.io/v3/concepts/blocks"  # type: ignore[assignment]

    where = "local"


def load_provider(name: str) -> ProviderBlock:
    """The saved provider `TYPE/NAME`; NAME alone is a local one. Raises SpecError."""
    slug, _, document = name.rpartition("/")
    kinds: dict[str, Callable[[], type[ProviderBlock]]] = {
        "sojourn-local-provider": lambda: LocalProvider,
        "sojourn-aws-provider": _aws,
    }
    if slug and slug not in kinds:
        raise SpecError(f"provider: {slug!r} is no type of provider", hint=f"types: {', '.join(kinds)}")
    kind = kinds[slug or "sojourn-local-provider"]()
    try:
        return cast(ProviderBlock, kind.load(document))
    except ValueError as error:
        raise SpecError(
            f"provider: no block is saved as {name!r}", hint="list them: sojourn prefect block ls"
        ) from error


def _aws() -> type[ProviderBlock]:
    if find_spec("prefect_aws") is None:
        raise SpecError(
            "provider: prefect-aws is not installed beside sojourn", hint=f"add it: {programs.install_extra('aws')}"
        )
    from blocks.aws import AwsProvider

    return AwsProvider
