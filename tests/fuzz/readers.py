"""Every reader of bytes that somebody else wrote, with real bytes to damage, and what it may answer.

A reader answers or raises an error of ours, within a second, whatever it is given. `home` readers
run on the user's computer and raise SojournError; `machine` readers are the agent's.
"""

from __future__ import annotations

import io
import itertools
import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from cli import console
from sojourn.agent import files
from sojourn.agent.clouds import credentials, imds
from sojourn.agent.errors import Late, Refused, Stop
from sojourn.agent.script import scalars, tfevents
from sojourn.decoding import decode, decode_object
from sojourn.environment import current, environment, target
from sojourn.environment.local_packages import describe
from sojourn.errors import SojournError
from sojourn.lease import retained
from sojourn.lease.state import State, fold
from sojourn.plan import checkpoint
from sojourn.plan import text as plan_text
from sojourn.plan.planning import Plan
from sojourn.project import metric_files
from sojourn.project.placing import Placings
from sojourn.protocol import (
    Bundle,
    Checkpoint,
    ExecAnswer,
    ExecRequest,
    Exit,
    Hello,
    MachineBeat,
    Manifest,
    Order,
    Outcome,
    Scalars,
)
from sojourn.protocol import Stop as StopRequest
from sojourn.receipts import Receipt
from sojourn.records import Record  # fmt: skip
from sojourn.renting import Boot, Lease, Lookalike, Machine
from sojourn.results.collect import Collected, collect
from sojourn.results.publish import Inputs
from sojourn.results.report import Report
from sojourn.run.purge import purge
from sojourn.run.reap import reap
from sojourn.run.runs import entries_of, find_run, list_runs, past_runs, records_of, where_it_stands
from sojourn.spec import params
from sojourn.spec.launch import read_launch
from sojourn.spec.metric_patterns import LogReader
from sojourn.store.known_stores import remembered
from sojourn.store.ledger import Beat, Entry
from sojourn.store.mailbox import Mailbox, closed_pages
from sojourn.store.purge_mark import Mark
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock
from sojourn.watch.follower import Follower
from tasks import artifacts

CORPUS = Path(__file__).parent / "corpus"
LIMIT_S = 1.0
NOW = 1_796_000_000.0
MACHINE = (Refused, Stop, Late, OSError)
METRICS = {
    "metrics.json": b'{"loss": 0.25, "model": {"lr": 1e-05, "name": "resnet"}, "history": [1, 2, 3]}',
    "metrics.jsonl": b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": "0.25"}\n{"st',
    "metrics.csv": b"epoch,loss,accuracy\n0,0.5,0.1\n1,0.25,0.2\n",
    "metrics.tsv": b"epoch\tloss\n0\t0.5\n",
    "metrics.yaml": b"loss: 0.25\nmodel: &a {lr: 1e-05}\nother: *a\n",
    "metrics.toml": b'loss = 0.25\n[model]\nlr = 1e-05\nname = "resnet"\n',
}


@dataclass(frozen=True)
class Reader:
    """One way in."""

    name: str
    samples: tuple[bytes, ...]
    read: Callable[[bytes], object]
    may_raise: tuple[type[BaseException], ...] = (SojournError,)
    slow: bool = field(default=False, compare=False)  # milliseconds instead of microseconds


@dataclass(frozen=True)
class Fault:
    """What no reader may do with the bytes it is given."""

    reader: str
    what: str
    body: bytes

    def __str__(self) -> str:
        shown = self.body if len(self.body) < 300 else self.body[:300] + b"..."
        return f"{self.reader}: {self.what}\n    {len(self.body)} bytes: {shown!r}"


