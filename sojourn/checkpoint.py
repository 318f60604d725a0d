"""The newest checkpoint that a run left whole, and the words for beginning another run with it.

Rank 0's agent numbers the checkpoints and writes a commit once every node's manifest of that
number is there. A manifest without a commit is a checkpoint that was never finished.
"""

from __future__ import annotations

import shlex

from sojourn.errors import SpecError
from sojourn.mailbox import Mailbox
from sojourn.names import LeaseName, is_run_id
from sojourn.records import Checkpoint, FileEntry, Order
from sojourn.spec import Launch
from sojourn.storage import Store


def newest(mailbox: Mailbox) -> Checkpoint | None:
    """The newest complete checkpoint of the run's newest attempt that has one."""
    for attempt in reversed(mailbox.attempts()):
        order = mailbox.read(f"order/{attempt}", Order)
        nodes = [LeaseName.node_of(name) for name in order.nodes] if order else []
        complete = mailbox.manifests(attempt, nodes[0], "commit") if nodes else []
        if complete:
            return _read(mailbox, attempt, nodes, complete[-1])
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
    check_stored(found, store)
    return found


def check_stored(found: Checkpoint | None, store: Store) -> None:
    """Raise SpecError unless every file of the checkpoint is in the store."""
    missing = [entry.path for entry in found.files if not store.exists(entry.source)] if found else []
    if found and missing:
        raise SpecError(
            f"checkpoint {found.sequence} of {found.run} is no longer in the store: {', '.join(missing[:3])}",
            hint="start afresh: sojourn train, with the same words and without --from",
        )


def _read(mailbox: Mailbox, attempt: int, nodes: list[int], sequence: int) -> Checkpoint:
    """All nodes' files; where several committed one path, rank 0's counts.

    What a node carried on from the attempt before gives way to what another has written since.
    """
    carried: dict[str, FileEntry] = {}
    files: dict[str, FileEntry] = {}
    ours = f"{mailbox.machine}/{attempt}/"
    at = 0.0
    for node in reversed(nodes):
        manifest = mailbox.manifest(attempt, node, "ckpt", sequence)
        if manifest is not None:
            files.update({entry.path: entry for entry in manifest.files if entry.source.startswith(ours)})
            carried.update({entry.path: entry for entry in manifest.files if not entry.source.startswith(ours)})
            at = manifest.at
    files = carried | files
    ordered = tuple(files[path] for path in sorted(files))
    return Checkpoint(run=mailbox.run, attempt=attempt, sequence=sequence, at=at, files=ordered)


def _words(launch: Launch) -> str:
    if launch.stage:
        return f"--stage {shlex.quote(launch.stage)}"
    text = launch.command if isinstance(launch.command, str) else None
    return f"-- {shlex.quote(text) if text else shlex.join(launch.command or ())}"
