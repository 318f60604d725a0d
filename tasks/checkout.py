"""The project of a run, wherever it is kept: a directory of this host, or a git repository.

A repository is cloned into Sojourn's data directory and not into the flow's working
directory: Prefect's workers put that one on the path of modules, where a folder of the
user's named `tasks` or `flows` would take the place of ours.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

from sojourn.errors import SpecError, first_line
from sojourn.project.project import Project
from sojourn.run.runs import checkouts, provide_home

GIT = "git:"
_LOGIN = re.compile(r"(?<=http:)//[^/@\s]+@|(?<=https:)//[^/@\s]+@|//[^/@\s:]*:[^/@\s]*@")
TOKEN_LENGTH = 16  # a user's name is shorter
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_project(project: str, run: str, home: Path) -> Project:
    """The project at a path, or at `git:URL[@REF]`, cloned for this run. Raises SpecError."""
    if not project.startswith(GIT):
        return Project.at(Path(project))
    url, ref = split_ref(project.removeprefix(GIT))
    return Project.at(_clone(url, ref, checkouts(home) / run, home))


def check_login(project: str) -> None:
    """Raise SpecError for an address with a password in it: a deployment keeps its text for all who see it."""
    place = urlsplit(project.removeprefix(GIT)) if project.startswith(GIT) else None
    if place is None or not place.netloc.rpartition("@")[0]:
        return
    user, colon, _ = place.netloc.rpartition("@")[0].partition(":")
    if colon or (place.scheme in ("http", "https") and len(user) >= TOKEN_LENGTH):
        raise SpecError(
            f"project: {without_login(project)!r} was given with a login, which all who see the deployment would read",
            hint="leave it out, and let git on the worker's host know it: git config --global credential.helper store, "
            "or an address like ssh://git@HOST/PATH",
        )


def without_login(text: str) -> str:
    """The text, addresses in it without user and password."""
    return _LOGIN.sub("//", text)


def split_ref(text: str) -> tuple[str, str | None]:
    """The address and the branch, tag or commit after the last `@` of its path."""
    start = len(text) - len(urlsplit(text).path) if "://" in text else text.find(":") + 1
    path, at, ref = text[start:].rpartition("@")
    return (text[:start] + path, ref) if at else (text, None)


def _clone(url: str, ref: str | None, folder: Path, home: Path) -> Path:
    from prefect.runner.storage import GitRepository  # brings all of Prefect's runner along

    name = re.split(r"[/:]", url.rstrip("/"))[-1].removesuffix(".git")
    commit = ref if ref and _COMMIT.fullmatch(ref) else None
    provide_home(home)  # what is cloned is for this user alone, as is the address in its settings
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    repository = GitRepository(
        url, name=name, branch=None if commit else ref, commit_sha=commit, include_submodules=True
    )
    repository.set_base_path(folder)
    try:
        asyncio.run(repository.pull_code())
    except (RuntimeError, ValueError, OSError) as error:  # OSError: git itself is not there
        shown = without_login(url)
        raise SpecError(
            f"project: {shown!r} cannot be cloned: {first_line(error)}",
            hint=f"try it on the worker's host: git ls-remote {shown} {ref or ''}".rstrip(),
        ) from error
    return repository.destination
