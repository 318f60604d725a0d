"""The runs in a store: found by name, listed with where each one stands."""

from __future__ import annotations

import os
import stat
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import platformdirs
from pydantic import Field

from sojourn.errors import GoneError, SojournError, SpecError, UnreadableError, nearest
from sojourn.lease.state import MARGIN_S, State, fold
from sojourn.names import is_run_id, project_name
from sojourn.plan.planning import Plan
from sojourn.project.metric_files import is_number
from sojourn.project.project import Project
from sojourn.protocol import Outcome
from sojourn.providers.contract import Provider
from sojourn.receipts import Receipt
from sojourn.records import Record
from sojourn.results.report import Report
from sojourn.run.closed_runs import ClosedRuns, Summary, marked_open, shortened
from sojourn.shorthand import counted, format_duration
from sojourn.spec.launch import Launch
from sojourn.store.known_stores import is_kept_in
from sojourn.store.ledger import Entry, read_entry
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

# What lies in the data directory: clones of repositories, scripts' work folders, environments, records of results.
PRIVATE = ("agent", "checkouts", "environments", "faults", "machines", "placed")
T = TypeVar("T")
SILENT_S = 60.0  # an owner beats every few seconds; this is many beats, and the clocks of two hosts
MANY = 64  # runs of a project in no page; of more a sweep looks at those alone whose owner has not beaten so lately
FRESH_S = 12.0  # an owner is asked for three beats of 5 s before anybody takes its run over
AWAY = "not home yet"
COMPARED_WITH = 5  # the newest runs of a program whose whole report is read


class RunLine(Record):
    """One run in the list."""

    run: str
    project: str
    created_at: float
    state: str
    command: str
    owner: str | None
    deadline_at: float
    receipt: str | None
    orphan: str | None = Field(default=None, description="Why its machines may stand with nobody to give them back")
    remedy: str | None = Field(default=None, description="The command that ends them, or brings the results home")
    not_home: str | None = Field(default=None, description="Why its results are not where they belong yet")
    unreadable: str | None = Field(default=None, description="What of it this version cannot read, and what to type")


class RunRecords(Record):
    """All there is to know of a run."""

    run: str
    plan: Plan | None
    outcome: Outcome | None
    receipt: Receipt | None
    report: Report | None
    unreadable: tuple[str, ...] = Field(default=(), description="What another version wrote, or is damaged")


def data_home() -> Path:
    """Sojourn's own directory on this host: `SOJOURN_HOME`, or the user's data directory."""
    return Path(os.environ.get("SOJOURN_HOME") or platformdirs.user_data_dir("sojourn")).absolute()


def provide_home(home: Path) -> None:
    """Make the data directory, for this user alone.

    Raises SpecError where it cannot be written, before anything is begun that needs it.
    """
    try:
        _make_private(home)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
    else:
        if os.access(home, os.W_OK | os.X_OK):
            return
        why = f"{home} may not be written"
    raise SpecError(f"the data directory cannot be used: {why}", hint="name another: export SOJOURN_HOME=DIRECTORY")


def _make_private(home: Path) -> None:
    # A directory that the user named may be anything, and is left as it is: what lies in it is ours.
    named = "SOJOURN_HOME" in os.environ and home.is_dir()
    home.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    for folder in ([] if named else [home]) + [home / name for name in PRIVATE]:
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        told = folder.stat()
        if told.st_uid == os.geteuid() and told.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            folder.chmod(stat.S_IRWXU)


def default_store(home: Path) -> str:
    """The URL of the store when none is named: `SOJOURN_STORE`, or a directory of this user's."""
    return os.environ.get("SOJOURN_STORE") or (home / "store").as_uri()


def store_for(launch: Launch, provider: Provider, project: Project, home: Path) -> str:
    """Where a run is kept: as asked, as this host is told, where its provider keeps runs, or this user's directory."""
    asked = launch.store or os.environ.get("SOJOURN_STORE")
    return asked or provider.store(launch.project_name or project_name(project.root.name)) or default_store(home)


def checkouts(home: Path) -> Path:
    """Where the projects of runs that come from a git repository stand until the run is over, a folder for each."""
    return home / "checkouts"


