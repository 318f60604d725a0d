"""What of a script's files is told beside the files themselves: names, and copies of metrics, without its secrets.

A result comes home as it was written. But texts in a file of metrics are shown in the report, in
terminals and in Prefect, where nobody knows the values; so the machine, which does, stores a
second copy for them where one holds a secret.
"""

from __future__ import annotations

import contextlib
import os
from typing import Collection

from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place
from sojourn.agent.script.mask import Mask
from sojourn.agent.script.scalars import FILE_LIMIT, looks_like_metrics
from sojourn.agent.stores.store import Store

NAMED = "its name holds a secret"


class Veil:
    """Over one node's commits."""

    def __init__(self, store: Store, place: Place, root: str, metrics: Collection[str], mask: Mask) -> None:
        self._store = store
        self._place = place
        self._root = root
        self._metrics = metrics
        self.mask = mask
        self._names = mask.strong()

    def over(self, entry: Json) -> Json:
        """The manifest's line, with the copy that may be shown if the file itself may not."""
        path = entry["path"]
        if not self.mask or entry["size"] > FILE_LIMIT or not (path in self._metrics or looks_like_metrics(path)):
            return entry
        body = b""
        # Gone since it was stored: then nothing of it is shown.
        with contextlib.suppress(OSError), open(os.path.join(self._root, path), "rb") as file:
            body = file.read(FILE_LIMIT + 1)
        shown = self.mask.whole(body)
        if shown == body and len(body) == entry["size"]:
            return entry
        key = self._place.key(f"shown/{entry['hash'].rpartition(':')[2]}")
        self._store.put(key, shown)
        return {**entry, "shown": key}

    def take_named(self, found: Collection[str]) -> list[str]:
        """The paths that hold a secret themselves."""
        # All at once first: of many thousand paths hardly ever one does.
        if not self._names or not self._names.finds("\n".join(found).encode("utf-8", "surrogateescape")):
            return []
        return [path for path in found if self._names.finds(path.encode("utf-8", "surrogateescape"))]
