"""What a script on a rented machine reaches of other runs, by all that the machine itself has: nothing."""

from __future__ import annotations

import json

import pytest
from amazon_world import PROJECT, QUICK, AmazonWorld
from clouds.aws_cloud import ACCOUNT, REGION

from sojourn.run.runs import all_mailboxes
from sojourn.store.mailbox import Mailbox

BUCKET = f"sojourn-{ACCOUNT}-{REGION}"
LEARNS = """
    import pathlib
    state = pathlib.Path("state.ckpt")
    print("began at", state.read_text() if state.exists() else 0)
    state.write_text("7")
"""
LOOKS_AROUND = """
    import errno, json, os, pathlib, sys
    print("began at", pathlib.Path("state.ckpt").read_text())
    sys.path.insert(0, "/opt/sojourn/agent.pyz")
    from sojourn.agent.clouds import parameters
    from sojourn.agent.errors import Refused
    from sojourn.agent.stores.s3 import S3Store

    boot = json.load(open("/opt/sojourn/boot.json"))
    store, other = S3Store({url!r}, {region!r}), {other!r}
    mine = boot["place"] + "-" + boot["run"]

    def outcome(act, *words, **more):
        try:
            act(*words, **more)
        except FileNotFoundError:
            return "missing"
        except (OSError, Refused) as error:
            refused = isinstance(error, Refused) or error.errno == errno.EACCES
            return "refused" if refused else repr(error)
        return "done"

    def listed(prefix):
        return outcome(store.ask, "GET", "", query=[("list-type", "2"), ("prefix", prefix)])

    def secret(path):
        return outcome(parameters.read, ["X"], {{"X": path}}, {region!r}, lambda: None)

    keys = [f"control/{project}/{{other}}/{{name}}" for name in ("plan.json", "receipt.json", "ledger/000000.json")]
    keys += [f"orders/{project}/{{other}}/stop.json", f"machine/{project}/{{other}}/1/0/exit.json"]
    keys += [f"control/{project}/{{boot['run']}}/plan.json"]
    found = {{
        "read": sorted({{outcome(store.get, key) for key in keys}}),
        "put": sorted({{outcome(store.put, key, b"spoilt") for key in keys}}),
        "delete": sorted({{outcome(store.delete, key) for key in keys}}),
        "list": sorted({{listed(one) for one in ("", "machine/", "machine/{project}/", "orders/{project}/")}}),
        "secrets": [secret("/sojourn/{project}/OTHER_KEY"), secret("/sojourn/{project}/WANDB_API_KEY")],
        "own": [outcome(store.get, f"orders/{project}/{{mine}}/order/1.json"),
                outcome(store.get, f"orders/{project}/{{mine}}/stop.json"),
                outcome(store.put, f"machine/{project}/{{mine}}/1/0/mine", b"x"),
                listed(f"machine/{project}/{{mine}}/"), secret(boot["secrets"]["paths"]["WANDB_API_KEY"])],
        "told": sorted(boot["secrets"]["paths"]),
    }}
    print("FOUND", json.dumps(found))
"""


@pytest.fixture
def world(amazon: AmazonWorld) -> AmazonWorld:
    return amazon


@pytest.mark.slow
def test_a_script_that_goes_on_from_another_run_reaches_nothing_that_follows_from_that_run_s_name(
    world: AmazonWorld,
) -> None:
    for name in ("WANDB_API_KEY", "OTHER_KEY"):
        assert world.sojourn("secret", "set", name, given="hunter2-and-more").returncode == 0
    world.script(LEARNS)
    first = world.train(*QUICK, "--deadline", "10m", "--", "python", "train.py", seconds=150)
    assert first.returncode == 0 and "began at 0" in first.stdout, first.stderr
    other = world.run()
    mailbox = Mailbox(world.store, PROJECT, other)
    before = {key: world.store.get(key) for key in mailbox.sizes()}
    world.script(LOOKS_AROUND.format(url=f"s3://{BUCKET}", region=REGION, other=other, project=PROJECT))
    words = (*QUICK, "--deadline", "10m", "--secret", "WANDB_API_KEY", "--from", other)
    second = world.train(*words, "--", "python", "train.py", seconds=150)
    assert second.returncode == 0 and "began at 7" in second.stdout, second.stdout + second.stderr
    found = json.loads(next(line for line in second.stdout.splitlines() if "FOUND" in line).split("FOUND ")[1])
    assert found == {
        **dict.fromkeys(("read", "put", "delete", "list"), ["refused"]),
        "secrets": ["refused", "refused"],
        "own": ["done", "missing", "done", "done", "done"],
        "told": ["WANDB_API_KEY"],
    }
    assert {key: world.store.get(key) for key in mailbox.sizes()} == before
    (mine,) = [one for one in all_mailboxes(world.store) if one.run != other]
    told = world.store.get(f"{mine.orders}/order/1.json").decode() + world.cloud.user_data(world.instances()[-1]["id"])
    assert mine.place in told and mailbox.place not in told
    world.forgive(f"role/sojourn-machine-{PROJECT}")
