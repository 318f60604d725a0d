"""The gate where calls are let in or not: signatures always, policies when a test asks.

The administrator's key may do everything. A machine's or a user's key is weighed by the policies
of its role or user. Bucket policies are not weighed, nor permission boundaries, nor sessions' own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.sts.models import sts_backends

from clouds.aws import answers
from clouds.aws.calls import Call, place
from clouds.aws.iam.rights import needed
from clouds.aws.iam.rules import Document, Request, allowed, matching
from clouds.aws.iam.signatures import Keys, signed_rightly
from clouds.aws.machines import ACCOUNT

ADMINISTRATOR = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
# Nobody can be forbidden to ask who they are.
_FREE = {("sts", "GetCallerIdentity")}


@dataclass(frozen=True)
class Principal:
    """Who calls: `user/ci` or `role/sojourn-machine-digits`."""

    name: str
    keys: Keys
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Decision:
    principal: str
    action: str
    resource: str
    allowed: bool
    because: str  # the statements that speak of it


class Guard:
    def __init__(self) -> None:
        self.enforcing = False
        self._decisions: list[Decision] = []

    def clear(self) -> None:
        """Let everybody do everything."""
        self.enforcing = False
        self._decisions.clear()

    def decisions(self) -> list[dict[str, Any]]:
        return [asdict(decision) for decision in list(self._decisions)]

    def __call__(self, call: Call, environ: dict[str, Any], start: answers.Start) -> Iterable[bytes] | None:
        """A gate of the wire."""
        principal = _principal(call.access_key)
        keys = ADMINISTRATOR if call.access_key == ADMINISTRATOR.access_key else principal and principal.keys
        if keys and not signed_rightly(call, environ, keys):
            return _refused(call, environ, start, _wrong_signature(call.service))
        if not self.enforcing or keys is ADMINISTRATOR:
            return None
        if principal is None:
            return _refused(call, environ, start, _unknown_key(call))
        if (call.service, call.action) in _FREE:
            return None
        denied = self._denied(principal, call)
        if denied is None:
            return None
        said = f"User: {principal.name} is not authorized to perform: {denied.action} on resource: {denied.resource}"
        return _refused(call, environ, start, (*_denial(call.service), said))

    def may(self, role_arn: str, right: Request) -> bool:
        """Whether a role may do something on its own account, as a schedule does."""
        return not self.enforcing or self._weighed(_short(role_arn), _of_role(role_arn), right)

    def _denied(self, principal: Principal, call: Call) -> Request | None:
        wanted = needed(call)
        return next((one for one in wanted if not self._weighed(principal.name, principal.documents, one)), None)

    def _weighed(self, name: str, documents: tuple[Document, ...], right: Request) -> bool:
        may = allowed(documents, right)
        because = ", ".join(str(one.get("Sid", one["Effect"])) for one in matching(documents, right))
        self._decisions.append(Decision(name, right.action, right.resource, may, because))
        return may


def _principal(access_key: str) -> Principal | None:
    iam = iam_backends[ACCOUNT]["aws"]
    for assumed in sts_backends[ACCOUNT]["aws"].assumed_roles:
        if assumed.access_key_id == access_key:
            keys = Keys(access_key, assumed.secret_access_key, assumed.session_token)
            return Principal(_short(assumed.role_arn), keys, _of_role(assumed.role_arn))
    for user in iam.users.values():
        for key in user.access_keys:
            if key.access_key_id == access_key:
                documents = [json.loads(text) for text in user.policies.values()]
                documents += [_managed(policy) for policy in user.managed_policies.values()]
                return Principal(f"user/{user.name}", Keys(access_key, key.secret_access_key), tuple(documents))
    return None


def _of_role(arn: str) -> tuple[Document, ...]:
    name = arn.split("/")[-1]
    for role in iam_backends[ACCOUNT]["aws"].roles.values():
        if role.name == name:
            documents = [json.loads(text) for text in role.policies.values()]
            return (*documents, *(_managed(policy) for policy in role.managed_policies.values()))
    return ()


def _managed(policy: Any) -> Document:
    text = next(version.document for version in policy.versions if version.is_default)
    document: Document = json.loads(text)
    return document


def _short(arn: str) -> str:
    return "role/" + arn.split("/")[-1]


def _refused(call: Call, environ: dict[str, Any], start: answers.Start, said: tuple[str, int, str]) -> Iterable[bytes]:
    answers.drained(environ)
    code, status, message = said
    return answers.error(_telling_the_region(call, start), call.service, code, status, message)


def _telling_the_region(call: Call, start: answers.Start) -> answers.Start:
    """S3 says where a bucket lies also to whoever may not look at it.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html
    """
    found = s3_backends[ACCOUNT]["aws"].buckets.get(place(call)[0]) if call.service == "s3" else None
    told = [("x-amz-bucket-region", found.region_name)] if found else []
    return lambda status, headers, *rest: start(status, [*headers, *told], *rest)


def _denial(service: str) -> tuple[str, int]:
    if service == "ec2":
        return "UnauthorizedOperation", 403
    return ("AccessDenied", 403) if service in ("s3", "iam", "sts") else ("AccessDeniedException", 400)


def _wrong_signature(service: str) -> tuple[str, int, str]:
    said = "The request signature we calculated does not match the signature you provided."
    if service == "ec2":
        return "AuthFailure", 401, said
    return ("SignatureDoesNotMatch" if service in ("s3", "iam", "sts") else "InvalidSignatureException"), 403, said


def _unknown_key(call: Call) -> tuple[str, int, str]:
    if not call.access_key:
        return (*_denial(call.service), "Anonymous users may not do this.")
    if call.service == "s3":
        return "InvalidAccessKeyId", 403, "The AWS Access Key Id you provided does not exist in our records."
    if call.service == "ec2":
        return "AuthFailure", 401, "AWS was not able to validate the provided access credentials"
    if call.service in ("iam", "sts"):
        return "InvalidClientTokenId", 403, "The security token included in the request is invalid."
    return "UnrecognizedClientException", 400, "The security token included in the request is invalid."
