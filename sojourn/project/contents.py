"""What a directory of the project holds: one answer for travel, for hashes, for the plan and for homecoming.

The disk is asked, not git's list of it: whatever stands below the root travels, unless there is a
reason that can be told. Git only says what it ignores, each repository for its own files, so a
nested clone or a submodule travels as it stands. What stays is noted with its reason (`Left`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

from pathspec import GitIgnoreSpec

from sojourn import places
from sojourn.errors import SpecError
from sojourn.names import is_minted
from sojourn.omissions import GLANCE_S, Account, Left, Look, Omission, printable
from sojourn.project import git, ignoring
from sojourn.project.project import Project
from sojourn.secrets.ignore_file import IGNORE_FILE
from sojourn.secrets.secret_files import is_secret

HOME = "runs"  # where results go that must not overwrite anything

# Why something stays, as it is told after its size: `2 GB ignored by git: data/raw/`.
IGNORED = "ignored by git"
IGNORED_HERE = "ignored by .gitignore"
REPOSITORY = "in repositories that git ignores"
LISTED = f"left out by {IGNORE_FILE}"
UNREADABLE = "that cannot be read"
SPECIAL = "neither file nor folder"
LINK = "behind a link that leads elsewhere"
LOOP = "behind a link to a folder above it"
SUBMODULE = "in submodules that are not fetched"
WORKTREE = "in other worktrees of this repository"
IGNORED_BY_DVC = "ignored by DVC"
SECRET = "that looks like a secret"
PERSISTED = "that DVC keeps from run to run"
MADE_ANEW = "made anew by the stage"
OURS = "of earlier runs"
PLACED = "placed by an earlier run"
STORE = "of Sojourn’s own store"
ENVIRONMENT = "in virtual environments"
CACHE = "in caches"
OF_INPUTS = "of inputs, in folders that tools make (.git, caches, environments)"
GIT = "of git itself"
DVC = "of DVC itself"
_REMEDIES = {
    SUBMODULE: "git submodule update --init",
    SECRET: "secrets: [NAME]",
    PERSISTED: "--from RUN begins with those of a run",
}
# Not told of a path itself, whose files DVC's remote has; but what DVC ignores in it does not travel.
KEPT_BY_DVC = "kept by DVC"
SCRIPT_LIMIT = 1 << 20  # bytes of a script that is looked through
# Nothing that a script reads: counted, and shown only in `--json`.
TRIVIAL = frozenset({GIT, CACHE, ENVIRONMENT, DVC, OURS, STORE, MADE_ANEW})

_STAYS_THOUGH_NEEDED = {LISTED, UNREADABLE, SPECIAL, LINK, WORKTREE}

CACHES = frozenset({
    "__pycache__", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".tox", ".nox",
    ".hg", ".svn",
})  # fmt: skip
# What tools leave behind, where git ignores it.
_TOOLS = {".DS_Store", "Thumbs.db", ".idea", ".vscode", ".coverage"}
_ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")
# What a virtual environment consists of: people put their own files beside it, and those travel.
_PARTS = {
    "pyvenv.cfg", "bin", "lib", "lib64", "include", "share", "etc", "man", "Scripts", "Lib", "Include", ".gitignore",
    "CACHEDIR.TAG", ".lock",
}  # fmt: skip
_STATUS = (
    "--porcelain",
    "-z",
    "--no-renames",
    "--ignored=matching",
    "--untracked-files=all",
    "--ignore-submodules=all",
)


@dataclass
class Contents:
    """What of a tree travels, and what stays and why; paths are relative to the root."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    wanting: list[Left] = field(default_factory=list)  # what stays although it is needed
    ignore_files: list[str] = field(default_factory=list)


