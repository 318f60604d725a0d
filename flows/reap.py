"""The sweep: what outlived its run is ended, what nobody waits for comes home, Prefect is put right."""

from prefect import flow

from blocks.registry import load_provider
from blocks.store import Store
from sojourn.providers.registry import configured
from sojourn.run.reap import Finding, raise_for_failed
from sojourn.run.runs import data_home
from sojourn.store.known_stores import known_store
from tasks.reap import find_stores, mend, sweep


@flow(name="reap", validate_parameters=True)
def reap(
    store: Store | str | None = None,
    dry_run: bool = False,
    project: str | None = None,
    regions: list[str] | None = None,
    provider: str | None = None,
) -> list[Finding]:
    """End machines that outlived their run, and bring home the runs whose orchestrator died.

    Args:
        store: Where the runs are kept: a saved store block, or an address like file:///srv/sojourn. If
            absent, the worker's own store, those it has used, and those of the accounts it has credentials for.
        dry_run: Only say what would be done.
        project: Only what is this project's; all if absent.
        regions: Where machines are looked for; every region of each account if absent.
        provider: A saved provider block, like sojourn-aws-provider/NAME, whose account is looked at; the
            worker's own credentials if absent.
    """
    if provider:
        load_provider(provider).prepare()
    providers = configured(data_home(), regions)
    named = store.open() if isinstance(store, Store) else known_store(data_home(), store) if store else None
    stores = [named] if named else find_stores(providers)
    found = sweep(stores, providers, dry_run, project)
    findings = found + mend(stores, dry_run, found)
    raise_for_failed(findings)
    return findings
