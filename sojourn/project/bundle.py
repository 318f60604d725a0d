"""The source tree as it goes to the machine: listed, vetted, packed, content-addressed.

What is in the tree and what stays is for `contents` to say; what stays is told in the plan.
Small files travel in archives and large ones as a blob each, both named by their hash, so a
second run uploads only what changed. Secrets are refused by name.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeVar

from sojourn import places
from sojourn.errors import SojournError, SpecError
from sojourn.omissions import Left
from sojourn.project import contents, history
from sojourn.project.contents import HOME as HOME
from sojourn.project.inputs import InputTree, check_content, check_name
from sojourn.project.project import Project
from sojourn.protocol import Bundle
from sojourn.records import FileEntry, Link
from sojourn.secrets.ignore_file import IGNORE_FILE
from sojourn.secrets.secret_files import all_secrets, refuse_secret
from sojourn.shorthand import counted
from sojourn.store.blobs import LANES, Changed, Sized, groups, read_content, send_blobs, send_body, send_files
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import MissingKeyError

BLOB_FROM = 1_000_000  # bytes; smaller files share an archive
ARCHIVE = 1_000_000  # of these bytes, about, each archive is made
BYTES_LIMIT = 200_000_000
FILES_LIMIT = 20_000
_NO_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # on some file systems fewer names are any
_CHANGES_OFTEN = {"dvc.lock"}  # each homecoming writes it: in the archive, all of it would be sent again
TRIES = 3  # of listing a tree that changes meanwhile
T = TypeVar("T")
_EPOCH = 946_684_800  # one fixed date for all files, so that equal trees make equal archives


class Found(NamedTuple):
    """A file or link of the tree that will travel."""

    path: str
    size: int
    mode: int
    target: str | None = None


@dataclass(frozen=True)
class Survey:
    """What the bundle will hold, before anything is read or sent."""

    files: tuple[Found, ...]
    ignore: tuple[str, ...] = field(default=(), repr=False)
    folders: tuple[str, ...] = ()
    left: tuple[Left, ...] = field(default=(), repr=False)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(found.size for found in self.files)


def survey(
    project: Project,
    skip: Iterable[str] | Mapping[str, str | None] = (),
    needed: Iterable[str] = (),
    inputs: InputTree | None = None,
) -> Survey:
    """List the tree without the paths in `skip` (and what is below them), which may each have a reason to be told.

    One that ends with a slash is a folder that stays once nothing else is in it.
    What lies below `needed` travels although git ignores it. `inputs` travel by themselves, but for
    folders that hold no file. Raises SpecError for a secret, a link that leaves the root, an LFS pointer.
    """
    asked = skip if isinstance(skip, Mapping) else dict.fromkeys(skip)
    reasons = {path: why for path, why in asked.items() if not path.endswith("/")}
    tree = contents.contents(project, reasons, needed)
    for path, reason in tree.wanting:
        raise SpecError(
            f"{path}: part of what the stage depends on, and {reason}, so DVC would record what did not run",
            hint=f"let DVC leave it out too: echo '/{path}' >> .dvcignore   (beside .dvc)",
        )
    with all_secrets() as look:
        looked = [look(partial(_look, project.root, path)) for path in sorted(tree.files)]
    found = [one for one in looked if one is not None]
    files, behind = _follow(project.root, found, {*tree.folders, *reasons})
    stay = {path.rstrip("/") for path in asked if path.endswith("/")}
    folders = sorted({*_without(stay, tree.folders), *(inputs.folders if inputs else ())})
    left = (*tree.left, *behind, *(inputs.left if inputs else ()))
    return Survey(tuple(files), tuple(contents.all_ignore_lines(project, tree, reasons)), tuple(folders), left)


def _without(stay: set[str], folders: Iterable[str]) -> Iterator[str]:
    """The empty folders, in place of one that stays the nearest above it that does not."""
    for folder in folders:
        while folder in stay:
            folder = folder.rpartition("/")[0]
        if folder:
            yield folder


def check_size(tree: Survey, accepted: bool) -> None:
    """Raise SpecError for a tree too large to be meant, naming its largest paths."""
    if accepted or (tree.bytes <= BYTES_LIMIT and len(tree.files) <= FILES_LIMIT):
        return
    largest = _largest(tree)
    names = ", ".join(f"{name} ({counted(count, 'file')}, {size / 1e6:,.0f} MB)" for name, count, size in largest)
    raise SpecError(
        f"{counted(len(tree.files), 'file')}, {tree.bytes / 1e6:,.0f} MB are too much for a bundle; largest: {names}",
        hint=f"name data in launch:, like  inputs: [{largest[0][0]}]  , "
        f"add a line to {IGNORE_FILE}, or pass --yes-upload",
    )


def _largest(tree: Survey) -> list[tuple[str, int, int]]:
    """The top-level files and directories (`data/`) that hold most, with their files and bytes."""
    held: dict[str, tuple[int, int]] = {}
    for found in tree.files:
        first, *below = PurePosixPath(found.path).parts
        name = first + "/" if below else first
        count, size = held.get(name, (0, 0))
        held[name] = (count + 1, size + found.size)
    lines = [(name, count, size) for name, (count, size) in held.items()]
    return sorted(lines, key=lambda line: -max(line[1] / FILES_LIMIT, line[2] / BYTES_LIMIT))[:5]


@dataclass(frozen=True)
class Packed:
    """A bundle in the store and what sending it took."""

    bundle: Bundle
    uploaded: int
    of_git: int = 0  # of that, for what git knows of the tree


def send(
    project: Project,
    skip: Iterable[str],
    needed: Iterable[str],
    inputs: Iterable[str],
    directory: str,
    mailbox: Mailbox,
) -> Packed:
    """Survey and pack; a tree in which files go meanwhile (an editor's own) is listed again."""

    named = list(inputs)

    def once() -> Packed:
        folders = InputTree(project, named, vetted=False)  # for those alone: `pack_inputs` looks into the files
        return pack(survey(project, skip, needed, folders), project, directory, mailbox)

    return _again_while_it_changes(once)


def _again_while_it_changes(once: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        with suppress(Changed):
            return once()
    return once()


def pack(tree: Survey, project: Project, directory: str, mailbox: Mailbox) -> Packed:
    """Send what the store lacks of the tree; the command will run in `directory`, as seen from the root."""
    large = [found for found in tree.files if _travels_alone(found)]
    small = [found for found in tree.files if not _travels_alone(found)]
    archived = [found for found in small if found.target is None]
    with ThreadPoolExecutor(LANES) as pool:
        past, changed = pool.submit(_send_history, project, mailbox), pool.submit(changed_files, project)  # git's work
        blobs, sent = send_blobs([(project.root / found.path, found.path) for found in large], mailbox)
        archives = list(pool.map(lambda group: _send_group(project.root, group, mailbox), groups(archived, ARCHIVE)))
    kept, kept_size = past.result()
    entries = [entry for _, group, _ in archives for entry in group]
    size = sum(size for _, _, size in archives)
    bundle = Bundle(
        archives=tuple(archive for archive, _, _ in archives),
        files=tuple(blobs),
        listing=tuple(sorted([*blobs, *entries], key=lambda entry: entry.path)),
        links=tuple(Link(path=found.path, target=found.target) for found in small if found.target is not None),
        folders=tree.folders,
        directory=directory,
        commit=project.commit,
        changed=changed.result(),
        history=kept,
    )
    return Packed(bundle, sent + size + kept_size, kept_size)


def pack_inputs(
    project: Project, inputs: Iterable[str], mailbox: Mailbox, besides: Container[str] = ()
) -> tuple[tuple[FileEntry, ...], int]:
    """Send the files named by `launch.inputs` but for these paths; their entries and the bytes sent."""
    named = list(inputs)

    def once() -> tuple[list[FileEntry], int]:
        files = sorted(item for item in InputTree(project, named).files.items() if item[0] not in besides)
        return send_files([Sized(path, file, file.stat().st_size) for path, file in files], mailbox)

    entries, sent = _again_while_it_changes(once)
    return tuple(entries), sent


def unpack(
    bundle: Bundle, mailbox: Mailbox, directory: Path, wanted: Callable[[str], bool] = lambda path: True
) -> None:
    """Lay out the bundle, or the wanted files of it, in an empty directory, as an agent does on its machine."""
    listed = {entry.path: entry for entry in bundle.listing}
    for archive in bundle.archives:
        body = b"".join(mailbox.store.stream(archive.source, size=archive.size))
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != archive.hash:
            raise SojournError(f"the store's copy of the bundle does not have the hash sent, {archive.hash}")
        _unpack(body, listed, directory, wanted)
    for entry in filter(lambda entry: wanted(entry.path), bundle.files):
        fetch_file(entry, mailbox, directory, any_letters=True)
    for folder in bundle.folders:
        places.put_folder(directory, folder)
    for link in bundle.links:
        places.put_link(directory, link.path, link.target)


def _unpack(body: bytes, listed: Mapping[str, FileEntry], directory: Path, wanted: Callable[[str], bool]) -> None:
    """The files of an archive, each as large as the listing says: a few bytes may hold any number of others."""
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as tar:
        for member in filter(lambda member: wanted(member.name), tar):
            content, known = tar.extractfile(member) if member.isreg() else None, listed.get(member.name)
            if content is None or known is None or known.size != member.size:
                raise SojournError(f"the bundle's archive holds {member.name!r}, which is no file of its listing")
            about: dict[str, Any] = {"mode": member.mode, "mtime_ns": int(member.mtime) * 10**9}
            places.put(directory, member.name, partial(shutil.copyfileobj, content), **about, any_letters=True)


def fetch_file(
    entry: FileEntry,
    mailbox: Mailbox,
    root: Path,
    *,
    ours: places.Ours | None = None,
    our_link: places.OurLink | None = None,
    any_letters: bool = False,
) -> None:
    """Bring one committed file from the store to its path below `root`, whole and verified.

    Raises PlaceError where `places.put` does, and SojournError for an object that is not what was committed.
    """

    def write(file: BinaryIO) -> None:
        digest, size = hashlib.sha256(), 0
        for piece in mailbox.contents.stream(entry):
            digest.update(piece)
            size += len(piece)
            if size > entry.size:
                break
            file.write(piece)
        if size != entry.size or f"sha256:{digest.hexdigest()}" != entry.hash:
            raise SojournError(
                f"{entry.path}: the store's copy does not have the hash that was committed, {entry.hash}"
            )

    if len(os.fsencode(root / entry.path)) >= places.WHOLE_PATH_BYTES:
        raise places.PlaceError(f"{entry.path}: with the folders above it, a longer path than files may have here")
    if not places.room(root, entry.size):
        raise places.PlaceError(f"{entry.path}: {entry.size / 1e9:,.1f} GB do not fit on the disk of {root}")
    about: dict[str, Any] = {"mode": entry.mode, "mtime_ns": entry.mtime_ns}
    try:
        places.put(root, entry.path, write, **about, ours=ours, our_link=our_link, any_letters=any_letters)
    except MissingKeyError:
        raise SojournError(f"{entry.path}: it is no longer in the store, at {entry.source}") from None
    except OSError as error:
        if error.errno not in _NO_NAME:
            raise
        raise places.PlaceError(f"{entry.path}: {error.strerror}") from error


def _travels_alone(found: Found) -> bool:
    return found.target is None and (found.size >= BLOB_FROM or PurePosixPath(found.path).name in _CHANGES_OFTEN)


def _look(root: Path, path: str) -> Found | None:
    check_name(path)
    file = root / path
    try:
        info = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None  # gone since it was listed
    if stat.S_ISLNK(info.st_mode):
        refuse_secret(path, file)
        return Found(path, 0, 0o777, _link_target(root, file, path))
    return _look_into(file, path)


def _look_into(file: Path, path: str) -> Found:
    info = file.stat()
    check_content(file, path, info.st_size)
    refuse_secret(path, file)
    return Found(path, info.st_size, stat.S_IMODE(info.st_mode))


def _follow(root: Path, found: list[Found], elsewhere: set[str]) -> tuple[list[Found], list[Left]]:
    """The same, each link to a file that stays replaced by its content; links to folders that stay are told.

    What is at or below `elsewhere` gets there in another way.
    """
    if all(one.target is None for one in found):
        return found, []
    there = {above for path in (*elsewhere, *(one.path for one in found)) for above in _and_above(path)}
    files, left = [], []
    for one in found:
        stays = _staying(root, one, there, elsewhere) if one.target is not None else None
        if stays is None:
            files.append(one)
        elif stays.is_dir():
            left.append(Left(one.path, contents.LINK))
        else:
            files.append(_look_into(stays, stays.relative_to(root).as_posix())._replace(path=one.path))
    return files, left


def _staying(root: Path, link: Found, there: set[str], elsewhere: set[str]) -> Path | None:
    """What a link leads to, where that stands here and would not be on the machine."""
    real = Path(os.path.realpath(root / link.path))
    target = real.relative_to(root).as_posix()
    if not real.exists() or target in there or not elsewhere.isdisjoint(_and_above(target)):
        return None
    return real


def _and_above(path: str) -> set[str]:
    """A path, the folders above it, and the root, which is '.'."""
    here = PurePosixPath(path)
    return {str(here), *map(str, here.parents)}


def _link_target(root: Path, file: Path, path: str) -> str:
    """What the link says, from where it stands. Raises SpecError when that leaves the root, by other links too."""
    said, folder = os.readlink(file), os.path.realpath(file.parent)
    target = os.path.normpath(os.path.join(folder, said))
    if os.path.isabs(said):
        target = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(said)), os.path.basename(said)))
    for end in (target, os.path.realpath(file)):
        if not Path(end).is_relative_to(root):
            raise SpecError(
                f"{path}: links to {end}, which is outside the project",
                hint=f"copy it into the project, name it in launch.inputs, or ignore it in {IGNORE_FILE}",
            )
    return os.path.relpath(target, folder) if os.path.isabs(said) else said


