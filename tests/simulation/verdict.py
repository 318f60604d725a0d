"""Whether a history kept the promises, by the cloud's own books and by what lies in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from simulation.amazon import SHOWN_AFTER_S
from simulation.script import progress_in
from simulation.world import START
from sojourn.decoding import decode
from sojourn.lease.state import MARGIN_S, RESUME_LEAST_S, fold
from sojourn.names import run_folder
from sojourn.receipts import Receipt
from sojourn.store.ledger import Entry

if TYPE_CHECKING:
    from simulation.trial import Trial

TIMER_S = 60.0 + 5.0  # to see that it is over and to go; a call takes its time
CLOUD_S = 60.0 + TIMER_S  # a cloud's timer acts within the full minute that follows
SKEW_S = 25.0  # clocks may be that much apart here, and a reaper sweeps by its own
NORMAL_S = 60.0
POLL_S = 12.0  # between two looks at a machine that ends by itself


def verdict(trial: Trial) -> list[str]:
    """Every promise that was broken, in words; none is what is hoped for."""
    found = [*trial.world.surprises, *_bounds(trial), *_disarmed(trial), *_strangers(trial)]
    for run in sound(trial):  # of the others it is enough that their machines end
        found += [f"{run}: {text}" for text in (*_ledger(trial, run), *_commits(trial, run), *_rented(trial, run))]
        found += [f"{run}: {text}" for text in (*_early(trial, run), *_gone(trial, run), *_promptly(trial, run))]
        found += [f"{run}: {text}" for text in (*_receipt(trial, run), *_replaced(trial, run), *_done(trial, run))]
    return found


def sound(trial: Trial) -> list[str]:
    """The runs of which no object in the store was damaged."""
    return [run for run in trial.plans if run not in trial.damaged]


def ours(trial: Trial, run: str = "") -> list[Any]:
    """Our machines, by the cloud's own books."""
    return [one for one in trial.cloud.instances.values() if one.lease in _leases(trial, run) and not one.is_strangers]


def told(trial: Trial, run: str) -> str:
    """Below this prefix lies what a run's machines are told."""
    place = trial.plans[run].place
    return f"orders/digits/{run_folder(run, place)}" if place else f"control/digits/{run}"


def results(trial: Trial, run: str) -> str:
    """Below this prefix lies what they write."""
    return f"machine/digits/{run_folder(run, trial.plans[run].place)}"


def overshoot(trial: Trial) -> float:
    """How long after deadline and grace the last machine ended, in seconds; negative when before."""
    ends = [(one.ended_at or float("inf")) - _limit(trial, one) for one in ours(trial)]
    return max(ends, default=float("-inf"))


def _leases(trial: Trial, run: str) -> set[str]:
    names = {one.lease for one in trial.cloud.instances.values()}
    return {name for name in names if any(f"-{known}-" in name for known in ([run] if run else trial.plans))}


def _limit(trial: Trial, instance: Any) -> float:
    boot = trial.machines[instance.identity].boot if instance.identity in trial.machines else None
    run = next(plan for plan in trial.plans.values() if f"-{plan.run}-" in instance.lease)
    return (boot["deadline_at"] + boot["grace_s"]) if boot else run.deadline_at + run.launch.grace


def leaks(trial: Trial) -> list[str]:
    """What stands at the end, long after every bound."""
    return [name for name in trial.cloud.standing() if name not in _foreign(trial)]


def lost_commits(trial: Trial) -> list[str]:
    """Commits that name what is not in the store."""
    return [text for run in sound(trial) for text in _commits(trial, run)]


def _bounds(trial: Trial) -> Iterator[str]:
    for one in ours(trial):
        late = (one.ended_at or float("inf")) - _limit(trial, one)
        if late > allowed(trial, one):
            yield f"{one.identity} of {one.lease} ended {late:.0f} s after deadline and grace"
    yield from (f"left behind: {name}" for name in leaks(trial))


def allowed(trial: Trial, instance: Any) -> float:
    """How late a machine may end: a timer of its own or the cloud's, else the next sweep that is answered."""
    from simulation.trial import REAP_EVERY_S

    machine = trial.machines.get(instance.identity)
    own = machine is not None and machine.timer is not None and not machine.frozen
    armed = trial.setting.timers and instance.identity in getattr(trial.cloud, "armed", ())
    if own or armed:
        return TIMER_S if own else CLOUD_S
    spoilt = sum(outage.until > _limit(trial, instance) for outage in trial.faults.outages)  # sweeps, one by each
    return MARGIN_S + (1 + spoilt) * REAP_EVERY_S + TIMER_S


def _early(trial: Trial, run: str) -> Iterator[str]:
    """No machine was taken from a run that went on, nor from an agent in its grace, nor from who may look at it."""
    stopped = f"{told(trial, run)}/stop.json" in trial.disk.objects
    ends = [
        at if stopped else max(at, _hold_ends(at, entry) - SKEW_S)
        for at, entry in written(trial, run)
        if entry.kind in ("outcome", "lost")
    ]
    for one in ours(trial, run):
        by_us = one.why in ("Client.UserInitiatedShutdown", "release")
        over = any(at <= one.ended_at for at in ends)
        if by_us and not over and one.ended_at < _limit(trial, one) - SKEW_S:
            yield f"{one.identity} was taken {_limit(trial, one) - one.ended_at:.0f} s before deadline and grace"


