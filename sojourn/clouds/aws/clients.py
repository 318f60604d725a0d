"""The account that is spoken to: clients by service and region, made when first asked for.

Credentials are whatever boto3's own chain finds (environment, profile, SSO, role), so that
what the `aws` command can do, we can. `AWS_ENDPOINT_URL` sends everything somewhere else.
https://docs.aws.amazon.com/boto3/latest/guide/credentials.html
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from threading import Lock, RLock
from typing import Any, ClassVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from sojourn import programs
from sojourn.clouds.aws import expiry
from sojourn.clouds.aws.errors import GIVE_HINT, in_credentials, translated
from sojourn.errors import AccessError, SojournError, SpecError, first_line
from sojourn.waiting import MOST_AT_ONCE, SystemClock

CONNECT_LIMIT_S = 5.0
ANSWER_LIMIT_S = 20.0
SOMEWHERE = "us-east-1"  # any region tells which others there are, and where a bucket lies
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
_APART = re.compile("(cn|us-gov|us-iso[a-z]*|eu-iso[a-z]*|eusc)-")  # partitions, by how their regions begin


@dataclass(frozen=True)
class Caller:
    """Who asks, as Amazon sees it."""

    arn: str
    source: str  # where botocore found the credentials: env, shared-credentials-file, sso, iam-role …
    ends_at: float | None  # when they end or are renewed; None when nobody says
    clock_off_s: float  # how far this computer's clock is ahead of Amazon's


class Clients:
    """One session of the account; `region` None takes the session's own, or else the first of `regions`."""

    _of_all: ClassVar[WeakValueDictionary[tuple[str, ...], Clients]] = WeakValueDictionary()
    _sharing: ClassVar[Lock] = Lock()

    @classmethod
    def shared(cls, regions: Iterable[str] | None = None) -> Clients:
        """A session that those share who want one at the same time, where the same credentials are found.

        A session takes 16 MB and a sixth of a second, and a process may follow hundreds of runs.
        """
        first = next(iter(regions or ()), None)
        key = (first or "", *_where_credentials_are())
        with cls._sharing:
            return cls._of_all.setdefault(key, cls._of_all.get(key) or cls(regions=[first] if first else None))

    def __init__(self, region: str | None = None, regions: Iterable[str] | None = None) -> None:
        self._wanted = region
        self._otherwise = next(iter(regions or ()), None)
        self._told: tuple[float, float] | None = None  # what time it was there, and here since boot
        self._made: dict[tuple[str, str], Any] = {}
        self._making = RLock()  # threads may share boto3's clients, but not make them

    def configured(self) -> bool:
        """Whether this host has credentials and a region, valid or not."""
        if importlib.util.find_spec("boto3") is None:
            return False
        try:
            with translated("read the credentials"):
                return self._session.get_credentials() is not None and bool(self.region)
        except SojournError:  # some that cannot be read are for whoever uses them to tell of
            return True

    def client(self, service: str, region: str | None = None) -> Any:
        """The client of a service in this region or another; the same one each time."""
        key = service, region or self.region
        check_partition(key[1])
        with self._making:
            if key not in self._made:
                with translated(f"open {service}"), _endpoints(service):
                    made = self._session.client(service, region_name=key[1], config=_config())
                    urlsplit(made.meta.endpoint_url).port  # noqa: B018  a port that is no number is seen at a call only
                    made.meta.events.register("after-call", self._hear)
                    self._made[key] = made
            return self._made[key]

    def _hear(self, http_response: Any, **_: Any) -> None:
        """Each answer of Amazon's, a refusal too, says what time it was there."""
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            self._told = parsedate_to_datetime(http_response.headers["date"]).timestamp(), SystemClock().since_boot()

    def now(self) -> float | None:
        """The time by Amazon's clock, as its last answer told; None before the first."""
        return self._told[0] + SystemClock().since_boot() - self._told[1] if self._told else None

    @staticmethod
    def in_parts(size: int) -> Any:
        """How boto3 sends or copies what is larger than this: in parts of it, several side by side."""
        from boto3.s3.transfer import TransferConfig

        return TransferConfig(multipart_threshold=size, multipart_chunksize=size)

    @cached_property
    def region(self) -> str:
        """Where things are made unless told otherwise. Raises SpecError when nobody says."""
        region = self._wanted or self._session.region_name or self._otherwise
        if not region:
            raise SpecError(
                "aws: no region is configured",
                hint="name one: export AWS_DEFAULT_REGION=us-east-1, or  regions: [us-east-1]  in launch",
            )
        if not _REGION.fullmatch(region):
            said = "AWS_DEFAULT_REGION" if region == os.environ.get("AWS_DEFAULT_REGION") else "region"
            hint = "write one like us-east-1, there or in your profile in ~/.aws/config"
            raise SpecError(f"aws: {said}: {region!r} is not the name of a region", hint=hint)
        check_partition(region)
        return str(region)

    @cached_property
    def account(self) -> str:
        """The account's number. Raises AccessError without valid credentials."""
        with translated("ask whose credentials these are"):
            return str(self.client("sts").get_caller_identity()["Account"])

    def credentials(self) -> Any:
        """Access key, secret key and token, renewed when they are about to end. Raises AccessError without any."""
        with translated("read the credentials"):
            found = self._session.get_credentials()
            if found is None:
                raise AccessError("aws: there are no credentials", hint=GIVE_HINT)
            return found.get_frozen_credentials()

    def ends_at(self) -> float | None:
        """When these credentials end for good, see `login`."""
        with translated("read the credentials"):
            return expiry.ends_at(self._session._session)

    @cached_property
    def caller(self) -> Caller:
        """Whose credentials these are. Raises AccessError without valid ones."""
        with translated("ask whose credentials these are"):
            answer = self.client("sts").get_caller_identity()
        told = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        found = self._session.get_credentials()
        # botocore knows the end of what it fetched itself, and renews that; it publishes neither.
        ends = getattr(found, "_expiry_time", None)
        return Caller(
            arn=str(answer["Arn"]),
            source=str(found.method),
            ends_at=ends.timestamp() if ends else None,
            clock_off_s=time.time() - parsedate_to_datetime(told).timestamp() if told else 0.0,
        )

    @property
    def _session(self) -> Any:
        with self._making:
            return self._made_session

    @cached_property
    def _made_session(self) -> Any:
        try:
            import boto3
        except ImportError:
            hint = f"add it: {programs.install_extra('aws')}"
            raise SpecError("aws: boto3 is not installed beside sojourn", hint=hint) from None
        with translated("read the credentials"):
            return boto3.Session(region_name=self._wanted)


