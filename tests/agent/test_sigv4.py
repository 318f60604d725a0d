"""Amazon's signature, against botocore's own signer."""

from __future__ import annotations

import calendar
import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore import auth, awsrequest
from botocore.credentials import Credentials as Theirs

from sojourn.agent.clouds.sigv4 import EMPTY, Credentials, Scope, encoded, query_string, signed

NOW = calendar.timegm((2026, 11, 21, 12, 0, 0))


def test_amazon_s_own_example_has_the_published_signature() -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "GET Object"
    found = signed(
        Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        Scope("us-east-1", "s3"),
        "GET",
        "/test.txt",
        [],
        {"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9", "x-amz-content-sha256": EMPTY},
        EMPTY,
        calendar.timegm((2013, 5, 24, 0, 0, 0)),
    )

    assert found["authorization"].endswith("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")


def test_amazon_s_example_of_a_put_has_the_published_signature() -> None:
    body = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    found = signed(
        Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        Scope("us-east-1", "s3"),
        "PUT",
        "/" + encoded("test$file.text"),
        [],
        {
            "Date": "Fri, 24 May 2013 00:00:00 GMT",
            "Host": "examplebucket.s3.amazonaws.com",
            "x-amz-content-sha256": body,
            "x-amz-storage-class": "REDUCED_REDUNDANCY",
        },
        body,
        calendar.timegm((2013, 5, 24, 0, 0, 0)),
    )

    assert found["authorization"].endswith("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")


@pytest.mark.parametrize(
    ("method", "key", "query", "body", "token"),
    [
        ("GET", "a/b.json", [], b"", ""),
        ("PUT", "ä ö/ü+(1)~*'!&=%2F", [], b"body", "a/token+=="),
        ("POST", "key", [("uploads", "")], b"", ""),
        ("PUT", "key", [("uploadId", "a+b/c="), ("partNumber", "10")], b"x" * 1000, ""),
        ("GET", "", [("prefix", "a b/ü"), ("list-type", "2"), ("delimiter", "/")], b"", ""),
    ],
)
def test_a_request_is_signed_as_botocore_signs_it(
    method: str, key: str, query: list[tuple[str, str]], body: bytes, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, host = "/bucket/" + encoded(key, safe="/"), "127.0.0.1:9000"
    url = f"http://{host}{path}" + (f"?{query_string(query)}" if query else "")
    theirs: Any = awsrequest.AWSRequest(method, url, data=body, headers={"range": "bytes=0-1"})
    theirs.context["payload_signing_enabled"] = True
    monkeypatch.setattr(auth, "get_current_datetime", lambda: datetime.fromtimestamp(NOW, UTC).replace(tzinfo=None))
    auth.S3SigV4Auth(Theirs("AKIA", "secret", token or None), "s3", "eu-west-1").add_auth(theirs)

    payload = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "range": "bytes=0-1", "x-amz-content-sha256": payload}
    ours = signed(
        Credentials("AKIA", "secret", token), Scope("eu-west-1", "s3"), method, path, query, headers, payload, NOW
    )

    assert ours["authorization"] == theirs.headers["Authorization"]


def test_another_service_is_signed_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"Name":"/sojourn/digits/TOKEN"}'
    theirs: Any = awsrequest.AWSRequest(
        "POST", "https://ssm.eu-west-1.amazonaws.com/", data=body, headers={"x-amz-target": "AmazonSSM.GetParameter"}
    )
    monkeypatch.setattr(auth, "get_current_datetime", lambda: datetime.fromtimestamp(NOW, UTC).replace(tzinfo=None))
    auth.SigV4Auth(Theirs("AKIA", "secret", None), "ssm", "eu-west-1").add_auth(theirs)

    headers = {"host": "ssm.eu-west-1.amazonaws.com", "x-amz-target": "AmazonSSM.GetParameter"}
    payload = hashlib.sha256(body).hexdigest()
    ours = signed(Credentials("AKIA", "secret"), Scope("eu-west-1", "ssm"), "POST", "/", [], headers, payload, NOW)

    assert ours["authorization"] == theirs.headers["Authorization"]