def contents(project: Project, skip: Mapping[str, str | None], needed: Iterable[str] = ()) -> Contents:
    """Walk the project's tree. Raises SpecError where git refuses.

    The paths in `skip` stay for the reason given, or travel in another way (None, KEPT_BY_DVC). What is at
    or below a path in `needed` travels although git ignores it.
    """
    rules: _Rules = _Repository(project.root, "") if project.in_git else _Lines(project.root)
    walk = _Walk(project.root, skip, needed)
    try:
        walk.folder("", rules, ignored=False)
    except RecursionError:
        raise too_deep(project.root) from None
    return walk.found


def too_deep(folder: Path) -> SpecError:
    """Folders in folders without end, as a script makes that calls itself."""
    return SpecError(
        f"{folder}: folders lie in each other too deep to be walked",
        hint=f"see where: find {shlex.quote(str(folder))} -type d | awk 'length > 1000'",
    )


def account(
    project: Project,
    left: Iterable[Left],
    look: Look | None = None,
    carried: Mapping[str, Path] = MappingProxyType({}),
    script: Path | None = None,
) -> tuple[Omission, ...]:
    """What stays, with its size: what a script may need first, and looked into first; what it names before all.

    Of a folder that stays, single files may travel as inputs (`carried`); they are not counted.
    """
    text = _text(script) if script else ""
    look, glance = look or Look(project.root), look or Look(project.root, GLANCE_S)
    told = Account()
    counted = [(one, *(glance if one.reason in TRIVIAL else look).into(one.path)) for one in left]
    for one, files, size, whole in sorted(counted, key=lambda line: (not _is_named(line[0], text), -line[2])):
        sizes = [path.lstat().st_size for name, path in carried.items() if name.startswith(one.path)]
        if one.path.endswith("/") and sizes:
            files, size = max(files - len(sizes), 0), max(size - sum(sizes), 0)
            if whole and not files:
                continue
        remedy = _remedy(project, one)
        trivial, first = one.reason in TRIVIAL, _is_named(one, text)
        told.add(one.reason, one.path, files, size, remedy, at_least=not whole, trivial=trivial, first=first)
    return told.omissions()


def _text(script: Path) -> str:
    try:
        return script.read_text(encoding="utf-8", errors="replace") if script.stat().st_size <= SCRIPT_LIMIT else ""
    except OSError:
        return ""


def _is_named(left: Left, text: str) -> bool:
    """Whether a script says the name of what stays, as a whole string or the end of one: `"data/raw.csv"`."""
    name = PurePosixPath(left.path).name
    return name in text and re.search(rf"""(?<![\w.-]){re.escape(name)}/?['"]""", text) is not None


def _remedy(project: Project, left: Left) -> str | None:
    path = os.path.relpath(project.root / left.path, project.directory)
    if left.reason in _REMEDIES:
        return _REMEDIES[left.reason]
    if left.reason in TRIVIAL | {LISTED, UNREADABLE, SPECIAL, LOOP} or path != printable(path):
        return None
    return f"--input {shlex.quote(path)}"


def all_ignore_lines(project: Project, tree: Contents, stay: Mapping[str, str | None]) -> list[str]:
    """What decides on the machine, where no git can be asked, which of the new files stay behind.

    Not a .gitignore that a run has made: what its script writes anew comes home as it did the first time.
    """
    if not project.in_git:
        return ignore_lines(project.root)
    own = [path for path in tree.ignore_files if stay.get(path) != PLACED]
    return ignoring.lines(project.root, own, _read_lines(project.root / IGNORE_FILE))


def ignore_lines(root: Path) -> list[str]:
    """The gitignore lines of the root."""
    return [*_read_lines(root / ".gitignore"), *_read_lines(root / IGNORE_FILE)]


def is_ours(path: str) -> bool:
    """Whether a path is that of results which an earlier run put aside."""
    if HOME not in path:
        return False
    parts = PurePosixPath(path).parts
    return any(above == HOME and is_minted(name) for above, name in pairwise(parts))


def is_cached(path: str) -> bool:
    """Whether a path is in a cache, or DVC's own: nothing that a script reads."""
    parts = PurePosixPath(path).parts
    return not CACHES.isdisjoint(parts) or any(_is_dvcs_own(*two) for two in pairwise(parts))