def list_runs(stores: Iterable[Store]) -> list[RunLine]:
    """Every run of the stores that can be read: those whose machines may be orphans, then the others, newest first."""
    return in_order(line for store in stores for lines in _of_each_project(store, _lines) for line in lines)


def in_order(lines: Iterable[RunLine]) -> list[RunLine]:
    """Orphans first, then the newest; of a run that a copy of its store tells of too, the line that is further."""
    each: dict[tuple[str, str], RunLine] = {}
    for line in lines:
        known = each.get((line.project, line.run))
        if known is None or (known.receipt is None and line.receipt is not None):
            each[line.project, line.run] = line
    return sorted(each.values(), key=lambda line: (line.orphan is None, -line.created_at))


def find_run(stores: Sequence[Store], name: str, project: str | None = None) -> Mailbox:
    """The mailbox of a run by its id; `last` is the newest, of this `project` if it has any. Raises SpecError.

    The stores are looked through in their order; one that does not answer counts only when no other has the run.
    """
    known: dict[str, Mailbox] = {}
    begun: dict[str, tuple[bool, float]] = {}
    silent: list[SojournError] = []
    for store in stores:
        try:
            if name == "last":
                lines = list_runs([store])
                ages = {line.run: (line.project == project, line.created_at) for line in lines}
                newest = sorted(lines, key=lambda line: ages[line.run])[-1:]
                known |= {line.run: Mailbox(store, line.project, line.run) for line in newest}
                begun |= {line.run: ages[line.run] for line in newest}
            else:
                known |= {mailbox.run: mailbox for mailbox in all_mailboxes(store)}
        except GoneError:  # it has no run any more
            if len(stores) == 1:
                raise
        except SojournError as error:
            silent.append(error)
        if name in known:
            return _original(known[name], stores)
    if name == "last" and known:
        return _original(max(known.values(), key=lambda mailbox: begun[mailbox.run]), stores)
    if silent:
        raise silent[0]
    if name == "last":
        raise SpecError("there is no run yet", hint="start one: sojourn train -- python train.py")
    where = " or ".join(store.url for store in stores)
    raise SpecError(f"run {name!r} is not in {where}, {nearest(name, known)}", hint="list them: sojourn runs")


def _original(found: Mailbox, stores: Sequence[Store]) -> Mailbox:
    """The run where its plan says that it is kept, if that is one of the stores: in a copy it only seems to go on."""
    plan: dict[str, Any] = {}
    with suppress(UnreadableError):
        plan = (len(stores) > 1 and found.raw("plan")) or {}
    kept_in = plan.get("store")
    if not isinstance(kept_in, str) or is_kept_in(kept_in, found.store):
        return found
    for store in stores:
        if is_kept_in(kept_in, store) and store.exists(f"{found.control}/plan.json"):
            return Mailbox(store, found.project, found.run)
    return found


def entries_of(mailbox: Mailbox) -> list[Entry]:
    """The ledger as it stands, for readers."""
    entries: list[Entry] = []
    while (entry := read_entry(mailbox, len(entries))) is not None:
        entries.append(entry)
    return entries


def plan_of(mailbox: Mailbox) -> Plan:
    """The plan of a run. Raises SpecError when it was never stored whole, or cannot be read, with what works then."""
    try:
        plan = mailbox.read("plan", Plan)
    except UnreadableError as error:
        error.hint = f"{ways(mailbox.run)}\n  {error.hint}" if error.hint else ways(mailbox.run)
        raise
    if plan is None:
        raise SpecError(f"run {mailbox.run} has no plan in the store", hint="list the runs: sojourn runs")
    return plan


def ways(run: str, shown: bool = False) -> str:
    """What works whatever a run's records say; `shown` what can be read of them has been."""
    look = "" if shown else f"what can be read of it: sojourn show {run}; "
    return f"{look}its results: sojourn pull {run} --to DIR; its log: sojourn logs {run}"


def check_node(mailbox: Mailbox, node: int) -> None:
    """Raise SpecError for a machine that the run does not have."""
    try:
        plan = mailbox.read("plan", Plan)
    except UnreadableError:  # what the machines left can be read all the same
        plan = None
    number = plan.launch.nodes if plan else None
    if node < 0 or (number is not None and node >= number):
        has = "they are counted from 0" if number is None else f"it has {counted(number, 'machine')}, counted from 0"
        raise SpecError(f"node: {mailbox.run} has no machine {node}: {has}", hint=f"sojourn logs {mailbox.run}")


