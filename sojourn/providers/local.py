"""Machines that are processes of this host, with the same life as a rented one.

A lease is a directory, a machine one below it, and its supervisor a detached process
that outlives us and knows the deadline. Everything said about a machine comes from its
files and from the process table, never from our memory, and a pid counts only together
with its start time. Who holds a machine's lock after the release mark was written knows
that no supervisor lives there now and that none will start an agent there.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from sojourn.agent import files
from sojourn.agent.host import host, processes
from sojourn.agent.host.namespace import namespace
from sojourn.agent.host.processes import KEYS, MARK, MARK_DIRECTORY, Mark, Process
from sojourn.agent.host.supervisor import BOOT, ENDED, LOCK, RELEASE, STATE, WORK
from sojourn.agent.pack import pack
from sojourn.agent.results.kept import keep
from sojourn.clouds import registry as clouds
from sojourn.errors import AccessError, CapacityError, SojournError, SpecError, TransientError, nearest
from sojourn.names import LeaseName
from sojourn.providers import catalogue
from sojourn.providers.contract import Request
from sojourn.renting import Boot, Capability, GpuNeed, Lease, Lookalike, Machine, Need, Offer, Offers
from sojourn.secrets.surroundings import of_machine
from sojourn.sharing import Shared
from sojourn.shorthand import counted
from sojourn.store import folders
from sojourn.waiting import SystemClock

REQUEST = "request.json"
MACHINE = "this-host"
RELEASE_WAIT_S = 2.0
START_LIMIT_S = 20.0  # for a supervisor to show itself
ENDING_LIMIT_S = 120.0
MOST = 4096  # machines of one lease
LATEST = 1e11  # a time that no run sees
UNREADABLE = "nobody knows whom: what its supervisor wrote cannot be read"
KEEP_S = 30 * 86400.0
GPUS_LIMIT_S = 2.0
_TABLE: Shared[list[Mark]] = Shared(SystemClock(), good_for_s=0.5)
_NOT_CHOSEN = {"disk", "boot_image", "market", "regions", "network"}
_LEAVE_OUT = "leave it out to run here, or say who rents it: --where aws"
_ELSEWHERE = "leave it out, or rent a machine that has it: --where aws"

Isolation = Literal["namespace", "subreaper"]

_ERRORS: dict[int | None, type[SojournError]] = {
    errno.EACCES: AccessError,
    errno.EPERM: AccessError,
    errno.EROFS: AccessError,
    errno.ENOSPC: CapacityError,
    errno.EDQUOT: CapacityError,
    errno.EAGAIN: CapacityError,  # fork: too many processes
    errno.ENOMEM: CapacityError,
    errno.EMFILE: CapacityError,
    errno.ENFILE: CapacityError,
}


def open_provider(home: Path, _: object = None) -> LocalProvider:
    """Open this host as a provider; it has no regions."""
    return LocalProvider(home)


def configured(home: Path, _: object = None) -> list[LocalProvider]:
    """Return this host, which is always there."""
    return [LocalProvider(home)]


class LocalProvider:
    """Leases below `home/machines/`, their program below `home/agent/`.

    `isolation` None takes the best that this host allows; `agent` stands in for the packed one.
    """

    name = "local"

    def __init__(
        self,
        home: Path,
        agent: Path | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        self.home = home.expanduser().resolve()
        self.machines = self.home / "machines"
        self.agent = agent
        self.isolation = isolation

    def capability(self) -> Capability:
        """Two timers and a reaper, all on this host."""
        layers = {
            "agent timer": "the agent stops the script at the deadline and leaves within the grace",
            "supervisor timer": "a process of its own kills what is left at deadline + grace; while this host is "
            "suspended or off, both timers stand still (nothing is billed meanwhile)",
            "reaper": "by the pid and start time of the supervisor",
        }
        warnings = []
        if processes.LINUX:
            layers["reaper"] += ", and by the mark in every process's environment"
        else:
            warnings.append("only Linux keeps hold of processes that detach themselves; here they may survive the run")
        if processes.LINUX and not _has_namespaces(self.isolation):
            layers["reaper"] += ", where they keep that"
            warnings.append(
                "this host allows no namespaces of processes: one that detaches itself and clears its environment, as "
                "those that rename themselves do, may survive the run if the supervisor is killed"
            )
        return Capability(
            provider=self.name,
            layers=layers,
            condition="if this host is on",
            warnings=tuple(warnings),
            makes_each=("supervisor", "scratch folder"),
        )

    def store(self, project: str) -> str | None:
        """Nothing of its own."""
        return None

    def kept(self) -> list[str]:
        """None: the user's own directory is no provider's."""
        return []

    def offers(self, need: Need) -> Offers:
        """This host, whatever the number of nodes: they share it."""
        offer = Offer(
            provider=self.name,
            machine=MACHINE,
            place=os.uname().nodename,
            price=0.0,
            cpus=host.cpus(),
            memory=host.memory(),
            gpus=tuple(host.gpus(GPUS_LIMIT_S)),
        )
        _check_fits(need, offer)
        return Offers(fitting=(offer,))

    def request(self, boot: Boot, offer: Offer) -> Request:
        """What `create` does, as JSON; its token is the lease's name."""
        name = LeaseName.parse(boot.lease)
        if name is None or str(name) != boot.lease:
            raise SpecError(f"lease: {boot.lease!r} is not the name of a lease")
        return {
            "token": boot.lease,
            "machines": [name.machine(node) for node in range(boot.nodes)],
            "tags": {
                "project": boot.project,
                "run": boot.run,
                "attempt": boot.attempt,
                "deadline": boot.deadline_at,
            },
            "boot": boot.model_dump(mode="json"),
            "offer": offer.model_dump(mode="json"),
        }

    def create(self, request: Request) -> None:
        """Start the supervisors that were not started yet; they themselves decide who stays."""
        folder = self._folder(request["token"])
        if folder is None:
            raise SpecError(f"lease: {request['token']!r} is not the name of a lease")
        with _translated(f"create {request['token']}"):
            if (folder / RELEASE).exists():
                return
            self._write_down(folder, request)
            self._start_all(folder, request["machines"])

    def observe(self, name: str) -> Lease | None:
        """The lease from its files; where they do not say that all of it runs, from the process table too.

        Those who look at the table at the same time look together.
        """
        found = self._observe(name, [])
        if found is not None and found.machines and all(machine.state == "running" for machine in found.machines):
            return found
        marks = _TABLE.of(str(self.machines / name), lambda names: dict.fromkeys(names, _marks())) or []
        return self._observe(name, self._own(marks))

    def release(self, name: str) -> bool:
        """Mark it released, let the supervisors end their machines, and end what they leave."""
        folder = self._folder(name)
        if folder is None:
            return True
        with _translated(f"release {name}"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            marked = _mark_released(folder)
            until = time.monotonic() + (RELEASE_WAIT_S if marked else 0.0)
            ended = [self._end(node, until) for node in _nodes(folder)]
            gone = all(ended) and self._kill(lambda mark: Path(mark.directory).parent == folder)
            if not marked:  # a full disk, on which there may be room by now
                files.write_once(str(folder / RELEASE), {"at": time.time()})
            return gone

    def release_all(self, names: Sequence[str]) -> list[bool | Exception]:
        """The same for many, side by side: each may be waited for."""

        def release(name: str) -> bool | Exception:
            try:
                return self.release(name)
            except Exception as error:  # the others end all the same
                return error

        return SystemClock().together([partial(release, name) for name in names])

    def leases(self) -> list[Lease]:
        """Every lease of which something stands, by its directory or by a process that carries its mark."""
        marks = self._marks()
        names = {Path(mark.directory).parent.name for mark in marks}
        with _translated("list the leases"):
            names.update(self._names())
        found = (self._observe(name, marks) for name in sorted(names))
        return [lease for lease in found if lease is not None and not self._is_gone(lease)]

    def now(self) -> float | None:
        """The time of the file system that holds the machines."""
        with suppress(OSError):
            return folders.now(self.machines)
        return None

    def lookalikes(self) -> list[Lookalike]:
        """None: a process is told by where it was started from, which is not copied."""
        return []

    def past(self, older_than_s: float = KEEP_S) -> list[str]:
        """The names of leases that have been gone for longer than this."""
        standing = {lease.name for lease in self.leases()}
        found = []
        for name in sorted(set(self._names()) - standing):
            with suppress(FileNotFoundError):  # somebody else has just forgotten it
                if time.time() - _last_change(self.machines / name) > older_than_s:
                    found.append(name)
        return found

    def forget(self, name: str) -> None:
        """Remove the records of a lease that is gone. What asks for it later is told that it never was."""
        folder = self._folder(name)
        if folder is not None:
            files.remove(str(folder))

    # -- create --

    def _write_down(self, folder: Path, request: Request) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_same(folder / REQUEST, request)
        for node in range(len(request["machines"])):
            (folder / str(node)).mkdir(mode=0o700, exist_ok=True)
            _write_same(folder / str(node) / BOOT, request["boot"])

    def _start_all(self, folder: Path, machines: list[str]) -> None:
        try:
            program = pack().install_compiled(self.home / "agent")
            for node, name in enumerate(machines):
                self._start(program, folder / str(node), name)
        except (OSError, subprocess.SubprocessError) as error:
            self.release(folder.name)  # all machines or none
            raise CapacityError(f"this host could not start {counted(len(machines), 'machine')}: {error}") from error

    def _start(self, program: Path, node: Path, name: str) -> None:
        """Start a supervisor and forget it, unless one was here before."""
        if (node / STATE).exists() or (node / ENDED).exists():
            return
        command = [sys.executable, "-I", "-S", str(program), "supervise", str(node)]
        command += ["--agent", str(self.agent)] if self.agent else []
        command += ["--isolation", self.isolation] if self.isolation else []
        told = files.read(str(node / BOOT)) or {}
        kept = of_machine(told.get("variables", ("*",)))  # an order of an earlier version named none
        with open(node / "supervisor.log", "ab") as log:
            # The shell is the first half of a double fork: it leaves at once, and the
            # supervisor belongs to process 1, in a session without a terminal.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *command],
                env={**kept, MARK: name, MARK_DIRECTORY: str(node), KEYS: json.dumps(clouds.keys_commands())},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=True,
            )

    # -- observe --

    def _observe(self, name: str, marks: list[Mark]) -> Lease | None:
        folder = self._folder(name)
        if folder is None:
            return None
        ours = [mark for mark in marks if Path(mark.directory).parent == folder]
        try:
            return self._look(folder, ours)
        except (OSError, LookupError, TypeError, ValueError):
            return _half_made(name, ())

    def _look(self, folder: Path, marks: list[Mark]) -> Lease | None:
        request = files.read(str(folder / REQUEST))
        released = files.read(str(folder / RELEASE))
        asked = request.get("machines") if request else None
        count = len(asked) if isinstance(asked, list) and len(asked) <= MOST else None
        nodes = _nodes(folder) if count is None else [folder / str(node) for node in range(count)]
        nodes += sorted({Path(mark.directory) for mark in marks} - set(nodes))
        machines = tuple(_machine(node, released, [m for m in marks if Path(m.directory) == node]) for node in nodes)
        if request is None:
            never = not machines and (released is not None or not folder.exists())
            return None if never else _half_made(folder.name, machines)
        try:
            return _as_asked(folder.name, request, machines)
        except (LookupError, TypeError, ValueError):  # what stands there is ended like any other
            return _half_made(folder.name, machines)

    @staticmethod
    def _is_gone(lease: Lease) -> bool:
        return bool(lease.machines) and all(machine.state == "gone" for machine in lease.machines)

    def _marks(self) -> list[Mark]:
        """Every process that belongs to a machine of this home."""
        return self._own(_marks())

    def _own(self, marks: list[Mark]) -> list[Mark]:
        return [mark for mark in marks if Path(mark.directory).parent.parent == self.machines]

    def _names(self) -> list[str]:
        """The names of ours that have a directory."""
        entries = self.machines.iterdir() if self.machines.is_dir() else ()
        return [entry.name for entry in entries if self._folder(entry.name)]

    def _folder(self, name: str) -> Path | None:
        """Where the lease of this name lives; None for a name that we did not give."""
        parsed = LeaseName.parse(name)
        return self.machines / name if parsed is not None and str(parsed) == name else None

    # -- release --

    def _end(self, node: Path, until: float) -> bool:
        """Wait for the supervisor to go, else kill it; then clear up. True when nothing is left."""
        lock = _wait_for_lock(node, until)
        if lock is None:
            if _still_ending(node):
                return False
            self._kill(lambda mark: Path(mark.directory) == node)
            lock = _wait_for_lock(node, time.monotonic() + 0.2)
        if lock is None:
            return False
        try:
            return self._clear(node)
        finally:
            os.close(lock)

    def _clear(self, node: Path) -> bool:
        killed = self._kill(lambda mark: Path(mark.directory) == node)
        state, ended = _state(node), (node / ENDED).exists()
        kept = keep(str(node), str(node / WORK)) if state is not None and not ended else None
        removed = files.remove(str(node / WORK))
        by = "release" if state is None else _fate(state)
        tombstone = {"at": time.time(), "by": by, "agent_exit_code": None, "kept": kept}
        with suppress(OSError):  # what is dead and gone is so without one
            files.write_once(str(node / ENDED), tombstone)
        return killed and removed

    def _kill(self, chosen: Callable[[Mark], bool]) -> bool:
        """Kill the marked processes that are chosen, with all below them; True when none is left."""

        def find() -> list[Process]:
            table = processes.processes()
            roots = {mark.process.pid for mark in processes.marks(table) if chosen(mark)}
            return [p for p in processes.below(table, roots) if p.pid != os.getpid()]

        processes.kill_all(find, reap=lambda: None, limit_s=1.0)
        return not find()


