"""What another user of this host can learn or do: by ports, by files, by the process table."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import KEYS, OTHER_USER, Ours, StandIn, free_port
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_PORT, temporary_settings

from cli import listeners, server
from cli.listeners import listener
from sojourn import surroundings
from sojourn.agent import processes
from sojourn.errors import TransientError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory without a server; no other user's settings."""
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield tmp_path / "home"


@pytest.fixture
def stand_ins() -> Iterator[list[StandIn]]:
    made: list[StandIn] = []
    yield made
    for one in made:
        one.close()


def environ(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(entry.partition("=")[::2] for entry in entries if entry)


# --- whose server answers -----------------------------------------------------------------


@as_root
def test_another_user_s_server_is_not_asked_a_single_question(home: Path, stand_ins: list[StandIn]) -> None:
    stand_ins.append(theirs := StandIn(user=OTHER_USER))
    with temporary_settings({PREFECT_SERVER_API_PORT: theirs.port}):
        address = server.find_address()
        assert server.running_server() is None
        assert server.describe_server()[0] == "weak"
    assert address.port != theirs.port and f"port {theirs.port} is taken by a program of nobody" in str(address.word)
    assert not theirs.heard


@as_root
def test_ports_of_others_are_passed_over_one_by_one(home: Path, stand_ins: list[StandIn]) -> None:
    for port in range(20_000, 30_000):
        with contextlib.suppress(OSError):
            stand_ins.append(first := StandIn(user=OTHER_USER, port=port))
            stand_ins.append(StandIn(user=OTHER_USER, port=port + 1))
            break
    with temporary_settings({PREFECT_SERVER_API_PORT: first.port}):
        assert (server.find_address().port or 0) > first.port + 1
    assert not any(one.heard for one in stand_ins)


@pytest.mark.parametrize("answer", [b"<!doctype html><html></html>", b'{"status": "ok"}', b"", b"\xff", b"[" * 500])
def test_a_program_of_one_s_own_that_is_no_prefect_is_left_alone(
    home: Path, stand_ins: list[StandIn], answer: bytes
) -> None:
    stand_ins.append(page := StandIn(answer))
    with temporary_settings({PREFECT_SERVER_API_PORT: page.port}):
        address = server.find_address()
        assert server.running_server() is None
    assert address.port != page.port and "another program of yours" in str(address.word)
    assert all(one.startswith("/api/health") and "Authorization" not in one for one in page.heard)


def test_a_server_that_the_user_names_is_used_whosever_it_is(home: Path, stand_ins: list[StandIn]) -> None:
    stand_ins.append(named := StandIn(user=OTHER_USER if os.geteuid() == 0 else None))
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{named.port}/api"}):
        address = server.find_address()
    assert address.configured and address.port == named.port and address.login is None


def test_the_password_goes_to_the_very_process_that_was_started(home: Path, stand_ins: list[StandIn]) -> None:
    stand_ins.append(mine := StandIn())
    (home / "prefect-server.password").write_text("sojourn:secret\n")
    api = f"http://localhost:{mine.port}/api"
    record(home, os.getpid(), mine.port)
    with temporary_settings({PREFECT_API_URL: api}):
        assert server.find_address().login == "sojourn:secret", "its own process listens there"
    record(home, os.getppid(), mine.port)
    with temporary_settings({PREFECT_API_URL: api}):
        assert server.find_address().login is None, "the process that was started does not listen there"
    assert "secret" not in repr(server.Address(api, api, False, login="sojourn:secret"))


def record(home: Path, pid: int, port: int, **more: object) -> None:
    process = processes.process(pid)
    assert process is not None
    written = {"pid": pid, "start_time": process.start, "boot_id": processes.boot_id(), "locked": True}
    (home / "prefect-server.json").write_text(json.dumps({**written, "api": f"http://127.0.0.1:{port}/api", **more}))


def test_a_server_of_an_earlier_version_is_used_and_told_of(home: Path, stand_ins: list[StandIn]) -> None:
    stand_ins.append(older := StandIn(b'"3.8.8"'))
    record(home, os.getpid(), older.port, locked=False)
    address = server.find_address()
    assert (address.port, address.login) == (older.port, None)
    assert "takes everybody on this host" in str(address.word) and "sojourn ui --stop" in str(address.word)
    assert server.describe_server()[0] == "weak"


def test_a_proxy_is_not_told_the_password(
    home: Path, stand_ins: list[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins += [proxy := StandIn(), mine := StandIn()]
    record(home, os.getpid(), mine.port)
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(TransientError, match="to a proxy"):
            server.running_server()
        monkeypatch.delenv(name)
    assert not proxy.heard


def test_who_listens_is_told_by_the_system(stand_ins: list[StandIn]) -> None:
    stand_ins.append(mine := StandIn())
    found = listener(mine.port)
    assert found is not None and found.is_mine and found.is_held_by(os.getpid()) and not found.is_held_by(os.getppid())
    assert listener(free_port()) is None


@as_root
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_a_listener_on_every_address_is_seen(address: str) -> None:
    import socket

    os.seteuid(OTHER_USER)
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as wide:
            os.seteuid(0)
            wide.bind((address, 0))
            wide.listen()
            found = listener(wide.getsockname()[1])
    finally:
        os.seteuid(0)
    assert found is not None and found.uid == OTHER_USER


@pytest.mark.skipif(not any(Path(one, "lsof").exists() for one in ("/usr/bin", "/usr/sbin")), reason="no lsof here")
def test_without_the_kernel_s_tables_lsof_is_asked(stand_ins: list[StandIn]) -> None:
    stand_ins.append(mine := StandIn())
    found = listeners._by_lsof(mine.port)
    assert found is not None and found.is_mine and found.is_held_by(os.getpid())


# --- files and the process table -------------------------------------------------------------


def test_a_password_that_others_could_read_is_made_anew(home: Path) -> None:
    first = server._provide_login()
    file = home / "prefect-server.password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and server._provide_login() == first
    file.chmod(0o644)
    assert server._provide_login() != first and stat.S_IMODE(file.stat().st_mode) == 0o600
    file.unlink()
    file.symlink_to(home / "elsewhere")
    assert len(server._provide_login()) > 40 and not file.is_symlink() and not (home / "elsewhere").exists()


@pytest.mark.local
def test_no_command_line_holds_the_password_and_no_process_a_key_of_the_terminal(ours: Ours) -> None:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        assert ours.login.partition(":")[2] not in line
    kept = environ(ours.pid)
    assert not KEYS.keys() & kept.keys() and not set(KEYS.values()) & set(kept.values())
    assert {"PATH", "HOME", "PREFECT_HOME"} <= kept.keys()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in ours.world.home.glob("prefect-server*")}
    assert not any(mode & 0o077 for name, mode in modes.items() if name.endswith(("password", "log"))), modes


@pytest.mark.local
def test_a_run_is_recorded_on_the_server_of_one_s_own_beside_another_user_s(ours: Ours) -> None:
    ours.world.script("print('trained')\n")
    done = ours.world.sojourn("train", "--", "python", "train.py")
    assert done.returncode == 0 and "no record" not in done.stdout, done.stdout + done.stderr
    assert f"in Prefect: http://127.0.0.1:{ours.port}/" in done.stdout
    seen = ours.world.sojourn("prefect", "flow-run", "ls", "--state", "COMPLETED")
    assert ours.world.show()["run"][:8] in seen.stdout, seen.stdout + seen.stderr
    assert ours.world.sojourn("reap").stderr == ""
    if os.geteuid() == 0:
        assert not ours.stranger.heard


def test_of_a_terminal_s_environment_what_is_needed_is_kept() -> None:
    needed = "PATH HOME LANG LC_ALL TZ TMPDIR HTTPS_PROXY no_proxy SSL_CERT_FILE XDG_DATA_HOME"
    settings = "SOJOURN_HOME PREFECT_HOME PREFECT_SERVER_DATABASE_CONNECTION_URL"
    keys = "AWS_SECRET_ACCESS_KEY HF_TOKEN WANDB_API_KEY GITHUB_TOKEN OPENAI_API_KEY DATABASE_URL"
    logins = "PREFECT_API_KEY PREFECT_API_AUTH_STRING SSH_AUTH_SOCK"
    shell = dict.fromkeys(f"{needed} {settings}".split(), "x") | dict.fromkeys(f"{keys} {logins}".split(), "secret")
    assert "secret" not in surroundings.of_server(shell).values()
    assert surroundings.of_server(shell).keys() == {name for name, value in shell.items() if value == "x"}
