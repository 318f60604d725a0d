"""An Amazon of the module's own, and the user's clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from moto_cloud import MotoCloud, moto_cloud

from sojourn.providers.ec2.clients import Clients


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoCloud]:
    with moto_cloud(tmp_path_factory.mktemp("moto")) as cloud:
        yield cloud


@pytest.fixture
def cloud(server: MotoCloud, monkeypatch: pytest.MonkeyPatch) -> MotoCloud:
    """An empty account, and credentials for it."""
    server.post("reset")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture(scope="module")
def clients(server: MotoCloud) -> Iterator[Clients]:
    """The user's own, made once: reading Amazon's models takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        opened = Clients()
        for service in ("ec2", "iam", "s3", "scheduler", "ssm", "sts"):
            opened.client(service)
        yield opened
