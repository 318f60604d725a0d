"""The machine makes the script's Python environment itself, from what the order sends, by the real uv."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from uv import find_uv_bin
from wheels import make_wheel

from sojourn.protocol import LocalPackage, Setup
from sojourn.records import FileEntry, Network
from tests.agent.conftest import Lab, old_python, wait_for

pytestmark = pytest.mark.local

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
SLOW = {
    "slow/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "slow"\nbackend-path = ["."]\n',
    "slow/slow.py": "import pathlib, time\npathlib.Path(__file__).with_name('building').touch()\ntime.sleep(300)\n",
}
PYTHON = ("python", "train.py")
# Without what else a developer's host has, among which uv would look for a Python for seconds.
PLAIN = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


@cache
def zipped_uv() -> bytes:
    return gzip.compress(Path(find_uv_bin()).read_bytes(), compresslevel=1)


def sent(lab: Lab, text: str, *files: FileEntry, python: str = HERE, network: Network = "none") -> Setup:
    """An environment of these requirements, as the orchestrator would send it."""
    return Setup(
        digest="0123456789abcdef",
        python=python,
        packages=len(text.splitlines()),
        tool=lab.entry("uv.gz", zipped_uv()),
        requirements=lab.entry("requirements.txt", text.encode()),
        files=files,
        network=network,
    )


def tiny(lab: Lab) -> tuple[str, FileEntry]:
    """A wheel in the store, and the requirement that installs it."""
    wheel = make_wheel(lab.folder / "wheels", "tiny", "1.0")
    entry = lab.entry(f"wheels/{wheel.name}", wheel.read_bytes())
    return f"./wheels/{wheel.name} --hash={entry.hash}\n", entry


def test_the_script_imports_what_the_machine_installed_without_a_network(lab: Lab) -> None:
    line, wheel = tiny(lab)
    script = "import sys, tiny; print(tiny.VERSION, sys.prefix)"
    lab.boot(environment={**PLAIN, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"})
    lab.order(script, argv=PYTHON, setup=sent(lab, line, wheel))

    end = lab.exit()

    assert (end.reason, end.exit_code, end.message) == ("exited", 0, None)
    assert lab.log().decode().split() == ["1.0", f"{lab.scratch()}/environment/venv"]
    assert lab.outputs() == {}, "nothing of the environment comes home"


def test_uv_run_takes_the_environment_that_was_made(lab: Lab) -> None:
    line, wheel = tiny(lab)
    project = {"pyproject.toml": '[project]\nname = "mine"\nversion = "1"\ndependencies = ["tiny"]\n'}
    lab.boot(environment={"PATH": "/usr/bin:/bin"})
    lab.order(
        "import tiny; print(tiny.VERSION)",
        argv=("uv", "run", "--offline", "python", "train.py"),
        files=dict(project),
        setup=sent(lab, line, wheel),
    )

    end = lab.exit()

    assert end.exit_code == 0, end.tail
    assert lab.log() == b"1.0\n" and lab.outputs() == {}


@pytest.mark.parametrize("runner", ["poetry", pytest.param("pdm", marks=pytest.mark.slow)])
def test_a_runner_that_the_machine_lacks_runs_the_program_in_what_was_made(lab: Lab, runner: str) -> None:
    line, wheel = tiny(lab)
    lab.boot(environment={"PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin"})
    lab.order("import tiny; print(tiny.VERSION)", argv=(runner, "run", *PYTHON), setup=sent(lab, line, wheel))

    assert lab.exit().exit_code == 0 and lab.log() == b"1.0\n" and lab.outputs() == {}


def test_the_oldest_python_that_a_machine_may_have_makes_it_too(lab: Lab) -> None:
    line, wheel = tiny(lab)
    python = old_python()
    lab.boot(python=python, environment={"PATH": f"{Path(python).parent}:/usr/bin:/bin"})
    lab.order("import sys, tiny; print(sys.version)", argv=PYTHON, setup=sent(lab, line, wheel, python="3.8"))

    assert lab.exit().exit_code == 0 and lab.log().startswith(b"3.8")


def test_a_package_of_the_project_itself_is_installed_from_the_tree(lab: Lab) -> None:
    backend = """
