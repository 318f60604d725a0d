"""The blocks of providers by their types, each loaded when it is asked for.

Those of a cloud take as long to import as Prefect itself, and need its extra.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import cast

from blocks.base import ProviderBlock
from sojourn import programs
from sojourn.errors import SpecError


@dataclass(frozen=True)
class Kind:
    """A type of block: its class, and what must be installed for it, by which extra."""

    module: str
    name: str
    needs: str = "prefect"
    extra: str = ""

    @property
    def installed(self) -> bool:
        """Whether it can be loaded."""
        return find_spec(self.needs) is not None

    def load(self) -> type[ProviderBlock]:
        """Return the class. Raises SpecError with what installs it."""
        if not self.installed:
            lacking = self.needs.replace("_", "-")
            raise SpecError(
                f"provider: {lacking} is not installed beside sojourn",
                hint=f"add it: {programs.install_extra(self.extra)}",
            )
        return cast(type[ProviderBlock], getattr(import_module(self.module), self.name))


LOCAL = "sojourn-local-provider"
KINDS = {
    LOCAL: Kind("blocks.local", "LocalProvider"),
    "sojourn-aws-provider": Kind("blocks.aws", "AwsProvider", needs="prefect_aws", extra="aws"),
}


def load_provider(name: str) -> ProviderBlock:
    """Load the saved provider `TYPE/NAME`; NAME alone is a local one. Raises SpecError."""
    slug, _, document = name.rpartition("/")
    if slug and slug not in KINDS:
        raise SpecError(f"provider: {slug!r} is no type of provider", hint=f"types: {', '.join(KINDS)}")
    kind = KINDS[slug or LOCAL].load()
    try:
        return cast(ProviderBlock, kind.load(document))
    except ValueError as error:
        raise SpecError(
            f"provider: no block is saved as {name!r}", hint="list them: sojourn prefect block ls"
        ) from error
