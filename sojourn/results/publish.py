"""Brings a run's results into the user's directory, without ever overwriting what is theirs."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import Field

from sojourn import programs
from sojourn.agent.results.patterns import Patterns
from sojourn.errors import SojournError, SpecError, TransientError, first_line
from sojourn.places import PlaceError, TakenError, put_folder, put_link
from sojourn.plan.planning import Plan
from sojourn.project import bundle
from sojourn.project.dvc import commit
from sojourn.project.dvc.dataset import Dataset
from sojourn.project.placing import Placings, Stands, holds
from sojourn.project.project import Project
from sojourn.project.self_acting import SelfActing
from sojourn.protocol import Bundle, Outcome
from sojourn.records import FileEntry, Record
from sojourn.results.collect import Collected, fetch
from sojourn.results.result_links import ResultLink, apart, copied
from sojourn.shorthand import counted, moment
from sojourn.store.mailbox import Mailbox

NAMED = 3  # files of a sentence
_UNWRITABLE = "cannot be written at its place"
_TAKEN = "has something else at its place since this moment, which is kept"
_COSTS_ITSELF = (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)
_ODD = (ValueError, LookupError, ArithmeticError)  # what a machine said of it is no file, in whatever way
_OF_DVC = ("dvc.yaml", "dvc.lock", ".dvcignore")
TOLD = 20  # files that could not be brought; of more the number is told


class Inputs(Record):
    """The manifest of what was fed to a run."""

    files: tuple[FileEntry, ...]


class Published(Record):
    """Where the results of a run are now."""

    placed: tuple[str, ...] = ()
    links: tuple[str, ...] = Field(default=(), description="Links to what is placed: `latest.pt -> step-100.pt`")
    copied: tuple[str, ...] = Field(default=(), description="Links in place of which the files behind them lie")
    beside: tuple[str, ...] = ()
    directory: str | None = None
    differs: tuple[str, ...] = ()
    committed: bool = False
    pushed_bytes: int = 0
    metrics: dict[str, Any] = Field(default_factory=dict, description="Of stages that ran here afterwards")
    note: str | None = None
    failed: bool = Field(default=False, description="Something is not at home, or was not done, that should be")
    warnings: tuple[str, ...] = Field(default=(), description="What was not done or is not the newest; what to type")


def bring_home(
    plan: Plan,
    mailbox: Mailbox,
    outcome: Outcome,
    collected: Collected,
    home: Path,
    checkout: Path,
    asked: bool,
    echo: Callable[[str], None],
) -> Published:
    """Results of a run into the directory that it was started from, if that is here.

    `home` is the data directory. `checkout` is where its project would have been cloned to; what is placed
    there would go with it. `asked`: somebody wants these very results there, newer ones or not.
    """
    sent = mailbox.read("bundle", Bundle)
    if sent is None and not collected.files:
        return Published(note="there are no results")
    if sent is None:
        gone = f"{mailbox.control}/bundle.json is not in the store any more, so nobody knows what is yours"
        return Published(note=f"{gone}; get the results: sojourn pull {plan.run} --to DIR", failed=True)
    if not Path(plan.directory).is_dir():
        return Published(note=f"its directory is not here; get the results: sojourn pull {plan.run} --to DIR")
    if checkout.exists() and plan.stage is None:
        return Published(note=f"it ran from a checkout; get the results: sojourn pull {plan.run} --to DIR")
    project = Project.at(Path(plan.directory))
    if outcome.state != "succeeded":
        return keep_aside(plan, collected, mailbox, project)
    placings = Placings(home, project.root)
    if plan.stage is None:
        return place_files(plan, collected.files, sent, mailbox, project, placings, asked)
    inputs = mailbox.read("inputs", Inputs)
    assert inputs is not None and project.dvc is not None
    dataset = Dataset(project.dvc, project.directory)
    done = commit_stage(plan, collected, sent, inputs, mailbox, project, dataset, echo)
    if not done.committed:
        return done
    chosen = _named_outputs(plan, collected)
    more = place_files(plan, chosen, sent, mailbox, project, placings, asked)
    placed, warned = (*done.placed, *more.placed), (*done.warnings, *more.warnings)
    update = {"placed": placed, "beside": more.beside, "directory": more.directory, "warnings": warned}
    update |= {"links": more.links, "copied": more.copied}
    return done.model_copy(update={**update, "failed": done.failed or more.failed})


def place_files(
    plan: Plan,
    files: Iterable[FileEntry],
    sent: Bundle,
    mailbox: Mailbox,
    project: Project,
    placings: Placings,
    asked: bool = False,
) -> Published:
    """Results of a plain script where it put them, in place of what an earlier run of ours placed there.

    What is the user's is kept, and the result goes to `runs/<id>/` instead.
    """
    plain, links = apart(files)
    laying = _Laying(plan, sent, mailbox, project, placings, asked)
    with placings.held():
        laying.lay(plain)
        laying.lay(laying.link(links))
        old = placings.beside([entry.path for entry in laying.ours], plan.run)
    refused, others, kept_off = laying.refused, laying.others, laying.kept_off
    beside = [*(entry for entry in laying.ours if entry.path in refused), *(entry for entry, _ in others)]
    aside = _aside(project, plan.run, beside)
    fetched = _fetch(beside, mailbox, aside, project.root)
    stuck = fetched.stuck
    there = [entry for entry in (*laying.ours, *laying.same) if entry.path in laying.placed]
    return Published(
        placed=tuple(sorted(laying.placed)),
        links=tuple(map(str, (*laying.links, *fetched.links))),
        copied=copied((*there, *fetched.files)),
        beside=tuple(sorted(entry.path for entry in fetched.files)),
        directory=str(aside) if len(beside) > len(stuck) else None,
        failed=bool(stuck),
        warnings=(
            *(
                [f"{_names(old)}: from an earlier run; this one wrote beside it and did not write it again"]
                if old
                else []
            ),
            *_not_placed(refused, aside),
            *_older_there([(entry, stands) for entry, stands in others if entry.path not in kept_off], aside),
            *_kept_off(kept_off, aside, project.relative),
            *_nowhere(stuck, aside, plan.run),
        ),
    )


class _Laying:
    """Results on their way to their places in one project directory."""

    def __init__(
        self, plan: Plan, sent: Bundle, mailbox: Mailbox, project: Project, placings: Placings, asked: bool
    ) -> None:
        self._plan = plan
        self._mailbox = mailbox
        self._placings = placings
        self._planned_at = float("inf") if asked else plan.created_at
        self._travelled = {entry.path for entry in sent.listing} | {link.path for link in sent.links}
        self._acting = SelfActing(project.root, project.relative, self._travelled, placings.made(), plan.named_outputs)
        self.ours: list[FileEntry] = []
        self.same: list[FileEntry] = []
        self.others: list[tuple[FileEntry, Stands]] = []
        self.links: list[ResultLink] = []
        self.kept_off: dict[str, str] = {}
        self.refused: dict[str, str] = {}

    @property
    def placed(self) -> set[str]:
        """The files that lie at their places."""
        return {entry.path for entry in (*self.ours, *self.same)} - {*self.refused}

    def lay(self, files: list[FileEntry]) -> None:
        """Put files at their places, but for what is the user's or would be more than data there."""
        ours: list[FileEntry] = []
        for entry in files:
            stands = self._placings.look(entry, self._planned_at)
            if stands.whose == "same" and (stands.run is None or entry.path in self._travelled):
                self.same.append(entry)
            elif entry.path not in self._travelled and stands.whose in ("nobody", "same", "older"):
                if why := self._acting.why(entry.path):
                    self.kept_off[entry.path] = why
                    self.others.append((entry, stands))
                else:
                    ours.append(entry)
            else:
                self.others.append((entry, stands))
        if not ours:
            return
        self._placings.remove_links([entry.path for entry in ours])
        self._placings.note(ours, self._plan.run, self._plan.created_at)
        self._mailbox.contents.expect(ours)
        refused = {entry.path: why for entry in ours if (why := _place(entry, self._mailbox, self._placings))}
        self._placings.settle([entry for entry in ours if entry.path not in refused])
        self.refused |= refused
        self.ours += ours

    def link(self, links: list[ResultLink]) -> list[FileEntry]:
        """Make the links to what lies at its place; the files of all others, to be laid instead."""
        fit = [link for link in links if self._may_be(link)]
        if fit:
            self._placings.note_links({link.path: link.target for link in fit}, self._plan.run, self._plan.created_at)
        there = self.placed
        for link in fit:
            if link.leads_to <= there and self._is_made(link):
                self.links.append(link)
                there.update(entry.path for entry in link.files)
        made = {link.path for link in self.links}
        return [entry for link in links if link.path not in made for entry in link.files]

    def _may_be(self, link: ResultLink) -> bool:
        paths = [link.path, *(entry.path for entry in link.files)]
        stands = self._placings.look_at_link(link.path, link.own, self._planned_at)
        if not self._travelled.isdisjoint(paths):
            return stands.whose == "same"
        return stands.whose in ("nobody", "same", "older") and not any(map(self._acting.why, paths))

    def _is_made(self, link: ResultLink) -> bool:
        if self._placings.look_at_link(link.path, link.own, self._planned_at).whose == "same":
            return True
        try:
            self._placings.remove_links([link.path])
            self._placings.place_link(link.path, link.target, link.own)
        except (OSError, SojournError):
            return False
        return True


