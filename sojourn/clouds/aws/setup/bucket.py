"""The store of a region: encrypted, closed to the public, and forgetting old runs by itself.

It keeps what is overwritten or deleted for some days: a machine may write and delete what is its run's, and may not
remove a version, so what a script spoils there can be had back.
"""

from __future__ import annotations

import json
from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import code_of, translated
from sojourn.clouds.aws.foundation import Names, find_bucket, unless_absent
from sojourn.clouds.aws.policies import Document, tls_only
from sojourn.errors import SpecError

KEEP_DAYS = 30
UNFINISHED_DAYS = 7
VERSION_DAYS = 7
PREFIXES = ("control/", "orders/", "machine/")
_BLOCK = {name: True for name in ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")}
_TLS = "only by TLS"


class Bucket:
    """A bucket of ours; rules and statements that somebody else gave it stay."""

    def __init__(self, clients: Clients, names: Names, days: int | None) -> None:
        self.title = f"bucket {names.bucket}"
        self._clients = clients
        self._names = names
        self._days = days
        self._s3 = clients.client("s3")
        self._which = {"Bucket": names.bucket, "ExpectedBucketOwner": names.account}

    def wanted(self) -> dict[str, Any]:
        """What it should be, by aspect."""
        return {
            "encryption": "AES256",
            "public access": "blocked",
            "ownership": "BucketOwnerEnforced",
            **{f"keeps {prefix}": f"{self._keep()} days" for prefix in PREFIXES},
            "unfinished uploads": f"{UNFINISHED_DAYS} days",
            "earlier versions": f"{VERSION_DAYS} days",
            **({"requests": _TLS} if self._by_tls else {}),
        }

    def standing(self) -> dict[str, Any] | None:
        """What it is; None while the account has no such bucket."""
        if not find_bucket(self._clients, self._names):
            return None
        rules = {rule.get("ID"): rule for rule in self._rules()}
        kept = {prefix: rules.get(_rule_id(prefix)) for prefix in PREFIXES}
        return {
            "encryption": self._encryption(),
            "public access": "blocked" if self._blocked() else "not blocked",
            "ownership": self._ownership(),
            **{f"keeps {prefix}": _days(rule, "Expiration", "Days") for prefix, rule in kept.items()},
            "unfinished uploads": _days(
                rules.get(_rule_id("uploads")), "AbortIncompleteMultipartUpload", "DaysAfterInitiation"
            ),
            "earlier versions": _days(rules.get(_rule_id("versions")), "NoncurrentVersionExpiration", "NoncurrentDays")
            if self._has_versions()
            else None,
            **({"requests": _TLS if self._tls_statement() in self._statements() else None} if self._by_tls else {}),
        }

    def make(self, has: dict[str, Any] | None) -> None:
        """Create or mend it."""
        if has is None:
            self._create()
        with translated(f"close bucket {self._names.bucket} to the public"):
            self._s3.put_public_access_block(**self._which, PublicAccessBlockConfiguration=_BLOCK)
            self._s3.put_bucket_ownership_controls(
                **self._which, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
            )
        with translated(f"encrypt bucket {self._names.bucket}"):
            rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
            self._s3.put_bucket_encryption(**self._which, ServerSideEncryptionConfiguration={"Rules": [rule]})
        with translated(f"say how long bucket {self._names.bucket} keeps things"):
            ours = [*map(self._expiry, PREFIXES), _unfinished(), _versions()]
            others = [rule for rule in self._rules() if rule.get("ID") not in {one["ID"] for one in ours}]
            self._s3.put_bucket_lifecycle_configuration(
                **self._which, LifecycleConfiguration={"Rules": [*others, *ours]}
            )
        # After the rule, so that no version is kept for ever.
        with translated(f"let bucket {self._names.bucket} keep earlier versions"):
            self._s3.put_bucket_versioning(**self._which, VersioningConfiguration={"Status": "Enabled"})
        if self._by_tls:
            self._refuse_clear_text()

    def remove(self) -> None:
        """Delete it with all that it keeps."""
        with translated(f"empty bucket {self._names.bucket}"):
            for page in self._s3.get_paginator("list_object_versions").paginate(**self._which):
                found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                which = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in found]
                if which:
                    self._s3.delete_objects(**self._which, Delete={"Objects": which, "Quiet": True})
        with translated(f"delete bucket {self._names.bucket}"):
            self._s3.delete_bucket(**self._which)

    def keeps(self) -> bool:
        """Whether anything lies in it."""
        with translated(f"look into bucket {self._names.bucket}"):
            return bool(self._s3.list_objects_v2(**self._which, MaxKeys=1).get("Contents"))

    def _create(self) -> None:
        region, name = self._names.region, self._names.bucket
        # us-east-1 is the one region that may not be named.
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            self._s3.create_bucket(Bucket=name, **place)
        except Exception as error:
            code = code_of(error)
            if code == "BucketAlreadyExists":
                raise SpecError(
                    f"aws: bucket {name} belongs to another account, bucket names are Amazon-wide",
                    hint="keep runs in a bucket of your own: --store s3://BUCKET",
                ) from error
            if code != "BucketAlreadyOwnedByYou":
                with translated(f"make bucket {name}"):
                    raise

    def _refuse_clear_text(self) -> None:
        ours = self._tls_statement()
        others = [one for one in self._statements() if one.get("Sid") != ours["Sid"]]
        policy = {"Version": "2012-10-17", "Statement": [*others, ours]}
        with translated(f"refuse requests in the clear to bucket {self._names.bucket}"):
            self._s3.put_bucket_policy(**self._which, Policy=json.dumps(policy))

    @property
    def _by_tls(self) -> bool:
        """Whether the store is spoken to by TLS; at an endpoint without, the rule would lock us out too."""
        return str(self._s3.meta.endpoint_url).startswith("https:")

    def _keep(self) -> int:
        """The days asked for, else those of the rule that stands, else the usual."""
        if self._days is None and find_bucket(self._clients, self._names):
            stands = next((rule for rule in self._rules() if rule.get("ID") == _rule_id(PREFIXES[0])), {})
            return int(stands.get("Expiration", {}).get("Days", KEEP_DAYS))
        return self._days or KEEP_DAYS

    def _expiry(self, prefix: str) -> dict[str, Any]:
        rule = {"ID": _rule_id(prefix), "Status": "Enabled", "Filter": {"Prefix": prefix}}
        return {**rule, "Expiration": {"Days": self._keep()}}

    # -- what Amazon says --

    def _encryption(self) -> str | None:
        found = self._ask("bucket_encryption", "ServerSideEncryptionConfiguration")
        rule = found["Rules"][0].get("ApplyServerSideEncryptionByDefault", {}) if found else {}
        # A key of the user's own is as good.
        return "AES256" if rule.get("SSEAlgorithm") else None

    def _ownership(self) -> str | None:
        found = self._ask("bucket_ownership_controls", "OwnershipControls")
        return str(found["Rules"][0]["ObjectOwnership"]) if found else None

    def _has_versions(self) -> bool:
        return bool(self._ask("bucket_versioning", "Status") == "Enabled")

    def _blocked(self) -> bool:
        return bool(self._ask("public_access_block", "PublicAccessBlockConfiguration") == _BLOCK)

    def _rules(self) -> list[dict[str, Any]]:
        return list(self._ask("bucket_lifecycle_configuration", "Rules") or ())

    def _statements(self) -> list[Document]:
        found = self._ask("bucket_policy", "Policy")
        return list(json.loads(found)["Statement"]) if found else []

    def _ask(self, what: str, key: str) -> Any:
        """One aspect of the bucket; None when it was never set."""
        get = getattr(self._s3, f"get_{what}")
        doing = f"look at the {what.replace('_', ' ')} of {self._names.bucket}"
        answer = unless_absent(doing, lambda: get(**self._which))
        return answer.get(key) if answer else None

    def _tls_statement(self) -> Document:
        statement: Document = tls_only(f"arn:{self._names.partition}:s3:::{self._names.bucket}")["Statement"][0]
        return statement


def _rule_id(what: str) -> str:
    return f"sojourn-{what.strip('/')}"


def _unfinished() -> dict[str, Any]:
    rule = {"ID": _rule_id("uploads"), "Status": "Enabled", "Filter": {"Prefix": ""}}
    return {**rule, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UNFINISHED_DAYS}}


def _versions() -> dict[str, Any]:
    """A marker that hides nothing any more goes with what it hid."""
    rule = {"ID": _rule_id("versions"), "Status": "Enabled", "Filter": {"Prefix": ""}}
    forgotten = {"NoncurrentVersionExpiration": {"NoncurrentDays": VERSION_DAYS}}
    return {**rule, **forgotten, "Expiration": {"ExpiredObjectDeleteMarker": True}}


def _days(rule: dict[str, Any] | None, action: str, unit: str) -> str | None:
    days = rule.get(action, {}).get(unit) if rule and rule.get("Status") == "Enabled" else None
    return f"{days} days" if days else None
