"""The script's Python: which file decides it, and that uv builds it once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from wheels import make_wheel

from sojourn.environment import environment
from sojourn.environment.environment import Environment, build, ready, resolve, search_path
from sojourn.environment.uv import run_uv
from sojourn.errors import SpecError

SURROUNDINGS = {"PATH": os.environ["PATH"], "VIRTUAL_ENV": "/venv", "SECRET": "x"}
REQUIREMENTS = "--no-index\n--find-links wheels\ntiny=={version}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A hostile directory with two versions of a tiny package beside it."""
    project = tmp_path / 'it\'s a "Prüf" dir'
    for version in ("1.0", "2.0"):
        make_wheel(project / "wheels", "tiny", version)
    return project


def require(project: Path, version: str, name: str = "requirements.txt") -> Environment:
    """The environment of a project that asks for this version."""
    (project / name).write_text(REQUIREMENTS.format(version=version))
    return resolve("auto", project, SURROUNDINGS)


def version_in(built: Environment, home: Path) -> str:
    """What the environment's own python imports."""
    python = Path(search_path(built, home)[0], "python")
    return subprocess.run([python, "-c", "import tiny; print(tiny.VERSION)"], capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ([], None),
        (["pyproject.toml"], "pyproject.toml"),
        (["pyproject.toml", "requirements.txt"], "requirements.txt"),
        (["pyproject.toml", "requirements.txt", "uv.lock"], "uv.lock"),
    ],
)
def test_the_most_exact_file_decides(tmp_path: Path, files: list[str], source: str | None) -> None:
    for name in files:
        (tmp_path / name).write_text("[project]\ndependencies = []\n" if name == "pyproject.toml" else "")

    found = resolve("auto", tmp_path, SURROUNDINGS)

    assert (found.kind, found.source) == ("current" if source is None else "built", source)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[tool.ruff]\nline-length = 120\n", "current"),
        ("[project]\nname = 'x'\nversion = '1'\n", "current"),
        ("[project]\nname = 'x'\nversion = '1'\ndependencies = []\n", "built"),
        ("[project]\nname = 'x'\ndynamic = ['version', 'dependencies']\n", "built"),
        ("[project\n", "built"),
    ],
)
def test_a_pyproject_counts_only_when_it_names_dependencies(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)

    assert resolve("auto", tmp_path, SURROUNDINGS).kind == kind


def test_current_is_the_path_of_the_caller_and_takes_no_other_variables(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").touch()

    found = resolve("current", tmp_path, SURROUNDINGS)

    assert found.path == tuple(os.environ["PATH"].split(os.pathsep))
    assert found.variables == {"VIRTUAL_ENV": "/venv"}
    assert ready(found, tmp_path)
    assert not build(found, tmp_path, tmp_path)


def test_a_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "dev.txt").touch()

    assert resolve("dev.txt", tmp_path, SURROUNDINGS).source == "dev.txt"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'dev\.txt' is no file"):
        resolve("dev.txt", tmp_path, SURROUNDINGS)


def test_the_digest_follows_the_dependencies_and_nothing_else(tmp_path: Path) -> None:
    def digest() -> str | None:
        return resolve("auto", tmp_path, SURROUNDINGS).digest

    (tmp_path / "requirements.txt").write_text("-r base.txt\n--constraint=limits.txt  # why\n")
    (tmp_path / "base.txt").write_text("tiny\n-r requirements.txt\n")
    seen = [digest()]
    (tmp_path / "train.py").write_text("edited")
    assert digest() == seen[0]
    for name, text in (("base.txt", "tiny==1.0\n"), ("limits.txt", "tiny<2\n"), (".python-version", "3.12\n")):
        (tmp_path / name).write_text(text)
        seen.append(digest())

    assert len(set(seen)) == 4


def test_an_environment_is_built_once_for_its_dependencies(project: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    one = require(project, "1.0")

    assert not ready(one, home)
    assert build(one, project, home)
    assert ready(one, home)
    assert not build(one, project, home)

    two = require(project, "2.0")
    assert build(two, project, home)
    assert (version_in(one, home), version_in(two, home)) == ("1.0\n", "2.0\n")


def test_of_two_builders_at_once_one_builds(project: Path, tmp_path: Path) -> None:
    wanted = require(project, "1.0")
    built: list[bool] = []
    builders = [
        threading.Thread(target=lambda: built.append(build(wanted, project, tmp_path / "home"))) for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)

    assert sorted(built) == [False, True]


def test_what_a_crash_left_half_built_is_built_again(project: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    wanted = require(project, "1.0")
    build(wanted, project, home)
    (home / "environments" / str(wanted.digest) / "ready").unlink()

    assert build(wanted, project, home)
    assert version_in(wanted, home) == "1.0\n"


def test_a_lock_file_is_followed_to_the_letter(project: Path, tmp_path: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["tiny==1.0"]\n'
        '[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
    )
    run_uv("lock", "--quiet", cwd=project)
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(text.replace("tiny==1.0", "tiny"))

    wanted = resolve("auto", project, SURROUNDINGS)
    build(wanted, project, tmp_path / "home")

    assert wanted.source == "uv.lock"
    assert version_in(wanted, tmp_path / "home") == "1.0\n"


def test_dependencies_that_cannot_be_had_are_said_in_the_words_of_uv(project: Path, tmp_path: Path) -> None:
    wanted = require(project, "3.0")

    with pytest.raises(SpecError, match=r"(?s)uv could not do it: .*tiny==3\.0") as caught:
        build(wanted, project, tmp_path / "home")
    assert "environment: current" in (caught.value.hint or "")
    assert not ready(wanted, tmp_path / "home")


def test_a_program_is_looked_for_on_the_path_of_the_caller(tmp_path: Path) -> None:
    current = resolve("current", tmp_path, {"PATH": str(Path(sys.executable).parent)})

    assert environment.find_program("python", current)
    assert not environment.find_program("pyhton", current)