def records_of(mailbox: Mailbox) -> RunRecords:
    """All records of a run, those not written yet as None; one that cannot be read hides no other."""
    wrong: list[str] = []

    def ask(read: Callable[[], T | None]) -> T | None:
        try:
            return read()
        except UnreadableError as error:
            wrong.append(error.message + (f" ({error.hint})" if error.hint else ""))
            return None

    entries = ask(lambda: entries_of(mailbox)) or []
    folded = ask(lambda: fold(entries).outcome)
    return RunRecords(
        run=mailbox.run,
        plan=ask(lambda: mailbox.read("plan", Plan)),
        outcome=ask(lambda: mailbox.read("outcome", Outcome)) or folded,
        receipt=ask(lambda: mailbox.read("receipt", Receipt)),
        report=ask(lambda: mailbox.read("report", Report)),
        unreadable=tuple(dict.fromkeys(wrong)),
    )


class Survey(NamedTuple):
    """A project's runs: the closed ones in a line each, and those that must be looked at themselves."""

    closed: dict[str, Summary]
    others: list[Mailbox]


def survey(store: Store, project: str) -> Survey:
    """What is known of a project's runs without opening any.

    What is asked for does not grow with the number of closed runs, but for their names and pages.
    """
    ask: list[Callable[[], Any]] = [
        partial(run_ids, store, project), partial(marked_open, store, project), ClosedRuns(store, project).read,
    ]  # fmt: skip
    runs, marked, told = store.clock.together(ask)
    closed = {run: told[run] for run in runs if run in told and run not in marked}
    return Survey(closed, [Mailbox(store, project, run) for run in runs if run not in closed])


def unsettled(store: Store, only: str | None, note: bool) -> Iterator[Mailbox]:
    """The runs of a store, or of one project alone, that have a plan and that nobody has closed.

    Of many those alone whose owner has given no sign of life of late: the others' owners would let nobody in.
    With `note`, closed ones that no page told of are written down.
    """
    projects = [name for name in projects_of(store) if only in (None, name)]
    for some in store.clock.together([partial(_unsettled, store, name, note) for name in projects]):
        yield from some


def _unsettled(store: Store, project: str, note: bool) -> list[Mailbox]:
    others = survey(store, project).others
    if len(others) > MANY:
        others = _unowned(store, others)
    planned = _each(store, lambda mailbox: store.exists(f"{mailbox.control}/plan.json"), others)
    begun = [mailbox for mailbox, is_there in zip(others, planned, strict=True) if is_there]
    looked = _each(store, summary_of, begun)
    if note:
        ClosedRuns(store, project).add([one for one in looked if one is not None])
    return [mailbox for mailbox, one in zip(begun, looked, strict=True) if one is None]


def _unowned(store: Store, runs: Sequence[Mailbox]) -> list[Mailbox]:
    now = store.now()
    if now is None:
        return list(runs)
    beats = _each(store, lambda mailbox: store.modified(f"{mailbox.control}/owner.json"), runs)
    told = zip(runs, beats, strict=True)
    return [mailbox for mailbox, beat in told if beat is None or abs(now - beat.timestamp()) > FRESH_S]


def summary_of(mailbox: Mailbox) -> Summary | None:
    """The run in a line, if it is closed and that can be read."""
    try:
        report = mailbox.read("report", Report)
        plan = mailbox.read("plan", Plan) if report is not None and report.receipt == "closed" else None
    except UnreadableError:
        return None
    if plan is None or report is None or {plan.run, report.run} != {mailbox.run}:
        return None
    return Summary.of(plan, report)


def past_runs(store: Store, project: str, note: bool = False) -> list[Summary]:
    """The closed runs of a project, oldest first; with `note`, those that no page told of are written down."""
    found = survey(store, project)
    looked = [one for one in _each(store, summary_of, found.others) if one is not None]
    if note:
        ClosedRuns(store, project).add(looked)
    return sorted([*found.closed.values(), *looked], key=lambda one: one.ended_at)


def known_runs(store: Store, project: str) -> list[Summary]:
    """The closed runs that pages tell of, oldest first; where there is no page yet, all, and they are written down."""
    told = ClosedRuns(store, project).read()
    return sorted(told.values(), key=lambda one: one.ended_at) if told else past_runs(store, project, note=True)


