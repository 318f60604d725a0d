"""The newest checkpoint that a run left whole, and the words for beginning another run with it.

Rank 0's agent numbers the checkpoints and writes a commit once every node's manifest of that
number is there. A manifest without a commit is a checkpoint that was never finished.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

from sojourn import places
from sojourn.agent.results import checkpoint_files
from sojourn.agent.results.patterns import Patterns
from sojourn.errors import SpecError, UnreadableError
from sojourn.names import LeaseName, is_run_id
from sojourn.protocol import Checkpoint, Manifest, Order
from sojourn.records import FileEntry
from sojourn.spec.launch import Launch
from sojourn.store.commits import Commits
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import MissingKeyError, Store

LANES = 8
TRIED = 20  # checkpoints that are said to be complete and cannot be read, one before the other
_AFRESH = "start afresh: sojourn train, with the same words and without --from"
NEWER = "newer than the checkpoint that is restored"


def newest(mailbox: Mailbox) -> Checkpoint | None:
    """The newest complete checkpoint of the run's newest attempt that has one."""
    for attempt in reversed(mailbox.attempts()):
        order: Order | None = None
        with suppress(UnreadableError):  # what nobody can say of is no checkpoint
            order = mailbox.read(f"order/{attempt}", Order)
        nodes = [LeaseName.node_of(name) for name in order.nodes] if order else []
        complete = mailbox.manifests(attempt, nodes[0], "commit") if nodes else []
        for sequence in complete[: -TRIED - 1 : -1]:
            if found := _read(mailbox, attempt, nodes, sequence):
                return found
    return None


def to_resume(launch: Launch, store: Store, project: str, now: float) -> Checkpoint | None:
    """What `launch.resume` restores, or None when it names no run.

    Raises SpecError for a run that is not there, one that may still be training, one without a
    complete checkpoint, and one whose checkpoint is no longer in the store.
    """
    run = launch.resume
    if run is None:
        return None
    mailbox = Mailbox(store, project, run)
    plan = mailbox.raw("plan") if is_run_id(run) else None
    if plan is None:
        raise SpecError(f"resume: {run!r} is not a run of {project} in {store.url}", hint="list them: sojourn runs")
    if mailbox.raw("outcome") is None and now < plan["deadline_at"] + plan["launch"]["grace"]:
        raise SpecError(
            f"{run} may still be training, and then removes all but its newest checkpoints",
            hint=f"end it first: sojourn stop {run}; if nobody follows it any more: sojourn attach {run}",
        )
    found = newest(mailbox)
    if found is None:
        raise SpecError(
            f"{run} has no complete checkpoint to resume from",
            hint=f"start afresh: sojourn train {_words(launch)}   (launch.checkpoint says which files are checkpoints)",
        )
    check_stored(found, store, project)
    return found.model_copy(update={"without": not_restored(mailbox, found)})


def bring(found: Checkpoint | None, mailbox: Mailbox) -> None:
    """Copy another run's checkpoint to where the machines of this one may read it, within the store.

    They are not told where the other's machines wrote it: who knows a run's place reads and writes there.
    """
    check_stored(found, mailbox.store, mailbox.project)
    files = found.files if found and mailbox.place else ()
    copies: dict[str, str] = {}
    for old, one in zip(files, brought(files, mailbox), strict=True):
        copies[one.source] = old.source
        if one.shown and old.shown:
            copies[one.shown] = old.shown

    def copy(key: str) -> None:
        try:
            mailbox.store.copy(copies[key], key)
        except MissingKeyError:
            raise SpecError(f"{copies[key]} is no longer in the store, a moment later", hint=_AFRESH) from None

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(copy, copies))


def brought(files: Iterable[FileEntry], mailbox: Mailbox) -> tuple[FileEntry, ...]:
    """The files where `bring` puts them; of a run that an earlier version planned they stay where they are."""
    if not mailbox.place:
        return tuple(files)

    def key(source: str, kind: str = "") -> str:
        return mailbox.restored_key(kind + PurePosixPath(source).name.removeprefix(kind))

    return tuple(
        one.model_copy(update={"source": key(one.source), "shown": one.shown and key(one.shown, "shown-")})
        for one in files
    )


