"""The sweep: what outlived its run is ended, what nobody waits for comes home, Prefect is put right."""

from prefect import flow

from blocks.store import Store
from sojourn import storage
from sojourn.reap import Finding, raise_for_failed
from sojourn.runs import data_home, default_store
from tasks.reap import mend, sweep


@flow(name="reap", validate_parameters=True)
def reap(store: Store | str | None = None, dry_run: bool = False) -> list[Finding]:
    """End machines that outlived their run, and bring home the runs whose orchestrator died.

    Args:
        store: Where the runs are kept: a saved store block, or an address like file:///srv/sojourn. The
            worker's own store if absent.
        dry_run: Only say what would be done.
    """
    kept = store.open() if isinstance(store, Store) else storage.Store(store or default_store(data_home()))
    found = sweep(kept, dry_run)
    findings = found + mend(kept, dry_run, found)
    raise_for_failed(findings)
    return findings