def in_environments(paths: Iterable[str]) -> set[str]:
    """Those of the files that virtual environments among them are made of."""
    listed = [PurePosixPath(path) for path in paths]
    conda = {path.parent.parent for path in listed if path.parent.name == "conda-meta"}
    venvs = {path.parent for path in listed if path.name == "pyvenv.cfg"}
    return {
        str(path)
        for path in listed
        if not conda.isdisjoint(path.parents)
        or any(above in venvs and path.relative_to(above).parts[0] in _PARTS for above in path.parents)
    }


def is_environment(folder: Path) -> bool:
    """Whether a folder is a virtual environment, of Python or of conda."""
    return any(os.path.exists(folder / name) for name in _ENVIRONMENTS)


class _Rules(Protocol):
    """What is known of the files of one repository, or of a tree without one."""

    reason: str

    def tracks(self, path: str) -> bool:
        """Whether this file is tracked, or one below this folder."""
        ...

    def ignores(self, path: str, folder: bool) -> bool: ...

    def is_submodule(self, path: str) -> bool: ...


class _Repository:
    """What git says of a repository's files; paths are relative to the root of the tree."""

    reason = IGNORED

    def __init__(self, folder: Path, prefix: str, around: _Rules | None = None) -> None:
        self._around = around  # may track files of this folder too, from before a repository was made in it
        tracked = [line.partition("\t") for line in _asked(folder, "ls-files", "-s", "-z")]
        status = _asked(folder, "status", *_STATUS)
        self._submodules = {prefix + path for mode, _, path in tracked if mode.startswith("160000")}
        self._tracked = set(_with_parents(prefix + path for _, _, path in tracked))
        self._ignored = {prefix + line[3:].rstrip("/") for line in status if line.startswith("!! ")}

    def tracks(self, path: str) -> bool:
        return path in self._tracked or (self._around is not None and self._around.tracks(path))

    def ignores(self, path: str, folder: bool) -> bool:
        return path in self._ignored

    def is_submodule(self, path: str) -> bool:
        return path in self._submodules


class _Lines:
    """A tree without git: the lines of its ignore files."""

    reason = IGNORED_HERE

    def __init__(self, root: Path) -> None:
        self._spec = GitIgnoreSpec.from_lines(ignore_lines(root))

    def tracks(self, path: str) -> bool:
        return False

    def ignores(self, path: str, folder: bool) -> bool:
        return self._spec.match_file(path + "/" if folder else path)

    def is_submodule(self, path: str) -> bool:
        return False


