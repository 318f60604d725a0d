"""The agent's stores: the same verbs over files and over S3, and S3 when the wire does harm."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from s3_world import S3World

from sojourn.agent.errors import Exists, Late, Refused, StoreError
from sojourn.agent.host.processes import KEYS
from sojourn.agent.stores import multipart, ranges
from sojourn.agent.stores.s3 import S3Store
from sojourn.agent.stores.store import FileStore, Store
from sojourn.agent.stores.stores import Elsewhere, open_store

MIB = 1 << 20
PART = 5 * MIB  # the smallest that S3 takes
PIECE = MIB
LARGE = 2 * MIB


@pytest.fixture
def world(service: S3World, monkeypatch: pytest.MonkeyPatch) -> S3World:
    monkeypatch.setattr(multipart, "PART", PART)
    monkeypatch.setattr(ranges, "PIECE", PIECE)
    monkeypatch.setattr(ranges, "LARGE", LARGE)
    service.reset()
    return service


@pytest.fixture
def opened(world: S3World) -> Iterator[Callable[..., S3Store]]:
    """Opens a store that is closed when the test is over."""
    stores: list[S3Store] = []

    def opened(url: str, region: str | None = None) -> S3Store:
        stores.append(S3Store(url, region, environ=world.environment))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def bucket(world: S3World, opened: Callable[..., S3Store]) -> S3Store:
    """An empty bucket, below a hostile prefix."""
    store = opened(f"s3://{world.bucket()}/it's%20a%20st%C3%B6re")
    world.reset()
    return store


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each way of storing."""
    (tmp_path / "store").mkdir()
    return FileStore((tmp_path / "store").as_uri()) if request.param == "file" else request.getfixturevalue("bucket")


def content(size: int) -> bytes:
    return hashlib.shake_128(str(size).encode()).digest(size)


def file_of(path: Path, body: bytes) -> BinaryIO:
    path.write_bytes(body)
    return path.open("rb")


def nothing() -> None:
    """No reason to stop."""


# --- every store ------------------------------------------------------------------------------


def test_what_was_put_is_got_found_and_there(store: Store) -> None:
    store.put("a/ü b.json", b"one")
    store.put("a/ü b.json", b"two")

    assert store.get("a/ü b.json") == store.find("a/ü b.json") == b"two"
    assert store.exists("a/ü b.json")


def test_what_was_never_put_is_missing_in_every_way(store: Store) -> None:
    assert store.find("nothing") is None
    assert not store.exists("nothing")
    store.delete("nothing")
    with pytest.raises(FileNotFoundError):
        store.get("nothing")


def test_of_many_creators_at_once_one_wins(store: Store) -> None:
    def create(number: int) -> bool:
        try:
            store.create("key", str(number).encode())
        except Exists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(16)))

    assert won.count(True) == 1
    assert store.get("key") == str(won.index(True)).encode()


def test_deleted_is_gone(store: Store) -> None:
    store.put("key", b"")
    store.delete("key")

    assert not store.exists("key")


@pytest.mark.parametrize("size", [0, 1, 300_000, PART, PART + 1, 2 * PART + 12345])
def test_a_file_is_kept_under_its_hash_and_comes_back(store: Store, tmp_path: Path, size: int) -> None:
    body = content(size)
    with file_of(tmp_path / "large", body) as source:
        digest, kept = store.keep("blob", source, nothing)

    assert (digest, kept) == (hashlib.sha256(body).hexdigest(), size)
    assert store.get(f"blob/{digest}") == body
    with file_of(tmp_path / "large", body) as source:
        assert store.keep("blob", source, nothing) == (digest, size)


# --- S3 -----------------------------------------------------------------------------------------


def test_keys_lie_below_the_prefix(bucket: S3Store, world: S3World) -> None:
    bucket.put("a", b"")

    assert [call.path.partition("/it's")[2] for call in world.calls] == [" a störe/a"]


def test_connections_are_used_again(bucket: S3Store, world: S3World) -> None:
    before = world.connections
    for number in range(20):
        bucket.put(f"key/{number}", b"x")
        bucket.get(f"key/{number}")

    assert world.connections - before == 1


def test_a_connection_that_was_closed_while_idle_is_replaced_without_waiting(bucket: S3Store, world: S3World) -> None:
    bucket.put("key", b"x")
    world.fault("GET", "key", "drop-before")

    assert bucket.find("key") == b"x"


