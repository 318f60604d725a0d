"""What DVC and the libraries of its remotes refuse is told as what it is, by real remotes and their own errors."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import asyncssh
import pytest
from botocore.exceptions import EndpointConnectionError
from dvc_project import Project

from sojourn.errors import AccessError, SojournError, SpecError, TransientError
from sojourn.project.dvc.refusals import remote_refusal


class Service:
    """Answers whatever it is asked with one status."""

    def __init__(self) -> None:
        self.status = 403
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self.send_response(service.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_PUT = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    one = Service()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def project(dvc_template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A DVC project of a user without credentials of Amazon's, and with data that its remote lacks."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    return dvc_template.copy(tmp_path / "project")


def refused(project: Project, remote: str) -> SojournError:
    """What a plan and then a push say of a remote."""
    project.write(".dvc/config", f"[core]\n    remote = far\n['remote \"far\"']\n    {remote}\n")
    with pytest.raises(SojournError) as caught:
        dataset = project.dataset()
        dataset.survey(dataset.stage("train"))
        dataset.push(dataset.stage("train"), print)
    assert "DVC remote 'far'" in caught.value.message and "\n" not in caught.value.message
    return caught.value


KEYS = "\n    access_key_id = A\n    secret_access_key = B"


@pytest.mark.parametrize(
    ("remote", "status", "kind", "said", "hint"),
    [
        ("url = s3://b/p\n    endpointurl = URL", 403, AccessError, "wants credentials", "aws configure"),
        (
            f"url = s3://b/p\n    endpointurl = URL{KEYS}",
            403,
            AccessError,
            "does not let these credentials in",
            "AWS_PR",
        ),
        (f"url = s3://b/p\n    endpointurl = URL{KEYS}", 404, SpecError, "there is no such bucket", "remote list"),
        (f"url = s3://b/p\n    endpointurl = localhost:9{KEYS}", 0, SpecError, "cannot be asked", "config -l"),
        ("url = s3://b/p\n    profile = gone", 0, SpecError, "profile (gone) could not be found", "config -l"),
        ("url = http://127.0.0.1:1/x", 0, TransientError, "does not answer", "status --cloud --remote far"),
        ("url = URL/x", 403, AccessError, "does not let these credentials in", "push --remote far"),
        ("url = URL/x", 401, AccessError, "wants credentials", "push --remote far"),
        ("url = azure://b/p", 0, SpecError, "package for azure is not installed", "pip install dvc-azure"),
    ],
)
def test_a_remote_s_refusal_is_told_with_what_opens_it(
    project: Project, service: Service, remote: str, status: int, kind: type[SojournError], said: str, hint: str
) -> None:
    service.status = status
    error = refused(project, remote.replace("URL", service.url))
    assert type(error) is kind, error
    assert said in error.message and hint in str(error.hint)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (asyncssh.PermissionDenied("no more authentication methods"), AccessError, "does not let these credentials in"),
        (asyncssh.HostKeyNotVerifiable("Host key is not trusted"), AccessError, "its host is not known"),
        (asyncssh.ConnectionLost("Connection lost"), TransientError, "does not answer"),
        (asyncssh.SFTPNoSuchFile("No such file"), SpecError, "there is no such bucket or folder"),
        (socket.gaierror(-2, "Name or service not known"), TransientError, "does not answer"),
        (EndpointConnectionError(endpoint_url="http://x"), TransientError, "does not answer"),
        (TimeoutError(), TransientError, "does not answer: TimeoutError"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), SpecError, "its certificate is not trusted"),
        (OSError(28, "No space left on device", "/mnt/x"), TransientError, "is full: /mnt/x: No space left on device"),
        (PermissionError(13, "Permission denied", "/mnt/x"), AccessError, "/mnt/x: Permission denied"),
        (FileNotFoundError(2, "No such file or directory", "/home/me/key"), SpecError, "cannot be asked: /home/me/key"),
        (RuntimeError("odd"), SpecError, "refuses: odd"),
    ],
)
def test_each_library_s_error_is_a_decision(error: Exception, kind: type[SojournError], said: str) -> None:
    found = remote_refusal(error, "far", "ssh", "host/x")
    assert type(found) is kind and said in found.message
    assert found.hint


def test_what_dvc_lets_through_of_its_own_files_is_told_as_dvc_s(project: Project) -> None:
    shutil.rmtree(project.root / ".dvc/tmp", ignore_errors=True)
    project.write(".dvc/tmp", "a file where DVC wants a folder")
    with pytest.raises(SpecError, match="^DVC: ") as caught:
        dataset = project.dataset()
        dataset.survey(dataset.stage("train"))
    assert ".dvc/tmp" in caught.value.message and "dvc doctor" in str(caught.value.hint)


@pytest.mark.parametrize(("status", "known"), [(404, True), (403, False), (405, False)])
def test_a_remote_that_does_not_say_what_it_has_is_told_in_the_plan(
    project: Project, service: Service, status: int, known: bool
) -> None:
    service.status = status
    project.write(".dvc/config", f"[core]\n    remote = far\n['remote \"far\"']\n    url = {service.url}/x\n")
    dataset = project.dataset()
    found = dataset.survey(dataset.stage("train"))
    assert found.push_files == 3, "as far as it says, it has nothing"
    assert (found.unasked == ()) is known


def test_a_remote_that_is_away_is_not_an_empty_one(project: Project) -> None:
    project.write(".dvc/config", "[core]\n    remote = far\n['remote \"far\"']\n    url = http://127.0.0.1:1/x\n")
    dataset = project.dataset()
    with pytest.raises(TransientError, match="does not answer"):
        dataset.survey(dataset.stage("train"))
