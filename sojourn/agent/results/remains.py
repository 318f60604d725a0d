"""What the script wrote and that does not come home by itself: kept in the store up to a limit, or named as left.

A commit of kind `kept` names the files that are kept and holds an account of all of them, and of what
is nowhere but on this machine: reasons, counts, bytes and the topmost paths. Nothing ends unnamed.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from sojourn.agent.files import Json
from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.mailbox import Place
from sojourn.agent.paths import below
from sojourn.agent.results import history, links
from sojourn.agent.results.checkpoints import Checkpoints, restored
from sojourn.agent.results.keep import Keeper
from sojourn.agent.results.links import Via
from sojourn.agent.results.manifests import Manifests
from sojourn.agent.results.outside import OUTSIDE, Sizes
from sojourn.agent.results.patterns import Patterns
from sojourn.agent.results.tree import Sign
from sojourn.agent.script.mask import Mask
from sojourn.agent.script.scalars import looks_like_metrics
from sojourn.agent.stores.store import Store

COMMITS_KEPT = 2  # whoever has just read the last but one still finds its files
PATHS = 20  # named of each reason; the counts are of all
FILES = 2_000  # kept of a node: each is an object of its own, and a machine is paid while it sends them
COUNTED = 100_000  # files of a folder that is left; a larger one is counted so far

HOME = ""  # a file's fate when it comes home
IGNORED = "ignored by git"
UNDECLARED = "not an output of the stage"
BEYOND_HOME = "more than launch.bring allows"
BEYOND = "more than launch.keep allows"
TOO_MANY = f"beyond the {FILES:,} files that are kept"
LATE = "not stored in time"
SLOW = "will not be stored in time"
UNREADABLE = "not readable"
INPUT = "changed by the script, which got them as inputs"
REMOVED = "removed by the script"
IN_GIT = "written into git's own folder"  # a copy without history, which is not brought home
NEVER_KEPT = (INPUT, LATE, UNREADABLE, BEYOND_HOME)
RESULTS = (".pt", ".pth", ".ckpt", ".safetensors")  # come home however large they are


class Sorter:
    """Says of each file of the tree whether it comes home, and if not why."""

    def __init__(self, order: Json, homes: Sequence[str], checkpoints: Checkpoints) -> None:
        self._homes = homes
        self._declared = order["outputs"]
        self._brought = [posixpath.normpath(name) for name in order.get("named", ())]
        self._named = Patterns("/" + posixpath.normpath(name) for name in order.get("named", ()))
        self._ignored = Patterns(order["ignore"])
        self._restored = {entry["path"] for entry in restored(order)}
        self._inputs = {entry["path"] for entry in order["inputs"]} - self._restored
        bundle = order.get("bundle") or {}
        self._here = posixpath.normpath(bundle.get("directory", "."))
        self._bring = order.get("bring")
        self._metrics = order.get("metrics", ())
        listing = bundle.get("listing", ())
        self._sent = {entry["path"] for entry in listing}
        self._checkpoints = checkpoints

    @property
    def wanted(self) -> list[str]:
        """Paths below which even caches and environments come home."""
        return [*self._homes, *(self._declared or ()), *(name for name in self._brought if name != ".")]

    def fates(
        self, found: Mapping[str, Sign], changed: Collection[str], vias: Mapping[str, Via] = MappingProxyType({})
    ) -> dict[str, str]:
        """HOME or the reason against it, for each file that the script wrote or that is declared."""
        members = self._checkpoints.members(changed)
        whole = {path: HOME for path in found if self._is_declared(path) or path in self._restored}
        fates = {path: self._fate(path, path in members) for path in changed if path not in whole}
        if self._bring is not None and self._declared is None:
            unnamed = [path for path, fate in fates.items() if fate == HOME and not self._is_named(path, members)]
            direct, linked = links.split({path: found[path] for path in unnamed}, vias)
            beyond = set(self._beyond(direct, found, self._bring))
            beyond.update([path for path, other in linked.items() if other in beyond])
            fates.update((path, BEYOND_HOME) for path in unnamed if path in beyond)
        return {**fates, **whole}

    def _is_named(self, path: str, members: Collection[str]) -> bool:
        """Whether it is a result by its name, or by where it lies, or was sent."""
        result = path in members or path.lower().endswith(RESULTS) or looks_like_metrics(path)
        named = path in self._sent or path in self._metrics
        return named or result or any(below(path, home) for home in self._homes) or self._named.match(path)

    def _beyond(self, unnamed: Iterable[str], found: Mapping[str, Sign], room: float) -> Iterator[str]:
        """The largest files of each folder at the top that holds more than there is room for."""
        tops: dict[str, list[str]] = {}
        for path in unnamed:
            tops.setdefault(self._top(path), []).append(path)
        for paths in tops.values():
            if sum(found[path].size for path in paths) > room:
                total = 0
                for path in sorted(paths, key=lambda path: (found[path].size, path)):
                    total += found[path].size
                    if total > room:
                        yield path

    def _top(self, path: str) -> str:
        """The first part of a path, as the script in its directory sees it."""
        above = "" if self._here == "." or not below(path, self._here) else self._here + "/"
        return above + path[len(above) :].split("/", 1)[0]

    def removed(self, before: Iterable[str], found: Collection[str]) -> list[str]:
        """What was sent and is gone; a restored checkpoint that goes is the library's own affair."""
        return [path for path in before if path not in found and path not in self._restored]

    def _is_declared(self, path: str) -> bool:
        return self._declared is not None and any(below(path, posixpath.normpath(name)) for name in self._declared)

    def _fate(self, path: str, member: bool) -> str:
        if member or any(below(path, home) for home in self._homes) or self._named.match(path):
            return HOME
        if path in self._inputs:
            return INPUT
        if self._declared is not None:
            return UNDECLARED
        # As git does: a line of .gitignore says nothing of a file that is tracked.
        return IGNORED if self._ignored.match(path) and path not in self._sent else HOME


