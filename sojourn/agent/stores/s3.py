"""The store in an S3 bucket, as a machine sees it: `FileStore`'s verbs over signed HTTP.

Every call has a time limit, within which what the service cannot do now is asked again.
An error is an OSError, and a FileNotFoundError only where a key is read that is not there.
A create is exact: after a lost answer, "it exists" may mean our own object, which then has
our bytes. With `AWS_ENDPOINT_URL` or `s3+http://host/bucket` another service is spoken to,
with the bucket in the path.
https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import os
import random
import re
import time
from typing import BinaryIO, Mapping, NamedTuple, cast
from urllib.parse import unquote, urlsplit

from sojourn.agent.clouds.credentials import Identity, authorities
from sojourn.agent.clouds.sigv4 import EMPTY, Credentials, Query, Scope, encoded, query_string, signed
from sojourn.agent.errors import Exists, Refused, StoreError
from sojourn.agent.stores import multipart
from sojourn.agent.stores.ranges import Blob
from sojourn.agent.stores.store import Check
from sojourn.agent.stores.wire import Answer, Pool

FIND_S = 5.0  # whoever polls asks again anyway
CALL_S = 20.0  # whoever writes tries again by its own rules
FETCH_S = 120.0  # nobody else asks again for what is fetched
WAIT_S = 30.0  # for the other side, at any one time
ERROR_LIMIT = 64 << 10
FINE = (200, 204, 206, 304, 404, 412, 416)
BUSY = (408, 429, 500, 502, 503, 504)
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken")
BUSY_CODES = (
    *("RequestTimeout", "SlowDown", "ConditionalRequestConflict", "OperationAborted", "InternalError"),
    *("ThrottlingException", "Throttling"),  # of the service that keeps the keys of a bucket's encryption
)
PLACES = ("s3", "s3+http", "s3+https")
CURES = 3  # of what is ours to mend, in one call
WORTH_A_LOOK = 1 << 20  # a file of this size is not sent again when it is there


class Said(NamedTuple):
    """Why something was refused, its code, and where the bucket lies as far as that was told."""

    why: str
    code: str
    region: str


class S3Store:
    """A bucket, or what lies below a prefix of it; threads may share one."""

    patience_s = 1800.0  # without it the machine has lost contact
    pace_s = 2.5
    fetchers = 32

    def __init__(
        self,
        url: str,
        region: str | None = None,
        *,
        identity: Identity | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        place = urlsplit(url)
        if place.scheme not in PLACES:
            raise Refused(f"this agent cannot read {url}: it speaks file:// and s3://")
        self._region = region or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        path = unquote(place.path).strip("/")
        if place.scheme == "s3":
            self._endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
            self._bucket, self._prefix = place.netloc, path
        else:
            self._endpoint = f"{place.scheme[3:]}://{place.netloc}"
            self._bucket, _, self._prefix = path.partition("/")
        self._identity = identity or Identity(environ)
        self._pool = Pool(self._endpoint or self._home(), authorities())
        self._unsure: set[str] = set()
        self._skew = 0.0
        self._heard = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the store last did what it was asked to."""
        return time.monotonic() - self._heard

    def close(self) -> None:
        """End the connections; the next call makes new ones."""
        self._pool.close()

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        with self.open(key) as file:
            return file.read()

    def find(self, key: str) -> bytes | None:
        """The whole object, or None when there is none or the store does not answer."""
        try:
            answer = self.ask("GET", key, limit_s=FIND_S)
            body = answer.read()
            return body if answer.status == 200 else None
        except OSError:
            return None

    def exists(self, key: str) -> bool:
        """Whether an object has this key, as far as the store answers."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """The object's size; None when there is none or the store does not answer."""
        try:
            answer = self.ask("HEAD", key, limit_s=FIND_S)
            answer.read()
        except OSError:
            return None
        return int(answer.headers.get("content-length") or 0) if answer.status == 200 else None

    def open(self, key: str) -> BinaryIO:
        """The object as a stream, a large one fetched by several connections. Raises FileNotFoundError."""
        blob = Blob(lambda headers: self.ask("GET", key, headers=headers, limit_s=FETCH_S), key)
        return cast(BinaryIO, blob)

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing what was there."""
        _done(self.ask("PUT", key, body=body))

    def create(self, key: str, body: bytes, durable: bool = False) -> None:
        """Write an object that must not exist yet. Raises Exists."""
        try:
            answer = self.ask("PUT", key, headers={"if-none-match": "*"}, body=body)
        except OSError:
            self._unsure.add(key)  # it may stand all the same, and the caller will try again
            raise
        if answer.status != 412:
            _done(answer)
        else:
            answer.close()
            if not (answer.again or key in self._unsure) or self.get(key) != body:
                raise Exists(key)
        self._unsure.discard(key)

    def delete(self, key: str) -> None:
        """Take an object away; one that is not there is fine."""
        _done(self.ask("DELETE", key), (200, 204, 404))

    def keep(self, prefix: str, source: BinaryIO, check: Check) -> tuple[str, int]:
        """Store a file as `prefix/<sha256>`: its hash and size. The same bytes again are fine.

        The file is read twice. The second time goes over the wire under the hashes of the
        first, so what has changed meanwhile is refused by the service.
        """
        digest, parts = multipart.hashed(source, check)
        size, key = sum(part.size for part in parts), f"{prefix}/{digest}"
        if size > WORTH_A_LOOK and self.size(key) == size:
            return digest, size
        if len(parts) > 1:
            multipart.send(self.ask, key, source, parts, check)
        else:
            source.seek(0)
            check()
            _done(self.ask("PUT", key, body=source.read(size), payload=digest))
        return digest, size

    def ask(
        self,
        method: str,
        key: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        payload: str | None = None,
        limit_s: float = CALL_S,
    ) -> Answer:
        """One request, repeated within its time limit; the caller reads the body. Raises StoreError."""
        until, pause, cures, again = time.monotonic() + limit_s, 0.1, 0, False
        payload = payload or (hashlib.sha256(body).hexdigest() if body else EMPTY)
        while True:
            cured = False
            try:
                credentials = self._credentials()
                answer = self._exchange(credentials, method, key, query, headers or {}, body, payload, until)
                answer.again = again = again or answer.again
                if answer.status in FINE:
                    self._heard = time.monotonic()
                    return answer
                why, code, region = _said(answer)
                # A HEAD has no room for words, so what it refuses may be keys that have ended.
                ended = code in EXPIRED or (method == "HEAD" and answer.status == 400)
                cured = cures < CURES and self._cure(answer, region, code, credentials if ended else None)
                if not cured and answer.status not in BUSY and code not in BUSY_CODES:
                    raise _refused(answer.status, f"{method} {key}: {why}")
                again = again or answer.status in BUSY
            except StoreError:
                raise
            except OSError as error:
                why, again = error.strerror or str(error), True
            cures += cured
            wait = 0.0 if cured else pause * random.uniform(0.5, 1.5)
            if time.monotonic() + wait >= until:
                raise StoreError(errno.EIO, f"the store does not answer: {method} {key}: {why}")
            time.sleep(wait)
            pause = min(pause * 2, 5.0)

    def _exchange(
        self,
        credentials: Credentials,
        method: str,
        key: str,
        query: Query,
        headers: Mapping[str, str],
        body: bytes,
        payload: str,
        until: float,
    ) -> Answer:
        path = self._path(key)
        named = {"host": self._pool.host, "x-amz-content-sha256": payload, **headers}
        scope, now = Scope(self._region, "s3"), time.time() + self._skew
        ready = signed(credentials, scope, method, path, query, named, payload, now)
        target = f"{path}?{query_string(query)}" if query else path
        return self._pool.send(method, target, ready, body, max(1.0, min(WAIT_S, until - time.monotonic())))

    def _credentials(self) -> Credentials:
        try:
            return self._identity.credentials()
        except OSError as error:
            raise OSError(errno.EIO, f"this machine has no credentials: {error.strerror}") from error

    def _cure(self, answer: Answer, region: str, code: str, ended: Credentials | None) -> bool:
        """Whether the reason of a refusal was ours to mend, and is mended."""
        if answer.status in (301, 307, 400, 403) and region != self._region and re.fullmatch("[a-z0-9-]+", region):
            self._region = region
            if not self._endpoint:
                self.close()
                self._pool = Pool(self._home(), authorities())
            return True
        if ended is not None:
            self._identity.expired(ended)
            return self._credentials() != ended
        if code == "RequestTimeTooSkewed":
            with contextlib.suppress(TypeError, ValueError):
                self._skew = email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp() - time.time()
                return True
        return False

    def _home(self) -> str:
        # A dot in a bucket's name would not match the service's certificate.
        dotted = "." in self._bucket
        suffix = "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"
        return f"https://{'' if dotted else self._bucket + '.'}s3.{self._region}.{suffix}"

    def _path(self, key: str) -> str:
        in_host = not self._endpoint and "." not in self._bucket
        base = urlsplit(self._endpoint).path.rstrip("/")
        parts = [*([] if in_host else [self._bucket]), *filter(None, [self._prefix, key])]
        return f"{base}/{encoded('/'.join(parts), safe='/')}"


def _done(answer: Answer, fine: tuple[int, ...] = (200, 204)) -> None:
    if answer.status not in fine:
        raise _refused(answer.status, _said(answer).why)
    with contextlib.suppress(OSError):  # it is done, whatever becomes of the rest
        answer.read()


def _said(answer: Answer) -> Said:
    """What the service says about an error, which may come with or without a text."""
    text = answer.whole(ERROR_LIMIT).decode(errors="replace")
    code = _element(text, "Code") or str(answer.status)
    region = answer.headers.get("x-amz-bucket-region") or _element(text, "Region")
    return Said(f"{_element(text, 'Message') or 'no reason given'} ({code})", code, region)


def _element(text: str, name: str) -> str:
    found = re.search(f"<{name}>([^<]{{1,300}})</{name}>", text)
    return found.group(1) if found else ""


def _refused(status: int, why: str) -> StoreError:
    return StoreError(errno.EACCES if status in (401, 403) else errno.EIO, f"the store refuses it: {why}")
