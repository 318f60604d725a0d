"""Sojourn without its repository: installed as the README says, it does the round trip anywhere."""

from __future__ import annotations

import os
import shlex
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
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST_LINES = [shlex.split(line, comments=True) for line in README.split("```bash\n")[1].split("```")[0].splitlines()]
OURS_IN_ENVIRONMENT = ("PYTHON", "VIRTUAL_ENV", "SOJOURN_", "PREFECT_", "COV_", "PYTEST_")
PACKAGES = ("cli", "deployments", "flows", "tasks", "blocks", "sojourn")
SCRIPT = """
import json, sys
json.dump(sys.path, open("seen.json", "w"))
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
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            of_an_extra = {{"blocks.aws": "prefect_aws", "sojourn.clouds.aws.reaper_function": "boto3"}}
            assert of_an_extra.get(module.name) == error.name, error
"""


@dataclass(frozen=True)
class Installed:
    """A user's computer on which the README's first line has run, in the folder that holds a clone."""

    folder: Path
    environment: dict[str, str]

    @property
    def python(self) -> str:
        """The interpreter of Sojourn's own environment."""
        return str(self.folder / "tools" / "sojourn" / "bin" / "python")

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """A command in the user's terminal."""
        return subprocess.run(words, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("computer")
    _clone(folder / "sojourn")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python").symlink_to(sys._base_executable)  # the user's own, which knows nothing of ours
    (programs / "uv").symlink_to(find_uv_bin())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(OURS_IN_ENVIRONMENT)},
        "PATH": os.pathsep.join((str(programs), os.defpath)),
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "SOJOURN_HOME": str(folder / "data"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",  # nobody there: runs go on without
        "UV_TOOL_DIR": str(folder / "tools"),
        "UV_TOOL_BIN_DIR": str(programs),
        "UV_PYTHON": sys._base_executable,
        "UV_CONSTRAINT": str(ROOT / "constraints.txt"),
        "UV_BUILD_CONSTRAINT": str(ROOT / "constraints.txt"),
        "UV_CACHE_DIR": _uv("cache", "dir").strip(),
        "UV_SYSTEM_CERTS": "1",  # pip trusts what the host trusts, and installed the tests' own environment
    }
    computer = Installed(folder, environment)
    done = computer.run(*FIRST_LINES[0], cwd=folder)
    assert done.returncode == 0, done.stderr
    return computer


def _clone(folder: Path) -> None:
    for name in _tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _uv(*words: str) -> str:
    done = subprocess.run([find_uv_bin(), *words], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_lines_of_the_readme_work_as_they_are_written(installed: Installed) -> None:
    project = installed.folder / FIRST_LINES[1][1]
    project.mkdir()
    (project / "train.py").write_text(SCRIPT)

    for words in FIRST_LINES[2:]:
        done = installed.run(*words, cwd=project)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    assert sorted(path.name for path in project.iterdir()) == ["seen.json", "train.py"]
    assert str(ROOT) not in (project / "seen.json").read_text()


def test_every_command_of_the_readme_is_on_the_path_after_its_install_line(installed: Installed) -> None:
    blocks = [part.split("```")[0].splitlines() for part in README.split("```bash\n")[1:]]
    typed = [shlex.split(line, comments=True) for block in blocks for line in block][3:]
    assert {words[0] for words in typed} == {"sojourn"}
    theirs = ("prefect", "dvc")  # whose parsers know no more of what follows than their own help
    # What each does is tested elsewhere; here, that the program and the verb are there.
    for words in sorted({tuple(words[: 4 if words[1] in theirs else 2]) for words in typed}):
        done = installed.run(*words, "--help", cwd=installed.folder)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        assert words[1] not in theirs or shlex.join(words[1:]) in done.stdout


def test_the_programs_that_came_along_run_in_an_installation_that_shows_sojourn_alone(installed: Installed) -> None:
    assert not shutil.which("dvc", path=installed.environment["PATH"]), "this test wants a PATH without it"
    project = installed.folder / "data-project"
    project.mkdir()
    refused = installed.run("sojourn", "plan", "--stage", "train", cwd=project)
    assert "sojourn train -- python train.py" in refused.stderr
    assert installed.run("sojourn", "dvc", "init", "--no-scm", "-q", cwd=project).returncode == 0
    assert (project / ".dvc" / "config").is_file()
    (project / "dvc.yaml").write_text("stages: {train: {cmd: python train.py, deps: [data.csv], outs: [model.txt]}}\n")
    refused = installed.run("sojourn", "plan", "--stage", "train", cwd=project)
    hint = refused.stderr.splitlines()[-1].strip()
    assert hint == "sojourn dvc status", refused.stderr
    assert "data.csv" in installed.run(*shlex.split(hint), cwd=project).stdout


def test_what_is_missing_is_added_by_a_command_that_such_an_environment_takes(installed: Installed) -> None:
    project = installed.folder / "rented"
    project.mkdir()
    (project / "train.py").touch()
    refused = installed.run("sojourn", "plan", "--where", "aws", "--", "python", "train.py", cwd=project)
    typed = shlex.split(refused.stderr.split("add it: ")[1].splitlines()[0])
    # Sojourn is on no index yet, and somebody else's package of that name must not be installed.
    assert typed[:4] == ["uv", "pip", "install", "--python"] and not [word for word in typed[5:] if "sojourn" in word]
    assert {word.split(">")[0].split("<")[0] for word in typed[5:]} == {"boto3", "dvc-s3", "prefect-aws"}
    assert installed.run(*typed[:2], "show", *typed[3:5], "prefect", cwd=project).returncode == 0


def test_every_installed_module_can_be_imported_without_the_repository(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(installed.python, "-c", IMPORT_ALL, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("/site-packages/") == len(done.stdout.splitlines()) >= len(PACKAGES) - 1


def test_the_wheel_holds_every_file_of_our_packages_and_nothing_else(tmp_path: Path) -> None:
    _clone(tmp_path / "sojourn")  # a build leaves its own folders beside the sources
    where = ("--out-dir", str(tmp_path), str(tmp_path / "sojourn"))
    _uv("build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, *where)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}

    needed = {name for name in _tracked() if name.startswith(tuple(f"{one}/" for one in PACKAGES))}
    assert held == {name for name in needed if name.endswith((".py", ".csv", "/prefect.yaml"))}
