"""Keys that the cloud itself hands out: the ones of machines, for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moto.sts.models import sts_backends

from clouds.aws import answers
from clouds.aws.calls import Call
from clouds.aws.machines import ACCOUNT, Machine, Timing

# Amazon gives out new ones some minutes before the old end.
RENEWED_BEFORE_S = 300.0


@dataclass(frozen=True)
class Credentials:
    access_key: str
    secret_key: str
    token: str
    expires_at: float


class Desk:
    """Hands out the credentials of a machine's role, and refuses those that are over."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._of: dict[str, Credentials] = {}  # by instance id, the newest
        self._ends: dict[str, float] = {}  # by access key
        self._lock = threading.Lock()

    def of_machine(self, machine: Machine) -> Credentials:
        with self._lock:
            held = self._of.get(machine.id)
            early = min(RENEWED_BEFORE_S, self._timing.credentials_s / 2)
            if held is None or held.expires_at - early < time.time():
                held = self._of[machine.id] = self._assumed(machine)
                self._ends[held.access_key] = held.expires_at
            return held

    def refuse(self, call: Call, environ: dict[str, Any], start: answers.Start) -> Iterable[bytes] | None:
        """A gate: moto takes expired keys."""
        if self._ends.get(call.access_key, float("inf")) > time.time():
            return None
        answers.drained(environ)
        said = "The provided token has expired."
        code, status = ("RequestExpired", 400) if call.service == "ec2" else ("ExpiredToken", 400)
        return answers.error(start, call.service, code, status, said)

    def _assumed(self, machine: Machine) -> Credentials:
        assert machine.role is not None
        made = sts_backends[ACCOUNT]["aws"].assume_role(
            region_name=machine.region,
            role_session_name=machine.id,
            role_arn=machine.role,
            policy="",
            duration=int(max(900, self._timing.credentials_s)),
            external_id="",
        )
        ends = time.time() + self._timing.credentials_s
        return Credentials(made.access_key_id, made.secret_access_key, made.session_token, ends)
