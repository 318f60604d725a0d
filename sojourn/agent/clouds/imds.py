"""The instance metadata service of EC2: who this machine is, and the credentials of its role.

Version 2 only: each question carries a token that a PUT has asked for, so that no proxy
and no redirect can be talked into asking for us. Every question has a timeout, and an
answer that is not what it should be is an OSError, like no answer.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

from __future__ import annotations

import calendar
import errno
import http.client
import json
import os
import threading
import time
from typing import Mapping
from urllib.parse import urlsplit

from sojourn.agent.clouds.sigv4 import Credentials

ENDPOINT = "http://169.254.169.254"
TIMEOUT_S = 2.0
TRIES = 3
TOKEN_S = 21600
LIMIT = 64 << 10
ROLE = "latest/meta-data/iam/security-credentials/"


class Imds:
    """One machine's metadata. Raises OSError where there is none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        place = urlsplit(environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT)
        self._host, self._port = place.hostname or "", place.port or 80
        self._off = environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        self._lock = threading.Lock()
        self._token = ""
        self._token_until = 0.0

    def instance_id(self) -> str:
        """`i-…`."""
        return self._needed("latest/meta-data/instance-id")

    def launch_index(self) -> int:
        """The machine's place among those of its request, from 0."""
        text = self._needed("latest/meta-data/ami-launch-index")
        if not text.isdigit():
            raise OSError(errno.EBADMSG, f"the metadata service calls {text[:40]!r} a launch index")
        return int(text)

    def address(self) -> str:
        """The private IPv4 address."""
        return self._needed("latest/meta-data/local-ipv4")

    def region(self) -> str:
        """Where the machine stands."""
        return self._needed("latest/meta-data/placement/region")

    def interruption(self) -> dict[str, str] | None:
        """The spot notice: `action` and `time`; None while there is none."""
        text = self.find("latest/meta-data/spot/instance-action")
        return None if text is None else _strings(text, ["action", "time"])

    def role_credentials(self) -> tuple[Credentials, float]:
        """The keys of the machine's role, and when they end, in seconds since the epoch."""
        role = self._needed(ROLE).splitlines()[0].strip()
        found = _strings(self._needed(ROLE + role), ["AccessKeyId", "SecretAccessKey", "Token", "Expiration"])
        try:
            ends = calendar.timegm(time.strptime(found["Expiration"], "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError:
            raise OSError(errno.EBADMSG, f"the role's keys end at {found['Expiration'][:40]!r}, no time") from None
        return Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["Token"]), float(ends)

    def find(self, path: str) -> str | None:
        """The text at a path, or None where the service knows nothing of it."""
        if self._off:
            raise OSError(errno.ENODEV, "the metadata service is switched off by AWS_EC2_METADATA_DISABLED")
        status, text = self._ask("GET", path, {"x-aws-ec2-metadata-token": self._valid_token()})
        if status == 401:  # the token has ended, or the machine was stopped and started
            self._token = ""
            status, text = self._ask("GET", path, {"x-aws-ec2-metadata-token": self._valid_token()})
        if status == 404:
            return None
        if status != 200:
            raise OSError(errno.EIO, f"the metadata service answers {status} to {path}")
        return text.strip()

    def _needed(self, path: str) -> str:
        text = self.find(path)
        if not text:
            raise OSError(errno.ENOENT, f"the metadata service has no {path}")
        return text

    def _valid_token(self) -> str:
        with self._lock:
            if not self._token or time.monotonic() > self._token_until:
                headers = {"x-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
                status, text = self._ask("PUT", "latest/api/token", headers)
                if status != 200 or not text.isascii() or not text.isprintable():
                    raise OSError(errno.EIO, f"the metadata service gives no token, it answers {status}")
                self._token, self._token_until = text, time.monotonic() + TOKEN_S / 2
            return self._token

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and text; asked again when nothing comes or the service is busy."""
        for left in reversed(range(TRIES)):
            try:
                status, text = self._exchange(method, path, headers)
                if status < 500 and status != 429 or not left:
                    return status, text
            except (OSError, http.client.HTTPException) as error:
                if not left:
                    raise OSError(errno.EHOSTUNREACH, f"the metadata service does not answer: {error}") from error
            time.sleep(0.2 * 2 ** (TRIES - left))
        raise AssertionError

    def _exchange(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, "/" + path, headers=headers)
            answer = connection.getresponse()
            body = answer.read(LIMIT + 1)
            if len(body) > LIMIT:
                raise OSError(errno.EMSGSIZE, f"{path} is longer than any metadata")
            return answer.status, body.decode("utf-8", "replace")
        finally:
            connection.close()


def _strings(text: str, names: list[str]) -> dict[str, str]:
    """These fields of a JSON object, all of them text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) and value[name] for name in names):
        raise OSError(errno.EBADMSG, f"the metadata service gives no {', '.join(names)}")
    return {name: value[name] for name in names}
