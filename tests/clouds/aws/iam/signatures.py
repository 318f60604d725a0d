"""Whether a call was signed with the secret that belongs to its key: SigV4 in the Authorization header.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from clouds.aws.calls import Call

_SIGNED = re.compile(r"SignedHeaders=([^,\s]+).*Signature=([0-9a-f]{64})")


@dataclass(frozen=True)
class Keys:
    access_key: str
    secret_key: str
    token: str | None = None


def signed_rightly(call: Call, environ: dict[str, Any], keys: Keys) -> bool:
    """Presigned URLs are taken on trust."""
    found = _SIGNED.search(environ.get("HTTP_AUTHORIZATION", ""))
    if not found:
        return "X-Amz-Signature=" in call.query or "Signature=" in call.query
    names, signature = found[1].split(";"), found[2]
    headers = {name: _header(environ, name) for name in names}
    if keys.token is not None and headers.get("x-amz-security-token") != keys.token:
        return False
    request = AWSRequest(method=call.method, url=_url(environ), data=call.body.encode(), headers=headers)
    request.context["timestamp"] = headers.get("x-amz-date", "")
    kind = S3SigV4Auth if call.service == "s3" else SigV4Auth
    auth = kind(Credentials(keys.access_key, keys.secret_key, keys.token), call.service, call.region)
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return bool(expected == signature)


def _header(environ: dict[str, Any], name: str) -> str:
    plain = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
    return str(environ.get(plain.get(name) or "HTTP_" + name.upper().replace("-", "_"), ""))


def _url(environ: dict[str, Any]) -> str:
    raw = str(environ.get("RAW_URI") or environ["PATH_INFO"])
    path, mark, query = raw.partition("?")
    # S3 takes a plus in a query for a space, and so signs one; so do clients that write it (seen with radosgw too).
    return f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}{path}{mark}{query.replace('+', '%20')}"
