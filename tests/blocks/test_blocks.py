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
from prefect_aws import AwsCredentials
from prefect_server import Server

import blocks
from blocks import AwsProvider, LocalProvider, Store
from blocks.registry import load_provider
from sojourn.errors import SpecError
from sojourn.spec.launch import Launch

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
    AwsProvider(machine="g6.xlarge").save("here", overwrite=True)
    assert load_provider("sojourn-aws-provider/here").machine == "g6.xlarge"
    for wrong in ("not-here", "aws/here", "sojourn-aws-provider/not-here"):
        with pytest.raises(SpecError, match=wrong.split("/")[-2:][0]):
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
    assert {"sojourn-local-provider", "sojourn-store", "sojourn-aws-provider"} <= types
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


# --- Amazon -------------------------------------------------------------------------------


def asked(**fields: object) -> Launch:
    return Launch.model_validate({"command": "python train.py", **fields})


def test_amazon_s_block_answers_what_a_run_leaves_open_and_nothing_else() -> None:
    block = AwsProvider(gpu="L4:4", disk="130GB", market="spot", regions=["us-east-1"], boot_image="nvidia")
    plain = block.complete(asked())
    assert (plain.where, plain.gpu, plain.disk, plain.market, plain.regions, plain.boot_image) == (
        "aws",
        "L4:4",
        130e9,
        "spot",
        ("us-east-1",),
        "nvidia",
    )
    said = block.complete(asked(machine="t3.micro", market="any", disk="20GB"))
    assert (said.machine, said.gpu, said.market, said.disk) == ("t3.micro", None, "any", 20e9)
    capped = AwsProvider(budget=5)
    assert [capped.complete(one).budget for one in (asked(), asked(budget="$2"))] == [5.0, 2.0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("disk", "much", "much"), ("gpu", "L4:none", "L4"), ("market", "black", "on-demand"), ("budget", -1, "-1")],
)
def test_what_no_run_could_ask_for_is_refused_in_the_form(field: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AwsProvider.model_validate({field: value})


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that was started with somebody else's profile, and gets it back."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "before")  # so that what `open` sets is taken back
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    return monkeypatch


def test_opening_amazon_s_block_points_every_client_of_the_process_at_its_account(bare: pytest.MonkeyPatch) -> None:
    credentials = AwsCredentials(
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="secret",  # type: ignore[arg-type]
        aws_client_parameters={"endpoint_url": "http://127.0.0.1:9"},  # type: ignore[arg-type]
    )
    block = AwsProvider(credentials=credentials, region="eu-west-1")
    assert block.environment() == {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    block.prepare()
    assert "AWS_PROFILE" not in os.environ
    assert os.environ["AWS_ACCESS_KEY_ID"] == "AKIAEXAMPLE"


def test_a_profile_is_left_for_the_clients_to_read_and_to_renew(bare: pytest.MonkeyPatch) -> None:
    AwsProvider(credentials=AwsCredentials(profile_name="team")).prepare()
    assert os.environ["AWS_PROFILE"] == "team"
    assert "AWS_ACCESS_KEY_ID" not in os.environ


def test_without_credentials_those_of_the_host_stay(bare: pytest.MonkeyPatch) -> None:
    AwsProvider(region="eu-west-1").prepare()
    assert (os.environ["AWS_PROFILE"], os.environ["AWS_DEFAULT_REGION"]) == ("somebody", "eu-west-1")


def test_flows_and_blocks_load_no_sdk_before_amazon_is_asked_for() -> None:
    code = "import sys, blocks, flows.train; print(*(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"boto3", "botocore", "prefect_aws"} & set(done.stdout.split())
