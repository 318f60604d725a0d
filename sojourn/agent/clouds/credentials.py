"""Whose signature a machine's requests carry, renewed before it ends.

From the environment where somebody has set keys there; from a command that prints what
`credential_process` of AWS prints, where the local provider has named one (it asks what
the user's own tools would ask); else the role of the machine by its metadata service.
"""

from __future__ import annotations

import calendar
import errno
import json
import os
import subprocess
import threading
import time
from typing import Mapping

from sojourn.agent.clouds.imds import Imds
from sojourn.agent.clouds.sigv4 import Credentials
from sojourn.agent.host.processes import KEYS

COMMAND_LIMIT_S = 30.0
RENEW_S = 300.0  # before they end
NEVER = float("inf")


class Identity:
    """The credentials of this machine, one for all its threads. Raises OSError when there are none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._imds = Imds(environ)
        self._lock = threading.Lock()
        self._known: Credentials | None = None
        self._ends = 0.0

    def credentials(self) -> Credentials:
        """Valid for some minutes yet, as far as one can know."""
        with self._lock:
            if self._known is None or time.time() > self._ends - RENEW_S:
                self._renew()
            assert self._known is not None
            return self._known

    def expired(self, credentials: Credentials) -> None:
        """They were refused: others are asked for next time, unless somebody has done so already."""
        with self._lock:
            if self._known == credentials:
                self._ends = 0.0

    def _renew(self) -> None:
        try:
            self._known, self._ends = self._ask()
        except OSError:
            # Minutes before the end the old ones still serve, and the service is asked again.
            if self._known is None or time.time() >= self._ends:
                raise

    def _ask(self) -> tuple[Credentials, float]:
        env = self._environ
        if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
            token = env.get("AWS_SESSION_TOKEN", "")
            return Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], token), NEVER
        if env.get(KEYS):
            return _printed(json.loads(env[KEYS])["s3"])
        return self._imds.role_credentials()


def authorities(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the file of certificates that Amazon's own tools are told to trust."""
    return environ.get("AWS_CA_BUNDLE") or None


def _printed(words: list[str]) -> tuple[Credentials, float]:
    """What a command prints in the form of https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_LIMIT_S)
        said = json.loads(done.stdout or b"null")
        ends = said.get("Expiration")
        until = NEVER if ends is None else calendar.timegm(time.strptime(ends[:19], "%Y-%m-%dT%H:%M:%S"))
        return Credentials(said["AccessKeyId"], said["SecretAccessKey"], said.get("SessionToken") or ""), until
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, f"{words[0]} gave no credentials in {COMMAND_LIMIT_S:.0f} s") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it printed none"]
        raise OSError(errno.EACCES, f"no credentials: {why[0]}") from error
