"""The store's few calls, over files; what other stores answer is for their own tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.storage import ExistsError, MissingKeyError, Store

CREATE = """
import sys, time
from sojourn.storage import ExistsError, Store
store = Store(sys.argv[1])
store.exists("warm")
print("ready", flush=True)
sys.stdin.readline()
try:
    store.create("one/key", sys.argv[2].encode() * 1000)
    print("won")
except ExistsError:
    print("lost")
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store under a hostile name."""
    return Store((tmp_path / 'it\'s a "störe" #1').as_uri())


def test_what_was_put_is_read_back(store: Store) -> None:
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")

    assert store.get("a/b.json") == b"two"
    assert b"".join(store.stream("a/b.json")) == b"two"
    assert store.modified("a/b.json") is not None


def test_a_file_is_put_from_its_path(store: Store, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 20_000_000)

    store.create("large", tmp_path / "large")

    assert sum(len(piece) for piece in store.stream("large", chunk=1_000_000)) == 20_000_000


def test_a_missing_key_is_missing_in_every_way(store: Store) -> None:
    assert store.find("nothing") is None
    assert not store.exists("nothing")
    assert store.keys("nothing") == store.folders("nothing") == []
    store.delete("nothing")
    with pytest.raises(MissingKeyError):
        store.get("nothing")
    with pytest.raises(MissingKeyError):
        list(store.stream("nothing"))


def test_a_second_create_changes_nothing(store: Store) -> None:
    store.create("key", b"first")

    with pytest.raises(ExistsError):
        store.create("key", b"second")
    assert store.get("key") == b"first"


def test_of_several_creators_at_once_one_wins(store: Store) -> None:
    words = [sys.executable, "-c", CREATE, store.url]
    creators = [
        subprocess.Popen([*words, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    for creator in creators:
        assert creator.stdout and creator.stdout.readline() == "ready\n"

    answers = [creator.communicate("\n", timeout=60)[0] for creator in creators]

    assert sorted(answers) == ["lost\n"] * 3 + ["won\n"]
    assert store.get("one/key") == str(answers.index("won\n")).encode() * 1000


def test_deleted_is_gone(store: Store) -> None:
    store.put("key", b"")
    store.delete("key")

    assert not store.exists("key")


def test_listing_is_sorted_and_stays_below_its_prefix(store: Store) -> None:
    for key in ("run/b", "run/a/1", "run/a/0", "run2/x", "run"):
        store.put(f"control/{key}" if key != "run" else "top", b"")

    assert store.keys("control/run") == ["control/run/a/0", "control/run/a/1", "control/run/b"]
    assert store.folders("control") == ["run", "run2"]
    assert store.folders() == ["control"]


def test_a_strangers_file_with_an_odd_name_breaks_no_listing(store: Store) -> None:
    store.put("run/a", b"")
    assert store.root
    for name in ("with#1", "new\nline", b"caf\xe9".decode(errors="surrogateescape"), "ü"):
        (store.root / "run" / name).touch()

    assert "run/a" in store.keys("run")
    assert "run/with#1" not in store.keys("run")


@pytest.mark.parametrize("key", ["a#1", "two\nlines"])
def test_a_key_that_files_cannot_hold_is_refused_everywhere(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.put(key, b"")


def test_naming_a_store_makes_nothing(store: Store) -> None:
    assert store.keys("run") == []
    assert store.root and not store.root.exists()


def test_the_store_of_a_user_is_closed_to_others(store: Store) -> None:
    store.put("key", b"")

    assert store.root and store.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("nonsense", "is not a store URL, known: az, file, gs, s3", "s3://bucket/prefix"),
        ("/srv/runs", "is not a store URL", "file:///srv/runs"),
        ("S4://bucket", "did you mean 's3'", "s3://bucket/prefix"),
        ("s3://", "names no bucket", "s3://bucket/prefix"),
        ("s3:/bucket", "names no bucket", "s3://bucket/prefix"),
        ("file://runs/here", "has no absolute path", "/runs/here"),
        ("file:runs", "has no absolute path", "/runs"),
        ("file://", "has no absolute path", "file:///"),
    ],
)
def test_a_wrong_url_is_named_with_the_right_form(url: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        Store(url)
    assert hint in (caught.value.hint or "")


def test_a_store_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SpecError, match="is not a directory"):
        Store((tmp_path / "file").as_uri()).folders("control")


def test_a_place_where_nothing_can_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SpecError, match="cannot be made: Not a directory"):
        Store((tmp_path / "file/store").as_uri()).put("key", b"")
