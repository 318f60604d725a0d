"""docs/guarantee.md names tests; each is there, under that name."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "guarantee.md"


def test_every_test_that_the_page_names_is_there() -> None:
    named = re.findall(r"`(?:tests/)?([\w/]+\.py)(?:::(?:\w+::)?(\w+))?(?:\[\S+\])?`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 20
    missing = [f"{file}::{test}" for file, test in named if not _has(file, test)]
    assert missing == []


def _has(file: str, test: str) -> bool:
    path = TESTS / file
    return path.is_file() and (not test or f"def {test}(" in path.read_text(encoding="utf-8"))
