"""What travels to a machine for its Python environment: uv itself, the lock, and wheels.

All of it is kept in the data directory by its hash, and in the store as blobs that the
runs of a project share, so a second run sends nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import platform
import secrets
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO

from sojourn.environment.requirements import WHEELS, Lock, Sent, lock, login
from sojourn.environment.target import Target
from sojourn.errors import SpecError, TransientError
from sojourn.protocol import Setup
from sojourn.records import FileEntry, Network
from sojourn.store import blobs
from sojourn.store.mailbox import Mailbox

AT_ONCE = 8
ANSWER_LIMIT_S = 60
CHUNK = 1 << 20


def send(locked: Lock, network: Network, mailbox: Mailbox, cache: Path) -> tuple[Setup, int]:
    """Send what the store lacks of an environment; what the machine is told, and the bytes sent.

    Raises SpecError for a file that its index does not give or gives otherwise, TransientError when it cannot be asked.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tool = pool.submit(lambda: blobs.send_blob(_tool(locked.target, cache), "uv.gz", mailbox))
        files = list(pool.map(lambda one: _send_file(one, cache, mailbox), locked.sent))
    requirements = _send_text(locked.text, mailbox)
    sent: list[tuple[FileEntry, int]] = [tool.result(), requirements, *files]
    setup = Setup(
        digest=locked.digest,
        python=locked.target.python,
        packages=locked.packages,
        tool=_undated(tool.result()[0]),
        requirements=_undated(requirements[0]),
        files=tuple(_undated(entry) for entry, _ in files),
        network=network,
        variables=locked.variables,
    )
    return setup, sum(size for _, size in sent)


def _undated(entry: FileEntry) -> FileEntry:
    """Nothing asks how old these are, and the same environment is told in the same words."""
    return entry.model_copy(update={"mtime_ns": None})


def _send_file(wanted: Sent, cache: Path, mailbox: Mailbox) -> tuple[FileEntry, int]:
    path, name, key = _file(wanted, cache), f"{WHEELS}/{wanted.name}", mailbox.blob_key(wanted.sha256)
    if not blobs.stays(key, path.stat().st_size, mailbox):
        return blobs.send_blob(path, name, mailbox)
    # Not read again: what is cached under its hash was hashed then, and wheels are large.
    return FileEntry(path=name, hash=f"sha256:{wanted.sha256}", size=path.stat().st_size, source=key), 0


def _send_text(text: str, mailbox: Mailbox) -> tuple[FileEntry, int]:
    with tempfile.NamedTemporaryFile(prefix="sojourn-") as file:
        file.write(text.encode())
        file.flush()
        return blobs.send_blob(Path(file.name), "requirements.txt", mailbox)


# --- files of an index ------------------------------------------------------------------------


def _file(wanted: Sent, cache: Path) -> Path:
    """The file on this host, from the cache or from where it lies, its hash checked."""
    path = cache / wanted.sha256
    if path.exists():
        return path
    with _draft(path) as draft:
        _download(wanted, draft)
    return path


def _download(wanted: Sent, to: Path) -> None:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(_request(wanted.url), timeout=ANSWER_LIMIT_S) as source, to.open("wb") as file:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
    except urllib.error.HTTPError as error:
        error.close()
        raise SpecError(
            f"environment: {wanted.name}: {wanted.url} answers {error.code} {error.reason}",
            hint="an index with a login: write it into ~/.netrc" if error.code in (401, 403) else None,
        ) from error
    except OSError as error:
        raise TransientError(f"environment: {wanted.name}: {wanted.url} cannot be read: {error}") from error
    if digest.hexdigest() != wanted.sha256:
        raise SpecError(
            f"environment: {wanted.name}: expected sha256 {wanted.sha256} at {wanted.url}, found {digest.hexdigest()}",
            hint="lock it anew, if its index may be trusted: uv lock --upgrade",
        )


def _request(url: str) -> urllib.request.Request:
    request = urllib.request.Request(url)
    if (found := login(url)) is not None:
        request.add_header("Authorization", f"Basic {b64encode(':'.join(found).encode()).decode()}")
    return request


# --- uv --------------------------------------------------------------------------------------


def _tool(target: Target, cache: Path) -> Path:
    """uv for the target, of the version that this host has, gzipped."""
    path = cache / f"uv-{version('uv')}-{target.platform}.gz"
    if not path.exists():
        with (
            _draft(path) as draft,
            draft.open("wb") as file,
            _binary(target, cache) as binary,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as zipped,  # equal binaries are equal blobs
        ):
            shutil.copyfileobj(binary, zipped, CHUNK)
    return path


@contextmanager
def _binary(target: Target, cache: Path) -> Iterator[IO[bytes]]:
    """This host's own uv where it suits the target, else that of the wheel for it."""
    if sys.platform == "linux" and platform.machine() == target.architecture:
        from uv import find_uv_bin

        with open(find_uv_bin(), "rb") as binary:
            yield binary
        return
    wheel = _file(_uv_wheel(target), cache)
    with zipfile.ZipFile(wheel) as archive, archive.open(f"uv-{version('uv')}.data/scripts/uv") as packed:
        yield packed


def _uv_wheel(target: Target) -> Sent:
    with tempfile.TemporaryDirectory(prefix="sojourn-") as folder:
        Path(folder, "uv.txt").write_text(f"uv=={version('uv')}\n")
        return lock("uv.txt", Path(folder), Path(folder), target, offline=True).sent[0]


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A new file beside `path` that takes its place when it is whole."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
