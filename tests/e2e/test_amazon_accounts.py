"""Whole runs in accounts that are not as the first one: stores of the user's own, closed regions, slow profiles;
and what is left when everything but Amazon itself is gone."""

from __future__ import annotations

import pytest
from amazon_world import PROJECT, QUICK, AmazonWorld
from clouds.aws_cloud import ACCOUNT, REGION

from sojourn.store.storage import Store

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def world(amazon: AmazonWorld) -> AmazonWorld:
    return amazon


def train(*words: str) -> tuple[str, ...]:
    """The words of a run of train.py."""
    return (*QUICK, "--deadline", "10m", *words, "--", "python", "train.py")


def test_of_three_machines_one_died_long_before_the_deadline_and_the_clouds_own_timers_end_the_others(
    world: AmazonWorld,
) -> None:
    world.script("import time; time.sleep(600)")
    words = ("--nodes", "3", "--deadline", "60s", "--grace", "5s", "--", "python", "train.py")
    cli = world.start_train(*QUICK, *words)
    world.wait_until("running", 120)
    cli.kill()
    dead, *living = world.running()
    for machine in living:  # neither agent nor machine timer will end these
        world.cloud.freeze(machine)
    world.cloud.timing(remembered_s=1.0)
    world.cloud.client("ec2").terminate_instances(InstanceIds=[dead])
    assert world.cloud.wait_for(dead, "terminated")["ended_at"]

    for machine in living:
        record = world.cloud.wait_for(machine, "terminated", limit_s=180)
        assert record["reason"] == "Client.UserInitiatedShutdown", "somebody else ended it"
    world.wait(lambda: len(world.cloud.fired()) == 3)
    refused = [one for one in world.cloud.fired() if one["error"] is not None]
    assert len(refused) == 1, "the timer of the machine that nobody remembers"
    assert world.running() == []
    assert world.sojourn("reap", "--json").returncode == 0
    assert world.left() == {}


def test_an_order_for_machines_that_is_repeated_after_their_end_rents_no_others(world: AmazonWorld) -> None:
    world.script("print('made it')")
    # They are had, and before this is written down the orchestrator dies.
    world.cloud.fault("scheduler", "CreateSchedule", "delay", seconds=60)
    cli = world.start_train(*train())
    (machine,) = world.wait(world.running, 90)
    cli.kill()
    world.cloud.client("ec2").terminate_instances(InstanceIds=[machine])
    world.cloud.wait_for(machine, "terminated")
    assert "intent" in world.kinds() and "created" not in world.kinds()
    world.cloud.clear_faults()

    done = world.sojourn("attach", "last", "--take-over", seconds=150)

    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stdout + done.stderr
    assert "went away without a word" in done.stdout + done.stderr
    assert len(world.cloud.calls("ec2", "RunInstances")) == 2, "the same order again, which Amazon refuses"
    assert len(world.instances()) == 1 and world.show()["receipt"]["state"] == "closed"
    assert world.left() == {}


@pytest.mark.parametrize("bucket", ["acme-runs", "runs.acme.org"])
def test_a_run_is_kept_below_a_prefix_of_a_bucket_of_the_user_s_own(world: AmazonWorld, bucket: str) -> None:
    world.cloud.client("s3").create_bucket(Bucket=bucket)
    world.environment["SOJOURN_STORE"] = f"s3://{bucket}/team/ann"
    world.set_up(store=f"s3://{bucket}/team/ann")
    world.script("open('metrics.json', 'w').write('{\"accuracy\": 0.5}'); print('made it')")

    done = world.train(*train(), seconds=200)

    assert done.returncode == 0 and "made it" in done.stdout, done.stdout + done.stderr
    assert world.show()["report"]["metrics"] == {"accuracy": 0.5}
    kept = world.cloud.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert kept and all(one["Key"].startswith("team/ann/") for one in kept)
    assert Store(f"s3://sojourn-{ACCOUNT}-{REGION}").keys("") == []
    assert world.left() == {}


def test_a_region_that_an_organization_closed_keeps_no_run_from_its_end(world: AmazonWorld) -> None:
    world.cloud.close_region("eu-west-1")
    world.script("print('made it')")
    done = world.train(*train(), seconds=150)
    assert done.returncode == 0 and "made it" in done.stdout, done.stdout + done.stderr
    assert world.sojourn("reap", "--json").returncode == 0
    removed = world.sojourn("setup", "aws", "--remove", "--delete-results", "--yes", **world.cloud.environment)
    assert removed.returncode == 0, removed.stdout + removed.stderr
    assert "stays: eu-west-1: your organization closed it" in removed.stdout
    roles = [one["RoleName"] for one in world.cloud.client("iam").list_roles()["Roles"]]
    assert f"sojourn-machine-{PROJECT}" not in roles
    assert world.left() == {}


def test_a_run_waits_until_ec2_knows_the_instance_profile_that_setup_made(world: AmazonWorld) -> None:
    world.cloud.timing(profile_known_after_s=45.0)
    world.script("print('made it')")
    done = world.train(*train(), seconds=250)
    assert done.returncode == 0 and "made it" in done.stdout, done.stdout + done.stderr
    assert len(world.cloud.calls("ec2", "RunInstances")) > 2 and len(world.instances()) == 1
    assert world.left() == {}
