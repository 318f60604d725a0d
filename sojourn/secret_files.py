"""Files that are secrets by their names: they stay, and the script gets values by `secrets:`."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path, PurePosixPath

from sojourn.errors import SpecError

_SECRET_NAMES = (
    ".env*", ".netrc", "_netrc", ".git-credentials", ".pypirc", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.ppk",
    "*.p12", "*.pfx", "kaggle.json", "application_default_credentials.json", "service-account*.json",
)  # fmt: skip
_SECRET_PATHS = ("*.aws/credentials", "*.docker/config.json", "*.dvc/config.local", "*.kube/config")
_NO_SECRET = re.compile(r"\.env.*[._-](example|sample|template|tmpl|tpl|dist|defaults?)")


def refuse_secret(path: str, file: Path, hint: str) -> None:
    """Raise SpecError for a file that is a secret by its name, its place or its content."""
    if is_secret(path, file):
        raise SpecError(f"{path}: looks like a secret, and secrets do not travel in the bundle", hint=hint)


def is_secret(path: str, file: Path) -> bool:
    """Whether a file is a secret by its name, its place or its content."""
    name = PurePosixPath(path).name
    if any(fnmatch.fnmatch(name, pattern) for pattern in _SECRET_NAMES) and not _NO_SECRET.fullmatch(name):
        return True
    in_place = any(fnmatch.fnmatch("/" + path, "*/" + pattern.lstrip("*")) for pattern in _SECRET_PATHS)
    return in_place or _is_private_key(file)


def _is_private_key(file: Path) -> bool:
    if file.suffix not in (".pem", ".key", "") or file.is_symlink() or not file.is_file():
        return False
    if not os.access(file, os.R_OK):
        return False
    with file.open("rb") as opened:
        return b"PRIVATE KEY-----" in opened.read(64)
