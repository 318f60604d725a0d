"""The stores in which this host has runs, and which store each of them is: `stores.json` in the data directory."""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sojourn.agent import files
from sojourn.decoding import decode_values
from sojourn.errors import SojournError, SpecError, UnreadableError, nearest
from sojourn.store.identity import Identity
from sojourn.store.storage import Store

STORES = "stores.json"
LOCK = "stores.lock"
UNREAD_STORES = "stores.json.damaged"  # what a later run found, and did not write over


def remember(home: Path, store: Store) -> str | None:
    """Note that this host has runs in this store, and which store that is; what a person must know of it.

    From then on it is found without its name, and another one in its place is not taken for it.
    """
    identity = store.identity
    if store.url in remembered(home) and identity == _identities(home).get(store.url):
        return None
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _changing(home):
        if _is_damaged(home / STORES):
            os.replace(home / STORES, home / UNREAD_STORES)
        known, identities = remembered(home), _identities(home)
        new = {} if identity is None else {store.url: identity}
        _write(home, list(dict.fromkeys([*known, store.url])), identities | new)
    twin = next((url for url, one in identities.items() if _is_copy(store, url, one)), None)
    if twin is None:
        return None
    return (
        f"{store.url} is a copy of {twin}, or was moved from there: both are looked into, and a run that is in both "
        f"counts where its plan says; if the other is of no use any more: sojourn runs --forget {twin}"
    )


def _is_copy(store: Store, url: str, identity: Identity) -> bool:
    if url == store.url or identity != store.identity:
        return False
    with suppress(SojournError):
        return Store(url).place != store.place
    return False


def remembered(home: Path) -> list[str]:
    """The URLs of the stores in which this host has runs."""
    found = _read(home).get("stores")
    return [url for url in found if isinstance(url, str)] if isinstance(found, list) else []


def known_store(home: Path, url: str) -> Store:
    """The store of this URL, which must be there where this host has runs in it, and be the same one."""
    whole = url.rstrip("/")
    return Store(url, expected=whole in remembered(home), identity=_identities(home).get(whole))


def each_once(stores: Iterable[Store]) -> list[Store]:
    """Without those that are another address of an earlier one: a link to its directory, a second mount of it."""
    found: dict[object, Store] = {}
    for store in stores:
        found.setdefault(store.place, store)
    return list(found.values())


def is_kept_in(url: str, store: Store) -> bool:
    """Whether what is said to be kept at `url` is kept in this store; in a copy of it a run only seems to go on."""
    try:
        return url.rstrip("/") == store.url or Store(url).place == store.place
    except SojournError:
        return False


def unread_stores(home: Path) -> str | None:
    """What a damaged list of stores means for whoever looks for runs, and what helps; None for a whole one."""
    file = next((one for one in (home / STORES, home / UNREAD_STORES) if _is_damaged(one)), None)
    if file is None:
        return None
    missed = "stores that stand in it are not looked into unless you name them: --store URL"
    return f"{file} is no list of stores any more: {missed}; once you know them: rm {shlex.quote(str(file))}"


def forget(home: Path, url: str) -> None:
    """Look there no more. Raises SpecError for a store that this host does not look at."""
    known, whole = remembered(home), url.rstrip("/")
    if whole not in known:
        raise SpecError(f"store: this host remembers no {url!r}, {nearest(url, known)}", hint="sojourn runs")
    with _changing(home):
        _write(home, [one for one in remembered(home) if one != whole], _identities(home))


def forget_bucket(home: Path, bucket: str) -> None:
    """Look no more into a bucket that was removed, like `s3://acme-runs`, under whatever prefix."""
    for url in remembered(home):
        if url == bucket or url.startswith(f"{bucket}/"):
            forget(home, url)


@contextmanager
def _changing(home: Path) -> Iterator[None]:
    """One at a time: who reads, adds a line and writes would lose what another has added meanwhile."""
    with open(os.open(home / LOCK, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(home: Path) -> dict[str, Any]:
    return files.read(str(home / STORES)) or {}


def _write(home: Path, urls: list[str], identities: dict[str, Identity]) -> None:
    said = {url: identity.model_dump() for url, identity in identities.items() if url in urls}
    files.write(str(home / STORES), {"stores": urls, "identities": said})


def _identities(home: Path) -> dict[str, Identity]:
    """Which store each is. Of one that an earlier version noted, or whose note cannot be read, nobody knows."""
    found, known = _read(home).get("identities"), {}
    for url, said in found.items() if isinstance(found, dict) else ():
        with suppress(UnreadableError):
            known[url] = decode_values(said, Identity, STORES)
    return known


def _is_damaged(file: Path) -> bool:
    found = (files.read(str(file)) or {}).get("stores")
    whole = isinstance(found, list) and all(isinstance(url, str) for url in found)
    return not whole and os.path.lexists(file)
