"""The providers by the name that `where` gives, each loaded when it is asked for.

A provider's module has `open_provider(home, regions)` and `configured(home, regions)`; that, and
its row here, is all that the rest of Sojourn knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from sojourn.errors import SpecError, nearest
from sojourn.providers.contract import Provider

PROVIDERS = {"local": "sojourn.providers.local", "aws": "sojourn.providers.ec2.provider"}
NAMES = tuple(PROVIDERS)


class _Module(Protocol):
    def open_provider(self, home: Path, regions: list[str] | None) -> Provider: ...

    def configured(self, home: Path, regions: list[str] | None) -> list[Provider]: ...


def open_provider(name: str, home: Path, regions: Iterable[str] | None = None) -> Provider:
    """Open the provider of this name; of a cloud, in these regions or in all. Raises SpecError naming the nearest."""
    if name not in PROVIDERS:
        raise SpecError(f"where: there is no provider {name!r}, {nearest(name, NAMES)}", hint="try: --where local")
    return _module(name).open_provider(home, None if regions is None else list(regions))


def open_in(account: object, name: str) -> Provider:
    """Open the provider of this cloud in an account that is open, whose region may be nobody's default."""
    opened: Provider = import_module(PROVIDERS[name]).open_in(account)
    return opened


def configured(home: Path, regions: Iterable[str] | None = None) -> list[Provider]:
    """Open this host, and every cloud that this host has credentials for."""
    named = None if regions is None else list(regions)
    return [provider for name in NAMES for provider in _module(name).configured(home, named)]


def _module(name: str) -> _Module:
    return cast(_Module, import_module(PROVIDERS[name]))
