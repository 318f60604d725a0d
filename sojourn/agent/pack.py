"""Packs what runs on a machine into one file: a zip archive that Python starts as it is.

The archive is a function of the sources alone (fixed dates, sorted names, nothing
compressed, since zlib's output differs between its builds), so its hash names what a
machine runs, and a replayed request starts the very same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import zipfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
STAYS_HERE = {"pack.py", "bootstrap.py"}  # the second travels in the user data
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip archive can hold


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
        if _holds(path, self.body):
            return path
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = folder / f".{self.name}.{secrets.token_hex(8)}"
        try:
            with open(draft, "xb") as file:
                file.write(self.body)
                file.flush()
                os.fsync(file.fileno())
            _place(draft, path, self.body)
        finally:
            draft.unlink(missing_ok=True)
        return path


def pack() -> Archive:
    """The archive of the modules beside this one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, path in sorted(_members().items()):
            archive.writestr(_entry(name), path.read_bytes())
    body = buffer.getvalue()
    return Archive(body, hashlib.sha256(body).hexdigest())


def _members() -> dict[str, Path]:
    modules = {f"sojourn/agent/{path.name}": path for path in SOURCES.glob("*.py") if path.name not in STAYS_HERE}
    door = modules.pop("sojourn/agent/__main__.py")
    return {"__main__.py": door, "sojourn/__init__.py": SOURCES.parent / "__init__.py", **modules}


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system = 3  # Unix, wherever it is packed
    entry.external_attr = 0o100644 << 16
    return entry


def _holds(path: Path, body: bytes) -> bool:
    try:
        return path.read_bytes() == body
    except OSError:
        return False


def _place(draft: Path, path: Path, body: bytes) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        if not _holds(path, body):
            os.replace(draft, path)
