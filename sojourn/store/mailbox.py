"""The one place that knows how a run's objects are named in the store.

Three roots, by who may do what: `control/` belongs to the orchestrator, and of it machines read
the files that runs share by hash and the agent; `orders/` is what machines are told, which they
read; `machine/` is what they write. A run's folders below the last two have a name that nobody can
guess (`Plan.place`), and machines may list nothing above them: so a machine finds its own run alone.
Manifests are create-only, so what was committed once is never changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from sojourn.decoding import decode, decode_object
from sojourn.errors import UnreadableError
from sojourn.harmless import cut
from sojourn.names import is_place, is_run_id, run_folder, run_of
from sojourn.protocol import ExecAnswer, ExecRequest, Exit, Hello, MachineBeat, Manifest, Order, Scalars, Segment, Stop
from sojourn.records import Record
from sojourn.shorthand import shortened
from sojourn.store.parcels import Contents
from sojourn.store.pieces import Pieces
from sojourn.store.storage import ExistsError, Store

R = TypeVar("R", bound=Record)
ROOTS = ("control", "orders", "machine")
SENTENCE, TAIL = 4_000, 16_000  # characters; a machine's agent says less
TOLD = ("order", "stop", "exec")  # what machines read of their run
KEPT_LIMIT = 16 << 20  # bytes of a commit of what does not come home: 2,000 files and some reasons
LISTED_ALONE = 20  # of more runs than these the objects are found in a list of the whole project


class Mailbox:
    """What orchestrator and machines of one run tell each other.

    `folders` are names that a listing found below `orders/` and `machine/` and that end in the run's.
    """

    def __init__(self, store: Store, project: str, run: str, folders: Collection[str] | None = None) -> None:
        self.store = store
        self.project = project
        self.run = run
        self.control = f"control/{project}/{run}"
        self._folders = folders
        self._place: str | None = None
        self._read_from: dict[str, Pieces] = {}
        self.contents = Contents(store)

    @property
    def orders(self) -> str:
        """Below this prefix lies what machines are told; for runs of earlier versions that is `control`."""
        return f"orders/{self.project}/{self._folder}" if self.place else self.control

    @property
    def machine(self) -> str:
        """Below this prefix lies what the machines write."""
        return f"machine/{self.project}/{self._folder}"

    @property
    def place(self) -> str:
        """What nobody can guess of the names of its folders; empty for a run of an earlier version."""
        if self._place is None:
            self._place = self._find_place()
        return self._place or ""

    def blob_key(self, sha256: str) -> str:
        """The key of a file that goes to the machines; runs of a project share them."""
        return f"{blobs(self.project)}/{sha256}"

    def restored_key(self, name: str) -> str:
        """The key of a file of another run's checkpoint, which this one goes on from; no other run knows it."""
        return f"{self.orders}/restored/{name}"

    # -- control: the orchestrator writes, machines read --

    def write(self, name: str, record: Record) -> None:
        """Put `<name>.json`, replacing an older one."""
        self.store.put(self._key(name), record.to_bytes())

    def write_once(self, name: str, record: Record) -> bool:
        """Create `<name>.json`; False when it was there already."""
        try:
            self.store.create(self._key(name), record.to_bytes())
        except ExistsError:
            return False
        self._learn(name, record)
        return True

    def read(self, name: str, kind: type[R]) -> R | None:
        """The record `<name>.json`, or None. Raises UnreadableError, as do all that read here."""
        key = self._key(name)
        found = self._record(key, kind)
        for what, ours in (("run", self.run), ("project", self.project)):
            said = getattr(found, what, ours)
            if said != ours:  # folders and machines are found by these names
                raise UnreadableError(f"{key} cannot be read: it is of {what} {shortened(str(said), 60)!r}")
        self._learn(name, found)
        return found

    def raw(self, name: str) -> dict[str, Any] | None:
        """The record `<name>.json` as plain JSON, for readers that must not mind which version wrote it."""
        key = self._key(name)
        body = self.store.find(key)
        return decode_object(body, key) if body is not None else None

    def clear(self, keep: Collection[str]) -> None:
        """Remove the run from the store, its plan first: from then on there is no such run."""
        prefixes = self.prefixes()
        self.store.delete(f"{self.control}/plan.json")
        for prefix in prefixes:
            self.store.clear(prefix, keep)

    def sizes(self) -> dict[str, int]:
        """The size of everything that is the run's, by key."""
        return {key: size for prefix in self.prefixes() for key, size in self.store.sizes(prefix).items()}

    def prefixes(self) -> list[str]:
        """Everything that is the run's, also where a machine wrote that had no business there; the plan's last."""
        listed = self._folders
        names = {self._folder, *self._named("orders"), *self._named("machine")} if listed is None else set(listed)
        below = [f"{root}/{self.project}/{name}" for name in sorted(names) for root in ("machine", "orders")]
        return [*below, self.control]

    def send_agent(self, name: str, body: bytes) -> None:
        """Put the machines' program where they find it; again for each run, since a bucket forgets by age."""
        self.store.put(agent_key(self.project, name), body)

    def post_order(self, order: Order) -> None:
        """Tell the agents of this attempt what to do; a second posting changes nothing but one that cannot be read."""
        self._insist(f"order/{order.attempt}", order)

    def ledger_entry(self, sequence: int) -> bytes | None:
        """Line `sequence` (from 0) of the ledger, or None while it is not written."""
        return self.store.find(f"{self.control}/ledger/{sequence:06d}.json")

    def write_ledger(self, sequence: int, body: bytes) -> None:
        """Write a line of the ledger. Raises ExistsError when somebody was faster."""
        self.store.create(f"{self.control}/ledger/{sequence:06d}.json", body)

    def attempts(self) -> list[int]:
        """The attempts that had an order, oldest first."""
        return _numbers(self.store.keys(f"{self.orders}/order"))

    def attempts_of_machines(self) -> list[int]:
        """The attempts whose machines wrote anything, oldest first, without a word of the ledger."""
        return sorted(number for number in map(_counted, self.store.folders(self.machine)) if number)

    def machines(self, attempt: int) -> int:
        """How many machines of an attempt, from 0, wrote anything, without a word of the plan."""
        there = set(map(_counted, self.store.folders(f"{self.machine}/{attempt}")))
        return next(number for number in range(len(there) + 1) if number not in there)

    def request_stop(self, stop: Stop) -> None:
        """Ask every agent of the run to stop its script; the first request that can be read stands."""
        self._insist("stop", stop)

    def stop_request(self) -> Stop | None:
        """The request to stop, if there is one; what cannot be read is nobody's wish."""
        try:
            return self.read("stop", Stop)
        except UnreadableError:
            return None

    def _insist(self, name: str, record: Record) -> None:
        """Write it once, or in the place of what a power cut or a stranger has left there."""
        if self.write_once(name, record):
            return
        try:
            self.read(name, type(record))
        except UnreadableError:
            self.write(name, record)

    def request_exec(self, attempt: int, request: ExecRequest) -> int:
        """Ask a machine to run a command; the request's number, over all machines of the attempt."""
        folder = f"exec/{attempt}"
        number = len(self.store.keys(f"{self.orders}/{folder}"))
        while not self.write_once(f"{folder}/{number:08d}", request):
            number += 1
        return number

    # -- machine: each agent writes below its own node --

    def hello(self, attempt: int, node: int) -> Hello | None:
        """The machine's first words, once it has said them."""
        return self._record(f"{self._node(attempt, node)}/hello.json", Hello)

    def exit(self, attempt: int, node: int, seal: str | None = None) -> Exit | None:
        """The machine's last words, once it has said them; what its script wrote in its name is none.

        `seal` is that of its hello, where somebody noted it before the script began; a script may write a hello too.
        """
        found = self._exit(attempt, node)
        if found is None:
            return None
        hello = None if seal else self._hello(attempt, node)
        if not found.is_sealed(seal or (hello.seal if hello else None)):
            return None
        said = cut(found.message, SENTENCE) if found.message else None
        return found.model_copy(update={"message": said, "tail": found.tail[-TAIL:]})

    def unheard(self, attempt: int, node: int, seal: str | None = None) -> str | None:
        """What lies in the place of a machine's last words and is not heard; None where nothing does."""
        key = f"{self._node(attempt, node)}/exit.json"
        try:
            found = self._record(key, Exit)
        except UnreadableError as error:
            return error.message
        if found is None:
            return f"{key} leads nowhere" if self.store.exists(key) else None
        return None if self.exit(attempt, node, seal) else f"{key} was not written by the machine's agent"

    def _hello(self, attempt: int, node: int) -> Hello | None:
        with suppress(UnreadableError):
            return self.hello(attempt, node)
        return None

    def _exit(self, attempt: int, node: int) -> Exit | None:
        key = f"{self._node(attempt, node)}/exit.json"
        try:
            return self._record(key, Exit)
        except UnreadableError as error:  # what a machine writes keeps no run open
            said_at = self.store.modified(key)
            return Exit(
                node=node,
                reason="fault",
                message=f"what it said at its end cannot be read: {error.message}",
                ended_at=said_at.timestamp() if said_at else 0.0,
            )

    def diagnosis(self, attempt: int, node: int) -> str | None:
        """What the machine looked like when its script failed; None when it did not, or nobody asked."""
        found = self.store.find(f"{self._node(attempt, node)}/diagnosis.txt")
        return found.decode(errors="replace") if found is not None else None

    def exec_answer(self, attempt: int, node: int, number: int) -> ExecAnswer | None:
        """How a command ended, once it has; its output lies beside it by then."""
        return self._record(f"{self._node(attempt, node)}/exec/{number:08d}.json", ExecAnswer)

    def exec_output(self, attempt: int, node: int, number: int, stream: str) -> bytes:
        """What a command printed; `stream` is `out` or `err`."""
        return self.store.find(f"{self._node(attempt, node)}/exec/{number:08d}.{stream}") or b""

    def beat(self, attempt: int, node: int) -> MachineBeat | None:
        """The machine's newest sign of life; None when it is no such thing."""
        try:
            return self._record(f"{self._node(attempt, node)}/beat.json", MachineBeat)
        except UnreadableError:
            return None

    def log(self, attempt: int, node: int, start: int = 0) -> Iterator[Segment]:
        """The pieces of the node's log from number `start` (from 0) up to the newest now."""
        yield from self._pieces(self._node(attempt, node), "log").read(start)

    def log_after(self, attempt: int, node: int, number: int) -> int | None:
        """The first piece of a log after one that is not there, where some were taken from its middle."""
        return self._pieces(self._node(attempt, node), "log").after(number)

    def log_length(self, attempt: int, node: int) -> int:
        """How many pieces the node's log has by now."""
        return self._pieces(self._node(attempt, node), "log").length()

    def scalars(self, attempt: int, node: int, start: int = 0) -> Iterator[Scalars | UnreadableError]:
        """What the node's agent read of the script's numbers, from piece `start` (from 0) up to the newest now.

        In place of a piece that cannot be read comes the error: it is a gap in a curve.
        """
        pieces = self._pieces(self._node(attempt, node), "scalars", ".json")
        for number, piece in enumerate(pieces.read(start), start):
            try:
                yield decode(piece.body, Scalars, pieces.key(number))
            except UnreadableError as error:
                yield error

    def missing(self, keys: Set[str]) -> set[str]:
        """Those of some keys of objects that are not in the store."""
        folders = {key.rpartition("/")[0] for key in keys} if len(keys) >= LISTED_ALONE else set()
        there = {key for folder in folders if folder.startswith(f"{self.machine}/") for key in self.store.keys(folder)}
        asked = sorted(keys - there)
        found = self.store.clock.together([partial(self.store.exists, key) for key in asked])
        return {key for key, is_there in zip(asked, found, strict=True) if not is_there}

    def manifests(self, attempt: int, node: int, what: str) -> list[int]:
        """The sequences committed so far; `what` is `out`, `ckpt`, or `commit` for what all nodes have."""
        return _numbers(self.store.keys(f"{self._node(attempt, node)}/{what}"))

    def manifest(self, attempt: int, node: int, what: str, sequence: int) -> Manifest | None:
        """One commit; `what` is `out`, `ckpt` or `kept`. Raises UnreadableError."""
        key = f"{self._node(attempt, node)}/{what}/{sequence:08d}.json"
        body = self.store.find(key)
        if body is not None and what == "kept" and len(body) > KEPT_LIMIT:
            raise UnreadableError(f"{key} cannot be read: {len(body):,} bytes tell of no 2,000 files")
        return None if body is None else decode(body, Manifest, key)

    def _key(self, name: str) -> str:
        return f"{self.orders if name.split('/')[0] in TOLD else self.control}/{name}.json"

    @property
    def _folder(self) -> str:
        return run_folder(self.run, self.place)

    def _learn(self, name: str, record: Record | None) -> None:
        place = getattr(record, "place", None) if name == "plan" else None
        if is_place(place):
            self._place = place

    def _find_place(self) -> str | None:
        """By the plan, or where that says nothing by a folder that no machine can have made; None without a plan."""
        plan: dict[str, Any] | None = None
        with suppress(UnreadableError):
            plan = self.raw("plan")
        if plan and is_place(plan.get("place")):
            return str(plan["place"])
        listed = next((name for name in self._named("orders") if name != self.run), None)
        return listed[: -len(self.run) - 1] if listed else "" if plan else None

    def _named(self, root: str) -> list[str]:
        """The names of folders below a root that end in the run's id, of whatever place."""
        return [name for name in self.store.folders(f"{root}/{self.project}") if run_of(name) == self.run]

    def _pieces(self, node: str, kind: str, suffix: str = "") -> Pieces:
        prefix = f"{node}/{kind}"
        if prefix not in self._read_from:
            self._read_from[prefix] = Pieces(self.store, prefix, f"{node}/packed/{kind}", suffix)
        return self._read_from[prefix]

    def _record(self, key: str, kind: type[R]) -> R | None:
        body = self.store.find(key)
        return None if body is None else decode(body, kind, key)

    def _node(self, attempt: int, node: int) -> str:
        return f"{self.machine}/{attempt}/{node}"


