"""What tests of several floors share, and in which order and company they run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from clouds.aws_cloud import aws, aws_hosts, aws_process  # noqa: F401 (fixtures)
from made_once import made_once
from prefect_server import Server

if TYPE_CHECKING:
    from dvc_project import Project

# What a shell starts in the background ignores Ctrl-C, under nohup a lost terminal, and so would all that tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

# These ask one server, whose start takes longer than most of their tests.
ONE_SERVER = ("tests/blocks/", "tests/deployments/", "tests/flows/test_progress.py", "tests/flows/test_train.py")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server, one for all tests of a process."""
    server = Server(tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def dvc_template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A DVC project to copy; DVC takes seconds to make it."""
    import dvc_project

    return dvc_project.template(made_once(tmp_path_factory, "dvc", dvc_project.make_template))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests start processes come first, so that none of them ends long after all others."""
    long = {item.path for item in items if item.get_closest_marker("local") or item.get_closest_marker("root")}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file stay together in one worker, and so do those of ONE_SERVER."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "one server" if nodeid.startswith(ONE_SERVER) else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None