@pytest.mark.parametrize("effect", ["refuse-503", "refuse-500", "refuse-429", "drop-before", "drop-after"])
@pytest.mark.parametrize("verb", ["put", "create", "get", "delete"])
def test_a_call_outlives_what_passes(bucket: S3Store, world: S3World, verb: str, effect: str) -> None:
    if verb in ("get", "delete"):
        bucket.put("key", b"body")
    world.fault({"get": "GET", "delete": "DELETE"}.get(verb, "PUT"), "key", effect, times=2)

    match verb:
        case "put":
            bucket.put("key", b"body")
        case "create":
            bucket.create("key", b"body")
        case "get":
            assert bucket.get("key") == b"body"
        case "delete":
            bucket.delete("key")
    assert bucket.find("key") == (None if verb == "delete" else b"body")


def test_a_create_whose_answer_was_lost_is_ours_only_with_our_bytes(bucket: S3Store, world: S3World) -> None:
    bucket.create("key", b"theirs")
    world.fault("PUT", "key", "drop-after")

    with pytest.raises(Exists):
        bucket.create("key", b"ours")


def test_a_create_that_failed_after_its_effect_is_known_again(
    bucket: S3Store, world: S3World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3Store.ask, "__kwdefaults__", {**S3Store.ask.__kwdefaults__, "limit_s": 0.3})
    world.fault("PUT", "key", "drop-after", times=100)
    with pytest.raises(StoreError):
        bucket.create("key", b"ours")
    world.reset()

    bucket.create("key", b"ours")
    with pytest.raises(Exists):
        bucket.create("key", b"ours")


def test_a_store_that_stays_away_is_an_error_in_time(bucket: S3Store, world: S3World) -> None:
    world.fault("*", "", "refuse-503", times=1000, text=b"<Error><Code>SlowDown</Code><Message>Slow</Message></Error>")

    assert bucket.find("key") is None
    with pytest.raises(StoreError, match="does not answer: DELETE key: Slow .SlowDown"):
        bucket.ask("DELETE", "key", limit_s=0.5)


def test_a_refusal_is_told_at_once_and_is_no_error_of_this_host(bucket: S3Store, world: S3World) -> None:
    text = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    world.fault("PUT", "key", "refuse-403", times=100, text=text)

    with pytest.raises(StoreError, match="Access Denied .AccessDenied") as caught:
        bucket.put("key", b"")
    assert not isinstance(caught.value, PermissionError)
    assert world.count("PUT") == 1


def test_silence_is_counted_from_the_last_success(bucket: S3Store, world: S3World) -> None:
    bucket.put("key", b"")
    assert bucket.silent_s() < 5
    bucket._heard -= 100  # so long ago
    world.fault("*", "", "refuse-403", times=100)
    bucket.find("key")
    assert bucket.silent_s() > 99
    world.reset()
    bucket.find("never put")
    assert bucket.silent_s() < 5


@pytest.mark.parametrize("size", [300_000, LARGE + 5])
def test_a_body_that_is_cut_off_is_taken_up_where_it_ended(
    bucket: S3Store, world: S3World, tmp_path: Path, size: int
) -> None:
    body = content(size)
    with file_of(tmp_path / "large", body) as source:
        digest, _ = bucket.keep("blob", source, nothing)
    world.reset()
    world.fault("GET", digest, "cut", times=3)

    assert bucket.get(f"blob/{digest}") == body
    assert all("if-match" in call.headers for call in world.calls if "range" in call.headers)


def test_an_object_that_changes_while_it_is_read_is_no_mixture(bucket: S3Store, world: S3World) -> None:
    bucket.put("key", content(LARGE))
    world.fault("GET", "key", "cut")
    with bucket.open("key") as source:
        source.read(1000)
        bucket.put("key", bytes(LARGE))
        with pytest.raises(StoreError, match="has changed while it was read"):
            source.read()


def test_a_large_object_is_read_by_several_connections_in_bounded_memory(
    bucket: S3Store, world: S3World, tmp_path: Path
) -> None:
    with file_of(tmp_path / "large", content(LARGE + 10 * PIECE)) as source:
        digest, size = bucket.keep("blob", source, nothing)
    world.reset()

    with bucket.open(f"blob/{digest}") as source:
        source.read(10)
        assert world.count("GET") <= 1 + ranges.LANES
        assert 10 + len(source.read()) == size
    assert all(call.headers.get("range", "bytes=0-") for call in world.calls)


