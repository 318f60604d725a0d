"""The last word on an error that nobody foresaw: one sentence, and for a fault of ours a file with all of it."""

from __future__ import annotations

import errno
import os
import platform
import tempfile
import time
import traceback
from pathlib import Path

from sojourn import __version__
from sojourn.errors import first_line

FOLDER = "faults"
KEPT = 20  # files; a fault that comes each minute must not fill a disk
_MENDS = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EMFILE: "let a process open more files: ulimit -n 4096",
    errno.ENFILE: "let this computer open more files",
    errno.ENOMEM: "give it more memory, or end what takes it",
}
_NOT_OURS_TO_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT)


def told(error: Exception, words: list[str]) -> str:
    """What the user reads of it; `words` is the command line. Writes the file that it names."""
    verb = next((word for word in words if not word.startswith("-")), "")
    doing = f"sojourn {verb}".strip()
    kept = write_down(error, words)
    all_of_it = f"all of it: {kept}" if kept else "".join(traceback.format_exception(error))
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
        mend = _mend(error)
        return f"{doing}: {place}\n  {f'{mend}; ' if mend else ''}{all_of_it}"
    return (
        f"a fault of Sojourn itself, in {doing}: {type(error).__name__}: {first_line(error)}\n"
        f"  what it rented ends by its own timers, see: sojourn runs\n  {all_of_it}"
    )


def write_down(error: Exception, words: list[str]) -> Path | None:
    """The traceback in a file below the data directory, or else in the temporary one; None where neither takes it."""
    from sojourn.runs import data_home

    text = "".join(traceback.format_exception(error))
    about = f"sojourn {__version__}, Python {platform.python_version()}, {platform.platform()}\n{words!r}\n\n"
    for folder in (data_home() / FOLDER, Path(tempfile.gettempdir())):
        path = folder / f"sojourn-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text(about + text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        _forget_old(folder)
        return path
    return None


def _forget_old(folder: Path) -> None:
    for path in sorted(folder.glob("sojourn-????????-??????-*.txt"))[:-KEPT]:
        path.unlink(missing_ok=True)


def _mend(error: OSError) -> str | None:
    from sojourn.runs import data_home

    mend = _MENDS.get(error.errno or 0)
    if mend is None and error.filename and error.errno in _NOT_OURS_TO_WRITE:
        path, home = Path(os.path.abspath(str(error.filename))), data_home()
        if path == home or home in path.parents or path in home.parents:
            return "its data directory cannot be used; name another: export SOJOURN_HOME=DIRECTORY"
    return mend
