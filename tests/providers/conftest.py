"""The user's clients of the stand-in for Amazon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clouds.aws_cloud import AwsCloud
from truth.shapes import problems

from sojourn.clouds.aws.clients import Clients


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


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every request of these tests is what Amazon's models say, enums, patterns and lengths included."""
    from botocore.client import BaseClient

    original, found = BaseClient._make_api_call, list[str]()

    def checked(client: Any, operation: str, call: dict[str, Any]) -> Any:
        shape = client.meta.service_model.operation_model(operation).input_shape
        found.extend(problems(shape, call, operation) if shape else ())
        return original(client, operation, call)

    monkeypatch.setattr(BaseClient, "_make_api_call", checked)
    yield
    assert found == []