class _Walk:
    """One walk through a tree."""

    def __init__(self, root: Path, skip: Mapping[str, str | None], needed: Iterable[str]) -> None:
        self._root = root
        self._skip = {str(PurePosixPath(path)): reason for path, reason in skip.items()}
        self._skips_below = set(_with_parents(self._skip)) - set(self._skip)
        self._needed = set(_with_targets(root, needed))
        self._leads_to_needed = set(_with_parents(self._needed))
        self._specs: dict[Path, GitIgnoreSpec] = {}
        self._listed = self._spec(root / IGNORE_FILE)
        self._shared: set[str] = set()
        self.found = Contents()

    def folder(self, path: str, rules: _Rules, ignored: bool) -> bool:
        """Look at all in a folder; whether it is bare: nothing in it travels and nothing that it held stays."""
        try:
            with os.scandir(self._root / path) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return self._leave(path + "/", UNREADABLE)
        folders = len(self.found.folders)
        bare = all([self._entry(entry, path + "/" if path else "", rules, ignored) for entry in listing])
        if bare and path and len(self.found.folders) == folders:
            self.found.folders.append(path)
        return bare

    def _entry(self, entry: os.DirEntry[str], above: str, rules: _Rules, ignored: bool) -> bool:
        path, folder = above + entry.name, entry.is_dir(follow_symlinks=False)
        if entry.name == ".gitignore" and not folder:
            self.found.ignore_files.append(path)  # it counts also where it ignores itself
        if path in self._skip:
            return self._skipped(path + "/" * folder, self._skip[path])
        if reason := self._reason(entry, path, rules, ignored):
            return self._leave(path + "/" * folder, reason)
        if folder:
            within = ignored or rules.ignores(path, folder=True) or (not rules.tracks(path) and self._own(path, True))
            return self._below(path, rules, bool(within))
        if entry.is_symlink() and path in self._skips_below:
            return self._leave(path, LINK)
        if not entry.is_symlink() and not entry.is_file():
            return self._leave(path, SPECIAL)
        self.found.files.append(path)
        return False

    def _skipped(self, path: str, reason: str | None) -> bool:
        if reason == KEPT_BY_DVC:
            self.found.left += [Left(one, IGNORED_BY_DVC) for one in self._ignored_by_dvc(path)]
        elif reason:
            self.found.left.append(Left(path, reason))
        return True

    def _leave(self, path: str, reason: str) -> bool:
        left = Left(path, reason)
        self.found.left.append(left)
        if reason in _STAYS_THOUGH_NEEDED and self._is_needed(path.rstrip("/"), path.endswith("/")):
            self.found.wanting.append(left)
        return False

    def _reason(self, entry: os.DirEntry[str], path: str, rules: _Rules, ignored: bool) -> str | None:
        """Why this stays, whatever kind of thing it is."""
        folder, tracked = entry.is_dir(follow_symlinks=False), rules.tracks(path)
        if entry.name == ".git":
            return GIT
        if self._listed.patterns and self._listed.match_file(path + "/" * folder):
            return LISTED
        named = path in self._leads_to_needed
        if places.is_draft(entry.name):
            return OURS
        if is_ours(path) and not named and not self._is_below_needed_ones(path):
            return OURS
        if not (tracked or named) and (own := self._own(path, folder)):
            return own
        kept = tracked or named or self._is_needed(path, folder)
        if kept or not (ignored or rules.ignores(path, folder)) or (folder and _holds_no_file(self._root / path)):
            return None
        if entry.name in _TOOLS or entry.name.endswith((".pyc", ".egg-info")):
            return CACHE
        if path.endswith(".dvc/config.local"):
            return DVC
        if entry.is_symlink():
            return LINK
        if not folder and is_secret(path, self._root / path, contents=False):
            return SECRET
        return REPOSITORY if folder and os.path.lexists(self._root / path / ".git") else rules.reason

    def _own(self, path: str, folder: bool) -> str | None:
        """Whose a folder is, when a tool made it for itself."""
        pure = PurePosixPath(path)
        if str(pure.parent) in self._shared and pure.name in _PARTS:
            return ENVIRONMENT
        if not folder:
            return None
        if _is_dvcs_own(pure.parent.name, pure.name):
            return DVC
        if pure.name in CACHES:
            return CACHE
        return ENVIRONMENT if is_environment(self._root / path) and not self._is_shared(path) else None

    def _is_shared(self, path: str) -> bool:
        """Whether somebody put files of their own beside a virtual environment; then only its parts stay."""
        if os.path.exists(self._root / path / "conda-meta"):
            return False
        with suppress(OSError):
            if set(os.listdir(self._root / path)) - _PARTS - CACHES:
                self._shared.add(path)
        return path in self._shared

    def _is_below_needed_ones(self, path: str) -> bool:
        """Whether results of an earlier run are named as what a stage depends on."""
        return any(is_ours(str(above)) and str(above) in self._needed for above in PurePosixPath(path).parents)

    def _is_needed(self, path: str, folder: bool) -> bool:
        """What DVC hashes as part of a dependency: all that is below it but for what `.dvcignore` names."""
        if not self._needed or path in self._needed:
            return bool(self._needed)
        pure = PurePosixPath(path)
        if not any(str(above) in self._needed for above in pure.parents):
            return False
        return not self._dvc_ignores(path + "/" * folder)

    def _dvc_ignores(self, path: str) -> bool:
        end = "/" * path.endswith("/")
        pure = PurePosixPath(path)
        specs = ((above, self._spec(self._root / above / ".dvcignore")) for above in pure.parents)
        return any(spec.patterns and spec.match_file(f"{pure.relative_to(above)}{end}") for above, spec in specs)

    def _ignored_by_dvc(self, path: str) -> Iterator[str]:
        """What DVC leaves out of a folder that it keeps; nothing to look for where no `.dvcignore` has a line."""
        above = PurePosixPath(path).parents
        if not any(self._spec(self._root / one / ".dvcignore").patterns for one in above):
            return
        for folder, names, files in os.walk(self._root / path):
            base = Path(folder).relative_to(self._root).as_posix()
            ignored = {name for name in names if self._dvc_ignores(f"{base}/{name}/")}
            names[:] = [name for name in names if name not in ignored]
            yield from (f"{base}/{name}/" for name in sorted(ignored))
            yield from (f"{base}/{name}" for name in sorted(files) if self._dvc_ignores(f"{base}/{name}"))

    def _spec(self, file: Path) -> GitIgnoreSpec:
        if file not in self._specs:
            self._specs[file] = GitIgnoreSpec.from_lines(_read_lines(file))
        return self._specs[file]

    def _below(self, path: str, rules: _Rules, ignored: bool) -> bool:
        folder = self._root / path
        if os.path.lexists(folder / ".git") and not _is_empty_file(folder / ".git"):
            if self._is_worktree(folder) and not (rules.tracks(path) or path in self._leads_to_needed):
                return self._leave(path + "/", WORKTREE)
            inner = _Repository(folder, path + "/", rules) if git.top_of(folder) else rules
            return self.folder(path, inner, ignored=False)
        if rules.is_submodule(path) and _holds_no_file(folder):
            self.found.folders.append(path)
            return self._leave(path + "/", SUBMODULE)
        return self.folder(path, rules, ignored)

    def _is_worktree(self, folder: Path) -> bool:
        """Whether a folder is another checkout of the very repository that the root belongs to."""
        marker = folder / ".git"
        if not marker.is_file():
            return False
        kept_at = Path(marker.read_text(errors="replace").removeprefix("gitdir:").strip())
        return kept_at.parent.name == "worktrees" and (folder / kept_at.parent.parent).resolve() == self._common

    @cached_property
    def _common(self) -> Path | None:
        said = git.ask(self._root, "rev-parse", "--git-common-dir")
        return (self._root / said.removesuffix("\n")).resolve() if said else None