class Remains:
    """One node's commits of them."""

    def __init__(
        self,
        store: Store,
        place: Place,
        order: Json,
        root: str,
        keeper: Keeper,
        clock: Clock = HOST,
        mask: Mask | None = None,
    ) -> None:
        self._mask = mask or Mask()
        self._limit = order.get("keep", 0)
        self._root = root
        self._keeper = keeper
        self._manifests = Manifests(store, place, "kept", clock)
        self._account: list[Json] = []
        self._in_git = history.written(root)
        self.vias: dict[str, Via] = {}  # as of the newest look

    def commit(
        self,
        fates: dict[str, str],
        found: dict[str, Sign],
        removed: Iterable[str],
        aside: dict[str, str],
        outside: Mapping[str, Sizes],
        last: bool,
    ) -> None:
        """Keep what may be kept, the smaller files first, and write the account; `last` counts all of it.

        `outside` the tree stays what the script wrote there.
        """
        kept, left = self._divide({path: why for path, why in fates.items() if why != HOME}, found)
        lines = []
        direct, linked = links.split({path: found[path] for path in kept}, self.vias)
        self._keeper.gather(direct)
        for path in sorted(kept):
            own = linked.get(path, path)
            line = self._keeper.entry(own, found[own])
            if line is not None:
                lines.append(links.line(path, line, self.vias))
            elif os.path.lexists(os.path.join(self._root, path)):
                kept.pop(path)
                late = own in self._keeper.troubles or self._keeper.sends(own)
                left[path] = (LATE if late else UNREADABLE, (1, found[path].size))
        for path, why in aside.items():
            left[path] = (why, self._count(path) if last else (1, 0))
        left.update({path: (REMOVED, (1, 0)) for path in removed})
        of_git = history.written(self._root) if last else {}
        left.update(
            {path: (IN_GIT, (1, len(of_git[path]))) for path in of_git if of_git[path] != self._in_git.get(path)}
        )
        left.update({path: (OUTSIDE, sizes) for path, sizes in outside.items()})
        others = [path for path in found if path not in fates or fates[path] == HOME]
        account = [*_account(kept, True, [*others, *left]), *_account(left, False, [*others, *kept, *outside, *of_git])]
        account = without_secrets(list(map(self._with_time, account)), self._mask)
        if lines != self._manifests.newest or account != self._account:
            self._manifests.write(lines, account=account)
            self._account = account

    def _with_time(self, line: Json) -> Json:
        """The line, with how long it would have taken to store what was left for its size."""
        rate = self._keeper.pace.rate
        return {**line, "seconds": round(line["bytes"] / rate)} if rate and line["reason"] == LATE else line

    @property
    def sequence(self) -> int:
        """The number of the newest commit."""
        return self._manifests.sequence

    def sources(self) -> set[str]:
        """The blobs that are kept."""
        return self._manifests.sources_since(self._manifests.sequence - COMMITS_KEPT + 1)

    def _divide(
        self, rest: dict[str, str], found: dict[str, Sign]
    ) -> tuple[dict[str, tuple[str, Sizes]], dict[str, tuple[str, Sizes]]]:
        kept: dict[str, tuple[str, Sizes]] = {}
        left: dict[str, tuple[str, Sizes]] = {}
        total = 0
        _, linked = links.split({path: found[path] for path in rest}, self.vias)
        for path in sorted(rest, key=lambda path: (found[path].size, path in linked, path)):
            size = found[path].size
            if rest[path] in NEVER_KEPT:
                left[path] = (rest[path], (1, size))
            elif linked.get(path) in kept:
                kept[path] = (rest[path], (1, size))
            elif total + size > self._limit or not self._limit or len(kept) >= FILES:
                why = TOO_MANY if len(kept) >= FILES else BEYOND
                left[path] = (why if self._limit else rest[path], (1, size))
            else:
                total += size
                kept[path] = (rest[path], (1, size))
        return kept, left

    def _count(self, path: str) -> Sizes:
        """Files and bytes of what was not looked into."""
        full = os.path.join(self._root, path)
        if not path.endswith("/"):
            try:
                return 1, os.lstat(full).st_size
            except OSError:
                return 1, 0
        files = size = 0
        for folder, _, names in os.walk(full):
            for name in names:
                try:
                    size += os.lstat(os.path.join(folder, name)).st_size
                except OSError:
                    continue
                files += 1
            if files > COUNTED:
                break
        return files, size


