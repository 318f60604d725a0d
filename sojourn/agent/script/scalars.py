"""The numbers that the script writes to files while it runs, read on the machine and told to the store.

TensorBoard event files wherever they lie in the tree, and the metric files that the order
names. Only what is new since the start of the script counts, and one look reads a
megabyte at most: a script that logs without end gets its points thinned, never slowed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import os
import posixpath
import re
import threading
import time
from collections.abc import Iterator
from typing import Any, Tuple, Union

from sojourn.agent.errors import Exists, say
from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place
from sojourn.agent.results.packs import Packs
from sojourn.agent.results.tree import Sign, scan, sign_of
from sojourn.agent.script import tfevents
from sojourn.agent.script.mask import Mask
from sojourn.agent.stores.store import Store

LOOK_S = 2.0
SLOWEST_S = 30.0
SHARE = 50  # a walk through the tree takes at most one part in so many of the time
READ_LIMIT = 1 << 20
FILE_LIMIT = 1 << 20  # a larger file holds no metrics
VALUES = 20_000  # of one record
NAMES = 64
GUESSED = 40  # names of a file that nobody called one of metrics; with more it is one of predictions
POINTS = 50  # of one name, from one look
TRIES = 10

_METRICS = re.compile(
    r"(?:.*[_.-])?metrics(?:[_.-].*)?\.(?:jsonl?|ya?ml|toml|csv|tsv)|(?:.*[_.-])?(?:results|scores)\.json",
    re.IGNORECASE,
)
_TABLES = (".csv", ".tsv", ".jsonl")  # a record a line, and more lines as time goes on
_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)

# source, folder, name, step, value, at: sojourn.records.Scalar
Point = Tuple[str, str, str, Union[float, None], Union[float, None], float]


class Scalars:
    """Looks from `start` to `finish`, in a thread of its own, on the node of rank 0 alone."""

    def __init__(self, store: Store, place: Place, order: Json, root: str, mask: Mask | None = None) -> None:
        self._mask = mask or Mask()
        self._store = store
        self._place = place
        self._root = root
        self._metrics = set(order.get("metrics", ()))
        self._known = self._files() if place.rank == 0 else {}
        self._found = self._known
        self._offsets = {path: sign.size for path, sign in self._known.items()}
        self._lines = {path: self._count(path) for path in self._known if path.lower().endswith(_TABLES)}
        self._declared: set[str] = set()  # names that a declared file has
        self._owners: dict[str, str] = {}
        self._names: dict[tuple[str, str], bool] = {}
        self._waiting: list[Point] = []
        self._pieces = 0
        self._packs = Packs(store, place.key("packed/scalars"))
        self._walk_at = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """The script runs now."""
        if self._place.rank == 0:
            self._thread.start()

    def finish(self, seconds: float) -> None:
        """Read the rest, within this time; what is lost then is a curve's end, and no result."""
        until = time.monotonic() + seconds
        self._over.set()
        if not self._thread.is_alive():
            return
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._walk_at = 0.0
            self._quietly(until)
            self._packs.close()

    def _run(self) -> None:
        while not self._over.wait(min(SLOWEST_S, max(LOOK_S, self._pieces / 30))):
            self._quietly(time.monotonic())

    def _quietly(self, until: float) -> None:
        """Look, and once more while there is more to read and time for it."""
        try:
            while self._look() and time.monotonic() < until:
                pass
        except Exception as error:  # nothing here is worth the script's run
            say(f"its numbers could not be read: {error!r}")

    def _look(self) -> bool:
        """Tell what is new; whether there is more."""
        if time.monotonic() >= self._walk_at:
            began = time.monotonic()
            self._found = self._files()
            self._walk_at = time.monotonic() + SHARE * (time.monotonic() - began)
        points, budget = list(self._waiting), READ_LIMIT
        for path in sorted(self._found):
            if path in self._metrics:
                own = self._metric_file(path)
                self._declared.update(point[2] for point in own)
                points += own
            elif looks_like_metrics(path):
                points += self._owned(path, self._metric_file(path))
            elif budget > 0:
                new, read = self._event_file(path, budget)
                points += new
                budget -= read
        self._waiting = list(self._thinned(points))
        if self._waiting:
            self._tell()
        return budget <= 0

    def _files(self) -> dict[str, Sign]:
        found = scan(self._root, [], {})
        return {
            path: sign
            for path, sign in found.items()
            if "tfevents" in posixpath.basename(path) or path in self._metrics or looks_like_metrics(path)
        }

    def _event_file(self, path: str, budget: int) -> tuple[list[Point], int]:
        """The new points of an event file, and how many bytes that took."""
        offset = self._offsets.get(path, 0)
        folder = posixpath.dirname(path)
        try:
            with open(os.path.join(self._root, path), "rb") as file:
                found, after = tfevents.read(file, offset, budget)
        except tfevents.NoEventsError:
            self._offsets[path] = 1 << 62
            return [], 0
        except OSError:
            return [], 0
        self._offsets[path] = after
        new: list[Point] = [
            ("tensorboard", folder, one.tag, float(one.step), finite(one.value), one.at) for one in found
        ]
        return new, after - offset

    def _metric_file(self, path: str) -> list[Point]:
        """The numbers of a metric file that has changed; of one with a record a line, those of the new lines."""
        full = os.path.join(self._root, path)
        try:
            state = os.stat(full)
            sign = sign_of(state)
            if sign == self._known.get(path) or sign.size > FILE_LIMIT:
                return []
            with open(full, "rb") as file:
                records = numbers(path, file.read())
        except OSError:
            return []  # gone meanwhile
        if records is None:
            return []  # in the middle of being written
        self._known[path] = sign
        seen, self._lines[path] = self._lines.get(path, 0), len(records)
        if not path.lower().endswith(_TABLES) or len(records) < seen:
            seen = 0  # written anew
        points: list[Point] = []
        for values in records[seen:]:
            step = values.pop("step", None)
            points += [("file", path, name, step, finite(value), state.st_mtime) for name, value in values.items()]
        return points

    def _count(self, path: str) -> int:
        """The records of a table that lay there before the script."""
        try:
            with open(os.path.join(self._root, path), "rb") as file:
                return len(numbers(path, file.read(FILE_LIMIT)) or ())
        except OSError:
            return 0

    def _owned(self, path: str, points: list[Point]) -> list[Point]:
        """Of files that nobody declared, the first that has a name gives its curve; the report has the others too."""
        if len({point[2] for point in points}) > GUESSED:
            return []
        points = [point for point in points if point[2] not in self._declared]
        return [point for point in points if self._owners.setdefault(point[2], path) == path]

    def _thinned(self, points: list[Point]) -> Iterator[Point]:
        """Of each name at most so many points, evenly spaced, with the last; of the names the first so many."""
        by_name: dict[tuple[str, str], list[Point]] = {}
        for point in points:
            key = (point[1], point[2])
            if len(self._names) < NAMES:
                self._names[key] = True
            if key in self._names:
                by_name.setdefault(key, []).append(point)
        for of_one in by_name.values():
            stride = math.ceil(len(of_one) / POINTS)
            yield from reversed(of_one[::-1][::stride])

    def _shown(self, point: Point) -> Point:
        source, folder, name, step, value, at = point
        return (source, self._mask.text(folder), self._mask.text(name), step, value, at) if self._mask else point

    def _tell(self) -> None:
        body = json.dumps({"points": [self._shown(point) for point in self._waiting]}).encode()
        for _ in range(TRIES):
            try:
                self._store.create(self._place.key(f"scalars/{self._pieces:08d}.json"), body)
            except Exists:
                self._pieces += 1
                continue
            except OSError as error:
                say(f"scalars wait: {error}")
                return
            self._packs.add(self._pieces, body)
            self._pieces += 1
            self._waiting = []
            return


