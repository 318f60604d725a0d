"""Brings committed outputs from the store, each file whole and with the hash it was committed under."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from sojourn import places
from sojourn.agent.mailbox import is_restored
from sojourn.agent.paths import below
from sojourn.agent.results import checkpoint_files
from sojourn.agent.results.patterns import Patterns
from sojourn.errors import SojournError, UnreadableError
from sojourn.harmless import line
from sojourn.project.bundle import fetch_file
from sojourn.protocol import Exit, Order, Remainder
from sojourn.records import FileEntry, Record
from sojourn.results.result_links import apart as apart_by_links
from sojourn.store.commits import BEYOND, LARGEST, NAME, PATHS, Commits, few, remainder
from sojourn.store.folders import TEMPORARY
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import MissingKeyError

LOST = "committed and no longer in the store"
TORN = "that name results and cannot be read"
HALF = "a checkpoint that is not whole"
STRANGE = "that are said to lie where no machine of the project writes"
REFUSED = (*places.REASONS, STRANGE)
AGAIN = "of other nodes, under names that rank 0's node wrote too"


class Collected(Record):
    """What a run left in the store, over all its nodes and attempts, and what it left on its machines."""

    files: tuple[FileEntry, ...]
    bytes: int
    checkpoints: int
    kept: tuple[FileEntry, ...] = ()
    account: tuple[Remainder, ...] = ()

    @property
    def count(self) -> int:
        """How many files they are; a link to one is none."""
        return len(apart_by_links(self.files)[0])


def collect(
    mailbox: Mailbox, attempt: int, nodes: int, declared: bool = False, exits: Iterable[Exit] = ()
) -> Collected:
    """The newest commit of every node, each of its objects confirmed to be in the store.

    Where two nodes committed one path, rank 0's file counts, and the others' stay in the store, below `node-1/`
    and so on, where they hold anything else. What an earlier attempt wrote and this one,
    which went on from its checkpoint, did not write again belongs to the results too, but for checkpoints.
    `declared` outputs of a stage are one attempt's: of two, a directory would be nobody's.
    A checkpoint that is not whole stays in the store: at home it would be loaded as the newest.
    An object that a manifest promises and that is not there costs itself alone, and is told; so does a file whose
    path is no place here, since a manifest is written by a machine. `exits` are the last words of the attempt's
    machines: they name their last commit, and a later one is the script's own.
    """
    final = [one for one in exits if one.seal and not one.lost]
    last = {one.node: one.output or 0 for one in final}
    last_kept = {one.node: one.kept for one in final if one.kept is not None}
    commits = Commits(mailbox, attempt, {"out": last, "kept": last_kept})
    files = _newest(commits, attempt, nodes, "out")
    kept = _newest(commits, attempt, nodes, "kept")
    for earlier in range(attempt - 1, 0, -1):
        gone = _restored(mailbox, earlier + 1)  # what its successor got and has no more was removed there
        older = {} if declared and files else _newest(commits, earlier, nodes, "out")
        whole = not files  # machines that came to nothing must not hide what was there before
        for path, entry in older.items():
            if whole or not (path in gone or checkpoint_files.folder_of(path)):
                files.setdefault(path, entry)
        for path, entry in _newest(commits, earlier, nodes, "kept").items():
            kept.setdefault(path, entry)
    nowhere = _no_places(files, mailbox) | _no_places(kept, mailbox)
    half = {path: files.pop(path) for path in sorted(_half(files, mailbox, attempt))}
    again = _again(commits, attempt, nodes, "out", files)
    apart = again | _again(commits, attempt, nodes, "kept", kept)
    nowhere |= _no_places(apart, mailbox)
    kept = {path: entry for path, entry in kept.items() if path not in files} | half | apart
    gone = mailbox.missing({entry.source for entry in files.values()})
    missing = [path for path, entry in files.items() if entry.source in gone]
    lost = [files.pop(path) for path in sorted(missing)]
    checkpoints = len(mailbox.manifests(attempt, 0, "ckpt"))
    ordered = tuple(files[path] for path in sorted(files))
    return Collected(
        files=ordered,
        bytes=sum(entry.size for entry in apart_by_links(ordered)[0]),
        checkpoints=checkpoints,
        kept=tuple(kept[path] for path in sorted(kept)),
        account=few(
            (
                *_refused(nowhere),
                *_lost(lost),
                *_not_whole(half),
                *_told_again(again),
                *_accounts(commits, attempt, nodes),
            )
        ),
    )


def _no_places(files: dict[str, FileEntry], mailbox: Mailbox) -> dict[str, tuple[str, FileEntry]]:
    """Take out what may be nowhere below a directory of ours, each with the reason."""
    heads = places.heads(files)
    # What machines of the project wrote, or what was restored for this run: nothing else of the store is a result.
    below = (f"machine/{mailbox.project}/", f"{mailbox.orders}/restored/")
    why = {
        path: places.REPOSITORY if path in heads else places.unfit(path) or _unsound(entry, below)
        for path, entry in files.items()
    }
    return {path: (reason, files.pop(path)) for path, reason in why.items() if reason}


def _unsound(entry: FileEntry, below: tuple[str, ...]) -> str | None:
    """Why a line of a manifest is none: a machine may say what it likes."""
    ours = entry.source.startswith(below)
    told = entry.shown is None or (entry.shown.startswith(below) and not places.unfit(entry.shown))
    sound = 0 <= entry.size <= LARGEST and 0 <= (entry.offset or 0) <= LARGEST
    a_key = not places.unfit(entry.source) and not TEMPORARY.search(entry.source)
    return None if ours and told and sound and a_key else STRANGE


def fetch(files: Iterable[FileEntry], mailbox: Mailbox, directory: Path, any_letters: bool = False) -> None:
    """Lay the files out below a directory, verified."""
    known = list(files)
    mailbox.contents.expect(known)
    for entry in known:
        fetch_file(entry, mailbox, directory, any_letters=any_letters)


def _newest(commits: Commits, attempt: int, nodes: int, what: str) -> dict[str, FileEntry]:
    """By path; what a node only carries on from a checkpoint gives way, and is there while rank 0's node has it."""
    by_node = [commits.newest(attempt, node, what).files for node in range(nodes)]
    ours = f"{commits.mailbox.machine}/{attempt}/"
    files = {entry.path: entry for entry in by_node[0]}
    for committed in reversed(by_node):
        files.update({entry.path: entry for entry in committed if entry.source.startswith(ours)})
    return files


