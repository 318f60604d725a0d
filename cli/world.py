"""Opens what every verb stands on: the data directory, the store, the provider."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.console import show_warning
from sojourn.errors import AccessError, SojournError, SpecError
from sojourn.names import is_project_name, mint_run_id, project_name
from sojourn.plan.planning import Plan, make_plan
from sojourn.project.project import Project
from sojourn.providers import catalogue
from sojourn.providers.registry import open_provider
from sojourn.run.runs import data_home, default_store, find_run, past_runs, plan_of, store_for, usual_seconds
from sojourn.spec.launch import Launch, read_launch, resuming
from sojourn.spec.params import read_section
from sojourn.store.known_stores import each_once, known_store, remembered, unread_stores
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store


def open_store(url: str | None) -> Store:
    """The store that was named, that of the project we stand in, or this user's own."""
    return known_store(data_home(), store_url(url, Path(".")))


def open_stores(url: str | None) -> list[Store]:
    """The store that was named; or every one in which this host has runs, that of the project we stand in first."""
    known = list(dict.fromkeys(remembered(data_home())))
    if damaged := None if url else unread_stores(data_home()):
        show_warning(damaged)
    first = known_store(data_home(), store_url(url, Path(".")))
    others = [] if url else [_remembered_store(one) for one in known if one != first.url]
    return each_once([first, *(one for one in others if one is not None)])


def trusted_stores(url: str | None) -> list[Store]:
    """Those that may be acted on: not one that nobody named but the params.yaml here, while this host has no run in it.

    Whoever clones a project has not decided yet to believe what its store says.
    """
    stores, own = open_stores(url), default_store(data_home())
    first = stores[0].url
    if url or first in (own, *remembered(data_home())):
        return stores
    show_warning(
        f"{first}: only the params.yaml here names this store, and this host has no run in it, so it is left alone; "
        f"if you know it: --store {first}"
    )
    return each_once([known_store(data_home(), own), *stores[1:]])


def stores_for(run: str, url: str | None) -> list[Store]:
    """Where a run is looked for that is to be acted on; who names it by its id means that one, wherever it is."""
    return trusted_stores(url) if run == "last" else open_stores(url)


def named_run(run: str, stores: list[Store]) -> Mailbox:
    """The run of this id; `last` is the newest of the project that we stand in, or else of all, which is told then."""
    here = _name_here() if run == "last" else None
    mailbox = find_run(stores, run, here)
    if here is not None and mailbox.project != here:
        show_warning(f"{here} has no run, so last is {mailbox.run} of {mailbox.project}")
    return mailbox


def _name_here() -> str | None:
    try:
        return name_of(Project.at(Path(".")))
    except SojournError:  # what is wrong with it matters to a plan, not to a look at past runs
        return None


def _remembered_store(url: str) -> Store | None:
    """A store that this host has runs in; an address that is none any more is told and costs no other."""
    try:
        return known_store(data_home(), url)
    except SpecError as error:
        show_warning(f"{error.message}; if it is of no use any more: sojourn runs --forget {shlex.quote(url)}")
        return None


def store_url(url: str | None, directory: Path) -> str:
    """The store's URL: as named, else as the directory's params.yaml says, else this user's own."""
    try:
        asked = url or read_section(directory).get("store")
    except SpecError:
        asked = None  # a params.yaml that cannot be read matters to a plan, not to a look at past runs
    return str(asked or default_store(data_home()))


def name_of(project: Project) -> str:
    """What a project is called in the store and in a cloud account. Raises SpecError for a name that it cannot have."""
    named = read_section(project.directory).get("project_name")
    if named is None:
        return project_name(project.root.name)
    if not is_project_name(str(named)):
        raise SpecError(f"launch.project_name: {named!r} is not a name of small letters, digits and dashes")
    return str(named)


def prepare_plan(
    directory: Path,
    flags: dict[str, Any],
    store: str | None,
    accept_size: bool,
    from_run: str | None = None,
    note: bool = False,
) -> Plan:
    """The plan for what was asked on the command line, or by an earlier run. Creates nothing.

    With `note`, closed runs of which no page of the store tells are written down there.
    """
    project, home = Project.at(directory), data_home()
    if from_run is None:
        launch = read_launch(project.directory, {**flags, "store": store or flags.get("store")})
        _ = project.root  # what git refuses has nothing to do with prices
        with _telling_prices(launch):
            provider = open_provider(launch.where, home, launch.regions or None)
            where = known_store(home, store_for(launch, provider, project, home))
    else:
        launch, where = _again(from_run, stores_for(from_run, store), project, flags)
        provider = open_provider(launch.where, home, launch.regions or None)
    plan = make_plan(
        launch,
        project,
        provider,
        run=mint_run_id(),
        store=where.url,
        home=home,
        now=time.time(),
        accept_size=accept_size,
    )
    past = past_runs(where, plan.project, note)
    return plan.model_copy(update={"expected_s": usual_seconds(past, plan.shown_command())})


@contextmanager
def _telling_prices(launch: Launch) -> Iterator[None]:
    """Whoever has no login yet, or no setup, may still wonder what it would cost."""
    try:
        yield
    except (AccessError, SpecError) as error:
        if known := catalogue.prices(launch.need(), launch.where):
            told = f"until then, what Sojourn's catalogue says, on demand: {'; '.join(known)}"
            error.hint = f"{error.hint}\n  {told}" if error.hint else told
        raise


def _again(run: str, stores: list[Store], project: Project, flags: dict[str, Any]) -> tuple[Launch, Store]:
    """An earlier run's spec and store. Raises SpecError when it was a run of another project or directory."""
    mailbox = find_run(stores, run, name_of(project) if run == "last" else None)
    plan = plan_of(mailbox)
    launch = resuming(plan.run, plan.launch, flags)
    hint = f"stand where it was started: cd {shlex.quote(plan.directory)}"
    here = launch.project_name or project_name(project.root.name)
    if here != plan.project:
        raise SpecError(f"{plan.run} is a run of project {plan.project}, and this is {here}", hint=hint)
    if launch.command == plan.launch.command and launch.command and plan.work_directory != project.relative:
        raise SpecError(f"{plan.run} ran in {plan.work_directory}, and this is {project.relative}", hint=hint)
    return launch, mailbox.store
