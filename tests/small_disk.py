"""A small disk of its own for a test, and its last byte taken; where none can be mounted the test is skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Path]:
    """A file system of this size at the folder, for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path) -> None:
    """Write to the file until its disk holds no byte more."""
    with open(file, "ab", buffering=0) as open_file:
        for piece in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    open_file.write(bytes(piece))
            except OSError:
                continue
    os.sync()
