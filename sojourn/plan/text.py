"""A plan as a person reads it: a line for each question asked before money is spent."""

from __future__ import annotations

from collections.abc import Iterable

from sojourn.agent.results.checkpoint_files import folder_of
from sojourn.environment.requirements import Lock
from sojourn.omissions import in_a_line, printable
from sojourn.plan.planning import Plan
from sojourn.protocol import Checkpoint
from sojourn.receipts import Left
from sojourn.renting import Offer
from sojourn.shorthand import counted, format_bytes, format_clock, format_duration, moment
from sojourn.spec.launch import BRING

NEXT = 4  # kinds of offers shown after the first
REMARKS = 5
COMMAND = 90  # characters of a command that stand beside the run's name


def short(plan: Plan) -> list[tuple[str, str]]:
    """What `lines` says, in eight of them for a plain script on this host: what is usual is left out."""
    told = [(heading, _shortened(heading, text, plan)) for heading, text in lines(plan)]
    return [(heading, text) for heading, text in told if text is not None]


def _shortened(heading: str, text: str, plan: Plan) -> str | None:
    """The text of a line of `lines` in the short form, or None where another line says it."""
    command, free = plan.shown_command(), plan.capability.shares_host and not plan.ceiling
    fits = len(command) <= COMMAND and "\n" not in command
    match heading:
        case "run" if fits:
            return f"{plan.run}    {command}"
        case "command" if fits:
            return None
        case "source" if fits:
            return f"project {_project(plan)}: {text}"
        case "inputs" if text == "none":
            return None
        case "machine" if free:
            return f"{text}  costs nothing"
        case "money" if free:
            return None
        case "brings" if plan.launch.bring == BRING:
            return None
        case "leaves":
            return f"results, logs and bundle in {plan.store}"
        case "ends by":
            return None
    return text


def lines(plan: Plan) -> list[tuple[str, str]]:
    """The plan as (heading, text)."""
    about = f"about {format_duration(plan.expected_s)} by its last runs, " if plan.expected_s else ""
    limit = f"deadline {format_duration(plan.launch.deadline)}, {format_duration(plan.launch.grace)} more to leave"
    told = [
        ("run", f"{plan.run}    project {_project(plan)}"),
        ("command", plan.shown_command()),
        ("source", f"{counted(plan.files, 'file')}, {format_bytes(plan.bytes)}"),
        ("inputs", _inputs(plan)),
        *([("left out", left)] if (left := in_a_line(plan.omissions, format_bytes)) else []),
        *([("resumes", _resume(plan.resume))] if plan.resume else []),
        ("environment", _environment(plan)),
        ("machine", _machine(plan)),
        *([("then", _others(plan.offers))] if len(plan.offers) > 1 else []),
        ("time", f"{about}{limit}{_cut(plan)}"),
        ("money", _money(plan)),
        *([("hold", _hold(plan))] if plan.launch.hold_on_failure else []),
        ("makes", _makes(plan)),
        ("leaves", f"results, logs and bundle{_kept(plan)} in {plan.store}"),
        *_brought(plan),
    ]
    if plan.stage and plan.stage.before:
        told.append(("first", f"runs here: {', '.join(plan.stage.before)}"))
    if plan.stage and plan.stage.after:
        told.append(("after", f"runs here: {', '.join(plan.stage.after)}"))
    told += [("ends by", f"{layer}: {what}") for layer, what in plan.capability.layers.items()]
    notes = (*plan.environment.notes, *plan.notes, *plan.capability.warnings, *_remarks(plan.remarks))
    return told + [("note", note) for note in notes]


def size(offer: Offer) -> str:
    """`4 CPUs, 17 GB, 1 × L4 24 GB`."""
    each = f" {format_bytes(offer.gpu_memory)}" if offer.gpu_memory else ""
    gpus = f", {len(offer.gpus)} × {offer.gpus[0]}{each}" if offer.gpus else ""
    return f"{offer.cpus} CPUs, {format_bytes(offer.memory)}{gpus}"


