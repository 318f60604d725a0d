"""What is on a disk after a power cut: whole records, and nothing named that is not there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cli_world import World

from sojourn.agent.mailbox import Place
from sojourn.agent.results.commit import Committer
from sojourn.agent.stores.store import FileStore
from sojourn.names import LeaseName
from sojourn.plan.planning import Plan
from sojourn.project import bundle
from sojourn.project.project import Project
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock

pytestmark = [
    pytest.mark.local,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk, which only root may"),
]
GOLDEN = Path(__file__).parent / "golden" / "plan.json"
SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, linux/fs/ext4/ext4.h
NOTHING_MORE = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: what is in memory alone, the journal's too, is lost


class Disk:
    """A journalling file system in a file, as most computers have."""

    def __init__(self, folder: Path) -> None:
        self.place = folder / "disk"
        self._image = folder / "image"
        self.place.mkdir()
        self._image.write_bytes(b"")
        os.truncate(self._image, 64 << 20)
        self._tell("mkfs.ext4", "-q", "-F", str(self._image))
        self.mount()

    def mount(self) -> None:
        self._tell("mount", "-o", "loop", str(self._image), str(self.place))

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.place)], check=True)

    def cut(self, processes: Iterable[int] = ()) -> None:
        """The power is gone, with these processes, and comes back."""
        root = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(root, SHUTDOWN, struct.pack("I", NOTHING_MORE))
        finally:
            os.close(root)
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 20  # lazily would not do: the same would be there again
        while subprocess.run(["umount", str(self.place)], capture_output=True).returncode != 0:
            assert time.monotonic() < until
            time.sleep(0.05)
        while any(map(self._is_seen_by, filter(str.isdecimal, os.listdir("/proc")))):
            if time.monotonic() > until:
                self.mount()
                pytest.skip("somebody's namespace of mounts, made meanwhile, holds on to the disk")
            time.sleep(0.05)
        self.mount()

    def _is_seen_by(self, pid: str) -> bool:
        try:
            return str(self.place) in Path(f"/proc/{pid}/mounts").read_text()
        except OSError:
            return False

    def _tell(self, *words: str) -> None:
        try:
            done = subprocess.run(words, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip(f"there is no {words[0]} here")
        if done.returncode != 0:
            pytest.skip(f"no disk can be made here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.unmount()


def commit_of_others(disk: Disk) -> None:
    """Any program that syncs a file of its own brings all names to the disk, and no contents but its own."""
    with open(disk.place / "other", "wb") as file:
        file.write(b"x")
        os.fsync(file.fileno())


def empty(store: Path) -> list[str]:
    return sorted(str(path.relative_to(store)) for path in store.rglob("*.json") if path.stat().st_size == 0)


def test_records_are_whole_and_what_they_name_is_there(disk: Disk, tmp_path: Path) -> None:
    store = Store((disk.place / "store").as_uri())
    plan = Plan.model_validate_json(GOLDEN.read_bytes())
    mailbox = Mailbox(store, plan.project, plan.run)
    project = Project(tmp_path / "digits")
    project.directory.mkdir()
    for name in ("train.py", "other.py"):
        (project.directory / name).write_text("pass\n" * 1000)
    (project.directory / "large.bin").write_bytes(bytes(range(256)) * 8192)
    assert mailbox.write_once("plan", plan)
    packed = bundle.pack(bundle.survey(project), project, ".", mailbox)
    mailbox.write_once("bundle", packed.bundle)
    ledger = Ledger(mailbox, SystemClock())
    ledger.join()
    for kind in ("intent", "created", "ordered"):
        ledger.append(kind, name="one", attempt=1, offer=0, request={})  # type: ignore[arg-type]
    commit_of_others(disk)
    disk.cut()
    fresh = Mailbox(Store(store.url), plan.project, plan.run)
    assert fresh.read("plan", Plan) == plan and empty(disk.place / "store") == []
    assert [entry.kind for entry in Ledger(fresh, SystemClock()).entries()][:3] == ["opened", "intent", "created"]
    sent = fresh.read("bundle", bundle.Bundle)
    assert sent is not None
    for entry in (*sent.files, *sent.archives):
        assert fresh.store.written(entry.source)[1] == entry.size, entry.path  # type: ignore[index]


def test_what_a_commit_of_the_machine_names_is_there(disk: Disk, tmp_path: Path) -> None:
    (disk.place / "store").mkdir()
    tree, lease = tmp_path / "tree", LeaseName("calm-heron-7f3a", 1)
    tree.mkdir()
    boot = {"project": "digits", "run": lease.run, "attempt": 1, "lease": str(lease)}
    store = FileStore((disk.place / "store").as_uri())
    place = Place(store, boot, 0)
    names = [lease.machine(0)]
    place.rank_by(names)
    order = {
        "nodes": names, "inputs": [], "outputs": None, "ignore": [], "checkpoint": ["*.pt"], "commit_every_s": 9,
        "keep": 1000,
    }  # fmt: skip
    committer = Committer(store, place, order, str(tree), ["outputs"], time.monotonic() + 60)
    for number in range(40):
        (tree / f"{number}.pt").write_bytes(bytes([number]) * 1000)
    committer.final(time.monotonic() + 60, None)
    commit_of_others(disk)
    disk.cut()
    manifests = [path for path in (disk.place / "store").rglob("*.json") if path.parent.name in ("out", "ckpt")]
    assert len(manifests) >= 2 and empty(disk.place / "store") == []
    for manifest in manifests:
        for entry in json.loads(manifest.read_text())["files"]:
            body = (disk.place / "store" / entry["source"]).read_bytes()[entry.get("offset", 0) :][: entry["size"]]
            assert body == bytes([int(entry["path"].partition(".")[0])]) * 1000


def test_a_blob_that_a_power_cut_left_empty_is_sent_again(tmp_path: Path) -> None:
    store = FileStore(tmp_path.as_uri())
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    with open(source, "rb") as file:
        digest, _ = store.keep("machine/blob", file, lambda: None)
    blob = tmp_path / "machine" / "blob" / digest
    blob.write_bytes(b"")
    with open(source, "rb") as file:
        store.keep("machine/blob", file, lambda: None)
    assert blob.read_bytes() == b"weights"


WRITES = """
    import json, pathlib, time
    pathlib.Path({ready!r}).touch()
    for step in range(1000):
        pathlib.Path("metrics.json").write_text(json.dumps({{"loss": 1 / (step + 1)}}))
        pathlib.Path("last.pt").write_bytes(bytes([step % 256]) * 100_000)
        print("step", step, flush=True)
        if pathlib.Path({go!r}).exists():
            break
        time.sleep(0.5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 3.0, 8.0])
@pytest.mark.parametrize("ended", [False, True], ids=["in the middle", "after its end"])
def test_a_cut_at_any_second_of_a_run_poisons_nothing(disk: Disk, tmp_path: Path, seconds: float, ended: bool) -> None:
    world = World(tmp_path / "user")
    world.home = disk.place / "home"
    world.home.mkdir()
    world.environment["SOJOURN_HOME"] = str(world.home)
    world.script(WRITES.format(ready=str(world.signs / "ready"), go=str(world.signs / "go")))
    try:
        cli = world.start_train()
        world.wait_for_file("ready")
        if ended:
            (world.signs / "go").touch()
            assert cli.wait() == 0, cli.output
        time.sleep(seconds)
        alive = list(world.alive())
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        disk.cut(alive)
        swept = world.sojourn("reap")
        said = swept.stdout + swept.stderr
        assert "Traceback" not in said and swept.returncode == 0, said
        listed = world.sojourn("runs", "--json")
        assert listed.returncode == 0 and all(one["state"] != "unreadable" for one in json.loads(listed.stdout))
        (world.signs / "go").touch()
        again = world.train()
        assert again.returncode == 0, again.stdout + again.stderr
    finally:
        world.clean()
