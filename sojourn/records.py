"""The words of the house as frozen values: what is written to the store and read back.

Every record prints itself as JSON. Times are seconds since the epoch by the store's
clock, durations are seconds, sizes are bytes, money is US dollars, paths are relative
and use forward slashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import count
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Record(BaseModel):
    """A frozen value; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    INDENT: ClassVar[int | None] = 1

    def to_bytes(self) -> bytes:
        """The record as UTF-8 JSON."""
        return self.model_dump_json(indent=self.INDENT).encode()


Network = Literal["internet", "none"]


# --- what goes to the machine -----------------------------------------------------------


class Link(Record):
    """A symbolic link in a tree; its target, relative to its folder, never leaves the root."""

    path: str
    target: str


class FileEntry(Record):
    """One file of a manifest: where it goes and the bytes that must arrive there."""

    path: str
    hash: str = Field(description="`sha256:<hex>`, or `md5:<hex>` for a file that DVC hashed")
    size: int
    mode: int = 0o644
    mtime_ns: int | None = Field(default=None, description="When it was written last; scripts take the newest by it")
    source: str = Field(description="A key in the run's store, or a whole URL (`file:///…`, `s3://…`)")
    shown: str | None = Field(default=None, description="The key of a copy without secrets, for whoever tells of it")
    offset: int | None = Field(default=None, description="Where it begins in a source that holds several small files")
    link: Link | None = Field(default=None, description="By which it was reached: the file itself or a folder above")


class Bundle(Record):
    """The source tree that a run sees, content-addressed."""

    archives: tuple[FileEntry, ...] = Field(default=(), description="A .tar.gz each, of the files up to 1 MB")
    files: tuple[FileEntry, ...] = Field(description="The larger files, one blob each")
    listing: tuple[FileEntry, ...] = Field(description="Every file with its own hash, in the archive or not")
    links: tuple[Link, ...] = ()
    folders: tuple[str, ...] = Field(default=(), description="Those that hold no file")
    directory: str = Field(description="Where the command runs, relative to the root; '.' is the root")
    commit: str | None = Field(default=None, description="The git commit the tree stood on")
    changed: int = Field(default=0, description="Files that differ from that commit")
    history: FileEntry | None = Field(default=None, description="A .tar of a `.git` that holds that commit alone")

    @model_validator(mode="before")
    @classmethod
    def _with_one_archive(cls, written: Any) -> Any:
        """Bundles of versions that had a single archive can be read too."""
        if isinstance(written, dict) and "archive" in written:
            one = written["archive"]
            rest = {name: value for name, value in written.items() if name != "archive"}
            return {**rest, "archives": (one,) if one else ()}
        return written

    @property
    def bytes(self) -> int:
        """The size of all files, unpacked."""
        return sum(entry.size for entry in self.listing)


class Command(Record):
    """What the machine starts, and whether torchrun starts it."""

    argv: tuple[str, ...] = Field(description="The program and its arguments, as the user wrote them")
    shell: bool = Field(default=False, description="argv holds a script, read by its `#!` line or the interpreter")
    interpreter: tuple[str, ...] = Field(default=("/bin/sh", "-e"), description="Reads a script without a `#!` line")
    wrap: int | None = Field(
        default=None,
        description="How many leading words come before `python` when torchrun wraps it (0 for `python x.py`, "
        "2 for `uv run python x.py`); None starts it once on each node as it is",
    )
    processes: int | Literal["gpu"] = Field(default=1, description="Ranks on each node")


class LocalPackage(Record):
    """A package whose code lies in the bundle: the script's Python sees it as if it were installed."""

    name: str
    version: str
    directory: str = Field(description="Where its pyproject.toml or setup.py lies, relative to the root")
    paths: tuple[str, ...] = Field(description="Directories that its modules are imported from, relative to the root")
    metadata: str = Field(description="The text of METADATA")
    entry_points: str = Field(default="", description="The text of entry_points.txt")
    scripts: dict[str, str] = Field(default_factory=dict, description="Console scripts: name to `module:function`")
    files: dict[str, str] = Field(
        default_factory=dict, description="Programs that are files of the tree: name to path relative to the root"
    )
    generated: dict[str, str] = Field(
        default_factory=dict,
        description="Modules that its build would write, where the tree lacks them: path relative to the root to text",
    )


