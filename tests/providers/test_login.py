"""Credentials that end, and settings that are none: one sentence each, before anything is rented."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from clouds.aws_cloud import AwsCloud

from sojourn.clouds.aws import expiry
from sojourn.clouds.aws.clients import Clients
from sojourn.errors import AccessError, SojournError, SpecError, TransientError
from sojourn.providers.ec2.provider import Ec2Provider
from sojourn.renting import Need

NOW = 2_000_000_000.0


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's home without any setting of Amazon's but a region; nobody answers there."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "HOME": str(tmp_path),
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".aws/sso/cache").mkdir(parents=True)
    return tmp_path / ".aws"


def keys(monkeypatch: pytest.MonkeyPatch, last_s: float | None = None) -> None:
    """Keys of a session in the environment, with a word about their end or none."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "ASIAIOSFODNN7EXAMPLE")
    if last_s is not None:
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", _iso(time.time() + last_s))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_keys_in_the_environment_end_when_the_variable_beside_them_says(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(monkeypatch)
    assert Clients().ends_at() is None
    keys(monkeypatch, last_s=5000)
    assert Clients().ends_at() == pytest.approx(time.time() + 5000, abs=60)


def test_what_is_fetched_anew_when_it_ends_does_not_end(alone: Path) -> None:
    fetched = {"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "B", "SessionToken": "C"}
    (alone / "keys.json").write_text(json.dumps({**fetched, "Expiration": _iso(time.time() + 900)}))
    (alone / "config").write_text(f"[default]\ncredential_process = cat {alone}/keys.json\n")
    assert Clients().ends_at() is None


@pytest.mark.parametrize("renewed", [False, True])
def test_a_login_of_a_person_ends_with_its_token_unless_that_is_renewed(alone: Path, renewed: bool) -> None:
    (alone / "config").write_text(
        "[default]\nsso_session = acme\nsso_account_id = 123456789012\nsso_role_name = dev\n"
        "[sso-session acme]\nsso_start_url = https://acme.awsapps.com/start\nsso_region = us-east-1\n"
    )
    token = {"accessToken": "x", "expiresAt": _iso(NOW), **({"refreshToken": "y"} if renewed else {})}
    (alone / "sso/cache" / f"{hashlib.sha1(b'acme').hexdigest()}.json").write_text(json.dumps(token))
    assert Clients().ends_at() == (None if renewed else NOW)


def test_credentials_that_end_before_the_run_are_a_line_of_the_plan() -> None:
    (line,) = expiry.remarks(NOW + 3600, NOW + 7260, NOW)
    assert line.startswith("your credentials end at ") and "sojourn attach" in line
    assert expiry.remarks(NOW + 7260, NOW + 7260, NOW) == expiry.remarks(None, NOW + 7260, NOW) == ()
    assert expiry.remarks(NOW + 60, NOW + 30, NOW) == (), "a run that is over by then"


@pytest.mark.parametrize(("left", "said"), [(90, "end in 1m 30s"), (-5, "have ended")])
def test_credentials_that_end_before_anything_could_be_rented_are_refused(left: float, said: str) -> None:
    with pytest.raises(SpecError, match=f"these credentials {said}") as caught:
        expiry.remarks(NOW + left, NOW + 7260, NOW)
    assert "aws sso login" in str(caught.value.hint)


def test_the_plan_says_first_that_they_end(aws: AwsCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", _iso(time.time() + 3600))
    provider, hours = Ec2Provider(Clients()), time.time() + 7200
    assert provider.offers(Need(machine="t3.micro", until=hours)).remarks[0].startswith("your credentials end at")
    assert provider.offers(Need(machine="t3.micro", until=hours - 3660)).remarks == ()


def test_credentials_that_have_ended_are_one_sentence(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch, last_s=-60)
    with pytest.raises(AccessError, match="these credentials have ended") as caught:
        _ = Clients().account
    assert "aws sso login" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000"),
        ("AWS_ENDPOINT_URL", "http://"),
        ("AWS_ENDPOINT_URL_STS", "http://localhost:many"),
        ("AWS_DEFAULT_REGION", "us east 1"),
        ("AWS_DEFAULT_REGION", "us_east_1"),
    ],
)
def test_a_setting_that_is_none_is_named_with_its_value(
    alone: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    keys(monkeypatch)
    monkeypatch.setenv(name, value)
    with pytest.raises(SpecError, match=f"^aws: {name}: {value!r} is not ") as caught:
        _ = Clients().account
    assert caught.value.hint


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1", "us-isob-east-1", "eusc-de-east-1"])
def test_a_region_of_a_separate_cloud_is_refused_in_a_sentence(
    aws: AwsCloud, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    said = f"{region} is in .*, which is separate from the rest of Amazon, and Sojourn does not work there"
    with pytest.raises(SpecError, match=said):
        Clients().client("ec2", region)
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    with pytest.raises(SpecError, match=said):
        Ec2Provider(Clients()).offers(Need(machine="t3.micro", project="digits"))


def test_an_address_that_does_not_answer_says_where_to_look(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch)
    with pytest.raises(TransientError, match="Could not connect") as caught:
        _ = Clients().account
    assert "AWS_DEFAULT_REGION" in str(caught.value.hint)


def test_a_misspelt_region_is_told_beside_the_silence_of_its_host(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-centrall-1")
    with pytest.raises(SpecError, match="is 'eu-centrall-1' a region. did you mean 'eu-central-1'"):
        _ = Clients().account


def test_a_region_that_the_run_names_will_do_where_none_is_configured(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(monkeypatch)
    assert Clients(regions=["eu-west-1"]).region == "us-east-1"
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert Clients(regions=["eu-west-1", "us-west-2"]).region == "eu-west-1"
    with pytest.raises(SpecError, match="no region is configured"):
        _ = Clients().region


PROCESS = "[default]\ncredential_process = "
KEYS = "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
SSO = "[default]\nsso_start_url = https://acme.awsapps.com/start\nsso_region = us-east-1\nsso_account_id = 1\n"
SSO += "sso_role_name = dev\n"
SESSION = "[sso-session acme]\nsso_start_url = https://acme.awsapps.com/start\nsso_region = us-east-1\n[default]\n"
SESSION += "sso_session = acme\nsso_account_id = 1\nsso_role_name = dev\n"
ROLE = "[default]\nrole_arn = arn:aws:iam::1:role/x\n"
UNREADABLE = [
    # config, variables, kind, what is said, what mends it
    (PROCESS + "echo hello\n", {}, AccessError, "credential_process of profile default does not print", "run it your"),
    (PROCESS + "echo []\n", {}, AccessError, "does not print credentials as JSON", "run it yourself"),
    (PROCESS + "printf '\\\\377'\n", {}, AccessError, "does not print credentials as JSON", "run it yourself"),
    (PROCESS + "sh -c 'x\n", {}, AccessError, "No closing quotation", "run it yourself"),
    (PROCESS + "/nowhere/program\n", {}, AccessError, "could not be started: /nowhere/program", "run it yourself"),
    (PROCESS + "sh -c 'echo said why >&2; exit 3'\n", {}, AccessError, "said why", "profile default"),
    (PROCESS + "echo {}\n", {}, AccessError, "Version key not provided", "profile default"),
    (SSO, {}, AccessError, "does not exist", "aws sso login"),
    (SESSION, {}, AccessError, "Token for acme does not exist", "aws sso login"),
    (ROLE, {}, AccessError, "source_profile or credential_source", "profile default"),
    (ROLE + "source_profile = gone\n", {}, SpecError, '"gone" referenced', "~/.aws/config"),
    (ROLE + "credential_source = Odd\n", {}, SpecError, '"Odd" referenced', "~/.aws/config"),
    (ROLE + "source_profile = default\n", {}, SpecError, "Infinite loop", "~/.aws/config"),
    ("[default\n", {}, SpecError, "Unable to parse config file", "~/.aws/config"),
    ("", {"AWS_PROFILE": "gone"}, SpecError, "profile (gone) could not be found", "AWS_PROFILE"),
    ("", {"AWS_ACCESS_KEY_ID": "A"}, AccessError, "missing: AWS_SECRET_ACCESS_KEY", "aws configure"),
    (KEYS, {"AWS_CREDENTIAL_EXPIRATION": "soon"} | {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B"},
     AccessError, "soon", "aws configure"),
    ("", {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere/token", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"}, AccessError,
     "the web identity token (AWS_WEB_IDENTITY_TOKEN_FILE) cannot be read: /nowhere/token", "get-caller-identity"),
    ("", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/x"}, AccessError, "'example.com'", "aws configure"),
    (KEYS + "sts_regional_endpoints = odd\n", {}, SpecError, "odd is invalid", "~/.aws/config"),
    (KEYS + "defaults_mode = odd\n", {}, SpecError, "invalid defaults mode: odd", "~/.aws/config"),
    (KEYS, {"HTTP_PROXY": "http://127.0.0.1:1", "AWS_ENDPOINT_URL": "http://sts.test"}, TransientError,
     "Failed to connect to proxy", "HTTPS_PROXY"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "variables", "kind", "said", "mend"), UNREADABLE)
def test_credentials_that_botocore_cannot_read_are_told_with_what_mends_them(
    alone: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: str,
    variables: dict[str, str],
    kind: type[SojournError],
    said: str,
    mend: str,
) -> None:
    (alone / "config").write_text(config)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    clients = Clients()
    assert clients.configured(), "a sweep must not pass over an account for a credential that cannot be read"
    with pytest.raises(SojournError) as caught:
        _ = clients.account
    assert type(caught.value) is kind, caught.value
    assert said in caught.value.message and "\n" not in caught.value.message
    assert mend in str(caught.value.hint)


@pytest.mark.parametrize(("ended", "said"), [(True, "refresh failed"), (False, "~/.aws/sso/cache cannot be read")])
def test_a_login_that_has_ended_or_cannot_be_read_is_told_with_its_command(alone: Path, ended: bool, said: str) -> None:
    (alone / "config").write_text(SESSION.replace("[default]", "[profile work]"))
    token = {"accessToken": "x", "expiresAt": _iso(time.time() - 900), "startUrl": "x", "region": "us-east-1"}
    file = alone / "sso/cache" / f"{hashlib.sha1(b'acme').hexdigest()}.json"
    file.write_text(json.dumps(token) if ended else "junk")
    # botocore looks for its home when it is imported, so this is asked in a process of its own.
    code = "from sojourn.clouds.aws.clients import Clients; Clients().account"
    environment = {**os.environ, "AWS_PROFILE": "work"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "AccessError: aws: could not" in done.stderr and said in done.stderr, done.stderr
    assert done.stderr.endswith("log in anew: aws sso login --profile work\n")


def test_a_role_that_may_not_be_taken_on_is_not_told_as_a_right_that_a_run_lacks(
    aws: AwsCloud, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone / "config").write_text(ROLE + "source_profile = mine\n[profile mine]\n" + KEYS.partition("\n")[2])
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    refusal = "User: arn:aws:iam::1:user/ann is not authorized to perform: sts:AssumeRole on resource: x"
    aws.fault("sts", "AssumeRole", "error", code="AccessDenied", status=403, message=refusal, count=None)
    with pytest.raises(AccessError, match="sts:AssumeRole") as caught:
        _ = Clients().account
    assert "role_arn and source_profile of profile default" in str(caught.value.hint)


@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "RequestExpired", "RequestTimeTooSkewed"])
def test_a_signature_that_is_refused_may_be_the_clock_s_fault(
    aws: AwsCloud, alone: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    (alone / "config").write_text(KEYS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    aws.fault("sts", "GetCallerIdentity", "error", code=code, status=403, message="no", count=None)
    with pytest.raises(AccessError) as caught:
        _ = Clients().account
    assert "date -u" in str(caught.value.hint)
