"""The user's clients of the stand-in for Amazon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clouds.aws_cloud import AwsCloud

from sojourn.providers.ec2.clients import Clients


@pytest.fixture(scope="session")
def clients(aws_process: AwsCloud) -> Iterator[Clients]:
    """Made once: reading Amazon's models takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws_process.environment.items():
            patch.setenv(name, value)
        opened = Clients()
        for service in ("ec2", "iam", "s3", "scheduler", "ssm", "sts"):
            opened.client(service)
        yield opened
