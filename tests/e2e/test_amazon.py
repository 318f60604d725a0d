"""Whole runs on Amazon: the real boot script on hosts of their own, torchrun between them, data and results in S3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from amazon_world import PROJECT, QUICK, AmazonWorld
from clouds.aws_cloud import AwsCloud

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
def world(tmp_path: Path, aws_hosts: AwsCloud) -> Iterator[AmazonWorld]:
    world = AmazonWorld(tmp_path, aws_hosts)
    yield world
    world.clean()
    assert not world.left(), f"{world.left()} outlived the test"


def train(world: AmazonWorld, *words: str) -> tuple[str, ...]:
    """The words of a run of train.py."""
    return (*QUICK, "--deadline", "10m", *words, "--", "python", "train.py")


def test_a_script_runs_on_a_machine_of_amazons_and_its_results_come_home(world: AmazonWorld) -> None:
    world.script("""
        import os, platform, pathlib
        print("on", platform.node(), "by", os.environ["SOJOURN_RUN"])
        print("keys", sorted(name for name in os.environ if name.startswith("AWS")))
        pathlib.Path("metrics.json").write_text('{"accuracy": 0.75}')
    """)

    done = world.train(*train(world), seconds=150)

    assert done.returncode == 0, done.stderr
    assert "on ip-172-31-" in done.stdout and "keys []" in done.stdout
    assert (world.project / "metrics.json").read_text() == '{"accuracy": 0.75}'
    shown = world.show()
    assert shown["report"]["metrics"] == {"accuracy": 0.75}
    receipt = shown["receipt"]
    assert receipt["state"] == "closed" and all(one["gone_at"] for one in receipt["resources"])
    assert sorted(one["kind"] for one in receipt["resources"]) == ["schedule", "t3.micro", "volume"]
    (machine,) = world.instances()
    assert machine["state"] == "terminated" and machine["tags"]["sojourn:project"] == PROJECT
    assert world.left() == {}


def test_machines_are_looked_for_in_every_zone_until_one_has_them(world: AmazonWorld) -> None:
    world.script("print('made it')")
    plan = world.sojourn("plan", *train(world, "--market", "on-demand"), "--json")
    assert plan.returncode == 0, plan.stderr
    world.cloud.capacity(0)
    world.cloud.capacity(1, zone="us-east-1c", market="on-demand")

    done = world.train(*train(world, "--market", "on-demand"), seconds=150)

    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["zone"] for one in world.instances()] == ["us-east-1c"]
    refused = [entry.body["reason"] for entry in world.ledger() if entry.kind == "refused"]
    assert len(refused) == 2 and all("InsufficientInstanceCapacity" in reason for reason in refused)
    assert "InsufficientInstanceCapacity" in done.stderr + done.stdout
    assert world.left() == {}


def test_a_reclaimed_machine_is_replaced_and_the_script_goes_on_from_its_checkpoint(world: AmazonWorld) -> None:
    world.script("""
        import json, os, pathlib, time
        state = pathlib.Path("state.ckpt")
        step = int(state.read_text()) if state.exists() else 0
        print("began at", step, flush=True)
        while step < 40:
            step += 1
            if step % 4 == 0:
                pathlib.Path("next").write_text(str(step))
                os.replace("next", state)
            print(f"step={step} loss={1 / step:.4f}", flush=True)
            time.sleep(0.5 if step < 24 else 0.05)
    """)
    cli = world.start_train(*train(world, "--market", "spot"))
    world.wait(lambda: "step=12 " in cli.output, 120)
    first = world.instances()[0]["id"]
    world.cloud.interrupt(first, notice_s=30)

    assert cli.wait(150) == 0, cli.output
    output = cli.output
    assert [one["market"] for one in world.instances()] == ["spot", "spot"]
    resumed = int(output.rsplit("began at ", 1)[1].split()[0])
    assert resumed >= 8, "it began from a committed checkpoint"
    assert "the cloud took the machine back" in output or "spot reclaim" in output
    shown = world.show()
    assert shown["outcome"]["state"] == "succeeded"
    assert shown["receipt"]["state"] == "closed" and len(shown["receipt"]["resources"]) == 6
    assert world.left() == {}


@pytest.mark.slow
def test_a_machine_that_nobody_waits_for_ends_itself_at_its_deadline(world: AmazonWorld) -> None:
    world.script("""
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    """)
    words = (*QUICK, "--deadline", "25s", "--grace", "5s", "--", "python", "train.py")
    cli = world.start_train(*words)
    world.wait_until("running", 60)
    cli.kill()
    (machine,) = world.running()
    record = world.cloud.wait_for(machine, "terminated", limit_s=90)

    assert record["reason"] == "Client.InstanceInitiatedShutdown", "the machine ended itself"
    plan = world.mailbox()
    assert plan is not None
    assert time.time() < record["ended_at"] + 120
    reaped = world.sojourn("reap", "--json")
    assert reaped.returncode == 0, reaped.stderr
    assert world.left() == {}
    assert world.show()["receipt"]["state"] == "closed"
