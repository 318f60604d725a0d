"""What another user of this host can learn or do: by ports, by files, by the process table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import SOJOURN, World
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_API_PORT,
    PREFECT_SERVER_CORS_ALLOWED_ORIGINS,
    temporary_settings,
)
from strangers import KEYS, OTHER_USER, Ours, StandIn, free_port

from cli import listeners, server
from cli.listeners import listener
from sojourn.agent.host import processes
from sojourn.errors import TransientError
from sojourn.run import runs
from sojourn.secrets import surroundings
from sojourn.store.known_stores import remember
from sojourn.store.storage import Store

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
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    assert not made.clean()


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


def test_a_server_of_ours_is_told_to_take_its_user_and_its_own_pages_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    address = server.Address("http://127.0.0.1:4207/api", "http://127.0.0.1:4207", configured=False)
    told = server._environment(address, "sojourn:secret")
    assert told["PREFECT_SERVER_API_AUTH_STRING"] == "sojourn:secret"
    assert told["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert told["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4207,http://localhost:4207"
    assert not KEYS.keys() & told.keys()
    with temporary_settings({PREFECT_SERVER_CORS_ALLOWED_ORIGINS: "https://ours.example"}):
        assert "PREFECT_SERVER_CORS_ALLOWED_ORIGINS" not in server._defaults(address), "the user has chosen"


# --- files and the process table -------------------------------------------------------------


def test_the_database_of_an_earlier_server_is_closed_to_others(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect").mkdir()
    for name in ("prefect.db", "prefect.db-wal", "other.toml"):
        (tmp_path / "prefect" / name).touch(0o644)
    (tmp_path / "prefect" / "prefect.db-link").symlink_to(tmp_path / "prefect" / "other.toml")
    with temporary_settings({PREFECT_HOME: tmp_path / "prefect"}):
        server._close_database()
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "prefect").iterdir()}
    assert found == {"prefect.db": 0o600, "prefect.db-wal": 0o600, "other.toml": 0o644, "prefect.db-link": 0o644}


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
    kept = {path: path.stat().st_mode for path in Path(ours.world.environment["PREFECT_HOME"]).glob("prefect.db*")}
    assert kept and not any(mode & 0o077 for mode in kept.values()), "what a server keeps of runs"


@pytest.mark.local
def test_a_run_is_recorded_on_the_server_of_one_s_own_beside_another_user_s(ours: Ours) -> None:
    ours.world.script("print('trained')\n")
    done = ours.world.sojourn("train", "--", "python", "train.py")
    assert done.returncode == 0 and "no record" not in done.stdout, done.stdout + done.stderr
    assert f"in Prefect: http://127.0.0.1:{ours.port}/" in done.stdout
    seen = ours.world.sojourn("prefect", "flow-run", "ls", "--state", "COMPLETED")
    assert ours.world.show()["run"][:8] in seen.stdout, seen.stdout + seen.stderr
    assert "login" not in ours.world.sojourn("reap").stderr
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


@pytest.mark.local
def test_a_machine_that_is_this_host_keeps_no_key_that_its_script_is_not_to_have(world: World) -> None:
    world.script_that_waits()
    shell = {"AWS_SECRET_ACCESS_KEY": "aws", "HF_TOKEN": "hf", "NAMED": "for the script", "TZ": "Asia/Tokyo"}
    run = world.start_train("--secret", "NAMED", **shell)
    world.wait_for_file("ready")
    kept = {line: environ(pid) for pid, line in world.machines().items()}
    (world.signs / "go").touch()
    assert run.wait() == 0, run.output
    assert len(kept) >= 3, "supervisor, agent, script"
    for line, variables in kept.items():
        assert not {"AWS_SECRET_ACCESS_KEY", "HF_TOKEN"} & variables.keys(), line
        assert (variables["NAMED"], variables["TZ"]) == ("for the script", "Asia/Tokyo"), line


def test_keys_of_a_cloud_go_to_a_machine_that_needs_them_alone() -> None:
    shell = {"AWS_PROFILE": "mine", "AWS_SECRET_ACCESS_KEY": "key", "OTHER": "x", "NAMED": "x", "PATH": "/bin"}
    at_home = surroundings.kept_variables(["NAMED"], "file:///store", with_keys=False)
    assert surroundings.of_machine(at_home, shell).keys() == {"NAMED", "PATH"}
    for store, with_keys in (("s3://bucket", False), ("file:///store", True)):
        names = surroundings.kept_variables([], store, with_keys)
        assert surroundings.of_machine(names, shell).keys() == {"AWS_PROFILE", "AWS_SECRET_ACCESS_KEY", "PATH"}


# --- what lies on the disk ----------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    """The mode of each file and folder that stands there."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}


