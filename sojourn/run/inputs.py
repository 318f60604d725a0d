"""Sends the data that a run's machines read, and lists it: where each file lies, and its hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sojourn.errors import SpecError
from sojourn.plan import checkpoint
from sojourn.plan.planning import Plan
from sojourn.project import bundle
from sojourn.project.dvc.dataset import Dataset
from sojourn.project.dvc.relay import carry
from sojourn.project.project import Project
from sojourn.records import FileEntry
from sojourn.store.mailbox import Mailbox


class Gathered(NamedTuple):
    """The inputs of a run, how many bytes of them the store lacked, and how many the DVC remote."""

    files: tuple[FileEntry, ...]
    sent: int
    pushed: int


def gather(plan: Plan, mailbox: Mailbox, echo: Callable[[str], None]) -> Gathered:
    """Send what the DVC remote or the store lacks of a run's inputs. Raises SpecError for what is nowhere.

    `echo` is told in a line what takes its time.
    """
    project = Project.at(Path(plan.directory))
    checkpoint.bring(plan.resume, mailbox)
    data: tuple[FileEntry, ...] = ()
    carried_bytes = pushed = 0
    if plan.stage is not None:
        assert project.dvc is not None
        dataset = Dataset(project.dvc, project.directory)
        stage = dataset.at(plan.stage.name)
        if plan.stage.lines and stage.command != plan.stage.lines:
            raise SpecError(
                f"stage {plan.stage.name!r} has another command by now than the plan: {'; '.join(stage.command)}",
                hint=f"plan it again: sojourn train --stage {plan.stage.name}",
            )
        pushed = dataset.push(stage, echo, anew=False).bytes
        carried, carried_bytes = carry(dataset.out_of_reach(stage, plan.capability.shares_host), mailbox)
        data = tuple(dataset.inputs(stage, project.root, carried))
    of_dvc = {entry.path for entry in data}  # an input may hold data that DVC keeps, and has verified
    files, sent = bundle.pack_inputs(project, plan.launch.inputs, mailbox, of_dvc)
    return Gathered((*files, *data), sent + carried_bytes, pushed)
