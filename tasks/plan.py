"""Decide the run, and store the decision before anything else happens."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE

from sojourn.journey import Journey
from sojourn.mailbox import Mailbox
from sojourn.names import mint_run_id
from sojourn.planning import Plan, make_plan
from sojourn.project import Project
from sojourn.providers import open_provider
from sojourn.runs import data_home, default_store
from sojourn.spec import Launch
from sojourn.storage import Store
from tasks import artifacts
from tasks.listener import PrefectListener
from tasks.session import current


def run_id() -> str:
    """The run's id: the one that a command line has shown already, else derived from the flow run's id."""
    session = current()
    return session.plan.run if session else mint_run_id(runtime.flow_run.id)


@task(name="plan", cache_policy=NO_CACHE)
def plan(launch: Launch, directory: str) -> Journey:
    """The journey of this flow run; a retry of it continues the journey that was begun."""
    session, home, run = current(), data_home(), run_id()
    made = session.plan if session else _make(launch, directory, run, home)
    mailbox = Mailbox(Store(made.store), made.project, run)
    made = mailbox.read("plan", Plan) or made
    artifacts.show_plan(made)
    if session:
        session.listener.note(f"in Prefect: {runtime.flow_run.ui_url}")
    listener = PrefectListener(get_run_logger(), [session.listener] if session else [])
    open_journey = Journey if mailbox.read("plan", Plan) else Journey.begin
    return open_journey(made, mailbox, open_provider(made.launch.where, home), home, listener, cancelled=_is_cancelling)


def _make(launch: Launch, directory: str, run: str, home: Path) -> Plan:
    return make_plan(
        launch,
        Project.at(Path(directory)),
        open_provider(launch.where, home),
        run=run,
        store=Store(launch.store or default_store(home)).url,
        home=home,
        now=time.time(),
    )


def _is_cancelling() -> bool:
    """Whether the server says that this flow run is being cancelled; no answer means no."""
    from concurrent.futures import ThreadPoolExecutor
    from uuid import UUID

    from prefect.client.orchestration import get_client

    def ask(run: str) -> bool:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(run)).state
            return state is not None and state.type.value in ("CANCELLING", "CANCELLED")

    try:
        return ThreadPoolExecutor(1).submit(ask, str(runtime.flow_run.id)).result(timeout=3)
    except Exception:  # an unreachable server is not a reason to stop a training
        return False
