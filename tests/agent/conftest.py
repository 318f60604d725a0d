"""A store in a temporary directory, the real agent as a process, and the orders to give it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_world import S3World, s3_service

from sojourn.agent.host.processes import MARK, MARK_DIRECTORY
from sojourn.agent.pack import pack
from sojourn.agent.paths import TREE
from sojourn.names import LeaseName
from sojourn.protocol import Bundle, Command, Exit, Order, Stop
from sojourn.records import FileEntry
from sojourn.renting import Boot
from sojourn.store.mailbox import Mailbox, blobs
from sojourn.store.storage import Store

RUN = "calm-heron-7f3a"
PLACE = "0123456789abcdef0123456789abcdef"
PROJECT = "digits"
LEASE = LeaseName(RUN, 1)


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer of `what`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = what()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s")


def old_python() -> str:
    """A Python 3.8, the oldest that a machine may have; skips the test where there is none."""
    on_path = shutil.which("python3.8")
    by_pyenv = (str(path) for path in Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"))
    for python in filter(None, (on_path, *by_pyenv)):
        if subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    pytest.skip("no python3.8 here")


def mailbox(store: Store) -> Mailbox:
    """That of a run of which nothing but its place was planned."""
    store.put(f"control/{PROJECT}/{RUN}/plan.json", json.dumps({"place": PLACE}).encode())
    return Mailbox(store, PROJECT, RUN)


class Lab:
    """One run: its store, its agents, and what they have said so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store((folder / "store").as_uri())
        self.box = mailbox(self.store)
        self.agents: list[subprocess.Popen[bytes]] = []
        self.deadline_at = time.time() + 60
        self.grace_s = 10.0
        self.nodes = 1

    def scratch(self, node: int = 0) -> Path:
        return self.folder / f"scratch{node}"

    def tree(self, node: int = 0) -> Path:
        return self.scratch(node) / TREE

    def born(self, **fields: Any) -> Boot:
        """What this run's machines are told at their birth."""
        return Boot(
            **{
                "store": self.store.url,
                "project": PROJECT,
                "run": RUN,
                "place": PLACE,
                "attempt": 1,
                "lease": str(LEASE),
                "nodes": self.nodes,
                "deadline_at": self.deadline_at,
                "grace_s": self.grace_s,
                **fields,
            }
        )

    def boot(
        self, node: int = 0, environment: dict[str, str] | None = None, python: str = sys.executable, **fields: Any
    ) -> subprocess.Popen[bytes]:
        """Start the agent of one node."""
        self.scratch(node).mkdir(parents=True, exist_ok=True)
        file = self.scratch(node) / "boot.json"
        file.write_bytes(self.born(**fields).to_bytes())
        program = pack().install(self.folder / "agent")
        words = [python, "-I", "-S", str(program), "run", "--boot", str(file), "--node", str(node)]
        words += ["--scratch", str(self.scratch(node)), "--address", "127.0.0.1"]
        mark = {MARK: LEASE.machine(node), MARK_DIRECTORY: str(self.folder / str(node))}
        with open(self.scratch(node) / "agent.err", "wb") as voice:
            agent = subprocess.Popen(words, env={**os.environ, **mark, **(environment or {})}, stderr=voice)
        self.agents.append(agent)
        return agent

    def bundle(self, files: dict[str, str | bytes], directory: str = ".") -> Bundle:
        """An archive of these files, in the store."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path, text in files.items():
                body = text.encode() if isinstance(text, str) else text
                member = tarfile.TarInfo(path)
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
        archive = self.entry("bundle.tar.gz", buffer.getvalue())
        return Bundle(archives=(archive,), files=(), listing=(), directory=directory)

    def entry(self, path: str, body: bytes, kind: str = "sha256") -> FileEntry:
        """A blob in the store and the line that asks for it."""
        key = f"{blobs(PROJECT)}/{hashlib.sha256(body).hexdigest()}"
        self.store.put(key, body)
        return FileEntry(path=path, hash=f"{kind}:{hashlib.new(kind, body).hexdigest()}", size=len(body), source=key)

    def order(
        self,
        script: str = "",
        *,
        argv: tuple[str, ...] = (sys.executable, "train.py"),
        files: dict[str, str | bytes] | None = None,
        directory: str = ".",
        command: dict[str, Any] | None = None,
        odd: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Order:
        """Post an order that runs `script` as train.py; `odd` fields are what no orchestrator writes."""
        hello = wait_for(lambda: self.box.hello(1, 0))
        name = "train.py" if directory == "." else f"{directory}/train.py"
        order = Order(
            **{
                "run": RUN,
                "project": PROJECT,
                "attempt": 1,
                "nodes": tuple(LEASE.machine(node) for node in range(self.nodes)),
                "master_address": hello.address,
                "master_port": hello.port,
                "command": Command(argv=argv, **(command or {})),
                "bundle": self.bundle({name: script, **(files or {})}, directory),
                "deadline_at": self.deadline_at,
                "grace_s": self.grace_s,
                "commit_every_s": 0.3,
                **fields,
            }
        )
        if odd:
            body = json.dumps({**order.model_dump(mode="json"), **odd}).encode()
            self.store.create(f"{self.box.orders}/order/1.json", body)
        else:
            self.box.post_order(order)
        return order

    def run(self, script: str = "", *, environment: dict[str, str] | None = None, **fields: Any) -> Exit:
        """One machine, from boot to exit."""
        self.boot(environment=environment)
        self.order(script, **fields)
        return self.exit()

    def exit(self, node: int = 0, seconds: float = 90.0) -> Exit:
        """The node's last words; its agent must have ended well."""
        assert self.agents[node].wait(seconds) == 0, (self.scratch(node) / "agent.err").read_text()
        end = self.box.exit(1, node)
        assert end is not None
        return end

    def stop(self) -> None:
        self.box.request_stop(Stop(reason="the test says so", at=time.time()))

    def log(self, node: int = 0) -> bytes:
        return b"".join(segment.body for segment in self.box.log(1, node))

    def outputs(self, what: str = "out", node: int = 0) -> dict[str, bytes]:
        """The files of the newest manifest, each checked against its hash."""
        sequences = self.box.manifests(1, node, what)
        if not sequences:
            return {}
        assert sequences == list(range(1, len(sequences) + 1))
        manifest = self.box.manifest(1, node, what, sequences[-1])
        assert manifest is not None
        found = {}
        for entry in manifest.files:
            body = self.store.get(entry.source)
            assert entry.hash == f"sha256:{hashlib.sha256(body).hexdigest()}" and entry.size == len(body)
            found[entry.path] = body
        return found

    def alive(self) -> list[int]:
        """Processes that carry this run's mark and work below this test's folder."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            output = next((word for word in words if word.startswith(b"SOJOURN_OUTPUT_DIR=")), b"")
            if str(self.folder).encode() in output:
                found.append(int(name))
        return found


@pytest.fixture(scope="session")
def service() -> Iterator[S3World]:
    """S3 for the tests of a process, whose calls can be made to fail; each empties it first."""
    with s3_service() as world:
        yield world


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    for agent in lab.agents:
        if agent.poll() is None:
            agent.kill()
            agent.wait()
    for pid in lab.alive():
        os.kill(pid, signal.SIGKILL)