def test_an_upload_that_fails_leaves_no_parts(bucket: S3Store, world: S3World, tmp_path: Path) -> None:
    world.fault("PUT", "blob", "refuse-403", times=100)
    with file_of(tmp_path / "large", content(2 * PART)) as source, pytest.raises(StoreError):
        bucket.keep("blob", source, nothing)

    assert world.count("DELETE", "blob") == 1
    assert b"<Upload>" not in world.direct("GET", f"/{bucket._bucket}?uploads")[2]


def test_an_upload_ends_when_its_time_is_over(bucket: S3Store, world: S3World, tmp_path: Path) -> None:
    looks = iter(range(1000))

    def check() -> None:
        if next(looks) > 11:
            raise Late

    with file_of(tmp_path / "large", content(2 * PART)) as source, pytest.raises(Late):
        bucket.keep("blob", source, check)
    assert world.count("DELETE", "blob") == world.count("POST", "blob")


def test_an_upload_outlives_lost_answers(bucket: S3Store, world: S3World, tmp_path: Path) -> None:
    body = content(2 * PART)
    world.fault("POST", "blob", "refuse-503")
    world.fault("PUT", "blob", "drop-after", times=2)
    with file_of(tmp_path / "large", body) as source:
        digest, _ = bucket.keep("blob", source, nothing)

    assert bucket.get(f"blob/{digest}") == body


def test_an_upload_whose_completion_was_answered_into_the_void_is_complete(
    bucket: S3Store, world: S3World, tmp_path: Path
) -> None:
    world.fault("POST", "blob", "drop-after", after=1)
    with file_of(tmp_path / "large", content(2 * PART)) as source:
        digest, size = bucket.keep("blob", source, nothing)

    assert world.count("POST") == 3
    assert bucket.size(f"blob/{digest}") == size


def test_each_part_goes_under_the_hash_it_had_when_the_file_was_read(
    bucket: S3Store, world: S3World, tmp_path: Path
) -> None:
    body = content(2 * PART)
    with file_of(tmp_path / "large", body) as source:
        bucket.keep("blob", source, nothing)

    sent = [call.headers["x-amz-content-sha256"] for call in world.calls if "partNumber" in call.query]
    parts = [body[:PART], body[PART:]]
    assert sorted(sent) == sorted(hashlib.sha256(part).hexdigest() for part in parts)


def test_the_bucket_s_region_is_learnt_from_its_answer(world: S3World, opened: Callable[..., S3Store]) -> None:
    store = opened(f"s3://{world.bucket()}", "us-east-1")
    wrong = b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong region</Message></Error>"
    world.reset()
    world.fault("PUT", "key", "refuse-400", text=wrong, headers={"x-amz-bucket-region": "eu-west-1"})

    store.put("key", b"")

    regions = [
        {name.lower(): value for name, value in call.headers.items()}["authorization"].split("/")[2]
        for call in world.calls
    ]
    assert regions == ["us-east-1", "eu-west-1"]


def test_the_bucket_s_region_is_learnt_from_the_words_of_its_answer(
    world: S3World, opened: Callable[..., S3Store]
) -> None:
    store = opened(f"s3://{world.bucket()}", "us-east-1")
    wrong = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    world.reset()
    world.fault("PUT", "key", "refuse-400", text=wrong)
    store.put("key", b"")
    assert "/eu-west-1/s3/" in {k.lower(): v for k, v in world.calls[1].headers.items()}["authorization"]


def test_a_service_of_keys_that_is_busy_is_asked_again(world: S3World, bucket: S3Store) -> None:
    busy = b"<Error><Code>ThrottlingException</Code><Message>Rate exceeded</Message></Error>"
    world.fault("PUT", "key", "refuse-400", text=busy, times=2)
    bucket.put("key", b"1")
    assert bucket.get("key") == b"1"


def test_an_answer_of_unknown_length_is_an_error_and_no_empty_object(world: S3World, bucket: S3Store) -> None:
    bucket.put("key", b"1")
    world.fault("GET", "key", "chunk")
    with pytest.raises(StoreError, match="key: the store does not say how long it is"):
        bucket.get("key")
    assert bucket.get("key") == b"1"


def test_a_clock_that_is_off_is_put_right_by_the_service_s(world: S3World, opened: Callable[..., S3Store]) -> None:
    store = opened(f"s3://{world.bucket()}")
    world.reset()
    skewed = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
    world.fault("PUT", "key", "refuse-403", text=skewed, headers={"Date": "Tue, 01 Jan 2030 00:00:00 GMT"})

    store.put("key", b"")

    assert world.calls[1].headers["x-amz-date"].startswith("20300101T0000")