def _is_empty_file(file: Path) -> bool:
    """As uv lays into its cache, so that nothing below takes the repository above for its own."""
    return file.is_file() and file.stat().st_size == 0


def _with_targets(root: Path, needed: Iterable[str]) -> Iterator[str]:
    """The paths, and what they lead to by way of links inside the root."""
    for path in needed:
        yield str(PurePosixPath(path))
        real = Path(os.path.realpath(root / path))
        if real.is_relative_to(root) and real != root:
            yield real.relative_to(root).as_posix()


def _asked(folder: Path, *arguments: str) -> list[str]:
    return [line for line in (git.ask(folder, *arguments) or "").split("\0") if line]


def _with_parents(paths: Iterable[str]) -> Iterator[str]:
    """Each path, and each folder above it."""
    seen: set[str] = set()
    for path in paths:
        while path and path not in seen:
            seen.add(path)
            yield path
            path = path.rpartition("/")[0]


def _holds_no_file(folder: Path) -> bool:
    try:
        return not any(files for _, _, files in os.walk(folder)) and not any(
            os.path.islink(os.path.join(at, name)) for at, names, _ in os.walk(folder) for name in names
        )
    except OSError:
        return False


def _is_dvcs_own(above: str, name: str) -> bool:
    return above == ".dvc" and name in ("cache", "tmp")


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
