"""Finds numbers in what a script prints: by the regular expressions of `launch.metrics`, and in the lines of a dict.

`{'loss': '3.9', 'epoch': 1.0}` is how transformers prints its numbers, as text in version 5 and as
numbers before; such a line says the names itself, so nothing is guessed.

A pattern is the user's and may be pathological: `(a+)+$` can take longer over one line than
the training. Python's own `re` cannot be interrupted, so `regex` is used, which keeps a
time limit; a pattern that exceeds it twice is given up with a word about it.
https://owasp.org/www-community/attacks/Regular_expression_Denial_of_Service_-_ReDoS
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

BUDGET_S = 0.5  # of processor time that one pattern may spend on one piece of log, about 1 MB
STRIKES = 2  # so many times over the budget; a busy host may be the cause of one
LINE_LIMIT = 2000  # characters of a line that are looked at
STEP = "step"
STEPS = "steps"  # how many there will be: only the user's own pattern says so
_NAME = re.compile(r"[A-Za-z_][\w./:@-]{0,39}")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_VALUE = rf"(?:'({_NUMBER}|nan|-?inf)'|({_NUMBER}|nan|-?inf))"
# What is measured while it trains. A dict without any such name, or with more than numbers, is settings: `vars(args)`.
_MEASURED = re.compile(r"loss|epoch(?!s)|acc|perplexity|ppl|f1|auc|error|score|reward|mse|mae|bleu|iou", re.IGNORECASE)
_PAIR = re.compile(rf"(?:\{{|, )'([A-Za-z_][\w./:@ -]{{0,60}})': {_VALUE}(?=, '|\}}$)")
_BREAK = re.compile(r"[\r\n]")
_RANK = re.compile(r"\[rank (\d+)\] ")  # put before each line by the agent when several ranks share a log


class Found(NamedTuple):
    """A number that the script printed, and the step it had printed by then."""

    name: str
    value: float
    step: float | None


def check_name(name: str) -> str:
    """The name of a metric. Raises ValueError for what would not print well."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name of letters, digits and _ . / : @ -, 40 at most")
    return name


def check_pattern(pattern: str) -> str:
    """The pattern. Raises ValueError that says what is wrong with it and where."""
    _compiled(pattern)
    return pattern


class LogReader:
    """Reads rank 0's lines as they come and yields the numbers that the patterns find in them."""

    def __init__(self, patterns: Mapping[str, str], warn: Callable[[str], None]) -> None:
        self._asked = frozenset(patterns)
        self._patterns = {name: _compiled(pattern) for name, pattern in patterns.items()}
        self._warn = warn
        self._strikes: dict[str, int] = {}
        self._odd: set[str] = set()
        self._rest = ""
        self._step: float | None = None

    def feed(self, data: bytes) -> list[Found]:
        """The numbers in the next bytes of the log; an unfinished line waits for its end."""
        *lines, self._rest = _BREAK.split(self._rest + data.decode("utf-8", errors="replace"))
        self._rest = self._rest[:LINE_LIMIT]
        return list(self._numbers(lines))

    def close(self) -> list[Found]:
        """The numbers in a last line that has no end."""
        last, self._rest = self._rest, ""
        return list(self._numbers([last]))

    def _numbers(self, lines: list[str]) -> Iterator[Found]:
        of_rank_0 = [line for line in map(_of_rank_0, lines) if line]
        matches = {name: self._search(name, of_rank_0) for name in list(self._patterns)}
        for at in range(len(of_rank_0)):
            found = {name: values[at] for name, values in matches.items() if at in values}
            found.update((name, value) for name, value in _told(of_rank_0[at]) if name not in self._asked)
            self._step = found.pop(STEP, self._step)
            for name, value in found.items():
                yield Found(name, value, self._step)

    def _search(self, name: str, lines: list[str]) -> dict[int, float]:
        """What one pattern finds, by the line's number; nothing more once its time is over."""
        found: dict[int, float] = {}
        until = time.monotonic() + BUDGET_S
        for at, line in enumerate(lines):
            try:
                match = self._patterns[name].search(line, timeout=max(until - time.monotonic(), 1e-6))
            except TimeoutError:
                self._overrun(name)
                break
            if match is not None and (value := self._number(name, match.group(1))) is not None:
                found[at] = value
        return found

    def _number(self, name: str, text: str | None) -> float | None:
        if text is None:
            return None
        try:
            return float(text)
        except ValueError:
            if name not in self._odd:
                self._odd.add(name)
                self._warn(f"launch.metrics.{name} found {text[:40]!r}, which is not a number")
            return None

    def _overrun(self, name: str) -> None:
        self._strikes[name] = self._strikes.get(name, 0) + 1
        if self._strikes[name] >= STRIKES:
            pattern = self._patterns.pop(name).pattern
            self._warn(f"launch.metrics.{name} is no longer looked for: {pattern!r} takes too long on this log")


def _told(line: str) -> Iterator[tuple[str, float]]:
    """The numbers of a line that is a dict of measurements as Python prints it: numbers alone."""
    text = line.strip()
    if text.startswith("{'") and text.endswith("}"):
        at = 0
        found = []
        for pair in _PAIR.finditer(text):
            if pair.start() != at:
                return  # something else is in it
            at = pair.end()
            if pair[1] != STEPS and (number := pair[2] or pair[3]):
                found.append((pair[1], float(number)))
        if text[at:] == "}" and any(_MEASURED.search(name) for name, _ in found):
            yield from found


def _of_rank_0(line: str) -> str:
    prefix = _RANK.match(line)
    if prefix is None:
        return line[:LINE_LIMIT]
    return line[prefix.end() :][:LINE_LIMIT] if prefix[1] == "0" else ""


def _compiled(pattern: str) -> Any:
    import regex

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    if compiled.groups != 1:
        count = "no group" if not compiled.groups else f"{compiled.groups} groups"
        raise ValueError(f"{pattern!r} has {count}, put one around the number and make others (?:…)")
    return compiled
