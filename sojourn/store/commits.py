"""The newest commit of each node that can be read, as far as a machine of ours would say it.

Machines write their commits, and on a rented one a script is root: how many files, reasons and names a commit
has is its own affair, and what of them is heard is ours. What is beyond that is counted and told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from sojourn.errors import UnreadableError
from sojourn.protocol import Manifest, Remainder
from sojourn.records import FileEntry
from sojourn.store.mailbox import Mailbox

PATHS = 20  # named of each reason
LARGEST = 1 << 60  # bytes of anything that is
NAME = 200  # letters of a name that is no name
MOST = MappingProxyType({"kept": 4_000})  # files of one commit; a machine keeps half as many
MOST_OF_RESULTS = 200_000
REASONS = 40  # of one account
TRIED = 200  # commits of a node that cannot be read, one before the other; what is before those is not looked for
BEYOND = "beyond what a machine of ours commits, and not looked at"


class Newest(NamedTuple):
    """A node's newest commit that can be read, if there is one, and the names of those after it that cannot."""

    files: tuple[FileEntry, ...] = ()
    account: tuple[Remainder, ...] = ()
    unreadable: tuple[str, ...] = ()


class Commits:
    """Each read once. `last` says of a kind and a node, in one attempt, which commit its machine named as its last."""

    def __init__(
        self, mailbox: Mailbox, attempt: int = 0, last: Mapping[str, Mapping[int, int]] = MappingProxyType({})
    ) -> None:
        self.mailbox = mailbox
        self._attempt = attempt
        self._last = last
        self._read: dict[tuple[int, int, str], Newest] = {}

    def newest(self, attempt: int, node: int, what: str) -> Newest:
        """What is there of it; none of what came after a machine's last is its own."""
        asked = attempt, node, what
        if asked not in self._read:
            last = self._last.get(what, {}).get(node) if attempt == self._attempt else None
            self._read[asked] = self._find(*asked, last)
        return self._read[asked]

    def _find(self, attempt: int, node: int, what: str, last: int | None) -> Newest:
        unreadable: list[str] = []
        numbers = self.mailbox.manifests(attempt, node, what)
        for number in reversed([number for number in numbers if last is None or number <= last]):
            if len(unreadable) >= TRIED:
                break
            try:
                found = self.mailbox.manifest(attempt, node, what, number)
            except UnreadableError:
                unreadable.append(f"{what}/{number:08d}.json")
                continue
            if found is not None:
                return _heard(found, what, tuple(unreadable))
        return Newest(unreadable=tuple(unreadable))


def remainder(why: str, kept: bool, named: Iterable[str], entries: Collection[FileEntry]) -> Iterator[Remainder]:
    """One line of an account, of these files; none of none."""
    paths, size = tuple(dict.fromkeys(named)), sum(min(max(entry.size, 0), LARGEST) for entry in entries)
    if entries:
        yield Remainder(
            reason=why, kept=kept, paths=paths[:PATHS], unnamed=len(paths[PATHS:]), files=len(entries), bytes=size
        )


def few(account: Iterable[Remainder]) -> tuple[Remainder, ...]:
    """An account in so many lines as anybody reads; the last one counts what the others would have said."""
    told = tuple(account)
    more = told[REASONS:]
    if not more:
        return told
    files, size = (min(sum(min(max(one, 0), LARGEST) for one in ones), LARGEST) for ones in _sizes(more))
    rest = Remainder(reason=BEYOND, kept=False, paths=(), unnamed=len(more), files=files, bytes=size)
    return (*told[:REASONS], rest)


def _sizes(lines: Collection[Remainder]) -> tuple[list[int], list[int]]:
    return [one.files for one in lines], [one.bytes for one in lines]


def _heard(found: Manifest, what: str, unreadable: tuple[str, ...]) -> Newest:
    most = MOST.get(what, MOST_OF_RESULTS)
    beyond = found.files[most:]
    cut = remainder(BEYOND, True, [entry.path[:NAME] for entry in beyond[:PATHS]], beyond)
    return Newest(found.files[:most], (*cut, *few(found.account)), unreadable)
