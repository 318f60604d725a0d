"""The agent on a store in a bucket, whole, while the wire does harm."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator

import pytest
from s3_world import S3World

from sojourn.agent.clouds.machine import Machine
from sojourn.agent.errors import Stop
from sojourn.agent.host.clock import Deadline, Grace
from sojourn.agent.interrupts import Interrupts
from sojourn.agent.mailbox import Place
from sojourn.agent.stores.s3 import S3Store
from sojourn.plan.checkpoint import newest
from sojourn.store.storage import Store
from tests.agent.conftest import Lab, mailbox, wait_for

SCRIPT = """
import os, pathlib, time
out = pathlib.Path(os.environ["SOJOURN_OUTPUT_DIR"])
for number in range(20):
    print("line", number, flush=True)
    (out / f"{number}.bin").write_bytes(bytes([number]) * 300_000)
    time.sleep(0.1)
"""


@pytest.fixture
def world(service: S3World, monkeypatch: pytest.MonkeyPatch) -> S3World:
    service.reset()
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    return service


@pytest.fixture
def far(lab: Lab, world: S3World) -> Lab:
    """A lab whose store is a bucket."""
    lab.store = Store(f"s3://{world.bucket()}/lab")
    lab.box = mailbox(lab.store)
    return lab


def test_nothing_is_lost_while_requests_fail_in_every_way(far: Lab, world: S3World) -> None:
    far.boot(environment=world.environment)
    far.order(SCRIPT, inputs=(far.entry("data.bin", bytes(3_000_000)),))
    for effect in ("refuse-503", "drop-before", "drop-after", "refuse-500", "cut"):
        for path in ("/log/", "/blob/", "/out/", "exit.json", "beat.json", "order/"):
            world.fault("*", path, effect)

    end = far.exit()

    assert (end.reason, end.exit_code, end.lost) == ("exited", 0, ())
    assert far.log() == b"".join(b"line %d\n" % number for number in range(20))
    assert far.outputs() == {f"sojourn-outputs/{number}.bin": bytes([number]) * 300_000 for number in range(20)}
    # The order may have been read before its faults were laid.
    left = [fault for fault in world.faults if fault.times and fault.effect != "cut" and fault.path != "order/"]
    assert not left


def test_data_that_cannot_be_read_is_refused_with_the_store_s_words(far: Lab, world: S3World) -> None:
    text = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    far.boot(environment=world.environment)
    entry = far.entry("data.bin", b"data")
    world.fault("GET", entry.source, "refuse-403", times=100, text=text)
    far.order(SCRIPT, inputs=(entry,))

    end = far.exit()

    assert end.reason == "refused"
    assert "data.bin: expected sha256:" in (end.message or "") and "Access Denied (AccessDenied)" in (end.message or "")


def test_a_stop_reaches_the_agent_through_the_bucket(far: Lab, world: S3World) -> None:
    far.boot(environment=world.environment)
    far.order("import time; time.sleep(60)", argv=(sys.executable, "train.py"))
    time.sleep(2)
    far.stop()

    assert far.exit().reason == "stopped"


SAVES = """
import os, pathlib, time
pathlib.Path("state.pt").write_bytes(b"1" * 100_000)
while not os.path.exists({sign!r}):
    time.sleep(0.05)
pathlib.Path("state.pt").write_bytes(b"2" * 100_000)
time.sleep(60)
"""


def test_a_machine_taken_back_while_it_uploads_a_checkpoint_leaves_the_one_before(far: Lab, world: S3World) -> None:
    """There the upload had died without a word, and days of 32 GPUs were lost:
    https://github.com/aws/sagemaker-python-sdk/issues/3062"""
    sign = far.folder / "go"
    agent = far.boot(environment=world.environment)
    far.order(SAVES.format(sign=str(sign)), checkpoint=("*.pt",))
    wait_for(lambda: newest(far.box), 30)
    tried = world.count("PUT", "/blob/")
    world.fault("PUT", "/blob/", "refuse-503", times=10_000)
    sign.touch()
    wait_for(lambda: world.count("PUT", "/blob/") > tried, 30)
    agent.kill()  # without a notice, in the middle of it

    found = newest(far.box)
    assert found is not None and found.sequence == 1
    assert [far.store.get(entry.source) for entry in found.files] == [b"1" * 100_000]


LARGE = """
import json, pathlib, time
with open("a_big.bin", "wb") as file:
    file.truncate(100 << 20)
pathlib.Path("metrics.json").write_text("{}")
pathlib.Path("model.pt").write_text("m")
pathlib.Path("z.txt").write_text("z")
time.sleep(60)
"""


def test_a_large_file_that_does_not_get_through_holds_up_neither_the_rest_nor_the_end(far: Lab, world: S3World) -> None:
    far.deadline_at, far.grace_s = time.time() + 10, 5.0
    world.fault("PUT", "/blob/", "stall", times=10_000)
    agent = far.boot(environment=world.environment)
    far.order(LARGE, checkpoint=("*.pt",))

    end = far.exit()

    assert (end.reason, end.lost, end.checkpoint) == ("deadline", ("a_big.bin",), 1)
    assert "a_big.bin could not be stored: the time was over" in (end.message or "")
    assert far.outputs() == {"metrics.json": b"{}", "model.pt": b"m", "z.txt": b"z"}
    agent.wait(timeout=5)  # although pieces of it are on their way still
    assert time.time() < far.deadline_at + far.grace_s + 2


@pytest.fixture
def interrupts(far: Lab, world: S3World, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Interrupts, S3Store]]:
    monkeypatch.setattr(S3Store, "patience_s", 1.0)
    store = S3Store(far.store.url)
    place = Place(store, far.born().model_dump(), 0)
    yield Interrupts(store, place, Deadline(time.time() + 60), Machine()), store
    signal.set_wakeup_fd(-1)
    store.close()


def test_a_machine_that_has_lost_contact_stops_the_script(
    interrupts: tuple[Interrupts, S3Store], world: S3World
) -> None:
    asked, store = interrupts
    store.find("anything")
    asked.check()
    world.fault("*", "", "refuse-503", times=10_000)

    with pytest.raises(Stop) as stop:
        for _ in range(100):
            time.sleep(0.1)
            asked.check()
    assert stop.value.reason == "fault" and "did not answer" in stop.value.message


def test_after_lost_contact_only_the_deadline_and_patience_end_the_last_commit() -> None:
    grace = Grace(Deadline(time.time() + 3600), 60.0)
    grace.begin(1800.0)
    assert 1700 < grace.latest() - time.monotonic() <= 1800
    grace = Grace(Deadline(time.time() + 100), 60.0)
    grace.begin(1800.0)
    assert grace.latest() - time.monotonic() <= 160
    grace = Grace(Deadline(time.time() + 3600), 60.0)
    grace.begin()
    assert grace.latest() - time.monotonic() <= 60
