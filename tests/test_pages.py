"""Pages of the documentation name tests; each is there, under that name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


@pytest.mark.parametrize("page", ["guarantee.md", "faithful.md", "robustness.md"])
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.findall(r"`(?:tests/)?([\w/]+\.py)(?:::(?:\w+::)?(\w+))?(?:\[\S+\])?`", text)
    assert len(named) > 20
    missing = [f"{file}::{test}" for file, test in named if not _has(file, test)]
    assert missing == []


def _has(file: str, test: str) -> bool:
    """Whether the test is in the file, or among those that every provider inherits."""
    path, inherited = TESTS / file, TESTS / "contract" / "provider.py"
    texts = [one.read_text(encoding="utf-8") for one in (path, inherited) if one.is_file()]
    return path.is_file() and (not test or any(f"def {test}(" in text for text in texts))
