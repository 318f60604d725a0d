"""The agent: carries out one order on one machine and tells the store how it went.

One file, standard library only, Python 3.8 or newer, because it is all that we send to
a machine. Its phases: waiting (hello, then the order), fetching (bundle and inputs, every
hash checked), running (the script in a clean environment; log segments, outputs and
checkpoints reach the store meanwhile), committing (what is left), done (`exit.json`, the
very last thing). A stop request, the deadline or SIGTERM lead from any phase to the last
two. It never retries the script, and no process of the script outlives it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import hashlib
import itertools
import json
import os
import platform
import posixpath
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections import deque
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, NamedTuple, Tuple
from urllib.parse import unquote, urlsplit

VERSION = "1"
MIB = 1 << 20
BEAT_S = 2.0
STOP_POLL_S = 0.5
PEER_POLL_S = 1.0
PEER_GRACE_S = 2.0
SIGNAL_GRACE_S = 20.0
RANKS_END_S = 5.0  # after the first rank failed, the others get this long
QUIET_S = 1.0  # a checkpoint file must not have changed for this long while its writer lives
FETCHERS = 8
TAIL_BYTES = 8 << 10
TAIL_LINES = 40

Json = Dict[str, Any]
Check = Callable[[], None]


class Refused(Exception):
    """The order cannot be carried out; one sentence says why. Nothing was started."""


class Stop(Exception):
    """The script shall end, or not start."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Late(Exception):
    """The time for this commit is over."""


class Exists(Exception):
    """A create-only write found an object there."""


def say(text: str) -> None:
    """Our own voice: the supervisor keeps stderr in a file, the user's log never sees it."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# --- time -------------------------------------------------------------------------------


class Deadline:
    """Two timers, by the wall clock and since boot; the earlier wins, so no clock step can hold a machine."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._cut = _since_boot() + at - time.time()

    def lower(self, at: float) -> None:
        """An earlier deadline replaces this one; a later one does not."""
        if at < self._at:
            self.__init__(at)  # type: ignore[misc]

    def left(self) -> float:
        """Seconds until the deadline, negative after it."""
        return min(self._at - time.time(), self._cut - _since_boot())


def _since_boot() -> float:
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # counts on while the machine sleeps
    return time.monotonic() if clock is None else float(time.clock_gettime(clock))


# --- the store --------------------------------------------------------------------------


class FileStore:
    """The store on files. A temporary is named `<name>#<digits>`, which no listing shows."""

    patience_s = 30.0  # how long the last words are retried against a store that fails

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme != "file":
            raise Refused(f"this agent cannot read {url}: it speaks file:// only")
        self._root = unquote(urlsplit(url).path)

    def get(self, key: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        with self.open(key) as file:
            return file.read()

    def find(self, key: str) -> bytes | None:
        """The whole object, or None when there is none or the store does not answer."""
        try:
            return self.get(key)
        except OSError:
            return None

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        return os.path.exists(self._path(key))

    def open(self, key: str) -> BinaryIO:
        """The object as a stream. Raises FileNotFoundError."""
        return open(self._path(key), "rb")

    def put(self, key: str, body: bytes) -> None:
        """Write an object, replacing what was there."""
        path = self._path(key)
        with self._temporary(path) as (name, file):
            file.write(body)
            file.flush()
            os.replace(name, path)

    def create(self, key: str, body: bytes, durable: bool = False) -> None:
        """Write an object that must not exist yet; `durable` survives a power cut. Raises Exists."""
        path = self._path(key)
        with self._temporary(path) as (name, file):
            file.write(body)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            try:
                os.link(name, path)
            except FileExistsError:
                raise Exists(key) from None

    def keep(self, prefix: str, source: BinaryIO, check: Check) -> tuple[str, int]:
        """Store a stream as `prefix/<sha256>` in one pass: its hash and size. The same bytes again are fine."""
        digest, size = hashlib.sha256(), 0
        with self._temporary(self._path(f"{prefix}/blob")) as (name, file):
            for chunk in _chunks(source, check):
                digest.update(chunk)
                file.write(chunk)
                size += len(chunk)
            file.flush()
            with contextlib.suppress(FileExistsError):
                os.link(name, self._path(f"{prefix}/{digest.hexdigest()}"))
        return digest.hexdigest(), size

    def _path(self, key: str) -> str:
        return os.path.join(self._root, key) if key else self._root

    @contextlib.contextmanager
    def _temporary(self, path: str) -> Iterator[tuple[str, BinaryIO]]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # At random: agents in process namespaces of their own share process ids.
        name = f"{path}#{secrets.randbelow(10**15)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with open(os.open(name, flags, 0o600), "wb") as file:
                yield name, file
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)


def _chunks(source: BinaryIO, check: Check) -> Iterator[bytes]:
    while True:
        check()
        chunk = source.read(MIB)
        if not chunk:
            return
        yield chunk


# --- paths and patterns -----------------------------------------------------------------


def inside(root: str, path: str) -> str:
    """The full name of a relative path. Raises Refused when it would leave the root, by a link too."""
    parts = path.split("/")
    full = os.path.join(root, *parts)
    folder = os.path.realpath(os.path.dirname(full))
    if path.startswith("/") or ".." in parts or not below(folder, os.path.realpath(root)):
        raise Refused(f"{path!r} would leave the run's directory")
    return full


def below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return folder in (".", "") or path == folder or path.startswith(folder.rstrip("/") + "/")


