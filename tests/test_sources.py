"""Which file decides the environment, looked for as uv looks, and that the others are named."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from machine import PLAIN, Machine
from wheels import make_wheel

from sojourn.environment.environment import not_installed, resolve, resolve_away
from sojourn.environment.sources import Chosen, choose
from sojourn.environment.target import targets
from sojourn.environment.uv import run_uv
from sojourn.errors import SpecError
from sojourn.project.project import Project
from sojourn.renting import Offer
from sojourn.spec.dependencies import Dependencies
from sojourn.spec.launch import make_launch, read_launch

PROJECT = '[project]\nname = "{name}"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = [{needs}]\n'
NO_INDEX = "[tool.uv]\nno-index = true\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    """A project of these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def chosen(root: Path, below: str = ".", away: bool = False, path: str = "", wanted: str = "auto") -> Chosen:
    directory = (root / below).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    return choose(Dependencies(file=wanted), directory, root.resolve(), script=None, path=path, away=away)


def said(root: Path, **how: str) -> str:
    """The remarks on a project, in one text."""
    return "\n".join(chosen(root, **how).notes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "below", "source"),
    [
        ({"uv.lock": "", "pyproject.toml": PROJECT.format(name="x", needs="")}, "deep/er", "uv.lock"),
        ({"requirements.txt": ""}, "experiments", "requirements.txt"),
        ({"requirements.txt": "", "near/requirements.txt": ""}, "near", "near/requirements.txt"),
        ({"uv.lock": "", "pyproject.toml": "", "near/requirements.txt": ""}, "near", "near/requirements.txt"),
        ({"pylock.toml": "", "requirements.txt": ""}, ".", "pylock.toml"),
        ({"requirements.in": ""}, ".", "requirements.in"),
        ({"requirements.lock": "", "pyproject.toml": PROJECT.format(name="x", needs="")}, ".", "requirements.lock"),
        ({"setup.py": "setup(install_requires=['x'])"}, ".", "setup.py"),
        ({"setup.cfg": "[flake8]\n"}, ".", None),
        ({"pyproject.toml": "[tool.poetry.dependencies]\npython = '^3.9'\n"}, ".", "pyproject.toml"),
        (
            {
                "uv.lock": "",
                "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\n',
                "packages/a/pyproject.toml": PROJECT.format(name="a", needs=""),
                "packages/a/scripts/x.py": "",
            },
            "packages/a/scripts",
            "uv.lock",
        ),
        (
            {
                "uv.lock": "",
                "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/a"]\n',
                "packages/a/pyproject.toml": PROJECT.format(name="a", needs=""),
            },
            "packages/a",
            "packages/a/pyproject.toml",
        ),
    ],
)
def test_the_nearest_file_upward_decides(tmp_path: Path, files: dict[str, str], below: str, source: str | None) -> None:
    found = chosen(write(tmp_path / "root", files), below).source

    assert (found and found.file.relative_to(tmp_path / "root").as_posix()) == source


def test_nothing_above_what_travels_decides(tmp_path: Path) -> None:
    write(tmp_path, {"requirements.txt": "", "root/train.py": ""})

    assert chosen(tmp_path / "root").source is None


def test_a_member_of_a_workspace_gets_what_the_workspace_locked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    for version in ("1.0", "2.0"):
        make_wheel(root / "wheels", "tiny", version)
    write(root, {
        "pyproject.toml": '[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
        '[tool.uv.workspace]\nmembers = ["packages/*"]\n[tool.uv.sources]\nshared = {workspace = true}\n',
        "packages/a/pyproject.toml": PROJECT.format(name="a", needs='"shared"'),
        "packages/a/a.py": "",
        "packages/b/pyproject.toml": PROJECT.format(name="b", needs='"numpy"'),
        "packages/shared/pyproject.toml": PROJECT.format(name="shared", needs='"tiny<2"'),
        "packages/shared/src/shared/__init__.py": "import tiny\nVALUE = tiny.VERSION\n",
    })  # fmt: skip
    (root / "packages/b/pyproject.toml").write_text(PROJECT.format(name="b", needs=""))
    run_uv("lock", "--quiet", cwd=root)
    machine = Machine(root, tmp_path / "run")

    below = machine.prepare(directory="packages/a")
    printed = machine.prints(below, "python", "-c", "import shared; print(shared.VALUE)", directory="packages/a")
    named = machine.prepare(Dependencies(package="a"))

    assert (below.source, printed) == ("../../uv.lock", "1.0")
    assert machine.prints(named, "python", "-c", "import shared; print(shared.VALUE)") == "1.0"
    with pytest.raises(SpecError, match=r"'aa' is no member of .*did you mean 'a'"):
        machine.prepare(Dependencies(package="aa"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"requirements.txt": "", "poetry.lock": ""}, "poetry.lock is not used; to use it: poetry export"),
        ({"pyproject.toml": PROJECT.format(name="x", needs=""), "pdm.lock": ""}, "pdm.lock is not used"),
        ({"Pipfile.lock": "", "Pipfile": ""}, "Pipfile.lock is not used; to use it: pipenv requirements"),
        ({"environment.yml": ""}, "environment.yml is not built from; to use it: conda env create"),
        ({"pixi.lock": "", "pixi.toml": ""}, "pixi.lock is not built from; to use it: pixi shell"),
        ({"conda-lock.yml": ""}, "conda-lock.yml is not built from"),
        ({"src/requirements.txt": ""}, "src/requirements.txt is not used: --environment src/requirements.txt"),
        ({"requirements/train.txt": ""}, "requirements/train.txt is not used: --environment requirements/train.txt"),
        ({"requirements-dev.txt": ""}, "requirements-dev.txt is not used: --environment requirements-dev.txt"),
        ({"uv.lock": "", "requirements.txt": ""}, "uv.lock is used, requirements.txt is not: --environment requ"),
        ({"requirements.txt": "", "pyproject.toml": PROJECT.format(name="x", needs="")}, "pyproject.toml is not"),
    ],
)
def test_what_lies_there_and_is_not_used_is_named_with_what_makes_it_usable(
    tmp_path: Path, files: dict[str, str], words: str
) -> None:
    assert words in said(write(tmp_path, files))


