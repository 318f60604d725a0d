"""The source tree as it goes to the machine: listed, vetted, packed, content-addressed.

From git's point of view the bundle is what is tracked and what is untracked but not
ignored; without git, everything but ignored files, caches and virtual environments.
Small files travel as one archive and large ones as a blob each, both named by their
hash, so a second run uploads only what changed. Secrets are refused by name.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from sojourn.errors import SojournError, SpecError, nearest
from sojourn.mailbox import Mailbox
from sojourn.names import is_run_id
from sojourn.project import Project
from sojourn.records import Bundle, FileEntry, Link
from sojourn.shorthand import counted

BLOB_FROM = 1_000_000  # bytes; smaller files share the archive
LANES = 8  # files on their way at once: a store in a cloud is far, not slow
SEND_AGAIN_AFTER_S = 7 * 86400.0  # the shortest that `sojourn setup aws` lets a bucket keep things is twice that
BYTES_LIMIT = 200_000_000
FILES_LIMIT = 20_000
IGNORE_FILE = ".sojournignore"
HOME = "runs"  # where results go that must not overwrite anything
_CACHES = {
    ".git", "__pycache__", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", ".tox",
}  # fmt: skip
_CHANGES_OFTEN = {"dvc.lock"}  # each homecoming writes it: in the archive, all of it would be sent again
_DVC_OWN = (".dvc/cache", ".dvc/tmp")
_SECRET_NAMES = (
    ".env*", ".netrc", "_netrc", ".git-credentials", ".pypirc", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.ppk",
    "*.p12", "*.pfx", "kaggle.json", "application_default_credentials.json", "service-account*.json",
)  # fmt: skip
_SECRET_PATHS = ("*.aws/credentials", "*.docker/config.json", "*.dvc/config.local", "*.kube/config")
_LFS = b"version https://git-lfs.github.com/spec/v1"
_EPOCH = 946_684_800  # one fixed date for all files, so that equal trees make equal archives


@dataclass(frozen=True)
class Found:
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

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(found.size for found in self.files)


def survey(project: Project, skip: Iterable[str] = ()) -> Survey:
    """List the tree without the paths in `skip` (and what is below them).

    Raises SpecError for a secret, a link that leaves the root, an LFS pointer.
    """
    ignore = _ignore_lines(project)
    left_out = GitIgnoreSpec.from_lines(_read_lines(project.root / IGNORE_FILE))
    skipped = {PurePosixPath(path) for path in skip}
    paths = (
        path
        for path in _paths(project, ignore)
        if not left_out.match_file(path) and not _is_ours(path) and skipped.isdisjoint(_and_above(path))
    )
    found = (_look(project.root, path) for path in sorted(set(paths)))
    return Survey(tuple(one for one in found if one is not None), tuple(ignore))


def check_size(tree: Survey, accepted: bool) -> None:
    """Raise SpecError for a tree too large to be meant, naming its largest paths."""
    if accepted or (tree.bytes <= BYTES_LIMIT and len(tree.files) <= FILES_LIMIT):
        return
    largest = _largest(tree)
    names = ", ".join(f"{name} ({counted(count, 'file')}, {size / 1e6:,.0f} MB)" for name, count, size in largest)
    raise SpecError(
        f"{len(tree.files):,} files, {tree.bytes / 1e6:,.0f} MB are too much for a bundle; largest: {names}",
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


def pack(tree: Survey, project: Project, directory: str, mailbox: Mailbox) -> Packed:
    """Send what the store lacks of the tree; the command will run in `directory`, as seen from the root."""
    large = [found for found in tree.files if _travels_alone(found)]
    small = [found for found in tree.files if not _travels_alone(found)]
    blobs, sent = _send_blobs([(project.root / found.path, found.path) for found in large], mailbox)
    body, entries = _archive(project.root, small)
    archive, size = _send_archive(body, mailbox) if body else (None, 0)
    bundle = Bundle(
        archive=archive,
        files=tuple(blobs),
        listing=tuple(sorted([*blobs, *entries], key=lambda entry: entry.path)),
        links=tuple(Link(path=found.path, target=found.target) for found in small if found.target is not None),
        directory=directory,
        commit=project.commit,
        changed=changed_files(project),
    )
    return Packed(bundle, sent + size)


def pack_inputs(project: Project, inputs: Iterable[str], mailbox: Mailbox) -> tuple[tuple[FileEntry, ...], int]:
    """Send the files named by `launch.inputs`, a blob each; the entries and the bytes sent."""
    files = input_files(project, inputs)
    entries, sent = _send_blobs([(path, path.relative_to(project.root).as_posix()) for path in files], mailbox)
    return tuple(entries), sent


def input_files(project: Project, inputs: Iterable[str]) -> list[Path]:
    """The files named by `launch.inputs`, directories walked. Raises SpecError for one not there."""
    files: list[Path] = []
    for name in inputs:
        path = project.directory / name
        if not path.exists():
            there = (entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else ()
            raise SpecError(
                f"inputs: {name!r} is not in {project.directory}, {nearest(path.name, there)}",
                hint="mend the path: --input PATH, or inputs: in params.yaml",
            )
        files += sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return files


def unpack(bundle: Bundle, mailbox: Mailbox, directory: Path) -> None:
    """Lay the bundle out in an empty directory, as an agent does on its machine."""
    if bundle.archive is not None:
        body = mailbox.store.get(bundle.archive.source)
        if f"sha256:{hashlib.sha256(body).hexdigest()}" != bundle.archive.hash:
            raise SojournError(f"the store's copy of the bundle does not have the hash sent, {bundle.archive.hash}")
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as tar:
            # Set, not passed as `filter=`: Python knows that argument from 3.11.4 on only, and Debian 12 has 3.11.2.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(directory)
    for entry in bundle.files:
        fetch_file(entry, mailbox, directory / entry.path)
    for link in bundle.links:
        path = directory / link.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(link.target)


def fetch_file(entry: FileEntry, mailbox: Mailbox, path: Path) -> None:
    """Bring one committed file from the store, whole and verified, or raise SojournError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:200]}.sojourn")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for piece in mailbox.store.stream(entry.source):
                digest.update(piece)
                file.write(piece)
        if f"sha256:{digest.hexdigest()}" != entry.hash:
            raise SojournError(
                f"{entry.path}: the store's copy does not have the hash that was committed, {entry.hash}"
            )
        partial.chmod(entry.mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _travels_alone(found: Found) -> bool:
    return found.target is None and (found.size >= BLOB_FROM or PurePosixPath(found.path).name in _CHANGES_OFTEN)


def _send_blobs(files: list[tuple[Path, str]], mailbox: Mailbox) -> tuple[list[FileEntry], int]:
    """Each file, with its path in the tree, as a blob; their entries and the bytes sent."""
    with ThreadPoolExecutor(LANES) as pool:
        sent = list(pool.map(lambda one: send_blob(one[0], one[1], mailbox), files))
    once = {entry.source: size for entry, size in sent if size}  # of equal files, all may have been sent
    return [entry for entry, _ in sent], sum(once.values())


def send_blob(file: Path, path: str, mailbox: Mailbox) -> tuple[FileEntry, int]:
    """Put one file into the store under its hash unless it is there; the bytes sent."""
    digest, size = _hash(file)
    key = mailbox.blob_key(digest)
    sent = 0
    if not _stays(key, mailbox):
        # A file may change between hashing and sending: what is sent is a copy, hashed as it is made.
        with tempfile.NamedTemporaryFile(prefix="sojourn-") as copy:
            digest, size = _copy(file, Path(copy.name))
            key = mailbox.blob_key(digest)
            sent = _send(key, Path(copy.name), size, mailbox)
    mode = stat.S_IMODE(file.stat().st_mode)
    return FileEntry(path=path, hash=f"sha256:{digest}", size=size, mode=mode, source=key), sent


def _paths(project: Project, ignore: list[str]) -> Iterator[str]:
    if project.in_git:
        top = Project(project.root)
        for arguments in (("--cached", "--recurse-submodules"), ("--others", "--exclude-standard")):
            listed = top.git("ls-files", "-z", *arguments)
            if listed is None:
                raise SpecError(
                    f"git cannot list {project.root}", hint=f"see what it says: git -C {project.root} status"
                )
            yield from (path for path in listed.split("\0") if path and not _in_cache(path))
        return
    spec = GitIgnoreSpec.from_lines(ignore)
    for folder, names, files in os.walk(project.root):
        base = Path(folder).relative_to(project.root)
        for name in list(names):
            inside = (base / name).as_posix()
            if (
                name in _CACHES
                or inside in _DVC_OWN
                or (Path(folder, name) / "pyvenv.cfg").exists()
                or spec.match_file(inside + "/")
            ):
                names.remove(name)
            elif Path(folder, name).is_symlink():
                names.remove(name)
                yield inside
        yield from (path for name in files if not spec.match_file(path := (base / name).as_posix()))


def _ignore_lines(project: Project) -> list[str]:
    """The gitignore lines of the root, for the machine, where no git can be asked."""
    return [*_read_lines(project.root / ".gitignore"), *_read_lines(project.root / IGNORE_FILE)]


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _in_cache(path: str) -> bool:
    return path.startswith(_DVC_OWN) or "__pycache__" in PurePosixPath(path).parts


def _and_above(path: str) -> tuple[PurePosixPath, ...]:
    here = PurePosixPath(path)
    return (here, *here.parents)


def _is_ours(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(above == HOME and is_run_id(name) for above, name in pairwise(parts))


def _look(root: Path, path: str) -> Found | None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise SpecError(f"{shown}: the name is not UTF-8", hint=f"rename it, or ignore it in {IGNORE_FILE}") from None
    file = root / path
    try:
        info = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None  # tracked, but deleted here
    _refuse_secret(path, file)
    if stat.S_ISLNK(info.st_mode):
        return Found(path, 0, 0o777, _link_target(root, file, path))
    if not stat.S_ISREG(info.st_mode):
        return None
    if info.st_size < 1024 and file.read_bytes().startswith(_LFS):
        raise SpecError(f"{path}: is a Git LFS pointer, its content is not here", hint="fetch it: git lfs pull")
    return Found(path, info.st_size, stat.S_IMODE(info.st_mode))


def _refuse_secret(path: str, file: Path) -> None:
    name = PurePosixPath(path).name
    named = any(fnmatch.fnmatch(name, pattern) for pattern in _SECRET_NAMES)
    if (
        named
        or any(fnmatch.fnmatch("/" + path, "*/" + pattern.lstrip("*")) for pattern in _SECRET_PATHS)
        or _is_private_key(file)
    ):
        raise SpecError(
            f"{path}: looks like a secret, and secrets do not travel in the bundle",
            hint=f"keep it here: echo '/{path}' >> {IGNORE_FILE}   (the script gets values by  secrets: [NAME])",
        )


def _is_private_key(file: Path) -> bool:
    if file.suffix not in (".pem", ".key", "") or file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as opened:
        return b"PRIVATE KEY-----" in opened.read(64)


def _link_target(root: Path, file: Path, path: str) -> str:
    target = Path(os.path.normpath(file.parent / os.readlink(file)))
    if not target.is_relative_to(root):
        raise SpecError(
            f"{path}: links to {target}, which is outside the project",
            hint=f"copy it into the project, name it in launch.inputs, or ignore it in {IGNORE_FILE}",
        )
    return os.path.relpath(target, file.parent)


def _archive(root: Path, small: list[Found]) -> tuple[bytes, list[FileEntry]]:
    """A deterministic .tar.gz, and an entry for each file with the hash of the very bytes packed."""
    entries = []
    packed = io.BytesIO()
    zipped = gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0)
    with zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for found in small:
            if found.target is None and (content := _content(root / found.path)) is not None:
                info = tarfile.TarInfo(found.path)
                info.size, info.mode, info.mtime = len(content), found.mode, _EPOCH
                tar.addfile(info, io.BytesIO(content))
                digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
                entries.append(FileEntry(path=found.path, hash=digest, size=len(content), mode=found.mode, source=""))
    return (packed.getvalue() if entries else b""), entries


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None  # removed since it was listed


def _send_archive(body: bytes, mailbox: Mailbox) -> tuple[FileEntry, int]:
    digest = hashlib.sha256(body).hexdigest()
    key = mailbox.blob_key(digest)
    return FileEntry(path="", hash=f"sha256:{digest}", size=len(body), source=key), _send(key, body, len(body), mailbox)


def _send(key: str, body: bytes | Path, size: int, mailbox: Mailbox) -> int:
    if _stays(key, mailbox):
        return 0
    mailbox.store.put(key, body)  # it is named by its hash: who sends it at the same time sends the same
    return size


def _stays(key: str, mailbox: Mailbox) -> bool:
    """Whether the store has it and goes on having it: a bucket forgets objects by their age, also those in use."""
    written = mailbox.store.modified(key)
    return written is not None and time.time() - written.timestamp() < SEND_AGAIN_AFTER_S


def _hash(file: Path) -> tuple[str, int]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
        return digest.hexdigest(), opened.tell()


def hash_file(file: Path) -> str:
    """The hash of a file as manifests write it."""
    return f"sha256:{_hash(file)[0]}"


def _copy(file: Path, to: Path) -> tuple[str, int]:
    shutil.copyfile(file, to)
    return _hash(to)


def changed_files(project: Project) -> int:
    """How many files differ from the commit the tree stands on."""
    status = Project(project.root).git("status", "--porcelain", "-z") if project.in_git else None
    return len([line for line in (status or "").split("\0") if line])
