"""The numbers in files of metrics, whatever wrote them: JSON, JSON lines, YAML, TOML, CSV.

Numbers may be written as text (`"3.9"`). What cannot be read holds no metrics; nothing is guessed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from sojourn.harmless import cut

SIZE_LIMIT = 1_000_000
DEPTH = 20
VALUES = 20_000  # of one record; YAML's anchors make millions of a few lines
LARGEST = 10**300  # a whole number beyond it is no float
TEXT = 300  # characters of a value that is none; the file itself comes home whole
NAME = 200  # of a name, with the names that it lies in
GUESSED = 200  # values of a file that nobody called one of metrics; with more it is one of predictions
_NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?\s*", re.ASCII)
_INTEGER = re.compile(r"\s*[-+]?\d{1,18}\s*", re.ASCII)


def read(name: str, body: bytes) -> dict[str, Any]:
    """The values by dotted name; none where the file is no file of metrics, or too large for one."""
    if len(body) > SIZE_LIMIT:
        return {}
    try:
        text = body.decode("utf-8-sig")
        values: dict[str, Any] = {}
        for record in _records(PurePosixPath(name).suffix.lower(), text):
            for number, (path, value) in enumerate(_leaves(record)):
                if number > VALUES:
                    return {}
                if path:
                    values[cut(path, NAME)] = value
    except (ValueError, yaml.YAMLError, csv.Error, RecursionError):
        return {}
    return values


def merged(declared: Mapping[str, Any], guessed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All values by name; where two files that nobody declared differ, their folders come before the name."""
    values = dict(declared)
    found: dict[str, dict[str, Any]] = {}
    for path, of_file in guessed.items():
        if len(of_file) <= GUESSED:
            for name, value in of_file.items():
                if is_number(value):
                    found.setdefault(name, {})[path] = value
    for name, by_path in found.items():
        if len(set(by_path.values())) == 1:
            values.setdefault(name, next(iter(by_path.values())))
            continue
        for path, value in by_path.items():
            values.setdefault(f"{_place(path, by_path)}/{name}", value)
    return values


def is_number(value: object) -> bool:
    """Whether it can be compared: a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _place(path: str, among: Iterable[str]) -> str:
    """The folder, or where two lie in one folder the file without its suffix."""
    folder = PurePosixPath(path).parent
    alone = sum(PurePosixPath(other).parent == folder for other in among) == 1
    return folder.as_posix() if alone and folder.name else PurePosixPath(path).with_suffix("").as_posix()


def _records(suffix: str, text: str) -> Iterable[Any]:
    """The file's records in order: one, or one a line; a later value of a name counts."""
    if suffix == ".toml":
        return [tomllib.loads(text)]
    if suffix in (".csv", ".tsv"):
        return csv.DictReader(io.StringIO(text), delimiter="\t" if suffix == ".tsv" else ",")
    if suffix in (".yaml", ".yml"):
        return [yaml.safe_load(text)]
    try:
        return [json.loads(text)]
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        # While it is being written, its last line may be half a record.
        return [json.loads(line) for line in lines[:-1]] + [_json(lines[-1])] if lines else []


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _leaves(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Name and value of what is not a mapping, one after the other: of a mapping in itself there is no end."""
    if isinstance(value, dict):
        yield "", None  # a mapping counts too: there may be millions, with nothing in them
        if depth <= DEPTH:
            for key, inner in value.items():
                name = _text(str(key)[: NAME + 1])
                yield from _leaves(inner, f"{prefix}.{name}" if prefix else name, depth + 1)
        return
    plain = _plain(value)
    if plain is not None and prefix:
        yield prefix, plain


def _text(value: str) -> str:
    """As it can be written: half a surrogate pair is no character."""
    return value.encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    """A number, also one that is written as text; text that is none; nothing for what is neither."""
    if isinstance(value, str):
        if _INTEGER.fullmatch(value):
            return int(value)
        return float(value) if _NUMBER.fullmatch(value) else cut(_text(value), TEXT) or None
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"  # JSON knows no such number
    if isinstance(value, int) and abs(value) > LARGEST:
        return None
    return value if isinstance(value, (int, float)) else None
