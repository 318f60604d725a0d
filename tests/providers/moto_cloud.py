"""An Amazon of one test's own: a moto server in a process beside it, empty at the start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_LIMIT_S = 60.0
ACCOUNT = "123456789012"


class MotoCloud:
    """Where it answers, and a client of each service as an administrator has it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._made: dict[tuple[str, str], Any] = {}
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str, region: str = "us-east-1") -> Any:
        """A client that may do everything."""
        import boto3

        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        if (service, region) not in self._made:
            self._made[service, region] = boto3.client(service, region_name=region, endpoint_url=self.url, **keys)
        return self._made[service, region]

    def post(self, path: str, body: bytes = b"") -> None:
        """Ask moto itself for something."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/{path}", data=body, headers={"Content-Type": "text/plain"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=30):
            pass


@contextmanager
def moto_cloud(folder: Path) -> Iterator[MotoCloud]:
    """Start one, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            cloud = MotoCloud(f"http://127.0.0.1:{port}")
            _wait_for(cloud, process, folder / "moto.log")
            yield cloud
        finally:
            process.terminate()


def _wait_for(cloud: MotoCloud, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            return cloud.post("reset")
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end or process.poll() is not None:
                raise AssertionError(f"no moto server:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)