def reports_to_compare(store: Store, project: str, past: Sequence[Summary], program: str) -> list[Report]:
    """The reports of the newest runs of a program that succeeded, oldest first."""
    name = shortened(program)
    like = [one.run for one in past if one.state == "succeeded" and one.program == name][-COMPARED_WITH:]
    reports = _each(store, _report_of, [Mailbox(store, project, run) for run in like])
    return [one for one in reports if one is not None]


def _report_of(mailbox: Mailbox) -> Report | None:
    """None also for one that cannot be read: it is asked for comparison alone, and no other run hangs on it."""
    try:
        return mailbox.read("report", Report)
    except UnreadableError:
        return None


def _each(store: Store, look: Callable[[Mailbox], T], mailboxes: Sequence[Mailbox]) -> list[T]:
    """What is seen in each, looked at side by side."""
    return store.clock.together([partial(look, mailbox) for mailbox in mailboxes])


def usual_seconds(past: Sequence[Summary], command: str) -> float | None:
    """The median time of this command's last three runs that succeeded, if there are any."""
    name = shortened(command)
    done = [one.seconds for one in past if one.state == "succeeded" and one.command == name]
    return statistics.median(done[-3:]) if done else None


def where_it_stands(entries: list[Entry], now: float) -> str:
    """One word for a run, from its ledger."""
    state = fold(entries)
    if is_held(state, now):
        return "held"
    if state.outcome is not None:
        return state.outcome.state
    if state.ordered_at is not None:
        return "training"
    return "provisioning" if state.intended_at is not None else "preparing"


def is_held(state: State, now: float) -> bool:
    """Whether the machines of a script that failed still stand for somebody to look at, by the ledger alone."""
    hold = state.outcome.hold if state.outcome and state.released_at is None else None
    return hold is not None and now < hold.until


def all_mailboxes(store: Store) -> list[Mailbox]:
    """The mailbox of every run in the store."""
    found = _of_each_project(store, lambda store, project: [(project, run) for run in run_ids(store, project)])
    return [Mailbox(store, project, run) for names in found for project, run in names]


def projects_of(store: Store) -> list[str]:
    """The projects that have planned anything in the store."""
    return [name for name in store.folders("control") if not store.is_shut(f"control/{name}")]


def shut_projects(store: Store) -> list[str]:
    """Those of another user, who lets nobody look at them."""
    return [name for name in store.folders("control") if store.is_shut(f"control/{name}")]


def _of_each_project(store: Store, look: Callable[[Store, str], T]) -> list[T]:
    """What is seen of each project of a store, side by side."""
    return store.clock.together([partial(look, store, project) for project in projects_of(store)])


def run_ids(store: Store, project: str) -> list[str]:
    """The ids of a project's runs, closed or not."""
    return [run for run in store.folders(f"control/{project}") if is_run_id(run)]


def _lines(store: Store, project: str) -> list[RunLine]:
    """A project's runs; closed ones that no page told of are written down."""
    found = survey(store, project)
    looked = _each(store, _line, found.others)
    closed = [one for one in looked if isinstance(one, Summary)]
    ClosedRuns(store, project).add(closed)
    lines = [_closed_line(project, one) for one in (*found.closed.values(), *closed)]
    return [*lines, *(one for one in looked if isinstance(one, RunLine))]


def _closed_line(project: str, one: Summary) -> RunLine:
    return RunLine(
        run=one.run,
        project=project,
        created_at=one.created_at,
        state=one.state,
        command=one.command,
        owner=None,
        deadline_at=one.deadline_at,
        receipt=one.receipt,
    )


def _line(mailbox: Mailbox) -> RunLine | Summary | None:
    try:
        return summary_of(mailbox) or _told(mailbox)
    except UnreadableError as error:
        return _unreadable(mailbox, error)


