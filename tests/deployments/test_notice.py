"""Somebody is told when a sweep finds anything: a real sweep, a real server, and whoever listens."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cli_world import World
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_server import Server, wait
from prefect_world import let_it_end

from deployments import notice
from sojourn.errors import SpecError

pytestmark = pytest.mark.local

BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="team", url=sys.argv[1], json_data={"subject": "{{subject}}", "text": "{{body}}"}
).save("team", overwrite=True)
"""


class Listener(HTTPServer):
    """What a team's chat would be: it keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def team() -> Iterator[Listener]:
    with Listener() as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield listener
        listener.shutdown()
        thread.join()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    assert not world.clean()


def python(world: World, server: Server, code: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=world.project,
        env={**world.environment, "PREFECT_API_URL": server.url},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_block_that_is_there_is_told_by_one_automation(server: Server) -> None:
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        CustomWebhookNotificationBlock(name="chat", url="http://127.0.0.1:9", json_data={}).save("chat", overwrite=True)
        with pytest.raises(SpecError, match="no block is saved as 'custom-webhook/nobody'"):
            notice.difference(client, "custom-webhook/nobody")
        missing = notice.difference(client, "custom-webhook/chat")
        assert missing is not None and missing[1].new
        notice.apply(client, missing[0])
        assert notice.difference(client, "custom-webhook/chat") is None
        (made,) = client.read_automations_by_name(notice.NAME)
        client.delete_automation(made.id)


@pytest.mark.slow
def test_the_team_hears_of_what_a_sweep_found_and_of_nothing_else(world: World, server: Server, team: Listener) -> None:
    known = {"PREFECT_API_URL": server.url}
    refused = world.sojourn("deploy", "reap/every-10-minutes", "--notify", "custom-webhook/team", **known)
    assert refused.returncode == 2 and "no block is saved as 'custom-webhook/team'" in refused.stderr
    python(world, server, BLOCK, f"http://127.0.0.1:{team.server_port}")
    for said in ("notifies", "0 changed"):
        done = world.sojourn("deploy", "reap/every-10-minutes", "--notify", "custom-webhook/team", **known)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr

    sweep = "from flows.reap import reap; reap()"
    python(world, server, sweep)
    world.script_that_waits()
    cli = world.start_train()
    world.wait_for_file("ready")
    cli.kill()
    let_it_end(world)
    python(world, server, sweep)
    heard = wait(lambda: team.heard, 30)

    assert [one["subject"] for one in heard] == ["sojourn: 1 outlived their runs"]
    assert heard[0]["text"].startswith(f"closed {world.run()}: succeeded")
