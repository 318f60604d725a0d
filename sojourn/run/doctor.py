"""What is missing on this host, and the command that mends it.

Each check looks at one thing that a newcomer would stumble over, and costs little. The last
word on a project has the plan itself: whatever `sojourn plan` would refuse is said here too.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

from sojourn import programs
from sojourn.agent.host.namespace import namespace
from sojourn.clouds.account import Check
from sojourn.environment.sources import choose, shown
from sojourn.errors import SojournError, first_line
from sojourn.plan.planning import Plan
from sojourn.project.project import Project
from sojourn.providers.contract import Provider
from sojourn.renting import Need
from sojourn.shorthand import counted, format_bytes
from sojourn.spec.dependencies import Dependencies
from sojourn.spec.params import PARAMS, read_section
from sojourn.store.known_stores import known_store
from sojourn.store.storage import Store
from sojourn.waiting import CLOCK_LIMIT_S

DISK_WANTED = 5e9  # bytes; below this an environment with torch does not fit
ASK_LIMIT_S = 20.0


PROBE = 4096  # bytes; a name alone would fit on a full disk


def examine_host(home: Path, store: str, provider: Provider) -> Iterator[Check]:
    """This host, whatever the project, in the order in which a newcomer would stumble over it."""
    yield host(sys.platform)
    yield packages("sojourn")
    yield git(sys.platform)
    yield _uv()
    yield isolation(sys.platform)
    yield place(home)
    yield _try("store", lambda: probe(known_store(home, store)), "export SOJOURN_STORE=URL")
    yield _try("machine", lambda: _machine(provider), "sojourn doctor --json")
    yield _standing(provider)


def examine_project(directory: Path, plan: Callable[[], Plan]) -> Iterator[Check]:
    """The project, and whether what its params.yaml asks for can be planned."""
    project = Project.at(directory)
    tree = _tree(project)
    yield tree
    if tree.state == "missing":
        return
    try:
        section = read_section(project.directory)
    except SojournError as error:
        yield Check(what="launch", state="missing", found=error.message, mend=error.hint)
        return
    if not section:
        found = f"{PARAMS} says nothing of it, so each `sojourn train` needs the program: -- python train.py"
        yield Check(what="launch", state="weak", found=found, mend="sojourn init")
        yield _auto_python(project)
        return
    try:
        made = plan()
    except SojournError as error:
        yield Check(what="launch", state="missing", found=error.message, mend=error.hint)
        return
    yield Check(what="launch", state="good", found=f"{made.shown_command()} on {made.launch.where}")
    if made.environment.kind == "current":
        yield from _script_python(made)
    else:
        yield _built(str(made.environment.source), made.environment.notes)


# --- the host -----------------------------------------------------------------------------


def host(system: str) -> Check:
    """Which of the promises this operating system can keep."""
    version = f"Python {platform.python_version()} on {platform.system()}"
    if system == "linux":
        return Check(what="host", state="good", found=version)
    return Check(
        what="host",
        state="weak",
        found=f"{version}: the local provider cannot hold processes that a script detaches, they may survive their run",
    )


def packages(distribution: str) -> Check:
    """Whether everything Sojourn needs is installed in a version that it works with."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        found = f"{distribution} runs from its sources and is not installed"
        return Check(what="packages", state="weak", found=found, mend="uv tool install ./sojourn")
    needed = [one for one in map(Requirement, lines) if not one.marker or one.marker.evaluate({"extra": ""})]
    wrong = {one: said for one in needed if (said := _wrong(one))}
    if wrong:
        mend = programs.install(*(f"{one.name}{one.specifier}" for one in wrong))
        return Check(what="packages", state="missing", found="; ".join(wrong.values()), mend=mend)
    return Check(what="packages", state="good", found=f"all {len(needed)} that {distribution} needs")


