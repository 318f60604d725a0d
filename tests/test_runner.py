"""What `uv run` and its like are told by flags counts when an environment is made beforehand, or is named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from machine import PLAIN, Machine
from wheels import make_wheel

from sojourn.environment.choosing import choose_for
from sojourn.environment.environment import resolve, resolve_away
from sojourn.environment.runner import in_text, in_words, past
from sojourn.environment.uv import ask_uv, run_uv
from sojourn.errors import SpecError
from sojourn.plan import command
from sojourn.project.project import Project
from sojourn.spec.dependencies import Dependencies

NAMES = ("main", "devtool", "doctool", "onlya", "onlyb", "viztool", "gputool", "extra")
LIST = f"import importlib.util as u; print(*(n for n in {NAMES!r} if u.find_spec(n)))"
MEMBER = """
[project]
name = "{name}"
version = "1"
requires-python = ">=3.9"
dependencies = [{needs}]
"""
WORKSPACE = {
    "pyproject.toml": MEMBER.format(name="top", needs='"main"')
    + '[project.optional-dependencies]\nviz = ["viztool"]\ngpu = ["gputool"]\n'
    + '[dependency-groups]\ndev = ["devtool"]\ndocs = ["doctool"]\n'
    + '[tool.uv]\npackage = false\nno-index = true\nfind-links = ["wheels"]\n'
    + '[tool.uv.workspace]\nmembers = ["packages/*"]\n',
    "packages/a/pyproject.toml": MEMBER.format(name="a", needs='"onlya"') + "[tool.uv]\npackage = false\n",
    "packages/b/pyproject.toml": MEMBER.format(name="b", needs='"onlyb"') + "[tool.uv]\npackage = false\n",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a lock; copy it."""
    root = tmp_path_factory.mktemp("runner") / "root"
    for name in NAMES:
        make_wheel(root / "wheels", name, "1.0")
    for name, text in WORKSPACE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    run_uv("lock", "--quiet", cwd=root)
    return root


def has(machine: Machine, *flags: str, where: str = ".") -> list[str]:
    """What the script of `uv run FLAGS` can import."""
    words = ("uv", "run", *flags, "--offline", "python", "-c", LIST)
    return machine.prints(machine.prepare(words=words, directory=where), *words, directory=where).split()


def plainly(root: Path, environment: Path, *flags: str) -> list[str]:
    """The same as uv does it where the user stands."""
    there = {"UV_PROJECT_ENVIRONMENT": str(environment), "VIRTUAL_ENV": ""}
    done = ask_uv("run", "--quiet", *flags, "python", "-c", LIST, cwd=root, variables=there)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("flags", "locked", "needs_lock"),
    [
        pytest.param("", "main devtool", False, marks=pytest.mark.slow),
        pytest.param("--no-dev", "main", False, marks=pytest.mark.slow),
        ("--package b --no-dev", "onlyb", False),
        pytest.param("--package=a", "onlya", False, marks=pytest.mark.slow),
        ("--only-group docs", "doctool", False),
        pytest.param("--only-dev", "devtool", False, marks=pytest.mark.slow),
        pytest.param("--all-groups --no-group dev", "main doctool", False, marks=pytest.mark.slow),
        ("--no-default-groups --group docs --extra viz", "main doctool viztool", False),
        ("--all-extras --no-extra gpu --no-dev", "main viztool", False),
        ("--project packages/a", "onlya", False),
        ("--all-packages --no-dev", "main onlya onlyb", True),
    ],
)
def test_uv_run_has_what_its_flags_ask_for_with_a_lock_and_without(
    workspace: Path, tmp_path: Path, flags: str, locked: str, needs_lock: bool
) -> None:
    root = tmp_path / "root"
    shutil.copytree(workspace, root)
    machine = Machine(root, tmp_path / "run")

    assert plainly(root, tmp_path / "plain", *flags.split()) == locked.split()
    assert has(machine, *flags.split()) == locked.split()
    (root / "uv.lock").unlink()
    if needs_lock:
        with pytest.raises(SpecError, match="by its lock alone"):
            has(machine, *flags.split())
    else:
        assert has(machine, *flags.split()) == locked.split()


