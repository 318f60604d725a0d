"""The local provider under the contract, and what only processes can do to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.contract.provider", "tests.providers.local_world")

from sojourn.errors import CapacityError, SpecError  # noqa: E402
from sojourn.providers import Request  # noqa: E402
from sojourn.providers.local import LocalProvider  # noqa: E402
from tests.contract.provider import NAME, ProviderContract  # noqa: E402
from tests.providers.local_world import STANDIN, LocalWorld, state_of  # noqa: E402

pytestmark = pytest.mark.local
MakeRequest = Callable[..., Request]


class LocalCase(ProviderContract):
    """The world of real processes, below a home with a hostile name."""

    isolation = None

    @pytest.fixture
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorld]:
        world = LocalWorld(tmp_path / "a 'home' \"of\" Jürgen" / "data", self.isolation)
        monkeypatch.setenv("STANDIN_STARTS", str(world.starts))
        world.home.mkdir(parents=True)
        yield world
        world.clean()


class TestContract(LocalCase):
    module = "sojourn.providers.local"
    golden = Path(__file__).with_name("golden") / "local_request.json"