def test_the_data_directory_is_its_user_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOJOURN_HOME", raising=False)
    home = tmp_path / "share" / "sojourn"
    home.mkdir(parents=True)
    (home / "machines").mkdir()  # by an earlier version
    runs.provide_home(home)
    assert not any(mode & 0o077 for mode in [home.stat().st_mode, *modes(home).values()])


def test_a_directory_that_the_user_named_stays_as_it_is_and_what_is_ours_in_it_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "shared"))
    (tmp_path / "shared" / "machines").mkdir(parents=True)
    (tmp_path / "shared").chmod(0o1777)
    runs.provide_home(tmp_path / "shared")
    remember(tmp_path / "shared", Store((tmp_path / "store").as_uri()))
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o1777
    assert not any(mode & 0o077 for mode in modes(tmp_path / "shared").values())


@pytest.mark.local
@pytest.mark.parametrize(("umask", "shown"), [(0o022, 0o055), (0o007, 0o070), (0o077, 0)])
def test_who_may_read_the_one_half_of_a_store_may_read_the_other(world: World, umask: int, shown: int) -> None:
    world.script("open('model.txt', 'w').write('weights')\n")
    store = world.root / "team"
    store.mkdir()
    words = "train --no-prefect -q --store".split()
    command = [str(SOJOURN), *words, store.as_uri(), "--", "python", "train.py"]
    subprocess.run(command, cwd=world.project, env=world.environment, umask=umask, check=True, capture_output=True)
    found = modes(store)
    assert {path.split("/")[0] for path in found} >= {"control", "machine"}
    wrong = {path: oct(mode) for path, mode in found.items() if mode & 0o044 != shown & 0o044}
    assert not wrong and not any(
        (store / path).is_dir() and mode & 0o055 != shown & 0o055 for path, mode in found.items()
    )


@pytest.mark.local
def test_nothing_of_a_run_in_the_data_directory_is_shown_to_others(world: World) -> None:
    world.environment.pop("SOJOURN_HOME")
    world.environment["XDG_DATA_HOME"] = str(world.root / "share")
    world.home = world.root / "share" / "sojourn"
    world.script("print('trained')\n")
    assert world.train().returncode == 0
    assert stat.S_IMODE(world.home.stat().st_mode) == 0o700
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in world.home.iterdir())


@pytest.mark.local
@pytest.mark.slow
def test_deployments_and_workers_use_the_password_by_themselves(ours: Ours) -> None:
    world = ours.world
    world.script("print('by a worker')\n")
    (world.project / "params.yaml").write_text("launch: {command: python train.py}\n")
    deployed = world.sojourn("deploy")
    assert deployed.returncode == 0 and f"at {ours.api}" in deployed.stdout, deployed.stderr
    asked = world.sojourn("prefect", "deployment", "run", "train/manual")
    assert asked.returncode == 0, asked.stderr
    words = ("prefect", "worker", "start", "--pool", "sojourn", "--type", "process", "--run-once")
    worker = world.start(*words, PREFECT_WORKER_QUERY_SECONDS="1")
    world.wait(lambda: "by a worker" in world.sojourn("logs", "last").stdout, 120, every=1.0)
    worker.signal(signal.SIGTERM)
    worker.wait()
    assert "401" not in worker.output and "Unauthorized" not in worker.output, worker.output
    seen = world.sojourn("prefect", "flow-run", "ls", "--state", "COMPLETED", "--limit", "1")
    assert world.show()["run"][:8] in seen.stdout, seen.stdout
    assert ours.login.partition(":")[2] not in worker.output + deployed.stdout + asked.stdout


@pytest.mark.parametrize(
    "damage", ["{}", "", "[1]", '{"pid": 1}', '{"pid": "x", "start_time": 1, "boot_id": [], "api": 7}']
)
def test_a_damaged_record_of_the_server_stops_nobody_and_is_told(
    home: Path, stand_ins: list[StandIn], damage: str
) -> None:
    stand_ins.append(ours := StandIn(b'"3.8.8"'))
    (home / "prefect-server.password").write_text("sojourn:secret\n")
    record(home, os.getpid(), ours.port)
    (home / "prefect-server.json").write_text(damage)
    with temporary_settings({PREFECT_SERVER_API_PORT: ours.port}):
        address = server.find_address()
        assert (address.port, address.login) == (ours.port, "sojourn:secret"), "it listens there, and is this user's"
        assert "prefect-server.json is damaged" in str(address.word)
        assert server.describe_server()[0] == "weak"
        assert server.stop_server() is None
        assert server.find_address().word is None, "stopping has forgotten it"
