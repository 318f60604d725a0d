"""The machine's program as one file: the same bytes everywhere, put down once, and runnable by an old Python."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from sojourn.agent.pack import Archive, pack
from tests.agent.conftest import old_python

AGENT = Path(__file__).parents[2] / "sojourn" / "agent"


def test_it_holds_every_module_but_the_packer_and_what_fetches_it() -> None:
    with zipfile.ZipFile(io.BytesIO(pack().body)) as archive:
        packed = set(archive.namelist())
    modules = {f"sojourn/agent/{path.relative_to(AGENT).as_posix()}" for path in AGENT.rglob("*.py")}
    assert packed == modules - {f"sojourn/agent/{name}" for name in ("pack.py", "bootstrap.py", "__main__.py")} | {
        "__main__.py",
        "sojourn/__init__.py",
    }


def test_its_bytes_depend_on_nothing_but_the_sources(tmp_path: Path) -> None:
    code = "from sojourn.agent.pack import pack; print(pack().name)"
    elsewhere = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", f"import os; os.umask(0o077); {code}"],
        cwd=tmp_path, env=elsewhere, capture_output=True, text=True, check=True,
    )  # fmt: skip
    archive = pack()
    assert answer.stdout.strip() == archive.name == f"sojourn-agent-{archive.sha256[:16]}.pyz"
    assert hashlib.sha256(archive.body).hexdigest() == archive.sha256
    with zipfile.ZipFile(io.BytesIO(archive.body)) as packed:
        entries = packed.infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {(entry.date_time, entry.compress_type, entry.create_system) for entry in entries} == {
        ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED, 3)
    }


def test_of_many_who_install_it_at_once_one_does_and_no_draft_is_left(tmp_path: Path) -> None:
    archive = Archive(os.urandom(1 << 20), "ab" * 32)
    seen: list[bytes] = []
    together = threading.Barrier(8)

    def install() -> None:
        together.wait()
        seen.append(archive.install(tmp_path / "agent").read_bytes())

    threads = [threading.Thread(target=install) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [archive.body] * 8
    assert os.listdir(tmp_path / "agent") == [archive.name]


def test_a_whole_file_is_never_touched_again_and_another_version_lies_beside_it(tmp_path: Path) -> None:
    older, newer = Archive(b"older", "aa" * 32), Archive(b"newer", "bb" * 32)
    first = older.install(tmp_path)
    before = first.stat()
    newer.install(tmp_path)
    assert older.install(tmp_path) == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [b"newer", b"older"]


def test_a_file_that_a_dying_host_left_broken_is_replaced(tmp_path: Path) -> None:
    archive = pack()
    (tmp_path / archive.name).write_bytes(archive.body[:1000])
    assert archive.install(tmp_path).read_bytes() == archive.body


@pytest.mark.parametrize("words", [[], ["walk"], ["run", "--boat", "x"]])
def test_a_mode_that_it_does_not_know_is_answered_with_those_that_it_does(tmp_path: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(pack().install(tmp_path)), *words], capture_output=True, text=True
    )
    assert done.returncode == 1 and "rank --record DIR" in done.stderr and "Traceback" not in done.stderr


def test_a_rank_is_kept_under_an_old_python(tmp_path: Path) -> None:
    command = [old_python(), "-I", "-S", str(pack().install(tmp_path)), "rank", "--record", str(tmp_path / "records")]
    done = subprocess.run([*command, "--", "sh", "-c", "echo said; exit 5"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (5, "said\n", "")
    assert '"exit_code": 5' in (tmp_path / "records/0.json").read_text()
