"""What tests of several floors share, and in which order and company they run."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from clouds.aws_cloud import aws, aws_hosts, aws_process  # noqa: F401 (fixtures)
from made_once import made_once
from prefect_server import Server, make_database

if TYPE_CHECKING:
    from dvc_project import Project

# What a shell starts in the background ignores Ctrl-C, under nohup a lost terminal, and so would all that tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# DVC starts two processes after each command that count users and ask for a newer version; Prefect counts too.
os.environ |= {"DVC_NO_ANALYTICS": "1", "DVC_TEST": "1", "DO_NOT_TRACK": "1"}

TABLE = Path(__file__).parent.parent / "docs" / "tests.md"  # what each file took, as `make test-long` wrote it
UNKNOWN_S = 20.0  # of a file that is not in there yet, and starts processes

# The tests of each of these ask one server, whose start takes longer than most of them.
ONE_SERVER = {
    "the tests' server": (
        "tests/blocks/",
        "tests/deployments/",
        "tests/flows/test_faults_inside.py",
        "tests/flows/test_processes_die.py",
        "tests/flows/test_progress.py",
        "tests/flows/test_train.py",
        "tests/flows/test_workers_die.py",
    ),
    "the server of sojourn ui": ("tests/security/test_page.py", "tests/security/test_user.py"),
}


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database of a server that nobody has used."""
    return made_once(tmp_path_factory, "prefect-database", make_database)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[Server]:
    """A Prefect server, one for all tests of a process."""
    server = Server(tmp_path_factory.mktemp("prefect"), prefect_database)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def dvc_template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A DVC project to copy; DVC takes seconds to make it."""
    import dvc_project

    return dvc_project.template(made_once(tmp_path_factory, "dvc", dvc_project.make_template))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that nothing ends long after all others."""
    took = dict(_took())
    starts = {item.path for item in items if item.get_closest_marker("local") or item.get_closest_marker("root")}

    def seconds(item: pytest.Item) -> float:
        if _server(item.nodeid):
            return math.inf
        name = item.nodeid.partition(".py::")[0].removeprefix("tests/")
        return took.get(name, UNKNOWN_S if item.path in starts else 0.0)

    items.sort(key=seconds, reverse=True)


def _server(nodeid: str) -> str | None:
    """Which server a test asks, of those that several files share."""
    return next((server for server, files in ONE_SERVER.items() if nodeid.startswith(files)), None)


def _took() -> Iterator[tuple[str, float]]:
    """The files of the table and their seconds."""
    for line in TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else ():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[4].isdigit():
            yield cells[1], float(cells[4])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file stay together in one worker, and so do those of one server."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _server(nodeid) or super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
