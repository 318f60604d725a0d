"""What tests of several floors share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from clouds.aws_cloud import aws, aws_hosts, aws_process  # noqa: F401 (fixtures)
from prefect_server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server, one for all tests of a process."""
    server = Server(tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()
