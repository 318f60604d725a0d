"""The page of what we hold of Amazon: each row with its source, and each that was held wrongly with its test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "amazon-claims.md").read_text(encoding="utf-8")
LIVE = "live/test_questions.py"


class Row(NamedTuple):
    number: str
    claim: str
    where: str
    verdict: str
    source: str
    shown_by: str


ROWS = [
    Row(*(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]))
    for line in PAGE.splitlines()
    if re.match(r"\| \d+ \|", line)
]


def test_rows_are_numbered_have_a_source_and_are_counted_rightly() -> None:
    assert [row.number for row in ROWS] == [str(number) for number in range(1, len(ROWS) + 1)]
    assert [row.number for row in ROWS if not (row.claim and row.where and row.source)] == []
    count = Counter(row.verdict for row in ROWS)
    said = f"{len(ROWS)} lines: {count['true']} true, {count['mended']} mended, {count['unknown']} unknown."
    assert said in PAGE and sum(count[word] for word in ("true", "mended", "unknown")) == len(ROWS)


def test_each_row_that_was_held_wrongly_names_its_test_and_every_test_that_is_named_is_there() -> None:
    assert [row.number for row in ROWS if row.verdict == "mended" and not list(named(row))] == []
    assert [f"{row.number}: {file}::{test}" for row in ROWS for file, test in named(row) if not _has(file, test)] == []


def test_what_an_account_should_be_asked_is_asked_and_each_check_says_which_rows_it_settles() -> None:
    asked = {row.number for row in ROWS if "to try" in row.shown_by}
    assert asked == {row.number for row in ROWS for file, _ in named(row) if file == LIVE}
    assert asked == set(re.findall(r'learnt\(\s*"(\d+)"', (TESTS / LIVE).read_text(encoding="utf-8")))


def named(row: Row) -> Iterator[tuple[str, str]]:
    """The tests of a row: file, and function where it names one."""
    yield from re.findall(r"`([\w/]+\.py)(?:::(?:\w+::)?(\w+))?(?:\[\S+\])?`", row.shown_by)


def _has(file: str, test: str) -> bool:
    """Whether it is in the file, or among those that every provider inherits."""
    texts = [one.read_text(encoding="utf-8") for one in (TESTS / file, TESTS / "contract/provider.py") if one.is_file()]
    return (TESTS / file).is_file() and (not test or any(f"def {test}(" in text for text in texts))
