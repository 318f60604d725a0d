"""The metadata service of EC2 and the keys it gives, from one that may be slow, broken or hostile."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sojourn.agent.clouds import imds
from sojourn.agent.clouds.credentials import Identity
from sojourn.agent.clouds.imds import ROLE, Imds
from sojourn.agent.clouds.sigv4 import Credentials
from sojourn.agent.host.processes import KEYS

META = "/latest/meta-data/"


class Service:
    """Version 2 of the service; `texts` by path, a number stands for a refusal."""

    def __init__(self) -> None:
        self.tokens = 0
        self.asked: list[str] = []
        self.stutter = 0
        self.texts: dict[str, Any] = {
            META + "instance-id": "i-0123456789abcdef0",
            META + "ami-launch-index": "1",
            META + "local-ipv4": "10.0.0.7",
            META + "placement/region": "eu-west-1",
            "/" + ROLE: "sojourn-machine-digits",
        }
        self.role(ends_in=3600)
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                service.tokens += 1
                self.say(200, f"token{service.tokens}")

            def do_GET(self) -> None:
                service.asked.append(self.path)
                if service.stutter:
                    service.stutter -= 1
                    return self.say(503, "")
                if self.headers["x-aws-ec2-metadata-token"] != f"token{service.tokens}":
                    return self.say(401, "")
                text = service.texts.get(self.path, 404)
                self.say(text, "") if isinstance(text, int) else self.say(200, text)

            def say(self, status: int, text: str) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.environment = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.server.server_address[1]}/"}
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def role(self, ends_in: float, key: str = "ASIA1") -> None:
        """The keys of the role from now on."""
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ends_in))
        body = {"Code": "Success", "AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": ends}
        self.texts["/" + ROLE + "sojourn-machine-digits"] = json.dumps(body)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.server.server_close()


def test_a_machine_learns_who_it_is(service: Service) -> None:
    found = Imds(service.environment)

    assert (found.instance_id(), found.launch_index()) == ("i-0123456789abcdef0", 1)
    assert (found.address(), found.region()) == ("10.0.0.7", "eu-west-1")
    assert service.tokens == 1


def test_a_spot_notice_is_none_until_it_comes(service: Service) -> None:
    found = Imds(service.environment)
    assert found.interruption() is None

    service.texts[META + "spot/instance-action"] = '{"action": "terminate", "time": "2026-11-21T12:00:00Z"}'
    assert found.interruption() == {"action": "terminate", "time": "2026-11-21T12:00:00Z"}


def test_a_token_that_ended_is_replaced(service: Service) -> None:
    found = Imds(service.environment)
    found.instance_id()
    service.tokens += 1

    assert found.instance_id() == "i-0123456789abcdef0"


def test_a_service_that_is_busy_is_asked_again(service: Service) -> None:
    service.stutter = 2

    assert Imds(service.environment).address() == "10.0.0.7"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ami-launch-index", "first"),
        ("instance-id", 403),
        ("instance-id", ""),
        ("instance-id", "x" * 70_000),
        ("spot/instance-action", "<html>"),
        ("spot/instance-action", "[" * 20_000),
        ("spot/instance-action", '{"action": 1, "time": null}'),
    ],
)
def test_a_hostile_answer_is_an_error_and_no_more(service: Service, path: str, text: Any) -> None:
    service.texts[META + path] = text
    found = Imds(service.environment)

    with pytest.raises(OSError):
        (found.interruption if "spot" in path else found.launch_index if "index" in path else found.instance_id)()


def test_where_there_is_no_service_the_error_comes_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imds, "TIMEOUT_S", 0.2)
    began = time.monotonic()

    with pytest.raises(OSError, match="does not answer"):
        Imds({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"}).instance_id()
    assert time.monotonic() - began < 10


# --- credentials --------------------------------------------------------------------------------


def test_the_environment_s_keys_come_first(service: Service) -> None:
    given = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}

    assert Identity({**service.environment, **given}).credentials() == Credentials("AKIA", "s", "t")
    assert not service.asked


def test_the_role_s_keys_are_asked_for_once_until_their_end_is_near(service: Service) -> None:
    identity = Identity(service.environment)
    assert identity.credentials() == identity.credentials() == Credentials("ASIA1", "s", "t")
    assert len(service.asked) == 2

    service.role(ends_in=200, key="ASIA2")
    identity.expired(Credentials("ASIA1", "s", "t"))
    assert identity.credentials().key == "ASIA2"
    service.role(ends_in=3600, key="ASIA3")
    assert identity.credentials().key == "ASIA3"


def test_keys_serve_to_their_end_while_the_service_is_silent(service: Service) -> None:
    service.role(ends_in=200)
    identity = Identity(service.environment)
    identity.credentials()
    service.texts.clear()

    assert identity.credentials().key == "ASIA1"


@pytest.mark.parametrize(
    "text", ["", "{}", '{"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c", "Expiration": "soon"}']
)
def test_keys_that_are_none_are_an_error(service: Service, text: str) -> None:
    service.texts["/" + ROLE + "sojourn-machine-digits"] = text

    with pytest.raises(OSError):
        Identity(service.environment).credentials()


def test_a_named_command_gives_the_keys_and_their_end() -> None:
    said = {"Version": 1, "AccessKeyId": "AKIA", "SecretAccessKey": "s", "Expiration": "2999-01-01T00:00:00+00:00"}
    words = [sys.executable, "-c", f"print({json.dumps(json.dumps(said))})"]

    assert Identity({KEYS: json.dumps({"s3": words})}).credentials() == Credentials("AKIA", "s", "")


def test_a_command_that_gives_none_says_why() -> None:
    words = [sys.executable, "-c", "raise SystemExit('the session has ended: aws sso login')"]

    with pytest.raises(OSError, match="no credentials: the session has ended: aws sso login"):
        Identity({KEYS: json.dumps({"s3": words})}).credentials()