class Setup(Record):
    """The Python environment that a machine makes for itself before the script starts."""

    digest: str
    python: str = Field(description="Like 3.12; the image's own where it has that one")
    packages: int
    tool: FileEntry = Field(description="uv for the machine's platform, gzipped")
    requirements: FileEntry = Field(description="One line for each package; its paths begin where the tree lies")
    files: tuple[FileEntry, ...] = Field(description="What is installed from here instead of an index")
    network: Network = Field(description="Whether the rest may be fetched")
    variables: dict[str, str] = Field(
        default_factory=dict, description="For what is built on the machine: the versions that git's tags tell here"
    )


class Order(Record):
    """What the agents of one attempt must do. Written once, read by every node."""

    run: str
    project: str
    attempt: int
    nodes: tuple[str, ...] = Field(description="Machine names in rank order")
    master_address: str
    master_port: int
    command: Command
    bundle: Bundle
    inputs: tuple[FileEntry, ...] = ()
    clear: tuple[str, ...] = Field(default=(), description="Paths removed before the inputs come: of older checkpoints")
    remove: tuple[str, ...] = Field(default=(), description="Paths removed before the start: outputs of an older run")
    path: tuple[str, ...] = Field(
        default=(), description="Directories put before the machine's own PATH; relative ones begin at the tree's root"
    )
    setup: Setup | None = Field(default=None, description="What the machine makes first, and puts before that PATH")
    environment: dict[str, str] = Field(default_factory=dict)
    directories: dict[str, str] = Field(
        default_factory=dict, description="Variables that hold a directory of the tree, with its path from the root"
    )
    packages: tuple[LocalPackage, ...] = Field(default=(), description="Served from the tree")
    python_path: tuple[str, ...] = Field(
        default=(), description="PYTHONPATH; what is relative begins at the tree's root, and goes before packages"
    )
    secrets: tuple[str, ...] = Field(default=(), description="Names the machine's own environment must hold")
    outputs: tuple[str, ...] | None = Field(
        default=None, description="Paths that come home; None is everything new or changed"
    )
    named: tuple[str, ...] = Field(default=(), description="What comes home even when git ignores it")
    ignore: tuple[str, ...] = Field(default=(), description="gitignore lines for what does not come home")
    bring: float | None = Field(
        default=None, description="Bytes that come home of each file and folder at the top that nobody named"
    )
    keep: float = Field(default=0, description="Bytes of what does not come home that are kept in the store")
    checkpoint: tuple[str, ...] = Field(default=(), description="Patterns of checkpoint files")
    metrics: tuple[str, ...] = Field(default=(), description="JSON files of metrics, read while the script runs")
    deadline_at: float
    grace_s: float
    commit_every_s: float = 15.0
    hold_s: float = Field(default=0.0, description="How long the machines stay for somebody to look, if it fails")


class Stop(Record):
    """A request to end the script early."""

    reason: str
    at: float


class ExecRequest(Record):
    """A command for one machine, while its script runs or it is held."""

    node: int
    argv: tuple[str, ...]
    timeout_s: float
    at: float
    until: float = Field(description="Nobody waits any more for a command that is found after this")


# --- what comes back --------------------------------------------------------------------


class Hello(Record):
    """A machine's first words."""

    name: str
    node: int
    identity: str | None = Field(default=None, description="The provider's own id, where the machine knows it")
    address: str
    port: int = Field(description="A free port for the rendezvous, should this node become rank 0")
    clock: float
    cpus: int
    memory: int
    gpus: tuple[str, ...] = ()
    python: str
    version: str = Field(description="The agent's own version")
    seal: str | None = Field(default=None, description="The SHA-256 of what its last words will show")


class ExecAnswer(Record):
    """How a command ended, or why it was not run."""

    exit_code: int | None = Field(
        default=None, description="As the shell counts, 124 when its time was over; None when it was not run to its end"
    )
    signal: str | None = None
    message: str | None = None
    started_at: float
    ended_at: float
    stdout_bytes: int = Field(default=0, description="Printed in all; the beginning of it is kept")
    stderr_bytes: int = 0


class Remainder(Record):
    """Files that do not come home for one reason: kept in the store, or on their machine alone."""

    reason: str
    kept: bool
    paths: tuple[str, ...] = Field(description="The topmost, the largest first; a folder ends with / and is whole")
    unnamed: int = Field(default=0, description="How many more paths there are")
    files: int
    bytes: int
    seconds: float | None = Field(default=None, description="How long storing it would have taken, where that is known")