def _place(entry: FileEntry, mailbox: Mailbox, placings: Placings) -> str | None:
    """Put a result at its place, whole; why not where something keeps it from there."""
    target = placings.root / entry.path
    ours, our_link = placings.is_ours(entry.path), placings.is_our_link(entry.path)
    try:
        if target.is_symlink() or not holds(target, entry):
            bundle.fetch_file(entry, mailbox, placings.root, ours=ours, our_link=our_link)
    except (*_COSTS_ITSELF, *_ODD):
        return _UNWRITABLE
    except TakenError:
        return _TAKEN
    except SojournError as error:
        _give_up(error)
        return _UNWRITABLE
    return None


def _aside(project: Project, run: str, entries: Iterable[FileEntry]) -> Path:
    """The folder of a run's results that must replace nothing; another one where others of it lie already."""
    folder = project.directory / bundle.HOME / run
    known = list(entries)
    for number in itertools.count(1):
        here = folder / f"later-{number}" if number > 1 else folder
        if all(holds(here / one.path, one) or _is_open(here, one.path) for one in known):
            return here
    raise AssertionError


def _is_open(folder: Path, path: str) -> bool:
    """Whether nothing stands there, nor a link of an earlier time among the folders above."""
    above = any((folder / part).is_symlink() for part in PurePosixPath(path).parents[:-1])
    return not (above or os.path.lexists(folder / path))


