"""The boot script: the timer first, the same bytes for the same plan, nothing secret, and off at every end."""

from __future__ import annotations

import datetime
import json
import subprocess
import time
from pathlib import Path

import pytest

from sojourn.agent import bootstrap
from sojourn.agent.pack import Archive, pack
from sojourn.agent.stores.s3 import S3Store
from sojourn.errors import SpecError
from sojourn.names import LeaseName
from sojourn.providers.ec2.boot import LIMIT, user_data
from sojourn.renting import Boot

AGENT = Archive(b"the agent", "0" * 64)


def boot(**changes: object) -> Boot:
    values = {
        "store": "s3://acme-sojourn/team",
        "store_region": "us-east-1",
        "project": "digits",
        "run": "quiet-heron-7f3a",
        "attempt": 1,
        "lease": str(LeaseName("quiet-heron-7f3a", 1)),
        "nodes": 2,
        "deadline_at": 2e9,
        "grace_s": 60.0,
        "life_s": 7260.0,
    }
    return Boot.model_validate({**values, **changes})


def test_it_is_the_same_for_the_same_plan_and_small_enough_for_ec2() -> None:
    assert user_data(boot(), AGENT) == user_data(boot(), AGENT)
    assert len(user_data(boot(), pack()).encode()) < LIMIT / 2


def test_a_shell_can_read_it() -> None:
    subprocess.run(["sh", "-n"], input=user_data(boot(), AGENT), text=True, check=True)


def test_the_timer_is_armed_before_anything_is_fetched() -> None:
    lines = user_data(boot(), AGENT).splitlines()
    timer = next(number for number, line in enumerate(lines) if line.startswith("  systemd-run"))
    clock = next(number for number, line in enumerate(lines) if "while" in line and "2000000060" in line)
    first_program = next(number for number, line in enumerate(lines) if "python3" in line)
    assert timer < clock < first_program


def test_it_names_the_agent_by_key_and_hash() -> None:
    told = json.loads(user_data(boot(), AGENT).splitlines()[-1].partition("'")[2].rstrip("'"))
    key = f"team/control/digits/agent/{AGENT.name}"
    assert told["agent"] == {"bucket": "acme-sojourn", "region": "us-east-1", "key": key, "sha256": AGENT.sha256}
    assert Boot.model_validate(told["boot"]) == boot(metadata="ec2")


def test_a_store_that_no_machine_can_reach_is_refused() -> None:
    with pytest.raises(SpecError, match="store: 'file:///store' cannot be reached from a rented machine"):
        user_data(boot(store="file:///store"), AGENT)


def test_its_signature_is_amazons() -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    keys = {"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "secret/key", "Token": "a+token=="}
    path = "/control/digits/agent/a%20b.pyz"
    host = "acme-sojourn.clouds.aws.bucket.eu-west-1.amazonaws.com"
    request = AWSRequest("GET", f"https://{host}{path}")
    S3SigV4Auth(Credentials(*keys.values()), "s3", "eu-west-1").add_auth(request)
    now = datetime.datetime.strptime(request.context["timestamp"], "%Y%m%dT%H%M%SZ")
    ours = bootstrap.signed(host, path, "eu-west-1", keys, now)
    assert ours["authorization"] == request.headers["Authorization"]


def test_a_bucket_with_a_dot_is_named_in_the_path_as_the_agent_does_it() -> None:
    for bucket in ("acme-sojourn", "runs.acme.org"):
        host, path = bootstrap.place(bucket, "team/control/a b.pyz", "eu-west-1")
        store = S3Store(f"s3://{bucket}/team", "eu-west-1", environ={})
        assert (f"https://{host}", path) == (store._home(), store._path("control/a b.pyz"))


def test_a_machine_past_its_time_switches_itself_off_before_it_does_anything(tmp_path: Path) -> None:
    done = _start(user_data(boot(deadline_at=1e9), AGENT), tmp_path)
    assert done.stdout.splitlines()[0] == "sojourn: switching off"
    assert (tmp_path / "off").exists()


def test_a_machine_that_cannot_fetch_its_agent_switches_itself_off(tmp_path: Path) -> None:
    done = _start(user_data(boot(), AGENT), tmp_path)
    assert "sojourn: switching off" in done.stdout
    assert (tmp_path / "off").read_text().split() == ["poweroff"]


def test_a_machine_whose_agent_never_ends_is_switched_off_by_its_own_timer(tmp_path: Path) -> None:
    soon = time.time() + 3.0
    done = _start(user_data(boot(deadline_at=soon, grace_s=0.0), AGENT), tmp_path, python="exec sleep 60")
    assert done.stdout.splitlines() == ["sojourn: switching off"] and time.time() >= soon - 1.0


def _start(script: str, folder: Path, python: str = "exit 1") -> subprocess.CompletedProcess[str]:
    """Run the script where `poweroff` leaves a mark and ends it, and `python3` is nothing but what is said."""
    (folder / "bin").mkdir()
    for name, does in {
        "poweroff": f'echo poweroff "$@" >> {folder}/off; kill -9 -$(ps -o pgid= $$ | tr -d " ")',
        "python3": python,
        "systemd-run": "exit 0",
    }.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / "bin" / name).chmod(0o755)
    script = script.replace("/opt/sojourn", f"{folder}/sojourn")
    return subprocess.run(
        ["sh", "-c", script],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        start_new_session=True,
    )