class MachineBeat(Record):
    """A machine's newest sign of life."""

    at: float
    phase: str = "waiting"
    bytes_done: int = Field(default=0, ge=0, le=1 << 60, description="Of what it fetches before the script starts")
    bytes_total: int = Field(default=0, ge=0, le=1 << 60)
    leaving: tuple[Remainder, ...] = Field(default=(), description="What will not come home as things are")


class Manifest(Record):
    """A commit: these files, these bytes, all in the store."""

    sequence: int
    at: float
    files: tuple[FileEntry, ...]
    account: tuple[Remainder, ...] = Field(default=(), description="Of a commit of what does not come home")


class Segment(NamedTuple):
    """A piece of a machine's log, and when the store took it."""

    body: bytes
    at: float


class Scalar(NamedTuple):
    """One number that the agent read from a file the script writes; None is what the file does not say."""

    source: Literal["tensorboard", "file"]
    folder: str
    name: str
    step: float | None
    value: float | None
    at: float


class Scalars(Record):
    """The numbers that were new since the agent's last look."""

    points: tuple[Scalar, ...]


class Checkpoint(Record):
    """A complete checkpoint of a run: every node had committed it."""

    run: str
    attempt: int
    sequence: int
    at: float
    files: tuple[FileEntry, ...] = Field(description="With paths from the root of the tree")
    without: tuple[str, ...] = Field(default=(), description="Written beside these files, and no part of it")

    @property
    def bytes(self) -> int:
        """The size of all files; a link to one is none."""
        return sum(entry.size for entry in self.files if entry.link is None)


class Hold(Record):
    """The time for which a machine stays after its script has failed, for somebody to look at it."""

    since: float
    until: float = Field(description="At the latest; never after the deadline")


class RankExit(Record):
    """How one rank ended."""

    rank: int
    exit_code: int = Field(description="As the shell counts: 128 + N after signal N")
    signal: str | None = None
    at: float


ExitReason = Literal["exited", "stopped", "deadline", "refused", "peer", "fault", "preempted"]


class Exit(Record):
    """A machine's last words about the script."""

    node: int
    reason: ExitReason = Field(
        description="exited by itself; stopped on request; deadline; refused (never started: bad input data, "
        "disk full, no interpreter); peer (another node ended first); fault (the agent itself failed); "
        "preempted (the cloud takes the machine back)"
    )
    exit_code: int | None = None
    interrupted: bool = Field(default=False, description="The script was asked to end, and did not come to its own end")
    signal: str | None = None
    message: str | None = Field(default=None, description="Why it was refused, or what was odd, in one sentence")
    ranks: tuple[RankExit, ...] = ()
    failed_rank: int | None = Field(default=None, description="The rank that failed first")
    tail: str = Field(default="", description="The last lines of the log, of the failed rank where there is one")
    started_at: float | None = None
    ended_at: float
    lost: tuple[str, ...] = Field(default=(), description="What the script made and the store did not take")
    output: int | None = Field(default=None, description="Sequence of the newest output manifest")
    checkpoint: int | None = Field(default=None, description="Sequence of the newest checkpoint manifest")
    kept: int | None = Field(default=None, description="Of what does not come home; 0 for none, earlier ones say none")
    log_segments: int = 0
    log_bytes: int = 0
    hold: Hold | None = Field(default=None, description="The machine stays; all that is kept of it is in the store")
    seal: str | None = Field(default=None, description="What only the agent knew that said hello")

    def is_sealed(self, seal: str | None) -> bool:
        """Whether the agent that said hello with this seal wrote it; those of earlier versions have none."""
        return seal is None or hashlib.sha256((self.seal or "").encode()).hexdigest() == seal


RunState = Literal["succeeded", "failed", "stopped", "deadline", "refused", "lost"]


class Outcome(Record):
    """How the attempt ended, over all its machines."""

    state: RunState
    exit_code: int | None = None
    signal: str | None = None
    message: str
    tail: str = ""
    failed_rank: int | None = None
    failed_node: int | None = None
    started_at: float | None = None
    ended_at: float
    exits: tuple[Exit, ...] = ()
    hold: Hold | None = Field(default=None, description="The machines stay for somebody to look at them")


# --- what is rented ---------------------------------------------------------------------


Market = Literal["on-demand", "spot"]