def leaves(left: Left) -> str:
    """`12 MB in s3://…: source 1 MB, results 10 MB, …, until 21 Dec`."""
    kinds = {
        "source": left.source,
        "results": left.results,
        "checkpoints": left.checkpoints,
        "kept": left.kept,
        "logs": left.logs,
        "records": left.records,
    }
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in kinds.items() if size)
    until = f"until {moment(left.until):%d %b %Y}" if left.until else "until sojourn purge"
    return f"{format_bytes(left.bytes)} in {left.store}{f' ({parts})' if parts else ''}, {until}"


def restored(found: Checkpoint) -> str:
    """`out/checkpoint-45`: what of a checkpoint its user knows it by, folders whole."""
    names = list(dict.fromkeys(printable(folder_of(entry.path) or entry.path) for entry in found.files))
    return ", ".join(names[:NEXT]) + (f" and {len(names) - NEXT} more" if len(names) > NEXT else "")


# --- one line each --------------------------------------------------------------------------


def _project(plan: Plan) -> str:
    source = f" @ {plan.commit[:7]}" if plan.commit else ""
    return f"{plan.project}{source}" + (f" (+{plan.changed} changed)" if plan.changed else "")


def _inputs(plan: Plan) -> str:
    known = f"{counted(plan.input_files, 'file')}, {format_bytes(plan.input_bytes)}"
    known += f", {format_bytes(plan.push_bytes)} to push" if plan.stage else ""
    known += f", at most {format_bytes(plan.send_bytes)} to send" if plan.send_bytes else ""
    known += f", {format_bytes(plan.carried_bytes)} by way of the store, once" if plan.carried_bytes else ""
    later = f"{', '.join(plan.yet_to_make)} as soon as made" if plan.yet_to_make else ""
    return ", ".join(part for part in (known if plan.input_files else "", later) if part) or "none"


def _resume(found: Checkpoint) -> str:
    files = f"{counted(len(found.files), 'file')}, {format_bytes(found.bytes)}"
    made = f"{restored(found)} of {found.run}, made {format_clock(found.at)}: {files}"
    names = ", ".join(map(printable, found.without[:NEXT])) + (" …" if len(found.without) > NEXT else "")
    without = f"; without {counted(len(found.without), 'file')} beside it: {names}" if names else ""
    return f"{made}{without}; resumes if the script loads it"


def _environment(plan: Plan) -> str:
    environment = plan.environment
    if environment.kind == "built":
        return f"{_parts(plan)} {'(built)' if plan.environment_ready else '(to build)'}"
    if environment.kind == "current":
        return f"the python on {'your' if environment.path else 'the image’s'} PATH"
    return f"{_parts(plan)}, {_lock(environment.locks[0])}"


def _parts(plan: Plan) -> str:
    """The file and what of it is asked for: `uv.lock --package api --no-dev`."""
    wanted = plan.environment.wanted
    named = [("package", (wanted.package,)), ("extra", wanted.extras), ("group", wanted.groups)]
    words = [f"--{flag} {name}" for flag, names in named for name in names if name]
    python = [f"--python {wanted.python}"] if wanted.python else []
    return " ".join([str(plan.environment.source), *words, *wanted.flags, *python])


def _lock(lock: Lock) -> str:
    """`43 packages for Python 3.12, 812 MB of wheels by way of the store, once`."""
    parts = [f"{counted(lock.packages, 'package')} for Python {lock.target.python}"]
    if lock.target.brings_python:
        parts[0] += f" by uv, as the image has {lock.target.image_python}"
    if lock.sent:
        sizes = [one.size for one in lock.sent]
        whole = (
            f"{format_bytes(sum(filter(None, sizes)))} of wheels" if None not in sizes else counted(len(sizes), "wheel")
        )
        parts.append(f"{whole} by way of the store, once")
    if lock.built:
        parts.append(f"built on the machine: {', '.join(lock.built)}")
    return ", ".join(parts)


