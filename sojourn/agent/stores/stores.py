"""Which class speaks to a store, by its URL."""

from __future__ import annotations

import threading
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from sojourn.agent.stores.store import FileStore, Store


def open_store(url: str, region: str | None = None) -> Store:
    """The store at `file://…`, `s3://bucket/prefix` or `s3+https://host/bucket/prefix`. Raises Refused."""
    if urlsplit(url).scheme == "file":
        return FileStore(url)
    from sojourn.agent.stores.s3 import S3Store  # which loads HTTP

    return S3Store(url, region)


class Elsewhere:
    """Objects outside the run's store, by their whole URLs; one set of connections for each bucket."""

    def __init__(self, region: str | None = None) -> None:
        self._region = region
        self._lock = threading.Lock()
        self._buckets: dict[str, Store] = {}

    def open(self, url: str) -> BinaryIO:
        """The object as a stream. Raises FileNotFoundError, Refused for a URL that no store is for."""
        if urlsplit(url).scheme == "file":
            return FileStore(url).open("")
        bucket, key = _split(url)
        with self._lock:
            if bucket not in self._buckets:
                self._buckets[bucket] = open_store(bucket, self._region)
        return self._buckets[bucket].open(key)

    def close(self) -> None:
        """End all connections."""
        for bucket in self._buckets.values():
            bucket.close()


def _split(url: str) -> tuple[str, str]:
    """A bucket's URL and a key in it."""
    place = urlsplit(url)
    path = place.path.lstrip("/")
    if place.scheme == "s3":
        return f"s3://{place.netloc}", unquote(path)
    bucket, _, key = path.partition("/")
    return f"{place.scheme}://{place.netloc}/{bucket}", unquote(key)
