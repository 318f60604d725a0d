"""Where runs are kept, saved in Prefect."""

from prefect.blocks.core import Block
from pydantic import Field, field_validator

from sojourn.errors import SpecError
from sojourn.run.runs import data_home
from sojourn.store import storage
from sojourn.store.known_stores import known_store


class Store(Block):
    """
    Where runs are kept: plans, ledgers, logs, results and receipts of every project.

    A directory that the orchestrator and the machines share. Credentials are the host's own.

    Example:
        List the runs of a saved store:
        ```python
        from blocks import Store
        from sojourn.run.runs import list_runs

        store = Store.load("BLOCK_NAME")
        print([line.run for line in list_runs(store.open())])
        ```
    """

    _block_type_name = "Sojourn Store"
    _block_type_slug = "sojourn-store"
    _documentation_url = "https://docs.prefect.io/v3/concepts/blocks"  # type: ignore[assignment]

    url: str = Field(
        default=...,
        title="URL",
        description="The store's address, like file:///srv/sojourn.",
        examples=["file:///srv/sojourn"],
    )

    @field_validator("url")
    @classmethod
    def _is_a_store(cls, url: str) -> str:
        try:
            return storage.Store(url).url
        except SpecError as error:
            raise ValueError(str(error)) from None

    def open(self) -> storage.Store:
        """The store itself."""
        return known_store(data_home(), self.url)
