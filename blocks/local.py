"""This host, saved in Prefect as a place where machines are."""

from blocks.base import ProviderBlock


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
