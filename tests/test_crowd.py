"""One process that follows many runs: what it needs for each is little, and what it asks a cloud is asked for all."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest
from many_followers import Crowd, Scripts
from many_leases import Fleet
from s3_of_files import files_as_s3

from sojourn.clouds.aws.clients import Clients

RUNS = 16


def threads() -> int:
    """Those of this process but for the bucket's."""
    return sum("process_request" not in one.name for one in threading.enumerate())


def test_a_process_that_follows_many_runs_has_one_session_one_question_to_the_cloud_and_two_threads_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sojourn.lease.orchestrator.FOLLOW_SLOWER", 1.0)
    (tmp_path / "store").mkdir()
    with files_as_s3(tmp_path / "store") as files:
        for name, value in files.environment.items():
            monkeypatch.setenv(name, value)
        fleet = Fleet(tmp_path / "store", RUNS, "on-demand", planned=True, left=True, url=files.url)
        files.look()
        scripts, crowd, before = Scripts(tmp_path / "store"), Crowd(fleet), threads()
        sessions = sum(isinstance(one, Clients) for one in gc.get_objects())
        begun = time.time()
        crowd.start()
        while any(one.stat().st_mtime < begun for one in tmp_path.glob("store/control/*/*/owner.json")):
            time.sleep(0.1)
        time.sleep(2.0)
        fleet.amazon.calls.clear()
        time.sleep(4.0)
        assert 1 <= fleet.amazon.calls.total() <= 4, "each run looks at its machine every two seconds"
        assert sum(isinstance(one, Clients) for one in gc.get_objects()) <= sessions + 1
        assert threads() - before <= 2 * RUNS
        ended = scripts.end(within_s=1.0)
        crowd.join(30.0)
    assert crowd.failed == []
    assert max(crowd.noticed[run] - at for run, at in ended.items()) < 3.0
    assert fleet.standing() == set()