def check_stored(found: Checkpoint | None, store: Store, project: str) -> None:
    """Raise SpecError unless every file of the checkpoint is in the store, where machines keep what scripts write.

    A machine wrote down where. One that names anything else would have another machine read what neither may.
    """
    own = re.escape(project)
    kept = re.compile(
        rf"(machine/{own}/[0-9a-z-]+/\d+/\d+/(blob|shown)|orders/{own}/[0-9a-z-]+/restored)/[0-9a-z][^/]*"
    )
    named = [key for entry in found.files for key in (entry.source, entry.shown) if key] if found else []
    others = [key for key in named if not kept.fullmatch(key)]
    if found and others:
        raise SpecError(
            f"checkpoint {found.sequence} of {found.run} names {others[0]!r}, where no machine keeps a file",
            hint=_AFRESH,
        )
    odd = [entry.path for entry in found.files if places.unfit(entry.path, any_letters=True)] if found else []
    if found and odd:
        raise SpecError(
            f"checkpoint {found.sequence} of {found.run} names {odd[0][:100]!r}, which is no place for a file",
            hint=_AFRESH,
        )
    sources = sorted({entry.source for entry in found.files}) if found else []
    there = dict(zip(sources, store.clock.together([partial(store.exists, one) for one in sources]), strict=True))
    missing = [entry.path for entry in found.files if not there[entry.source]] if found else []
    if found and missing:
        raise SpecError(
            f"checkpoint {found.sequence} of {found.run} is no longer in the store: {', '.join(missing[:3])}",
            hint=_AFRESH,
        )


def folders(files: Iterable[FileEntry]) -> tuple[str, ...]:
    """The folders that are restored whole: whatever else would lie in them was never part of the checkpoint."""
    return tuple(sorted({folder for entry in files if (folder := checkpoint_files.folder_of(entry.path))}))


def outdated(paths: Iterable[str], files: Collection[FileEntry], patterns: Iterable[str]) -> set[str]:
    """Those of the paths that would make a restored folder another checkpoint than the one that was taken."""
    whole, restored = folders(files), {entry.path for entry in files}
    inside = [path for path in paths if path not in restored and any(path.startswith(f"{one}/") for one in whole)]
    return checkpoint_files.core(inside, Patterns(patterns).match)


def newer_beside(found: Checkpoint | None, root: Path) -> dict[str, str]:
    """Folders of the tree that a library would take for newer than what is restored, with the reason to leave them."""
    newest: dict[str, int] = {}
    for folder in folders(found.files) if found else ():
        series, number = checkpoint_files.family(folder)
        newest[series] = max(number, newest.get(series, 0))
    beside = {parent for series in newest if (parent := (root / series).parent).is_dir()}
    return {
        path: NEWER
        for parent in beside
        for entry in parent.iterdir()
        if entry.is_dir() and not entry.is_symlink()
        for path in [entry.relative_to(root).as_posix()]
        for series, number in [checkpoint_files.family(path)]
        if number > newest.get(series, number)
    }


def not_restored(mailbox: Mailbox, found: Checkpoint) -> tuple[str, ...]:
    """What rank 0's machine wrote into the folders of the checkpoint's files and that is no part of it."""
    held = {entry.path for entry in found.files}
    beside = {str(PurePosixPath(path).parent) for path in held} - {"."}
    written = Commits(mailbox).newest(found.attempt, 0, "out").files
    return tuple(e.path for e in written if e.path not in held and str(PurePosixPath(e.path).parent) in beside)


def _read(mailbox: Mailbox, attempt: int, nodes: list[int], sequence: int) -> Checkpoint | None:
    """All nodes' files; where several committed one path, rank 0's counts.

    What a node carried on from the attempt before gives way to what another has written since, and
    is there only while every node has it: what one removed, its library has rotated away.
    """
    with suppress(UnreadableError):  # what a machine, or its script, says of one that is none
        found = [mailbox.manifest(attempt, node, "ckpt", sequence) for node in nodes]
        manifests = [manifest for manifest in found if manifest is not None]
        return _of(mailbox, attempt, sequence, manifests) if manifests else None
    return None


def _of(mailbox: Mailbox, attempt: int, sequence: int, manifests: list[Manifest]) -> Checkpoint:
    ours = f"{mailbox.machine}/{attempt}/"
    everywhere = set[str].intersection(*({entry.path for entry in one.files} for one in manifests))
    carried: dict[str, FileEntry] = {}
    files: dict[str, FileEntry] = {}
    lead = {folder for entry in manifests[0].files if (folder := checkpoint_files.folder_of(entry.path))}
    for manifest in reversed(manifests):
        for entry in manifest.files:
            if not entry.source.startswith(ours):
                if entry.path in everywhere:
                    carried[entry.path] = entry
            elif not _is_unfinished(entry.path, lead):
                files[entry.path] = entry
    files = carried | files
    ordered = tuple(files[path] for path in sorted(files))
    return Checkpoint(run=mailbox.run, attempt=attempt, sequence=sequence, at=manifests[0].at, files=ordered)


def _is_unfinished(path: str, lead: set[str]) -> bool:
    """Whether a file lies in a folder that rank 0's node did not count as whole, while it has others of that series."""
    folder = checkpoint_files.folder_of(path)
    if folder is None or folder in lead:
        return False
    series, _ = checkpoint_files.family(folder)
    return any(checkpoint_files.family(other)[0] == series for other in lead)


def _words(launch: Launch) -> str:
    if launch.stage:
        return f"--stage {shlex.quote(launch.stage)}"
    text = launch.command if isinstance(launch.command, str) else None
    return f"-- {shlex.quote(text) if text else shlex.join(launch.command or ())}"