def _send_group(root: Path, group: list[Found], mailbox: Mailbox) -> tuple[FileEntry, list[FileEntry], int]:
    body, entries = _archive(root, group)
    archive, sent = _send_archive(body, mailbox)
    return archive, entries, sent


def _archive(root: Path, group: list[Found]) -> tuple[bytes, list[FileEntry]]:
    """A deterministic .tar.gz, and an entry for each file with the hash of the very bytes packed."""
    entries = []
    tar = bytearray()
    for found in group:
        content = read_content(root / found.path, found.path)
        written = (root / found.path).stat().st_mtime_ns  # in the listing; the archive is the same without
        info = tarfile.TarInfo(found.path)
        info.size, info.mode, info.mtime = len(content), found.mode, _EPOCH
        tar += info.tobuf(tarfile.DEFAULT_FORMAT, "utf-8", "surrogateescape") + content
        tar += bytes(-len(tar) % tarfile.BLOCKSIZE)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        about: dict[str, Any] = {"mode": found.mode, "mtime_ns": written}
        entries.append(FileEntry(path=found.path, hash=digest, size=len(content), source="", **about))
    tar += bytes(2 * tarfile.BLOCKSIZE)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as zipped:
        zipped.write(tar)  # at once: other archives are made meanwhile
    return packed.getvalue(), entries


