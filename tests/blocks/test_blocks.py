"""Blocks: their forms, and what they are once they are saved and loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect_server import Server

import blocks
from blocks import LocalProvider, Store
from blocks.provider import load_provider
from sojourn.errors import SpecError
from sojourn.spec import Launch

BLOCKS = [getattr(blocks, name) for name in blocks.__all__]


@pytest.mark.parametrize("block", BLOCKS)
class TestStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param

    # Prefect's own test fetches the logo from the internet; ours have none.
    test_has_a_valid_image = None


@pytest.fixture
def saved(server: Server) -> Iterator[Server]:
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server


def test_a_saved_provider_follows_its_store(saved: Server, tmp_path: Path) -> None:
    store = Store(url=(tmp_path / "one").as_uri())
    store.save("shared", overwrite=True)
    LocalProvider(store=store, machine="host").save("laptop", overwrite=True)
    loaded = LocalProvider.load("laptop")
    assert loaded.complete(Launch(command=("python",))).store == (tmp_path / "one").as_uri()

    Store(url=(tmp_path / "two").as_uri()).save("shared", overwrite=True)
    assert LocalProvider.load("laptop").complete(Launch(command=("python",))).store == (tmp_path / "two").as_uri()


def test_a_provider_is_found_by_its_name_or_by_type_and_name(saved: Server) -> None:
    LocalProvider(machine="host").save("here", overwrite=True)
    assert load_provider("here").machine == load_provider("sojourn-local-provider/here").machine == "host"
    for wrong in ("not-here", "aws/here"):
        with pytest.raises(SpecError, match=wrong.split("/")[0]):
            load_provider(wrong)


def test_prefect_registers_them_by_module_and_finds_them_by_entry_point(saved: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"],
        env={**os.environ, **saved.environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    types = {one["slug"] for one in saved.ask("/block_types/filter", {})}
    assert {"sojourn-local-provider", "sojourn-store"} <= types
    code = "from prefect.plugins import load_prefect_collections as load; print(load()['sojourn'].__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "blocks"


def test_what_a_run_asks_for_goes_before_what_its_provider_says(tmp_path: Path) -> None:
    provider = LocalProvider(store=Store(url=tmp_path.as_uri()), machine="host")
    asked = Launch(command=("python",), store="file:///elsewhere", machine="other")
    assert provider.complete(asked) == asked


def test_open_gives_the_plain_objects(tmp_path: Path) -> None:
    store = Store(url=tmp_path.as_uri())
    assert store.open().root == tmp_path
    assert LocalProvider(store=store).open(tmp_path).leases() == []


def test_a_wrong_address_is_refused_in_the_form() -> None:
    with pytest.raises(ValueError, match="no absolute path"):
        Store(url="file:relative")
