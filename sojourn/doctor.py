"""What is missing on this host, and the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from sojourn.agent import supervisor
from sojourn.errors import SojournError
from sojourn.project import Project
from sojourn.providers import Provider
from sojourn.records import Record
from sojourn.spec import Launch, make_launch, read_section
from sojourn.storage import Store

DISK_WANTED = 5e9  # bytes; below this an environment with torch does not fit
ASK_LIMIT_S = 20.0


class Check(Record):
    """One thing looked at."""

    what: str
    state: Literal["good", "weak", "missing"]
    found: str
    mend: str | None = None


def examine(directory: Path, home: Path, store: Store, provider: Provider) -> Iterator[Check]:
    """Every check, in the order in which a newcomer would stumble over them."""
    yield _host()
    yield _tool("git", "needed to know which files travel", "sudo apt-get install git")
    yield _uv()
    yield _isolation()
    yield _place("data", home)
    yield _store(store)
    yield from _project(directory)
    yield _machines(provider)


def _host() -> Check:
    version = f"Python {platform.python_version()} on {platform.system()}"
    if sys.platform == "linux":
        return Check(what="host", state="good", found=version)
    return Check(what="host", state="weak", found=f"{version}: processes that a script detaches may survive its run")


def _tool(name: str, why: str, mend: str) -> Check:
    path = shutil.which(name)
    if path is None:
        return Check(what=name, state="missing", found=f"not on your PATH; {why}", mend=mend)
    return Check(what=name, state="good", found=path)


def _uv() -> Check:
    from uv import find_uv_bin

    try:
        return Check(what="uv", state="good", found=find_uv_bin())
    except FileNotFoundError:
        return Check(
            what="uv", state="missing", found="its program is not installed", mend="pip install --force-reinstall uv"
        )


def _isolation() -> Check:
    if supervisor.LINUX and supervisor.namespace(None):
        return Check(
            what="isolation", state="good", found="a script's processes live in a namespace that ends with them"
        )
    return Check(
        what="isolation",
        state="weak",
        found="no process namespaces here: a killed supervisor leaves processes to `sojourn reap`",
        mend="sudo sysctl kernel.unprivileged_userns_clone=1",
    )


def _place(what: str, path: Path) -> Check:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Check(
            what=what, state="missing", found=f"{existing} is not writable", mend="export SOJOURN_HOME=DIRECTORY"
        )
    free = shutil.disk_usage(existing).free
    found = f"{path}, {free / 1e9:.0f} GB free"
    if free < DISK_WANTED:
        return Check(what=what, state="weak", found=found, mend="make room, or: export SOJOURN_HOME=DIRECTORY")
    return Check(what=what, state="good", found=found)


def _store(store: Store) -> Check:
    return _try("store", lambda: f"{store.url}, {len(store.folders('control'))} projects", "export SOJOURN_STORE=URL")


def _project(directory: Path) -> Iterator[Check]:
    project = Project.at(directory)
    kind = "in git" if project.in_git else "not in git: everything but caches travels"
    yield Check(what="project", state="good", found=f"{project.root}, {kind}")
    section = read_section(project.directory)
    if not section:
        yield Check(what="launch", state="weak", found="params.yaml has no launch: section", mend="sojourn init")
        return
    yield _try("launch", lambda: _words(make_launch(section, "params.yaml")), "sojourn init shows an example")
    if section.get("processes", 1) != 1 or section.get("nodes", 1) != 1:
        yield _torch()


def _words(launch: Launch) -> str:
    what = f"stage {launch.stage}" if launch.stage else " ".join(launch.command or ())
    return f"{what} on {launch.where}, {launch.nodes} × {launch.processes}"


def _torch() -> Check:
    python = shutil.which("python")
    if python is None:
        return Check(what="python", state="missing", found="no `python` on your PATH", mend="activate your environment")
    code = "import importlib.util as u; print(u.find_spec('torch') is not None)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=ASK_LIMIT_S)
    if done.stdout.strip() == "True":
        return Check(what="torch", state="good", found=f"{python} has it")
    return Check(
        what="torch", state="weak", found=f"{python} has no torch, which torchrun needs", mend="pip install torch"
    )


def _machines(provider: Provider) -> Check:
    leases = provider.leases()
    if not leases:
        return Check(what="machines", state="good", found="none stands")
    return Check(what="machines", state="weak", found=f"{len(leases)} leases stand", mend="sojourn reap --dry-run")


def _try(what: str, look: Callable[[], str], mend: str) -> Check:
    try:
        return Check(what=what, state="good", found=look())
    except SojournError as error:
        return Check(what=what, state="missing", found=error.message, mend=error.hint or mend)
