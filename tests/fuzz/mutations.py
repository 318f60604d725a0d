"""Damaged copies of real bytes: cut off, flipped, spliced, and JSON of another type, size, depth or encoding."""

from __future__ import annotations

import json
from random import Random
from typing import Any

DEEP = 20_000
TOKENS = (
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b'"', b"{", b"[", b"]", b"}", b",", b":", b"-", b"e999", b"NaN", 
    b"\x1b[2J", b"null", b"true", b"1e400", b"9" * 5000, b"\\ud800", b"../", b"/etc/passwd", "😀".encode(),
    b"&a [*a]", b"<!ENTITY a 'b'>",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1 << 63, 10**400, -(10**19), 1e308, float("inf"), float("-inf"), float("nan"), 5e-324,
    "", " ", "0", "true", "1e999", "\ud800", "\0", "..", "/", "a/../../b", "\n", "x" * 70_000, "\x1b]52;c;aGk=\x07",
    [], {}, [[]], [None], [1, "a"], {"": None}, {"a": {"b": [1]}}, "2026-11-29T00:00:00Z",
)  # fmt: skip


def mutated(body: bytes, chance: Random) -> bytes:
    """One damaged copy; now and then the bytes as they were, for readers must go on with what is sound."""
    ways = [_cut, _flip, _insert, _remove, _repeat, _empty, _zeros, _noise, _nested]
    if chance.random() < 0.5 and (record := _json(body)) is not None:
        return _written(_changed(record, chance), chance)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 5))):
        body = chance.choice(ways)(body, chance)
    return body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _written(record: Any, chance: Random) -> bytes:
    text = json.dumps(record, ensure_ascii=chance.random() < 0.7)
    encoding = chance.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    return text.encode(encoding, errors="replace" if encoding == "latin-1" else "surrogatepass")


def _changed(record: Any, chance: Random) -> Any:
    """The same with one value, at any depth, replaced, dropped, renamed or repeated."""
    places = list(_places(record))
    if not places:
        return chance.choice(VALUES)
    for holder, key in chance.sample(places, min(len(places), chance.choice((1, 1, 1, 3)))):
        way = chance.random()
        if way < 0.6 or isinstance(holder, list):
            holder[key if isinstance(holder, dict) else min(key, len(holder) - 1)] = chance.choice(VALUES)
        elif way < 0.75:
            holder.pop(key, None)
        elif way < 0.9:
            holder[f"{key}_of_later"] = holder.pop(key, None)
        else:
            holder[key] = [holder.get(key)] * chance.choice((2, 1000))
    return record


def _places(value: Any) -> Any:
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield value, at
            yield from _places(inner)


def _cut(body: bytes, chance: Random) -> bytes:
    return body[: chance.randrange(len(body) + 1)]


def _flip(body: bytes, chance: Random) -> bytes:
    changed = bytearray(body)
    for _ in range(chance.choice((1, 1, 4, 30))):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _insert(body: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + chance.choice(TOKENS) * chance.choice((1, 1, 2, 500)) + body[at:]


def _remove(body: bytes, chance: Random) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + body[at + chance.choice((1, 2, 20, 400)) :]


def _repeat(body: bytes, chance: Random) -> bytes:
    start = chance.randrange(len(body) + 1)
    part = body[start : start + chance.choice((1, 8, 100))]
    return body[:start] + part * chance.choice((2, 50, 2000)) + body[start:]


def _empty(_: bytes, __: Random) -> bytes:
    return b""


def _zeros(body: bytes, _: Random) -> bytes:
    return bytes(len(body))


def _noise(_: bytes, chance: Random) -> bytes:
    return chance.randbytes(chance.choice((1, 9, 300, 20_000)))


def _nested(_: bytes, chance: Random) -> bytes:
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"{a: ", b"}"), (b"(", b")")))
    inner = chance.choice((b"1", b"", b'"x"'))
    return opening * DEEP + inner + closing * chance.choice((0, DEEP))
