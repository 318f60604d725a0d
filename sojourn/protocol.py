"""What the orchestrator and the agents of its machines write for each other, through the store.

Times are seconds since the epoch by the store's clock.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from sojourn.records import FileEntry, Link, Many, Network, Record


class Bundle(Record):
    """The source tree that a run sees, content-addressed."""

    archives: Many[FileEntry] = Field(default=(), description="A .tar.gz each, of the files up to 1 MB")
    files: Many[FileEntry] = Field(description="The larger files, one blob each")
    listing: Many[FileEntry] = Field(description="Every file with its own hash, in the archive or not")
    links: Many[Link] = ()
    folders: Many[str] = Field(default=(), description="Those that hold no file")
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

    argv: Many[str] = Field(description="The program and its arguments, as the user wrote them")
    shell: bool = Field(default=False, description="argv holds a script, read by its `#!` line or the interpreter")
    interpreter: Many[str] = Field(default=("/bin/sh", "-e"), description="Reads a script without a `#!` line")
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
    paths: Many[str] = Field(description="Directories that its modules are imported from, relative to the root")
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
    files: Many[FileEntry] = Field(description="What is installed from here instead of an index")
    network: Network = Field(description="Whether the rest may be fetched")
    variables: dict[str, str] = Field(
        default_factory=dict, description="For what is built on the machine: the versions that git's tags tell here"
    )


class Order(Record):
    """What the agents of one attempt must do. Written once, read by every node."""

    run: str
    project: str
    attempt: int
    nodes: Many[str] = Field(description="Machine names in rank order")
    master_address: str
    master_port: int
    command: Command
    bundle: Bundle
    inputs: Many[FileEntry] = ()
    clear: Many[str] = Field(default=(), description="Paths removed before the inputs come: of older checkpoints")
    remove: Many[str] = Field(default=(), description="Paths removed before the start: outputs of an older run")
    path: Many[str] = Field(
        default=(), description="Directories put before the machine's own PATH; relative ones begin at the tree's root"
    )
    setup: Setup | None = Field(default=None, description="What the machine makes first, and puts before that PATH")
    environment: dict[str, str] = Field(default_factory=dict)
    directories: dict[str, str] = Field(
        default_factory=dict, description="Variables that hold a directory of the tree, with its path from the root"
    )
    packages: Many[LocalPackage] = Field(default=(), description="Served from the tree")
    python_path: Many[str] = Field(
        default=(), description="PYTHONPATH; what is relative begins at the tree's root, and goes before packages"
    )
    secrets: Many[str] = Field(default=(), description="Names the machine's own environment must hold")
    outputs: tuple[str, ...] | None = Field(
        default=None, description="Paths that come home; None is everything new or changed"
    )
    named: Many[str] = Field(default=(), description="What comes home even when git ignores it")
    ignore: Many[str] = Field(default=(), description="gitignore lines for what does not come home")
    bring: float | None = Field(
        default=None, description="Bytes that come home of each file and folder at the top that nobody named"
    )
    keep: float = Field(default=0, description="Bytes of what does not come home that are kept in the store")
    checkpoint: Many[str] = Field(default=(), description="Patterns of checkpoint files")
    metrics: Many[str] = Field(default=(), description="JSON files of metrics, read while the script runs")
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
    argv: Many[str]
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
    gpus: Many[str] = ()
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
    paths: Many[str] = Field(description="The topmost, the largest first; a folder ends with / and is whole")
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
    leaving: Many[Remainder] = Field(default=(), description="What will not come home as things are")


class Manifest(Record):
    """A commit: these files, these bytes, all in the store."""

    sequence: int
    at: float
    files: Many[FileEntry]
    account: Many[Remainder] = Field(default=(), description="Of a commit of what does not come home")


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

    points: Many[Scalar]


class Checkpoint(Record):
    """A complete checkpoint of a run: every node had committed it."""

    run: str
    attempt: int
    sequence: int
    at: float
    files: Many[FileEntry] = Field(description="With paths from the root of the tree")
    without: Many[str] = Field(default=(), description="Written beside these files, and no part of it")

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
    ranks: Many[RankExit] = ()
    failed_rank: int | None = Field(default=None, description="The rank that failed first")
    tail: str = Field(default="", description="The last lines of the log, of the failed rank where there is one")
    started_at: float | None = None
    ended_at: float
    lost: Many[str] = Field(default=(), description="What the script made and the store did not take")
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
    exits: Many[Exit] = ()
    hold: Hold | None = Field(default=None, description="The machines stay for somebody to look at them")
