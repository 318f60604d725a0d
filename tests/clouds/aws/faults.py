"""What can go wrong between a caller and the cloud, asked for by a test.

A fault says which calls it meets and what becomes of them. Effects, in the order of a call's life:
`error` and `throttle` answer instead of the cloud; `drop_before` closes the connection before
anything happened; `drop_after` lets it happen and closes the connection; `hang_after` lets it
happen and stays silent; `truncate` sends half of the answer; `delay` only takes time.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from clouds.aws.calls import Call

EFFECTS = ("error", "throttle", "drop_before", "drop_after", "hang_after", "truncate", "delay")


@dataclass
class Fault:
    """Meets the calls that match, after `skip` of them and `count` times (None: for ever)."""

    service: str
    action: str  # a pattern of the whole name: "Describe.*"
    effect: str
    body: str = ""  # a pattern found anywhere in what was said: "InstanceType=p4d"
    source: str = ""  # a pattern of the address that calls: "172.31.*" for machines
    region: str = ""  # a pattern of the region that is asked
    count: int | None = 1
    skip: int = 0
    code: str = "InternalError"
    status: int = 500
    message: str = "injected by the test"
    seconds: float = 30.0
    seen: int = 0
    met: int = 0

    def __post_init__(self) -> None:
        if self.effect not in EFFECTS:
            raise ValueError(f"effect: {self.effect!r} is none of {', '.join(EFFECTS)}")
        if self.effect == "throttle":
            self.code, self.status = _throttling(self.service)

    def meets(self, call: Call) -> bool:
        """True when this call is hit; counts it."""
        if self.service != call.service or not re.fullmatch(self.action, call.action):
            return False
        if self.body and not re.search(self.body, call.said):
            return False
        if self.source and not re.fullmatch(self.source, call.source):
            return False
        if self.region and not re.fullmatch(self.region, call.region):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.count is not None and self.met >= self.count):
            return False
        self.met += 1
        return True


class Faults:
    """The faults now in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def meeting(self, call: Call) -> Fault | None:
        with self._lock:
            return next((fault for fault in self._faults if fault.meets(call)), None)


def _throttling(service: str) -> tuple[str, int]:
    if service == "ec2":
        return "RequestLimitExceeded", 503
    if service == "s3":
        return "SlowDown", 503
    return ("Throttling", 400) if service in ("iam", "sts") else ("ThrottlingException", 400)
