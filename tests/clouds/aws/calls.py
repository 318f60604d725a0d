"""One request as it came over the wire: which service, which action, whose key, and what it said."""

from __future__ import annotations

import io
import re
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote_plus

from moto.core.request import Request
from moto.core.routing import get_service_router
from werkzeug.exceptions import NotFound

Environ = dict[str, Any]

# Bodies longer than this are data, not requests; they are passed on unread.
RECORDED_BYTES = 1 << 20
# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-auth-using-authorization-header.html
_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
_BUCKET_HOST = re.compile(r"^(?P<bucket>[^.]+)\.s3[.-][^/]*amazonaws\.com(:\d+)?$")


@dataclass
class Call:
    """What is kept of a request. `action` is the API's own name: RunInstances, GetObject."""

    service: str
    action: str
    region: str
    access_key: str
    method: str
    path: str
    query: str
    body: str
    source: str  # the address that called
    host: str = ""
    copied_from: str = ""  # bucket and key, of a copy in S3
    at: float = field(default_factory=time.time)
    status: int | None = None  # None while nothing was answered
    fault: str | None = None  # the effect of the fault that met it

    @property
    def said(self) -> str:
        """Everything the caller sent, readable: for patterns of tests."""
        return f"{self.method} {self.path}?{unquote_plus(self.query)}\n{unquote_plus(self.body)}"

    def record(self) -> dict[str, Any]:
        return asdict(self)


def parse(environ: Environ) -> Call:
    """Read a request; its body stays readable for whoever comes next."""
    scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", "")) or _SCOPE.search(_presigned_scope(environ))
    access_key, region, service = scope.groups() if scope else ("", "us-east-1", "s3")
    body = _body(environ)
    return Call(
        service=service,
        action=_action(environ, service, body),
        region=region,
        access_key=access_key,
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"],
        query=environ.get("QUERY_STRING", ""),
        body=body.decode("utf-8", "replace"),
        source=environ.get("REMOTE_ADDR", ""),
        host=environ.get("HTTP_HOST", ""),
        copied_from=environ.get("HTTP_X_AMZ_COPY_SOURCE", ""),
    )


def place(call: Call) -> tuple[str, str]:
    """Bucket and key of a call of S3, in whichever way they were said."""
    virtual = _BUCKET_HOST.match(call.host)
    if virtual:
        return virtual["bucket"], call.path.lstrip("/")
    bucket, _, key = call.path.lstrip("/").partition("/")
    return bucket, key


def _presigned_scope(environ: Environ) -> str:
    credential = parse_qs(environ.get("QUERY_STRING", "")).get("X-Amz-Credential", [""])[0]
    return f"Credential={credential}"


def _body(environ: Environ) -> bytes:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if not 0 < length <= RECORDED_BYTES:
        return b""
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def _action(environ: Environ, service: str, body: bytes) -> str:
    target = environ.get("HTTP_X_AMZ_TARGET")
    if target:
        return str(target).split(".")[-1]
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded") and service != "s3":
        return parse_qs(body.decode("utf-8", "replace")).get("Action", ["?"])[0]
    return _routed(environ, service)


def _routed(environ: Environ, service: str) -> str:
    """The action of a REST service, which only method, path and query tell."""
    environ = dict(environ)
    virtual = _BUCKET_HOST.match(environ.get("HTTP_HOST", ""))
    if service == "s3" and virtual:
        path = f"/{virtual['bucket']}{environ['PATH_INFO']}"
        environ["PATH_INFO"] = environ["RAW_URI"] = path if environ["PATH_INFO"] != "/" else path[:-1]
        environ["HTTP_HOST"] = "s3.amazonaws.com"  # or a bucket is taken for a key of itself
    try:
        operation, _ = _router(service).match(Request(environ))
    except (NotFound, NotImplementedError, KeyError, ValueError):
        return str(environ["REQUEST_METHOD"])
    return str(operation.name)


@cache
def _router(service: str) -> Any:
    return get_service_router(service)
