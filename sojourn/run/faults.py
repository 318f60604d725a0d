"""Errors that nobody foresaw: told in a sentence, and kept whole in a file below the data directory."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from sojourn import __version__
from sojourn.errors import SojournError, first_line
from sojourn.shorthand import shortened

FOLDER = "faults"
KEPT = 20  # files; a fault that comes each minute must not fill a disk
WORDS = 300  # characters of an error that somebody else wrote
NOT_OURS = {"prefect", "httpx", "httpcore"}  # a server that a run does without, as `cli/recorded` says
_FILE = "_sojourn_file"


def is_fault(error: BaseException) -> bool:
    """Whether this is one that nobody foresaw."""
    module = type(error).__module__.split(".")[0]
    return isinstance(error, Exception) and not isinstance(error, SojournError) and module not in NOT_OURS


def sentence(error: Exception) -> str:
    """What went wrong: something that the system refused, or a fault of ours."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    kind, said = type(error).__name__, shortened(first_line(error), WORDS)
    return f"a fault of Sojourn itself: {kind}" + (f": {said}" if said != kind else "")


def words(error: Exception) -> str:
    """The same, and where all of it is, and on which host, once that is written down."""
    kept = getattr(error, _FILE, None)
    return f"{sentence(error)}; all of it: {kept} on {socket.gethostname()}" if kept else sentence(error)


def told(error: Exception, about: str, home: Path) -> str:
    """The same, and it is written down."""
    write_down(error, about, home)
    return words(error)


def write_down(error: Exception, about: str, home: Path) -> Path | None:
    """The traceback in a file below the data directory, or else in the temporary one; None where neither takes it.

    An error that is written down already has its file.
    """
    if (known := getattr(error, _FILE, None)) is not None:
        return Path(known)
    text = "".join(traceback.format_exception(error))
    head = f"sojourn {__version__}, Python {platform.python_version()}, {platform.platform()}\n{about}\n\n"
    for folder in (home / FOLDER, Path(tempfile.gettempdir())):
        path = _free(folder / f"sojourn-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(head + text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        _forget_old(folder)
        with suppress(AttributeError):
            setattr(error, _FILE, str(path))
        return path
    return None


def _free(path: Path) -> Path:
    """The same name, or with a number: a process may have two of them in a second."""
    number = 1
    while os.path.lexists(path):
        number += 1
        path = path.with_name(f"{path.stem.split('_')[0]}_{number}.txt")
    return path


def _forget_old(folder: Path) -> None:
    for path in sorted(folder.glob("sojourn-????????-??????-*.txt"))[:-KEPT]:
        path.unlink(missing_ok=True)
