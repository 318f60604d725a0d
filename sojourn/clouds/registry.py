"""The clouds by name, and by the scheme of their buckets; each is loaded when it is asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from sojourn.clouds.account import Account, Bucket


@dataclass(frozen=True)
class Cloud:
    """What is said of a cloud without loading anything of it."""

    title: str
    scheme: str
    module: str  # has `open_account(region)` and `open_bucket(url)`
    variables: tuple[str, ...]  # of an environment in which its clients find their credentials; NAME_* for several
    keys: str  # a module that prints this host's credentials, as a process of a machine asks for them
    example: str  # of the words after `sojourn setup CLOUD`


CLOUDS = {
    "aws": Cloud(
        title="Amazon",
        scheme="s3",
        module="sojourn.clouds.aws.account",
        variables=("AWS_*", "BOTO_*"),
        keys="sojourn.clouds.aws.credential_process",
        example="--region us-east-1",
    ),
}
SCHEMES = tuple(cloud.scheme for cloud in CLOUDS.values())


class _Module(Protocol):
    def open_account(self, region: str | None) -> Account: ...

    def open_bucket(self, url: str) -> Bucket: ...


def open_account(name: str, region: str | None = None) -> Account:
    """Open the account of a cloud in CLOUDS, in this region or that of the credentials."""
    return _module(CLOUDS[name]).open_account(region)


def open_bucket(url: str) -> Bucket | None:
    """Open the bucket that a store's URL names; None for a scheme that no cloud has."""
    cloud = _by_scheme(url)
    return _module(cloud).open_bucket(url) if cloud else None


def keys_commands() -> dict[str, list[str]]:
    """Return the commands by which a machine that is this host asks for keys, by the scheme of what it reads."""
    return {cloud.scheme: [sys.executable, "-I", "-m", cloud.keys] for cloud in CLOUDS.values()}


def _by_scheme(url: str) -> Cloud | None:
    scheme = urlsplit(url).scheme
    return next((cloud for cloud in CLOUDS.values() if cloud.scheme == scheme), None)


def _module(cloud: Cloud) -> _Module:
    return cast(_Module, import_module(cloud.module))
