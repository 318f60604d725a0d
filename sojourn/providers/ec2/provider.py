"""Machines of Amazon EC2: one RunInstances for a lease, and a schedule for each machine that ends it.

Everything is found again by its tags, in whatever region it stands; of what was created we
remember only the region, and can do without. The lease's name is the ClientToken, so the
same request twice is one lease. A request of whose machines one has ended starts none, and is
refused with a word of its own: what is left of it is found by its tags then.
https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from sojourn.agent.pack import Archive, pack
from sojourn.clouds.aws import expiry
from sojourn.clouds.aws.account import AwsAccount
from sojourn.clouds.aws.clients import SOMEWHERE, Clients
from sojourn.clouds.aws.errors import code_of, is_organizations, translated
from sojourn.clouds.aws.foundation import SCHEDULE_GROUP, Names, find_bucket
from sojourn.clouds.aws.secrets import Secrets
from sojourn.errors import AccessError, CapacityError, LostError, QuotaError, SojournError, TransientError
from sojourn.providers.contract import Request
from sojourn.providers.ec2 import placement, responses
from sojourn.providers.ec2 import request as calls
from sojourn.providers.ec2.inventory import Inventory, is_lease
from sojourn.providers.ec2.offers import list_offers
from sojourn.renting import Boot, Capability, Lease, Lookalike, Need, Offer, Offers
from sojourn.sharing import Shared
from sojourn.waiting import Clock, SystemClock

T = TypeVar("T")
ASK_EVERY_S = 2.0
_OBSERVED: WeakKeyDictionary[Clients, dict[str, Shared[Lease]]] = WeakKeyDictionary()
_SHARING = Lock()
ENDED_AT_ONCE = 100  # machines by one call, which takes a thousand at most, and is refused for the sake of any of them

_GONE_OR_IN_USE = set(
    """
    ResourceNotFoundException InvalidVolume.NotFound VolumeInUse IncorrectState
    InvalidPlacementGroup.Unknown InvalidPlacementGroup.InUse
    """.split()
)


def open_provider(_: object, regions: list[str] | None) -> Ec2Provider:
    """Open the account of this host's credentials, in these regions or in all."""
    return Ec2Provider(Clients.shared(regions), regions)


def open_in(account: AwsAccount) -> Ec2Provider:
    """Open what is rented in this account, in every region."""
    return Ec2Provider(account.clients)


def configured(_: object, regions: list[str] | None) -> list[Ec2Provider]:
    """Open each region of the account by itself, so that none hides another; nothing without credentials."""
    clients = Clients(regions=[*(regions or ()), SOMEWHERE])  # a region that nobody configured must not hide a machine
    return Ec2Provider(clients, regions).apart() if clients.configured() else []


