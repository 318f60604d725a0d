"""Brings a run's results into the user's directory, without ever overwriting what is theirs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from sojourn import bundle, homecoming
from sojourn.collect import Collected, fetch
from sojourn.dataset import Dataset
from sojourn.errors import SpecError
from sojourn.mailbox import Mailbox
from sojourn.planning import Plan
from sojourn.project import Project
from sojourn.records import Bundle, FileEntry, Outcome, Record


class Inputs(Record):
    """The manifest of what was fed to a run."""

    files: tuple[FileEntry, ...]


class Published(Record):
    """Where the results of a run are now."""

    placed: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    directory: str | None = None
    differs: tuple[str, ...] = ()
    committed: bool = False
    pushed_bytes: int = 0
    note: str | None = None


def bring_home(
    plan: Plan,
    mailbox: Mailbox,
    outcome: Outcome,
    collected: Collected,
    checkout: Path,
    echo: Callable[[str], None],
) -> Published:
    """Results of a run into the directory that it was started from, if that is here.

    `checkout` is where its project would have been cloned to; what is placed there would go with it.
    """
    sent = mailbox.read("bundle", Bundle)
    if sent is None or not Path(plan.directory).is_dir():
        return Published(note=f"its directory is not here; get the results: sojourn pull {plan.run} --to DIR")
    if checkout.exists() and plan.stage is None:
        return Published(note=f"it ran from a checkout; get the results: sojourn pull {plan.run} --to DIR")
    project = Project.at(Path(plan.directory))
    if outcome.state != "succeeded":
        return keep_aside(plan, collected, mailbox, project)
    if plan.stage is None:
        return place_files(plan, collected, sent, mailbox, project)
    inputs = mailbox.read("inputs", Inputs)
    assert inputs is not None and project.dvc is not None
    dataset = Dataset(project.dvc, project.directory)
    return commit_stage(plan, collected, sent, inputs, mailbox, project, dataset, echo)


def place_files(plan: Plan, collected: Collected, sent: Bundle, mailbox: Mailbox, project: Project) -> Published:
    """Results of a plain script: new files go where the script put them, changed ones to `runs/<id>/`."""
    travelled = {entry.path for entry in sent.listing} | {link.path for link in sent.links}
    aside = project.directory / bundle.HOME / plan.run
    placed, beside = [], []
    for entry in collected.files:
        target = project.root / entry.path
        if _stands(target, entry):
            placed.append(entry.path)
        elif entry.path not in travelled and _free(target, project.root):
            bundle.fetch_file(entry, mailbox, target)
            placed.append(entry.path)
        else:
            bundle.fetch_file(entry, mailbox, aside / entry.path)
            beside.append(entry.path)
    return Published(placed=tuple(placed), beside=tuple(beside), directory=str(aside) if beside else None)


def to_directory(collected: Collected, mailbox: Mailbox, directory: Path) -> Published:
    """All results below a directory of the user's choice, which must be empty or new."""
    if directory.exists() and any(directory.iterdir()):
        raise SpecError(f"{str(directory)!r} is not empty", hint="name a new directory: --to PATH")
    fetch(collected.files, mailbox, directory)
    return Published(placed=tuple(entry.path for entry in collected.files), directory=str(directory))


def keep_aside(plan: Plan, collected: Collected, mailbox: Mailbox, project: Project) -> Published:
    """Results of a run that did not succeed: below `runs/<id>/`, where they replace nothing."""
    if not collected.files:
        return Published(note="nothing was committed")
    aside = project.directory / bundle.HOME / plan.run
    fetch(collected.files, mailbox, aside)
    return Published(beside=tuple(entry.path for entry in collected.files), directory=str(aside))


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
        bundle.unpack(sent, mailbox, scratch / "tree")
        fetch(collected.files, mailbox, scratch / "outputs")
        # What travelled by name is read again by DVC; its own data is known by the hash it travelled under.
        fetch(tuple(entry for entry in inputs.files if not _is_dvc(entry)), mailbox, scratch / "tree")
        committed = homecoming.commit(
            dataset.root,
            scratch / "tree" / dataset.root.relative_to(project.root),
            plan.stage.name,
            top=project.root,
            inputs=tuple(entry for entry in inputs.files if _is_dvc(entry)),
            outputs=scratch / "outputs",
        )
        applied = homecoming.apply(dataset.root, committed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if isinstance(applied, homecoming.Refused):
        return Published(
            differs=applied.paths,
            note=f"your tree changed meanwhile ({', '.join(applied.paths)}), so it and dvc.lock were left alone; "
            f"take the results: sojourn pull {plan.run} --to DIR; or restore it, then: sojourn pull {plan.run} --apply",
        )
    pushed = dataset.push_outputs(dataset.at(plan.stage.name), echo)
    dataset.reproduce(plan.stage.after, echo)
    return Published(placed=applied.outputs, committed=True, pushed_bytes=pushed.bytes)


def _stands(target: Path, entry: FileEntry) -> bool:
    """Whether this very content is there already."""
    return target.is_file() and target.stat().st_size == entry.size and bundle.hash_file(target) == entry.hash


def _is_dvc(entry: FileEntry) -> bool:
    return entry.hash.startswith("md5:")


def _free(target: Path, root: Path) -> bool:
    """Whether nothing is there, not even a link that leads elsewhere."""
    return not target.exists() and not target.is_symlink() and target.resolve().is_relative_to(root)