class Patterns:
    """Lines of a .gitignore: the last one that matches a path, or a folder above it, decides.

    https://git-scm.com/docs/gitignore
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for rule in map(_rule, lines) if rule is not None]
        self._folders: dict[str, bool] = {"": False}

    def match(self, path: str) -> bool:
        """Whether the file at this relative path is meant."""
        return self._folder(posixpath.dirname(path)) or self._decide(path, False)

    def _folder(self, path: str) -> bool:
        if path not in self._folders:
            self._folders[path] = self._folder(posixpath.dirname(path)) or self._decide(path, True)
        return self._folders[path]

    def _decide(self, path: str, folder: bool) -> bool:
        for regex, wanted, folders_only in reversed(self._rules):
            if (folder or not folders_only) and regex.fullmatch(path):
                return wanted
        return False


Rule = Tuple["re.Pattern[str]", bool, bool]


def _rule(line: str) -> Rule | None:
    text = re.sub(r"(?<!\\)\s+$", "", line)
    if not text or text.startswith("#"):
        return None
    wanted = not text.startswith("!")
    text = text if wanted else text[1:]
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anywhere = "/" not in text
    try:
        regex = re.compile(("(?:.*/)?" if anywhere else "") + _glob(text.lstrip("/")), re.DOTALL)
    except re.error:
        return None
    return regex, wanted, folders_only


_TOKEN = re.compile(r"(?:^|(?<=/))\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?[^\]]*\]|\\.|.", re.DOTALL)


def _glob(text: str) -> str:
    return "".join(_piece(token.group()) for token in _TOKEN.finditer(text))


def _piece(token: str) -> str:
    fixed = {"**/": "(?:.*/)?", "/**": "/.+", "?": "[^/]"}
    if token in fixed:
        return fixed[token]
    if token.startswith("*"):
        return "[^/]*"
    if len(token) > 1 and token.startswith("["):
        body = token[1:-1].replace("\\", "\\\\")
        return f"(?!/)[^{body[1:]}]" if body[0] in "!^" else f"(?!/)[{body}]"
    return re.escape(token[-1])


# --- fetching ---------------------------------------------------------------------------


class Fetcher:
    """Brings bundle and inputs into the tree; what arrives has the promised size and hash, or nothing starts."""

    def __init__(self, store: FileStore, root: str, scratch: str, check: Check) -> None:
        self._store = store
        self._root = root
        self._scratch = scratch
        self._check = check
        self._failed = threading.Event()
        self.bytes_done = 0
        self.bytes_total = 0

    def fetch(self, order: Json) -> None:
        """Everything the order names, then without what it wants removed."""
        bundle = order["bundle"]
        archive = bundle["archive"]
        entries = [*bundle["files"], *order["inputs"]]
        self.bytes_total = sum(entry["size"] for entry in [*entries, *([archive] if archive else [])])
        os.makedirs(self._root, exist_ok=True)
        if archive:
            self._unpack(archive)
        self._all(bundle["files"])
        for link in bundle["links"]:
            self._link(link["path"], link["target"])
        self._all(order["inputs"])
        for path in order["remove"]:
            _remove(inside(self._root, path))

    def _unpack(self, archive: Json) -> None:
        name = os.path.join(self._scratch, "bundle.tar.gz")
        self._copy(archive, name)
        try:
            with tarfile.open(name) as tar:
                for member in tar:
                    self._check()
                    self._extract(tar, member)
        except (tarfile.TarError, EOFError) as error:
            raise Refused(f"{archive['path']}: the bundle is not a readable archive: {error}") from error
        except OSError as error:
            raise _disk(archive["path"], error) from error
        os.unlink(name)

    def _extract(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        # Not extractall: its safe filter is not in every Python that a machine may have.
        path = inside(self._root, posixpath.normpath(member.name))
        if member.isdir():
            os.makedirs(path, exist_ok=True)
        elif member.issym():
            self._link(member.name, member.linkname)
        elif member.isreg():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None
            with source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, MIB)
            os.chmod(path, member.mode & 0o777)
        else:
            raise Refused(f"{member.name!r} in the bundle is neither a file, a folder nor a link")

    def _link(self, path: str, target: str) -> None:
        full = inside(self._root, posixpath.normpath(path))
        inside(self._root, posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if os.path.lexists(full):
            _remove(full)
        os.symlink(target, full)

    def _all(self, entries: list[Json]) -> None:
        for entry in entries:  # one thread makes the folders, so that eight need not agree
            os.makedirs(os.path.dirname(inside(self._root, entry["path"])), exist_ok=True)
        with ThreadPoolExecutor(FETCHERS) as pool:
            jobs = [pool.submit(self._place, entry) for entry in entries]
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            self._failed.set()
            for job in jobs:
                job.cancel()
        self._failed.clear()
        for error in filter(None, (job.exception() for job in done)):
            raise error

    def _place(self, entry: Json) -> None:
        self._copy(entry, inside(self._root, entry["path"]))

    def _copy(self, entry: Json, target: str) -> None:
        temporary = f"{target}#{secrets.randbelow(10**15)}"
        try:
            with self._source(entry) as source, open(temporary, "xb") as file:
                self._verified(entry, source, file)
            os.chmod(temporary, entry["mode"])
            os.replace(temporary, target)
        except OSError as error:
            raise _disk(entry["path"], error) from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _source(self, entry: Json) -> BinaryIO:
        name = entry["source"]
        try:
            return FileStore(name).open("") if "://" in name else self._store.open(name)
        except OSError as error:
            raise Refused(f"{entry['path']}: expected {entry['hash']} at {name}, {error.strerror}") from error

    def _verified(self, entry: Json, source: BinaryIO, target: BinaryIO) -> None:
        kind, _, wanted = entry["hash"].partition(":")
        digest, size = hashlib.new(kind), 0
        for chunk in _chunks(source, self._go_on):
            digest.update(chunk)
            target.write(chunk)
            size += len(chunk)
            self.bytes_done += len(chunk)
        if size != entry["size"]:
            raise Refused(f"{entry['path']}: expected {entry['size']} bytes at {entry['source']}, found {size}")
        if digest.hexdigest() != wanted:
            raise Refused(f"{entry['path']}: expected {entry['hash']}, {entry['source']} has {digest.hexdigest()}")

    def _go_on(self) -> None:
        if self._failed.is_set():
            raise Late
        self._check()


def _disk(path: str, error: OSError) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(f"{path}: the machine's disk is full")
    return Refused(f"{path}: cannot be written here: {error.strerror or error}")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


# --- the log ----------------------------------------------------------------------------


class Mask:
    """Replaces secret values in a stream of bytes, also where a value spans two chunks."""

    def __init__(self, values: Iterable[str]) -> None:
        # A rank's prefix may split a value of several lines, so each line counts on its own.
        texts = list(values)
        shown = {text.strip() for text in texts if len(text.strip()) >= 4}
        shown |= {line.strip() for text in texts for line in text.splitlines() if len(line.strip()) >= 8}
        self._secrets = sorted((text.encode(errors="surrogateescape") for text in shown), key=len, reverse=True)
        self._regex = re.compile(b"|".join(map(re.escape, self._secrets)))
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream so far can be shown."""
        if not self._secrets:
            return chunk
        text = self._held + chunk
        cut = self._cut(text)
        self._held = text[cut:]
        return self.whole(text[:cut])

    def close(self) -> bytes:
        """What was held back."""
        held, self._held = self._held, b""
        return self.whole(held)

    def whole(self, text: bytes) -> bytes:
        """A complete text, masked."""
        return self._regex.sub(b"***", text) if self._secrets else text

    def _cut(self, text: bytes) -> int:
        """Where a secret may have begun that is not over yet."""
        longest = len(self._secrets[0])
        first = max(0, len(text) - longest + 1)
        cut = next((at for at in range(first, len(text)) if self._open(text[at:])), len(text))
        for match in self._regex.finditer(text, max(0, cut - longest)):
            if match.start() < cut < match.end():
                return match.start()
        return cut

    def _open(self, end: bytes) -> bool:
        return any(len(secret) > len(end) and secret.startswith(end) for secret in self._secrets)


