"""Plans what a timetable would launch, so that no schedule is made whose every run would be refused.

The plan is made on this host and the runs on a worker's. So what the project itself does not say (nothing to
run, a params.yaml that cannot be read) is certain, and what a worker may have and this host not (a program, a
login, a clone of the repository) is only told.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.registry import load_provider
from deployments.timetable import Timed
from flows.train import train
from sojourn.errors import SojournError
from sojourn.names import mint_run_id
from sojourn.plan.planning import make_plan
from sojourn.project.project import Project
from sojourn.providers.registry import open_provider
from sojourn.run.runs import checkouts, store_for
from sojourn.spec.launch import Launch, read_launch
from sojourn.store.storage import Store
from tasks.checkout import GIT, find_project


@dataclass(frozen=True)
class Doubt:
    """Why the runs of a deployment would be refused; `certain` when that is so on any host."""

    deployment: str
    why: SojournError
    certain: bool


def doubts(timetable: Iterable[Timed], home: Path) -> Iterator[Doubt]:
    """What keeps the scheduled trainings of a timetable from running. One without a schedule is asked by its form."""
    for timed in timetable:
        if timed.flow is train and timed.wanted["schedules"]:
            yield from _doubt(timed.full_name, timed.wanted["parameters"], home)


def _doubt(name: str, parameters: Mapping[str, Any], home: Path) -> Iterator[Doubt]:
    where, run = str(parameters.get("project", ".")), mint_run_id()
    if not (where.startswith(GIT) or Path(where).is_absolute()):
        return  # the worker's own directory, of which this host knows nothing
    try:
        yield from _refused(name, find_project(where, run, home), parameters, run, home)
    except SojournError as error:
        yield Doubt(name, error, certain=not where.startswith(GIT))
    finally:
        shutil.rmtree(checkouts(home) / run, ignore_errors=True)


def _refused(name: str, here: Project, parameters: Mapping[str, Any], run: str, home: Path) -> Iterator[Doubt]:
    try:
        launch = read_launch(here.directory, dict(parameters.get("launch") or {}))
    except SojournError as error:
        yield Doubt(name, error, certain=True)
        return
    try:
        _plan(_completed(launch, parameters.get("provider")), here, run, home, str(parameters.get("project", ".")))
    except SojournError as error:
        yield Doubt(name, error, certain=False)


def _completed(launch: Launch, provider: object) -> Launch:
    return load_provider(provider).complete(launch) if isinstance(provider, str) else launch


def _plan(launch: Launch, here: Project, run: str, home: Path, source: str) -> None:
    rented_from = open_provider(launch.where, home, launch.regions or None)
    store = Store(store_for(launch, rented_from, here, home)).url
    make_plan(
        launch, here, rented_from, run=run, store=store, home=home, now=time.time(), from_git=source.startswith(GIT)
    )