def _machine(plan: Plan) -> str:
    offer = plan.offers[0]
    parts = [f"{plan.launch.nodes} × {offer.machine}", size(offer), offer.place]
    if offer.price:
        parts += [_market(offer), f"{_price(offer)}/h each"]
    if offer.price_note:
        parts.append(f"({offer.price_note})")
    if offer.quota:
        parts.append(f"(quota: {offer.quota})")
    return "  ".join(parts)


def _others(offers: tuple[Offer, ...]) -> str:
    """What comes after the first offer: each type and market with its places, from its best price on."""
    kinds: dict[tuple[str, str], list[Offer]] = {}
    for offer in offers[1:]:
        kinds.setdefault((offer.machine, _market(offer)), []).append(offer)
    shown, machine = [], offers[0].machine
    for (name, market), alike in list(kinds.items())[:NEXT]:
        where = alike[0].place if len(alike) == 1 else f"in {len(alike)} zones from"
        shown.append(f"{name + ' ' if name != machine else ''}{market} {where} {_price(alike[0])}")
        machine = name
    more = sum(map(len, list(kinds.values())[NEXT:]))
    return " · ".join([*shown, *([f"{more} more"] if more else [])])


def _market(offer: Offer) -> str:
    return "on demand" if offer.market == "on-demand" else offer.market


def _price(offer: Offer) -> str:
    return f"about {_dollars(offer.price)}" if offer.price_note else _dollars(offer.price)


def _money(plan: Plan) -> str:
    likely = plan.offers[0].price * plan.launch.nodes * (plan.expected_s or 0.0) / 3600
    about = f"about {_dollars(likely)}, " if likely else ""
    estimated = ", by prices that are partly estimates" if any(offer.price_note for offer in plan.offers) else ""
    budget = f", budget ${plan.launch.budget:.2f}" if plan.launch.budget else ""
    transfer = plan.budget.transfer(plan.offers[0])
    moved = f", {_dollars(transfer)} of it for data from another region" if transfer else ""
    return f"{about}at most ${plan.ceiling:.2f}{moved}{estimated}{budget}"


def _hold(plan: Plan) -> str:
    """What it may cost to look at the machines of a script that failed; all of it lies within the ceiling."""
    hold_s = min(plan.launch.hold_on_failure, plan.launch.deadline)
    dollars = max(offer.price for offer in plan.offers) * plan.launch.nodes * hold_s / 3600
    cost = f", up to {_dollars(dollars)} of the money above" if dollars else ""
    return f"if the script fails its machines stay for {format_duration(hold_s)} at most, to look at them{cost}"


def _cut(plan: Plan) -> str:
    """When the budget ends it earlier, on the first offer."""
    paid = plan.budget.script_s(plan.offers, 0)
    return f"; the budget ends it after {format_duration(paid)}" if paid < plan.launch.deadline else ""


def _makes(plan: Plan) -> str:
    nodes = plan.launch.nodes
    made = [counted(nodes, thing) for thing in plan.capability.makes_each]
    on = plan.capability.condition or "whatever happens"
    made += [f"1 {thing}" for thing in (*plan.capability.makes_once, *plan.offers[0].makes)]
    return f"{', '.join(made)}: gone by {_gone_by(plan)} {on}"


def _gone_by(plan: Plan) -> str:
    at = plan.deadline_at + plan.launch.grace
    another_day = moment(at).date() != moment(plan.created_at).date()
    return f"{moment(at):%a %d %b} {format_clock(at)}" if another_day else format_clock(at)


def _kept(plan: Plan) -> str:
    """What of the rest that the script writes is kept for `sojourn pull`."""
    return f", and up to {format_bytes(plan.launch.keep)} of what git ignores," if plan.launch.keep else ""


def _brought(plan: Plan) -> Iterable[tuple[str, str]]:
    """What of the results comes home that nobody named."""
    if plan.stage is None:
        yield "brings", f"of each new file and folder that nobody names up to {format_bytes(plan.launch.bring)}"


def _remarks(remarks: tuple[str, ...]) -> Iterable[str]:
    yield from remarks[:REMARKS]
    if len(remarks) > REMARKS:
        yield f"{len(remarks) - REMARKS} more of the kind: sojourn plan --json"


def _dollars(amount: float) -> str:
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.2g}"
