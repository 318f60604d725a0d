"""`sojourn doctor --where aws`: credentials, what setup makes, and every right that renting needs.

A right is tried: by Amazon's own dry run, or by a call that changes nothing. What can only be
tried by doing it (ending a machine, arming a timer) is asked of IAM's simulator where that is
allowed, and else said to be untried.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from sojourn import programs
from sojourn.clouds.account import Check
from sojourn.clouds.aws import permissions as rights
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import Foundation, Names, default_vpc, find, is_current, looks, outdated
from sojourn.errors import AccessError, SojournError, first_line
from sojourn.waiting import CLOCK_LIMIT_S

EXTRA = {"boto3": "boto3", "dvc_s3": "dvc-s3", "prefect_aws": "prefect-aws"}
SOON_S = 3600.0
_HEADINGS = {"security group": "network", "instance profile": "profile", "schedule group": "timers"}


def examine(clients: Clients, project: str, try_store: Callable[[str], str]) -> Iterator[Check]:
    """The account, in the order in which a newcomer would stumble over it; what follows from a failure is left out."""
    extra = packages()
    yield extra
    if extra.state == "missing":
        return
    try:
        names = Names(clients.account, clients.region, project)
    except SojournError as error:
        yield Check(what="identity", state="missing", found=error.message, mend=error.hint)
        return
    yield credentials(clients)
    yield clock(clients.caller.clock_off_s)
    pieces = list(_pieces(clients, names))
    yield from pieces
    if all(one.state == "good" for one in pieces):
        foundation = find(clients, project)
        yield _store(foundation, try_store)
        yield from permissions(clients, foundation)


def packages() -> Check:
    """Whether the extra `aws` is installed beside Sojourn."""
    lacking = [name for module, name in EXTRA.items() if importlib.util.find_spec(module) is None]
    if not lacking:
        return Check(what="aws", state="good", found="the extra is installed")
    found = f"{', '.join(lacking)} not installed beside sojourn"
    state = "missing" if "boto3" in lacking else "weak"
    return Check(what="aws", state=state, found=found, mend=programs.install_extra("aws"))  # type: ignore[arg-type]


def credentials(clients: Clients) -> Check:
    """Whose they are, where they were found, and how long they last."""
    caller = clients.caller
    found = f"{caller.arn} by {caller.source}, region {clients.region}"
    if caller.ends_at is None:
        return Check(what="identity", state="good", found=found)
    left = caller.ends_at - time.time()
    found += f", good for {max(0, left) / 60:.0f} more minutes"
    # What botocore fetched by a role it fetches again; only a person can log in again.
    weak = left < SOON_S and "sso" in caller.source
    return Check(what="identity", state="weak" if weak else "good", found=found, mend="aws sso login")


def clock(off_s: float) -> Check:
    """Whether this computer's clock agrees with Amazon's."""
    if abs(off_s) <= CLOCK_LIMIT_S:
        return Check(what="clock", state="good", found=f"{abs(off_s):.0f} s off Amazon's")
    mend = "sudo timedatectl set-ntp true" if sys.platform == "linux" else "sudo sntp -sS time.apple.com"
    found = f"{abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} Amazon's, and deadlines go by Amazon's"
    return Check(what="clock", state="missing", found=found, mend=mend)


def permissions(clients: Clients, foundation: Foundation) -> Iterator[Check]:
    """The rights that are lacking, and those that only help."""
    needed: list[str] = []
    useful: list[str] = []
    tried = 0
    for right in rights.harmless(clients, foundation):
        try:
            right.attempt()
            tried += 1
        except AccessError:
            (needed if right.needed else useful).append(right.action)
        except SojournError as error:
            yield Check(what="rights", state="weak", found=f"{right.action} could not be tried: {first_line(error)}")
    denied = rights.simulated(clients, foundation)
    needed += denied or []
    untried = "" if denied is not None else f"; only a run would try {', '.join(rights.UNTRIED)}"
    mend = f"sojourn setup aws --print   (attach its who_runs_sojourn to {clients.caller.arn})"
    if useful:
        found = f"not allowed: {', '.join(useful)}; so prices are estimates, and limits are met late"
        yield Check(what="rights", state="weak", found=found, mend=mend)
    if needed:
        found = f"not allowed: {', '.join(needed)}{untried}"
        yield Check(what="rights", state="missing", found=found, mend=mend)
    else:
        yield Check(what="rights", state="good", found=f"{tried} tried and allowed{untried}")


def _pieces(clients: Clients, names: Names) -> Iterator[Check]:
    try:
        vpc = default_vpc(clients)
    except SojournError as error:
        yield Check(what="network", state="missing", found=error.message, mend=error.hint)
        return
    for what, look in looks(clients, names, vpc).items():
        yield _piece(what, look, names)


def _piece(what: str, look: Callable[[], Any], names: Names) -> Check:
    kind = what.rpartition(" ")[0]
    heading = _HEADINGS.get(kind, kind)
    try:
        found = look()
    except SojournError as error:
        return Check(what=heading, state="missing", found=error.message, mend=error.hint)
    if found is None:
        mend = f"sojourn setup aws --region {names.region}"
        return Check(what=heading, state="missing", found=f"{what} was not made yet", mend=mend)
    if what == f"role {names.machine_role}" and not is_current(found, names.project):
        why = outdated(names)
        return Check(what=heading, state="missing", found=why.message, mend=why.hint)
    return Check(what=heading, state="good", found=what)


def _store(foundation: Foundation, try_store: Callable[[str], str]) -> Check:
    try:
        return Check(what="store", state="good", found=try_store(foundation.store))
    except SojournError as error:
        return Check(what="store", state="missing", found=error.message, mend=error.hint)
