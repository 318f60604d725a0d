"""Data that no machine can fetch by itself travels by way of the run's store, each file once, by its hash.

That is what a DVC remote on this host, on an SSH server or with credentials of its own is
for a rented machine. The runs of a project share what was carried; `sojourn purge` takes
it away with the last run that names it.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sojourn import programs
from sojourn.errors import SpecError
from sojourn.store.blobs import stays
from sojourn.store.mailbox import Mailbox

LANES = 8


@dataclass(frozen=True)
class Cargo:
    """One file: its bytes lie in DVC's cache, or else `download` brings them to a path."""

    path: str
    md5: str
    size: int
    cached: Path
    download: Callable[[Path], None]


def carry(cargo: Iterable[Cargo], mailbox: Mailbox) -> tuple[dict[str, str], int]:
    """Send what the store lacks; each file's key by its MD5, and the bytes sent."""
    items = list(cargo)
    keys = {item.md5: mailbox.blob_key(f"md5-{item.md5}") for item in items}
    with ThreadPoolExecutor(LANES) as pool:
        there = list(pool.map(lambda item: stays(keys[item.md5], item.size, mailbox), items))
        missing = [item for item, held in zip(items, there, strict=True) if not held]
        list(pool.map(lambda item: _send(item, keys[item.md5], mailbox), missing))
    return keys, sum(item.size for item in missing)


def _send(item: Cargo, key: str, mailbox: Mailbox) -> None:
    with tempfile.TemporaryDirectory(prefix="sojourn-") as folder:
        file = item.cached
        if not file.exists():
            file = Path(folder, "file")
            item.download(file)
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "md5").hexdigest()
        if found != item.md5:
            raise SpecError(
                f"{item.path}: DVC's copy has the MD5 {found} and not {item.md5}: it was damaged, or edited in place",
                hint=f"see what else is: {programs.dvc('status')}; bring it back: {programs.dvc('fetch')}",
            )
        mailbox.store.put(key, file)