class Ec2Provider:
    """Leases in one account.

    `regions` are where it looks for them, None every region that the account can use; `agent`
    stands in for the packed one.
    """

    name = "aws"

    def __init__(
        self,
        clients: Clients,
        regions: Iterable[str] | None = None,
        agent: Archive | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clients = clients
        self.clock = clock or SystemClock()
        self._looks_in = list(regions) if regions is not None else None
        self._agent = agent
        self._inventory = Inventory(clients, self.clock)
        self._regions: dict[str, str] = {}  # where a lease stands, once known
        self._seen: list[Lookalike] | None = None  # by the look at the leases just before
        self.closed: set[str] = set()  # regions that the account's organization lets nobody use, as far as was seen

    def capability(self) -> Capability:
        """Three timers of different owners, and a reaper."""
        return Capability(
            provider=self.name,
            layers={
                "agent timer": "the agent stops the script at the deadline and switches the machine off",
                "machine timer": "the machine switches itself off at deadline + grace, which terminates it",
                "cloud timer": "an EventBridge schedule for it alone ends it in the minute after deadline + grace",
                "reaper": "by tag, in every region of the account",
            },
            makes_each=("instance", "volume", "schedule"),
            shares_host=False,
            ask_every_s=ASK_EVERY_S,
            visible_after_s=responses.VISIBLE_AFTER_S,
        )

    def store(self, project: str) -> str | None:
        """The bucket that `setup aws` makes."""
        return f"s3://{Names(self.clients.account, self.clients.region, project).bucket}"

    def offers(self, need: Need) -> Offers:
        """What the account can rent, the cheapest first.

        Raises SpecError when the credentials end before anything could be rented with them.
        """
        said = expiry.remarks(self.clients.ends_at(), need.until, self.clock.now())
        told = self._secrets(need)
        found = list_offers(need, self.clients)
        fitting = tuple(one.model_copy(update={"details": {**one.details, **told}}) for one in found.fitting)
        return found.model_copy(update={"fitting": fitting, "remarks": (*said, *found.remarks)})

    def _secrets(self, need: Need) -> dict[str, Any]:
        """What machines are told of the secrets that the run names: where each is kept, and in which region."""
        if not need.secrets or not need.project:
            return {}
        paths = Secrets(self.clients, need.project).paths(need.secrets)
        return {"secrets": {"region": self.clients.region, "paths": paths}}

    def request(self, boot: Boot, offer: Offer) -> Request:
        """The whole RunInstances call, and that of each machine's schedule but for the id that is not known yet."""
        return calls.request(boot, offer, self._agent or pack())

    def create(self, request: Request) -> None:
        """Rent the machines, then arm the timers that end them; either may have been done before."""
        request = calls.current(request)
        region = request["region"]
        self._regions[request["token"]] = region
        if request["ends_at"] <= (self.now() or self.clock.now()):
            end = datetime.fromtimestamp(request["ends_at"], UTC)
            raise LostError(
                f"aws: {request['token']} must end by {end:%Y-%m-%dT%H:%M:%S} UTC, for its time or its budget"
            )
        group = request.get("create_placement_group")
        if group:
            placement.make(self.clients, region, group)
        try:
            made = self._rent(request)
        except (CapacityError, QuotaError):
            self._forgo(group, region)
            raise
        numbers = responses.numbered(made or [])
        standing = [one["InstanceId"] for one in made or [] if one["State"]["Name"] != "terminated"]
        for identity in standing:
            self._arm(region, request["create_schedules"][numbers[identity]], [identity])
        if made is None:
            standing = self._arm_rest(request)
        if not standing:
            self._forgo(group, region)

    def observe(self, name: str) -> Lease | None:
        """The lease by its tag; a process that follows several asks for all of them by one call."""
        region = self._region_of(name)
        if region is None:
            return None
        shared = _observed(self.clients, region, self.clock)
        return shared.of(name, lambda names: self._inventory.named(names, region))

    def release(self, name: str) -> bool:
        """Terminate what runs; then remove what is left beside it."""
        region = self._region_of(name)
        lease = self._inventory.lease(name, region) if region else None
        if lease is None or region is None:
            return True
        self._terminate(_standing(lease), region)
        if _has_ended(lease):
            self._remove(lease, region)
        return lease.gone

    def release_all(self, names: Sequence[str]) -> list[bool | Exception]:
        """The same for many leases, whose machines are looked for and ended many by one call."""
        by_region: dict[str | None, list[str]] = defaultdict(list)
        responses: dict[str, bool | Exception] = {}
        for name in names:
            try:
                by_region[self._region_of(name)].append(name)
            except Exception as error:
                responses[name] = error
        responses |= dict.fromkeys(by_region.pop(None, []), True)
        for region, some in by_region.items():
            assert region is not None
            try:
                responses |= self._release_all(some, region)
            except Exception as error:
                responses |= dict.fromkeys(some, error)
        return [responses[name] for name in names]

    def leases(self) -> list[Lease]:
        """Every lease of which something stands, in every region that is enabled."""
        leases, self._seen = self._look()
        return leases

    def lookalikes(self) -> list[Lookalike]:
        """Machines with the tags of a lease that its request did not make, as they were seen with the leases."""
        seen, self._seen = self._seen, None
        return self._look()[1] if seen is None else seen

    def now(self) -> float | None:
        """The time by Amazon's clock, as its last answer told."""
        return self.clients.now()

    @cached_property
    def regions(self) -> list[str]:
        """Where leases are looked for, the account's own region first."""
        if self._looks_in is not None:
            return self._looks_in
        with translated("list the regions"):
            answer = self.clients.client("ec2").describe_regions()
        names = sorted(one["RegionName"] for one in answer["Regions"])
        return sorted(names, key=lambda name: name != self.clients.region)

    def apart(self) -> list[Ec2Provider]:
        """The same in one region each; as it is when nobody says which there are."""
        try:
            return [Ec2Provider(self.clients, [region], self._agent, self.clock) for region in self.regions]
        except SojournError:
            return [self]

    def kept(self) -> list[str]:
        """URLs of the stores that `setup aws` made in these regions."""
        names = [Names(self.clients.account, region, "") for region in self.regions]
        for name in names:
            self.clients.client("s3", name.region)
        found = self.clock.together([partial(self._has, name) for name in names])
        return [f"s3://{name.bucket}" for name, ours in zip(names, found, strict=True) if ours]

    def _has(self, names: Names) -> bool:
        try:
            return find_bucket(self.clients, names)
        except AccessError:  # somebody else's bucket, or a region that is closed to these credentials
            return False

    # -- create --

    def _rent(self, request: Request) -> list[dict[str, Any]] | None:
        """The machines of a request, whenever it was sent first; None when one of them has ended since."""
        region, call = request["region"], request["run_instances"]
        try:
            with translated(f"rent {call['InstanceType']} in {region}"):
                made: list[dict[str, Any]] = self.clients.client("ec2", region).run_instances(**call)["Instances"]
        except LostError as error:
            if code_of(error.__cause__ or error) != "IdempotentInstanceTerminated":
                raise
            return None
        return made

    def _arm_rest(self, request: Request) -> list[str]:
        """Arm what stands without a timer of a request that Amazon does not answer any more; all that stands."""
        name, region = request["token"], request["region"]
        lease = self._inventory.lease(name, region)
        standing = [str(one.identity) for one in lease.machines if one.state != "gone"] if lease else []
        schedules = self._inventory.schedules(name, region)
        armed, used = responses.armed(schedules), {one["Name"] for one in schedules}
        free = [call for call in request["create_schedules"] if call["Name"] not in used]
        for identity, call in zip(sorted({*standing} - armed), free, strict=False):
            self._arm(region, call, [identity])
        return standing

    def _forgo(self, group: dict[str, Any] | None, region: str) -> None:
        """Nothing stands in the group that was made for it; where it cannot go now, the reaper finds it alone."""
        if group:
            with suppress(SojournError):
                self._delete("ec2", "delete_placement_group", region, GroupName=group["GroupName"])

    def _arm(self, region: str, call: dict[str, Any], identities: list[str]) -> None:
        target = {**call["Target"], "Input": json.dumps({"InstanceIds": identities})}
        try:
            with translated(f"arm the timer {call['Name']}"):
                self.clients.client("scheduler", region).create_schedule(**{**call, "Target": target})
        except SojournError as error:
            if code_of(error.__cause__ or error) != "ConflictException":  # it was armed before
                raise

    # -- observe --

    def _region_of(self, name: str) -> str | None:
        """Where something of this name stands; None when nothing does, or the name is not one of ours."""
        if not is_lease(name):
            return None
        if name not in self._regions:
            looks = self._everywhere(partial(self._inventory.lease, name))
            found = [region for region, lease in looks if lease is not None]
            if not found:
                return None
            self._regions[name] = found[0]
        return self._regions[name]

    def _everywhere(self, ask: Callable[[str], T]) -> list[tuple[str, T]]:
        """Each region with its answer, asked side by side; threads may share clients, but not make them.

        What an organization closed is passed over unless it was named: nobody of the account may rent there.
        """
        for region in self.regions:
            self.clients.client("ec2", region)
            self.clients.client("scheduler", region)

        def answer(region: str) -> tuple[str, T] | None:
            try:
                return region, ask(region)
            except AccessError as error:
                if self._looks_in is not None or not is_organizations(error) or region == self.clients.region:
                    raise
                self.closed.add(region)
                return None

        said = self.clock.together([partial(answer, region) for region in self.regions])
        return [one for one in said if one is not None]

    def _look(self) -> tuple[list[Lease], list[Lookalike]]:
        leases: list[Lease] = []
        lookalikes: list[Lookalike] = []
        for region, (found, copies) in self._everywhere(self._inventory.everything):
            self._regions |= {lease.name: region for lease in found}
            leases += [lease for lease in found if not lease.gone]
            lookalikes += copies
        return leases, lookalikes

    # -- release --

    def _release_all(self, names: Sequence[str], region: str) -> dict[str, bool | Exception]:
        leases = self._inventory.named(names, region)
        ended = self._terminate_all({name: _standing(lease) for name, lease in leases.items()}, region)
        over = [lease for name, lease in leases.items() if _has_ended(lease) and name not in ended]
        removed = self.clock.together([partial(self._try, self._remove, lease, region) for lease in over])
        failed = ended | {lease.name: error for lease, error in zip(over, removed, strict=True) if error is not None}
        return {name: failed.get(name) or (name not in leases or leases[name].gone) for name in names}

    def _terminate_all(self, machines: dict[str, list[str]], region: str) -> dict[str, Exception]:
        """End the machines of these leases, many by one call; whose could not be ended, and why."""
        failed: dict[str, Exception] = {}
        some: dict[str, list[str]] = {}
        for name, identities in (*machines.items(), ("", [])):
            if some and (not name or sum(map(len, some.values())) + len(identities) > ENDED_AT_ONCE):
                failed |= self._terminate_some(some, region)
                some = {}
            if identities:
                some[name] = identities
        return failed

    def _terminate_some(self, machines: dict[str, list[str]], region: str) -> dict[str, Exception]:
        """By one call; where it is refused by halves, and where Amazon is only busy each lease by itself."""
        if len(machines) == 1:
            ((name, identities),) = machines.items()
            error = self._try(self._terminate, identities, region)
            return {} if error is None else {name: error}
        identities = [identity for some in machines.values() for identity in some]
        error = self._try(self._end, identities, region)
        if error is None:
            return {}
        names = list(machines)
        size = 1 if isinstance(error, TransientError) and not _is_unknown(error) else -(-len(names) // 2)
        parts = [names[first : first + size] for first in range(0, len(names), size)]
        calls = [partial(self._terminate_some, {name: machines[name] for name in part}, region) for part in parts]
        return {name: error for failed in self.clock.together(calls) for name, error in failed.items()}

    @staticmethod
    def _try(do: Callable[..., None], *what: Any) -> Exception | None:
        try:
            do(*what)
        except Exception as error:  # it keeps no other lease from its end
            return error
        return None

    def _end(self, identities: list[str], region: str) -> None:
        with translated(f"terminate {', '.join(identities)}"):
            self.clients.client("ec2", region).terminate_instances(InstanceIds=identities)

    def _terminate(self, identities: list[str], region: str) -> None:
        """End these machines; what keeps one of them from its end keeps no other.

        A call ends all of its machines or none, and refuses those that are not shown yet or long gone.
        https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TerminateInstances.html
        """
        if not identities:
            return
        try:
            self._end(identities, region)
        except SojournError as error:
            if len(identities) > 1 and (_is_unknown(error) or not isinstance(error, TransientError)):
                self._terminate_each(identities, region)
            elif not _is_unknown(error):
                raise

    def _terminate_each(self, identities: list[str], region: str) -> None:
        failed: list[SojournError] = []
        for identity in identities:
            try:
                self._terminate([identity], region)
            except SojournError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _remove(self, lease: Lease, region: str) -> None:
        """What the end of the machines did not take with it."""
        for part in lease.parts:
            if part.kind == "schedule":
                self._delete("scheduler", "delete_schedule", region, Name=part.name, GroupName=SCHEDULE_GROUP)
            elif part.kind == "volume" and part.identity:  # refused while a machine has it
                self._delete("ec2", "delete_volume", region, VolumeId=part.identity)
            elif part.kind == placement.KIND:  # likewise
                self._delete("ec2", "delete_placement_group", region, GroupName=part.name)

    def _delete(self, service: str, call: str, region: str, **what: str) -> None:
        try:
            with translated(f"{call.replace('_', ' ')} {', '.join(what.values())}"):
                getattr(self.clients.client(service, region), call)(**what)
        except SojournError as error:
            if code_of(error.__cause__ or error) not in _GONE_OR_IN_USE:
                raise


def _observed(clients: Clients, region: str, clock: Clock) -> Shared[Lease]:
    """What those look at together who share a session."""
    with _SHARING:
        return _OBSERVED.setdefault(clients, {}).setdefault(region, Shared(clock, ASK_EVERY_S))


def _is_unknown(error: Exception) -> bool:
    """Whether Amazon does not know one of the machines, yet or any more."""
    return (code_of(error.__cause__ or error) or "").startswith("InvalidInstanceID.")


def _standing(lease: Lease) -> list[str]:
    """Whose end is asked for, again for what is shutting down: that does no harm, and what was stopped needs it."""
    return [one.identity for one in lease.machines if one.state != "gone" and one.identity]


def _has_ended(lease: Lease) -> bool:
    return not any(one.state in ("starting", "running") for one in lease.machines if one.identity)
