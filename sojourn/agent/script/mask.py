"""Keeps secret values out of whatever leaves the script: its log and tails, records, names, numbers.

A value is known in the forms in which programs print it: as it is, escaped as JSON, Python,
HTML or a URL have it, as base64 (where it begins at any of three places, as in a Basic header),
base32 and hex, in capitals, as UTF-16; of several lines each counts, and so do the parts of a JSON object
or an address. What colours a terminal is passed over, wherever it stands in a value. Forms that few logs
hold are looked for only where their letters are. Not known are forms that nobody can list: a value that is
cut by a line's end, compressed, encrypted, reversed. docs/secrets.md says so to users.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from bisect import bisect_right
from typing import Any, Iterable, Iterator, NamedTuple
from urllib.parse import quote, quote_plus, urlsplit

MASKED = b"***"
BATCH = 16 << 10  # a script that writes 100 bytes at a time is not looked at 100 bytes at a time
HEAD = 64  # of each form, looked for first: the longer, the more of a log is skipped
SHORTEST = 4
SHORTEST_LINE = 8
SHORTEST_FORM = 6  # of what is made of a value
SHORTEST_PART = 12
SHORTEST_CASED = 8
SHORTEST_BASE32 = 12  # of a value of eight letters or more
LONGEST_RUN = 24  # of letters of base32 in a row that words hardly ever make
COLOURED = 64 << 10  # with so much that only colours, nothing is held back any more

_ORDINARY = frozenset(
    """
    true false yes no on off none null nil undefined nan inf enabled disabled auto default dev devel develop
    development prod production test tests testing stage staging local localhost debug info warn warning error
    critical fatal trace online offline cpu cuda gpu mps main master head root admin administrator user username
    guest nobody password passwd secret token changeme example train training eval data model models utf-8 utf8
    ascii http https json text info none nccl gloo fp16 fp32 bf16 float16 float32 bfloat16
    """.split()
)
_NUMBER = re.compile(r"[-+]?\d*\.?\d*(?:[eE][-+]?\d+)?")
_ARMOUR = re.compile(r"-----(?:BEGIN|END) [A-Z0-9 ]+-----")
_KEY = re.compile(r"(?!https?://|[^@\s]+@[^@\s]+$)(?s:.*\d)")  # neither an address nor a word
_NUMBER_LENGTH = 8  # a shorter one stands in every log
_SEQUENCE = re.compile(
    rb"\x1b(?:\[[0-9:;<=>?]{0,64}[ -/]{0,4}[@-~]|[()*+][0-9A-Z]|\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)|[=>78cDEHM])"
)
_BEGUN = re.compile(rb"\x1b(?:\[[0-9:;<=>?]{0,64}[ -/]{0,4}|[()*+]|\][^\x07\x1b]{0,512}\x1b?)?\Z")
_BASE32 = bytes(
    0x41 if chr(code) in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz234567" else 0 for code in range(256)
)


def is_ordinary(value: str) -> bool:
    """Whether a value is so short or so usual that hiding it would hide half the log, and nothing."""
    text = value.strip()
    number = _NUMBER.fullmatch(text) is not None and len(text) < _NUMBER_LENGTH
    return len(text) < SHORTEST or number or text.lower() in _ORDINARY


def is_random(value: str) -> bool:
    """Whether a value is a key and no word, name or path, which may stand anywhere for its own sake."""
    text = value.strip()
    kinds = sum(re.search(kind, text) is not None for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]"))
    return (len(text) >= 10 and kinds >= 3) or (len(text) >= 20 and re.search("[0-9]", text) is not None)


class Mask:
    """Replaces secret values in a stream of bytes, also where a value spans two chunks."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = list(values)
        forms = {form for value in self._values for form in _forms(value)}
        self._longest = max(map(len, forms), default=0)
        self._by_head: dict[bytes, list[bytes]] = {}
        self._beginnings: set[bytes] = set()
        for form in forms:
            self._by_head.setdefault(form[:HEAD], []).append(form)
            self._beginnings.update(form[:length] for length in range(1, min(HEAD, len(form))))
        self._heads = sorted(self._by_head)
        self._wide = [head for head in self._heads if b"\0" in head]
        base32 = {form for value in self._values for form in _in_base32(value)}
        self._in_base32 = sorted({form[:HEAD] for form in base32})
        rare = {*self._wide, *self._in_base32}
        self._usual = [head for head in self._heads if head not in rare]
        self._run = b"A" * min([LONGEST_RUN, *map(len, base32)])
        self._coloured = any(b"\x1b" in form for form in forms)
        self._waiting: list[bytes] = []
        self._size = 0
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far can be shown; a little of it waits for more, or for `rest`."""
        if not self._heads:
            return chunk
        self._waiting.append(chunk)
        self._size += len(chunk)
        return self.rest() if self._size >= BATCH else b""

    def rest(self) -> bytes:
        """All that can be shown, where nothing more may come for a while."""
        if not self._waiting:
            return b""
        text = b"".join([self._held, *self._waiting])
        self._waiting, self._size = [], 0
        spans, cut = self._read(text)
        cut = next((start for start, end in spans if start < cut < end), cut)
        if len(text) - cut > self._longest + COLOURED:
            cut = len(text)
        self._held = text[cut:]
        return _replaced(text[:cut], [span for span in spans if span[1] <= cut])

    def close(self) -> bytes:
        """What was held back."""
        shown = self.rest()
        held, self._held = self._held, b""
        return shown + self.whole(held)

    def whole(self, text: bytes) -> bytes:
        """A complete text, masked."""
        spans, _ = self._read(text)
        return _replaced(text, spans) if spans else text

    def text(self, text: str) -> str:
        """The same for characters."""
        if not self._heads:
            return text
        body = text.encode("utf-8", "surrogateescape" if _decodes(text) else "surrogatepass")
        shown = self.whole(body)
        return text if shown == body else shown.decode("utf-8", "replace")

    def strings(self, value: Any) -> Any:
        """A JSON value with every text and name in it masked."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.strings(key): self.strings(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.strings(inner) for inner in value]
        return value

    def strong(self) -> Mask:
        """For what is lost when it is taken for a secret: of the values only those that nobody writes by chance."""
        return Mask(value for value in self._values if is_random(value))

    def __bool__(self) -> bool:
        return bool(self._heads)

    def finds(self, text: bytes) -> bool:
        """Whether a secret stands there."""
        return bool(self._read(text)[0])

    def _read(self, text: bytes) -> tuple[list[tuple[int, int]], int]:
        """Where secrets stand in a text, and where one may have begun that is not over yet; else its end."""
        if b"\x1b" not in text or self._coloured:
            present = self._present(text)
            return self._spans(text, present), self._cut(text, present)
        begun = _BEGUN.search(text, max(0, len(text) - 600))
        end = begun.start() if begun else len(text)
        bare = _SEQUENCE.sub(b"", text[:end])
        present = self._present(bare)
        spans, cut = self._spans(bare, present), self._cut(bare, present)
        if not spans and cut == len(bare):
            return [], end
        stood = _Stood.of(text[:end])
        found = [(stood.at(start), stood.at(stop - 1) + 1) for start, stop in spans]
        return found, stood.at(cut) if cut < len(bare) else end

    def _present(self, text: bytes) -> list[tuple[bytes, int]]:
        """The beginnings of forms that stand there, each with its first place."""
        heads = self._usual
        if self._wide and b"\0" in text:
            heads = heads + self._wide
        if self._in_base32 and self._run in text.translate(_BASE32):
            heads = heads + self._in_base32
        return [(head, at) for head in heads for at in [text.find(head)] if at >= 0]

    def _spans(self, text: bytes, present: list[tuple[bytes, int]]) -> list[tuple[int, int]]:
        """Where secrets stand, in order; of those that overlap one span."""
        return _merged(
            [span for head, at in present for form in self._by_head[head] for span in _places(form, text, at)]
        )

    def _cut(self, text: bytes, present: list[tuple[bytes, int]]) -> int:
        """Where a secret may have begun that is not over yet; else the end."""
        size = len(text)
        cut = next((at for at in range(max(0, size - HEAD + 1), size) if text[at:] in self._beginnings), size)
        first = max(0, size - self._longest + 1)
        for head, at in present:
            at = text.find(head, max(first, at))
            while 0 <= at < cut:
                if any(len(form) > size - at and form.startswith(text[at:]) for form in self._by_head[head]):
                    cut = at
                at = text.find(head, at + 1)
        return cut


