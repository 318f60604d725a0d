"""A run whose store is a bucket: the same door, the same agent, the same verbs, over the wire."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from cli_world import World
from clouds.aws_cloud import AwsCloud
from dvc_project import Project, dvc

from sojourn.errors import ExitCode
from sojourn.store.storage import Store

pytestmark = pytest.mark.local

TRAIN = """
import os, pathlib
print("loss 0.5", flush=True)
pathlib.Path(os.environ["SOJOURN_OUTPUT_DIR"], "model.pt").write_bytes(bytes(range(256)) * 4000)
"""


@pytest.fixture
def bucket(world: World, aws: AwsCloud) -> Store:
    """This world's store, in a bucket."""
    aws.client("s3").create_bucket(Bucket="acme-sojourn")
    # Keys in a file, as most people have them: nothing in the environment that a machine could just inherit.
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED"):
        world.environment[name] = aws.environment[name]
    (world.user / ".aws").mkdir()
    keys = "".join(
        f"{name.lower()} = {aws.environment[name]}\n" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    (world.user / ".aws" / "credentials").write_text(f"[default]\n{keys}")
    world.environment["SOJOURN_STORE"] = "s3://acme-sojourn/team"
    return world.store


def test_every_verb_works_on_a_run_in_a_bucket(world: World, bucket: Store, aws: AwsCloud) -> None:
    world.script(TRAIN)

    done = world.train()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "in s3://acme-sojourn/team" in done.stdout
    assert (world.project / "sojourn-outputs" / "model.pt").read_bytes() == bytes(range(256)) * 4000
    run = world.run()
    assert run in world.sojourn("runs").stdout
    assert world.show(run)["report"]["state"] == "succeeded"
    assert "loss 0.5" in world.sojourn("logs", run).stdout
    pulled = world.sojourn("pull", run, "--to", "elsewhere")
    assert pulled.returncode == 0, pulled.stderr
    assert (world.project / "elsewhere" / "sojourn-outputs" / "model.pt").stat().st_size == 256_000 * 4
    assert world.sojourn("reap").returncode == 0
    assert run in json.loads(world.sojourn("purge", "--older-than", "0s", "--yes", "--json").stdout)["runs"][0]["run"]
    assert "No runs yet" in world.sojourn("runs").stdout
    left = aws.client("s3").list_objects_v2(Bucket="acme-sojourn")["Contents"]
    assert [one["Key"] for one in left] == ["team/control/store.json"], "which store it is, and nothing else"
    assert not [path for path in (world.home / "store").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_run_whose_orchestrator_was_killed_is_attached_to(world: World, bucket: Store, aws: AwsCloud) -> None:
    world.script_that_waits()
    cli = world.start_train()
    world.wait_for_file("ready", 150)
    cli.kill()
    before, began = len(aws.calls("s3")), time.monotonic()
    time.sleep(4)
    agent_alone, took = len(aws.calls("s3")) - before, time.monotonic() - began

    attached = world.start("attach", world.run())
    time.sleep(1)
    (world.signs / "go").touch()

    assert attached.wait(150) == 0, attached.output
    assert (world.project / "model.txt").read_text() == "weights"
    assert agent_alone < 3 * took, "the agent asks more than three times a second"


def test_a_bucket_that_is_not_there_is_told_before_anything_is_made(world: World, bucket: Store) -> None:
    world.script(TRAIN)

    done = world.train("--store", "s3://acme-nowhere")

    assert done.returncode == ExitCode.BAD_INPUT
    assert "there is no bucket 'acme-nowhere'" in done.stderr and "sojourn setup aws" in done.stderr
    assert not world.leases()


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["of the environment", "of the remote"])
def test_a_stage_gets_its_data_straight_from_a_remote_in_a_bucket(
    world: World, bucket: Store, aws: AwsCloud, dvc_template: Project, endpoint: str
) -> None:
    project = dvc_template.copy(world.root / "dvc")
    world.project = project.root
    aws.client("s3").create_bucket(Bucket="acme-data")
    config = "[core]\n remote = store\n['remote \"store\"']\n url = s3://acme-data/dvc cache\n"
    if endpoint == "of the remote":
        config += f" endpointurl = {aws.url}\n"
    project.write(".dvc/config", config)
    project.save()

    done = world.sojourn("train", "--no-prefect", "--stage", "train")

    assert done.returncode == 0, done.stdout + done.stderr
    assert project.read("model.bin").startswith("lr 0.1 depth 3")
    assert dvc(project.root, "status", "train").strip().endswith("up to date.")
    got = {Path(call["path"]).parts[1:5] for call in aws.calls("s3", "GetObject") if "/files/md5/" in call["path"]}
    assert {place[0] for place in got} == {"acme-data"}
