"""Turns a path that came from outside, out of a manifest or an archive, into a file below a directory of ours.

What a machine or a store says is data: a path of theirs may not lead out of the directory, through a link that
somebody laid, or into a repository's own folder. A file is written whole under a name that nobody can guess and
then put in its place, in such a way that whatever appeared there meanwhile stays. Whoever writes what came from
outside onto this host writes it by `put`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sojourn.errors import SojournError

NAME_BYTES = 255
PATH_BYTES = 4000
WHOLE_PATH_BYTES = 4096  # with its root, and the zero at its end; not even a look at a longer one is possible
HOPS = 40  # links in links; the kernel follows as many
ROOM = 500_000_000  # bytes that large files leave free on a disk, or a twentieth of a smaller one
SMALL = 1_000_000  # smaller ones may take what there is

# Why a path is no place, as it is told after its size: `2 files named so that …`.
OUTWARD = "named so that they would leave their folder"
REPOSITORY = "that would be part of a git repository itself"
UNSHOWN = "with control characters or a backslash in their names"
TOO_LONG = "with names longer than files may have here"
REASONS = (OUTWARD, REPOSITORY, UNSHOWN, TOO_LONG)

_DRAFT = re.compile(r"\.sojourn-[0-9a-f]{16}")
_INSIDE, _BESIDE = {"objects", "refs"}, {"commondir", "packed-refs"}
_GIT = re.compile(r"\.git|git~\d+")
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = getattr(os, "O_PATH", os.O_RDONLY)  # a folder that may be entered and not listed will do
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_OVERRIDES = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

Ours = Callable[[int], bool]
OurLink = Callable[[str], bool]


class PlaceError(SojournError):
    """A file cannot be put at its place; it costs itself alone."""


class TakenError(PlaceError):
    """Something else stands there, and stays."""


def unfit(path: str, any_letters: bool = False) -> str | None:
    """Why nothing may be put at this path below a directory of ours; None where it may.

    `any_letters`: the names are the user's own, who may have put line breaks into them.
    """
    try:
        name = path.encode()
    except UnicodeEncodeError:
        return UNSHOWN
    parts = path.split("/")
    if not path or "\0" in path or not {"", ".", ".."}.isdisjoint(parts):
        return OUTWARD  # an absolute path begins with an empty part
    if any(map(_is_git, parts)):
        return REPOSITORY
    if not any_letters and any(map(_is_unshown, path)):
        return UNSHOWN
    longest = max(len(part.encode()) for part in parts)
    return TOO_LONG if longest > NAME_BYTES or len(name) > PATH_BYTES else None


def heads(paths: Iterable[str]) -> set[str]:
    """Those of the paths that would make the folder which they lie in a git repository, with hooks and settings."""
    known = [path.split("/") for path in paths]
    like = {
        "/".join(parts[:at])
        for parts in known
        for at, part in enumerate(parts)
        if part.casefold() in (_INSIDE if at < len(parts) - 1 else _BESIDE)
    }
    return {"/".join(parts) for parts in known if parts[-1].casefold() == "head" and "/".join(parts[:-1]) in like}


def is_draft(name: str) -> bool:
    """Whether a file is one that we were writing when we died."""
    return _DRAFT.fullmatch(name) is not None


def put(
    root: Path,
    path: str,
    write: Callable[[BinaryIO], None],
    *,
    mode: int = 0o644,
    mtime_ns: int | None = None,
    ours: Ours | None = None,
    our_link: OurLink | None = None,
    any_letters: bool = False,
) -> None:
    """Write a file whole and put it at `path` below `root`; folders are made up to it.

    What stands there stays, unless `ours` says of it, by a descriptor of what was taken away, that it is an older
    result of ours, or `our_link` of a link by what it says. Raises TakenError then, PlaceError for a path that is
    no place, and what `write` raises.
    Of the mode only the permissions count, and for others than the owner only what the umask gives.
    """
    *folders, name = _below(root, path, any_letters)
    with _folder(root, folders) as here, _draft(here, mode) as (draft, file):
        write(file)
        file.flush()
        if mtime_ns is not None:
            with suppress(OSError, OverflowError):  # a time that no file can have
                os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
        try:
            _settle(here, draft, name)
        except FileExistsError:
            if not _replace(here, draft, name, _Known(ours, our_link)):
                raise TakenError(f"{path}: something else stands there, and is kept") from None


def put_link(
    root: Path,
    path: str,
    target: str,
    *,
    leads_to: str | None = None,
    ours: Ours | None = None,
    our_link: OurLink | None = None,
) -> None:
    """Make a link at `path` that leads to somewhere below `root`, and to `leads_to` where that is told.

    What stands there stays as with `put`. Raises PlaceError for a link to anywhere else.
    """
    *folders, name = _below(root, path, any_letters=True)
    found = _below_root([*folders, *target.split("/")], path, target)
    if leads_to is not None and found != _below(root, leads_to, any_letters=True):
        raise PlaceError(f"{path!r} would be a link to {'/'.join(found)!r} here, and not to {leads_to!r}")
    with _folder(root, folders) as here:
        try:
            os.symlink(target, name, dir_fd=here)
        except FileExistsError:
            with _link_draft(here, target) as draft:
                if not _replace(here, draft, name, _Known(ours, our_link)):
                    raise TakenError(f"{path}: something else stands there, and is kept") from None


def take_link(root: Path, path: str, our_link: OurLink) -> bool:
    """Take away a link of ours, so that nothing is written through it; whether one stood there."""
    *folders, name = _below(root, path, any_letters=True)
    with _folder(root, folders) as here:
        away = _draft_name()
        try:
            if not our_link(os.readlink(name, dir_fd=here)):
                return False
            os.rename(name, away, src_dir_fd=here, dst_dir_fd=here)
        except OSError:  # nothing, or no link
            return False
        mine = _is_ours(here, away, _Known(None, our_link))
        if mine:
            os.unlink(away, dir_fd=here)
        elif not _given(here, away, name):
            os.rename(away, f"{name}.{away[-8:]}", src_dir_fd=here, dst_dir_fd=here)
        return mine


def put_folder(root: Path, path: str) -> None:
    """Make a folder at `path` below `root`, unless it is there."""
    with _folder(root, _below(root, path, any_letters=True)):
        pass


def room(folder: Path, size: int) -> bool:
    """Whether a file of this size can be written there without filling the disk; a small one may try."""
    if size <= SMALL:
        return True
    there = next(above for above in (folder, *folder.absolute().parents) if above.is_dir())
    disk = shutil.disk_usage(there)
    return size <= disk.free - min(ROOM, disk.total // 20)


# --- which path -------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _is_git(part: str) -> bool:
    """Whether some file system takes a name for `.git`: in capitals, short, with what it does not look at."""
    seen = "".join(letter for letter in unicodedata.normalize("NFKC", part) if unicodedata.category(letter) != "Cf")
    return any(_GIT.fullmatch(one.partition(":")[0].rstrip(" .").casefold()) for one in seen.split("\\"))


def _is_unshown(letter: str) -> bool:
    return letter == "\\" or letter in _OVERRIDES or unicodedata.category(letter) == "Cc"


def _below(root: Path, path: str, any_letters: bool) -> list[str]:
    """The parts of a path below the root, the user's own links among its folders followed while they stay below."""
    why = unfit(path, any_letters)
    if why is None:
        *folders, name = path.split("/")
        parts = [*_follow(root, folders, path), name]
        why = unfit(led, any_letters) if (led := "/".join(parts)) != path else None
    if why is not None:
        raise PlaceError(f"{path!r} is no place for a file: one of those {why}")
    return parts