def foreseen(fates: Mapping[str, str], found: Mapping[str, Sign], slow: Collection[str]) -> list[Json]:
    """What would be left if the script ended now, and what takes longer to store than there is time."""
    left = {path: (fate, (1, found[path].size)) for path, fate in fates.items() if fate == BEYOND_HOME}
    left.update({path: (SLOW, (1, found[path].size)) for path in slow})
    return _account(left, False, [path for path in found if path not in left]) if left else []


def _account(chosen: dict[str, tuple[str, Sizes]], kept: bool, others: list[str]) -> list[Json]:
    """A line for each reason, in a fixed order."""
    by_reason: dict[str, dict[str, Sizes]] = {}
    for path, (why, sizes) in chosen.items():
        by_reason.setdefault(why, {})[path] = sizes
    lines = []
    for why, paths in sorted(by_reason.items()):
        named = topmost(paths, [*others, *(path for path in chosen if path not in paths)])
        ordered = sorted(named, key=lambda path: (-named[path][1], path))
        files, size = sum(count for count, _ in paths.values()), sum(size for _, size in paths.values())
        told = {"reason": why, "kept": kept, "paths": ordered[:PATHS], "unnamed": len(ordered[PATHS:])}
        lines.append({**told, "files": files, "bytes": size})
    return lines


def without_secrets(account: list[Json], mask: Mask) -> list[Json]:
    """The same, its paths masked."""
    return [{**line, "paths": mask.strings(line["paths"])} for line in account]


def topmost(paths: dict[str, Sizes], others: Iterable[str]) -> dict[str, Sizes]:
    """The same files by the highest folders (`logs/`) that hold nothing else."""
    mixed = {""}
    for path in others:
        folder = posixpath.dirname(path.rstrip("/"))
        while folder not in mixed:
            mixed.add(folder)
            folder = posixpath.dirname(folder)
    found: dict[str, Sizes] = {}
    for path, (files, size) in paths.items():
        parts = path.split("/")
        above = ["/".join(parts[:at]) for at in range(1, len(parts))] if not path.endswith("/") else []
        name = next((folder + "/" for folder in above if folder not in mixed), path)
        count, total = found.get(name, (0, 0))
        found[name] = (count + files, total + size)
    return found