def _where_credentials_are() -> Iterator[str]:
    """All that tells boto3 where its credentials are, and when files of them were written."""
    yield from (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("AWS_"))
    yield os.path.expanduser("~")
    names = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    for name, usual in names.items():
        with suppress(OSError):
            yield f"{name} {os.stat(os.path.expanduser(os.environ.get(name) or usual)).st_mtime_ns}"


def check_partition(region: str) -> None:
    """Raises SpecError for a region of one of Amazon's separate clouds, whose names and prices are their own."""
    found = _APART.match(region)
    if found:
        which = {"cn": "China", "us-gov": "GovCloud", "eusc": "the European Sovereign Cloud"}
        where = which.get(found[1], "a cloud of its own")
        raise SpecError(
            f"aws: {region} is in {where}, which is separate from the rest of Amazon, and Sojourn does not work there",
            hint="name another region: export AWS_DEFAULT_REGION=us-east-1, or  regions: [us-east-1]  in launch",
        )


@contextmanager
def _endpoints(service: str) -> Iterator[None]:
    """An address that is none, which botocore calls a ValueError, told with the variable that holds it."""
    try:
        yield
    except ValueError as error:
        if in_credentials(error):
            raise
        names = (f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}", "AWS_ENDPOINT_URL")
        name = next((one for one in names if os.environ.get(one)), "endpoint_url of your profile in ~/.aws/config")
        raise SpecError(
            f"aws: {name}: {os.environ.get(name, '')!r} is not a URL: {first_line(error)}",
            hint="write scheme, host and port, like http://localhost:9000, or leave it out for Amazon itself",
        ) from error


def _config() -> Any:
    from botocore.config import Config

    # What stands in for S3 has no names for its buckets' hosts.
    elsewhere = any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"))
    # One retry at most, at once: waiting and counting belong to the orchestrator.
    return Config(
        connect_timeout=CONNECT_LIMIT_S,
        read_timeout=ANSWER_LIMIT_S,
        retries={"total_max_attempts": 2, "mode": "standard"},
        user_agent_extra="sojourn",
        max_pool_connections=MOST_AT_ONCE,
        s3={"addressing_style": "path"} if elsewhere else None,
    )
