"""Whole runs on Amazon: the real boot script on hosts of their own, torchrun between them, data and results in S3."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pytest
from amazon_world import DATA, PROJECT, QUICK, AmazonWorld
from wheels import make_wheel

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
def world(amazon: AmazonWorld) -> AmazonWorld:
    return amazon


def train(world: AmazonWorld, *words: str) -> tuple[str, ...]:
    """The words of a run of train.py."""
    return (*QUICK, "--deadline", "10m", *words, "--", "python", "train.py")


def test_a_script_runs_on_a_machine_of_amazons_and_its_results_come_home(world: AmazonWorld) -> None:
    world.script("""
        import os, platform, pathlib
        print("on", platform.node(), "by", os.environ["SOJOURN_RUN"])
        print("keys", sorted(name for name in os.environ if name.startswith("AWS")))
        print("secret", os.environ["WANDB_API_KEY"], len(os.environ["WANDB_API_KEY"]))
        pathlib.Path("metrics.json").write_text('{"accuracy": 0.75}')
        for place in ("/output/run", "~/model", "~/.cache/hub", "/tmp/test-clm", ".."):
            folder = pathlib.Path(place).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "weights.bin").write_bytes(b"12345")
    """)
    refused = world.train(*train(world, "--secret", "WANDB_API_KEY"))
    assert refused.returncode == 2 and "sojourn secret set WANDB_API_KEY" in refused.stderr
    kept = world.sojourn("secret", "set", "WANDB_API_KEY", given="hunter2-and-more\n")
    assert kept.returncode == 0, kept.stderr

    done = world.train(*train(world, "--secret", "WANDB_API_KEY"), seconds=150)

    assert done.returncode == 0, done.stderr
    assert "on ip-172-31-" in done.stdout and "keys []" in done.stdout
    assert "secret *** 16" in done.stdout
    sent = [call for call in world.cloud.calls() if call["action"] != "PutParameter"]
    assert "hunter2" not in json.dumps(sent) + world.cloud.user_data(world.instances()[0]["id"])
    assert (world.project / "metrics.json").read_text() == '{"accuracy": 0.75}'
    shown = world.show()
    (outside,) = [one for one in shown["report"]["left_behind"] if one["reason"] == "outside the project"]
    assert set(outside["paths"]) == {"../weights.bin", "/output/run/", "/root/model/", "/tmp/test-clm/"}
    assert shown["report"]["metrics"] == {"accuracy": 0.75}
    receipt = shown["receipt"]
    assert receipt["state"] == "closed" and all(one["gone_at"] for one in receipt["resources"])
    assert sorted(one["kind"] for one in receipt["resources"]) == ["schedule", "t3.micro", "volume"]
    (machine,) = world.instances()
    assert machine["state"] == "terminated" and machine["tags"]["sojourn:project"] == PROJECT
    assert world.left() == {}


@pytest.mark.slow
def test_a_machine_of_amazons_makes_the_environment_from_what_lies_in_the_bucket(world: AmazonWorld) -> None:
    make_wheel(world.project / "wheels", "tiny", "1.0")
    world.script("--no-index\n--find-links wheels\ntiny\n", "requirements.txt")
    world.script(f"{sys.version_info.major}.{sys.version_info.minor}\n", ".python-version")
    world.script("import sys, tiny; open('made.txt', 'w').write(f'{tiny.VERSION} {sys.prefix}')")

    done = world.train(*train(world, "--environment", "auto"), seconds=150)

    assert done.returncode == 0, done.stderr
    version, prefix = (world.project / "made.txt").read_text().split()
    assert version == "1.0" and prefix.endswith("/environment/venv") and not Path(prefix).exists()
    assert re.search(r"environment .*1 package locked, \d+ MB sent", done.stdout)


TOGETHER = """
    import json, os, pathlib
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = [[float(word) for word in line.split()] for line in open("data/rows.txt")][rank::world]
    x = torch.tensor([row[:4] for row in rows])
    y = torch.tensor([row[4:] for row in rows])
    for step in range(20):
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    total = sum(parameter.double().sum() for parameter in model.parameters()).item()
    print(f"rank {rank} of {world} on {os.uname().nodename}: {total:.12f}", flush=True)
    if rank == 0:
        torch.save(model.state_dict(), "model.pt")
        pathlib.Path("evaluation.json").write_text(json.dumps({"loss": loss.item()}))
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_machines_near_each_other_train_together_on_data_from_dvcs_bucket(world: AmazonWorld) -> None:
    world.script(TOGETHER)
    (world.project / "data").mkdir()
    rows = [" ".join(f"{(7 * n + k) % 11 / 11:.3f}" for k in range(5)) for n in range(40)]
    (world.project / "data" / "rows.txt").write_text("\n".join(rows) + "\n")
    (world.project / "dvc.yaml").write_text(
        "stages: {train: {cmd: python train.py, deps: [train.py, data], outs: [model.pt], "
        "metrics: [evaluation.json: {cache: false}]}}\n"
    )
    world.cloud.client("s3").create_bucket(Bucket=DATA)
    world.git("init", "-q")
    for words in ("init -q", f"remote add -q -d acme s3://{DATA}/dvc", "add -q data"):
        world.dvc(*words.split())
    world.git("add", ".")
    world.git("commit", "-qm", "data")
    world.set_up()

    done = world.sojourn(
        "train", "--no-prefect", *QUICK, "--deadline", "10m", "--nodes", "2", "--stage", "train",
        "--machine", "c6i.large", "--cluster", seconds=200,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    said = re.findall(r"rank (\d) of 2 on (\S+): (\S+)", done.stdout)
    assert sorted(rank for rank, _, _ in said) == ["0", "1"]
    assert len({host for _, host, _ in said}) == 2 and len({total for _, _, total in said}) == 1
    assert (world.project / "model.pt").exists() and "model.pt" in (world.project / "dvc.lock").read_text()
    assert world.dvc("status", "train").strip().endswith("up to date.")
    fetched = [call for call in world.cloud.calls("s3", "GetObject") if "/dvc/files/md5/" in call["path"]]
    assert {call["source"] for call in fetched} == {one["address"] for one in world.instances()}
    kinds = [one["kind"] for one in world.show()["receipt"]["resources"]]
    assert sorted(kinds) == ["c6i.large", "c6i.large", "placement group", "schedule", "schedule", "volume", "volume"]
    assert world.left() == {}


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_reclaimed_machine_is_replaced_and_the_script_goes_on_from_its_checkpoint(world: AmazonWorld) -> None:
    world.script("""
        import json, os, pathlib, time
        state = pathlib.Path("state.ckpt")
        step = began = int(state.read_text()) if state.exists() else 0
        print("began at", step, flush=True)
        while step < 100:
            step += 1
            if step % 4 == 0:
                pathlib.Path("next").write_text(str(step))
                os.replace("next", state)
            print(f"step={step} loss={1 / step:.4f}", flush=True)
            time.sleep(0.02 if began else 0.5)  # the first life lasts until it is ended, however busy this host is
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
    world.wait_until("running")
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


@pytest.mark.slow
def test_a_machine_that_is_frozen_is_ended_by_the_clouds_own_timer(world: AmazonWorld) -> None:
    world.script("import time; time.sleep(600)")
    cli = world.start_train(*QUICK, "--deadline", "25s", "--grace", "5s", "--", "python", "train.py")
    world.wait_until("running")
    cli.kill()
    (machine,) = world.running()
    world.cloud.freeze(machine)
    record = world.cloud.wait_for(machine, "terminated", limit_s=90)

    assert record["reason"] == "Client.UserInitiatedShutdown", "somebody else ended it"
    assert [one["schedule"] for one in world.cloud.fired()] == [f"{record['tags']['sojourn:lease']}-n0"]
    assert world.sojourn("reap", "--json").returncode == 0
    resources = world.show()["receipt"]["resources"]
    assert [one["ended_by"] for one in resources if one["kind"] == "t3.micro"] == ["cloud timer"]
    assert world.left() == {}


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["intent", "created", "hello", "running"])
def test_a_killed_orchestrators_run_is_continued_by_attach(world: AmazonWorld, phase: str) -> None:
    world.script("""
        import pathlib, time
        time.sleep(8)
        pathlib.Path("metrics.json").write_text('{"accuracy": 1}')
    """)
    cli = world.start_train(*train(world))
    world.wait_until(phase, 90)
    cli.kill()

    done = world.sojourn("attach", "last", "--take-over", seconds=150)

    assert done.returncode == 0, done.stdout + done.stderr + world.story()
    assert len(world.instances()) == 1, "what stood already was not rented again"
    assert (world.project / "metrics.json").exists()
    assert world.show()["receipt"]["state"] == "closed"
    assert world.left() == {}


@pytest.mark.slow
def test_a_run_whose_orchestrator_is_killed_while_it_collects_is_brought_home(world: AmazonWorld) -> None:
    world.script("import pathlib; pathlib.Path('metrics.json').write_text('{\"accuracy\": 1}')")
    # It asks for each committed file before it gives the machines back.
    world.cloud.fault("s3", "HeadObject", "delay", body="/machine/", source=r"127\..*", seconds=20)
    cli = world.start_train(*train(world))
    world.wait(lambda: any("/machine/" in one["path"] for one in world.cloud.calls("s3", "HeadObject")), 120)
    cli.kill()
    assert world.kinds()[-1] == "outcome", "not released yet"

    done = world.sojourn("attach", "last", "--take-over", seconds=150)

    assert done.returncode == 0, done.stdout + done.stderr + world.story()
    assert len(world.instances()) == 1 and (world.project / "metrics.json").exists()
    assert world.kinds().count("outcome") == 1 and world.show()["receipt"]["state"] == "closed"
    assert world.left() == {}


@pytest.mark.slow
def test_credentials_that_end_while_the_script_runs_cost_the_sight_of_it_and_nothing_else(world: AmazonWorld) -> None:
    world.script("""
        import pathlib, time
        time.sleep(12)
        pathlib.Path("metrics.json").write_text('{"accuracy": 1}')
    """)
    cli = world.start_train(*train(world))
    world.wait_until("running")
    ended = {"code": "ExpiredToken", "message": "The provided token has expired.", "source": r"127\..*", "count": None}
    for service, status in (("s3", 400), ("ec2", 400), ("scheduler", 403)):
        world.cloud.fault(service, ".*", "error", status=status, **ended)
    assert cli.wait(120) == 3, cli.output
    assert "token has expired" in cli.output and "aws sso login" in cli.output, cli.output
    assert "the run goes on without this process; continue it: sojourn attach" in cli.output
    world.wait(lambda: not world.running(), 90)
    world.cloud.clear_faults()

    done = world.sojourn("attach", "last", seconds=150)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (world.project / "metrics.json").exists() and world.left() == {}


@pytest.mark.slow
def test_a_failed_script_leaves_word_of_what_its_machine_looked_like(world: AmazonWorld) -> None:
    world.script("raise SystemExit(3)")
    done = world.train(*train(world), seconds=150)
    assert done.returncode == 1 and len(world.instances()) == 1, done.stdout + done.stderr
    found = world.sojourn("logs", "last", "--diagnosis").stdout
    for part in ("== disks ==", "== memory ==", "nvidia-smi is not installed", "torch==2.13.0"):
        assert part in found
    assert world.left() == {}


@pytest.mark.slow
def test_a_lost_reply_to_the_order_for_machines_rents_once(world: AmazonWorld) -> None:
    world.script("print('made it')")
    world.cloud.fault("ec2", "RunInstances", "drop_after", count=2)
    world.cloud.fault("ec2", "DescribeInstances", "throttle", count=5)
    done = world.train(*train(world), seconds=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(world.instances()) == 1
    assert world.left() == {}


@pytest.mark.slow
def test_a_machine_whose_agent_was_killed_ends_itself_and_is_replaced(world: AmazonWorld) -> None:
    world.script("""
        import os, pathlib, signal, subprocess, time
        if pathlib.Path("state.ckpt").exists():
            print("resumed")
        else:
            pathlib.Path("state.ckpt").write_text("1")
            time.sleep(20)
            agents = subprocess.run(["pgrep", "-f", "agent.pyz run"], capture_output=True, text=True).stdout
            os.kill(int(agents.split()[0]), signal.SIGKILL)
            time.sleep(600)
    """)
    done = world.train(*train(world), seconds=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "went away without a last word, ended by machine" in done.stderr + done.stdout
    assert "resumed" in done.stdout and len(world.instances()) == 2
    assert world.left() == {}


@pytest.mark.slow
def test_a_failed_script_s_machine_is_held_looked_at_and_goes_by_itself(world: AmazonWorld) -> None:
    world.script("print('about to fail'); open('part.txt', 'w').write('this far'); raise SystemExit(3)")
    cli = world.start_train(*train(world, "--hold-on-failure", "60s"))
    world.wait(lambda: "held until" in cli.output, 150)
    (machine,) = world.running()

    looked = world.sojourn("exec", "last", "--", "/bin/sh", "-c", "cat part.txt && df -P / && uname -n", seconds=60)
    assert looked.returncode == 0, looked.stderr + world.story()
    assert looked.stdout.startswith("this farFilesystem") and "ip-172-31-" in looked.stdout
    cli.kill()

    record = world.cloud.wait_for(machine, "terminated", limit_s=120)
    assert record["reason"] == "Client.InstanceInitiatedShutdown", "the machine ended itself, with nobody there"
    done = world.sojourn("attach", "last", "--take-over", seconds=120)
    assert done.returncode == 1, done.stdout + done.stderr
    shown = world.show()
    assert (shown["outcome"]["state"], shown["receipt"]["state"]) == ("failed", "closed")
    assert 30 < shown["receipt"]["held_s"] < 120 and shown["receipt"]["held_cost"] > 0
    assert len(world.instances()) == 1 and world.left() == {}
