"""A project's dependencies, locked here for machines of another kind, and what travels to them."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import platform
import threading
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
from wheels import make_wheel

from sojourn.environment import environment, wheels
from sojourn.environment.environment import resolve_away, setup_for
from sojourn.environment.requirements import Lock, lock
from sojourn.environment.target import Target, targets
from sojourn.environment.uv import run_uv
from sojourn.errors import SpecError
from sojourn.project.project import Project
from sojourn.records import Network
from sojourn.renting import Offer
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

INTEL = Target(architecture="x86_64", python="3.12", image_python="3.12")
ARM = Target(architecture="aarch64", python="3.12", image_python="3.12")
BACKEND = '[build-system]\nrequires = []\nbuild-backend = "none"\nbackend-path = ["."]\n'
LIB = BACKEND + '[project]\nname = "lib"\nversion = "1"\n'
LOCAL = "--no-index\n--find-links wheels\n"


def offer(architecture: str = "x86_64", python: str | None = "3.12.3") -> Offer:
    return Offer(
        provider="x", machine="m", place="p", price=1, cpus=1, memory=1, architecture=architecture, python=python
    )


class Index(http.server.ThreadingHTTPServer):
    """A package index on loopback, with a login if one is set."""

    def __init__(self, files: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = files
        self.login: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        given = b64decode((self.headers["Authorization"] or "").removeprefix("Basic ")).decode()
        path = self.server.files / self.path.rsplit("/", 1)[-1]
        if self.server.login not in (None, given):
            return self._say(401)
        if path.is_file():
            return self._say(200, path.read_bytes())
        found = self.server.files.glob(f"{self.path.strip('/').rsplit('/', 1)[-1]}-*.whl")
        links = [f'<a href="/files/{file.name}#sha256={_hash(file)}">{file.name}</a>' for file in found]
        self._say(200 if links else 404, "\n".join(links).encode())

    do_HEAD = do_GET

    def _say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hostile directory with a tiny package in it, its user with no login of his own."""
    project = tmp_path / 'it\'s a "Prüf" dir'
    make_wheel(project / "wheels", "tiny", "1.0")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return project


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A data directory where uv has been zipped before, which takes seconds; for tests that do not start it."""
    cache = tmp_path / "home/environments/wheels"
    cache.mkdir(parents=True)
    for target in (INTEL, ARM):
        (cache / f"uv-{wheels.version('uv')}-{target.platform}.gz").write_bytes(b"uv")
    return tmp_path / "home"


@pytest.fixture
def index(project: Path) -> Iterator[Index]:
    """The same package on an index."""
    index = Index(project / "wheels")
    thread = threading.Thread(target=index.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield index
    index.shutdown()
    thread.join()
    index.server_close()


def locked(project: Path, text: str, target: Target = INTEL, offline: bool = False) -> Lock:
    (project / "requirements.txt").write_text(text)
    return lock("requirements.txt", project, project, target, offline=offline)


def by_index(index: Index) -> str:
    return f"--index-url {index.url}/simple\ntiny\n"


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# --- the lock ---------------------------------------------------------------------------------


def test_what_an_index_has_is_named_by_address_and_hash(project: Path, index: Index) -> None:
    found = locked(project, by_index(index))

    wheel = next((project / "wheels").iterdir())
    assert found.text == f"tiny @ {index.url}/files/{wheel.name} --hash=sha256:{_hash(wheel)}\n"
    assert (found.packages, found.sent, found.built) == (1, (), ())


def test_without_a_way_out_the_same_file_travels(project: Path, index: Index) -> None:
    found = locked(project, by_index(index), offline=True)

    wheel = next((project / "wheels").iterdir())
    assert found.text == f"./wheels/{wheel.name} --hash=sha256:{_hash(wheel)}\n"
    assert [one.url for one in found.sent] == [f"{index.url}/files/{wheel.name}"]


def test_a_file_of_this_host_always_travels(project: Path) -> None:
    found = locked(project, LOCAL + "tiny\n./wheels/tiny-1.0-py3-none-any.whl\n")

    wheel = next((project / "wheels").iterdir())
    assert [(one.name, one.size) for one in found.sent] == [(wheel.name, wheel.stat().st_size)]


@pytest.mark.parametrize(
    ("target", "tag"), [(INTEL, "cp312-cp312-manylinux_2_28_x86_64"), (ARM, "cp312-cp312-manylinux2014_aarch64")]
)
def test_the_wheel_is_the_one_for_the_machine_and_not_for_this_host(project: Path, target: Target, tag: str) -> None:
    for other in ("cp312-cp312-manylinux_2_28_x86_64", "cp312-cp312-manylinux2014_aarch64", "cp311-cp311-win_amd64"):
        make_wheel(project / "wheels", "fast", "1.0", tag=other)

    assert locked(project, LOCAL + "fast\n", target).sent[0].name == f"fast-1.0-{tag}.whl"


def test_a_package_of_the_project_is_served_from_the_tree_and_not_installed(project: Path) -> None:
    (project / "lib").mkdir()
    (project / "lib/pyproject.toml").write_text(LIB)

    for offline in (False, True):
        found = locked(project, "-e ./lib\n", offline=offline)
        assert (found.text, found.served) == ("", ("lib",))
    below = lock("requirements.txt", project, project.parent, INTEL, offline=False)
    assert below.served == (f"{project.name}/lib",), "from the top of the git tree"


def test_a_package_that_must_be_compiled_is_named_as_it_lies_on_the_machine(project: Path) -> None:
    (project / "lib").mkdir()
    (project / "lib/pyproject.toml").write_text(LIB + '[tool.setuptools]\next-modules = [{name = "fast"}]\n')

    assert locked(project, "-e ./lib\n").text == "-e ./outer/inner/tree/lib\n"
    with pytest.raises(SpecError, match="'lib' is built from .*, which needs the internet"):
        locked(project, "-e ./lib\n", offline=True)


def test_a_directory_outside_the_project_is_refused(project: Path) -> None:
    (project.parent / "lib").mkdir()
    (project.parent / "lib/pyproject.toml").write_text(LIB)

    with pytest.raises(SpecError, match=r"'lib' lies in .*lib, outside the project"):
        locked(project, "../lib\n")


def test_a_lock_file_of_uv_is_followed_for_the_machine(project: Path) -> None:
    make_wheel(project / "wheels", "extra", "1.0")
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.9"\n'
        'dependencies = ["tiny==1.0", "extra; platform_machine == \'aarch64\'"]\n'
        '[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
    )
    run_uv("lock", "--quiet", cwd=project)

    names = {
        target: [one.name.split("-")[0] for one in lock("uv.lock", project, project, target, offline=True).sent]
        for target in (INTEL, ARM)
    }
    assert names == {INTEL: ["tiny"], ARM: ["extra", "tiny"]}


def test_a_requirement_that_does_not_exist_is_said_in_the_words_of_uv(project: Path) -> None:
    with pytest.raises(SpecError, match=r"(?s)uv could not do it: .*nonsuch") as caught:
        locked(project, LOCAL + "nonsuch==9\n")
    assert "mend requirements.txt" in (caught.value.hint or "")


# --- the Python of the machine ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "asked", "requires", "python"),
    [
        ("3.12.3", None, None, "3.12"),
        (None, None, None, "3.12"),
        ("3.10", None, None, "3.10"),
        ("3.10", None, ">=3.9", "3.10"),
        ("3.10", None, ">=3.11", "3.11"),
        ("3.12.3", None, ">=3.12.1", "3.12"),
        ("3.12", None, "<3.12", "3.11"),
        ("3.12", None, ">=3.13", "3.13"),
        ("3.12", "3.11.4\n", ">=3.9", "3.11"),
        ("3.12", "# ours\ncpython-3.13\n", None, "3.13"),
    ],
)
def test_the_python_is_the_images_unless_the_project_asks(
    tmp_path: Path, image: str | None, asked: str | None, requires: str | None, python: str
) -> None:
    if asked:
        (tmp_path / ".python-version").write_text(asked)
    if requires:
        (tmp_path / "pyproject.toml").write_text(f'[project]\nrequires-python = "{requires}"\n')

    (found,) = targets([offer(python=image)], tmp_path)

    assert found.python == python
    assert found.brings_python == (image is not None and not image.startswith(python))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (".python-version", "pypy3.10", "'pypy3.10' is not a Python that a rented machine can get"),
        ("pyproject.toml", "[project]\nrequires-python = '<3'\n", "requires-python: no Python from 3.8 to"),
    ],
)
def test_a_python_that_nobody_has_is_refused(tmp_path: Path, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)

    with pytest.raises(SpecError, match=message):
        targets([offer()], tmp_path)


def test_without_a_way_out_the_images_python_must_do(project: Path) -> None:
    (project / "requirements.txt").write_text(LOCAL + "tiny\n")
    (project / ".python-version").write_text("3.13\n")

    with pytest.raises(SpecError, match=r"asks for Python 3\.13 and the image has 3\.12"):
        sent(project, [offer()])


# --- what travels -----------------------------------------------------------------------------


def sent(project: Path, offers: list[Offer], network: Network = "none") -> tuple[Mailbox, environment.Environment]:
    mailbox = Mailbox(Store((project.parent / "store").as_uri()), "digits", "calm-heron-7f3a")
    return mailbox, resolve_away("auto", Project.at(project), offers, network)


def test_each_kind_of_machine_on_offer_has_its_lock(project: Path, home: Path) -> None:
    (project / "requirements.txt").write_text(LOCAL + "tiny\n")
    offers = [offer(), offer("arm64"), offer(), offer(python=None)]
    mailbox, found = sent(project, offers)
    setups, _ = environment.send(found, "none", mailbox, home)

    kinds = [(one.target.architecture, one.target.image_python) for one in found.locks]
    assert kinds == [("x86_64", "3.12"), ("aarch64", "3.12"), ("x86_64", None)]
    assert [setup_for(found, setups, one) for one in offers] == [setups.setups[at] for at in (0, 1, 0, 2)]


def test_a_second_run_sends_nothing(project: Path, index: Index) -> None:
    (project / "requirements.txt").write_text(by_index(index))
    mailbox, found = sent(project, [offer(platform.machine())])
    home = project.parent / "home"

    setups, first = environment.send(found, "none", mailbox, home)
    index.shutdown()
    again, second = environment.send(found, "none", mailbox, home)

    assert first > 1_000_000 and second == 0 and again == setups
    entries = (setups.setups[0].tool, setups.setups[0].requirements, *setups.setups[0].files)
    assert [f"sha256:{hashlib.sha256(mailbox.store.get(one.source)).hexdigest()}" for one in entries] == [
        one.hash for one in entries
    ]
    assert gzip.decompress(mailbox.store.get(setups.setups[0].tool.source)).startswith(b"\x7fELF")


def test_an_index_that_gives_other_bytes_than_it_said_is_refused(project: Path, index: Index, home: Path) -> None:
    (project / "requirements.txt").write_text(by_index(index))
    mailbox, found = sent(project, [offer(platform.machine())])
    next((project / "wheels").iterdir()).write_bytes(b"other")

    with pytest.raises(SpecError, match=r"tiny-1\.0-py3-none-any\.whl: expected sha256 .*, found"):
        environment.send(found, "none", mailbox, home)


def test_a_login_stays_here_and_what_needs_it_travels(project: Path, index: Index, home: Path) -> None:
    index.login = "me:s3cret"
    (project.parent / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    (project / "requirements.txt").write_text(by_index(index).replace("http://", "http://me:s3cret@"))
    mailbox, found = sent(project, [offer(platform.machine())], "internet")

    setups, _ = environment.send(found, "internet", mailbox, home)

    assert [one.path for one in setups.setups[0].files] == ["wheels/tiny-1.0-py3-none-any.whl"]
    assert b"s3cret" not in found.to_bytes() + setups.to_bytes()


def test_a_login_that_is_missing_is_asked_for(project: Path, index: Index, home: Path) -> None:
    (project / "requirements.txt").write_text(by_index(index))
    mailbox, found = sent(project, [offer(platform.machine())])
    index.login = "me:s3cret"

    with pytest.raises(SpecError, match="answers 401") as caught:
        environment.send(found, "none", mailbox, home)
    assert "netrc" in (caught.value.hint or "")


def test_another_platform_gets_uv_from_its_own_wheel(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ARM if platform.machine() == "x86_64" else INTEL
    version = wheels.version("uv")
    tag = f"py3-none-manylinux_2_28_{other.architecture}"
    make_wheel(project / "wheels", "uv", version, tag=tag, files={f"uv-{version}.data/scripts/uv": "a program"})
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(project / "wheels"))
    (project / "requirements.txt").write_text(LOCAL + "tiny\n")
    mailbox, found = sent(project, [offer(other.architecture)])

    setups, _ = environment.send(found, "none", mailbox, project.parent / "home")

    assert gzip.decompress(mailbox.store.get(setups.setups[0].tool.source)) == b"a program"


def test_a_login_in_a_requirements_file_is_used_on_this_host(project: Path, index: Index) -> None:
    index.login = "me:s3cret"
    (project / "requirements.txt").write_text(by_index(index).replace("http://", "http://me:s3cret@"))
    home = project.parent / "home"

    found = environment.resolve("auto", project, {"PATH": ""})
    assert environment.build(found, project, home)

    kept = [path for path in (home / "environments").rglob("*.toml") if b"s3cret" in path.read_bytes()]
    assert list((home / "environments").glob("*/lib/python*/site-packages/tiny.py"))
    assert kept == [], "no login is kept"