def _follow(root: Path, folders: list[str], path: str) -> list[str]:
    """Folders without links. A link that leaves the root is refused, though it may come back."""
    top = os.path.realpath(root)
    done: list[str] = []
    todo, hops = list(folders), 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            if not done:
                raise _leads_out(path)
            done.pop()
            continue
        try:
            said = os.readlink(os.path.join(top, *done, part))
        except OSError:  # no link, or nothing yet
            done.append(part)
            continue
        hops += 1
        if os.path.isabs(said):
            if hops > HOPS or not Path(said).is_relative_to(top):
                raise _leads_out(path)
            done, said = [], os.path.relpath(said, top)
        if hops > HOPS:
            raise _leads_out(path)
        todo[:0] = said.split("/")
    return done


def _below_root(parts: list[str], path: str, target: str) -> list[str]:
    done: list[str] = []
    for part in parts:
        if target.startswith("/") or (part == ".." and not done):
            raise PlaceError(f"{path!r} is a link to {target!r}, which leads out of its folder")
        if part == "..":
            done.pop()
        elif part not in ("", "."):
            done.append(part)
    return done


def _leads_out(path: str) -> PlaceError:
    return PlaceError(f"{path!r} is behind a link that leads elsewhere")


# --- into place -------------------------------------------------------------------------------


@contextmanager
def _folder(root: Path, folders: list[str]) -> Iterator[int]:
    """A descriptor of a folder below the root, made if need be. A link that appears among its parts is not followed."""
    root.mkdir(parents=True, exist_ok=True)
    here = os.open(root, _LOOK | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=here)
            inner = _open_folder(here, part)
            os.close(here)
            here = inner
        yield here
    finally:
        os.close(here)


def _open_folder(here: int, part: str) -> int:
    try:
        return os.open(part, _LOOK | _DIRECTORY, dir_fd=here)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise TakenError(f"{part}: a file or a link stands where a folder is to be, and is kept") from error


