"""What a script did not find on its machine, and which stands here: named with what takes it along.

Read from the last lines of the log. Libraries say "not there" in many ways, so any path in such a
line is looked up here; only one that stands in the project and did not travel is told.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from sojourn.omissions import Omission
from sojourn.plan.planning import Plan
from sojourn.project import contents
from sojourn.project.project import Project
from sojourn.protocol import Bundle
from sojourn.records import FileEntry
from sojourn.secrets.secret_files import is_secret

TOLD = 3
_SAYS_SO = re.compile(
    r"no such file|not found|does not exist|doesn.t exist|not a (file|directory)|no (valid )?files?\b|ENOENT|missing"
    r"|(can.?not|can.t|unable to|failed to|could not) (open|find|read|load)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"'([^'\n]+)'|\"([^\"\n]+)\"|`([^`\n]+)`")
_WORD = re.compile(r"[^\s:,;()\[\]<>|=\"'`]+")
_MODULE = re.compile(r"No module named '?([\w.]+)'?")
_NAME = re.compile(r"cannot import name '(\w+)' from (?:partially initialized module )?'([\w.]+)'")


def missing(plan: Plan, tail: str, sent: Bundle, inputs: Iterable[FileEntry]) -> tuple[str, ...]:
    """A sentence for each file or folder that the log's `tail` misses, and that stands in the project here."""
    directory = Path(plan.directory)
    if not directory.is_dir():
        return ()
    project = Project.at(directory)
    travelled = [*(entry.path for entry in (*sent.listing, *inputs)), *(link.path for link in sent.links)]
    there = {str(above) for path in (*travelled, *sent.folders) for above in (path, *PurePosixPath(path).parents)}
    found: dict[str, None] = {}
    for place in _places(plan, project, tail):
        stays = _staying(project.root, place, there)
        if stays is not None:
            found.setdefault(_sentence(project, stays, plan.omissions))
    return tuple(found)[:TOLD]


def _places(plan: Plan, project: Project, tail: str) -> Iterator[str]:
    """Paths from the root that may be meant, whether or not anything is there."""
    for line in tail.splitlines():
        for module in _modules(line):
            for base in (plan.work_directory, ".", "src", os.path.join(plan.work_directory, "src")):
                files = _files_of(project.root, os.path.normpath(os.path.join(base, *module.split("."))))
                yield from (file for file in files if os.path.exists(project.root / file))
        if _SAYS_SO.search(line):
            for said in (*_QUOTED.findall(line), *_WORD.findall(line)):
                text = said if isinstance(said, str) else "".join(said)
                yield from _resolved(plan, project, text.strip().rstrip("."))


def _modules(line: str) -> list[str]:
    return [*_MODULE.findall(line), *(f"{package}.{name}" for name, package in _NAME.findall(line))]


def _files_of(root: Path, module: str) -> Iterator[str]:
    """Where a module may lie: a file, a package, or compiled."""
    yield module + ".py"
    parent = root / os.path.dirname(module)
    if parent.is_dir():
        stem = os.path.basename(module)
        compiled = [path.name for path in parent.iterdir() if path.name.startswith(stem + ".") and path.suffix == ".so"]
        yield from (os.path.normpath(os.path.join(os.path.dirname(module), name)) for name in compiled)
    yield module


def _resolved(plan: Plan, project: Project, text: str) -> Iterator[str]:
    """A path of the machine as one of the project here; of a pattern the folder that it is looked for in."""
    parts = PurePosixPath(text).parts
    fixed = parts[: next((at for at, part in enumerate(parts) if set(part) & set("*?[")), None)]
    if not fixed or len(text) > 1000:
        return
    if fixed[0] != "/":
        yield os.path.normpath(os.path.join(plan.work_directory, *fixed))
        return
    for at in range(1, len(fixed)):  # the machine's own folders come first, then the tree's
        if (project.root / fixed[at]).exists():
            yield "/".join(fixed[at:])


def _staying(root: Path, path: str, there: set[str]) -> str | None:
    """What stands here of a path that was not there: all of it, or the folder that it would be in."""
    if path.startswith("..") or path in {".", "", *there}:
        return None
    if os.path.lexists(root / path):
        return path
    above = (str(one) for one in reversed(PurePosixPath(path).parents))
    first = next((one for one in above if one not in there), None)
    return first if first is not None and (root / first).is_dir() else None


def _sentence(project: Project, path: str, omissions: Iterable[Omission]) -> str:
    here = PurePosixPath(path)
    above = {str(one) for one in (here, *here.parents)}
    reason = next((one.reason for one in omissions if not above.isdisjoint(p.rstrip("/") for p in one.paths)), None)
    why = {contents.IGNORED: "git ignores it", None: "did not travel"}.get(reason, f"did not travel: it is {reason}")
    take = f": --input {shlex.quote(os.path.relpath(project.root / path, project.directory))}"
    if is_secret(path, project.root / path):
        why, take = "secrets stay", ": secrets: [NAME] brings the values of variables"
    return f"{path} exists here and {why}{take}"
