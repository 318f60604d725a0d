"""What of a run's files is not at home: in the store for `sojourn pull`, or on the machine alone (promise P7)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

from sojourn.agent.results import outside, remains, tree
from sojourn.omissions import NAMED, PATHS, Account, Omission, in_words, printable
from sojourn.plan.planning import Plan
from sojourn.protocol import Remainder
from sojourn.results.collect import AGAIN, HALF, LOST, REFUSED, STRANGE, Collected, without_node
from sojourn.results.publish import Published
from sojourn.shorthand import counted, format_bytes, format_duration

QUIET = (tree.CACHE, tree.EMPTY)  # told to whoever asks for all of it, and to nobody else
SLACK = 1.5  # times as long as it took, for a store is not always as fast
SHOWN = 4  # reasons in a report that people read
_HEADINGS = {remains.REMOVED: "still here", LOST: "lost"}
_REMEDIES = {
    outside.OUTSIDE: "write it below the project",
    remains.IN_GIT: "commit or tag here, once the results are home",
    tree.OUTWARD: "write it below the project",
    tree.UNNAMED: "give it another name",
}


def in_store(plan: Plan, collected: Collected, published: Published) -> tuple[Omission, ...]:
    """What only `sojourn pull` brings."""
    stray = _unplaced(plan, collected, published)
    found = {one.reason: one for one in stray}
    for one in (_omission(plan, one) for one in collected.account if one.kept):
        found[one.reason] = _together(one, found[one.reason]) if one.reason in found else one
    return tuple(found.values())


def left_behind(plan: Plan, collected: Collected) -> tuple[Omission, ...]:
    """What is nowhere any more once the machine has gone; on this host it goes as well."""
    return tuple(_omission(plan, one) for one in collected.account if not one.kept)


def refused(collected: Collected) -> list[str]:
    """What a machine committed and this host does not take, in words."""
    found = [one for one in collected.account if one.reason in REFUSED]
    return [
        f"not brought home: {counted(one.files, 'file')} {one.reason}: {', '.join(map(printable, one.paths[:NAMED]))}"
        for one in found
    ]


def lines(kept: Iterable[Omission], left: Iterable[Omission]) -> list[tuple[str, str]]:
    """Heading and text, a line for each of the first few reasons."""
    shown = [("kept", _line(one)) for one in list(kept)[:SHOWN]]
    loud = [one for one in left if not one.trivial]
    return [*shown, *((_HEADINGS.get(one.reason, "left there"), _line(one)) for one in loud[:SHOWN])]


def _together(one: Omission, other: Omission) -> Omission:
    paths = (*one.paths, *other.paths)
    unnamed = one.unnamed + other.unnamed + len(paths[PATHS:])
    sums = {"unnamed": unnamed, "files": one.files + other.files, "bytes": one.bytes + other.bytes}
    return one.model_copy(update={"paths": paths[:PATHS], **sums})


def _line(one: Omission) -> str:
    return in_words(one, format_bytes(one.bytes)) + (f"    {one.remedy}" if one.remedy else "")


def _omission(plan: Plan, one: Remainder) -> Omission:
    return Omission(
        reason=one.reason,
        paths=tuple(map(printable, one.paths)),
        unnamed=one.unnamed,
        files=one.files,
        bytes=one.bytes,
        trivial=one.reason in QUIET,
        remedy=_pulled(plan, one) if one.kept else _next_time(plan, one),
    )


def _next_time(plan: Plan, one: Remainder) -> str | None:
    """What brings it home with the next run."""
    home = f"next time {_options(plan, one.paths)}"
    match one.reason:
        case remains.BEYOND_HOME:
            return f"{home}, or --bring {_room(plan.launch.bring + one.bytes)}"
        case remains.LATE:
            return f"next time {_grace(plan, one.seconds)}, or a store nearer to the machine"
        case remains.BEYOND:
            return f"{home}, or --keep {_room(plan.launch.keep + one.bytes)}"
        case remains.IGNORED | remains.UNDECLARED:  # with nothing to be kept
            return f"{home}, or --keep {_room(one.bytes)}"
        case remains.TOO_MANY | remains.INPUT:
            return home
    return _REMEDIES.get(one.reason)


def _grace(plan: Plan, seconds: float | None) -> str:
    """Enough for what took too long, as far as that is known."""
    if seconds is None:
        return "a longer --grace"
    needed = plan.launch.grace + SLACK * seconds
    return f"--grace {format_duration(-(-needed // 60) * 60).replace(' ', '')}"


def _room(size: float) -> str:
    """At least that much, as `launch.keep` is written."""
    unit = next((unit for unit in (10**12, 10**9) if size >= unit), 10**6)
    tenths = -(-int(size) * 10 // unit)
    number = f"{tenths / 10:g}" if tenths < 100 else str(-(-tenths // 10))
    return number + {10**6: "MB", 10**9: "GB", 10**12: "TB"}[unit]


def _pulled(plan: Plan, one: Remainder) -> str:
    now = f"sojourn pull {plan.run} --to DIR"
    if one.reason in REFUSED:
        where = f"what it holds is below {plan.store}/machine/{plan.project}/{plan.run}"
        return where if one.reason == STRANGE else f"{where}; next time write it under another name"
    if one.reason == HALF:
        return now  # no option brings it to its place
    next_time = "names with $NODE_RANK in them" if one.reason == AGAIN else _options(plan, one.paths)
    return f"{now}, or next time {next_time}"


def _options(plan: Plan, paths: Iterable[str]) -> str:
    """The `--output` of next time: folders at the top, for what is in them has another name each time."""
    here = (without_node(path) for path in paths)
    tops = dict.fromkeys(_top(os.path.relpath(path, plan.work_directory)) for path in here)
    named = " ".join(f"--output {shlex.quote(top)}" for top in list(tops)[:NAMED])
    return f"{named} …" if len(tops) > NAMED else named or "--output PATH"


def _top(path: str) -> str:
    """Of a path as the user stands to it, the first part that is a name."""
    parts = PurePosixPath(path).parts
    above = next((at for at, part in enumerate(parts) if part != ".."), len(parts) - 1)
    return "/".join(parts[: above + 1])


def _unplaced(plan: Plan, collected: Collected, published: Published) -> tuple[Omission, ...]:
    """Checkpoints and the like that a stage wrote without declaring them: committed, and not placed."""
    if plan.stage is None or not published.committed:
        return ()
    placed = {PurePosixPath(path) for path in (*plan.stage.outputs, *published.placed, *published.beside)}
    account = Account()
    for entry in collected.files:
        path = PurePosixPath(entry.path)
        if placed.isdisjoint((path, *path.parents)):
            remedy = f"sojourn pull {plan.run} --to DIR"
            account.add(remains.UNDECLARED, entry.path, size=entry.size, remedy=remedy)
    return account.omissions()
