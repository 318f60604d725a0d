"""The last word on an error that nobody foresaw: one sentence, and for a fault of ours a file with all of it."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

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
    from sojourn.run.faults import sentence, write_down
    from sojourn.run.runs import data_home

    verb = next((word for word in words if not word.startswith("-")), "")
    doing = f"sojourn {verb}".strip()
    kept = write_down(error, repr(words), data_home())
    all_of_it = f"all of it: {kept}" if kept else "".join(traceback.format_exception(error))
    if isinstance(error, OSError) and error.strerror:
        mend = _mend(error)
        return f"{doing}: {sentence(error)}\n  {f'{mend}; ' if mend else ''}{all_of_it}"
    return (
        f"{sentence(error).replace(':', f', in {doing}:', 1)}\n"
        f"  what it rented ends by its own timers, see: sojourn runs\n  {all_of_it}"
    )


def _mend(error: OSError) -> str | None:
    from sojourn.run.runs import data_home

    mend = _MENDS.get(error.errno or 0)
    if mend is None and error.filename and error.errno in _NOT_OURS_TO_WRITE:
        path, home = Path(os.path.abspath(str(error.filename))), data_home()
        if path == home or home in path.parents or path in home.parents:
            return "its data directory cannot be used; name another: export SOJOURN_HOME=DIRECTORY"
    return mend