def _unreadable(mailbox: Mailbox, error: UnreadableError) -> RunLine:
    """A run of which something cannot be read; what of its plan and ledger can be is told."""
    plan: dict[str, Any] = {}
    with suppress(UnreadableError):
        plan = mailbox.raw("plan") or {}
    begun = None
    with suppress(SojournError):
        begun = mailbox.store.modified(f"{mailbox.control}/plan.json")
    created_at = _time(plan, "created_at") or (begun.timestamp() if begun else 0.0)
    entries: list[Entry] | None = None
    with suppress(UnreadableError):
        entries = entries_of(mailbox)
        fold(entries)
    now = mailbox.store.now()
    orphan, remedy = _left_unread(mailbox, entries, created_at, now) or (None, None)
    return RunLine(
        run=mailbox.run,
        project=mailbox.project,
        created_at=created_at,
        state="unreadable" if entries is None else where_it_stands(entries, now or time.time()),
        command="?",
        owner=None,
        deadline_at=_time(plan, "deadline_at"),
        receipt=None,
        orphan=f"{error.message}; {orphan}" if orphan else None,
        remedy=remedy,
        unreadable=f"{error.message}; what can be: sojourn show {mailbox.run}",
    )


def _left_unread(
    mailbox: Mailbox, entries: list[Entry] | None, created_at: float, now: float | None
) -> tuple[str, str] | None:
    """Why machines may stand of a run that cannot be read, and the command that sees to it."""
    if entries is None or now is None:
        return "nobody can say whether its machines stand", "sojourn reap"
    state = fold(entries)
    done = state.gone_at is not None or state.intended_at is None or is_held(state, now)
    if done or (silent := _silent_for(mailbox, now, since=created_at)) < SILENT_S:
        return None
    nobody = f"nobody has followed it for {format_duration(silent)}"
    over = state.outcome is not None or state.lost is not None or state.ordered_at is None
    return nobody, "sojourn reap" if over else f"sojourn stop {mailbox.run}"


def _time(plan: dict[str, Any], name: str) -> float:
    found = plan.get(name)
    return float(found) if is_number(found) and found is not None else 0.0


def _told(mailbox: Mailbox) -> RunLine | None:
    plan, receipt = mailbox.read("plan", Plan), mailbox.read("receipt", Receipt)
    if plan is None:
        return None
    entries = entries_of(mailbox)
    now = mailbox.store.now()
    orphan, remedy = (_orphaned(mailbox, plan, fold(entries), now) if now else None) or (None, None)
    away = not_home(mailbox, entries, now)
    return RunLine(
        run=mailbox.run,
        project=mailbox.project,
        created_at=plan.created_at,
        state=where_it_stands(entries, now or time.time()),
        command=plan.shown_command(),
        owner=entries[-1].owner if entries and entries[-1].kind not in ("closed", "handover") else None,
        deadline_at=plan.deadline_at,
        receipt=receipt.state if receipt else None,
        orphan=orphan,
        remedy=remedy or (f"sojourn attach {mailbox.run}" if away == AWAY else None),
        not_home=away,
    )


def not_home(mailbox: Mailbox, entries: list[Entry], now: float | None) -> str | None:
    """What is said of a run that is over and whose report nobody has written: its results are not in their place."""
    state = fold(entries)
    if state.outcome is None or is_held(state, now or time.time()) or mailbox.read("report", Report) is not None:
        return None
    left = entries[-1].kind == "handover"
    if not left and (now is None or _silent_for(mailbox, now) < SILENT_S):
        return "on its way home"
    return AWAY


def _silent_for(mailbox: Mailbox, now: float, since: float = 0.0) -> float:
    """Seconds since its owner was heard of, or else `since` some moment."""
    seen = mailbox.store.modified(f"{mailbox.control}/owner.json")
    return now - (seen.timestamp() if seen else since)


def _orphaned(mailbox: Mailbox, plan: Plan, state: State, now: float) -> tuple[str, str] | None:
    """Why a run's machines may stand with nobody to give them back, and the command that ends them."""
    if state.request is None or state.gone_at is not None or is_held(state, now):
        return None
    late = now - (plan.deadline_at + plan.launch.grace + MARGIN_S)
    if late > 0:
        return "they may stand past their deadline", "sojourn reap"
    if (silent := _silent_for(mailbox, now, since=plan.created_at)) < SILENT_S:
        return None
    nobody = f"nobody has followed it for {format_duration(silent)}"
    if state.outcome is not None or state.lost is not None:
        return f"its script is over, and {nobody}", "sojourn reap"
    return nobody, f"sojourn stop {mailbox.run}" if state.ordered_at else f"sojourn attach {mailbox.run}"