class Log:
    """What the script prints, cut into create-only segments, in the order in which it came.

    One thread reads the pipe, another writes the store; between them at most 64 MiB wait
    while the store does not answer, then the script does.
    """

    SEGMENT = MIB
    LIMIT = 64 * MIB
    SILENCE_S = 1.0
    DRAIN_S = 10.0
    KEPT = 64 << 10

    def __init__(self, store: FileStore, prefix: str, mask: Mask) -> None:
        self._store = store
        self._prefix = prefix
        self._mask = mask
        self._reading, self.pipe = os.pipe()
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            fcntl.fcntl(self.pipe, 1031, MIB)  # F_SETPIPE_SZ: fewer, larger reads
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._oldest = 0.0
        self._closed = False
        self._abandoned = threading.Event()
        self._over: float | None = None
        self._tail = b""
        self.segments = 0
        self.bytes = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._writer = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        """Begin to read; the script holds the other end of the pipe now."""
        os.close(self.pipe)
        self._reader.start()
        self._writer.start()

    def finish(self, seconds: float) -> bool:
        """Read to the end, or to a second of silence when a stranger holds the pipe. False when bytes were lost."""
        until = time.monotonic() + max(seconds, 0.5)
        self._over = time.monotonic()
        self._reader.join(until - time.monotonic())
        self._writer.join(max(0.0, until - time.monotonic()))
        whole = not self._writer.is_alive()
        self._abandoned.set()
        return whole

    def tail(self) -> bytes:
        """The last bytes, masked."""
        return self._tail

    def _read(self) -> None:
        heard = time.monotonic()
        while not self._abandoned.is_set():
            if select.select([self._reading], [], [], 0.1)[0]:
                chunk = os.read(self._reading, MIB // 4)
                if not chunk:
                    break
                heard = time.monotonic()
                self._add(self._mask.feed(chunk))
            if self._drained(heard):
                break
        self._add(self._mask.close())
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _drained(self, heard: float) -> bool:
        if self._over is None:
            return False
        now = time.monotonic()
        return now - max(heard, self._over) > self.SILENCE_S or now - self._over > self.DRAIN_S

    def _add(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._tail = (self._tail + chunk)[-self.KEPT :] if len(chunk) < self.KEPT else chunk[-self.KEPT :]
        with self._changed:
            while self._size > self.LIMIT and not self._abandoned.is_set():
                self._changed.wait(1.0)
            if not self._waiting:
                self._oldest = time.monotonic()
            self._waiting.append(chunk)
            self._size += len(chunk)
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            body = self._next()
            if not body:
                return
            self._persist(body)

    def _next(self) -> bytes:
        """The next segment once it is due; empty at the end."""
        with self._changed:
            while not self._closed and not self._due():
                left = self._interval() - (time.monotonic() - self._oldest)
                self._changed.wait(max(left, 0.001) if self._waiting else None)
            chunks, size = [], 0
            while self._waiting and size < self.SEGMENT:
                chunks.append(self._waiting.popleft())
                size += len(chunks[-1])
            self._size -= size
            self._oldest = time.monotonic()
            self._changed.notify_all()
        return b"".join(chunks)

    def _due(self) -> bool:
        aged = bool(self._waiting) and time.monotonic() - self._oldest >= self._interval()
        return self._size >= self.SEGMENT or aged

    def _interval(self) -> float:
        # A young log is watched by somebody; an old one should not become a million objects.
        return min(2.0, max(0.25, self.segments / 160))

    def _persist(self, body: bytes) -> None:
        pause = 0.1
        while not self._abandoned.is_set():
            try:
                self._store.create(f"{self._prefix}/{self.segments:08d}", body)
            except Exists:
                self.segments += 1
            except OSError as error:
                say(f"log segment {self.segments} waits: {error}")
                self._abandoned.wait(pause)
                pause = min(pause * 2, 10.0)
            else:
                self.segments += 1
                self.bytes += len(body)
                return


# --- outputs and checkpoints ------------------------------------------------------------


class Sign(NamedTuple):
    """What tells two states of a file apart without reading it."""

    size: int
    mtime_ns: int
    inode: int


CACHES = {"__pycache__", ".git", "node_modules"}


def scan(root: str, everything_below: Iterable[str], unnamed: dict[str, str]) -> dict[str, Sign]:
    """The regular files of a tree, without caches and virtual environments except where all is wanted.

    A link is followed when its target lies in the tree; a folder by way of one link only.
    Into `unnamed` go names that are no text: they fit in no manifest.
    """
    wanted = list(everything_below)
    real_root = os.path.realpath(root)
    found: dict[str, Sign] = {}
    todo = [("", False)]
    while todo:
        folder, linked = todo.pop()
        entries = _listing(os.path.join(root, folder))
        all_of_it = any(below(folder, name) for name in wanted)
        if folder and not all_of_it and any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if not _is_text(entry.name):
                unnamed[ascii(path)] = "its name is no UTF-8"
                continue
            state = _state(entry, real_root)
            if state is None or not (all_of_it or path in wanted or not _cache(path)):
                continue
            if stat.S_ISREG(state.st_mode):
                found[path] = Sign(state.st_size, state.st_mtime_ns, state.st_ino)
            elif stat.S_ISDIR(state.st_mode) and not (linked and entry.is_symlink()):
                todo.append((path, linked or entry.is_symlink()))
    return found


def _listing(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _state(entry: os.DirEntry[str], real_root: str) -> os.stat_result | None:
    """The file's state, of a link's target only when that lies in the tree and not above the link."""
    try:
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if not below(real, real_root) or below(os.path.realpath(os.path.dirname(entry.path)), real):
                return None
        return entry.stat()
    except OSError:
        return None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cache(path: str) -> bool:
    name = posixpath.basename(path)
    return name in CACHES or name.endswith(".pyc") or path.endswith((".dvc/tmp", ".dvc/cache"))


class Committer:
    """Brings what the script writes into the store: blobs by hash, then a manifest that names them."""

    def __init__(self, store: FileStore, place: Place, order: Json, root: str, output: str, until: float) -> None:
        self._store = store
        self._place = place
        self._root = root
        self._output = output
        self._named = order["outputs"]
        self._pace = order["commit_every_s"]
        self._inputs = {entry["path"] for entry in order["inputs"]}
        self._resumed = [entry for entry in order["inputs"] if entry["source"].startswith("machine/")]
        self._ignored = Patterns(order["ignore"])
        self._checkpoint = Patterns(order["checkpoint"])
        self._several = len(order["nodes"]) > 1 and bool(order["checkpoint"])
        self._kept: dict[str, tuple[Sign, Json]] = {}
        self._last: dict[str, list[Json]] = {"out": [], "ckpt": []}
        self._last_checkpoint: dict[str, Sign] = {}
        self._completed = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.until = until  # on the monotonic clock; past it a commit keeps what it has
        self.sequence = {"out": 0, "ckpt": 0}
        self.troubles: dict[str, str] = {}  # what a later try may cure
        self.left_out: dict[str, str] = {}  # what none will
        self._before = self._scan()

    def start(self) -> None:
        """Commit from time to time from now on."""
        self._thread.start()

    def stable(self, until: float) -> None:
        """Commit what is stable while the script runs, and be done by `until`."""
        self._take_over(until)
        self._commit(QUIET_S)

    def final(self, until: float, torn: bool) -> None:
        """Commit everything, retried while the store fails.

        `torn`: the writer was killed, so what it wrote last is no checkpoint.
        """
        self._take_over(until)
        patience = min(until, time.monotonic() + self._store.patience_s)
        for pause in itertools.chain((0.2, 0.5, 1.0, 2.0), itertools.repeat(5.0)):
            self._commit(QUIET_S if torn else 0.0, time.time())
            if not self.troubles or time.monotonic() + pause > patience:
                return
            time.sleep(pause)

    def _take_over(self, until: float) -> None:
        self.until = until
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(max(0.0, until - time.monotonic()))

    def settle(self, seconds: float) -> None:
        """Let the newest checkpoint become complete over all nodes; rank 0's node waits for the others."""
        until = min(self.until, time.monotonic() + seconds)
        while self._several and time.monotonic() < until:
            self._sync(0.0)
            first = self._place.first
            if self._completed == self.sequence["ckpt"] if self._place.rank == 0 else first.exists("exit.json"):
                return
            time.sleep(0.1)

    def _run(self) -> None:
        due = time.monotonic() + self._pace
        while not self._over.wait(min(1.0, self._pace) if self._several else self._pace):
            with contextlib.suppress(OSError):
                self._sync(QUIET_S)
            if time.monotonic() >= due:
                self._commit(QUIET_S)
                due = time.monotonic() + self._pace

    def _commit(self, quiet: float, now: float | None = None) -> None:
        if not self._lock.acquire(timeout=max(0.0, self.until - time.monotonic())):
            return
        try:
            self.troubles = {}
            found = self._scan()
            changed = {path: sign for path, sign in found.items() if self._before.get(path) != sign}
            if self._place.rank == 0:
                self._lead(self._checkpoints(changed), quiet, now)
            self._outputs(found, changed)
        except OSError as error:
            self.troubles["the manifest"] = str(error)
        finally:
            self._lock.release()
            for what, why in self.troubles.items():
                say(f"not committed now: {what}: {why}")

    def _scan(self) -> dict[str, Sign]:
        return scan(self._root, [self._output, *(self._named or ())], self.left_out)

    def _outputs(self, found: dict[str, Sign], changed: dict[str, Sign]) -> None:
        entries = []
        for path in sorted(found):
            if self._is_output(path, path in changed):
                entry = self._entry(path, found[path])
                entries += [] if entry is None else [entry]
        if entries != self._last["out"]:
            self._manifest("out", entries)

    def _is_output(self, path: str, changed: bool) -> bool:
        if self._named is not None and any(below(path, posixpath.normpath(name)) for name in self._named):
            return True
        if not changed:
            return False
        if below(path, self._output) or self._checkpoint.match(path):
            return True
        return self._named is None and path not in self._inputs and not self._ignored.match(path)

    def _entry(self, path: str, sign: Sign) -> Json | None:
        """The manifest's line for this state of the file, or for the last one that could be kept."""
        known = self._kept.get(path)
        if known is None or known[0] != sign:
            try:
                known = self._keep(path, sign) or known
            except Late:
                self.troubles[path] = "the time was over"
            except (FileNotFoundError, NotADirectoryError):
                pass  # gone since the scan
            except PermissionError:
                self.left_out[path] = "it cannot be read"
            except OSError as error:
                self.troubles[path] = error.strerror or str(error)
        return known[1] if known else None

    def _keep(self, path: str, sign: Sign) -> tuple[Sign, Json] | None:
        full = os.path.join(self._root, path)
        with open(full, "rb") as file:
            before = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns, before.st_ino) != sign:
                return None
            digest, size = self._store.keep(self._place.blobs, file, self._in_time)
        after = os.stat(full)
        if (after.st_size, after.st_mtime_ns, after.st_ino) != sign or size != sign.size:
            return None
        source = f"{self._place.blobs}/{digest}"
        mode = stat.S_IMODE(before.st_mode)
        self._kept[path] = (
            sign,
            {"path": path, "hash": f"sha256:{digest}", "size": size, "mode": mode, "source": source},
        )
        return self._kept[path]

    def _in_time(self) -> None:
        if time.monotonic() > self.until:
            raise Late

    def _manifest(self, what: str, entries: list[Json]) -> None:
        while True:
            number = self.sequence[what] + 1
            body = {"sequence": number, "at": time.time(), "files": entries}
            with contextlib.suppress(Exists):
                self._store.create(self._place.key(f"{what}/{number:08d}.json"), dump(body), durable=True)
                break
            self.sequence[what] = number
        self.sequence[what] = number
        self._last[what] = entries

    # Rank 0's node numbers the checkpoints; the others commit theirs under the same number.

    def _checkpoints(self, changed: dict[str, Sign]) -> dict[str, Sign]:
        return {path: sign for path, sign in changed.items() if self._checkpoint.match(path)}

    def _lead(self, files: dict[str, Sign], quiet: float, now: float | None) -> None:
        if files and files != self._last_checkpoint:
            entries = self._whole(files, quiet, now)
            if entries is not None:
                self._manifest("ckpt", entries)
                self._last_checkpoint = files
        self._complete()

    def _whole(self, files: dict[str, Sign], quiet: float, now: float | None = None) -> list[Json] | None:
        """The checkpoint's lines, when none of its files is still being written."""
        now_ns = int((now or time.time()) * 1e9)
        if any(now_ns - sign.mtime_ns < quiet * 1e9 for sign in files.values()):
            return None
        if being_written() & {sign.inode for sign in files.values()}:
            return None
        entries = [self._entry(path, sign) for path, sign in sorted(files.items())]
        if any(self._kept[path][0] != sign for path, sign in files.items() if path in self._kept):
            return None
        if any(entry is None for entry in entries):
            return None
        # What an earlier attempt left and this one did not touch is part of it.
        return [entry for entry in entries if entry] + [e for e in self._resumed if e["path"] not in files]

    def _complete(self) -> None:
        while self._completed < self.sequence["ckpt"]:
            number = self._completed + 1
            if not all(node.exists(f"ckpt/{number:08d}.json") for node in self._place.nodes):
                return
            body = {"sequence": number, "at": time.time(), "nodes": len(self._place.nodes)}
            with contextlib.suppress(Exists):
                self._store.create(self._place.key(f"commit/{number:08d}.json"), dump(body), durable=True)
            self._completed = number

    def _sync(self, quiet: float) -> None:
        if not self._several:
            return
        with self._lock:
            if self._place.rank == 0:
                self._complete()
            while self._place.rank > 0 and self._place.first.exists(f"ckpt/{self.sequence['ckpt'] + 1:08d}.json"):
                found = self._scan()
                changed = {path: sign for path, sign in found.items() if self._before.get(path) != sign}
                entries = self._whole(self._checkpoints(changed), quiet)
                if entries is None:
                    return
                self._manifest("ckpt", entries)


class Place:
    """Where this node's objects lie in the store, and the other nodes'."""

    def __init__(self, store: FileStore, boot: Json, node: int) -> None:
        self._store = store
        run = f"{boot['project']}/{boot['run']}"
        self._attempt = f"machine/{run}/{boot['attempt']}"
        self._lease = boot["lease"]
        self.node = node
        self.rank = 0
        self.name = f"{boot['lease']}-n{node}"
        self.blobs = f"machine/{run}/blob"
        self.order = f"control/{run}/order/{boot['attempt']}.json"
        self.stop = f"control/{run}/stop.json"
        self.nodes: list[Peer] = []

    def rank_by(self, names: list[str]) -> None:
        """Take this machine's rank from the order's list of machine names."""
        if self.name not in names:
            raise Refused(f"the order is for {', '.join(names)} and not for {self.name}")
        self.rank = names.index(self.name)
        self.nodes = [Peer(self._store, f"{self._attempt}/{name.rpartition('-n')[2]}") for name in names]

    @property
    def first(self) -> Peer:
        """The node that holds rank 0."""
        return self.nodes[0]

    @property
    def others(self) -> list[Peer]:
        """Every node but this one."""
        return [peer for rank, peer in enumerate(self.nodes) if rank != self.rank]

    def key(self, name: str) -> str:
        """The key of one of this node's objects."""
        return f"{self._attempt}/{self.node}/{name}"


class Peer:
    """One node's objects, to be looked at."""

    def __init__(self, store: FileStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def exists(self, name: str) -> bool:
        """Whether the node has written this."""
        return self._store.exists(f"{self._prefix}/{name}")

    def failure(self) -> str | None:
        """What ended the node, unless it is alive or its script succeeded."""
        body = self._store.find(f"{self._prefix}/exit.json")
        if body is None:
            return None
        end = json.loads(body)
        if end["reason"] == "exited" and end["exit_code"] == 0:
            return None
        return f"node {end['node']} ended first: {end['message'] or end['reason']}"


def dump(record: Json) -> bytes:
    """A record as the control side reads it."""
    return json.dumps(record, indent=1).encode()


# --- processes --------------------------------------------------------------------------


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    parent: int
    dead: bool


def own_proc() -> bool:
    """Whether /proc is there and numbers processes as we do: a namespace may have kept its parent's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def processes() -> list[Process]:
    """Every process that /proc shows."""
    if not own_proc():
        return []
    return [entry for entry in map(_process, os.listdir("/proc")) if entry is not None]


def _process(name: str) -> Process | None:
    if not name.isdigit():
        return None
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(int(name), int(fields[1]), fields[0] in b"ZX")


def descendants(root: int) -> list[int]:
    """The living processes below one, parents first."""
    children: dict[int, list[Process]] = {}
    for entry in processes():
        children.setdefault(entry.parent, []).append(entry)
    found, todo = [], deque([root])
    while todo:
        for child in children.get(todo.popleft(), ()):
            todo.append(child.pid)
            if not child.dead:
                found.append(child.pid)
    return found


def marked(mark: str) -> list[int]:
    """The living processes that carry our mark and are neither this one nor above it."""
    table = {entry.pid: entry for entry in processes()}
    above, pid = set(), os.getpid()
    while pid in table:
        above.add(pid)
        pid = table[pid].parent
    return [pid for pid, entry in table.items() if pid not in above and not entry.dead and _carries(pid, mark)]


def _carries(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark.encode() in file.read().split(b"\0")
    except OSError:
        return False


def being_written() -> set[int]:
    """The inodes that a process below this one has open for writing."""
    files = (f"/proc/{pid}/fd/{number}" for pid in descendants(os.getpid()) for number in _open_files(pid))
    return {inode for inode in map(_written_inode, files) if inode}


def _open_files(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return []


def _written_inode(file: str) -> int | None:
    try:
        with open(file.replace("/fd/", "/fdinfo/")) as info:
            flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags:"))
        return None if flags & os.O_ACCMODE == os.O_RDONLY else os.stat(file).st_ino
    except (OSError, StopIteration):
        return None


def catches(pid: int) -> bool:
    """Whether the process handles SIGTERM."""
    try:
        with open(f"/proc/{pid}/status") as file:
            mask = next(line for line in file if line.startswith("SigCgt")).split()[1]
    except (OSError, StopIteration):
        return False
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def catchers(roots: Iterable[int]) -> list[int]:
    """From each root downwards the first processes that handle SIGTERM.

    Not those below them: a loader worker ended by our signal would look to its parent
    like a crash, in the middle of the checkpoint that we ask for.
    """
    if not own_proc():
        return list(roots)
    children: dict[int, list[int]] = {}
    for entry in processes():
        if not entry.dead:
            children.setdefault(entry.parent, []).append(entry.pid)
    found, todo = [], list(roots)
    while todo:
        pid = todo.pop()
        if catches(pid):
            found.append(pid)
        else:
            todo += children.get(pid, [])
    return found


def send(pids: Iterable[int], number: int) -> None:
    """A signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def become_subreaper() -> None:
    """Orphans of the script become our children, so that a double fork hides nothing."""
    _prctl(36, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# --- the script -------------------------------------------------------------------------

PASSED = "PATH HOME USER LOGNAME SHELL LANG TZ TMPDIR LD_LIBRARY_PATH XDG_CACHE_HOME"
PASSED += " SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE"
PASSED += " http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_")


def environment(order: Json, place: Place, cwd: str) -> dict[str, str]:
    """What the script sees: little of ours, what the order says, its secrets, and torchrun's variables."""
    names = PASSED.split()
    env = {k: v for k, v in os.environ.items() if k in names or k.startswith(PASSED_PREFIXES)}
    env["PATH"] = os.pathsep.join([*order["path"], env.get("PATH", os.defpath)])
    env["PYTHONUNBUFFERED"] = "1"
    env.update(order["environment"])
    for name in order["secrets"]:
        if name not in os.environ:
            raise Refused(f"the secret {name} is not set on this machine")
        env[name] = os.environ[name]
    env.update(
        SOJOURN_RUN=order["run"],
        SOJOURN_ATTEMPT=str(order["attempt"]),
        SOJOURN_OUTPUT_DIR=os.path.join(cwd, "outputs"),
        SOJOURN_MACHINE=place.name,
    )
    if not wrapped(order):
        env.update(_rendezvous(order, place.rank))
    return env


def _rendezvous(order: Json, rank: int) -> dict[str, str]:
    master = {"MASTER_ADDR": order["master_address"], "MASTER_PORT": str(order["master_port"])}
    if len(order["nodes"]) > 1:
        return {"NODE_RANK": str(rank), "NNODES": str(len(order["nodes"])), **master}
    if order["command"]["processes"] != 1:
        return {}
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", **master}


def wrapped(order: Json) -> bool:
    """Whether torchrun starts the command."""
    command = order["command"]
    return command["wrap"] is not None and (command["processes"] != 1 or len(order["nodes"]) > 1)


def command_line(order: Json, rank: int, records: str) -> list[str]:
    """The words that are started on this node."""
    command = order["command"]
    argv = list(command["argv"])
    if command["shell"]:
        return ["/bin/sh", "-c", argv[0]]
    if not wrapped(order):
        return argv
    at = command["wrap"]
    nodes = ["--standalone", "--nnodes", "1"]
    if len(order["nodes"]) > 1:
        nodes = ["--nnodes", str(len(order["nodes"])), "--node_rank", str(rank)]
        nodes += ["--master_addr", order["master_address"], "--master_port", str(order["master_port"])]
    # Underscores, not hyphens: every torchrun knows them.
    torchrun = ["-m", "torch.distributed.run", *nodes, "--nproc_per_node", str(command["processes"]), "--no_python"]
    keeper = [sys.executable, "-I", os.path.abspath(__file__), "rank", "--record", records, "--"]
    return [*argv[:at], argv[at], *torchrun, *keeper, *argv[at:]]


class Script:
    """The user's command and everything that came of it."""

    def __init__(self, argv: list[str], cwd: str, env: dict[str, str], output: int, records: str, umask: int) -> None:
        self._mark = f"SOJOURN_MACHINE={env['SOJOURN_MACHINE']}"
        self._records = records
        self.status: int | None = None
        self.killed = False
        ours = os.umask(umask)
        try:
            self._process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            raise Refused(f"cannot start {argv[0]!r}: {error.strerror}") from error
        finally:
            os.umask(ours)
        self.started_at = time.time()

    def poll(self) -> int | None:
        """The main process's exit status once it has ended; whatever else ended is reaped."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._process.pid:
                    self.status = status
                    self._process.returncode = 0  # ours to reap, not Popen's
        return self.status

    def wait(self, seconds: float, over: Callable[[], bool] = lambda: False) -> None:
        """Until the main process has ended, or `over` says so, or the time is up."""
        until = time.monotonic() + seconds
        while self.poll() is None and not over() and time.monotonic() < until:
            time.sleep(0.02)

    def ranks(self) -> list[Json]:
        """How the ranks ended that have, the first first."""
        ended = [read_json(os.path.join(self._records, name)) for name in _names(self._records, ".json")]
        return sorted((entry for entry in ended if entry), key=lambda entry: (entry["at"], entry["rank"]))

    def tail(self, rank: int) -> bytes:
        """The last bytes that a rank printed itself."""
        try:
            with open(os.path.join(self._records, f"{rank}.tail"), "rb") as file:
                return file.read()
        except OSError:
            return b""

    def stop(self, grace: float) -> None:
        """Ask those who listen, wait for them, then end everything."""
        asked = catchers(self._roots())
        say(f"stopping: SIGTERM to {asked or 'nobody, none of the script handles it'}")
        if asked:
            send(asked, signal.SIGTERM)
            self.wait(grace, lambda: not any(map(_alive, asked)))
            self.wait(1.0)
        if self.poll() is None and asked and catches(self._process.pid):
            send([self._process.pid], signal.SIGTERM)
            self.wait(min(1.0, grace))
        self.end()

    def _roots(self) -> list[int]:
        """The ranks below torchrun, else what was started itself."""
        ours = descendants(os.getpid())
        noted = [int(name.split(".")[0]) for name in _names(self._records, ".pid")]
        # A rank that has ended left a number that may be a stranger's by now.
        return [pid for pid in noted if pid in ours or not own_proc()] or [self._process.pid]

    def end(self) -> None:
        """SIGKILL to the whole tree, stopped first so that none forks away, until none is left."""
        self.killed = self.killed or self.poll() is None
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            left = descendants(os.getpid())
            left = left or marked(self._mark)
            if self.status is None:
                left.append(self._process.pid)
            if not left:
                return
            send(left, signal.SIGSTOP)
            send(left, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self.poll()
            time.sleep(0.005)
        say(f"could not end {left}")


def _alive(pid: int) -> bool:
    if not own_proc():
        return True
    entry = _process(str(pid))
    return entry is not None and not entry.dead


def _names(folder: str, ending: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(ending)]
    except OSError:
        return []


def read_json(path: str) -> Json | None:
    """A file's record, or None while there is none."""
    try:
        with open(path, "rb") as file:
            record: Json = json.loads(file.read())
            return record
    except (OSError, ValueError):
        return None


def decoded(status: int) -> tuple[int, str | None]:
    """An exit status as the shell counts it, and the signal's name."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return 128 + number, signal_name(number)
    return os.WEXITSTATUS(status), None


def signal_name(number: int) -> str:
    """Such as SIGKILL; real-time signals have a number only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# --- one rank, below torchrun -----------------------------------------------------------


class Rank:
    """Stands between torchrun and one rank, to see when and how it ends and what it said last.

    torchrun's own summary names the wrong rank when two die within its 0.1 s poll.
    """

    PIECE = 4096  # a pipe takes this much in one piece, so lines of two ranks do not mix
    KEPT = 64 << 10

    def __init__(self, records: str, argv: list[str]) -> None:
        self._rank = os.environ.get("RANK", "0")
        self._records = records
        alone = os.environ.get("WORLD_SIZE", "1") == "1"
        self._prefix = b"" if alone else f"[rank {self._rank}] ".encode()
        self._argv = argv
        self._partial = b""
        self._midline = False
        self._tail = b""
        self._ended: tuple[float, int] | None = None

    def run(self) -> int:
        """Start the rank, relay what it prints, and end as it ends."""
        os.makedirs(self._records, exist_ok=True)
        reading, writing = os.pipe()
        self._wake, self._waker = os.pipe()
        try:
            child = subprocess.Popen(self._argv, stdout=writing, stderr=writing, preexec_fn=_die_with_parent)
        except OSError as error:
            os.write(1, f"cannot start {self._argv[0]!r}: {error.strerror}\n".encode())
            self._record(127, b"")
            return 127
        os.close(writing)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda got, _frame: send([child.pid], got))
        self._write(f"{self._rank}.pid.new", str(child.pid).encode())
        os.rename(self._name(f"{self._rank}.pid.new"), self._name(f"{child.pid}.pid"))
        threading.Thread(target=self._await, args=(child,), daemon=True).start()
        self._relay(reading)
        return self._end()

    def _await(self, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        self._ended = (time.time(), code)
        os.write(self._waker, b".")

    def _relay(self, reading: int) -> None:
        while True:
            ready = select.select([reading] if self._ended else [reading, self._wake], [], [], 0.3)[0]
            if reading in ready:
                chunk = os.read(reading, 1 << 16)
                if not chunk:
                    break
                self._tail = (self._tail + chunk)[-self.KEPT :]
                self._lines(chunk)
            elif not ready:
                self._flush()
                if self._ended:  # a daemon of the rank may hold the pipe for ever
                    break
            if self._ended:
                self._note()
        self._flush()
        while self._ended is None:
            time.sleep(0.005)

    def _lines(self, chunk: bytes) -> None:
        """Relay whole lines in pieces that a pipe takes at once; a bar's carriage return ends a line too."""
        lines = re.split(rb"(?<=\n)|(?<=\r)(?=[^\n])", self._partial + chunk)
        self._partial = lines.pop()
        piece = b""
        for line in lines:
            if len(piece) + len(line) > self.PIECE:
                self._out(piece)
                piece = b""
            piece += line if self._midline else self._prefix + line
            self._midline = False
        self._out(piece)
        if len(self._partial) > self.KEPT:
            self._flush()

    def _flush(self) -> None:
        """Relay the unfinished line as it is."""
        if self._partial:
            self._out(self._partial if self._midline else self._prefix + self._partial)
            self._partial, self._midline = b"", True

    def _out(self, piece: bytes) -> None:
        while piece:
            piece = piece[os.write(1, piece) :]

    def _note(self) -> None:
        """The record of the end, as soon as it is known: others wait for it."""
        assert self._ended is not None
        if not os.path.exists(self._name(f"{self._rank}.json")):
            self._record(self._ended[1], self._tail, self._ended[0])

    def _record(self, code: int, tail: bytes, at: float | None = None) -> None:
        name = signal_name(-code) if code < 0 else None
        shell = 128 - code if code < 0 else code
        record = {"rank": int(self._rank), "exit_code": shell, "signal": name, "at": at or time.time()}
        self._write(f"{self._rank}.tail", tail)
        self._write(f"{self._rank}.new", dump(record))
        os.rename(self._name(f"{self._rank}.new"), self._name(f"{self._rank}.json"))

    def _end(self) -> int:
        assert self._ended is not None
        code = self._ended[1]
        self._record(code, self._tail, self._ended[0])
        if code >= 0:
            return code
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        time.sleep(1.0)
        return 128 - code

    def _name(self, name: str) -> str:
        return os.path.join(self._records, name)

    def _write(self, name: str, body: bytes) -> None:
        with open(self._name(name), "wb") as file:
            file.write(body)


def _die_with_parent() -> None:
    _prctl(1, signal.SIGKILL)


# --- the agent --------------------------------------------------------------------------


class Agent:
    """One machine's part of one attempt, from hello to exit."""

    def __init__(self, boot: Json, node: int, scratch: str, address: str) -> None:
        self._boot = boot
        self._deadline = Deadline(boot["deadline_at"])
        self._grace: float = boot["grace_s"]
        self._store = FileStore(boot["store"])
        self._place = Place(self._store, boot, node)
        self._address = address
        self._scratch = os.path.abspath(scratch)
        self._root = os.path.join(self._scratch, "tree")
        self._records = os.path.join(self._scratch, "ranks")
        self._phase = "waiting"
        self._fetcher: Fetcher | None = None
        self._signal: str | None = None
        self._beats = itertools.count(1)
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._finished = threading.Event()
        self._end_by: float | None = None
        self._next_look = {"stop": 0.0, "peer": 0.0}
        self._look_lock = threading.Lock()
        self._exit: Json = {"node": node, "reason": "refused", "message": None}
        self._umask = os.umask(0o077)
        self._wake, waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def run(self) -> int:
        """All phases; 0 when the exit record is in the store."""
        self._listen()
        try:
            self._hello()
            self._heart.start()
            order = self._await_order()
            script, log, committer = self._start(order)
        except Stop as stop:
            self._exit.update(reason=stop.reason, message=stop.message)
        except Refused as refusal:
            self._exit["message"] = str(refusal)
        except Exception as error:
            self._exit["message"] = f"the agent failed before the start: {error!r}"
        else:
            self._see_through(script, log, committer)
        return self._say_exit()

    # -- waiting --

    def _listen(self) -> None:
        become_subreaper()
        signal.signal(signal.SIGTERM, self._asked)
        signal.signal(signal.SIGINT, self._asked)
        # Handlers, not SIG_IGN: the script would inherit that.
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _asked(self, number: int, _frame: Any) -> None:
        self._signal = signal_name(number)

    def _hello(self) -> None:
        hello = {
            "name": self._place.name,
            "node": self._place.node,
            "address": self._address,
            "port": free_port(self._address),
            "clock": time.time(),
            "cpus": cpus(),
            "memory": memory(),
            "gpus": gpus(),
            "python": platform.python_version(),
            "version": VERSION,
        }
        self._insist(lambda: self._store.put(self._place.key("hello.json"), dump(hello)))

    def _insist(self, write: Callable[[], None]) -> None:
        """A write that is retried for as long as an order is waited for."""
        pause = 0.1
        until = time.monotonic() + self._boot["order_wait_s"]
        while True:
            try:
                return write()
            except OSError as error:
                say(f"the store does not take it: {error}")
                if time.monotonic() > until:
                    raise Refused(f"the store cannot be written: {error.strerror}") from error
            self._check()
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _await_order(self) -> Json:
        pause = 0.05
        until = time.monotonic() + self._boot["order_wait_s"]
        while True:
            body = self._store.find(self._place.order)
            if body is not None:
                break
            self._check()
            if time.monotonic() > until:
                raise Refused(f"no order came within {self._boot['order_wait_s']:g} s")
            self._sleep(pause)
            pause = min(pause * 1.2, 1.0)
        order: Json = json.loads(body)
        self._deadline.lower(order["deadline_at"])
        self._grace = order["grace_s"]
        self._place.rank_by(order["nodes"])
        return order

    def _beat(self) -> None:
        self._beat_once()
        while not self._finished.wait(BEAT_S):
            self._beat_once()

    def _beat_once(self) -> None:
        done, total = (self._fetcher.bytes_done, self._fetcher.bytes_total) if self._fetcher else (0, 0)
        beat = {"count": next(self._beats), "at": time.time(), "phase": self._phase}
        beat.update(bytes_done=done, bytes_total=total)
        try:
            self._store.put(self._place.key("beat.json"), dump(beat))
        except OSError as error:
            say(f"no beat: {error}")

    # -- reasons to stop --

    def _check(self) -> None:
        """Raises Stop when there is a reason to."""
        if self._signal:
            raise Stop("stopped", f"the machine was asked to end by {self._signal}")
        if self._deadline.left() <= 0:
            raise Stop("deadline", "the deadline came")
        if self._turn("stop", STOP_POLL_S):
            body = self._store.find(self._place.stop)
            if body is not None:
                raise Stop("stopped", f"stop was requested: {json.loads(body)['reason']}")

    def _check_peers(self) -> None:
        if self._place.others and self._turn("peer", PEER_POLL_S):
            for failure in filter(None, (peer.failure() for peer in self._place.others)):
                raise Stop("peer", failure)

    def _turn(self, what: str, every: float) -> bool:
        with self._look_lock:
            due = time.monotonic() >= self._next_look[what]
            if due:
                self._next_look[what] = time.monotonic() + every
            return due

    def _sleep(self, seconds: float) -> None:
        """Sleep, but wake for a signal or an ended child."""
        select.select([self._wake], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 4096)

    # -- fetching and starting --

    def _start(self, order: Json) -> tuple[Script, Log, Committer]:
        cwd = os.path.join(self._root, order["bundle"]["directory"])
        cwd = os.path.normpath(cwd)
        env = environment(order, self._place, cwd)
        self._phase = "fetching"
        self._fetcher = Fetcher(self._store, self._root, self._scratch, self._check)
        self._fetcher.fetch(order)
        inside(self._root, posixpath.join(order["bundle"]["directory"], "outputs"))
        os.makedirs(env["SOJOURN_OUTPUT_DIR"], exist_ok=True)
        output = os.path.relpath(env["SOJOURN_OUTPUT_DIR"], self._root)
        committer = Committer(self._store, self._place, order, self._root, output, self._latest())
        self._mask = Mask([env[name] for name in order["secrets"]])
        log = Log(self._store, self._place.key("log"), self._mask)
        self._check()
        argv = command_line(order, self._place.rank, self._records)
        script = Script(argv, cwd, env, log.pipe, self._records, self._umask)
        log.start()
        committer.start()
        self._cwd = cwd
        self._phase = "running"
        say(f"started {argv[0]!r} as node rank {self._place.rank}")
        return script, log, committer

    def _latest(self) -> float:
        """When, on the monotonic clock, the last commit must be over."""
        left = self._deadline.left() + self._grace if self._end_by is None else self._end_by - time.monotonic()
        return time.monotonic() + max(left - 0.05 * self._grace, 0.2)

    # -- running and committing --

    def _see_through(self, script: Script, log: Log, committer: Committer) -> None:
        """From the start of the script to the last commit; the tree is over in every case."""
        self._exit.update(reason="exited", started_at=script.started_at)
        notes = []
        try:
            self._follow(script)
        except Stop as stop:
            self._exit.update(reason=stop.reason, message=stop.message)
            self._halt(script, committer, stop.reason)
        except Exception as error:
            notes.append(f"the agent failed while the script ran: {error!r}")
        script.end()
        self._exit["ended_at"] = time.time()
        self._phase = "committing"
        try:
            notes += self._commit(script, log, committer)
        except Exception as error:
            notes.append(f"the last commit failed: {error!r}")
        self._describe(script, log, committer, notes)

    def _follow(self, script: Script) -> None:
        failed_at = None
        while script.poll() is None:
            self._check()
            self._check_peers()
            if failed_at is None and any(rank["exit_code"] for rank in script.ranks()):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > RANKS_END_S:
                say("a rank failed and the others do not end")
                return
            self._sleep(0.1)

    def _halt(self, script: Script, committer: Committer, reason: str) -> None:
        now = time.monotonic()
        self._end_by = now + self._grace + min(0.0, self._deadline.left())
        if reason == "peer":
            script.stop(PEER_GRACE_S)
            return
        committer.stable(now + 0.1 * self._grace)
        script.stop(min(0.6 * self._grace, SIGNAL_GRACE_S))

    def _commit(self, script: Script, log: Log, committer: Committer) -> list[str]:
        notes = []
        if not os.path.isdir(self._cwd):
            notes.append("the script removed its own working directory")
        if not log.finish(min(self._latest() - time.monotonic(), self._store.patience_s)):
            notes.append("the end of the log could not be stored")
        if os.path.isdir(self._root):
            torn = script.killed or script.status is None or os.WIFSIGNALED(script.status)
            committer.final(self._latest(), torn)
            failed = self._exit["reason"] == "peer" or (self._exit["reason"] == "exited" and script.status != 0)
            committer.settle(0.5 if failed else 10.0)
        self._exit["lost"] = sorted(committer.troubles)
        lost = {**committer.troubles, **committer.left_out}
        notes += [f"{path} could not be stored: {why}" for path, why in itertools.islice(lost.items(), 3)]
        return notes

    def _describe(self, script: Script, log: Log, committer: Committer, notes: list[str]) -> None:
        ranks = script.ranks()
        failed = next((rank for rank in ranks if rank["exit_code"]), None)
        code, name = decoded(script.status) if script.status is not None else (None, None)
        tail = log.tail()
        if failed is not None:
            code, name = failed["exit_code"], failed["signal"]
            tail = self._mask.whole(script.tail(failed["rank"])) or tail
        by_us = script.killed and failed is None
        if name == "SIGKILL" and self._exit["reason"] == "exited" and not by_us:
            notes.insert(0, "killed by SIGKILL, which nobody of ours sent: often the kernel's out-of-memory killer")
        self._exit.update(
            exit_code=code,
            signal=name,
            ranks=ranks,
            failed_rank=failed["rank"] if failed else None,
            tail=last_lines(tail),
            output=committer.sequence["out"] or None,
            checkpoint=committer.sequence["ckpt"] or None,
            log_segments=log.segments,
            log_bytes=log.bytes,
        )
        self._exit["message"] = "; ".join(filter(None, [self._exit["message"], *notes])) or None

    # -- done --

    def _say_exit(self) -> int:
        self._exit.setdefault("ended_at", time.time())
        self._phase = "done"
        self._finished.set()
        if self._heart.is_alive():
            self._heart.join(1.0)
        self._beat_once()
        say(f"{self._exit['reason']}: {self._exit['message']}")
        until = min(self._latest(), time.monotonic() + self._store.patience_s)
        while True:
            try:
                self._store.create(self._place.key("exit.json"), dump(self._exit), durable=True)
                return 0
            except Exists:
                return 0
            except OSError as error:
                say(f"the exit record cannot be written: {error}")
                if time.monotonic() > until:
                    return 1
            time.sleep(0.5)


def last_lines(text: bytes) -> str:
    """The last 40 lines, or 8 KB, as text."""
    lines = text[-TAIL_BYTES:].decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])


def free_port(address: str) -> int:
    """A port that is free now."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            probe.bind(("", 0))  # an address that is not on an interface of ours, as behind NAT
        port: int = probe.getsockname()[1]
        return port


def cpus() -> int:
    """The processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpus() -> list[str]:
    """The names of the NVIDIA GPUs, none where there is no driver or it does not answer."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]


def main(words: list[str]) -> int:
    """`run` is the agent; `rank` is the little keeper that it puts below torchrun."""
    parser = argparse.ArgumentParser(prog="agent.py", description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--boot", required=True)
    run.add_argument("--node", type=int, required=True)
    run.add_argument("--scratch", required=True)
    run.add_argument("--address", default="127.0.0.1")
    rank = verbs.add_parser("rank")
    rank.add_argument("--record", required=True)
    rank.add_argument("argv", nargs=argparse.REMAINDER)
    given = parser.parse_args(words)
    if given.verb == "rank":
        return Rank(given.record, given.argv[1:] if given.argv[:1] == ["--"] else given.argv).run()
    boot = read_json(given.boot)
    if boot is None:
        say(f"{given.boot} cannot be read")
        return 2
    return Agent(boot, given.node, given.scratch, given.address).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
