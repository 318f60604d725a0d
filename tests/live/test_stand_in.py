"""The live suite is tried against the stand-in, so that it works on the day that somebody pays for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clouds.aws_cloud import AwsCloud

SUITE = Path(__file__).with_name("test_aws.py")


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
def test_the_live_suite_passes_on_the_stand_in_and_leaves_nothing(aws_hosts: AwsCloud) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-x", "-p", "no:cacheprovider", str(SUITE)],
        env={**os.environ, "SOJOURN_LIVE": "aws"},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr
    assert aws_hosts.running() == [] and len(aws_hosts.rented()) == 2
    print(done.stdout)
