"""What Tab offers, asked as a shell asks it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOJOURN = Path(sys.executable).parent / "sojourn"
RUNS = ("calm-panda-a2e3", "calm-panda-b2e3", "quiet-heron-7f3a")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory with a dvc.yaml, and a store that holds three runs nobody can read."""
    (tmp_path / "dvc.yaml").write_text("stages: {prepare: {cmd: 'true'}, train: {cmd: 'true'}}\n")
    for run in RUNS:
        (tmp_path / "data/store/control/digits" / run).mkdir(parents=True)
    return tmp_path


def offered(here: Path, line: str) -> list[str]:
    """What bash would show for this line, with the cursor at its end."""
    asked = {"_SOJOURN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        [SOJOURN],
        cwd=here,
        env={**os.environ, **asked, "SOJOURN_HOME": str(here / "data")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sojourn pu", ["pull", "purge"]),
        ("sojourn show ", ["last", *RUNS]),
        ("sojourn train --from calm-", list(RUNS[:2])),
        ("sojourn plan --stage tr", ["train"]),
        ("sojourn plan --where ", ["local", "aws"]),
        ("sojourn train --machine g6.48", ["g6.48xlarge"]),
    ],
)
def test_tab_offers_what_is_here(here: Path, line: str, words: list[str]) -> None:
    assert offered(here, line) == words


def test_tab_is_silent_where_nothing_can_be_read(here: Path) -> None:
    (here / "dvc.yaml").write_text("stages: [")
    assert offered(here, "sojourn plan --stage ") == []
    assert offered(here / "data", "sojourn plan --stage ") == []


def test_tab_does_not_wait_for_a_store_in_a_cloud(here: Path) -> None:
    (here / "params.yaml").write_text("launch: {store: s3://no-such-bucket/runs}\n")
    assert offered(here, "sojourn show ") == ["last"]
