"""A bucket of S3 for `sojourn.store.storage`: opened with what boto3 finds, its refusals told as decisions.

Credentials, profile, session and endpoint are those of boto3's own chain, asked again
before they end. The bucket is looked at once, when first used: that tells its region, and
turns a bucket that is missing or another's into one sentence before anything is written.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

import obstore.exceptions
import obstore.store

from sojourn.clouds.aws.clients import SOMEWHERE, Clients
from sojourn.clouds.aws.codes import DEAD_CREDENTIALS, DECISIONS
from sojourn.clouds.aws.errors import CREDENTIALS_HINT, code_of, region_in, translated
from sojourn.errors import AccessError, GoneError, SojournError, SpecError, TransientError, first_line

ERASE_LIMIT_S = 120.0
COPIED_AT_ONCE = 256 << 20  # bytes, by one request
REMOVED_AT_ONCE = 1000  # by one request, which is all that S3 takes
KEYS_LAST = timedelta(minutes=10)  # boto3 renews what ends in less than this


class Bucket:
    """The bucket that an `s3://bucket/prefix` URL names."""

    _of_all: ClassVar[WeakValueDictionary[tuple[str, int], Bucket]] = WeakValueDictionary()
    _sharing: ClassVar[Lock] = Lock()

    @classmethod
    def shared(cls, url: str) -> Bucket:
        """One for all stores at this URL that are open at the same time, with one set of connections."""
        clients = Clients.shared()
        with cls._sharing:
            found = cls._of_all.get((url, id(clients)))  # which it holds, so that nobody else has that number
            if found is None:
                found = cls._of_all[url, id(clients)] = cls(url)
                found._clients = clients
            return found

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.name = place.netloc
        self.prefix = unquote(place.path).strip("/")
        self._clients = Clients.shared()
        self._opened: dict[tuple[float, int], obstore.store.S3Store] = {}
        self._opening = Lock()

    @cached_property
    def region(self) -> str:
        """Where the bucket lies. Raises SpecError, AccessError or TransientError when it cannot be used."""
        client = self._clients.client("s3", SOMEWHERE)
        with translated(f"look at the bucket {self.name}"):
            try:
                told = client.head_bucket(Bucket=self.name).get("BucketRegion")
            except Exception as error:
                told = region_in(error) if self._may_list(error) else None
                if told is None:
                    raise self._unusable(error) from error
        # Services that only speak S3's language have no regions, and take any.
        return str(told or os.environ.get("AWS_DEFAULT_REGION") or SOMEWHERE)

    def now(self) -> float | None:
        """The time by the clock of who keeps the bucket, which its answer to the first look told."""
        return self._clients.now() if self.region else None

    def _may_list(self, refused: Exception) -> bool:
        """Whether somebody who may not look at the whole bucket may list what lies below the prefix.

        A right that is bound to a prefix does not let HeadBucket through, which names none; its refusal says
        where the bucket lies all the same.
        """
        region = region_in(refused)
        if not self.prefix or region is None or code_of(refused) not in ("403", "AccessDenied"):
            return False
        try:
            client = self._clients.client("s3", region)
            client.list_objects_v2(Bucket=self.name, Prefix=f"{self.prefix}/", MaxKeys=1)
        except Exception as error:
            if code_of(error) is None:
                raise
            return False
        return True

    def forgets(self, key: str) -> float | None:
        """When a rule of the bucket removes the object, as S3 says of each object that one meets."""
        client = self._clients.client("s3", self.region)
        whole = f"{self.prefix}/{key}" if self.prefix else key
        with translated(f"look at {key}"):
            said = client.head_object(Bucket=self.name, Key=whole).get("Expiration", "")
        date = re.search(r'expiry-date="([^"]+)"', said)
        return parsedate_to_datetime(date[1]).timestamp() if date else None

    def erase(self, below: str, which: Callable[[str], bool] = lambda _: True, limit_s: float = ERASE_LIMIT_S) -> None:
        """Remove what the bucket keeps of objects below a prefix that were overwritten or deleted, for some minutes.

        A marker goes after all that one may hide, which would be there again without it. What is left, like the signs
        of life that a long run wrote every other second, is for the bucket's rule.
        """
        end = time.monotonic() + limit_s
        client = self._clients.client("s3", self.region)
        whole = f"{self.prefix}/{below}" if self.prefix else below
        markers: list[dict[str, str]] = []
        with translated(f"erase what lay below {below}"):
            for page in client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=whole):
                markers += _which(one for one in page.get("DeleteMarkers", ()) if which(self._key(one["Key"])))
                old = (one for one in page.get("Versions", ()) if not one["IsLatest"])
                former = _which(one for one in old if which(self._key(one["Key"])))
                if not self._removed(client, former) or time.monotonic() > end:
                    return
            for first in range(0, len(markers), REMOVED_AT_ONCE):
                self._removed(client, markers[first : first + REMOVED_AT_ONCE])

    def copy(self, source: str, key: str) -> None:
        """Have an object under another key too; a large one is copied in parts. Raises FileNotFoundError."""
        client = self._clients.client("s3", self.region)
        whole, parts = {"Bucket": self.name, "Key": self._whole(source)}, self._clients.in_parts(COPIED_AT_ONCE)
        try:
            with translated(f"copy {source}"):
                client.copy(whole, self.name, self._whole(key), Config=parts)
        except SojournError as error:
            if code_of(error.__cause__ or error) in ("404", "NoSuchKey"):
                raise FileNotFoundError(source) from error
            raise

    def _whole(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _key(self, whole: str) -> str:
        return whole.removeprefix(f"{self.prefix}/") if self.prefix else whole

    def _removed(self, client: Any, which: list[dict[str, str]]) -> bool:
        """Whether all of these are gone; S3 answers well also where some are not."""
        if not which:
            return True
        return not client.delete_objects(Bucket=self.name, Delete={"Objects": which, "Quiet": True}).get("Errors")

    def open(self, limit_s: float, retries: int) -> obstore.store.S3Store:
        """The store below the prefix; each request ends within `limit_s`."""
        region = self.region
        with self._opening:
            if (limit_s, retries) not in self._opened:
                self._opened[limit_s, retries] = self._open(region, limit_s, retries)
            return self._opened[limit_s, retries]

    def _open(self, region: str, limit_s: float, retries: int) -> obstore.store.S3Store:
        endpoint = str(self._clients.client("s3", region).meta.endpoint_url)
        own = "amazonaws.com" in (urlsplit(endpoint).hostname or "")
        client: dict[str, Any] = {"connect_timeout": "5s", "timeout": f"{limit_s:.0f}s"}
        if not own and endpoint.startswith("http://"):
            client["allow_http"] = True
        if trusted := os.environ.get("AWS_CA_BUNDLE"):
            client["root_certificate"] = _certificates(trusted)
        return obstore.store.S3Store(
            self.name,
            prefix=self.prefix or None,
            region=region,
            virtual_hosted_style_request=False,
            client_options=client,  # type: ignore[arg-type]
            retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=limit_s)},
            credential_provider=self._credentials,
            **({} if own else {"endpoint": endpoint}),  # type: ignore[arg-type]
        )

    def _credentials(self) -> Any:
        """What signs the next minutes' requests, in obstore's form."""
        found = self._clients.credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + KEYS_LAST,
        }

    def decision(self, error: Exception, doing: str) -> SojournError:
        """What an error of obstore's means for us."""
        said = str(error)
        found = re.search(r"<Code>(\w+)</Code>", said)
        code = found.group(1) if found else None
        reason = re.search(r"<Message>([^<]+)</Message>", said)
        text = f"s3://{self.name}: could not {doing}: " + (reason.group(1) if reason else _short(error))
        if isinstance(error, obstore.exceptions.UnauthenticatedError) or code in DEAD_CREDENTIALS:
            return AccessError(text, hint=CREDENTIALS_HINT)
        if isinstance(error, obstore.exceptions.PermissionDeniedError):
            return AccessError(text, hint=self._rights())
        return DECISIONS.get(code or "", TransientError)(text)

    def missing(self) -> GoneError:
        """There is no such bucket."""
        return GoneError(
            f"store: there is no bucket {self.name!r}",
            hint=f"make it: sojourn setup aws, or aws s3 mb s3://{self.name}",
        )

    def _unusable(self, error: Exception) -> Exception:
        # The answer to HEAD has no body, so the status is all that S3 says.
        code = code_of(error)
        if code in ("404", "NoSuchBucket"):
            return self.missing()
        if code in ("403", "AccessDenied"):
            return AccessError(
                f"store: the bucket {self.name!r} is another account's, or not for these credentials",
                hint=self._rights(),
            )
        if code == "400":  # a session that has ended is told so only where there is room for words
            return AccessError(f"store: S3 takes these credentials for no bucket: {self.name!r}", hint=CREDENTIALS_HINT)
        return error

    def _rights(self) -> str:
        return f"whose they are: aws sts get-caller-identity; try them: aws s3 ls s3://{self.name}"


def _which(versions: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    return [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in versions]


def _certificates(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise SpecError(f"aws: AWS_CA_BUNDLE: {file}: {error.strerror}", hint="name a file of certificates") from error


def _short(error: Exception) -> str:
    """What happened, without the request that it happened to."""
    return first_line(error).rpartition(" - ")[2][:300]