def test_of_a_workspace_only_the_member_that_is_asked_for_is_there_with_what_it_needs(tmp_path: Path) -> None:
    from test_requirements import offer

    root = tmp_path / "root"
    sources = "[tool.uv.sources]\nc = {workspace = true}\n"
    for name, needs in (("a", ""), ("b", '"c"'), ("c", "")):
        (root / "packages" / name).mkdir(parents=True)
        (root / "packages" / name / f"{name}.py").write_text("")
        build = f'[build-system]\nrequires = []\nbuild-backend = "setuptools.build_meta"\n{sources if needs else ""}'
        (root / "packages" / name / "pyproject.toml").write_text(MEMBER.format(name=name, needs=needs) + build)
    (root / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["packages/*"]\n')
    run_uv("lock", "--quiet", cwd=root)
    words = ("uv", "run", "--package", "b", "python", "-c", LIST.replace(str(NAMES), str(("a", "b", "c"))))

    here = Machine(root, tmp_path / "run").prepare(words=words)
    away = resolve_away("auto", Project(root), [offer()], "internet", surroundings=PLAIN, words=words)

    assert Machine(root, tmp_path / "run").prints(here, *words).split() == ["b", "c"]
    assert sorted(one.name for one in away.packages) == ["b", "c"]


def test_what_uv_itself_adds_when_the_script_starts_is_there(workspace: Path, tmp_path: Path) -> None:
    machine = Machine(workspace, tmp_path / "run")
    found = machine.prepare(words=("uv", "run", "--with", "extra", "python"))
    shutil.copytree(workspace / "wheels", machine.tree / "wheels")

    words = ("uv", "run", "--with", "extra", "python", "-c", LIST)

    assert machine.prints(found, *words).split() == ["main", "devtool", "extra"]


def test_the_python_that_uv_run_is_asked_for_is_the_one_that_runs(workspace: Path, tmp_path: Path) -> None:
    other = next((path for path in sorted(Path("/usr/bin").glob("python3.[0-9]*")) if path.name[-1].isdigit()), None)
    if other is None:
        pytest.skip("this host has one Python")
    machine = Machine(workspace, tmp_path / "run")
    words = ("uv", "run", "--python", str(other), "python", "-c", "import sys; print(sys.base_prefix)")

    assert machine.prints(machine.prepare(words=words), *words) == "/usr"
    assert resolve("auto", workspace, PLAIN, words=words).digest != resolve("auto", workspace, PLAIN).digest


def test_a_rented_machine_gets_the_python_and_the_packages_that_the_flags_ask_for(workspace: Path) -> None:
    from test_requirements import offer

    words = ("uv", "run", "-p3.11", "--package", "b", "--no-dev", "python", "train.py")

    found = resolve_away("auto", Project(workspace), [offer()], "internet", surroundings=PLAIN, words=words)

    assert [lock.target.python for lock in found.locks] == ["3.11"]
    assert [sent.name.split("-")[0] for sent in found.locks[0].sent] == ["onlyb"]


def test_the_file_that_the_runner_goes_by_decides(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "pyproject.toml").write_text(MEMBER.format(name="x", needs=""))

    assert resolve("auto", tmp_path, PLAIN, words=("uv", "run", "x.py")).source == "pyproject.toml"
    assert resolve("auto", tmp_path, PLAIN, words=("python", "x.py")).source == "requirements.txt"


HEADER = '# /// script\n# requires-python = ">=3.9"\n# dependencies = ["extra"]\n'
HEADER += '# [tool.uv]\n# no-index = true\n# find-links = ["wheels"]\n# ///\n' + LIST + "\n"


def test_a_script_with_packages_of_its_own_gets_them_where_uv_reads_it(workspace: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(workspace, root)
    (root / "x.py").write_text(HEADER)
    machine = Machine(root, tmp_path / "run")
    for typed, has_then in (
        ("uv run x.py", "extra"),
        ("uv run -s x.py", "extra"),
        ("uv run python x.py", "main devtool"),
    ):
        started = command.from_words(tuple(typed.split()), 1, 1)

        found = machine.prepare(words=started.argv, script="x.py")
        words = (command.by_python(started) if found.reading == "script" else started).argv

        assert plainly_typed(root, tmp_path / "plain", *typed.split()[2:]) == has_then.split()
        assert machine.prints(found, *words).split() == has_then.split(), typed


def plainly_typed(root: Path, environment: Path, *words: str) -> list[str]:
    """What `uv run WORDS` prints where the user stands."""
    there = {"UV_PROJECT_ENVIRONMENT": str(environment), "VIRTUAL_ENV": ""}
    return ask_uv("run", "--quiet", *words, cwd=root, variables=there).stdout.split()


def test_a_script_that_uv_reads_in_lines_of_shell_is_said_to_have_no_lock(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(HEADER)

    found = resolve("auto", tmp_path, PLAIN, script=tmp_path / "x.py", words=("uv run x.py | tee log",))

    assert "uv installs what x.py names as it starts, in versions of then: uv lock --script x.py" in found.notes


def test_ranks_of_a_script_that_uv_is_given_are_wrapped_once() -> None:
    one = command.from_words(("uv", "run", "-s", "x.py"), 1, 1)
    two = command.from_words(("uv", "run", "x.py"), 2, 1)

    assert (command.by_python(one).argv, command.by_python(one).wrap) == (("uv", "run", "python", "x.py"), 2)
    assert command.by_python(two) == two
    behind = command.from_words(("timeout", "1h", "uv", "run", "x.py"), 1, 1)
    assert command.by_python(behind) == behind


@pytest.mark.parametrize(
    "words",
    ["nice -n 10 uv run --no-dev x.py", "timeout 1h uv run --no-dev x.py", "env -u X uv run --no-dev x.py"],
)
def test_flags_behind_another_program_that_starts_uv_are_read(words: str) -> None:
    found = in_words(words.split())

    assert found is not None and found.flags == ("--no-dev",)


def test_without_a_project_uv_takes_the_environment_beside_it(workspace: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(workspace, root)
    run_uv("venv", "--quiet", str(root / ".venv"), cwd=root)

    found = resolve("auto", root, PLAIN, words=("uv", "run", "--no-project", "python", "x.py"))

    assert (found.kind, found.variables["VIRTUAL_ENV"]) == ("current", str(root / ".venv"))
    assert any("--no-project" in note for note in found.notes)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("uv run --isolated python x.py", "--isolated cannot be followed"),
        ("uv run --project nowhere x.py", "'nowhere', where uv is sent, is no directory"),
        ("uv run --project /tmp x.py", "is not inside the project"),
        ("uv run --extra vis x.py", "'vis' is not in .*did you mean 'viz'"),
        ("uv run --group dos x.py", "'dos' is not in .*did you mean 'docs'"),
        ("uv run --package aa x.py", "'aa' is no member"),
        ("pdm run --venv other x.py", "pdm's --venv cannot be followed"),
        ("pipenv --python 3.9 run x.py", "pipenv's --python cannot be followed"),
        ("uv run -p 3.11 a.py && uv run -p 3.12 b.py", "asked for different Pythons"),
    ],
)
def test_what_cannot_be_followed_is_refused(workspace: Path, words: str, said: str) -> None:
    asked = (words,) if "&&" in words else tuple(words.split())

    with pytest.raises(SpecError, match=said):
        resolve("auto", workspace, PLAIN, words=asked)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("uv run --upgrade -i https://x.org --with y x.py", "--upgrade -i=https://x.org of uv is not followed"),
        ("env UV_NO_DEV=1 uv run x.py", "UV_NO_DEV of uv is not followed"),
        ("uv run --extra $GPU x.py", "'--extra=$GPU' of uv is not followed"),
        ("hatch run train", "hatch makes its own environment when the command starts: uv.lock is not used"),
        ("poetry run --frobnicate x.py", "--frobnicate of poetry is not followed"),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_named(workspace: Path, words: str, said: str) -> None:
    notes = resolve("auto", workspace, PLAIN, words=tuple(words.split())).notes

    assert any(said in note for note in notes), notes


def test_a_file_that_is_named_counts_more_and_the_flags_are_told(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("")

    found = resolve("requirements.txt", tmp_path, PLAIN, words=("uv", "run", "--no-dev", "x.py"))

    assert found.source == "requirements.txt"
    assert found.notes == ("--no-dev of uv is not followed: what is installed is what requirements.txt says",)


@pytest.mark.parametrize("words", ["poetry -C sub run x", "pdm run -p sub x"])
def test_flags_of_a_runner_that_a_rented_machine_lacks_are_refused(tmp_path: Path, words: str) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(SpecError, match="a rented machine has no (poetry|pdm)"):
        resolve_away("auto", Project(tmp_path), [], "internet", words=words.split())


@pytest.mark.parametrize(
    "words",
    [
        "poetry -C sub run x",
        "poetry run -P sub x",
        "pdm run -p sub x",
        "uv --directory sub run x",
        "cd sub && uv run x",
    ],
)
def test_the_folder_that_a_runner_is_sent_to_decides(tmp_path: Path, words: str) -> None:
    for folder in (tmp_path, tmp_path / "sub"):
        folder.mkdir(exist_ok=True)
        (folder / "pyproject.toml").write_text(MEMBER.format(name="x", needs=""))

    asked = (words,) if "&&" in words else tuple(words.split())

    assert resolve("auto", tmp_path, PLAIN, words=asked).source == "sub/pyproject.toml"


@pytest.mark.parametrize(
    ("text", "package", "groups", "flags"),
    [
        ("uv run --no-dev a.py | tee log", None, (), ("--no-dev",)),
        ("set -e\nexec uv run --package a b.py  # last\n", "a", (), ()),
        ("A=1 uv run --group docs a.py && uv run --group test --no-dev b.py", None, ("docs", "test"), ()),
        ("uv run --package a x.py; uv run --package b y.py", None, (), ("--all-packages",)),
        ("uv run --only-group a x.py; uv run y.py", None, ("a",), ()),
        ("/bin/bash -c 'uv run --no-dev a.py' || exit", None, (), ("--no-dev",)),
        ("if true; then uv run --no-dev a.py; fi", None, (), ("--no-dev",)),
    ],
)
def test_lines_of_shell_are_read_as_well(
    text: str, package: str | None, groups: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    found = in_text(text)

    assert found is not None
    assert (found.package, found.groups, found.flags) == (package, groups, flags)


@pytest.mark.parametrize("text", ["python a.py", "uv sync", "echo 'uv run --no-dev", "uv run", "make # uv run x"])
def test_what_starts_no_program_by_a_runner_is_none(text: str) -> None:
    found = in_text(text)

    assert found is None or not found.words


@pytest.mark.parametrize(
    ("words", "program"),
    [
        ("pdm run --site-packages python x.py", "python"),
        ("uv run --python-platform linux python x.py", "python"),
        ("hatch --data-dir d run python x.py", "python"),
        ("pipenv --python 3.12 run python x.py", "python"),
    ],
)
def test_the_program_behind_flags_with_values_is_found(words: str, program: str) -> None:
    assert words.split()[past(words.split())] == program


def test_a_script_is_looked_for_where_uv_goes_first(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.py").touch()
    asked = command.from_words(("uv", "run", "--directory", "sub", "python", "x.py"), 1, 1)

    command.check_script(asked, tmp_path)

    assert command.script_of(asked) == "sub/x.py"


def test_one_word_for_a_package_in_the_file_and_another_in_the_command_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"environment\.package: 'a'"):
        choose_for(
            Dependencies(package="a"), ("uv", "run", "--package", "b", "x"), "", tmp_path, tmp_path, PLAIN,
            script=None, away=False,
        )  # fmt: skip


def test_the_choice_outlives_the_plan(workspace: Path) -> None:
    found = resolve("auto", workspace, PLAIN, words=("uv", "run", "--no-dev", "--package", "a", "x.py"))

    again = type(found).model_validate(json.loads(found.model_dump_json()))

    assert again == found and again.wanted.flags == ("--no-dev",)
    assert in_words(("python", sys.executable)) is None
