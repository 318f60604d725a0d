"""A store with as many closed runs as one likes, each a copy of one that was really run, under a name of its own."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from sojourn.names import is_run_id, mint_run_id
from sojourn.run.closed_runs import ClosedRuns
from sojourn.run.runs import all_mailboxes, summary_of
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

TIMES = ("created_at", "ended_at", "deadline_at", "started_at", "at")
POINTS = 500


def a_run(store: Store) -> Mailbox:
    """The run that is in the store."""
    (mailbox,) = all_mailboxes(store)
    return mailbox


class Copies:
    """The objects of one finished run, to be written again under other names and times."""

    def __init__(self, folder: Path, series: int = 0) -> None:
        store = Store(folder.as_uri())
        self._mailbox = a_run(store)
        keys = [key for prefix in self._mailbox.prefixes() for key in store.keys(prefix)]
        self._objects = {key: store.get(key) for key in keys}
        if series:
            self._lengthen(series)

    def _lengthen(self, series: int) -> None:
        """Give the report as many series as a training has."""
        key = f"{self._mailbox.control}/report.json"
        report = json.loads(self._objects[key])
        points = [{"step": step, "value": 1 / (1 + step), "at": 1e9 + step} for step in range(POINTS)]
        report["series"] = {f"s{n}": {"source": "log", "points": points, "count": POINTS} for n in range(series)}
        self._objects[key] = json.dumps(report).encode()

    def write(self, folder: Path, count: int, days: float = 100.0, known: bool = True) -> list[str]:
        """Write so many, the last one now and the first so many days ago; `known` are also in pages."""
        names = list(_names(count))
        for number, run in enumerate(names):
            ago = days * 86400 * (count - 1 - number) / max(1, count - 1)
            for key, body in self._objects.items():
                path = folder / key.replace(self._mailbox.run, run)
                path.parent.mkdir(parents=True, exist_ok=True)
                text = body.replace(self._mailbox.run.encode(), run.encode())
                path.write_bytes(_earlier(text, ago) if path.suffix == ".json" else text)
        store = Store(folder.as_uri())
        if known:
            boxes = [Mailbox(store, self._mailbox.project, run) for run in names]
            ClosedRuns(store, self._mailbox.project).add([one for box in boxes if (one := summary_of(box))])
        return names


def _names(count: int) -> Iterator[str]:
    """As many different names, the same each time."""
    chance, given = random.Random(7), set[str]()
    while len(given) < count:
        run = mint_run_id(str(chance.random()))
        if run not in given:
            assert is_run_id(run)
            given.add(run)
            yield run


def _earlier(body: bytes, seconds: float) -> bytes:
    names = "|".join(TIMES).encode()

    def shifted(found: re.Match[bytes]) -> bytes:
        return found[1] + repr(float(found[2]) - seconds).encode()

    return re.sub(rb'("(?:' + names + rb')":\s*)(\d{9,}(?:\.\d+)?)', shifted, body)