def _hold_ends(at: float, entry: Entry) -> float:
    hold = entry.body.get("hold")
    return float(hold["until"]) if hold else at


def _gone(trial: Trial, run: str) -> Iterator[str]:
    """When the ledger says that nothing is left of a lease, nothing is."""
    for at, entry in written(trial, run):
        for one in ours(trial, run):
            if entry.kind == "gone" and one.lease == entry.body["name"] and one.launched_at < at < one.gone_at:
                yield f"called gone at {at - START:.0f}, while {one.identity} stood until {one.gone_at - START:.0f}"


def _promptly(trial: Trial, run: str) -> Iterator[str]:
    """The normal bound: an owner that lives, in a world that answers, gives machines back at once."""
    calm_at = max((one.until for one in (*trial.faults.outages, *trial.setting.refusals)), default=START)
    names = {process.name: process for process in trial.world.processes}
    lease = ""
    for at, entry in written(trial, run):
        lease = entry.body["name"] if entry.kind == "intent" else lease
        owner = names[entry.owner]
        if entry.kind not in ("outcome", "lost") or at < calm_at or owner.killed_at or owner.suspended:
            continue
        if any(fault.what == "fail" for fault in trial.faults.planned):
            continue
        over_at = max(at, _hold_ends(at, entry))
        for one in ours(trial, run):
            late = (one.ended_at or float("inf")) - over_at
            if one.lease == lease and late > NORMAL_S + SHOWN_AFTER_S:
                yield f"{one.identity} stood for {late:.0f} s after the end"


def _foreign(trial: Trial) -> list[str]:
    return [one.identity for one in trial.amazon.instances.values() if one not in ours(trial)] + ["nightly"]


def _disarmed(trial: Trial) -> Iterator[str]:
    """A timer goes after its machines, and never before them."""
    for identity in sorted(trial.amazon.disarmed):
        yield f"the timer of {identity} was removed while it stood"


def _strangers(trial: Trial) -> Iterator[str]:
    for one in trial.amazon.instances.values():
        if one.is_strangers and one.ended_at is not None:
            yield f"a stranger's machine was ended: {one.tags}"
    if ("us-east-1", "nightly") not in trial.amazon.schedules:
        yield "a stranger's schedule was removed"


def entries(trial: Trial, run: str) -> list[Entry]:
    """The ledger as it stands at the end."""
    return [entry for _, entry in written(trial, run)]


def written(trial: Trial, run: str) -> list[tuple[float, Entry]]:
    """The ledger, each line with the true moment of its writing."""
    objects = (trial.disk.objects[key] for key in trial.disk.below(f"control/digits/{run}/ledger/"))
    return [(at, decode(body, Entry, "a line of the ledger")) for body, at in objects]


def _ledger(trial: Trial, run: str) -> Iterator[str]:
    found = entries(trial, run)
    if [entry.sequence for entry in found] != list(range(len(found))):
        yield "the ledger has gaps"
    if any(later.term < earlier.term for earlier, later in pairwise(found)):
        yield "a term came back"
    ends = [entry for entry in found if entry.kind == "outcome"]
    if len(ends) > 1:
        yield f"it ended {len(ends)} times"
    closed = any(entry.kind == "closed" for entry in found)
    if closed and not ends:
        yield "closed without an end"
    if found and not closed and trial.setting.reaper and not trial.faults.lasting:
        yield f"not closed: {[entry.kind for entry in found]}"


def _commits(trial: Trial, run: str) -> Iterator[str]:
    """The newest commit of each node, and the newest complete checkpoint over all nodes, must be there whole."""
    for folder in sorted({key.rpartition("/")[0] for key in trial.disk.below(f"{results(trial, run)}/")}):
        if folder.endswith("/out"):
            newest = trial.disk.below(f"{folder}/")[-1]
            if any(body is None for body in _bodies(trial, newest)):
                yield f"{newest} names what is not there"
    kept: list[str] = []  # the files of the checkpoint that whoever comes next has to go on from
    for key, order in _orders(trial, run):
        resumed = [entry["source"] for entry in order["inputs"]]
        if sorted(resumed) != sorted(kept):
            yield f"{key} goes on from {resumed} and not from {kept}"
        kept = _newest_checkpoint(trial, run, order) or kept
        yield from _torn(trial, kept)


def _orders(trial: Trial, run: str) -> list[tuple[str, Any]]:
    keys = trial.disk.below(f"{told(trial, run)}/order/")
    return [(key, json.loads(trial.disk.objects[key][0])) for key in keys]


def resumed(trial: Trial, run: str) -> list[str]:
    """The files that the last attempt went on from."""
    _, order = _orders(trial, run)[-1]
    return [entry["source"] for entry in order["inputs"]]


