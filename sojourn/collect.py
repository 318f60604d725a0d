"""Brings committed outputs from the store, each file whole and with the hash it was committed under."""

from __future__ import annotations

from pathlib import Path

from sojourn.bundle import fetch_file
from sojourn.errors import SojournError
from sojourn.mailbox import Mailbox
from sojourn.records import FileEntry, Record


class Collected(Record):
    """What one attempt left in the store, over all its nodes."""

    files: tuple[FileEntry, ...]
    bytes: int
    checkpoints: int


def collect(mailbox: Mailbox, attempt: int, nodes: int) -> Collected:
    """The newest commit of every node, each of its objects confirmed to be in the store.

    Where two nodes committed one path, rank 0's file counts. Raises SojournError when
    an object that a manifest promises is missing.
    """
    files: dict[str, FileEntry] = {}
    for node in reversed(range(nodes)):
        for entry in newest_files(mailbox, attempt, node, "out"):
            files[entry.path] = entry
    missing = [entry.path for entry in files.values() if not mailbox.store.exists(entry.source)]
    if missing:
        raise SojournError(
            f"committed but not in the store: {', '.join(missing[:3])}",
            hint=f"see what is there: sojourn show {mailbox.run} --json",
        )
    checkpoints = len(mailbox.manifests(attempt, 0, "ckpt"))
    ordered = tuple(files[path] for path in sorted(files))
    return Collected(files=ordered, bytes=sum(entry.size for entry in ordered), checkpoints=checkpoints)


def newest_files(mailbox: Mailbox, attempt: int, node: int, what: str) -> tuple[FileEntry, ...]:
    """The files of a node's newest commit; none when it never committed."""
    sequences = mailbox.manifests(attempt, node, what)
    manifest = mailbox.manifest(attempt, node, what, sequences[-1]) if sequences else None
    return manifest.files if manifest else ()


def fetch(files: tuple[FileEntry, ...], mailbox: Mailbox, directory: Path) -> None:
    """Lay the files out below a directory, verified."""
    for entry in files:
        fetch_file(entry, mailbox, directory / entry.path)