def _send_history(project: Project, mailbox: Mailbox) -> tuple[FileEntry | None, int]:
    past = history.pack(project)
    return _send_archive(past, mailbox) if past else (None, 0)


def _send_archive(body: bytes, mailbox: Mailbox) -> tuple[FileEntry, int]:
    digest = hashlib.sha256(body).hexdigest()
    key = mailbox.blob_key(digest)
    return FileEntry(path="", hash=f"sha256:{digest}", size=len(body), source=key), send_body(key, body, mailbox)


def changed_files(project: Project) -> int:
    """How many files differ from the commit the tree stands on, those that git was told not to look at too."""
    if not project.in_git:
        return 0
    status = Project(project.root).git("status", "--porcelain", "--no-renames", "-z")
    return len([line for line in (status or "").split("\0") if line]) + _changed_unseen(Project(project.root))


def _changed_unseen(top: Project) -> int:
    """Files marked assume-unchanged or skip-worktree that stand here with another content."""
    lines = ((top.git("ls-files", "-s", "-v", "-z") or "").split("\0")) if top.in_git else []
    marked = {}
    for line in lines:
        facts, _, path = line.partition("\t")
        if facts and (facts[0].islower() or facts[0] == "S") and (top.root / path).is_file():
            marked[path] = facts.split()[2]
    if not marked:
        return 0
    hashes = (top.git("hash-object", "--", *marked) or "").split()
    return sum(here != known for here, known in zip(hashes, marked.values(), strict=True))