class Hang(BaseException):
    """A reader that takes longer than it may; no `except Exception` keeps it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Hang after so many seconds of this process's own work, which a busy host does not make longer."""

    def over(_: int, __: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fault_of(reader: Reader, body: bytes) -> Fault | None:
    """What is wrong with the way this reader takes these bytes, if anything is."""
    try:
        with time_limit(LIMIT_S):
            reader.read(body)
    except Hang:
        return Fault(reader.name, f"is not done after {LIMIT_S:g} s of work", body)
    except reader.may_raise as error:
        text = str(error)
        return Fault(reader.name, f"a message of {len(text):,} characters", body) if len(text) > 5_000 else None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Fault(reader.name, f"{type(error).__name__}: {str(error)[:200]}", body)
    return None


def readers() -> list[Reader]:
    """All of them; each keeps what it needs in a folder of its own, until the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="sojourn-fuzz-"))
    return [
        *_records(),
        *_shown(),
        *_metrics(folder),
        *_on_the_machine(folder),
        *_of_the_user(folder),
        *_stores(folder),
    ]


def _sample(*names: str) -> tuple[bytes, ...]:
    return tuple((CORPUS / name).read_bytes() for name in names)


def _ledger() -> tuple[str, ...]:
    return tuple(sorted(file.name for file in CORPUS.glob("ledger-*.json")))


_KINDS: dict[str, tuple[type[Record], tuple[str, ...]]] = {
    "plan": (Plan, ("plan.json",)),
    "order": (Order, ("order.json",)),
    "bundle": (Bundle, ("bundle.json",)),
    "inputs": (Inputs, ("inputs.json",)),
    "outcome": (Outcome, ("outcome.json",)),
    "receipt": (Receipt, ("receipt.json",)),
    "report": (Report, ("report.json",)),
    "ledger entry": (Entry, _ledger()),
    "owner": (Beat, ("owner.json",)),
    "hello": (Hello, ("hello.json",)),
    "exit": (Exit, ("exit.json",)),
    "manifest": (Manifest, ("out.json", "ckpt.json")),
    "scalars": (Scalars, ("scalars.json",)),
    "exec request": (ExecRequest, ("exec-1.json",)),
    "exec answer": (ExecAnswer, ("exec.json",)),
}
_SMALL: dict[str, tuple[type[Record], dict[str, Any]]] = {
    "stop": (StopRequest, {"reason": "asked", "at": NOW, "grace_s": 5.0}),
    "purge mark": (Mark, {"owner": "ada"}),
    "checkpoint": (Checkpoint, {"run": "old-owl-0a1b", "attempt": 1, "sequence": 1, "at": NOW, "files": []}),
    "boot": (
        Boot,
        {
            "store": "file:///s",
            "project": "p",
            "run": "r",
            "attempt": 1,
            "lease": "l",
            "nodes": 1,
            "deadline_at": NOW,
            "grace_s": 60.0,
        },
    ),
}


def _records() -> Iterator[Reader]:
    for name, (kind, corpus) in _KINDS.items():
        yield Reader(name, _sample(*corpus), lambda body, kind=kind: decode(body, kind, "control/p/r/x.json"))
    for name, (kind, values) in _SMALL.items():
        sample = json.dumps(values).encode()
        yield Reader(name, (sample,), lambda body, kind=kind: decode(body, kind, "control/p/r/x.json"))
    yield Reader("a machine's beat", _sample("beat.json"), lambda body: decode(body, MachineBeat, "beat.json"))
    yield Reader("an object", _sample("beat.json"), lambda body: decode_object(body, "beat.json"))


def _shown() -> Iterator[Reader]:
    """Records that can be read are shown too, whatever stands in their fields."""
    yield Reader("plan, shown", _sample("plan.json"), _show_plan)
    yield Reader("report, shown", _sample("report.json"), _show_report)
    yield Reader("receipt, shown", _sample("receipt.json"), _show_receipt)
    yield Reader("ledger, folded", _sample(*_ledger()), _fold)


def _quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def _show_plan(body: bytes) -> None:
    plan = decode(body, Plan, "plan.json")
    list(plan_text.lines(plan)), list(plan_text.short(plan)), artifacts.plan_page(plan)


def _show_report(body: bytes) -> None:
    report = decode(body, Report, "report.json")
    artifacts.report_page(report)
    with _output():
        console.show_report(report)
        console.show_series(report)


def _show_receipt(body: bytes) -> None:
    receipt = decode(body, Receipt, "receipt.json")
    artifacts.receipt_page(receipt)
    with _output():
        console.show_receipt(receipt)


@contextmanager
def _output() -> Iterator[None]:
    """What is printed goes nowhere."""
    with console.out.capture():
        yield


def _fold(body: bytes) -> None:
    """The ledger of the corpus with this entry in its place."""
    damaged = decode(body, Entry, "ledger/000001.json")
    entries = [decode(one, Entry, "ledger") for one in _sample(*_ledger())]
    for at in range(len(entries)):
        some = [*entries[:at], damaged, *entries[at + 1 :]]
        fold(some), where_it_stands(some, NOW)


def _metrics(folder: Path) -> Iterator[Reader]:
    for name, sample in METRICS.items():
        yield Reader(f"{name}, for the report", (sample,), lambda body, name=name: metric_files.read(name, body))
        yield Reader(
            f"{name}, on the machine", (sample,), lambda body, name=name: scalars.numbers(name, body), may_raise=()
        )
    yield Reader(
        "event file", (_events(),), lambda body: _read_events(folder / "events", body), (tfevents.NoEventsError,)
    )
    log = b"step 1 loss 0.5\n{'loss': 0.25, 'epoch': 1.0}\n[rank 0] step 2 loss nan\rloss 1e400\n"
    yield Reader("log", (log,), lambda body: _read_log(body), may_raise=())


def _events() -> bytes:
    """An event file with three scalars."""
    body = b""
    for step in range(3):
        value = b"\x0a\x04loss\x15" + b"\x00\x00\x80>"
        summary = b"\x0a" + bytes([len(value)]) + value
        event = b"\x09" + b"\x00" * 8 + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
        header = len(event).to_bytes(8, "little")
        check = tfevents.masked(tfevents.crc32c(header)).to_bytes(4, "little")
        body += header + check + event + tfevents.masked(tfevents.crc32c(event)).to_bytes(4, "little")
    return body


def _read_events(file: Path, body: bytes) -> None:
    file.write_bytes(body)
    with file.open("rb") as opened:
        tfevents.read(opened, 0, 1 << 20)


def _read_log(body: bytes) -> None:
    reader = LogReader({"loss": r"loss ([0-9.e+-]+)", "steps": r"of (\d+)"}, lambda _: None)
    for start in range(0, len(body), 1000):
        reader.feed(body[start : start + 1000])
    reader.close()


def _on_the_machine(folder: Path) -> Iterator[Reader]:
    keys = b'{"AccessKeyId": "AKIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2026-11-29T12:00:00Z"}'
    names = ["AccessKeyId", "SecretAccessKey"]
    yield Reader("metadata", (keys,), lambda body: imds._strings(body.decode("utf-8", "replace"), names), (OSError,))
    printed, state = folder / "keys", folder / "state.json"

    def read_printed(body: bytes) -> None:
        printed.write_bytes(body)
        credentials._printed(["cat", str(printed)])

    def read_state(body: bytes) -> None:
        state.write_bytes(body)
        files.read(str(state))

    yield Reader("credentials of a command", (keys,), read_printed, (OSError,), slow=True)
    yield Reader("state file", (b'{"pid": 1}',), read_state, may_raise=())


def _describe(folder: Path) -> None:
    describe(folder, folder)


_PYPROJECT = b"""
[project]
name = "digits"
version = "1"
requires-python = ">=3.10"
dependencies = ["torch"]
[tool.uv.workspace]
members = ["a/*"]
"""
_LAUNCH = b"seed: 1\nlaunch:\n  command: python train.py\n  nodes: 2\n  metrics: {loss: 'loss (.*)'}\n"
_SETUP_CFG = b"[metadata]\nname = digits\nversion = attr: digits.__version__\n[options]\npackage_dir =\n  = src\n"
_SETUP_PY = b"""
from setuptools import setup
setup(name="digits", version="1", entry_points={"console_scripts": ["digits = digits:main"]})
"""
_URL = b'{"url": "file:///home/ada/lib", "dir_info": {"editable": true}}'
# What stands in a user's project and home: reader, file, real bytes, how it is read from the file's folder.
_FILES: list[tuple[str, str, bytes, Callable[[Path], object]]] = [
    ("params.yaml", "params.yaml", _LAUNCH, params.read_section),
    ("launch", "params.yaml", _LAUNCH, lambda at: read_launch(at, {})),
    ("pyproject.toml", "pyproject.toml", _PYPROJECT, _describe),
    ("setup.cfg", "setup.cfg", _SETUP_CFG, _describe),
    ("setup.py", "setup.py", _SETUP_PY, _describe),
    ("requires-python", "pyproject.toml", _PYPROJECT, lambda at: target._required(at, None)),
    ("direct_url.json", "direct_url.json", _URL, lambda at: list(current._direct(at / "direct_url.json"))),
    ("served folders", environment.SERVED, b'["a", "b"]', environment._served_folders),
    ("stores.json", "stores.json", b'{"stores": ["file:///a"]}', remembered),
]


def _of_the_user(folder: Path) -> Iterator[Reader]:
    for name, file, sample, read in _FILES:
        at = folder / f"{name}.dist-info"
        yield Reader(name, (sample,), lambda body, at=at, file=file, read=read: _in(at, file, body, read))
    placings = Placings(folder / "marks", folder)
    placings._file.parent.mkdir(parents=True, exist_ok=True)
    marks = b'{"root": "/a", "identity": [1, 2], "paths": {"a.txt": []}, "made": []}'

    def read_marks(body: bytes) -> None:
        placings._file.write_bytes(body)
        placings.made(), placings.untouched()

    yield Reader("marks", (marks,), read_marks)


def _in(folder: Path, name: str, body: bytes, read: Callable[[Path], object]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(body)
    read(folder)


class _Silent:
    """Who is told what happens, and does not care."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _Cloud:
    """An account in which one machine of the run stands, past its deadline."""

    name = "cloud"

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.released: list[str] = []

    def leases(self) -> list[Lease]:
        name = f"sojourn-{self._mailbox.run}-1-0"
        if name in self.released:
            return []
        machine = Machine(name=f"{name}-n0", state="running", created_at=1.0)
        return [
            Lease(
                name=name, project="p", run=self._mailbox.run, attempt=1, deadline_at=1000.0, machines=(machine,),
                store=self._mailbox.store.url,
            )
        ]  # fmt: skip

    def release(self, name: str) -> bool:
        self.released.append(name)
        return True

    def release_all(self, names: Sequence[str]) -> list[bool | Exception]:
        return [self.release(name) for name in names]

    def lookalikes(self) -> list[Lookalike]:
        return []


class _Run:
    """A store with the run of the corpus, one of whose records is damaged, and a sound one beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store((folder / "store").as_uri())
        self.sound = self._written("calm-sound-0a1b")
        self.damaged = self._written("early-jay-fcd0")

    def _written(self, run: str) -> Mailbox:
        box = Mailbox(self.store, "p", run)
        named = lambda name: (CORPUS / name).read_bytes().replace(b"early-jay-fcd0", run.encode())  # noqa: E731
        for name in ("plan", "bundle", "inputs", "outcome", "receipt", "report", "owner"):
            self.store.put(f"{box.control}/{name}.json", named(f"{name}.json"))
        for number, name in enumerate(_ledger()):
            self.store.put(f"{box.control}/ledger/{number:06d}.json", named(name))
        box.post_order(decode(named("order.json"), Order, "order"))
        for name in ("hello", "exit", "beat"):
            self.store.put(f"{box.machine}/1/0/{name}.json", named(f"{name}.json"))
        for name in ("out", "ckpt", "commit"):
            self.store.put(f"{box.machine}/1/0/{name}/00000001.json", named(f"{name}.json"))
        self.store.put(f"{box.machine}/1/0/scalars/00000000.json", named("scalars.json"))
        return box

    def records(self) -> list[str]:
        """Every record of the run that is damaged."""
        box = self.damaged
        return [*self.store.keys(box.control), *self.store.keys(box.machine)]

    def asked(self, key: str, body: bytes) -> None:
        """With this object damaged: the run is told of in sentences, and all others as if nothing were."""
        whole = self.store.get(key)
        self.store.put(key, body)
        try:
            self._ask()
        finally:
            self.store.put(key, whole)

    def told(self, body: bytes) -> None:
        """With this in place of the page of closed runs: every run is listed all the same."""
        self.store.clear(closed_pages("p"))
        self.store.put(f"{closed_pages('p')}/000002-0.json", body)
        assert {self.sound.run, self.damaged.run} == {line.run for line in list_runs([self.store])}

    def _ask(self) -> None:
        self.store.clear(closed_pages("p"))  # they tell of a run without a look at its records
        lines = {line.run: line for line in list_runs([self.store])}
        assert lines[self.sound.run].state == "succeeded" and self.damaged.run in lines
        with _output():
            console.show_runs(lines.values(), NOW)
        find_run([self.store], "last")
        assert self.sound.run in {one.run for one in past_runs(self.store, "p")}
        cloud: Any = _Cloud(self.damaged)
        findings = list(reap([self.store], [cloud], lambda *_: None, now=NOW, dry_run=False))
        assert cloud.released, [finding.reason for finding in findings]
        purge(self.store, self.folder, now=NOW, older_than_s=0, remove=False)
        for ask in (records_of, entries_of, checkpoint.newest, retained.count_left, self._collected):
            try:
                ask(self.damaged)
            except SojournError as error:
                assert error.message

    def _collected(self, box: Mailbox) -> Collected:
        plan = decode((CORPUS / "plan.json").read_bytes(), Plan, "plan")
        Follower(plan, box, _Silent(), SystemClock())._status(State(), NOW)
        box.exit(1, 0), box.hello(1, 0), box.beat(1, 0), list(box.scalars(1, 0)), list(box.log(1, 0))
        return collect(box, 1, 1)


def _stores(folder: Path) -> Iterator[Reader]:
    run = _Run(folder)
    names = run.records()
    keys = itertools.cycle(names)
    samples = tuple(run.store.get(key) for key in names)
    yield Reader("a store", samples, lambda body: run.asked(next(keys), body), may_raise=(), slow=True)
    list_runs([run.store])
    (page,) = (run.store.get(key) for key in run.store.keys(closed_pages("p")))
    yield Reader("a page of closed runs", (page,), run.told, may_raise=(), slow=True)