def _again(
    commits: Commits, attempt: int, nodes: int, what: str, chosen: Mapping[str, FileEntry]
) -> dict[str, FileEntry]:
    """What the other nodes wrote themselves under paths for which another node's file was chosen."""
    ours = f"{commits.mailbox.machine}/{attempt}/"
    found: dict[str, FileEntry] = {}
    for node in range(1, nodes):
        for entry in commits.newest(attempt, node, what).files:
            taken = chosen.get(entry.path)
            if taken is not None and taken.hash != entry.hash and entry.source.startswith(ours):
                path = f"{of_node(node)}/{entry.path}"
                found[path] = entry.model_copy(update={"path": path})
    return found


def of_node(node: int) -> str:
    """The folder of `sojourn pull --to` for what cannot lie where rank 0's node has it."""
    return f"node-{node}"


def _of(node: int) -> str:
    return f"node {node}: " if node else ""


def without_node(path: str) -> str:
    """A path of an account as the script wrote it, whichever node did."""
    return re.sub(r"^node \d+: ", "", path)


def _restored(mailbox: Mailbox, attempt: int) -> Collection[str]:
    order = _order(mailbox, attempt)
    return {entry.path for entry in order.inputs if is_restored(entry.source)} if order else ()


def _order(mailbox: Mailbox, attempt: int) -> Order | None:
    """What the machines were told; one that cannot be read any more keeps nothing from home."""
    with suppress(UnreadableError):
        return mailbox.read(f"order/{attempt}", Order)
    return None


def _half(files: dict[str, FileEntry], mailbox: Mailbox, attempt: int) -> set[str]:
    """The parts of checkpoints that are not whole over all nodes, but for the declared outputs of a stage.

    One node may rotate a folder away on its own disk and leave the others' parts on theirs.
    """
    order = _order(mailbox, attempt)
    if order is None:
        return set()

    def look(path: str) -> str:
        entry = files.get(path)
        if entry is None or entry.offset is None:
            return (mailbox.store.find(entry.source) or b"").decode(errors="replace") if entry else ""
        with suppress(MissingKeyError, SojournError):
            return mailbox.contents.get(entry).decode(errors="replace")
        return ""

    parts = checkpoint_files.members(files, Patterns(order.checkpoint).match)
    found = checkpoint_files.half(parts, look, lives=False)
    return {path for path in found if not any(below(path, declared) for declared in order.outputs or ())}


def _not_whole(half: dict[str, FileEntry]) -> Iterator[Remainder]:
    folders = {path: checkpoint_files.folder_of(path) for path in half}
    return remainder(HALF, True, [f"{folder}/" if folder else path for path, folder in folders.items()], half.values())


def _told_again(again: Mapping[str, FileEntry]) -> Iterator[Remainder]:
    return remainder(AGAIN, True, again, again.values())


def _refused(nowhere: Mapping[str, tuple[str, FileEntry]]) -> Iterator[Remainder]:
    for reason in dict.fromkeys(reason for reason, _ in nowhere.values()):
        found = {path: entry for path, (why, entry) in nowhere.items() if why == reason}
        yield from remainder(reason, True, [path[:NAME] for path in found], found.values())


def _lost(entries: list[FileEntry]) -> Iterator[Remainder]:
    return remainder(LOST, False, [entry.path for entry in entries], entries)


def _torn(commits: list[str]) -> Iterator[Remainder]:
    """Commits that cannot be read: how many files they name nobody knows."""
    if commits:
        yield Remainder(reason=TORN, kept=False, paths=tuple(commits[:PATHS]), files=len(commits), bytes=0)


def _accounts(commits: Commits, attempt: int, nodes: int) -> Iterator[Remainder]:
    """What each node says does not come home; on several nodes with the node's number before each path."""
    for node in range(nodes):
        results, rest = (commits.newest(attempt, node, what) for what in ("out", "kept"))
        beyond = [one for one in results.account if one.reason == BEYOND]
        unreadable = [*rest.unreadable, *results.unreadable]
        yield from (_told(one, node) for one in (*rest.account, *beyond, *_torn(unreadable)))


def _told(one: Remainder, node: int) -> Remainder:
    """What a machine says that it left, in words and numbers that can be shown."""
    paths = tuple(f"{_of(node)}{path[:NAME]}" for path in one.paths[:PATHS])
    more = len(one.paths[PATHS:])
    files, size, unnamed = (min(max(number, 0), LARGEST) for number in (one.files, one.bytes, one.unnamed + more))
    about = {"reason": line(one.reason, NAME), "paths": paths, "files": files, "bytes": size, "unnamed": unnamed}
    return one.model_copy(update=about)
