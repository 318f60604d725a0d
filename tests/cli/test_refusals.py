"""What a Prefect server or Prefect's settings refuse is one sentence, and a run goes on without a record."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import prefect
import pytest
from cli_world import World
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_CLOUD_API_URL,
    Settings,
    temporary_settings,
)

from cli.refusals import readable_settings, server_refusal
from sojourn.errors import AccessError, SojournError, SpecError, TransientError

OWN = (200, json.dumps(prefect.__version__))
KNOWN = ("/api/admin/version", "/api/accounts/a/workspaces/w/block_types/slug/secret")


class StandIn:
    """A server that answers whoever asks whether it takes him, and others otherwise; it keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, str] = OWN
        self.otherwise = (200, "{}")
        self.headers: list[Any] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.headers.append(self.headers)
                status, body = stand_in.answer if self.path in KNOWN else stand_in.otherwise
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    one = StandIn()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.mark.parametrize(
    ("answer", "kind", "said", "hint"),
    [
        (
            (401, '{"exception_message": "Unauthorized"}'),
            AccessError,
            "wants a login (401)",
            "PREFECT_API_AUTH_STRING=",
        ),
        ((403, ""), AccessError, "wants a login (403)", "PREFECT_API_KEY="),
        ((407, ""), AccessError, "the proxy before", "HTTPS_PROXY"),
        ((404, '{"detail": "Not Found"}'), SpecError, "is not a Prefect API", "ends with /api"),
        ((200, "<!doctype html><html></html>"), SpecError, "it sends a web page", "ends with /api"),
        ((200, '{"hello": 1}'), SpecError, "is not a Prefect API", "prefect config view"),
        ((200, '"2.20.1"'), SpecError, "is Prefect 2.20.1", "prefect version"),
        ((200, '"4.0.0"'), SpecError, "is Prefect 4.0.0", "prefect version"),
        ((400, '{"exception_message": "version 0.9 is not supported"}'), SpecError, "do not fit", "prefect version"),
        ((422, '{"detail": "wrong api version"}'), SpecError, "do not fit", "prefect version"),
        ((429, "slow down"), TransientError, "answers 429", "try it later"),
        ((503, ""), TransientError, "answers 503: Service Unavailable", "try it later"),
        ((418, "teapot"), SojournError, "answers 418", "prefect config view"),
    ],
)
def test_each_answer_that_is_a_refusal_is_told_as_what_it_is(
    stand_in: StandIn, answer: tuple[int, str], kind: type[SojournError], said: str, hint: str
) -> None:
    stand_in.answer = answer
    refused = server_refusal(stand_in.url)
    assert type(refused) is kind
    assert said in refused.message and stand_in.url in refused.message
    assert hint in str(refused.hint)


def test_a_server_that_takes_us_is_no_refusal_and_hears_our_login(stand_in: StandIn) -> None:
    with temporary_settings({PREFECT_API_AUTH_STRING: "me:secret"}):
        assert server_refusal(stand_in.url) is None
    with temporary_settings({PREFECT_API_KEY: "pnu_1"}):
        assert server_refusal(stand_in.url) is None
    assert [headers["Authorization"] for headers in stand_in.headers] == ["Basic bWU6c2VjcmV0", "Bearer pnu_1"]


def test_a_login_that_is_not_taken_is_named(stand_in: StandIn) -> None:
    stand_in.answer = (401, "")
    with temporary_settings({PREFECT_API_AUTH_STRING: "me:wrong"}):
        refused = server_refusal(stand_in.url)
    assert refused is not None
    assert "does not take your PREFECT_API_AUTH_STRING" in refused.message and "wrong" not in str(refused)


@pytest.mark.parametrize(("status", "said"), [(401, "prefect cloud login"), (404, "prefect cloud workspace set")])
def test_prefect_cloud_names_its_own_remedies(stand_in: StandIn, status: int, said: str) -> None:
    stand_in.answer = (status, "{}")
    with temporary_settings({PREFECT_CLOUD_API_URL: stand_in.url, PREFECT_API_KEY: "ended"}):
        refused = server_refusal(f"{stand_in.url}/accounts/a/workspaces/w")
    assert isinstance(refused, AccessError) and said in str(refused.hint)


def test_an_address_where_nothing_answers_says_why() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cases = {
        f"http://127.0.0.1:{port}/api": (TransientError, "Connection refused"),
        "http://nowhere.invalid/api": (TransientError, "no address is known for 'nowhere.invalid'"),
        "127.0.0.1:4200/api": (SpecError, "is not a URL"),
        "localhost/api": (SpecError, "is not a URL"),
        "http://127.0.0.1:port/api": (SpecError, "is not a URL"),
    }
    for url, (kind, said) in cases.items():
        refused = _refusal(url)
        assert type(refused) is kind and said in refused.message, (url, refused)


def _refusal(url: str) -> SojournError | None:
    try:
        return server_refusal(url)
    except SojournError as error:
        return error