@contextmanager
def _draft(here: int, mode: int) -> Iterator[tuple[str, BinaryIO]]:
    """A new file under a name that nobody can guess; it goes at the end, if it was not put in its place."""
    draft = _draft_name()
    descriptor = os.open(draft, _NEW, mode & 0o777, dir_fd=here)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o777 | mode & 0o700)
            yield draft, file
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=here)


@contextmanager
def _link_draft(here: int, target: str) -> Iterator[str]:
    draft = _draft_name()
    os.symlink(target, draft, dir_fd=here)
    try:
        yield draft
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=here)


def _draft_name() -> str:
    return f".sojourn-{secrets.token_hex(8)}"


def _settle(here: int, draft: str, name: str) -> None:
    """Give the draft its name. Raises FileExistsError where anything has it."""
    try:
        os.link(draft, name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not _rename(here, draft, name, _Rename.new):
            _copy(here, draft, name)


def _copy(here: int, draft: str, name: str) -> None:
    """For file systems that have neither links nor a rename that replaces nothing."""
    with open(os.open(draft, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=here), "rb") as source:
        state = os.fstat(source.fileno())
        with open(os.open(name, _NEW, stat.S_IMODE(state.st_mode), dir_fd=here), "wb") as target:
            shutil.copyfileobj(source, target)
            target.flush()
            os.utime(target.fileno(), ns=(state.st_atime_ns, state.st_mtime_ns))


class _Known(NamedTuple):
    """What says of a file, or of a link, that it is ours."""

    file: Ours | None
    link: OurLink | None


def _replace(here: int, draft: str, name: str, known: _Known) -> bool:
    """Put the draft in the place of what stands there, if that is ours; False where it is not, and stands there again.

    It is looked at once it is out of the way: somebody might write between a look before and the deed.
    """
    if known == (None, None):
        return False
    new = _identity(here, draft)
    try:
        swapped = _rename(here, draft, name, _Rename.swap)
    except FileNotFoundError:  # it has gone meanwhile
        return _given(here, draft, name)
    if not swapped:
        return _move_away(here, draft, name, known)
    mine = False
    try:
        mine = _is_ours(here, draft, known)
    finally:
        if not mine:
            _swap_back(here, draft, name, new)
    return mine


def _swap_back(here: int, draft: str, name: str, new: tuple[int, int] | None) -> None:
    """Give what was taken away its name again; what was written there in that very moment is kept beside it."""
    try:
        _rename(here, draft, name, _Rename.swap)
    except FileNotFoundError:
        if _given(here, draft, name):
            return
    if _identity(here, draft) != new:
        os.rename(draft, f"{name}.{draft[-8:]}", src_dir_fd=here, dst_dir_fd=here)


def _move_away(here: int, draft: str, name: str, known: _Known) -> bool:
    """The same in two steps, for file systems that cannot swap two names."""
    away = _draft_name()
    try:
        os.rename(name, away, src_dir_fd=here, dst_dir_fd=here)
    except FileNotFoundError:
        return _given(here, draft, name)
    mine = False
    try:
        mine = _is_ours(here, away, known)
    finally:
        if not mine and not _given(here, away, name):
            os.rename(away, f"{name}.{away[-8:]}", src_dir_fd=here, dst_dir_fd=here)
    given = mine and _given(here, draft, name)
    with suppress(FileNotFoundError):
        os.unlink(away, dir_fd=here)
    return given


def _given(here: int, old: str, name: str) -> bool:
    """Give a file a name; False where something has it."""
    try:
        _settle(here, old, name)
    except FileExistsError:
        return False
    return True


def _is_ours(here: int, name: str, known: _Known) -> bool:
    try:
        said = os.readlink(name, dir_fd=here)
    except OSError:
        pass
    else:
        return known.link is not None and known.link(said)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    except OSError:
        return False
    try:
        return known.file is not None and stat.S_ISREG(os.fstat(descriptor).st_mode) and known.file(descriptor)
    finally:
        os.close(descriptor)


def _identity(here: int, name: str) -> tuple[int, int] | None:
    try:
        state = os.stat(name, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return state.st_dev, state.st_ino


class _Rename:
    """What a rename does where the new name is taken: fail, or swap the two. By system, as its headers say."""

    new, swap = (4, 2) if sys.platform == "darwin" else (1, 2)


def _rename(here: int, old: str, new: str, how: int) -> bool:
    """Rename in one step; False where this system or file system cannot. Raises FileExistsError."""
    call = _renameat()
    if call is None:
        return False
    if call(here, os.fsencode(old), here, os.fsencode(new), how) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EEXIST, errno.ENOENT):
        raise OSError(number, os.strerror(number), new)
    return False


@cache
def _renameat() -> Callable[..., int] | None:
    """Linux's and macOS's own call, of which Python has none."""
    name = "renameatx_np" if sys.platform == "darwin" else "renameat2"
    try:
        call = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call  # type: ignore[no-any-return]