def looks_like_metrics(path: str) -> bool:
    """Whether a file's name says that it holds metrics: `metrics.json`, `eval_results.json`, `metrics.csv`."""
    return _METRICS.fullmatch(posixpath.basename(path)) is not None


def numbers(path: str, body: bytes) -> list[dict[str, float]] | None:
    """The numbers of each record of a file of metrics, by dotted name; None where it cannot be read."""
    try:
        records = _records(path, body.decode("utf-8-sig"))
        return [dict(itertools.islice(flat(record), VALUES)) for record in records]
    except (ValueError, RecursionError, csv.Error):
        return None


def _records(path: str, text: str) -> list[Any]:
    """The records of a file of metrics; while it is being written, its last line may be half of one."""
    if path.lower().endswith((".csv", ".tsv")):
        whole = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(whole), delimiter="\t" if path.lower().endswith(".tsv") else ","))
    if path.lower().endswith(".jsonl"):
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.strip()]
    return [json.loads(text)]  # a file of YAML or TOML waits for the report


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a JSON value by dotted name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix and isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            yield prefix, float(value)
    elif prefix and isinstance(value, str) and _NUMBER.fullmatch(value):
        yield prefix, float(value)


def finite(value: float) -> float | None:
    """The value, or None for what JSON does not know."""
    return value if math.isfinite(value) else None
