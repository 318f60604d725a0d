"""What the script wrote, told from what was in its tree before.

Of a file that was sent, the hash is known. Where no more than the last of its times has changed the content decides:
a hard link changes that time, a rename and back as well, and so does writing in place with the other times put back.
"""

from __future__ import annotations

import hashlib
import os
from typing import Mapping

from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.results.tree import Sign, sign_of
from sojourn.agent.stores.store import chunks

READING_S = 5.0  # at each look, so that it holds up no checkpoint; what is not read by then counts as changed so far


class Sent:
    """One node's tree before the script started."""

    def __init__(self, root: str, order: Json, before: Mapping[str, Sign], clock: Clock = HOST) -> None:
        self._root = root
        self._before = before
        self._clock = clock
        listing = (order.get("bundle") or {}).get("listing", ())
        self._hashes = {entry["path"]: entry.get("hash") for entry in (*listing, *order["inputs"])}
        self._read: dict[str, tuple[Sign, bool]] = {}

    def changed(self, found: Mapping[str, Sign]) -> dict[str, Sign]:
        """Those of the files that are new, or not what they were."""
        until = self._clock.monotonic() + READING_S
        return {
            path: sign
            for path, sign in found.items()
            if self._before.get(path) != sign and not self._holds_the_same(path, sign, until)
        }

    def _holds_the_same(self, path: str, sign: Sign, until: float) -> bool:
        known = self._hashes.get(path)
        if not known or not sign.is_like(self._before.get(path)):
            return False
        if self._read.get(path, (None,))[0] != sign:
            same = self._read_through(path, sign, known, until)
            if same is None:
                return False
            self._read[path] = sign, same
        return self._read[path][1]

    def _read_through(self, path: str, sign: Sign, known: str, until: float) -> bool | None:
        """Whether the file has this hash; None when it cannot be read, or not in time, or is written to meanwhile."""
        kind, _, wanted = known.partition(":")
        try:
            digest = hashlib.new(kind)
            with open(os.path.join(self._root, path), "rb") as file:
                for chunk in chunks(file, lambda: None):
                    if self._clock.monotonic() > until:
                        return None
                    digest.update(chunk)
                same_state = sign_of(os.fstat(file.fileno())) == sign
        except (OSError, ValueError):
            return None
        return digest.hexdigest() == wanted if same_state else None
