"""Amazon's signature on a request, version 4, by the standard library alone.

The caller gives the path and the query as they go over the wire, encoded once: that is
what S3 signs, and for other services' path "/" there is no difference.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from typing import Mapping, NamedTuple, Sequence, Tuple
from urllib.parse import quote

EMPTY = hashlib.sha256(b"").hexdigest()
Query = Sequence[Tuple[str, str]]


class Credentials(NamedTuple):
    """Who signs."""

    key: str
    secret: str
    token: str = ""


class Scope(NamedTuple):
    """Where a signature counts."""

    region: str
    service: str


def signed(
    credentials: Credentials,
    scope: Scope,
    method: str,
    path: str,
    query: Query,
    headers: Mapping[str, str],
    payload: str,
    now: float,
) -> dict[str, str]:
    """The headers (which must name the host) with date, token and signature; `payload` is the body's SHA-256."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    signing = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    signing["x-amz-date"] = moment
    if credentials.token:
        signing["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(signing))
    lines = "".join(f"{name}:{signing[name]}\n" for name in sorted(signing))
    canonical = "\n".join([method, path, query_string(query), lines, names, payload])
    area = f"{moment[:8]}/{scope.region}/{scope.service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, area, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = hmac.new(_key(credentials.secret, moment[:8], *scope), text.encode(), "sha256").hexdigest()
    who = f"Credential={credentials.key}/{area}, SignedHeaders={names}, Signature={signature}"
    return {**signing, "authorization": f"AWS4-HMAC-SHA256 {who}"}


def query_string(query: Query) -> str:
    """The query as it is signed and sent: encoded, then sorted."""
    return "&".join(f"{name}={value}" for name, value in sorted((encoded(n), encoded(v)) for n, v in query))


def encoded(text: str, safe: str = "") -> str:
    """Percent-encoded as Amazon wants it; with `safe="/"` a whole path."""
    return quote(text, safe=safe + "~")


@functools.lru_cache(maxsize=8)  # it changes once a day, and a fetch signs thousands of requests
def _key(secret: str, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return key