def test_buckets_are_named_by_their_hosts_unless_an_endpoint_is_set() -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    plain = S3Store("s3://bucket/a", "eu-west-1", environ=nobody)
    dotted = S3Store("s3://my.bucket/a", "cn-north-1", environ=nobody)
    other = S3Store("s3+https://minio.lab:9000/bucket/a", environ=nobody)

    assert (plain._pool.host, plain._path("k")) == ("bucket.s3.eu-west-1.amazonaws.com", "/a/k")
    assert (dotted._pool.host, dotted._path("k")) == ("s3.cn-north-1.amazonaws.com.cn", "/my.bucket/a/k")
    assert (other._pool.host, other._path("k")) == ("minio.lab:9000", "/bucket/a/k")


def test_an_object_elsewhere_is_opened_by_its_url(
    world: S3World, opened: Callable[..., S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = world.bucket()
    opened(f"s3://{name}").put("dvc cache/files/md5/ab/cd", b"data")
    for variable, value in world.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    host = world.endpoint.removeprefix("http://")
    (tmp_path / "a b").write_bytes(b"file")

    elsewhere = Elsewhere()

    with elsewhere.open(f"s3+http://{host}/{name}/dvc%20cache/files/md5/ab/cd") as source:
        assert source.read() == b"data"
    with elsewhere.open((tmp_path / "a b").as_uri()) as source:
        assert source.read() == b"file"
    with pytest.raises(FileNotFoundError):
        elsewhere.open(f"s3+http://{host}/{name}/nothing")
    elsewhere.close()


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(Refused, match="it speaks file:// and s3://"):
        open_store("gs://bucket/prefix")


def test_without_credentials_the_reason_is_told(world: S3World) -> None:
    off = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": world.endpoint}
    store = S3Store("s3://bucket", environ=off)

    with pytest.raises(StoreError, match="no credentials: the metadata service is switched off"):
        store.ask("PUT", "key", limit_s=0.2)


@pytest.mark.parametrize("status", [400, 403])
def test_keys_that_ended_before_their_time_are_fetched_anew_once(world: S3World, tmp_path: Path, status: int) -> None:
    count = tmp_path / "count"
    program = f"n=$(($(cat {count} 2>/dev/null || echo 0) + 1)); echo $n > {count}; " + (
        'printf \'{"Version": 1, "AccessKeyId": "ASIA%s", "SecretAccessKey": "s", "SessionToken": "t"}\' $n'
    )
    keys = {**world.environment, KEYS: json.dumps({"s3": ["sh", "-c", program]})}
    store = S3Store(f"s3://{world.bucket()}", environ={k: v for k, v in keys.items() if "ACCESS_KEY" not in k})
    store.put("a", b"1")
    world.reset()
    ended = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    world.fault("GET", "/a", f"refuse-{status}", text=ended)
    assert store.get("a") == b"1"
    signed = [
        re.findall(
            r"Credential=(\w+)/", {name.lower(): value for name, value in call.headers.items()}["authorization"]
        )[0]
        for call in world.calls
    ]
    assert signed == ["ASIA1", "ASIA2"]
    store.close()


def test_a_head_that_is_refused_without_a_word_is_asked_again_with_new_keys(world: S3World, tmp_path: Path) -> None:
    program = (
        f"echo >> {tmp_path / 'count'}; "
        f'printf \'{{"Version": 1, "AccessKeyId": "ASIA%s", "SecretAccessKey": "s", "SessionToken": "t"}}\' '
        f"$(wc -l < {tmp_path / 'count'})"
    )
    keys = {**world.environment, KEYS: json.dumps({"s3": ["sh", "-c", program]})}
    store = S3Store(f"s3://{world.bucket()}", environ={k: v for k, v in keys.items() if "ACCESS_KEY" not in k})
    store.put("a", b"1")
    world.fault("HEAD", "/a", "refuse-400")
    assert store.exists("a")
    store.close()


def test_keys_that_stay_ended_are_an_error_and_not_a_loop(world: S3World, bucket: S3Store) -> None:
    bucket.put("a", b"1")
    ended = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
    world.reset()
    world.fault("GET", "/a", "refuse-400", text=ended, times=50)
    with pytest.raises(OSError, match="token has expired"):
        bucket.get("a")
    assert len(world.calls) == 1, "the same keys would be refused again"