@pytest.mark.parametrize(
    "files",
    [
        {"uv.lock": "", "pyproject.toml": PROJECT.format(name="x", needs="")},
        {"requirements.txt": "", "requirements.in": ""},
        {"requirements.txt": "x\n-e .[viz]  # us\n", "pyproject.toml": PROJECT.format(name="x", needs="")},
        {"requirements.txt": "", "setup.py": "setup(install_requires=[])"},
        {"train.py": ""},
        {"tests/requirements.txt": "", ".venv/pyvenv.cfg": "", ".venv/requirements.txt": ""},
    ],
)
def test_files_that_belong_together_are_not_remarked_on(tmp_path: Path, files: dict[str, str]) -> None:
    assert said(write(tmp_path, files)) == ""


def test_where_nothing_will_be_installed_the_plan_for_rented_machines_says_so(tmp_path: Path) -> None:
    project = Project.at(write(tmp_path, {"environment.yml": "", "train.py": ""}))

    auto = "; ".join(resolve_away("auto", project, [], "internet").notes)
    current = "; ".join(resolve_away("current", project, [], "internet").notes)

    assert "nothing is installed on the machine" in auto and "environment.yml is not built from" in auto
    assert "nothing is installed on the machine" in current


def test_a_lock_that_is_older_than_its_project_is_remarked_on(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": PROJECT.format(name="x", needs="") + NO_INDEX})
    run_uv("lock", "--quiet", cwd=tmp_path)
    assert resolve("auto", tmp_path, PLAIN).notes == ()

    write(tmp_path, {"pyproject.toml": PROJECT.format(name="x", needs='"new"') + NO_INDEX})

    assert "renew it: uv lock" in resolve("auto", tmp_path, PLAIN).notes[0]


def tool(folder: Path, name: str, says: str) -> str:
    """Another tool on the PATH, that prints its lock as requirements."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho $* >> {folder}/asked\ntouch .venv\ncat <<'END'\n{says}\nEND\n")
    (folder / name).chmod(0o755)
    return os.pathsep.join([str(folder), PLAIN["PATH"]])


@pytest.mark.parametrize(("lock", "name"), [("poetry.lock", "poetry"), ("pdm.lock", "pdm"), ("Pipfile.lock", "pipenv")])
def test_a_lock_of_another_tool_is_read_by_that_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, name: str
) -> None:
    root = tmp_path / "root"
    for version in ("1.0", "2.0"):
        make_wheel(root / "wheels", "tiny", version)
    write(root, {lock: "", "requirements.txt": "unused", "uv.toml": 'no-index = true\nfind-links = ["wheels"]\n'})
    path = tool(tmp_path / "bin", name, "tiny==1.0 ; python_version >= '3.8'")
    monkeypatch.setenv("PATH", path)
    machine = Machine(root, tmp_path / "run", {"PATH": path})

    found = machine.prepare()

    assert found.source == lock and "requirements.txt is not" in found.notes[0]
    assert machine.prints(found, "python", "-c", "import tiny; print(tiny.VERSION)") == "1.0"
    machine.prepare(Dependencies(file=lock, groups=("train",)))
    assert (tmp_path / "bin/asked").read_text().split()[-1] == "train"
    assert name == "poetry" or not (root / ".venv").exists(), "what the tool writes is not in the tree"


def test_the_standard_lock_is_installed_to_the_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for version in ("1.0", "2.0"):
        make_wheel(root / "wheels", "tiny", version)
    write(root, {"old.in": "--no-index\n--find-links wheels\ntiny==1.0\n"})
    run_uv("pip", "compile", "--quiet", "--no-header", "--format=pylock.toml", "-o", "pylock.toml", "old.in",
           "--python", sys.executable, cwd=root)  # fmt: skip
    machine = Machine(root, tmp_path / "run")

    found = machine.prepare()

    assert found.source == "pylock.toml"
    assert machine.prints(found, "python", "-c", "import tiny; print(tiny.VERSION)") == "1.0"


HEADER = """\
# /// script
# requires-python = ">=3.9"
# dependencies = ["tiny==1.0"]
# [tool.uv]
# no-index = true
# find-links = ["wheels"]
# ///
import tiny
print(tiny.VERSION)
"""


def test_a_script_that_names_its_packages_gets_those(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for version in ("1.0", "2.0"):
        make_wheel(root / "wheels", "tiny", version)
    write(root, {"train.py": HEADER, "requirements.txt": "absent\n"})
    machine = Machine(root, tmp_path / "run")

    found = machine.prepare(script="train.py")

    assert found.source == "train.py" and "requirements.txt is not used" in found.notes[0]
    assert machine.prints(found, "python", "train.py") == "1.0"
    (root / "train.py").write_text(HEADER.replace("==1.0", "==2.0"))
    assert machine.prints(machine.prepare(script="train.py"), "python", "train.py") == "2.0"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"extras": ["vis"]}, "environment.extras: 'vis' is not in .*did you mean 'viz'"),
        ({"groups": ["trian"]}, "environment.groups: 'trian' is not in .*did you mean 'train'"),
        ({"file": "requirements.txt", "extras": ["viz"]}, "environment.extras: requirements.txt has none"),
        ({"file": "requirement.txt"}, "is no file"),
        ({"extra": ["viz"]}, "unknown key 'extra', did you mean 'extras'"),
        ({"index_strategy": "best"}, "index_strategy: Input should be"),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_the_nearest(
    tmp_path: Path, wanted: dict[str, object], words: str
) -> None:
    more = "[project.optional-dependencies]\nviz = []\n[dependency-groups]\ntrain = []\n"
    write(tmp_path, {"pyproject.toml": PROJECT.format(name="x", needs="") + more, "requirements.txt": ""})

    with pytest.raises(SpecError, match=words):
        asked = make_launch({"command": ["python"], "environment": {"file": "pyproject.toml", **wanted}}, "test")
        resolve(asked.environment, tmp_path, PLAIN)


@pytest.mark.parametrize("written", ["uv.lock", {"file": "uv.lock", "extras": ["old"]}])
def test_flags_name_extras_and_groups_of_the_environment_in_the_file(tmp_path: Path, written: object) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps({"launch": {"command": "x", "environment": written}}))

    asked = read_launch(tmp_path, {"extras": ("viz",), "groups": ("train",)}).environment

    assert asked == Dependencies(file="uv.lock", extras=("viz",), groups=("train",))


def test_the_words_of_before_mean_what_they_meant() -> None:
    for text in ("auto", "current", "requirements/dev.txt"):
        assert make_launch({"command": ["x"], "environment": text}, "test").environment == text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"src/requirements.txt": "timm\n", "requirements-dev.txt": "pytest\n"}, "--environment src/requirements.txt"),
        ({"requirements-gpu.txt": "torch\n"}, "requirements-gpu.txt is not used: --environment requirements-gpu.txt"),
        ({"environment.yml": ""}, "environment.yml is not built from"),
        ({"train.py": ""}, None),
    ],
)
def test_beside_a_module_that_is_missing_stands_the_file_that_may_have_it(
    tmp_path: Path, files: dict[str, str], words: str | None
) -> None:
    current = resolve("auto", write(tmp_path, files), PLAIN)
    tail = "Traceback …\nModuleNotFoundError: No module named 'timm.models'"

    said = " ".join(not_installed(current, tail, tmp_path))

    assert (words in said and "no module named timm" in said) if words else said == ""
    assert not_installed(current, "ValueError: x", tmp_path) == ()


def test_a_rented_machine_gets_the_python_that_the_nearest_file_upward_or_the_script_asks_for(tmp_path: Path) -> None:
    offer = Offer(provider="x", machine="m", place="p", price=1, cpus=1, memory=1, python="3.12")
    script = write(tmp_path, {".python-version": "3.11\n", "below/x": "", "x/train.py": HEADER.replace("3.9", "3.13")})

    assert targets([offer], tmp_path / "below", tmp_path)[0].python == "3.11"
    assert targets([offer], tmp_path / "below", tmp_path / "below")[0].python == "3.12"
    assert targets([offer], script / "x", script / "x", script / "x/train.py")[0].python == "3.13"