class _Fetched(NamedTuple):
    """What was brought, and what cannot be there, each with the reason."""

    files: list[FileEntry]
    links: list[ResultLink]
    stuck: dict[str, str]


def _fetch(entries: Iterable[FileEntry], mailbox: Mailbox, folder: Path, below: Path | None = None) -> _Fetched:
    """Bring files into a folder of their own.

    A folder that must lie `below` another one is reached by no link that leads out of that.
    """
    root = below or folder
    prefix = folder.relative_to(root).as_posix()
    files, links = apart(entries)
    made: list[ResultLink] = []
    stuck = _fetch_files(files, mailbox, folder, root, prefix)
    for link in links:
        try:
            if not stuck.keys().isdisjoint(link.leads_to):
                raise PlaceError(f"{link}: what it leads to is not there")
            if not all(holds(folder / entry.path, entry) for entry in link.files):
                path, own = (f"{prefix}/{name}" if folder != root else name for name in (link.path, link.own))
                put_link(root, path, link.target, leads_to=own)
            made.append(link)
        except (OSError, PlaceError):
            files += link.files
            stuck |= _fetch_files(link.files, mailbox, folder, root, prefix)
    return _Fetched([entry for entry in files if entry.path not in stuck], made, stuck)


def _fetch_files(files: Sequence[FileEntry], mailbox: Mailbox, folder: Path, root: Path, prefix: str) -> dict[str, str]:
    stuck: dict[str, str] = {}
    mailbox.contents.expect(files)
    for entry in files:
        try:
            if not holds(folder / entry.path, entry):
                there = entry.model_copy(update={"path": f"{prefix}/{entry.path}"}) if folder != root else entry
                bundle.fetch_file(there, mailbox, root)
        except OSError as error:
            stuck[entry.path] = error.strerror or str(error)
        except _ODD as error:
            stuck[entry.path] = f"what is said of it is no file ({type(error).__name__})"
        except SojournError as error:
            _give_up(error)
            stuck[entry.path] = error.message
    return stuck


