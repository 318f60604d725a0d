"""The live suites are tried against the stand-in, so that they work on the day that somebody pays for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clouds.aws_cloud import AwsCloud

# Each with how many tests it has and how many machines it rents.
SUITES = {"test_aws.py": (4, 2), "test_questions.py": (7, 4)}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
def test_a_live_suite_passes_on_the_stand_in_and_leaves_nothing(aws_hosts: AwsCloud, suite: str) -> None:
    tests, machines = SUITES[suite]
    aws_hosts.enforce()
    words = [sys.executable, "-m", "pytest", "-q", "-s", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*words, str(Path(__file__).with_name(suite))],
        env={**os.environ, "SOJOURN_LIVE": "aws"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0 and f"{tests} passed" in done.stdout, done.stdout + done.stderr
    assert aws_hosts.running() == [] and len(aws_hosts.rented()) == machines
    print(done.stdout)
