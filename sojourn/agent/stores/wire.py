"""HTTP on connections that are kept: `http.client`, with what it leaves to its callers.

A connection serves one exchange at a time and goes back when its answer was read whole.
A kept connection that the server has closed meanwhile costs a new one, and no error,
as long as nothing of an answer has come.
"""

from __future__ import annotations

import errno
import http.client
import ssl
import threading
from functools import lru_cache
from typing import Mapping
from urllib.parse import urlsplit

KEPT = 64


class Cut(OSError):
    """The answer ended before its end."""


class Answer:
    """Status, headers (in lower case) and a body that is read once."""

    def __init__(
        self, pool: Pool, connection: http.client.HTTPConnection, raw: http.client.HTTPResponse, again: bool
    ) -> None:
        self._pool = pool
        self._connection: http.client.HTTPConnection | None = connection
        self._raw = raw
        self.again = again  # the request went out twice: the first may have had its effect
        self.status = raw.status
        self.headers = {name.lower(): value for name, value in raw.getheaders()}
        self.left = raw.length  # bytes still to come; None when the server does not say

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, all of them when negative; empty at the end. Raises Cut, or another OSError."""
        try:
            body = self._raw.read() if size < 0 else self._raw.read(size)
        except (http.client.HTTPException, ValueError) as error:
            self.close()
            raise Cut(errno.ECONNRESET, f"the answer is cut off: {error!r}") from error
        except OSError:
            self.close()
            raise
        if self.left is not None:
            self.left -= len(body)
            if self.left > 0 and (size < 0 or not body):
                self.close()
                raise Cut(errno.ECONNRESET, f"the answer is cut off {self.left} bytes before its end")
        if self._raw.isclosed() and self._connection is not None:
            self._pool.back(self._connection, self._raw.will_close)
            self._connection = None
        return body

    def whole(self, limit: int) -> bytes:
        """All of a body that should be short; of one that is longer, its beginning."""
        body = b""
        while len(body) < limit:
            piece = self.read(limit - len(body))
            if not piece:
                return body
            body += piece
        self.close()
        return body

    def close(self) -> None:
        """Leave the rest unread."""
        if self._connection is not None:
            self._raw.close()
            self._connection.close()
            self._connection = None


class Pool:
    """The connections to one place, `https://host` or `http://host:port`.

    `authorities` is a file of the certificates that are trusted; the system's are without one.
    """

    def __init__(self, endpoint: str, authorities: str | None = None) -> None:
        self._authorities = authorities
        place = urlsplit(endpoint)
        self.host = place.netloc
        self._secure = place.scheme == "https"
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        """One exchange; `timeout_s` bounds each wait for the other side. Raises OSError."""
        connection, used = self._take(timeout_s)
        try:
            try:
                return self._exchange(connection, method, target, headers, body, again=False)
            except (ConnectionError, http.client.BadStatusLine):
                if not used:
                    raise
                connection.close()  # closed while it was idle; on a new one an error is an error
                return self._exchange(connection, method, target, headers, body, again=True)
        except http.client.HTTPException as error:
            connection.close()
            raise OSError(errno.ECONNRESET, f"no answer that can be read: {error!r}") from error
        except BaseException:
            connection.close()
            raise

    def back(self, connection: http.client.HTTPConnection, spent: bool) -> None:
        """A connection whose answer was read."""
        with self._lock:
            if not spent and len(self._idle) < KEPT:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """End the connections that nobody uses now."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        again: bool,
    ) -> Answer:
        connection.request(method, target, body=body or None, headers=dict(headers))
        return Answer(self, connection, connection.getresponse(), again)

    def _take(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            return self._new(timeout_s), False
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        return connection, True

    def _new(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(self.host, timeout=timeout_s, context=_trust(self._authorities))
        return http.client.HTTPConnection(self.host, timeout=timeout_s)


@lru_cache(maxsize=1)
def _trust(authorities: str | None) -> ssl.SSLContext:
    """The system's certificates, or those of a file."""
    return ssl.create_default_context(cafile=authorities or None)