def _marks() -> list[Mark]:
    return processes.marks(processes.processes())


@cache
def _has_namespaces(isolation: Isolation | None) -> bool:
    """Whether the kernel ends with the machine whatever its script has started, however it hides."""
    try:
        return bool(namespace(isolation))
    except OSError:
        return False


def _mark_released(folder: Path) -> bool:
    """Tell the supervisors and whoever comes late that the lease is over; False where there is no room to say so."""
    try:
        files.write_once(str(folder / RELEASE), {"at": time.time()})
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _machine(node: Path, released: dict[str, Any] | None, marks: list[Mark]) -> Machine:
    state, ended = _state(node), _tombstone(node)
    name = f"{node.parent.name}-n{node.name}"
    if state is None and ended is None and released is None and node.parent.exists() and not _stillborn(node, marks):
        return Machine(name=name, state="starting")
    identity = f"pid {state['pid']}" if state else f"pid {marks[0].process.pid}" if marks else None
    created_at = state["created_at"] if state else None
    given_back = _moment(released, "at") if released is not None else None
    unseen = state == {} and released is None and not processes.LINUX  # where processes carry no mark
    if ended is None and (_lives(state, node) if state else marks or unseen):
        return Machine(name=name, state="running", identity=identity, created_at=created_at)
    standing = bool(marks) or (node / WORK).exists()
    return Machine(
        name=name,
        state="ended" if standing else "gone",
        identity=identity,
        created_at=created_at,
        ended_at=ended["at"] if ended else given_back,
        ended_by=ended["by"] if ended else _fate(state) if state is not None else _given_back(released),
        kept=ended["kept"] if ended else None,
    )


