"""Sojourn without its repository: the wheel, installed as a user installs it, does the round trip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from uv import find_uv_bin

pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]  # the first installation may have to download

ROOT = Path(__file__).parent.parent
PACKAGES = ("cli", "deployments", "flows", "tasks", "blocks", "sojourn")
SCRIPT = """
import json, sys
json.dump(sys.path, open("seen.json", "w"))
print("trained")
"""
IMPORT_ALL = f"""
import importlib, pkgutil
for name in {PACKAGES!r}:
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert error.name == name == "deployments", error
        continue
    print(package.__file__)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
"""


@dataclass(frozen=True)
class Installed:
    """What `uv tool install` left: the wheel it was given, and one program on the user's PATH."""

    wheel: Path
    python: Path
    environment: dict[str, str]

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A command in the user's terminal."""
        return subprocess.run(words, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    wheel = _build(folder)
    tools, programs = folder / "tools", folder / "bin"
    _uv(
        "tool", "install", "--python", sys._base_executable, "--constraints", str(ROOT / "constraints.txt"), str(wheel),
        UV_TOOL_DIR=str(tools), UV_TOOL_BIN_DIR=str(programs),
    )  # fmt: skip
    assert [path.name for path in programs.iterdir()] == ["sojourn"]
    (programs / "python").symlink_to(sys._base_executable)  # the user's own, which knows nothing of ours
    environment = {
        "PATH": os.pathsep.join((str(programs), os.defpath)),
        "HOME": str(folder),
        "SOJOURN_HOME": str(folder / "data"),
        "PREFECT_HOME": str(folder / "prefect"),
        "LANG": "C.UTF-8",
    }
    return Installed(wheel, tools / "sojourn" / "bin" / "python", environment)


def _build(folder: Path) -> Path:
    """The wheel of what git tracks, built in a copy: a build leaves its own folders beside the sources."""
    for name in _tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name)
    where = ("--out-dir", str(folder / "dist"), str(folder / "source"))
    _uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, *where)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _uv(*words: str, **variables: str) -> None:
    done = subprocess.run(
        [find_uv_bin(), "--quiet", *words], cwd="/", env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_plain_script_makes_the_round_trip_in_an_empty_directory(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)

    done = installed.run("sojourn", "train", "--no-prefect", "--", "python", "train.py", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "trained" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seen.json", "train.py"]
    assert str(ROOT) not in (tmp_path / "seen.json").read_text()


def test_every_module_of_the_wheel_can_be_imported_without_the_repository(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(str(installed.python), "-c", IMPORT_ALL, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("/site-packages/") == len(done.stdout.splitlines()) >= len(PACKAGES) - 1


def test_the_wheel_holds_every_file_of_our_packages_and_nothing_else(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}

    needed = {name for name in _tracked() if name.startswith(tuple(f"{one}/" for one in PACKAGES))}
    assert held == {name for name in needed if name.endswith((".py", ".csv", "/prefect.yaml"))}
