"""Keeps secret values out of the log."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Mask:
    """Replaces secret values in a stream of bytes, also where a value spans two chunks."""

    def __init__(self, values: Iterable[str]) -> None:
        # A rank's prefix may split a value of several lines, so each line counts on its own.
        texts = list(values)
        shown = {text.strip() for text in texts if len(text.strip()) >= 4}
        shown |= {line.strip() for text in texts for line in text.splitlines() if len(line.strip()) >= 8}
        self._secrets = sorted((text.encode(errors="surrogateescape") for text in shown), key=len, reverse=True)
        self._regex = re.compile(b"|".join(map(re.escape, self._secrets)))
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far can be shown."""
        if not self._secrets:
            return chunk
        text = self._held + chunk
        cut = self._cut(text)
        self._held = text[cut:]
        return self.whole(text[:cut])

    def close(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return self.whole(held)

    def whole(self, text: bytes) -> bytes:
        """A complete text, masked."""
        return self._regex.sub(b"***", text) if self._secrets else text

    def _cut(self, text: bytes) -> int:
        """Where a secret may have begun that is not over yet."""
        longest = len(self._secrets[0])
        first = max(0, len(text) - longest + 1)
        cut = next((at for at in range(first, len(text)) if self._open(text[at:])), len(text))
        for match in self._regex.finditer(text, max(0, cut - longest)):
            if match.start() < cut < match.end():
                return match.start()
        return cut

    def _open(self, end: bytes) -> bool:
        return any(len(secret) > len(end) and secret.startswith(end) for secret in self._secrets)