class _Stood(NamedTuple):
    """Where the letters of a text stood before what colours a terminal was taken out."""

    gaps: list[int]  # the places in what is left
    before: list[int]  # and how much was taken out up to each

    @classmethod
    def of(cls, coloured: bytes) -> _Stood:
        """As the text was."""
        found = [one.span() for one in _SEQUENCE.finditer(coloured)]
        before = [0, *itertools.accumulate(end - start for start, end in found)]
        return cls([start - gone for (start, _), gone in zip(found, before)], before)

    def at(self, place: int) -> int:
        """Where a letter of what is left stood."""
        return place + self.before[bisect_right(self.gaps, place)]


def _places(form: bytes, text: bytes, first: int) -> Iterator[tuple[int, int]]:
    at = text.find(form, first)
    while at >= 0:
        yield at, at + len(form)
        at = text.find(form, at + 1)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _replaced(text: bytes, spans: list[tuple[int, int]]) -> bytes:
    parts, at = [], 0
    for start, end in spans:
        # What colours a terminal goes on to do so, and what ends that as well.
        parts += [text[at:start], MASKED, *_SEQUENCE.findall(text, start, end)]
        at = end
    return b"".join([*parts, text[at:]])


def _decodes(text: str) -> bool:
    """Whether the odd characters of a text stand for bytes, as in names of files."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


# --- the forms of a value -----------------------------------------------------------------


def _forms(value: str) -> Iterator[bytes]:
    """How programs print a value; none of one that is too ordinary to be hidden."""
    if is_ordinary(value):
        return
    text = value.strip()
    yield _bytes(text)
    yield from (_bytes(line) for line in _lines(text))
    if _bytes(value) != _bytes(text):
        yield from _encoded(_bytes(value))
    for part in (text, *_parts(text)):
        yield _bytes(part)
        for form in (*_escaped(part), *_cased(part)):
            if len(form) >= SHORTEST_FORM:
                yield _bytes(form)
        yield from _encoded(_bytes(part))
        yield from (_bytes(line) for line in _lines(part))
        for wide in (part, *_lines(part)):
            yield from (wide.encode(code, "surrogatepass") for code in ("utf-16-le", "utf-16-be"))
    yield from _in_base32(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if _decodes(text) else "surrogatepass")


def _lines(text: str) -> Iterator[str]:
    """Each line that says something by itself: a rank's prefix may stand before it."""
    lines = text.splitlines()
    for line in lines if len(lines) > 1 else ():
        bare = line.strip()
        mixed = re.search(r"[a-zA-Z]", bare) is not None and re.search(r"[0-9+/=]", bare) is not None
        if (
            len(bare) >= (SHORTEST if mixed else SHORTEST_LINE)
            and not _ARMOUR.fullmatch(bare)
            and not is_ordinary(bare)
        ):
            yield bare