import pathlib, zipfile
def build_wheel(directory, settings=None, metadata=None):
    pathlib.Path("left by the build").touch()
    with zipfile.ZipFile(pathlib.Path(directory, "mine-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("mine.py", "VERSION = 1")
        wheel.writestr("mine-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 1\\n")
        wheel.writestr("mine-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("mine-1.dist-info/RECORD", "")
    return "mine-1-py3-none-any.whl"
"""
    files = {"lib/pyproject.toml": SLOW["slow/pyproject.toml"].replace("slow", "backend"), "lib/backend.py": backend}
    lab.boot(environment=PLAIN)
    lab.order(
        "import mine; print(mine.VERSION)", argv=PYTHON, files=dict(files), setup=sent(lab, "./outer/inner/tree/lib\n")
    )

    assert lab.exit().exit_code == 0 and lab.log() == b"1\n" and lab.outputs() == {}


def own_package() -> LocalPackage:
    """A package of the project with a src layout and a program."""
    return LocalPackage(
        name="seq-lab",
        version="1.2",
        directory="lib",
        paths=("lib/src",),
        metadata="Metadata-Version: 2.1\nName: seq-lab\nVersion: 1.2\n",
        entry_points="[console_scripts]\nseq = seqlab:main\n",
        scripts={"seq": "seqlab:main"},
    )


MAIN = """
import importlib.metadata, sys
def main():
    print(importlib.metadata.version("seq-lab"), "PYTHONPATH" in __import__("os").environ, *sys.argv[1:])
"""


@pytest.mark.parametrize("made", [True, False], ids=["an environment made here", "the image's own Python"])
def test_a_package_of_the_project_is_as_if_installed(lab: Lab, made: bool) -> None:
    line, wheel = tiny(lab)
    lab.boot(environment=PLAIN)
    lab.order(
        argv=("seq", "--lr", "1"),
        files={"lib/src/seqlab.py": MAIN},
        setup=sent(lab, line, wheel) if made else None,
        packages=(own_package(),),
    )

    end = lab.exit()

    assert end.exit_code == 0, end.tail
    assert lab.log().decode().split() == ["1.2", str(not made), "--lr", "1"]
    assert lab.outputs() == {}


def test_a_machine_s_environment_has_pip_as_a_plain_one_has(lab: Lab) -> None:
    line, wheel = tiny(lab)
    lab.boot(environment=PLAIN)
    lab.order(argv=("python", "-m", "pip", "--version"), setup=sent(lab, line, wheel))

    assert lab.exit().exit_code == 0 and lab.log().startswith(b"pip ")


def test_no_directory_is_twice_on_the_search_path(lab: Lab) -> None:
    lab.boot(environment=PLAIN)
    lab.order("import os; print(os.environ['PATH'])", argv=PYTHON, path=(*PLAIN["PATH"].split(os.pathsep), "tools"))

    lab.exit()

    assert lab.log().decode().strip() == os.pathsep.join([PLAIN["PATH"], str(lab.tree() / "tools")])


def test_a_wheel_with_the_wrong_bytes_starts_nothing(lab: Lab) -> None:
    line, wheel = tiny(lab)
    lab.boot(environment=PLAIN)
    lab.store.put(wheel.source, b"x" * wheel.size)
    lab.order("print('started')", argv=PYTHON, setup=sent(lab, line, wheel))

    end = lab.exit()

    assert (end.reason, end.started_at) == ("refused", None) and lab.log() == b""
    assert wheel.path in (end.message or "") and wheel.hash in (end.message or "")


def test_a_wheel_that_is_not_the_locked_one_is_refused_in_the_words_of_uv(lab: Lab) -> None:
    line, wheel = tiny(lab)
    lab.boot(environment=PLAIN)
    lab.order("print('started')", argv=PYTHON, setup=sent(lab, line.replace(wheel.hash[-4:], "0000"), wheel))

    end = lab.exit()

    assert end.reason == "refused" and lab.log() == b""
    assert "uv could not make it on the machine" in (end.message or "") and "Expected:" in (end.message or "")
    assert "Hash mismatch" in (lab.scratch() / "agent.err").read_text(), "the agent's log has all that uv said"


def test_a_machine_without_a_way_out_hears_of_network_none(lab: Lab) -> None:
    url = "http://127.0.0.1:9/tiny-1.0-py3-none-any.whl"
    lab.boot(environment=PLAIN)
    lab.order("print('started')", argv=PYTHON, setup=sent(lab, f"tiny @ {url}\n", network="internet"))

    end = lab.exit()

    assert end.reason == "refused" and "network: none" in (end.message or "") and url in (end.message or "")


def test_a_python_that_the_image_lacks_is_named(lab: Lab) -> None:
    lab.boot(environment=PLAIN)
    lab.order("print('started')", argv=PYTHON, setup=sent(lab, "", python="3.99"))

    end = lab.exit()

    assert end.reason == "refused" and "the image has no Python 3.99" in (end.message or "")


def build_slowly(lab: Lab) -> None:
    """Order an environment that takes five minutes to make, and wait until it is being made."""
    lab.boot(environment=PLAIN)
    lab.order("print('started')", argv=PYTHON, files=dict(SLOW), setup=sent(lab, "./outer/inner/tree/slow\n"))
    wait_for((lab.tree() / "slow" / "building").exists)


@pytest.mark.parametrize("end", [Lab.stop, lambda lab: lab.agents[0].terminate()], ids=["stop", "SIGTERM"])
def test_a_stop_ends_the_making_at_once(lab: Lab, end: Callable[[Lab], None]) -> None:
    build_slowly(lab)
    wait_for(lambda: getattr(lab.box.beat(1, 0), "phase", "") == "preparing")
    began = time.monotonic()
    end(lab)

    assert lab.exit().reason == "stopped" and time.monotonic() - began < 90
    assert lab.log() == b"" and not left_of(lab)


def test_the_deadline_ends_the_making(lab: Lab) -> None:
    lab.deadline_at = time.time() + 10
    build_slowly(lab)

    assert lab.exit().reason == "deadline" and not left_of(lab)


def left_of(lab: Lab) -> list[str]:
    """The processes that work below this test's folder."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(lab.folder) in line:
            found.append(line)
    return found


@pytest.mark.root
@pytest.mark.parametrize("size", ["30m", "100m"], ids=["none for uv", "none for the packages"])
def test_a_full_disk_is_said_in_plain_words(lab: Lab, size: str) -> None:
    wheel = make_wheel(lab.folder / "wheels", "big", "1.0", files={"big.bin": bytes(90_000_000)})
    entry = lab.entry(f"wheels/{wheel.name}", wheel.read_bytes())
    lab.scratch().mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(lab.scratch())]
    mounted = subprocess.run(words, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        lab.boot(environment=PLAIN)
        lab.order("print('started')", argv=PYTHON, setup=sent(lab, f"./wheels/{wheel.name}\n", entry))
        end = lab.exit()
    finally:
        subprocess.run(["umount", "-l", str(lab.scratch())], check=True)

    assert end.reason == "refused" and "the machine's disk is full" in (end.message or "")


def test_python_is_the_images_python3_where_it_has_no_other_name(lab: Lab) -> None:
    only = lab.folder / "bin"
    only.mkdir()
    (only / "python3").symlink_to(os.path.realpath(sys.executable))
    (only / "sh").symlink_to(str(shutil.which("sh")))
    lab.boot(environment={"PATH": str(only)})
    lab.order("import sys; print(sys.version_info[0])", argv=PYTHON)

    assert lab.exit().exit_code == 0 and lab.log() == b"3\n"
