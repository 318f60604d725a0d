"""Enforces IAM's policies, once a test asks for it; moto's own enforcement knows neither resources nor conditions.

Whoever holds the administrator's key of `AwsCloud.environment` may do everything, as before.
Signatures are not looked at here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from moto.iam.access_control import CreateAccessKeyFailure, IAMPolicy, create_access_key

from clouds.aws import answers
from clouds.aws.calls import Call
from clouds.aws.rules import Document, Request, allowed
from clouds.aws.wishes import ACCOUNT, wishes

Environ = dict[str, Any]
ADMINISTRATOR = "AKIAIOSFODNN7EXAMPLE"
_UNKNOWN = {"ec2": "AuthFailure", "s3": "InvalidAccessKeyId"}
_DENIED = {"ec2": "UnauthorizedOperation", "s3": "AccessDenied", "iam": "AccessDenied", "sts": "AccessDenied"}


class Guard:
    """The gate that every call passes."""

    def __init__(self) -> None:
        self.enforcing = False
        self._used: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def __call__(self, call: Call, environ: Environ, start: answers.Start) -> Iterable[bytes] | None:
        """Refuse what the caller may not do."""
        if not self.enforcing or call.access_key == ADMINISTRATOR:
            return None
        try:
            key = create_access_key(ACCOUNT, "aws", call.access_key, _headers(environ))
        except CreateAccessKeyFailure:
            code = _UNKNOWN.get(call.service, "UnrecognizedClientException")
            return self._refused(call, environ, start, code, "The security token included in the request is invalid.")
        if call.action == "GetCallerIdentity":
            return None  # nobody can be forbidden to ask who they are
        policies: list[Document] = [IAMPolicy(one)._policy_json for one in key.collect_policies()]
        for wish in wishes(call, environ.get("HTTP_HOST", "")):
            if not allowed(policies, wish):
                code = _DENIED.get(call.service, "AccessDeniedException")
                return self._refused(call, environ, start, code, _reason(key.arn, wish))
            with self._lock:
                self._used.add((key.arn, wish.action))
        return None

    def used(self) -> list[tuple[str, str]]:
        """Who did what, by ARN and action, of everything that was allowed."""
        with self._lock:
            return sorted(self._used)

    def clear(self) -> None:
        """Let everybody do everything."""
        self.enforcing = False
        with self._lock:
            self._used.clear()

    def _refused(self, call: Call, environ: Environ, start: answers.Start, code: str, why: str) -> Iterable[bytes]:
        answers.drained(environ)
        return answers.error(start, call.service, code, 403, why)


def _reason(who: str, wish: Request) -> str:
    return f"User: {who} is not authorized to perform: {wish.action} on resource: {wish.resource}"


def _headers(environ: Environ) -> dict[str, str]:
    token = environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
    return {"X-Amz-Security-Token": token} if token else {}
