"""What the shell offers on Tab: ids of runs, stages, providers, machines.

Looked up in place, without reading any run, and silent: a shell that waits for an answer has
no use for an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path


def _silent(look: Callable[[], Iterable[str]]) -> Callable[[], list[str]]:
    @wraps(look)
    def offer() -> list[str]:
        try:
            return list(look())  # Typer keeps those that fit
        except Exception:  # whatever is broken here, the command itself will say it
            return []

    return offer


@_silent
def runs() -> list[str]:
    """`last`, and the id of every run of a store on this host; a cloud's answer could take too long."""
    from cli.world import open_store
    from sojourn.store.mailbox import projects, runs_of

    store = open_store(None)
    if store.root is None:
        return ["last"]
    return ["last", *(mailbox.run for project in projects(store) for mailbox in runs_of(store, project))]


@_silent
def stages() -> list[str]:
    """The stages of the dvc.yaml here; DVC itself would take seconds."""
    import yaml

    return [str(name) for name in yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]]


@_silent
def providers() -> list[str]:
    """The names for --where."""
    from sojourn.providers.registry import NAMES

    return list(NAMES)


@_silent
def machines() -> list[str]:
    """This host, and what is known of the clouds without asking them."""
    from sojourn.providers.catalogue import known
    from sojourn.providers.local import MACHINE
    from sojourn.providers.registry import NAMES

    return [MACHINE, *(machine for name in NAMES for machine in known(name))]
