"""The store's few calls, over files and over S3; then what only one of them can do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import obstore.exceptions
import pytest
from clouds.aws_cloud import AwsCloud

from sojourn.clouds.aws import bucket as s3
from sojourn.errors import AccessError, SpecError, TransientError
from sojourn.store import storage
from sojourn.store.refusals import cloud_refusal
from sojourn.store.storage import ExistsError, MissingKeyError, Store

CREATE = """
import sys, time
from sojourn.store.storage import ExistsError, Store
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
def files(tmp_path: Path) -> Store:
    """An empty store on files, under a hostile name."""
    return Store((tmp_path / 'it\'s a "störe" #1').as_uri())


@pytest.fixture
def bucket(aws: AwsCloud) -> Store:
    """An empty store in a bucket, below a prefix with a hostile name, in another region than the user's."""
    place = {"LocationConstraint": "eu-west-1"}
    aws.client("s3").create_bucket(Bucket="acme-sojourn", CreateBucketConfiguration=place)
    return Store("s3://acme-sojourn/team%20a/st%C3%B6re")


@pytest.fixture(params=["files", "bucket"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store."""
    found: Store = request.getfixturevalue(request.param)
    return found


def test_what_was_put_is_read_back(store: Store) -> None:
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")

    assert store.get("a/b.json") == b"two"
    assert b"".join(store.stream("a/b.json")) == b"two"
    assert store.modified("a/b.json") is not None


def test_a_file_is_put_from_its_path(store: Store, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 20_000_000)

    store.put("large", tmp_path / "large")

    assert store.sizes("") == {"large": 20_000_000} or store.root
    assert store.get("large") == b"x" * 20_000_000
    assert sum(len(piece) for piece in store.stream("large", chunk=1_000_000)) == 20_000_000


def test_what_is_copied_is_there_twice_and_stays_where_it_was(store: Store) -> None:
    store.put("a/b", b"weights")
    for _ in range(2):
        store.copy("a/b", "c/d")
    store.put("a/b", b"others")
    assert (store.find("a/b"), store.find("c/d")) == (b"others", b"weights")
    store.copy("a/b", "c/d")
    assert store.find("c/d") == b"weights", "what is there stays"
    assert store.keys("c") == ["c/d"]
    with pytest.raises(MissingKeyError):
        store.copy("nowhere", "c/e")
    assert not store.exists("c/e")


def test_what_is_large_is_copied_in_parts(bucket: Store, aws: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "COPIED_AT_ONCE", 5 << 20)
    body = os.urandom((5 << 20) + 7)
    bucket.put("a/b", body)
    bucket.copy("a/b", "c/d")
    assert bucket.get("c/d") == body and len(aws.calls("s3", "UploadPartCopy")) == 2


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
    for key in ("one", "two", "three"):
        store.put(key, b"")
    store.delete("one")
    store.delete("two", "never put", "three")

    assert not store.exists("one")
    assert not store.exists("two") and not store.exists("three")


def test_what_is_cleared_is_gone_but_for_what_is_kept(store: Store) -> None:
    for key in ("run/a", "run/b/c", "run/b/d", "other"):
        store.put(key, b"x")

    store.clear("run", keep=["run/b/c"])

    assert store.keys("run") == ["run/b/c"]
    assert store.exists("other")


def test_listing_is_sorted_and_stays_below_its_prefix(store: Store) -> None:
    for key in ("run/b", "run/a/1", "run/a/0", "run2/x", "run"):
        store.put(f"control/{key}" if key != "run" else "top", b"")

    assert store.keys("control/run") == ["control/run/a/0", "control/run/a/1", "control/run/b"]
    assert store.folders("control") == ["run", "run2"]
    assert store.folders() == ["control"]


def test_a_strangers_file_with_an_odd_name_breaks_no_listing(files: Store) -> None:
    files.put("run/a", b"")
    assert files.root
    for name in ("with#1", "new\nline", b"caf\xe9".decode(errors="surrogateescape"), "ü"):
        (files.root / "run" / name).touch()

    assert "run/a" in files.keys("run")
    assert "run/with#1" not in files.keys("run")


@pytest.mark.parametrize("key", ["a#1", "two\nlines"])
def test_a_key_that_files_cannot_hold_is_refused_everywhere(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.put(key, b"")


def test_naming_a_store_makes_nothing(files: Store) -> None:
    assert files.keys("run") == []
    assert files.root and not files.root.exists()


def test_the_store_of_a_user_is_closed_to_others(files: Store) -> None:
    files.put("key", b"")

    assert files.root and files.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("s3://[x", "is no URL", "s3://bucket/prefix"),
        ("nonsense", "is not a store URL, known: file, s3", "s3://bucket/prefix"),
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

    with pytest.raises(SpecError, match="cannot be made: .*/file: Not a directory|/file/store: Not a dir") as caught:
        Store((tmp_path / "file/store").as_uri()).put("key", b"")
    assert "export SOJOURN_HOME=DIRECTORY" in str(caught.value.hint)


def test_a_file_where_the_store_wants_a_folder_is_a_refusal_and_not_silence(files: Store) -> None:
    files.put("key", b"")
    with pytest.raises(SpecError, match="could not write key/below: Not a directory"):
        files.put("key/below", b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user, who may not read everything")
def test_a_store_of_somebody_else_s_is_told_as_such_and_does_not_look_empty() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Store(Path(folder).as_uri()).put("control/project/key", b"")
        Path(folder).chmod(0o755)
        code = "import os, sys; from sojourn.store.storage import Store; import obstore.store\n"
        code += f"store = Store({Path(folder).as_uri()!r}); store.keys('nothing'); os.setuid(65534)\n"
        for call in ("put('key', b'')", "create('key', b'')", "get('control/project/key')", "keys('control')",
                     "folders('control/project')"):  # fmt: skip
            code += f"try: store.{call}\nexcept Exception as e: print(type(e).__name__, str(e).replace(chr(10), ' '))\n"
        Path(folder, "control").chmod(0o700)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True
        )
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done.stdout + done.stderr
    errors = ("AccessError store: ", "UnreadableError store: ")  # one object costs what hangs on it alone
    assert all(line.startswith(errors) and "Permission denied" in line for line in lines), lines
    assert all("export SOJOURN_HOME=DIRECTORY" in line for line in lines)


@pytest.mark.parametrize("url", ["gs://nobody/p", "az://nobody/p"])
def test_a_cloud_without_a_login_is_told_at_once_with_its_command(url: str) -> None:
    said = {"gs": "Error performing token request: GET http://169.254.169.254/x", "az": "Account must be specified"}
    error = obstore.exceptions.GenericError(said[url[:2]])
    refused = cloud_refusal(url, error, "write key")
    assert isinstance(refused, AccessError) and "wants credentials" in refused.message
    assert {"gs": "gcloud auth", "az": "AZURE_STORAGE_ACCOUNT_NAME"}[url[:2]] in str(refused.hint)


# --- S3 -----------------------------------------------------------------------------------------


def test_a_bucket_s_region_is_found_and_used(bucket: Store, aws: AwsCloud) -> None:
    bucket = Store(f"{bucket.url}/of-its-own")  # what other tests know of the bucket may be shared
    bucket.put("key", b"")

    assert bucket.region == "eu-west-1"
    assert [call["action"] for call in aws.calls("s3")] == ["CreateBucket", "HeadBucket", "PutObject"]


def test_objects_lie_below_the_prefix(bucket: Store, aws: AwsCloud) -> None:
    bucket.put("run/key", b"")

    listed = aws.client("s3").list_objects_v2(Bucket="acme-sojourn")["Contents"]
    assert [entry["Key"] for entry in listed] == ["team a/störe/run/key"]


def test_to_find_a_small_object_costs_one_request(bucket: Store, aws: AwsCloud) -> None:
    bucket.put("key", b"x")
    before = len(aws.calls("s3"))

    assert bucket.find("key") == b"x"
    assert bucket.find("never") is None
    assert len(aws.calls("s3")) - before == 2


def test_many_are_deleted_by_few_requests(bucket: Store, aws: AwsCloud) -> None:
    threads = [threading.Thread(target=bucket.put, args=(f"run/{n}", b"")) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    bucket.clear("run")

    assert bucket.keys("run") == []
    assert len(aws.calls("s3", "DeleteObjects")) == 1 and not aws.calls("s3", "DeleteObject")


def test_a_large_object_is_read_by_ranges_of_one_version(bucket: Store, aws: AwsCloud) -> None:
    body = os.urandom(2_500_000)
    bucket.put("large", body)

    pieces = bucket.stream("large", chunk=1_000_000)
    first = next(pieces)
    assert first + b"".join(pieces) == body
    pieces = bucket.stream("large", chunk=100_000)
    next(pieces)
    bucket.put("large", bytes(2_500_000))
    with pytest.raises(TransientError, match="has changed while it was read"):
        list(pieces)


@pytest.mark.parametrize("effect", ["throttle", "drop_before", "drop_after", "truncate"])
@pytest.mark.parametrize("action", ["PutObject", "GetObject", "HeadObject", "ListObjectsV2", "DeleteObjects"])
def test_what_passes_is_waited_out(bucket: Store, aws: AwsCloud, action: str, effect: str) -> None:
    bucket.put("a/one", b"1")
    aws.fault("s3", action, effect, count=2)

    bucket.create("a/two", b"2")
    assert bucket.get("a/one") == b"1"
    assert bucket.exists("a/two")
    assert bucket.keys("a") == ["a/one", "a/two"]
    bucket.delete("a/one", "a/two")
    assert bucket.keys("a") == []


def test_a_create_whose_answer_was_lost_is_ours_only_with_our_bytes(bucket: Store, aws: AwsCloud) -> None:
    aws.fault("s3", "PutObject", "drop_after")
    bucket.create("ours", b"ours")
    bucket.put("theirs", b"theirs")
    aws.fault("s3", "PutObject", "drop_before")

    with pytest.raises(ExistsError):
        bucket.create("theirs", b"ours")


def test_a_store_that_stays_away_is_an_error_in_time(
    bucket: Store, aws: AwsCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE_S", 0.5)
    bucket.put("key", b"")
    aws.fault("s3", ".*", "throttle", count=None)

    with pytest.raises(TransientError, match="could not read key"):
        bucket.get("key")


def test_a_bucket_that_is_not_there_is_named_with_what_makes_it(aws: AwsCloud) -> None:
    with pytest.raises(SpecError, match="there is no bucket 'nowhere-at-all'") as caught:
        Store("s3://nowhere-at-all").keys("run")
    assert "sojourn setup aws" in (caught.value.hint or "")


def test_a_bucket_that_goes_while_it_is_used_is_named(bucket: Store, aws: AwsCloud) -> None:
    assert bucket.find("key") is None
    aws.client("s3").delete_bucket(Bucket="acme-sojourn")

    with pytest.raises(SpecError, match="there is no bucket 'acme-sojourn'"):
        bucket.find("key")
    with pytest.raises(SpecError, match="there is no bucket 'acme-sojourn'"):
        bucket.put("key", b"")


def test_another_account_s_bucket_is_an_access_error(aws: AwsCloud) -> None:
    aws.fault("s3", "HeadBucket", "error", code="AccessDenied", status=403, message="Forbidden", count=None)

    with pytest.raises(AccessError, match="is another account's, or not for these credentials") as caught:
        Store("s3://somebody-elses").keys("run")
    assert "aws sts get-caller-identity" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("AccessDenied", "Access Denied", "aws s3 ls s3://acme-sojourn"),
        ("ExpiredToken", "The provided token has expired", "aws sso login"),
    ],
)
def test_a_refusal_is_told_at_once(bucket: Store, aws: AwsCloud, code: str, message: str, hint: str) -> None:
    bucket.put("key", b"")
    status = 400 if code == "ExpiredToken" else 403
    aws.fault("s3", ".*Object", "error", code=code, status=status, message=message, count=None)

    for call in (lambda: bucket.get("key"), lambda: bucket.put("key", b""), lambda: bucket.create("new", b"")):
        with pytest.raises(AccessError, match=f"s3://acme-sojourn: could not .*{message}") as caught:
            call()
        assert hint in (caught.value.hint or "")


def test_without_credentials_there_is_one_sentence(aws: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(AccessError, match="credentials") as caught:
        Store("s3://acme-sojourn").keys("run")
    assert "aws configure" in (caught.value.hint or "")