def _give_up(error: SojournError) -> None:
    """One broken object costs itself; a store that is away costs a second try."""
    if isinstance(error, TransientError):
        raise error


def _nowhere(stuck: dict[str, str], aside: Path, run: str) -> list[str]:
    """With the reason where there is one of them."""
    if not stuck:
        return []
    why = f" ({next(iter(stuck.values()))})" if len(stuck) == 1 else ""
    return [f"{_names(list(stuck))} cannot be brought into {aside}{why} either: sojourn pull {run} --to DIR"]


def _not_placed(refused: dict[str, str], aside: Path) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for path, why in refused.items():
        by_reason.setdefault(why, []).append(path)
    return [f"{_names(paths)} {why}: it is in {aside}" for why, paths in by_reason.items()]


def _kept_off(paths: dict[str, str], aside: Path, here: str) -> list[str]:
    """Results that would be more than data at their place."""
    by_reason: dict[str, list[str]] = {}
    for path, why in paths.items():
        by_reason.setdefault(why, []).append(path)
    return [
        f"{counted(len(found), 'file')} {why}, so not at their places but in {aside}: {_names(found)}; "
        f"to have one come to its place: --output {shlex.quote(os.path.relpath(found[0], here))}"
        for why, found in by_reason.items()
    ]


def _older_there(others: list[tuple[FileEntry, Stands]], aside: Path) -> list[str]:
    """For each cause, which files at their places are not this run's."""
    causes: dict[str, list[str]] = {}
    for entry, stands in others:
        causes.setdefault(_cause(stands), []).append(entry.path)
    return [
        f"{_names(paths)} at its place is {cause}: the one of this run is in {aside}"
        if len(paths) == 1
        else f"{_names(paths)} at their places are {cause}: those of this run are in {aside}"
        for cause, paths in causes.items()
    ]


def _cause(stands: Stands) -> str:
    if stands.whose == "newer":
        return f"of the newer run {stands.run}"
    if stands.whose == "too long":
        return "longer, with the folders above it, than paths may be here"
    if stands.whose == "elsewhere":
        return "behind a link that leads out of the project"
    since = f" since {moment(stands.since):%d %b %H:%M}" if stands.since else ""
    return f"yours{since}, and kept"


