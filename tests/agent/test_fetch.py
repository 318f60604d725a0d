"""What arrives on a machine is what was promised, or nothing starts."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from sojourn.agent.errors import Refused
from sojourn.agent.results.fetch import LARGE, Fetcher
from sojourn.agent.stores.stores import open_store

SIZES = [0, 1, LARGE, LARGE + 12_345]  # from LARGE on it is hashed beside the reading


def brought(tmp_path: Path, body: bytes, promised: dict[str, Any]) -> Path:
    """The file that a machine gets of `body` when that was promised."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "blob").write_bytes(body)
    root = tmp_path / "tree"
    fetcher = Fetcher(open_store((tmp_path / "store").as_uri()), str(root), str(tmp_path), lambda: None)
    fetcher.bring([{"path": "data/file.bin", "mode": 0o600, "source": "blob", **promised}])
    assert fetcher.bytes_done == fetcher.bytes_total == len(body)
    return root / "data" / "file.bin"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_a_file_comes_whole(tmp_path: Path, kind: str, size: int) -> None:
    body = random.Random(size).randbytes(size)
    promised = {"size": size, "hash": f"{kind}:{hashlib.new(kind, body).hexdigest()}"}
    assert brought(tmp_path, body, promised).read_bytes() == body


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_file_of_which_one_byte_is_another_is_refused(tmp_path: Path, size: int, place: str) -> None:
    body = bytearray(random.Random(size).randbytes(size))
    promised = {"size": size, "hash": f"md5:{hashlib.md5(body).hexdigest()}"}
    body[0 if place == "first" else -1] ^= 1
    with pytest.raises(Refused, match=f"data/file.bin: expected {promised['hash']}, blob has [0-9a-f]{{32}}"):
        brought(tmp_path, bytes(body), promised)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    body = bytes(size)
    promised = {"size": size + 1, "hash": f"md5:{hashlib.md5(body).hexdigest()}"}
    with pytest.raises(Refused, match=f"expected {size + 1} bytes at blob, found {size}"):
        brought(tmp_path, body, promised)