def _given_back(released: dict[str, Any] | None) -> str:
    return "killed" if released is None else "release"


def _state(node: Path) -> dict[str, Any] | None:
    """What its supervisor wrote; None before it did, and empty where something else stands there."""
    path = node / STATE
    found = files.read(str(path))
    if found is None:
        return {} if os.path.lexists(path) else None
    words = all(type(found.get(name)) is str for name in ("host", "boot_id", "start_time"))
    a_pid = type(found.get("pid")) is int and found["pid"] > 0
    times = all(_moment(found, name) is not None for name in ("created_at", "deadline_at"))
    return {**found, "ending_at": _moment(found, "ending_at") or 0.0} if words and a_pid and times else {}


def _tombstone(node: Path) -> dict[str, Any] | None:
    """What its supervisor, or whoever gave it back, wrote at its end, as far as it can be read."""
    found = files.read(str(node / ENDED))
    if found is None:
        return None
    by, kept = found.get("by"), found.get("kept")
    return {
        "at": _moment(found, "at"),
        "by": by if isinstance(by, str) else UNREADABLE,
        "kept": kept if isinstance(kept, str) else None,
    }


def _moment(record: Any, name: str) -> float | None:
    """A time of a file that anybody may have written; None where it is none."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= LATEST else None


def _stillborn(node: Path, marks: list[Mark]) -> bool:
    """Whether its supervisor was killed before it could say a word: each process from the first on carries a mark."""
    if marks or not processes.LINUX:
        return False
    try:
        return time.time() - (node / BOOT).stat().st_mtime > START_LIMIT_S
    except OSError:
        return False


def _as_asked(name: str, request: dict[str, Any], machines: tuple[Machine, ...]) -> Lease:
    """Raises what it stumbles over, in a request that is none."""
    tags, boot = request["tags"], request["boot"]
    deadline_at, grace_s = _moment(tags, "deadline"), _moment(boot, "grace_s")
    if deadline_at is None or grace_s is None:
        raise ValueError(f"{name} has no deadline")
    return Lease(
        name=name,
        project=tags["project"],
        run=tags["run"],
        attempt=tags["attempt"],
        deadline_at=deadline_at,
        grace_s=grace_s,
        machines=machines,
        store=boot["store"],
    )


def _half_made(name: str, machines: tuple[Machine, ...]) -> Lease:
    parsed = LeaseName.parse(name)
    assert parsed is not None
    return Lease(name=name, project="", run=parsed.run, attempt=parsed.attempt, deadline_at=0.0, machines=machines)


def _lives(state: dict[str, Any], node: Path) -> bool:
    """Whether the supervisor that wrote this state is alive: never by its pid alone."""
    if not state:
        return False
    if state["host"] != os.uname().nodename:
        # A home that several hosts mount: from here only the deadline can be judged.
        return bool(folders.now(node.parent.parent) < state["deadline_at"] + ENDING_LIMIT_S)
    if state["boot_id"] != processes.boot_id():
        return False
    process = processes.process(state["pid"])
    return process is not None and bool(process.start == state["start_time"])


def _fate(state: dict[str, Any]) -> str:
    """What ended a machine whose supervisor left no tombstone."""
    if not state:
        return UNREADABLE
    return "killed" if state["boot_id"] == processes.boot_id() else "restart of the host"


def _still_ending(node: Path) -> bool:
    """Whether the supervisor is at its last work, such as removing a large directory, or lives elsewhere."""
    state = _state(node)
    if not state or not _lives(state, node):
        return False
    elsewhere = bool(state["host"] != os.uname().nodename)
    return elsewhere or time.time() - float(state["ending_at"]) < ENDING_LIMIT_S


def _wait_for_lock(node: Path, until: float) -> int | None:
    while (lock := files.take_lock(str(node / LOCK))) is None and time.monotonic() < until:
        time.sleep(0.01)
    return lock


def _nodes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((e for e in folder.iterdir() if e.name.isdecimal() and e.is_dir()), key=lambda e: int(e.name))


def _write_same(path: Path, value: dict[str, Any]) -> None:
    """Write once; the same again is fine, anything else under the same token is refused."""
    if not files.write_once(str(path), value, sync=False) and files.read(str(path)) != value:
        raise SpecError(f"{path.parent}: another {path.name} was written under this name before")


def _last_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.glob("*"), *folder.glob("*/*")))


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = _ERRORS.get(error.errno, TransientError)
        raise kind(f"could not {doing}: {error.strerror} ({error.filename})") from error


def _check_fits(need: Need, offer: Offer) -> None:
    """Refuse what this host is not and what cannot be chosen here."""
    if need.machine not in (None, MACHINE):
        _check_size(need.machine, offer)
    for field, value in need.model_dump(include=_NOT_CHOSEN, exclude_defaults=True).items():
        shown = ", ".join(value) if isinstance(value, tuple) else value
        raise SpecError(f"{field}: {shown!r} cannot be had on this host, it is as it is", hint=_ELSEWHERE)
    _check_hardware(need, offer)


def _check_size(word: str, offer: Offer) -> None:
    """Take a size that this host satisfies; refuse any other, and the types of other providers."""
    size = catalogue.of_size(word)
    if size is None:
        near = nearest(word, [MACHINE])
        raise SpecError(f"machine: the local provider has no {word!r}, {near}", hint=_LEAVE_OUT)
    try:
        _check_hardware(size, offer)
    except SpecError as error:
        raise SpecError(f"machine: {word!r} is more than this host is: {error.message}", hint=_LEAVE_OUT) from None


def _check_hardware(need: Need, offer: Offer) -> None:
    if need.cpus and need.cpus > offer.cpus:
        raise SpecError(f"cpus: this host has {offer.cpus}, and {need.cpus} are asked for", hint=_ELSEWHERE)
    if need.memory and need.memory > offer.memory:
        has, asked = (f"{size / 1e9:,.1f} GB" for size in (offer.memory, need.memory))
        raise SpecError(f"memory: this host has {has}, and {asked} are asked for", hint=_ELSEWHERE)
    if need.gpu:
        _check_gpus(need.gpu, offer.gpus)


def _check_gpus(need: GpuNeed, gpus: tuple[str, ...]) -> None:
    if need.memory:
        raise SpecError("gpu: how much memory this host's GPUs have is not looked at", hint="name them: --gpu L4")
    fitting = [name for name in gpus if not need.name or need.name.lower() in name.lower().split()]
    if len(fitting) < need.count:
        wanted = f"{need.count} × {need.name or 'GPU'}"
        has = ", ".join(gpus) or "none"
        raise SpecError(f"gpu: {wanted} asked for, and this host has {has}", hint=_ELSEWHERE)
