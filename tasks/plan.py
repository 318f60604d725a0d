"""Decide the run, and store the decision before anything else happens."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from threading import Thread
from uuid import UUID

from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client

from blocks.base import ProviderBlock
from sojourn.names import mint_run_id
from sojourn.plan.planning import Plan, make_plan
from sojourn.providers.registry import open_provider
from sojourn.run import planned
from sojourn.run.journey import Journey
from sojourn.run.runs import data_home, store_for
from sojourn.spec.launch import Launch, read_launch
from sojourn.store.known_stores import known_store
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from tasks import artifacts
from tasks.checkout import GIT, find_project
from tasks.listener import PrefectListener
from tasks.session import current
from tasks.step import step

logger = logging.getLogger(__name__)


def run_id() -> str:
    """The run's id: the one that a command line has shown already, else derived from the flow run's id."""
    session = current()
    return session.plan.run if session else mint_run_id(runtime.flow_run.id)


@step("plan")
def plan(launch: Launch, project: str, provider: ProviderBlock | None) -> Journey:
    """The journey of this flow run; a retry of it continues the journey that was begun."""
    session, home, run = current(), data_home(), run_id()
    if provider:
        provider.prepare()  # before the store is opened, which needs the block's credentials too
    made = session.plan if session else _make(launch, project, provider, run, home)
    mailbox = Mailbox(known_store(home, made.store), made.project, run)
    begun = mailbox.read("plan", Plan)
    if begun:
        planned.note(home, made)  # as this host makes it, for what is in the store may be somebody else's
    made = begun or made
    # Without its context a thread knows no server, and Prefect would start one of its own for it.
    said = made, runtime.flow_run.id, runtime.flow_run.tags
    Thread(target=copy_context().run, args=(_tag, *said), daemon=True).start()
    artifacts.show_plan(made)
    if session:
        session.listener.note(f"in Prefect: {runtime.flow_run.ui_url}")
    listener = PrefectListener(get_run_logger(), [session.listener] if session else [])
    rented_from = open_provider(made.launch.where, home, made.regions)
    open_journey = Journey if mailbox.read("plan", Plan) else Journey.begin
    journey = open_journey(made, mailbox, rented_from, home, listener, cancelled=_is_cancelling)
    if session:
        journey.do = session.do
    return journey


def _make(launch: Launch, project: str, provider: ProviderBlock | None, run: str, home: Path) -> Plan:
    here = find_project(project, run, home)
    asked = read_launch(here.directory, launch.model_dump(exclude_unset=True))
    asked = provider.complete(asked) if provider else asked
    rented_from = open_provider(asked.where, home, asked.regions or None)
    return make_plan(
        asked,
        here,
        rented_from,
        run=run,
        store=Store(store_for(asked, rented_from, here, home)).url,
        home=home,
        now=time.time(),
        from_git=project.startswith(GIT),
    )


def _tag(plan: Plan, flow_run: str, tags: list[str]) -> None:
    """Let the flow run be found by project, provider and run. Nothing waits for it."""
    found_by = {f"project:{plan.project}", f"provider:{plan.launch.where}", f"run:{plan.run}"}
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(flow_run), tags=sorted({*tags, *found_by}))
    except Exception as error:  # whatever Prefect's client raises, a tag is not worth a run
        logger.warning("no tags: %s", error)


def _is_cancelling() -> bool:
    """Whether the server says that this flow run is being cancelled; no answer means no."""

    def ask(run: str) -> bool:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run)).state
            return state is not None and state.type.value in ("CANCELLING", "CANCELLED")

    try:
        return ThreadPoolExecutor(1).submit(copy_context().run, ask, str(runtime.flow_run.id)).result(timeout=3)
    except Exception:  # an unreachable server is not a reason to stop a training
        return False