def projects(store: Store) -> list[str]:
    """Every project that has something in the store."""
    return sorted({project for root in ROOTS for project in store.folders(root)})


def runs_of(store: Store, project: str) -> list[Mailbox]:
    """Every run of a project of which something is in the store, whoever wrote it."""
    folders: dict[str, set[str]] = {}
    for name in (name for root in ROOTS for name in store.folders(f"{root}/{project}")):
        folders.setdefault(run_of(name) or "", set()).add(name)
    return [Mailbox(store, project, run, folders[run]) for run in sorted(folders) if is_run_id(run)]


def objects_of(store: Store, project: str, mailboxes: Collection[Mailbox]) -> Iterator[tuple[Mailbox, str, int]]:
    """Every object of these runs with its size; of many runs by pages over the whole project."""
    wanted = {mailbox.run: mailbox for mailbox in mailboxes}
    if len(wanted) <= LISTED_ALONE:
        for alone in wanted.values():
            yield from ((alone, key, size) for key, size in alone.sizes().items())
        return
    for root in ROOTS:
        for key, size in store.walk(f"{root}/{project}"):
            if mailbox := wanted.get(_run_of(key) or ""):
                yield mailbox, key, size


def tidy(store: Store, project: str, mailboxes: Collection[Mailbox]) -> None:
    """Take away what is left of runs of which everything was removed, and no listing shows."""
    prefixes = [prefix for mailbox in mailboxes for prefix in mailbox.prefixes()]
    for prefix in prefixes:
        store.tidy(prefix)
    if len(mailboxes) <= LISTED_ALONE:
        for prefix in prefixes:
            store.erase(prefix)
        return
    gone = {mailbox.run for mailbox in mailboxes}
    for root in ROOTS:
        store.erase(f"{root}/{project}", lambda key: _run_of(key) in gone)


def _run_of(key: str) -> str | None:
    return run_of(key.split("/")[2])


def blobs(project: str) -> str:
    """Below this prefix lie the files that a project's runs share, by hash."""
    return f"control/{project}/blob"


def agent_key(project: str, archive: str) -> str:
    """Where the machines of a project find the agent."""
    return f"control/{project}/agent/{archive}"


def closed_pages(project: str) -> str:
    """Below this prefix lie the pages that tell of the project's closed runs."""
    return f"control/{project}/closed"


def open_marks(project: str) -> str:
    """Below this prefix lies an object for each run of the project that is not known to be closed."""
    return f"control/{project}/open"


def open_mark(project: str, run: str) -> str:
    """This object says that a run must be looked at itself."""
    return f"{open_marks(project)}/{run}"


def purge_mark(project: str) -> str:
    """This object is there while a purge removes blobs of the project."""
    return f"control/{project}/purge.json"


def _counted(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 7 else None


def _numbers(keys: Iterable[str]) -> list[int]:
    """The numbers that are names of these objects, in order; whatever else lies among them is not ours."""
    names = (key.rsplit("/", 1)[-1].removesuffix(".json") for key in keys)
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())
