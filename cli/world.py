"""Opens what every verb stands on: the data directory, the store, the provider."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sojourn.errors import SpecError
from sojourn.names import mint_run_id
from sojourn.planning import Plan, make_plan
from sojourn.project import Project
from sojourn.providers import open_provider
from sojourn.runs import data_home, default_store, past_reports, usual_seconds
from sojourn.spec import read_launch, read_section
from sojourn.storage import Store


def open_store(url: str | None) -> Store:
    """The store that was named, that of the project we stand in, or this user's own."""
    return Store(store_url(url, Path(".")))


def store_url(url: str | None, directory: Path) -> str:
    """The store's URL: as named, else as the directory's params.yaml says, else this user's own."""
    try:
        asked = url or read_section(directory).get("store")
    except SpecError:
        asked = None  # a params.yaml that cannot be read matters to a plan, not to a look at past runs
    return str(asked or default_store(data_home()))


def prepare_plan(directory: Path, flags: dict[str, Any], store: str | None, accept_size: bool) -> Plan:
    """The plan for what was asked on the command line. Creates nothing."""
    project = Project.at(directory)
    launch = read_launch(project.directory, flags)
    home = data_home()
    where = Store(store or launch.store or default_store(home))
    plan = make_plan(
        launch,
        project,
        open_provider(launch.where, home),
        run=mint_run_id(),
        store=where.url,
        home=home,
        now=time.time(),
        accept_size=accept_size,
    )
    past = past_reports(where, plan.project)
    return plan.model_copy(update={"expected_s": usual_seconds(past, plan.shown_command())})