def _newest_checkpoint(trial: Trial, run: str, order: Any) -> list[str]:
    """The files of the newest checkpoint of an attempt that rank 0 called complete, over all its nodes."""
    folders = [f"{results(trial, run)}/{order['attempt']}/{name.rpartition('-n')[2]}" for name in order["nodes"]]
    complete = trial.disk.below(f"{folders[0]}/commit/")
    if not complete:
        return []
    keys = [f"{folder}/ckpt/{complete[-1].rpartition('/')[2]}" for folder in folders]
    missing = [key for key in keys if key not in trial.disk.objects]
    manifests = [json.loads(trial.disk.objects[key][0]) for key in keys if key not in missing]
    found = [(entry["path"], entry["source"]) for manifest in manifests for entry in manifest["files"]]
    ours = f"{results(trial, run)}/{order['attempt']}/"
    found.sort(key=lambda one: one[1].startswith(ours))  # what was carried on gives way to what is new
    return missing + sorted(dict(found).values())


def _torn(trial: Trial, sources: list[str]) -> Iterator[str]:
    for source in sources:
        body, _ = trial.disk.objects.get(source, (None, 0.0))
        if body is None or progress_in(body) is None:
            yield f"a checkpoint names {source}, which {'is not there' if body is None else 'was half written'}"


def _bodies(trial: Trial, manifest: str) -> Iterator[bytes | None]:
    """Every file that a manifest names, None for what is not there as it was promised."""
    for entry in json.loads(trial.disk.objects[manifest][0])["files"]:
        body, _ = trial.disk.objects.get(entry["source"], (b"", 0.0))
        yield body if f"sha256:{hashlib.sha256(body).hexdigest()}" == entry["hash"] else None


def _rented(trial: Trial, run: str) -> Iterator[str]:
    """The machines of two leases of a run never stood at the same time."""
    spans: dict[str, tuple[float, float]] = {}
    for one in ours(trial, run):
        begin, end = spans.get(one.lease, (float("inf"), 0.0))
        spans[one.lease] = min(begin, one.launched_at), max(end, one.ended_at or float("inf"))
    ordered = sorted(spans.items(), key=lambda item: item[1])
    for (first, (_, end)), (second, (begin, _)) in pairwise(ordered):
        if begin < end:
            yield f"rented twice: {second} at {begin - START:.0f}, while {first} stood until {end - START:.0f}"
    for lease in spans:
        machines = [one for one in ours(trial, run) if one.lease == lease]
        if len(machines) != trial.settings[run].nodes:
            yield f"{lease} has {len(machines)} machines"


def _replaced(trial: Trial, run: str) -> Iterator[str]:
    """What a cloud took back goes on elsewhere, while there is time for that and an owner who may rent."""
    plan, stopped = trial.plans[run], f"{told(trial, run)}/stop.json" in trial.disk.objects
    for at, entry in written(trial, run):
        if entry.kind != "outcome" or entry.owner.startswith("reaper") or stopped:
            continue
        taken = any(one["reason"] == "preempted" for one in entry.body["exits"])
        attempts = len({later.body["attempt"] for later in entries(trial, run) if later.kind == "intent"})
        if taken and attempts <= plan.resumes and at < plan.deadline_at - RESUME_LEAST_S - SKEW_S:
            yield f"taken back at {at - START:.0f}, and nothing took its place"


def _done(trial: Trial, run: str) -> Iterator[str]:
    """Who is said to have succeeded has done all of its work, and it is in the store."""
    state = fold(entries(trial, run))
    if state.outcome is None or state.outcome.state != "succeeded":
        return
    for node in range(trial.settings[run].nodes):
        manifests = trial.disk.below(f"{results(trial, run)}/{state.attempt}/{node}/out/")
        bodies = [body or b"" for body in _bodies(trial, manifests[-1])] if manifests else []
        done = max((progress_in(body) or 0 for body in bodies), default=0)
        if done < int(trial.settings[run].job.seconds):
            yield f"it succeeded, with {done} of {trial.settings[run].job.seconds:.0f} s done on node {node}"


def _receipt(trial: Trial, run: str) -> Iterator[str]:
    body = trial.disk.objects.get(f"control/digits/{run}/receipt.json")
    if body is None:
        return
    receipt = decode(body[0], Receipt, "the receipt")
    if receipt.state != "closed":
        if not trial.faults.lasting:  # of what cannot be ended or asked for, an open receipt is the truth
            yield f"its receipt is {receipt.state}"
        return
    lines = {line.identity: line for line in receipt.resources if line.identity}
    state = fold(entries(trial, run))
    for one in ours(trial, run):
        line = lines.get(one.identity)
        if line is None:
            yield f"its receipt does not know {one.identity}"
            continue
        billed = (one.ended_at or state.gone_at or 0.0) - one.launched_at
        if abs(line.seconds - billed) > POLL_S:
            yield f"its receipt says {line.seconds:.0f} s for {one.identity}, the cloud's books {billed:.0f} s"