class GpuNeed(Record):
    """The GPUs that a machine must have."""

    name: str | None = Field(default=None, description="The model, as people say it; any if absent")
    count: int = 1
    memory: int | None = Field(default=None, description="Of each GPU, at least")


class Need(Record):
    """What the machines of a run must be; what is absent may be anything."""

    machine: str | None = Field(default=None, description="A type of the provider, or a size like `l+t4`")
    gpu: GpuNeed | None = None
    cpus: int | None = Field(default=None, description="At least")
    memory: int | None = Field(default=None, description="At least")
    disk: int | None = None
    image: str | None = None
    market: Market | None = None
    regions: tuple[str, ...] = ()
    network: Network = "internet"
    nodes: int = 1
    cluster: bool = Field(default=False, description="Several machines stand near each other")
    until: float | None = Field(default=None, description="When they are gone at the latest")
    project: str | None = Field(default=None, description="Whose machines they will be; without it nothing is rented")
    data: tuple[str, ...] = Field(default=(), description="URLs of the buckets that they read")
    secrets: tuple[str, ...] = Field(default=(), description="Names that the account must keep a value for")


class Offer(Record):
    """A machine in a place at a price."""

    provider: str
    machine: str
    place: str
    price: float = Field(description="Dollars an hour for one machine, with its disk and address")
    cpus: int
    memory: int
    gpus: tuple[str, ...] = ()
    gpu_memory: int | None = Field(default=None, description="Of each GPU, where it is known")
    region: str | None = None
    market: Market = "on-demand"
    architecture: str = "x86_64"
    python: str | None = Field(default=None, description="The version of python3 on its image, where it is known")
    price_note: str | None = Field(
        default=None, description="Where the price comes from when it is not the provider's own word; then an estimate"
    )
    transfer: float = Field(default=0.0, description="Dollars for each GB that a machine there reads of the run's data")
    makes: tuple[str, ...] = Field(default=(), description="What its lease has beside what all of the provider's have")
    quota: str | None = Field(default=None, description="What of the account's limit is taken and left, in words")
    details: dict[str, Any] = Field(
        default_factory=dict, description="The provider's own: all that its `request` needs beside the boot"
    )


class Offers(Record):
    """What a provider answers to a need."""

    fitting: tuple[Offer, ...] = Field(description="In the order in which to try them, the cheapest first")
    remarks: tuple[str, ...] = Field(default=(), description="What was left out and why, and what could not be asked")


class Capability(Record):
    """What a provider's timers can end without us, and what the user must know."""

    provider: str
    layers: dict[str, str] = Field(description="Each layer that ends the spending, in words")
    condition: str = Field(default="", description="What its timers need to run, like `if this host is on`")
    warnings: tuple[str, ...] = ()
    makes_each: tuple[str, ...] = Field(default=("machine",), description="What every machine consists of")
    makes_once: tuple[str, ...] = Field(default=(), description="What a lease has beside its machines")
    shares_host: bool = Field(default=True, description="Machines see this host's files and programs")
    ask_every_s: float = Field(default=0.0, description="It is asked no more often than this")
    visible_after_s: float = Field(default=0.0, description="For this long it may deny what it has just made")


class Boot(Record):
    """What every machine of a lease is told at its birth: a pure function of the plan, no secret in it."""

    store: str = Field(description="URL of the store that holds the mailbox")
    store_region: str | None = Field(default=None, description="Where its bucket lies, for a store in a cloud")
    project: str
    run: str
    place: str = Field(default="", description="What nobody can guess of where the run's machines read and write")
    attempt: int
    lease: str = Field(description="The lease's name, which is its idempotency token")
    nodes: int
    deadline_at: float
    grace_s: float = Field(description="After the deadline: to stop, commit and go")
    metadata: Literal["ec2"] | None = Field(default=None, description="Whose service on the machine tells of its end")
    life_s: float = Field(
        default=2 * 86400.0, description="The longest that a machine may live, whatever its clock says"
    )
    order_wait_s: float = Field(default=600.0, description="Without an order for this long a machine ends itself")
    variables: tuple[str, ...] = Field(
        default=(), description="Names of what a machine that is this host keeps of its environment; NAME_* for several"
    )