def _names(paths: list[str]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(paths[:NAMED]) + more


def _named_outputs(plan: Plan, collected: Collected) -> list[FileEntry]:
    """What of a stage's run comes home because launch.outputs names it; its declared outputs are DVC's."""
    assert plan.stage is not None
    named = Patterns(f"/{path}" for path in plan.named_outputs)
    declared = {PurePosixPath(path) for path in plan.stage.outputs}
    found = [entry for entry in collected.files if named.match(entry.path)]
    return [e for e in found if declared.isdisjoint((PurePosixPath(e.path), *PurePosixPath(e.path).parents))]


def to_directory(collected: Collected, mailbox: Mailbox, directory: Path) -> Published:
    """All that the store has of a run's files below a directory of the user's choice, which must be empty or new."""
    if directory.exists() and any(directory.iterdir()):
        raise SpecError(f"{str(directory)!r} is not empty", hint="name a new directory: --to PATH")
    fetched = _fetch((*collected.files, *collected.kept), mailbox, directory)
    stuck = fetched.stuck
    return Published(
        placed=tuple(entry.path for entry in fetched.files),
        links=tuple(map(str, fetched.links)),
        copied=copied(fetched.files),
        directory=str(directory),
        warnings=(*_stuck(dict(itertools.islice(stuck.items(), TOLD))), *_more(len(stuck) - TOLD)),
    )


def _stuck(some: dict[str, str]) -> Iterator[str]:
    return (f"{path} is not there: {why}" for path, why in some.items())


def _more(count: int) -> Iterator[str]:
    if count > 0:
        yield f"{counted(count, 'other file')} could not be brought either"


def keep_aside(plan: Plan, collected: Collected, mailbox: Mailbox, project: Project) -> Published:
    """Results of a run that did not succeed: below `runs/<id>/`, where they replace nothing."""
    if not collected.files:
        return Published(note="nothing was committed")
    aside = _aside(project, plan.run, collected.files)
    fetched = _fetch(collected.files, mailbox, aside, project.root)
    return Published(
        beside=tuple(entry.path for entry in fetched.files),
        links=tuple(map(str, fetched.links)),
        copied=copied(fetched.files),
        directory=str(aside),
        failed=bool(fetched.stuck),
        warnings=tuple(_nowhere(fetched.stuck, aside, plan.run)),
    )


def commit_stage(
    plan: Plan,
    collected: Collected,
    sent: Bundle,
    inputs: Inputs,
    mailbox: Mailbox,
    project: Project,
    dataset: Dataset,
    echo: Callable[[str], None],
) -> Published:
    """Results of a DVC stage: into the tree and dvc.lock if what ran is what stands there, then to the remote.

    Otherwise nothing in the tree is touched and the differing paths are named.
    """
    assert plan.stage is not None
    scratch = Path(tempfile.mkdtemp(prefix="sojourn-home-"))
    try:
        (scratch / "tree").mkdir()
        tree = _Tree(plan, sent, inputs, mailbox, scratch / "tree")
        fetch(collected.files, mailbox, scratch / "outputs")
        # What travelled by name is read again by DVC; its own data is known by the hash it travelled under.
        own = tuple(entry for entry in inputs.files if not _is_dvc(entry))
        fetch(own, mailbox, scratch / "tree", any_letters=True)
        committed = commit.commit(
            dataset.root,
            scratch / "tree" / dataset.root.relative_to(project.root),
            plan.stage.name,
            top=project.root,
            inputs=tuple(entry for entry in inputs.files if _is_dvc(entry)),
            outputs=scratch / "outputs",
            command=plan.stage.lines,
            lacks=tree.lacks,
        )
        applied = commit.apply(dataset.root, committed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(applied, commit.Refused):
        return Published(differs=applied.paths, note=_left_alone(applied, plan.run))
    stage = plan.stage
    pushed, lost = _push(dataset, (*stage.before, stage.name), echo)
    later, warnings = _run_later(dataset, stage.after, echo)
    if lost is None and later:
        more, lost = _push(dataset, later, echo)
        pushed += more
    if lost is not None:
        warnings.insert(0, _not_pushed(dataset, lost, (*stage.before, stage.name, *later)))
    metrics = dataset.metrics((stage.name, *stage.after))
    return Published(
        placed=applied.outputs,
        committed=True,
        pushed_bytes=pushed,
        metrics=metrics,
        failed=bool(warnings),
        warnings=tuple(warnings),
    )


class _Tree:
    """What of the bundle DVC looks at to know a stage; all of it where that may be elsewhere, or behind links."""

    def __init__(self, plan: Plan, sent: Bundle, inputs: Inputs, mailbox: Mailbox, directory: Path) -> None:
        self._needed = {PurePosixPath(path) for path in plan.needed}
        self._above = {above for entry in inputs.files if _is_dvc(entry) for above in _and_above(entry.path)}
        self._whole = bool(sent.links) or PurePosixPath(".") in self._needed
        self._unpack = partial(bundle.unpack, sent, mailbox, directory)
        self._unpack(self._is_looked_at)
        if sent.directory != ".":  # where the command ran
            put_folder(directory, sent.directory)

    def lacks(self, dependencies: list[str]) -> bool:
        """Whether a dependency was not foreseen by the plan; all of the tree is there afterwards."""
        if self._whole or all(self._is_needed(path) or PurePosixPath(path) in self._above for path in dependencies):
            return False
        self._unpack(lambda path: not self._is_looked_at(path))
        return True

    def _is_looked_at(self, path: str) -> bool:
        name = PurePosixPath(path).name
        return self._whole or name in _OF_DVC or name.endswith(".dvc") or self._is_needed(path)

    def _is_needed(self, path: str) -> bool:
        return not self._needed.isdisjoint(_and_above(path))


def _and_above(path: str) -> tuple[PurePosixPath, ...]:
    return (PurePosixPath(path), *PurePosixPath(path).parents)


def _left_alone(refused: commit.Refused, run: str) -> str:
    """Why the user's tree was not touched, and what brings the results."""
    paths, restore = ", ".join(refused.paths), "restore it, then"
    why = f"your tree changed meanwhile ({paths}), so it and dvc.lock were left alone"
    if refused.by_hand:
        why = f"what stands at {paths} is yours, and DVC could not bring it back, so it and dvc.lock were left alone"
        restore = "move that away, then"
    return f"{why}; take the results: sojourn pull {run} --to DIR; or {restore}: sojourn pull {run} --apply"


def _push(dataset: Dataset, stages: Iterable[str], echo: Callable[[str], None]) -> tuple[int, Exception | None]:
    """Push what dvc.lock now says of these stages. All of it is in DVC's cache by now, so a failure costs a command."""
    try:
        return dataset.push_outputs(stages, echo).bytes, None
    except Exception as error:  # each kind of remote raises its own library's errors
        return 0, error


def _not_pushed(dataset: Dataset, error: Exception, stages: tuple[str, ...]) -> str:
    because = error.message if isinstance(error, SojournError) else first_line(error)
    cure = f"{error.hint}; then " if isinstance(error, SpecError) and error.hint else ""
    return f"the outputs are not pushed: {because}; when that is mended: {cure}{dataset.push_command(stages)}"


def _run_later(
    dataset: Dataset, stages: tuple[str, ...], echo: Callable[[str], None]
) -> tuple[tuple[str, ...], list[str]]:
    """Run the stages that come after, here: those that ran, and a warning.

    One that fails keeps those that follow, and nothing else.
    """
    ran: tuple[str, ...] = ()
    for at, address in enumerate(stages):
        try:
            ran += dataset.reproduce((address,), echo)
        except Exception as error:
            because = error.message if isinstance(error, SojournError) else first_line(error)
            later = f"; {', '.join(stages[at + 1 :])} did not run" if stages[at + 1 :] else ""
            again = programs.dvc(shlex.join(["repro", *stages[at:]]))
            return ran, [f"{because}{later}; run it again: {again}"]
    return ran, []


def _is_dvc(entry: FileEntry) -> bool:
    return entry.hash.startswith("md5:")
