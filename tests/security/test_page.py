"""What a page in the user's browser, or a name that leads to 127.0.0.1, can do with the Prefect server of ours."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from typing import Any

import pytest
from strangers import Ours
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.local
EVIL = "https://evil.example"
OPEN = {"/health", "/ready"}  # they tell that a server lives, and nothing else


def ask(ours: Ours, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, Any, str]:
    """Status, headers and body of an answer; `__` in a header's name stands for a hyphen."""
    connection = http.client.HTTPConnection("127.0.0.1", ours.port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("__", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


def login(ours: Ours) -> str:
    return "Basic " + base64.b64encode(ours.login.encode()).decode()


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_a_foreign_page_is_not_let_ask_what_needs_a_question_first(ours: Ours, method: str) -> None:
    wanted = {"Access__Control__Request__Method": method, "Access__Control__Request__Headers": "authorization"}
    status, headers, _ = ask(ours, "OPTIONS", "/api/flows/filter", Origin=EVIL, **wanted)
    assert status == 400 and headers["access-control-allow-origin"] is None
    own = f"http://127.0.0.1:{ours.port}"
    status, headers, _ = ask(ours, "OPTIONS", "/api/flows/filter", Origin=own, **wanted)
    assert (status, headers["access-control-allow-origin"]) == (200, own)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json", None])
@pytest.mark.parametrize("host", [None, "evil.example", "127.0.0.1.evil.example:80"])
def test_a_request_that_a_page_sends_without_asking_does_nothing(
    ours: Ours, kind: str | None, host: str | None
) -> None:
    more = {"Content__Type": kind, "Host": host}
    headers = {name: value for name, value in more.items() if value is not None}
    for path in ("/api/flows/", "/api/deployments/00000000-0000-0000-0000-000000000000/create_flow_run", "/api/events"):
        status, _, said = ask(ours, "POST", path, json.dumps({"name": "theirs"}), Origin=EVIL, **headers)
        assert status in (401, 403) and ("Unauthorized" in said or "CSRF" in said), (path, status, said)


def test_a_name_that_leads_here_is_told_nothing_of_any_run(ours: Ours) -> None:
    _, _, described = ask(ours, "GET", "/openapi.json", Host="evil.example")
    paths = json.loads(described)["paths"] if described.startswith("{") else {}
    asked = {path for path, methods in paths.items() if "get" in methods and path.startswith("/api")}
    asked |= {"/api/admin/version", "/api/admin/settings", "/api/flow_runs/1", "/api/csrf-token?client=x"}
    for path in asked - {f"/api{one}" for one in OPEN}:
        status, _, said = ask(ours, "GET", path, Host="evil.example")
        assert (status, json.loads(said)) == (401, {"exception_message": "Unauthorized"}), path
    for path in ("/", "/ui-settings", "/runs"):
        assert ours.login.partition(":")[2] not in ask(ours, "GET", path, Host="evil.example")[2]


def test_who_has_the_password_still_needs_a_token_of_the_page_s(ours: Ours) -> None:
    known = {"Authorization": login(ours), "Content__Type": "application/json"}
    status, _, said = ask(ours, "POST", "/api/flows/filter", "{}", **known)
    assert status == 403 and "CSRF" in said
    status, _, said = ask(ours, "GET", "/api/csrf-token?client=me", **known)
    token = json.loads(said)["token"]
    own = {"Prefect__Csrf__Token": token, "Prefect__Csrf__Client": "me", **known}
    assert ask(ours, "POST", "/api/flows/filter", "{}", **own)[0] == 200, "the UI's own way"


@pytest.mark.parametrize("path", ["/api/events/out", "/api/events/in", "/api/logs/out"])
@pytest.mark.parametrize("first", [None, {"type": "auth", "token": None}, {"type": "auth", "token": "sojourn:guess"}])
def test_a_socket_without_the_password_is_closed(ours: Ours, path: str, first: dict[str, Any] | None) -> None:
    protocols: Any = ["prefect"] if first else None
    with pytest.raises((ConnectionClosed, InvalidStatus)):  # noqa: SIM117
        with connect(f"ws://127.0.0.1:{ours.port}{path}", subprotocols=protocols, origin=EVIL) as socket:  # type: ignore[arg-type]
            socket.send(json.dumps(first or {"type": "filter", "filter": {}}))
            socket.recv(timeout=20)


def test_the_pages_tell_a_browser_to_ask_for_the_password(ours: Ours) -> None:
    told = json.loads(ask(ours, "GET", "/ui-settings")[2])
    assert told["auth"] == "BASIC" and told["csrf_enabled"] is True
    shown = ours.world.sojourn("ui", "--no-browser").stdout
    assert f"cat {ours.world.home / 'prefect-server.password'}" in shown and ours.login not in shown