class Machine(Record):
    """One machine of a lease as its provider sees it."""

    name: str
    state: Literal["starting", "running", "ended", "gone"] = Field(
        description="ended: the script's processes are over but something of it still stands; gone: nothing does"
    )
    identity: str | None = Field(default=None, description="The provider's own id")
    created_at: float | None = None
    ended_at: float | None = None
    ended_by: str | None = Field(default=None, description="The layer that ended it, where the provider knows")
    kept: str | None = Field(default=None, description="Where its host keeps what the store may not have taken")
    taken_back: bool = Field(default=False, description="Its cloud ended it for reasons of its own")


class Part(Record):
    """Something else that a lease has in its cloud: a volume, a schedule."""

    kind: str
    name: str
    state: Literal["standing", "gone"] = "standing"
    identity: str | None = None
    created_at: float | None = None


class Lease(Record):
    """The machines of one attempt, found by name: complete, half-made or ended."""

    name: str
    project: str
    run: str
    attempt: int
    deadline_at: float
    grace_s: float = Field(default=0.0, description="After the deadline, for its machines to stop, commit and go")
    machines: tuple[Machine, ...]
    parts: tuple[Part, ...] = Field(default=(), description="What else of it stands")
    store: str | None = Field(default=None, description="URL of the store that holds its run's ledger, where known")

    @property
    def ends_at(self) -> float:
        """When its own timers end it."""
        return self.deadline_at + self.grace_s

    def named(self, names: Mapping[str, str]) -> Lease:
        """The same, with its machines called as they call themselves, by their ids; the others as far as that goes."""
        kept = {one.name for one in self.machines if one.identity not in names} - set(names.values())
        free = (name for node in count() if (name := f"{self.name}-n{node}") not in {*kept, *names.values()})
        called = [
            names.get(one.identity or "") or (one.name if one.name in kept else next(free)) for one in self.machines
        ]
        machines = [one.model_copy(update={"name": name}) for one, name in zip(self.machines, called, strict=True)]
        return self.model_copy(update={"machines": tuple(sorted(machines, key=lambda one: (len(one.name), one.name)))})

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return all(machine.state == "gone" for machine in self.machines) and not any(
            part.state == "standing" for part in self.parts
        )


class Lookalike(Record):
    """Somebody's machine that carries the tags of a lease, and was not made by its request."""

    identity: str = Field(description="The provider's own id")
    lease: str
    project: str


class Resource(Record):
    """One line of the receipt."""

    kind: str
    name: str
    identity: str | None = None
    created_at: float | None = None
    released_at: float | None = None
    asked_at: float | None = Field(default=None, description="When the run asked for it")
    gone_at: float | None = Field(default=None, description="When the provider was last asked and answered gone")
    ended_by: str | None = None
    seconds: float = 0.0
    cost: float = 0.0
    held_s: float = Field(default=0.0, description="Those of its seconds that came after the script had failed")


class Attempt(Record):
    """The machines of one attempt, and how it went."""

    number: int
    machine: str
    place: str
    market: Market
    nodes: int
    state: str = Field(description="lost, or how the run ended; open while it goes on")
    message: str = ""
    seconds: float = Field(default=0.0, description="Of all its machines together")
    cost: float = 0.0


Standing = Literal["closed", "closing", "open"]


class Left(Record):
    """What a run leaves in its store on purpose, in bytes."""

    store: str = Field(default="", description="Its URL")
    source: int = Field(default=0, description="Bundle, inputs, wheels; shared by hash with other runs")
    results: int = 0
    checkpoints: int = 0
    kept: int = Field(default=0, description="What the script wrote beside its results, for `sojourn pull`")
    logs: int = Field(default=0, description="With the numbers that were read from the script's files")
    records: int = Field(default=0, description="Plan, ledger, orders, receipt")
    until: float | None = Field(default=None, description="When the store forgets them; by sojourn purge where absent")

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.source + self.results + self.checkpoints + self.kept + self.logs + self.records


class Receipt(Record):
    """Proof of teardown: every resource the run ever asked for."""

    state: Standing = Field(
        description="closed: all gone; closing: it goes, and is not confirmed gone yet; "
        "open: it stands, and nobody has taken the request to end it"
    )
    resources: tuple[Resource, ...]
    attempts: tuple[Attempt, ...] = ()
    cost: float = 0.0
    held_s: float = Field(default=0.0, description="For somebody to look, of all machines together")
    held_cost: float = Field(default=0.0, description="What of the cost is that")
    leaves: Left = Left()

    @property
    def standing(self) -> tuple[Resource, ...]:
        """What is not confirmed gone."""
        return tuple(one for one in self.resources if one.gone_at is None)
