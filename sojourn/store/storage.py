"""One small interface over every object store: put, create-only put, get, list, delete.

obstore speaks files and every cloud's buckets with the same calls; what differs stays here and
with the bucket of each cloud (`sojourn.clouds`).
On files a create is a hard link (exactly one winner), and obstore syncs nothing. So records
are written by `sojourn.store.folders`, which also lists: each is on the disk before it has its
name, and all that was sent before it, which it may name, before that. Keys that end in
`#<digits>` are names of what is being written.
https://developmentseed.org/obstore/
"""

from __future__ import annotations

import itertools
import os
import random
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
import obstore.exceptions
import obstore.store

from sojourn.clouds import registry as clouds
from sojourn.decoding import decode
from sojourn.errors import AccessError, SojournError, SpecError, TransientError, UnreadableError, nearest
from sojourn.store import folders, identity
from sojourn.store.identity import Identity, OtherStoreError
from sojourn.store.refusals import cloud_refusal, file_refusal, place_refusal
from sojourn.waiting import Clock, SystemClock

if TYPE_CHECKING:
    from sojourn.clouds.account import Bucket

T = TypeVar("T")
SCHEMES = ("file", *clouds.SCHEMES)
RECORD_LIMIT = 64 << 20  # bytes; the largest real record is a manifest of 100,000 files, a third of it
PATIENCE_S = 60.0  # a store in a cloud may fail in passing for so long
AWAY_S = 10.0  # for a directory that is put back
ANSWER_LIMIT_S = 20.0
REQUEST_PACE_S = 1.0  # between two looks at what changes soon; what changes seldom is looked at less often
PIECE = 8 * 2**20
PIECE_LIMIT_S = 300.0  # at 28 KB/s
LANES = 4  # pieces on their way at once, and in memory
MOST_PARTS = 9000  # of one upload; S3 takes 10,000
DELETED_AT_ONCE = LISTED_AT_ONCE = 1000
SIGNS = {"owner.json", "purge.json"}  # of life: the next one takes their place
TIME = "control/time"  # written to be told when, by stores that say so no other way
ASK_TIME_AFTER_S = 3600.0
CONFIRMED_S = 600.0  # for so long a bucket is taken for the one that it was


class MissingKeyError(KeyError):
    """No object has this key."""


class ExistsError(Exception):
    """A create-only put found an object already there."""


class AwayError(TransientError):
    """A directory that holds runs is not where it was: a disk that is unmounted, a folder that was moved."""


