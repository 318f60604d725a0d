"""Which runs this host planned, and for which directory: kept outside of every store.

What lies in a store is said by whoever may write there. So results come home by themselves, and files leave, only
where a plan says what this host wrote down when it made that plan; any other run is followed, ended and closed, and
its results stay in the store for `sojourn pull RUN --to DIR`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from sojourn.agent import files
from sojourn.plan.planning import Plan
from sojourn.store.storage import Store

FOLDER = "planned"


def note(home: Path, plan: Plan) -> None:
    """Write down that this host made this plan."""
    folder = home / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = {"run": plan.run, "store": plan.store.rstrip("/"), "directory": plan.directory, "at": plan.created_at}
    files.write(str(folder / f"{plan.run}.json"), known)
    os.chmod(folder / f"{plan.run}.json", 0o600)


def is_ours(home: Path, plan: Plan, store: Store) -> bool:
    """Whether this host planned this run, in this store and for this directory.

    A store in the data directory is one that only this user writes; it holds runs from before this was written down.
    """
    if store.url == (home / "store").as_uri():
        return True
    known = files.read(str(home / FOLDER / f"{plan.run}.json")) or {}
    return known.get("store") == store.url and known.get("directory") == plan.directory


def forget(home: Path, run: str) -> None:
    """Of a run that is purged nothing can come home."""
    with suppress(FileNotFoundError):
        (home / FOLDER / f"{run}.json").unlink()
