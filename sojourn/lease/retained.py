"""What a run leaves in its store on purpose, counted for the receipt: nothing that costs money stays unsaid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sojourn.agent.mailbox import is_restored
from sojourn.errors import UnreadableError
from sojourn.receipts import Left
from sojourn.store.mailbox import Mailbox

NEWEST = 3  # commits of a node whose files are still there: two are kept, one may be on its way
SENT = ("bundle", "inputs", "environment")
TOLD = ("log", "scalars", "packed", "diagnosis.txt")


def count_left(mailbox: Mailbox) -> Left:
    """The bytes of a run by what they are, and when the store will forget them."""
    sizes = mailbox.store.sizes
    written = {key.removeprefix(f"{mailbox.machine}/"): size for key, size in sizes(mailbox.machine).items()}
    saved = _saved(mailbox, written)
    found = {"results": 0, "checkpoints": 0, "kept": 0, "logs": 0, "records": 0}
    for key, size in written.items():
        found[_kind(key, saved)] += size
    for key, size in {**sizes(mailbox.control), **sizes(mailbox.orders)}.items():
        found["checkpoints" if is_restored(key) else "records"] += size
    sent = {source: size for name in SENT for source, size in _files(_raw(mailbox, name))}
    own = {source: size for source, size in sent.items() if "://" not in source}  # data stays where it was
    until = mailbox.store.forgets(f"{mailbox.control}/plan.json")
    return Left(store=mailbox.store.url, source=sum(own.values()), until=until, **found)


def _raw(mailbox: Mailbox, name: str) -> dict[str, Any] | None:
    try:
        return mailbox.raw(name)
    except UnreadableError:
        return None


def _kind(key: str, saved: dict[str, str]) -> str:
    """`key` is ATTEMPT/NODE/WHAT…; blobs are results unless no output names them."""
    what = (*key.split("/"), "", "")[2]
    if what == "blob":
        return saved.get(key, "results")
    return "logs" if what in TOLD else "records"


def _saved(mailbox: Mailbox, written: dict[str, int]) -> dict[str, str]:
    """The blobs that outputs do not name, by what they are: of checkpoints, or kept for `sojourn pull`."""
    named: dict[str, set[str]] = {"kept": set(), "ckpt": set(), "out": set()}
    places = {(*key.split("/"), "")[:2] for key in written}
    for attempt, node in sorted((int(one), int(two)) for one, two in places if one.isdecimal() and two.isdecimal()):
        for what, sources in named.items():
            for sequence in mailbox.manifests(attempt, node, what)[-NEWEST:]:
                with suppress(UnreadableError):  # then its files count as results
                    manifest = mailbox.manifest(attempt, node, what, sequence)
                    sources.update(entry.source for entry in (manifest.files if manifest else ()))
    kinds = {**dict.fromkeys(named["kept"], "kept"), **dict.fromkeys(named["ckpt"], "checkpoints")}
    return {
        source.removeprefix(f"{mailbox.machine}/"): kind for source, kind in kinds.items() if source not in named["out"]
    }


def _files(record: Any) -> Iterator[tuple[str, int]]:
    """Every file that a record names, by its source."""
    if isinstance(record, dict):
        if isinstance(record.get("source"), str) and isinstance(record.get("size"), int):
            yield record["source"], record["size"]
        record = list(record.values())
    for inner in record if isinstance(record, list) else ():
        yield from _files(inner)