class Store:
    """An object store at a URL such as `file:///home/me/store` or `s3://bucket/prefix`.

    With `expected` it is one that is known to hold runs: a directory that is not there, or shows nothing, was
    unmounted or moved, and is an error, where nothing would be said of a new one. With an `identity` whatever else
    lies at that address is an error too, before anything is read, written or believed.
    """

    def __init__(
        self, url: str, clock: Clock | None = None, expected: bool = False, identity: Identity | None = None
    ) -> None:
        try:
            scheme = urlsplit(url).scheme
        except ValueError as error:
            raise SpecError(f"store: {url!r} is no URL: {error}", hint="write it as s3://bucket/prefix") from None
        if scheme not in SCHEMES:
            raise SpecError(
                f"store: {url!r} is not a store URL, {nearest(scheme, SCHEMES)}",
                hint="write it as s3://bucket/prefix or " + ("file:///absolute/path" if scheme else _as_file(url)),
            )
        self.url = url.rstrip("/")
        self.clock = clock or SystemClock()
        self.expected = expected
        self.identity = identity
        self._confirming = Lock()
        self._confirmed: object = None  # the state of the file, or until when a bucket is believed
        self._seen: int | None = None  # the inode of the directory
        self._settling = Lock()
        self._unsettled: list[str] = []  # written, and perhaps not on the disk yet
        self._told: tuple[float, float] | None = None  # what time it was there, and here since boot
        self.chance = random.Random()  # many that wait for one store should not come back at the same moment
        place = urlsplit(url).netloc
        if scheme != "file" and not place:
            raise SpecError(f"store: {url!r} names no bucket", hint=f"write it as {scheme}://bucket/prefix")
        # A file costs nothing to look at; a request has its price, and a slow store its patience.
        self.pace_s = 0.0 if scheme == "file" else REQUEST_PACE_S
        self.root = Path(unquote(urlsplit(url).path)) if scheme == "file" else None
        if "\0" in unquote(url):
            raise SpecError(f"store: {url!r} holds a null byte, which is in no name", hint="leave %00 out of it")
        if self.root is not None and (place or not self.root.is_absolute()):
            meant = Path(unquote(url.removeprefix("file:").lstrip("/")))
            raise SpecError(f"store: {url!r} has no absolute path", hint=f"try {meant.absolute().as_uri()}")

    def __reduce__(self) -> tuple[type[Store], tuple[str, None, bool, Identity | None]]:
        """An open store does not travel to another process; it is opened there."""
        return Store, (self.url, None, self.expected or self._seen is not None, self.identity)

    @property
    def place(self) -> object:
        """Equal for two addresses of one and the same store: a link to its directory, or a second mount of it."""
        if self.root is None:
            return self.url
        try:
            found = self.root.stat()
        except OSError:
            return self.url
        return found.st_dev, found.st_ino

    def identify(self) -> None:
        """Find out which store this is, and go by that from now on; a store without an identity is given one."""
        if self.identity is None:
            self.identity = self._identified()

    def _identified(self) -> Identity:
        mine = identity.mint(self.clock.now())
        try:
            self.create(identity.KEY, mine.to_bytes())
        except ExistsError:
            try:
                return decode(self.get(identity.KEY), Identity, identity.KEY)
            except UnreadableError:  # what is no identity told nobody anything
                self.put(identity.KEY, mine.to_bytes())
                return decode(self.get(identity.KEY), Identity, identity.KEY)
        return mine

    def put(self, key: str, body: bytes | Path) -> None:
        """Write an object, replacing what was there; a file goes in parts, and never whole into memory."""
        _check_key(key)
        part = max(PIECE, body.stat().st_size // MOST_PARTS if isinstance(body, Path) else 0)

        def put() -> None:
            if self.root is not None and isinstance(body, bytes) and (_is_record(key) or _is_sign(key)):
                folders.write(self._settled(key), key, body, durable=_is_record(key))
                return
            store = self._bulk if isinstance(body, Path) else self._store
            store.put(key, body, chunk_size=part, max_concurrency=LANES)

        self._ask(f"write {key}", put)
        if self.root is not None and not (_is_record(key) or _is_sign(key)):
            self._unsettled.append(key)

    def create(self, key: str, body: bytes) -> None:
        """Write an object that must not exist yet; of many at once exactly one succeeds.

        Raises ExistsError for every other one.
        """
        _check_key(key)
        tries = itertools.count()
        self._ask(f"write {key}", lambda: self._create(key, body, again=next(tries) > 0))

    def copy(self, source: str, key: str) -> None:
        """Have the object `source` under another key too, without its bytes passing through here.

        One that is there stays. Raises MissingKeyError.
        """
        _check_key(key)
        if self.exists(key):
            return
        try:
            if self._bucket is not None:
                self._bucket.copy(source, key)
            else:
                self._ask(f"write {key}", lambda: self._store.copy(source, key))
        except FileNotFoundError:
            raise MissingKeyError(source) from None
        if self.root is not None:
            self._unsettled.append(key)

    def get(self, key: str) -> bytes:
        """The whole object. Raises MissingKeyError."""
        return b"".join(self.stream(key))

    def stream(self, key: str, chunk: int = PIECE, size: int | None = None) -> Iterator[bytes]:
        """The object in pieces of about `chunk` bytes. Raises MissingKeyError.

        Where its `size` is known, an object of another one is an UnreadableError before anything of it is read.
        """
        doing = f"read {key}"
        try:
            if self.root is not None:
                found = self._open(key)
                _check_size(key, found.meta["size"], size)
                pieces = found.stream(min_chunk_size=chunk)
                while (piece := self._ask(doing, lambda: next(pieces, None))) is not None:
                    yield bytes(piece)
                return
            body, meta = self._ask(doing, lambda: _small(self._store, key, chunk, size))
        except FileNotFoundError:
            raise MissingKeyError(key) from None
        if body is not None:
            yield body
        else:
            yield from self._pieces(key, meta, chunk)

    def find(self, key: str) -> bytes | None:
        """The whole object, or None when there is none. Raises UnreadableError when it is larger than any record."""
        found = self._found(key)
        return found[0] if found else None

    def find_dated(self, key: str) -> tuple[bytes, float] | None:
        """The same, and when it was written, by the store's own clock."""
        found = self._found(key)
        return (found[0], found[1]["last_modified"].timestamp()) if found else None

    def _found(self, key: str) -> tuple[bytes, Any] | None:
        try:
            if self.root is not None:
                found = self._open(key)
                body = bytes(found.bytes()) if found.meta["size"] <= RECORD_LIMIT else None
                meta = found.meta
            else:
                body, meta = self._ask(f"read {key}", lambda: _small(self._store, key, RECORD_LIMIT))
        except FileNotFoundError:
            return None
        if body is None:  # whoever wrote it, it is not read into memory to find that out
            raise UnreadableError(f"{key} cannot be read: {meta['size']:,} bytes are no record of ours")
        return body, meta

    def exists(self, key: str) -> bool:
        """Whether an object has this key."""
        return self.modified(key) is not None

    def modified(self, key: str) -> datetime | None:
        """When the object was last written, by the store's own clock; None without one."""
        found = self.written(key)
        return found[0] if found else None

    def written(self, key: str) -> tuple[datetime, int] | None:
        """When the object was last written, and its size; None without one."""
        try:
            if self.root is not None:  # obstore opens what it looks at, and waits where that is a pipe
                state = self._ask(f"look at {key}", partial(folders.look_at, self.root, key))
                return datetime.fromtimestamp(state.st_mtime, UTC), state.st_size
            head = self._ask(f"look at {key}", lambda: self._store.head(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._decision(error, f"look at {key}") from error
        return head["last_modified"], head["size"]

    def provide(self) -> None:
        """Make the directory of a new store on files."""
        if self.root is not None:
            self._ask("write there", lambda: None)

    def now(self) -> float | None:
        """The time by the store's own clock, as late as it is for sure; None when it does not tell.

        It is asked once. Whoever calls somebody late goes by this, and not by the clock of a computer.
        """
        asked = self.clock.since_boot()
        if self._told is None or asked - self._told[1] > ASK_TIME_AFTER_S:
            with suppress(SojournError, OSError):
                told = self._tell_time()
                self._told = told, self.clock.since_boot()
        return self._told[0] + self.clock.since_boot() - self._told[1] if self._told else None

    def clock_off(self) -> float:
        """By how many seconds the clock of this computer is off the store's, at the least. Raises what a read does."""
        before = self.clock.now()
        told = self._tell_time()
        after = self.clock.now()  # a slow store, or a host that sleeps, makes a while of what lies between
        self._told = told, self.clock.since_boot()
        return max(before - told, told - after, 0.0)

    def _tell_time(self) -> float:
        if self.root is not None:
            if not self.expected and self._seen is None and not self.root.exists():
                return self.clock.now()  # a place that is not made yet would be this host's
            return self._ask("ask what time it is", lambda: folders.now(self.root))
        if self._bucket is not None and (told := self._bucket.now()) is not None:
            return told
        self.put(TIME, b"")
        written = self.modified(TIME)
        if written is None:
            raise TransientError(f"the store {self.url} does not tell what time it is")
        return written.timestamp()

    def forgets(self, key: str) -> float | None:
        """When the store will remove the object by itself; None when it will not, or does not say."""
        return self._bucket.forgets(key) if self._bucket is not None else None

    def keys(self, prefix: str) -> list[str]:
        """Every key below `prefix/`, sorted."""
        if self.root is not None:
            self._ask(f"list {prefix}", lambda: None)
            return sorted(folders.keys(self.root, prefix))
        return sorted(entry["path"] for entry in self._listed(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size of every object below `prefix/`, by key."""
        if self.root is not None:
            self._ask(f"list {prefix}", lambda: None)
            return dict(folders.sizes(self.root, prefix))
        return {entry["path"]: entry["size"] for entry in self._listed(prefix)}

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every key below `prefix/` with its size, however many there are; a page of them is in memory."""
        if self.root is not None:
            self._ask(f"list {prefix}", lambda: None)
            yield from folders.sizes(self.root, prefix)
        else:
            last: str | None = None
            while page := self._ask(f"list {prefix}", partial(self._page, prefix, last)):
                yield from ((entry["path"], entry["size"]) for entry in page)
                last = page[-1]["path"]

    def next_key(self, prefix: str, after: str) -> str | None:
        """The first key below `prefix/` that comes after one, by one request; None where none does."""
        if self.root is not None:
            return min((key for key in self.keys(prefix) if key > after), default=None)
        page = self._ask(f"list {prefix}", partial(self._page, prefix, after))
        return page[0]["path"] if page else None

    def _page(self, prefix: str, after: str | None) -> list[Any]:
        found = self._store.list(prefix + "/", offset=after, chunk_size=LISTED_AT_ONCE)
        return list(next(iter(found), ()))

    def folders(self, prefix: str = "") -> list[str]:
        """The names directly below `prefix/` that have keys of their own below them, sorted."""
        if self.root is not None:
            self._ask(f"list {prefix}", lambda: None)
            return folders.names(self.root, prefix)
        below = prefix + "/" if prefix else None
        listing = self._ask(f"list {prefix}", lambda: self._store.list_with_delimiter(below))
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"])

    def delete(self, *keys: str) -> None:
        """Remove objects, a thousand by one request where the store can; one that is not there is fine."""
        for batch in batched(keys, 1 if self.root is not None else DELETED_AT_ONCE):
            with suppress(FileNotFoundError):
                self._ask(f"delete {batch[0]}", partial(self._store.delete, batch))

    def clear(self, prefix: str, keep: Collection[str] = ()) -> None:
        """Remove every object below `prefix/` but those in `keep`; nobody may be writing there."""
        self.delete(*(key for key in self.keys(prefix) if key not in keep))
        self.tidy(prefix)
        self.erase(prefix)

    def tidy(self, prefix: str) -> None:
        """Take away what is left below `prefix/` where everything was removed and that no listing shows."""
        if self.root is not None:
            folders.remove_leavings(self.root / prefix)

    def erase(self, prefix: str, which: Callable[[str], bool] = lambda _: True) -> None:
        """Remove what a bucket with versions still keeps of what was deleted below `prefix/`, of some keys or all.

        Who may not leaves it to the bucket's own rule; services that only speak S3's language may have no versions.
        """
        if self._bucket is not None:
            with suppress(SojournError):
                self._ask(f"erase {prefix}", lambda: None)
                self._bucket.erase(f"{prefix}/", which)

    @cached_property
    def region(self) -> str | None:
        """Where a bucket lies, for stores that have such a thing. Raises SpecError when there is no such bucket."""
        return self._bucket.region if self._bucket is not None else None

    @cached_property
    def _bucket(self) -> Bucket | None:
        return clouds.open_bucket(self.url)

    @cached_property
    def _store(self) -> obstore.store.ObjectStore:
        if self._bucket is not None:
            return self._bucket.open(ANSWER_LIMIT_S, retries=0)  # `_ask` repeats, and a create must know of it
        if self.root is None:
            return obstore.store.from_url(self.url)
        if not self.root.exists():
            raise FileNotFoundError(self.root)
        return obstore.store.LocalStore(self.root)

    def _check_place(self, doing: str) -> None:
        """Raise AwayError where the directory is away that was there, or was to be; a new one is made to write."""
        assert self.root is not None
        try:
            place, holds = self.root.stat().st_ino, (self.root / "control").is_dir()
        except (FileNotFoundError, NotADirectoryError):
            place, holds = None, False
        except OSError as error:
            raise file_refusal(self.url, error, doing) from error
        known = self.expected or self._seen is not None
        moved = self.identity is None and self._seen not in (None, place)
        if known and (not holds or moved):
            raise AwayError(
                f"store: {self.url} is not there, or shows nothing, though there are runs in it",
                hint=f"mount it or put it back; if it is of no use any more: sojourn runs --forget {self.url}",
            )
        if self.identity is not None and holds:
            self._confirm_folder(self.root / identity.KEY, self.identity)
        self._seen = place if holds else None
        if place is None and doing.startswith("write"):
            self._make_place()

    def _confirm_folder(self, file: Path, known: Identity) -> None:
        """Raise OtherStoreError where another store was mounted or laid here, whenever that was."""
        try:
            state = file.stat()
            seen = state.st_ino, state.st_mtime_ns, state.st_size
            if seen == self._confirmed:
                return
            readable = stat.S_ISREG(state.st_mode) and state.st_size <= identity.LARGEST
            body = file.read_bytes() if readable else b""
        except FileNotFoundError:
            body = None
        identity.check(self.url, known, body)
        self._confirmed = seen

    def _confirm_bucket(self, known: Identity) -> None:
        """The same of a bucket, which may have been deleted and made anew by somebody else: asked now and then."""
        while not self._confirming.acquire(blocking=False):
            self.clock.sleep(0.02)  # who comes second must not go ahead of the answer
        try:
            now = self.clock.monotonic()
            if isinstance(self._confirmed, float) and now < self._confirmed:
                return
            identity.check(self.url, known, self._told_identity())
            self._confirmed = now + CONFIRMED_S
        finally:
            self._confirming.release()

    def _told_identity(self) -> bytes | None:
        try:
            return _small(self._store, identity.KEY, identity.LARGEST)[0] or b""
        except FileNotFoundError as error:
            if self._bucket is not None and "NoSuchBucket" in str(error):
                raise self._bucket.missing() from error
            return None

    def _make_place(self) -> None:
        assert self.root is not None
        try:
            self.root.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        except OSError as error:
            raise place_refusal(self.url, error) from error

    @cached_property
    def _bulk(self) -> obstore.store.ObjectStore:
        """The same for the parts of what is large."""
        return self._bucket.open(PIECE_LIMIT_S, retries=4) if self._bucket is not None else self._store

    def _ask(self, doing: str, call: Callable[[], T]) -> T:
        """What the call returns; in a cloud it is made again for a while when it fails in passing."""
        end, pause = self.clock.monotonic() + PATIENCE_S, 0.2
        while True:
            try:
                if self.root is not None:
                    self._check_place(doing)
                elif self.identity is not None:
                    self._confirm_bucket(self.identity)
                return call()
            except (AwayError, OtherStoreError):  # for a moment, perhaps; whoever comes to an empty place does not wait
                if self._seen is None or self.clock.monotonic() > end - PATIENCE_S + AWAY_S:
                    raise
            except obstore.exceptions.PreconditionError as error:
                raise TransientError(f"the store's object has changed while it was read: {doing}") from error
            except obstore.exceptions.BaseError as error:
                decision = self._decision(error, doing)
                last = self.root is not None or self.clock.monotonic() > end
                if last or not isinstance(decision, TransientError):
                    raise decision from error
            except FileNotFoundError as error:
                if self._bucket is not None and "NoSuchBucket" in str(error):
                    raise self._bucket.missing() from error
                if self.root is None and self._bucket is None and doing.startswith(("write", "list")):
                    raise cloud_refusal(self.url, error, doing) from error
                raise
            except OSError as error:
                if self.root is None:
                    raise
                raise file_refusal(self.url, error, doing) from error
            self.clock.sleep(pause * self.chance.uniform(0.5, 1.5))
            pause = min(2 * pause, 5.0)

    def _open(self, key: str) -> Any:
        """One object of a store on files; one that this user may not read costs what hangs on it alone."""
        assert self.root is not None
        folders.check_file(self.root, key)
        try:
            return self._ask(f"read {key}", lambda: self._store.get(key))
        except AccessError as error:
            raise UnreadableError(error.message, hint=error.hint) from error

    def is_shut(self, prefix: str) -> bool:
        """Whether this user may not look at what lies below `prefix/`, in a store that several share."""
        if self.root is None:
            return False
        try:
            os.scandir(self.root / prefix).close()
        except PermissionError:
            return True
        except OSError:
            return False
        return False

    def _settled(self, key: str) -> Path:
        """The directory, once all that a record may name is on the disk; a sign of life names nothing."""
        assert self.root is not None
        if _is_record(key):
            with self._settling:  # who comes second must not be done first
                while self._unsettled:
                    folders.settle(self.root / self._unsettled.pop())
        return self.root

    def _create(self, key: str, body: bytes, again: bool) -> None:
        if self.root is not None and (_is_record(key) or _is_sign(key)):
            try:
                folders.write(self._settled(key), key, body, new=True, durable=_is_record(key))
            except FileExistsError:
                raise ExistsError(key) from None
            return
        try:
            self._store.put(key, body, mode="create")
        except obstore.exceptions.AlreadyExistsError as error:
            # Our own object, when the first try's answer was lost; none, while S3 had two writers to tell apart.
            found = self.find(key) if self.root is None else b""
            if found is None:
                raise obstore.exceptions.GenericError(f"somebody else was writing {key}") from error
            if not (again and found == body):
                raise ExistsError(key) from None

    def _pieces(self, key: str, meta: Any, chunk: int) -> Iterator[bytes]:
        """A large object by ranges, some of them ahead, all of the same version."""

        def piece(start: int) -> bytes:
            options: Any = {"range": (start, min(start + chunk, meta["size"])), "if_match": meta["e_tag"]}
            return self._ask(f"read {key}", lambda: bytes(self._bulk.get(key, options=options).bytes()))

        with ThreadPoolExecutor(LANES) as pool:
            coming: deque[Future[bytes]] = deque()
            for start in range(0, meta["size"], chunk):
                coming.append(pool.submit(piece, start))
                if len(coming) == LANES:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def _listed(self, prefix: str) -> list[Any]:
        return self._ask(
            f"list {prefix}",
            lambda: [entry for batch in self._store.list(prefix + "/") for entry in batch],
        )

    def _decision(self, error: Exception, doing: str) -> SojournError:
        if self.root is not None:
            return file_refusal(self.url, error, doing)
        return self._bucket.decision(error, doing) if self._bucket else cloud_refusal(self.url, error, doing)


def _is_record(key: str) -> bool:
    """Whether a power cut may not leave it empty or half: all that control tells but for signs of life."""
    name = key.rsplit("/", 1)[-1]
    return not key.startswith("machine/") and name.endswith(".json") and name not in SIGNS


def _is_sign(key: str) -> bool:
    """Of life, which the next one replaces, and a power cut may take."""
    return not key.startswith("machine/") and key.rsplit("/", 1)[-1] in SIGNS


def _check_key(key: str) -> None:
    if folders.TEMPORARY.search(key) or "\n" in key:
        raise ValueError(f"not a key: {key!r}")


def _check_size(key: str, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise UnreadableError(f"{key} does not have the size that was committed: {found:,} bytes and not {wanted:,}")


def _small(
    store: obstore.store.ObjectStore, key: str, limit: int | None, wanted: int | None = None
) -> tuple[bytes | None, Any]:
    """The object, unless it is longer than `limit`, and what the store knows of it."""
    found = store.get(key)
    _check_size(key, found.meta["size"], wanted)
    small = limit is None or found.meta["size"] <= limit
    return (bytes(found.bytes()) if small else None), found.meta


def batched(keys: Iterable[str], size: int = DELETED_AT_ONCE) -> Iterator[list[str]]:
    """The keys in lists of at most this many."""
    rest = iter(keys)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _as_file(path: str) -> str:
    return Path(path).expanduser().absolute().as_uri()
