"""What lies in a store on files, without obstore: one foreign file name would make its whole listing fail."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sojourn.errors import SpecError, UnreadableError
from sojourn.store.refusals import file_refusal

AWAITED = {"plan.json", "receipt.json", "report.json"}
OURS_BELOW = 3  # parts of a key: what lies below `control/PROJECT/` nobody else writes
NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EINVAL}
TEMPORARY = re.compile(r"#\d+$")  # obstore's own names for what it is writing


def keys(root: Path, prefix: str) -> Iterator[str]:
    """Every key below `prefix/`."""
    for folder, folders, files in os.walk(root / prefix, onerror=_refused):
        folders[:] = [name for name in folders if not TEMPORARY.search(name)]
        base = Path(folder).relative_to(root).as_posix()
        if _is_text(base):
            yield from (f"{base}/{name}" for name in files if _is_text(name) and not TEMPORARY.search(name))


def sizes(root: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Every key below `prefix/` with its object's size."""
    for key in keys(root, prefix):
        with suppress(FileNotFoundError):  # removed since it was listed
            yield key, (root / key).lstat().st_size  # a link may lead to itself


def _is_text(name: str) -> bool:
    """Whether a name can be a key; what is named in no UTF-8 is nobody's of ours."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def check_file(root: Path, key: str) -> None:
    """Raise UnreadableError where no file lies under a key: to open a pipe would wait for whoever writes into it.

    Raises FileNotFoundError for a key below a file, under which nothing can lie.
    """
    path = root / key
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if root.is_dir():
            raise FileNotFoundError(key) from None
        return
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENAMETOOLONG):
            return  # whoever opens it says so
        raise UnreadableError(f"{key} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(kind):
        raise UnreadableError(f"{key} cannot be read: it is no file")


def look_at(root: Path, key: str) -> os.stat_result:
    """What lies under a key. Raises FileNotFoundError where nothing does."""
    try:
        return (root / key).lstat()
    except NotADirectoryError:
        if root.is_dir():
            raise FileNotFoundError(key) from None
        raise


def names(root: Path, prefix: str) -> list[str]:
    """The folders directly below `prefix/`, sorted."""
    try:
        return sorted(e.name for e in os.scandir(root / prefix) if _is_text(e.name) and e.is_dir())
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        if root.is_dir():
            return []
        hint = "name another: --store file:///absolute/path, or: export SOJOURN_HOME=DIRECTORY"
        raise SpecError(f"store: {root.as_uri()!r} is not a directory", hint=hint) from None
    except OSError as error:
        raise file_refusal(root.as_uri(), error, f"list {prefix}") from error


def _refused(error: OSError) -> None:
    """What was removed since it was listed is fine; what may not be read must not look like nothing."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise file_refusal("file://" + str(error.filename), error, "list it") from error


def write(root: Path, key: str, body: bytes, new: bool = False, durable: bool = True) -> None:
    """Put a whole file, which a power cut leaves whole or not there; raises FileExistsError for a `new` one that is.

    That it is there for good shows with the next one: journals keep their order. The one that begins a run and the
    one that ends it, whose folder holds nothing else of that kind, are awaited. What is no file gives way.
    """
    path = root / key
    _provide(root, path.parent)
    draft = _draft(path)
    try:
        with open(draft, "xb") as file:
            file.write(body)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if new:
            _link(root, draft, path)
        else:
            _replace(root, draft, path)
    finally:
        draft.unlink(missing_ok=True)
    if path.name in AWAITED:
        settle(path.parent)


def _provide(root: Path, folder: Path) -> None:
    """Make a folder and those above it; what is none gives way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        stands = (one for one in (*reversed(folder.parents), folder) if os.path.lexists(one))
        above = next((one for one in stands if not os.path.isdir(one)), None)
        if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.ELOOP) or above is None:
            raise
        _put_aside(root, above)
        folder.mkdir(parents=True, exist_ok=True)


def _link(root: Path, draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        if os.path.isfile(path):
            raise
        _put_aside(root, path)  # a folder, a pipe, a link to nowhere: no writer of ours has laid it there
        os.link(draft, path)


def _replace(root: Path, draft: Path, path: Path) -> None:
    try:
        os.replace(draft, path)
    except IsADirectoryError:
        _put_aside(root, path)
        os.replace(draft, path)


def _put_aside(root: Path, path: Path) -> None:
    """Under a name that no listing shows. What lies above the projects may be the user's own, and stays."""
    if len(path.relative_to(root).parts) < OURS_BELOW:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    path.rename(_draft(path))


def _draft(path: Path) -> Path:
    return path.with_name(f"{path.name}#{secrets.randbelow(10**15)}")


def settle(path: Path) -> None:
    """Wait until a file, or what a folder holds, is on the disk; one that is gone needs none, a pipe neither."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise


def now(root: Path | None) -> float:
    """The time by the clock of the file system, which may be another host's: what it writes beside what is touched.

    It takes no room, so a full disk tells it too.
    """
    assert root is not None
    os.utime(root)
    return root.stat().st_mtime


def remove_leavings(folder: Path) -> None:
    """Take away temporary files of writers that died, what was put aside, and folders that hold nothing."""
    for place, folders, files in os.walk(folder, topdown=False):
        for aside in (Path(place, name) for name in folders if TEMPORARY.search(name)):
            if aside.is_symlink():
                aside.unlink()
            else:
                shutil.rmtree(aside, ignore_errors=True)
        for name in files:
            if TEMPORARY.search(name):
                Path(place, name).unlink(missing_ok=True)
        with suppress(OSError):  # something is kept in it
            os.rmdir(place)