def _wrong(needed: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{needed.name} is not installed"
    fits = needed.specifier.contains(version, prereleases=True)
    return None if fits else f"{needed.name} is {version}, and {needed.specifier} is needed"


def git(system: str) -> Check:
    """git decides what travels; without it everything does."""
    path = shutil.which("git")
    if path:
        return Check(what="git", state="good", found=path)
    return Check(
        what="git",
        state="weak",
        found="not on your PATH: Sojourn cannot know what a repository ignores, so all of it travels",
        mend="sudo apt-get install git" if system == "linux" else "xcode-select --install",
    )


def _uv() -> Check:
    from uv import find_uv_bin

    mend = f"{shlex.quote(sys.executable)} -m pip install --force-reinstall uv"
    try:
        return Check(what="uv", state="good", found=find_uv_bin())
    except FileNotFoundError:
        return Check(what="uv", state="missing", found="its program is not installed", mend=mend)


def isolation(system: str) -> Check:
    """Whether the kernel ends a script's processes with their namespace."""
    if namespace(None):
        found = "a script's processes live in a namespace that ends with them"
        return Check(what="isolation", state="good", found=found)
    found = "no process namespaces here: what a killed supervisor leaves is for `sojourn reap` to end"
    allow = "sudo sysctl kernel.unprivileged_userns_clone=1   (in a container: --security-opt seccomp=unconfined)"
    return Check(what="isolation", state="weak", found=found, mend=allow if system == "linux" else None)


def place(home: Path) -> Check:
    """Whether the data directory can be written and has room for an environment."""
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    move = "export SOJOURN_HOME=DIRECTORY"
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return Check(what="data", state="missing", found=f"{existing} is not a directory you may write", mend=move)
    free = shutil.disk_usage(existing).free
    found = f"{home}, {format_bytes(free)} free"
    if free < DISK_WANTED:
        return Check(what="data", state="weak", found=found, mend=f"sojourn purge, or: {move}")
    return Check(what="data", state="good", found=found)


def probe(store: Store) -> str:
    """Write to the store, look at its clock, remove what was written. Raises SojournError when it does not work."""
    key = f"probe/{secrets.token_hex(8)}"
    try:
        store.put(key, bytes(PROBE))
        off = store.clock_off()
    finally:
        store.delete(key)
    if off > CLOCK_LIMIT_S:
        raise SojournError(
            f"this computer's clock is {off:.0f} s off the store's, and deadlines go by the store's",
            hint="sudo timedatectl set-ntp true" if sys.platform == "linux" else "sudo sntp -sS time.apple.com",
        )
    return f"{store.url} takes what is written"


def _machine(provider: Provider) -> str:
    offer = provider.offers(Need()).fitting[0]
    gpus = f"{len(offer.gpus)} × {offer.gpus[0]}" if offer.gpus else "no GPU"
    return f"{offer.machine}: {offer.cpus} CPUs, {format_bytes(offer.memory)}, {gpus}"


def _standing(provider: Provider) -> Check:
    leases = provider.leases()
    if not leases:
        return Check(what="leases", state="good", found="none stands")
    count = f"{counted(len(leases), 'lease')} of runs that go on, or were left"
    return Check(what="leases", state="weak", found=count, mend="sojourn reap --dry-run")


# --- the project --------------------------------------------------------------------------


def _tree(project: Project) -> Check:
    try:
        inside = "in git" if project.in_git else "not in git: everything but caches travels"
    except SojournError as error:
        return Check(what="project", state="missing", found=error.message, mend=error.hint)
    if project.notes:
        return Check(what="project", state="weak", found="; ".join(project.notes))
    return Check(what="project", state="good", found=f"{project.root}, {inside}")


def python(path: str) -> Check:
    """The interpreter that a script would get from a PATH."""
    found = shutil.which("python", path=path)
    if found:
        return Check(what="python", state="good", found=f"{found} is what `python` means to your scripts")
    other = shutil.which("python3", path=path)
    mend = "write python3 for python, or activate your environment" if other else "activate your environment"
    return Check(what="python", state="weak", found="no `python` on your PATH", mend=mend)


def _auto_python(project: Project) -> Check:
    """What a run gets that names no environment."""
    path = os.environ.get("PATH", os.defpath)
    chosen = choose(Dependencies(), project.directory, project.root, script=None, path=path, away=False)
    if chosen.source is None:
        return python(path)
    return _built(shown(chosen.source.file, project.directory), chosen.notes)


def _built(source: str, notes: Iterable[str]) -> Check:
    said = "; ".join([f"an environment built from {source} is what `python` means to your scripts", *notes])
    return Check(what="python", state="good", found=said)


def _script_python(plan: Plan) -> Iterator[Check]:
    path = os.pathsep.join(plan.environment.path)
    yield python(path)
    interpreter = shutil.which("python", path=path)
    if interpreter and (plan.command.processes != 1 or plan.launch.nodes > 1):
        yield _torch(interpreter)


def _torch(interpreter: str) -> Check:
    code = "import importlib.util as u; print(u.find_spec('torch') is not None)"
    try:
        done = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, timeout=ASK_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(what="torch", state="weak", found=f"{interpreter} could not be asked: {first_line(error)}")
    if done.stdout.strip() == "True":
        return Check(what="torch", state="good", found=f"{interpreter} has it, and so torchrun")
    found = f"{interpreter} has no torch, which starts several processes"
    return Check(what="torch", state="missing", found=found, mend=f"{interpreter} -m pip install torch")


def _try(what: str, look: Callable[[], str], mend: str) -> Check:
    try:
        return Check(what=what, state="good", found=look())
    except SojournError as error:
        return Check(what=what, state="missing", found=error.message, mend=error.hint or mend)