def test_a_plain_server_asked_by_https_and_a_stranger_s_certificate_are_told(stand_in: StandIn, tmp_path: Path) -> None:
    plain = _refusal(stand_in.url.replace("http:", "https:"))
    assert plain is not None and "does not speak TLS" in plain.message and "http://" in str(plain.hint)
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    stand_in.server.socket = context.wrap_socket(stand_in.server.socket, server_side=True)
    unknown = _refusal(stand_in.url.replace("http:", "https:"))
    assert unknown is not None and "is not trusted" in unknown.message, unknown
    assert "PREFECT_API_SSL_CERT_FILE" in str(unknown.hint)
    with temporary_settings({PREFECT_API_SSL_CERT_FILE: str(tmp_path / "missing")}):
        missing = _refusal(stand_in.url.replace("http:", "https:"))
    assert missing is not None and "no certificates" in missing.message


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("profiles.toml", 'active = "x', "profiles.toml"),
        ("profiles.toml", b"\xff\xfe", "profiles.toml"),
        ("profiles.toml", None, "profiles.toml"),
        ("profiles.toml", 'active = "x"\n[profiles.x]\nPREFECT_API_REQUEST_TIMEOUT = "no"\n', "api.request_timeout"),
        ("prefect.toml", "[api", "prefect.toml: invalid TOML"),
        ("pyproject.toml", '[tool.prefect.api]\nrequest_timeout = "no"\n', "api.request_timeout"),
        (".env", "PREFECT_API_REQUEST_TIMEOUT=no\n", "not 'no'"),
    ],
)
def test_settings_of_prefect_s_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str | bytes | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    if text is None:
        (tmp_path / file).mkdir()
    else:
        (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError, match="Prefect's settings: ") as caught, readable_settings():
        Settings()
    assert said in caught.value.message
    assert "profiles.toml" in str(caught.value.hint)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.script("print('trained')\n")
    yield made
    assert not made.clean()


@pytest.mark.local
def test_a_run_is_not_lost_by_settings_that_prefect_cannot_read(world: World) -> None:
    (world.root / "prefect").mkdir()
    (world.root / "prefect/profiles.toml").write_text('active = "x')
    run = world.sojourn("train", "--", "python", "train.py")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "profiles.toml" in run.stdout and "this run has no record in Prefect" in run.stdout
    looked = world.sojourn("doctor")
    assert "✗ prefect" in looked.stdout and "mend it where it stands" in looked.stdout


@pytest.mark.local
@pytest.mark.parametrize(("answer", "said"), [((403, ""), "wants a login (403)"), ((200, "[]"), "Prefect: ")])
def test_a_run_is_not_lost_by_a_server_that_refuses_it_at_its_first_call(
    world: World, stand_in: StandIn, answer: tuple[int, str], said: str
) -> None:
    # It tells its version and takes no flow: a key that may only read, or something else behind the address.
    stand_in.otherwise = answer
    run = world.sojourn("train", "--", "python", "train.py", PREFECT_API_URL=stand_in.url)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "trained" in run.stdout and "this run has no record in Prefect" in run.stdout and said in run.stdout


@pytest.mark.local
def test_what_a_server_refuses_in_the_middle_of_a_command_is_no_fault_of_ours(world: World, stand_in: StandIn) -> None:
    stand_in.otherwise = (403, "")
    done = world.sojourn("deploy", "reap/every-10-minutes", PREFECT_API_URL=stand_in.url)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.startswith("error: the Prefect server at http://127.0.0.1:") and "(403)" in done.stderr
    assert "PREFECT_API_AUTH_STRING" in done.stderr and "fault" not in done.stderr


@pytest.mark.local
@pytest.mark.slow
def test_a_server_of_one_s_own_that_wants_a_login_is_told_of_and_costs_no_run(
    world: World,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect_server import Server

    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:secret")
    server = Server(tmp_path_factory.mktemp("locked"), prefect_database)
    server.start()
    try:
        run = world.sojourn("train", "--", "python", "train.py", PREFECT_API_URL=server.url)
        assert run.returncode == 0, run.stdout + run.stderr
        assert f"the Prefect server at {server.url} wants a login (401): this run has no record" in run.stdout
        looked = world.sojourn("doctor", PREFECT_API_URL=server.url)
        assert "✗ prefect" in looked.stdout and "PREFECT_API_AUTH_STRING=USER:PASSWORD" in looked.stdout
        deployed = world.sojourn("deploy", PREFECT_API_URL=server.url)
        assert deployed.returncode == 3 and "wants a login" in deployed.stderr
        swept = world.sojourn("reap", PREFECT_API_URL=server.url)
        assert swept.returncode == 0 and "wants a login" in swept.stderr

        known = {"PREFECT_API_URL": server.url, "PREFECT_API_AUTH_STRING": "me:secret"}
        recorded = world.sojourn("train", "--", "python", "train.py", **known)
        assert recorded.returncode == 0 and "no record" not in recorded.stdout, recorded.stdout
        assert world.sojourn("reap", **known).stderr == ""
    finally:
        server.stop()
