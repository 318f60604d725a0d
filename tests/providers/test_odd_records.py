"""What a machine's own files say is not obeyed: a script of this host's user may have written there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sojourn.agent.host import processes
from sojourn.agent.host.processes import Process
from sojourn.agent.script.script import Script
from sojourn.names import LeaseName
from sojourn.providers.local import LocalProvider

NAME = LeaseName("quiet-heron-7f3a", 1, 0)
TRUE = {
    "pid": 2**22 + 5, "start_time": "1", "boot_id": "b", "host": os.uname().nodename, "created_at": 1.0,
    "deadline_at": 2.0,
}  # fmt: skip
REQUEST = {
    "token": str(NAME),
    "machines": [NAME.machine(0)],
    "tags": {"project": "digits", "run": NAME.run, "attempt": 1, "deadline": 2.0},
    "boot": {"grace_s": 1.0, "store": None},
}
ODD_STATES = [
    '{"pid": 1e400}', '{"pid": -1}', '{"pid": 0}', '{"pid": "x"}', "{}", "[]", "", "null", "\0" * 100, "[" * 100_000,
    json.dumps({**TRUE, "pid": -1}), json.dumps({**TRUE, "pid": 0}), json.dumps({**TRUE, "pid": True}),
    json.dumps({**TRUE, "pid": "../.."}), json.dumps(TRUE).replace("1.0", "1e400"), json.dumps({**TRUE, "host": 7}),
    json.dumps({**TRUE, "host": "elsewhere"}).replace("2.0", "1e400"), json.dumps({**TRUE, "boot_id": None}),
    json.dumps({**TRUE, "pid": 10**30}),
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> LocalProvider:
    provider = LocalProvider(tmp_path)
    node = provider.machines / str(NAME) / "0"
    node.mkdir(parents=True)
    (node.parent / "request.json").write_text(json.dumps(REQUEST))
    (node / "boot.json").write_text("{}")
    return provider


def gone(provider: LocalProvider) -> bool:
    """Whether it can be given back at once, and no sweep sees it again."""
    begun = time.monotonic()
    assert provider.release(str(NAME)) is True
    assert time.monotonic() - begun < 2.0
    return provider.leases() == []


@pytest.mark.parametrize("body", ODD_STATES, ids=range(len(ODD_STATES)))
def test_a_machine_whose_state_is_none_is_not_alive_and_can_be_given_back(home: LocalProvider, body: str) -> None:
    node = home.machines / str(NAME) / "0"
    (node / "state.json").write_text(body)
    seen = home.observe(str(NAME))
    assert seen is not None and seen.deadline_at == 2.0 and [one.state for one in seen.machines] == ["gone"]
    assert gone(home)


@pytest.mark.parametrize("file", ["state.json", "ended.json", "../release.json", "../request.json"])
def test_a_pipe_among_a_machine_s_files_is_not_waited_for(home: LocalProvider, file: str) -> None:
    path = home.machines / str(NAME) / "0" / file
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert home.observe(str(NAME)) is not None
    assert gone(home)


@pytest.mark.parametrize("body", ['{"at": "x", "by": 7, "kept": []}', '{"at": 1e400}', '{"at": -1, "by": null}', "{}"])
def test_an_odd_word_about_a_machine_s_end_keeps_no_machine_open(home: LocalProvider, body: str) -> None:
    folder = home.machines / str(NAME)
    for file in ("0/ended.json", "release.json"):
        (folder / file).write_text(body)
    seen = home.observe(str(NAME))
    assert seen is not None and seen.machines[0].state == "gone" and seen.machines[0].ended_at is None
    assert gone(home)


@pytest.mark.parametrize(
    "odd",
    [
        {"machines": 7}, {"machines": ["m"] * 100_000}, {"machines": None}, {"tags": []}, {"boot": "x"},
        {"tags": {**REQUEST["tags"], "deadline": 1e400}}, {"tags": {**REQUEST["tags"], "attempt": {}}},  # type: ignore[dict-item]
    ],
    ids=range(7),
)  # fmt: skip
def test_a_request_that_is_none_hides_no_machine_and_sets_no_deadline(home: LocalProvider, odd: dict[str, Any]) -> None:
    folder = home.machines / str(NAME)
    (folder / "request.json").write_text(json.dumps({**REQUEST, **odd}))
    (folder / "0" / "work").mkdir()
    (folder / "0" / "state.json").write_text(json.dumps({**TRUE, "boot_id": processes.boot_id()}))
    (seen,) = home.leases()
    assert seen.run == NAME.run and seen.deadline_at < 10 and [one.state for one in seen.machines] == ["ended"]
    assert gone(home)


@pytest.mark.parametrize("pid", [0, -1, True, 1e400, "x", "self", None])
def test_no_signal_ever_goes_to_what_is_no_process(pid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *about: sent.append(about))
    assert processes.process(pid) is None
    processes.send(Process(pid, 1, ""), signal.SIGTERM)
    assert sent == []


@pytest.mark.parametrize("name", ["-1", "0", "x", "", "٣", "9" * 30, "01"])
def test_a_rank_is_no_number_that_a_script_has_noted_for_one(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.pid").touch()
    script = Script.__new__(Script)
    with subprocess.Popen(["sleep", "0"]) as started:
        script._process, script._records = started, str(tmp_path)
        assert script._roots() == [started.pid]
