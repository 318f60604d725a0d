"""Packs what runs on a machine into one file: a zip archive that Python starts as it is.

The archive is a function of the sources alone (fixed dates, sorted names, nothing
compressed, since zlib's output differs between its builds), so its hash names what a
machine runs, and a replayed request starts the very same bytes.
"""

from __future__ import annotations

import hashlib
import io
import marshal
import os
import secrets
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

SOURCES = Path(__file__).parent
STAYS_HERE = {"pack.py", "bootstrap.py"}  # the second travels in the user data
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive can hold
UNCHECKED = (1).to_bytes(4, "little")  # of a compiled module: nothing is compared before it is run, see PEP 552


@dataclass(frozen=True)
class Archive:
    """The program of a machine, `python FILE MODE ...`."""

    body: bytes
    sha256: str

    @property
    def name(self) -> str:
        """The file's name: another content has another name."""
        return f"sojourn-agent-{self.sha256[:16]}.pyz"

    def install(self, folder: Path) -> Path:
        """The archive as a file below `folder`, written once and never changed while it is whole.

        A machine in progress reads modules from the file under its name, and others may
        install at the same moment: so a draft is linked to the name, and only a file that
        a dying host left broken is replaced.
        """
        path = folder / self.name
        return path if self._stands(path) else _install(path, self.body, self._stands)

    def install_compiled(self, folder: Path) -> Path:
        """The same for this very Python, each module compiled beside its source: an agent starts in half the time."""
        path = folder / f"{self.name.removesuffix('.pyz')}.{sys.implementation.cache_tag}.pyz"
        return path if _is_whole(path) else _install(path, _sealed(_compiled(self.body)), _is_whole)

    def _stands(self, path: Path) -> bool:
        return _read(path) == self.body


def pack() -> Archive:
    """Return the archive of the modules beside and below this one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(_members().items()):
            archive.writestr(_entry(name), path.read_bytes())
    body = buffer.getvalue()
    return Archive(body, hashlib.sha256(body).hexdigest())


def _members() -> dict[str, Path]:
    package = SOURCES.parent
    modules = {f"sojourn/{path.relative_to(package).as_posix()}": path for path in SOURCES.rglob("*.py")}
    for name in STAYS_HERE:
        del modules[f"sojourn/agent/{name}"]
    door = modules.pop("sojourn/agent/__main__.py")
    return {"__main__.py": door, "sojourn/__init__.py": package / "__init__.py", **modules}


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system = 3  # Unix, wherever it is packed
    entry.external_attr = 0o100644 << 16
    return entry


def _compiled(body: bytes) -> bytes:
    """The archive with compiled modules, which Python takes before their sources."""
    buffer = io.BytesIO()
    known = _members()
    with zipfile.ZipFile(io.BytesIO(body)) as sources, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sources.namelist():
            source = sources.read(name)
            module = name.removesuffix(".py").replace("/", ".")
            code = SourceFileLoader(module, str(known[name])).get_code(module)
            archive.writestr(_entry(name), source)
            archive.writestr(_entry(f"{name}c"), MAGIC_NUMBER + UNCHECKED + source_hash(source) + marshal.dumps(code))
    return buffer.getvalue()


def _sealed(body: bytes) -> bytes:
    """The archive with a comment that says what hash it has: compiled code is not the same bytes each time."""
    digest = hashlib.sha256(body[:-2]).hexdigest().encode()
    return body[:-2] + len(digest).to_bytes(2, "little") + digest


def _is_whole(path: Path) -> bool:
    body = _read(path) or b""
    return len(body) > 66 and hashlib.sha256(body[:-66]).hexdigest().encode() == body[-64:]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _install(path: Path, body: bytes, stands: Callable[[Path], bool]) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with open(draft, "xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        _place(draft, path, stands)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _place(draft: Path, path: Path, stands: Callable[[Path], bool]) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        if not stands(path):
            os.replace(draft, path)