def _parts(text: str) -> Iterator[str]:
    """The secret texts of a JSON object (a service account's key), the password of an address."""
    if text.startswith("{"):
        try:
            yield from _leaves(json.loads(text))
        except (ValueError, RecursionError):
            return
    if "://" in text and not re.search(r"\s", text):
        try:
            password = urlsplit(text).password
        except ValueError:
            return
        if password and not is_ordinary(password):
            yield password


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str) and len(value) >= SHORTEST_PART and _KEY.match(value):
        yield value.strip()


def _escaped(text: str) -> Iterator[str]:
    import html

    as_json = json.dumps(text)[1:-1]
    raw = text.encode("utf-8", "replace")
    plain = json.dumps(text, ensure_ascii=False)[1:-1]
    yield as_json
    yield plain
    yield json.dumps(as_json)[1:-1]  # JSON within JSON
    yield as_json.replace("/", "\\/")
    yield plain.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")  # Go
    yield ascii(text)[1:-1]
    yield repr(text)[1:-1]
    yield repr(text + "'\"")[1:-4]  # beside other text, with either quote escaped
    yield repr(text + '"')[1:-2] if "'" not in text else text
    yield repr(raw)[2:-1]
    yield html.escape(text)
    yield text.replace("'", "'\"'\"'")
    yield text.replace("'", "'\\''")
    for quoted in (quote(raw), quote(raw, safe=""), quote_plus(raw), quote(raw, safe=":@!$&'()*+,;=~-._")):
        yield quoted
        yield re.sub(r"%[0-9A-F]{2}", lambda code: code.group().lower(), quoted)


def _cased(text: str) -> Iterator[str]:
    if len(text) >= SHORTEST_CASED and not is_ordinary(text):
        yield text.upper()
        yield text.lower()


def _in_base32(value: str) -> Iterator[bytes]:
    """Base32 of whatever ends with the value, goes on after it, or holds it, in capitals and small letters."""
    text = value.strip()
    for raw in () if is_ordinary(value) else map(_bytes, (text, *_parts(text))):
        for before in range(5):
            whole = base64.b32encode(bytes(before) + raw)
            begin, end = -(-before * 8 // 5), (before + len(raw)) * 8 // 5
            for form in (whole[begin:end], whole[begin:].rstrip(b"=")):
                if len(form) >= SHORTEST_BASE32:
                    yield from (form, form.lower())


def _encoded(raw: bytes) -> Iterator[bytes]:
    """Base64 of whatever ends with the value, goes on after it, or holds it; hex."""
    found = [raw.hex().encode(), raw.hex().upper().encode()]
    for before in range(3):
        # Of the first and the last letter some bits belong to what stands beside the value.
        whole = base64.b64encode(bytes(before) + raw)
        begin = (0, 2, 3)[before]
        end = (before + len(raw)) * 8 // 6
        for form in (whole[begin:end], whole[begin:]):  # where something follows, and at the end
            found += [form, form.replace(b"+", b"-").replace(b"/", b"_")]
    yield from (form for form in found if len(form) >= SHORTEST_FORM)
