"""The code that runs is the bundle's: never the user's live tree, never what an earlier run installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine import PLAIN, Machine
from wheels import make_wheel

from sojourn.environment.environment import Environment, resolve
from sojourn.environment.uv import run_uv
from sojourn.errors import SpecError
from sojourn.spec.dependencies import Dependencies

INDEX = "--no-index\n--find-links wheels\n"
UV = '[tool.uv]\nno-index = true\nfind-links = ["{up}wheels"]\n'
# A build backend that needs no network, and that would leave its traces in the tree.
BACKEND = """
import pathlib, zipfile
def _write(directory):
    pathlib.Path("built.egg-info").mkdir(exist_ok=True)
    name = "{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory, name), "w") as wheel:
        for file in pathlib.Path("src").rglob("*.py"):
            wheel.write(file, file.relative_to("src"))
        wheel.writestr("{name}-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n{requires}")
        wheel.writestr("{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("{name}-1.dist-info/RECORD", "")
    return name
def build_wheel(directory, settings=None, metadata=None):
    return _write(directory)
def build_editable(directory, settings=None, metadata=None):
    return _write(directory)
"""


def package(folder: Path, name: str, more: str = "", value: str = "bundle", project: str = 'version = "1"\n') -> Path:
    """A package with a src layout, built by a backend that lies in it."""
    (folder / "src" / name).mkdir(parents=True, exist_ok=True)
    (folder / "src" / name / "__init__.py").write_text(f"VALUE = {value!r}\n")
    requires = "Requires-Dist: tiny\\n" if "dynamic" in project else ""
    (folder / "backend.py").write_text(BACKEND.format(name=name, requires=requires))
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nrequires-python = ">=3.9"\n{project}{more}'
    )
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uv")


@pytest.fixture
def root(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two versions of a tiny package beside it."""
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    root = tmp_path / 'it\'s a "Prüf" dir'
    for version in ("1.0", "2.0"):
        make_wheel(root / "wheels", "tiny", version)
    return root


@pytest.fixture
def machine(root: Path, tmp_path: Path) -> Machine:
    return Machine(root, tmp_path / "run")


def edit(root: Path, where: str, value: str = "live") -> None:
    """What the user does meanwhile."""
    (root / where).write_text(f"VALUE = {value!r}\n")


def value_of(machine: Machine, found: Environment, name: str = "lib", directory: str = ".") -> str:
    return machine.prints(found, "python", "-c", f"import {name}; print({name}.VALUE)", directory=directory)


def uv_project(root: Path, text: str) -> None:
    """A project that uv has locked."""
    (root / "pyproject.toml").write_text(text)
    run_uv("lock", "--quiet", cwd=root)


def editable(root: Path) -> None:
    (root / "requirements.txt").write_text(INDEX + "-e ./lib\n")


def plain(root: Path) -> None:
    (root / "requirements.txt").write_text(INDEX + "tiny\n./lib\n")


def by_url(root: Path) -> None:
    (root / "requirements.txt").write_text(INDEX + f"lib @ {(root / 'lib').as_uri()}\n")


def nested(root: Path) -> None:
    (root / "requirements.txt").write_text("-r requirements/base.in\n")
    (root / "requirements").mkdir()
    (root / "requirements/base.in").write_text("--no-index\n--find-links ../wheels\n--editable=lib\n")


def uv_source(root: Path) -> None:
    sources = '[tool.uv.sources]\nlib = {path = "lib", editable = true}\n'
    uv_project(root, '[project]\nname = "top"\nversion = "1"\ndependencies = ["lib"]\nrequires-python = ">=3.9"\n'
               + UV.format(up="") + sources)  # fmt: skip


def uv_member(root: Path) -> None:
    more = '[tool.uv.workspace]\nmembers = ["lib"]\n[tool.uv.sources]\nlib = {workspace = true}\n'
    uv_project(root, '[project]\nname = "top"\nversion = "1"\ndependencies = ["lib"]\nrequires-python = ">=3.9"\n'
               + UV.format(up="") + more)  # fmt: skip


def unlocked(root: Path) -> None:
    uv_source(root)
    (root / "uv.lock").unlink()


@pytest.mark.parametrize(
    "written", [editable, plain, by_url, nested, uv_source, uv_member, unlocked], ids=lambda one: str(one.__name__)
)
def test_a_package_of_the_project_is_the_bundles_whichever_way_it_is_named(
    root: Path, machine: Machine, written: object
) -> None:
    package(root / "lib", "lib")
    written(root)  # type: ignore[operator]
    before = {path for path in root.rglob("*") if "__pycache__" not in path.parts}

    found = machine.prepare()
    edit(root, "lib/src/lib/__init__.py")

    assert value_of(machine, found) == "bundle"
    assert {path for path in root.rglob("*") if "__pycache__" not in path.parts} == before, "nothing is left there"
    again = machine.prepare()
    assert again.digest == found.digest and value_of(machine, again) == "live", "the next run has the edit"


def test_another_checkout_with_the_same_files_has_its_own_code(tmp_path: Path, root: Path, machine: Machine) -> None:
    package(root / "lib", "lib", value="first")
    editable(root)
    other = tmp_path / "worktree"
    subprocess.run(["cp", "-r", "--preserve=timestamps", root, other], check=True)
    edit(other, "lib/src/lib/__init__.py", "second")

    value_of(machine, machine.prepare())
    there = Machine(other, machine.folder)

    assert value_of(there, there.prepare()) == "second"


def test_what_a_package_of_the_project_needs_is_installed_with_its_extras(root: Path, machine: Machine) -> None:
    package(root / "lib", "lib", '[project.optional-dependencies]\nold = ["tiny==1.0"]\n')
    (root / "requirements.txt").write_text(INDEX + "-e ./lib[old]\n")

    found = machine.prepare()

    assert machine.prints(found, "python", "-c", "import tiny; print(tiny.VERSION)") == "1.0"


def test_a_package_is_seen_as_installed_with_its_version_programs_and_plugins(root: Path, machine: Machine) -> None:
    package(root, "seqlab", 'dependencies = ["tiny"]\n[project.scripts]\nseqlab-train = "seqlab.train:main"\n'
            '[project.entry-points."seq.models"]\nbig = "seqlab.train:main"\n' + UV.format(up=""))  # fmt: skip
    (root / "src/seqlab/train.py").write_text("import sys\ndef main():\n    print('trained', *sys.argv[1:])\n")
    found = machine.prepare()
    asked = "import importlib.metadata as m, seqlab; print(m.version('seqlab'), m.requires('seqlab'), seqlab.__file__, "
    asked += "[p.load().__module__ for p in m.entry_points(group='seq.models')])"

    version, *_, module = machine.prints(found, "python", "-c", asked).split()

    assert version == "1" and module == "['seqlab.train']"
    assert str(machine.tree) in machine.prints(found, "python", "-c", asked)
    assert machine.prints(found, "seqlab-train", "--lr", "1") == "trained --lr 1"
    assert machine.prints(found, "sh", "-c", "python -m pip --version").startswith("pip ")


def test_the_path_of_imports_is_that_of_an_editable_installation(root: Path, machine: Machine) -> None:
    package(root, "seqlab", UV.format(up=""), project='version = "1"\ndependencies = ["tiny"]\n')
    (root / "random.py").write_text("raise SystemExit('the project shadows the standard library')\n")
    (root / "scripts").mkdir()
    (root / "scripts/train.py").write_text("import random, sys, seqlab; print(*sys.path, sep='\\n')\n")

    lines = machine.prints(machine.prepare(), "python", "scripts/train.py").splitlines()

    assert lines[0] == str(machine.tree / "scripts")
    assert lines[-1] == str(machine.tree / "src") and str(machine.tree) not in lines


def test_what_the_requirements_do_not_name_is_no_reason_to_refuse(root: Path, machine: Machine) -> None:
    package(root, "seqlab", '[tool.uv.sources]\nother = {path = "../other"}\n')
    package(root.parent / "other", "other")
    (root / "requirements.txt").write_text(INDEX + "tiny\n")

    assert value_of(machine, machine.prepare(), "seqlab") == "bundle", "the project itself is there all the same"


def test_what_only_a_build_backend_knows_is_asked_in_a_copy(root: Path, machine: Machine) -> None:
    package(root / "lib", "lib", project='dynamic = ["version", "dependencies"]\n')
    editable(root)
    before = {path for path in root.rglob("*") if "__pycache__" not in path.parts}

    found = machine.prepare()

    assert value_of(machine, found) == "bundle"
    assert machine.prints(found, "python", "-c", "import tiny; print(tiny.VERSION)") == "2.0"
    assert {path for path in root.rglob("*") if "__pycache__" not in path.parts} == before


def test_a_package_that_must_be_built_is_built_for_each_of_its_contents(root: Path, machine: Machine) -> None:
    package(root / "lib", "lib", "[tool.setuptools]\next-modules = [{name = 'x'}]\n")
    editable(root)

    first = machine.prepare()
    edit(root, "lib/src/lib/__init__.py", "second")
    assert value_of(machine, first) == "bundle"
    second = machine.prepare()

    assert first.digest != second.digest and value_of(machine, second) == "second"
    assert value_of(machine, first) == "bundle", "the first one's environment is as it was"


@pytest.mark.parametrize("line", ["-e {other}", "{other}", "lib @ file://{other}", "-e ../other"])
def test_a_package_outside_the_project_is_refused_with_what_to_do(
    tmp_path: Path, root: Path, machine: Machine, line: str
) -> None:
    other = package(tmp_path / "other", "lib")
    (root / "requirements.txt").write_text(INDEX + line.format(other=other) + "\n")

    with pytest.raises(SpecError, match="outside the project") as caught:
        machine.prepare()
    assert "uv build --wheel" in (caught.value.hint or "")


def test_a_wheel_that_is_built_anew_under_its_name_is_installed_anew(root: Path, machine: Machine) -> None:
    (root / "requirements.txt").write_text("--no-index\n./wheels/mine-1-py3-none-any.whl\n")
    seen = []
    for value in ("first", "second"):
        make_wheel(root / "wheels", "mine", "1", files={"lib.py": f"VALUE = {value!r}\n"})
        seen.append(value_of(machine, machine.prepare()))

    assert seen == ["first", "second"]


def test_what_a_run_installs_into_its_environment_is_not_there_for_the_next(root: Path, machine: Machine) -> None:
    package(root, "seqlab", 'dependencies = ["tiny==1.0"]\n' + UV.format(up=""))
    found = machine.prepare()
    offline = ("python", "-m", "pip", "install", "-q", "--no-index", "--find-links", str(root / "wheels"))
    machine.prints(found, *offline, "--no-deps", "--no-build-isolation", ".", directory=".")
    machine.prints(found, *offline, "tiny==2.0")
    edit(root, "src/seqlab/__init__.py", "new")

    again = machine.prepare()

    assert again.digest == found.digest
    assert value_of(machine, again, "seqlab") == "new"
    assert machine.prints(again, "python", "-c", "import tiny; print(tiny.VERSION)") == "1.0"


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "lib/pyproject.toml").write_text(
            (root / "lib/pyproject.toml").read_text().replace("tiny==1.0", "tiny==2.0")
        ),
        lambda root: (root / "uv.toml").write_text("offline = true\n"),
        lambda root: (root / "requirements/more.txt").write_text("tiny<2\n"),
    ],
    ids=["a package's own dependencies", "uv's settings", "a constraint two files away"],
)
def test_all_that_decides_an_environment_is_in_its_key(root: Path, machine: Machine, change: object) -> None:
    package(root / "lib", "lib", 'dependencies = ["tiny==1.0"]\n')
    (root / "requirements").mkdir()
    (root / "requirements/base.txt").write_text("-c more.txt\n--no-index\n--find-links ../wheels\n")
    (root / "requirements/more.txt").write_text("\n")
    (root / "requirements.txt").write_text("-r requirements/base.txt\n-e ./lib\n")
    before = machine.prepare()

    change(root)  # type: ignore[operator]

    assert resolve("auto", root, PLAIN).digest != before.digest


@pytest.mark.parametrize(
    ("line", "remarked"),
    [
        ("lib @ git+https://me:key@example.com/lib", True),
        ("-e git+https://example.com/lib.git@main#egg=lib", True),
        (f"lib @ git+ssh://git@example.com/lib@{'0' * 40}", False),
        ("lib==1", False),
    ],
)
def test_a_branch_that_may_have_moved_is_remarked_on(root: Path, line: str, remarked: bool) -> None:
    (root / "requirements.txt").write_text(line + "\n")

    notes = resolve("auto", root, PLAIN).notes

    assert bool(notes) == remarked and all("names no commit" in one and "key" not in one for one in notes)


@pytest.mark.parametrize("name", ["UV_INDEX_STRATEGY", "UV_EXTRA_INDEX_URL", "UV_RESOLUTION", "UV_PYTHON"])
def test_a_variable_that_uv_reads_is_in_the_key(root: Path, name: str) -> None:
    (root / "requirements.txt").write_text("tiny\n")

    assert resolve("auto", root, PLAIN).digest != resolve("auto", root, {**PLAIN, name: "x"}).digest
    assert resolve("auto", root, PLAIN).digest == resolve("auto", root, {**PLAIN, "UV_CACHE_DIR": "x"}).digest


def test_another_python_on_the_path_is_another_environment(tmp_path: Path, root: Path) -> None:
    (root / "requirements.txt").write_text("tiny\n")
    others = sorted(Path.home().glob(".pyenv/versions/3.1[02]*/bin"))
    if not others:
        pytest.skip("no other Python here")

    there = {"PATH": os.pathsep.join([str(others[0]), PLAIN["PATH"]])}

    assert resolve("auto", root, there).digest != resolve("auto", root, PLAIN).digest


def test_extras_and_groups_are_another_environment(root: Path, machine: Machine) -> None:
    uv_project(root, '[project]\nname = "top"\nversion = "1"\nrequires-python = ">=3.9"\n'
               '[project.optional-dependencies]\nviz = ["tiny==1.0"]\n[dependency-groups]\ntrain = ["tiny==1.0"]\n'
               + UV.format(up=""))  # fmt: skip
    seen = {machine.prepare().digest}
    for wanted in (Dependencies(extras=("viz",)), Dependencies(groups=("train",))):
        found = machine.prepare(wanted)
        seen.add(found.digest)
        assert machine.prints(found, "python", "-c", "import tiny; print(tiny.VERSION)") == "1.0"

    assert len(seen) == 3


# --- the python on the PATH ------------------------------------------------------------------


def own_environment(machine: Machine, root: Path, *installed: str) -> dict[str, str]:
    """An environment that the user has switched on, with something of the project installed into it."""
    venv = machine.folder / "venv"
    run_uv("venv", "--quiet", "--clear", "--python", sys.executable, str(venv), cwd=root)
    if installed:
        run_uv("pip", "install", "--quiet", "--no-deps", "--python", str(venv / "bin/python"), *installed, cwd=root)
    return {"PATH": os.pathsep.join([str(venv / "bin"), "/usr/bin", "/bin"]), "VIRTUAL_ENV": str(venv)}


def link(venv: Path, text: str) -> None:
    """What other ways of an editable installation leave: a line, or setuptools' finder."""
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "mine.pth").write_text(text)


def test_an_editable_installation_of_the_tree_gives_way_to_the_bundle(root: Path, machine: Machine) -> None:
    package(root, "seqlab", '[project.scripts]\nseqlab-train = "seqlab.cli:main"\n')
    (root / "src/seqlab/cli.py").write_text("def main():\n    import seqlab; print(seqlab.VALUE)\n")
    machine.surroundings = own_environment(machine, root)
    info = next((machine.folder / "venv").glob("lib/python*/site-packages")) / "seqlab-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: seqlab\nVersion: 1\n")
    (info / "direct_url.json").write_text(f'{{"url": "{root.as_uri()}", "dir_info": {{"editable": true}}}}')
    link(machine.folder / "venv", f"{root / 'src'}\n")

    found = machine.prepare("current")
    edit(root, "src/seqlab/__init__.py")

    assert found.kind == "current" and [one.name for one in found.packages] == ["seqlab"]
    assert value_of(machine, found, "seqlab") == "bundle"
    assert machine.prints(found, "seqlab-train") == "bundle"


def test_setuptools_finder_gives_way_to_the_bundle(root: Path, machine: Machine) -> None:
    package(root, "seqlab")
    machine.surroundings = own_environment(machine, root)
    finder = f"""
import sys, importlib.util
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "seqlab":
            return importlib.util.spec_from_file_location(name, {str(root / "src/seqlab/__init__.py")!r})
def install():
    sys.meta_path.append(Finder)
"""
    (site,) = (machine.folder / "venv").glob("lib/python*/site-packages")
    (site / "__editable___seqlab_1_finder.py").write_text(finder)
    (site / "__editable__.seqlab-1.pth").write_text("import __editable___seqlab_1_finder as f; f.install()\n")
    (site / "seqlab-1.dist-info").mkdir()
    (site / "seqlab-1.dist-info/direct_url.json").write_text(
        f'{{"url": "{root.as_uri()}", "dir_info": {{"editable": true}}}}'
    )

    found = machine.prepare("current")
    edit(root, "src/seqlab/__init__.py")

    assert value_of(machine, found, "seqlab") == "bundle"


def test_another_checkout_that_is_installed_gives_way_and_is_named(
    tmp_path: Path, root: Path, machine: Machine
) -> None:
    package(root, "seqlab")
    other = package(tmp_path / "main", "seqlab", value="other")
    machine.surroundings = own_environment(machine, root, "-e", str(other))

    found = machine.prepare("current")

    assert value_of(machine, found, "seqlab") == "bundle"
    assert any(str(other) in note for note in found.notes)


def test_a_copy_that_was_installed_gives_way_and_is_named(root: Path, machine: Machine) -> None:
    package(root, "seqlab", value="old")
    machine.surroundings = own_environment(machine, root, str(root))
    edit(root, "src/seqlab/__init__.py", "new")

    found = machine.prepare("current")

    assert value_of(machine, found, "seqlab") == "new"
    assert any("installed as a copy" in note for note in found.notes)


def test_a_pythonpath_into_the_tree_leads_into_the_bundle(tmp_path: Path, root: Path, machine: Machine) -> None:
    package(root, "seqlab")
    (tmp_path / "elsewhere").mkdir()
    machine.surroundings = {**PLAIN, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(tmp_path / "elsewhere")])}

    found = machine.prepare("current")
    edit(root, "src/seqlab/__init__.py")

    assert value_of(machine, found, "seqlab") == "bundle"
    assert machine.prints(found, "python", "-c", "import os; print(os.environ['PYTHONPATH'])") == os.pathsep.join(
        [str(machine.tree / "src"), str(tmp_path / "elsewhere")]
    )


def test_a_program_of_the_tree_on_the_path_is_the_bundles(root: Path, machine: Machine) -> None:
    (root / "bin").mkdir()
    (root / "bin/go").write_text("#!/bin/sh\necho bundle\n")
    (root / "bin/go").chmod(0o755)
    machine.surroundings = {"PATH": os.pathsep.join([str(root / "bin"), PLAIN["PATH"]])}

    found = machine.prepare("current")
    (root / "bin/go").write_text("#!/bin/sh\necho live\n")

    assert found.path[:2] == ("bin", str(root / "bin"))
    machine.surroundings = {"PATH": os.pathsep.join(found.path)}
    assert machine.prints(found, "sh", "-c", "go") == "bundle"


def test_a_python_that_the_command_names_gives_way_as_well(root: Path, machine: Machine) -> None:
    package(root, "seqlab", value="installed")
    surroundings = own_environment(machine, root, "-e", str(root))
    edit(root, "src/seqlab/__init__.py", "bundle")
    (root / "requirements.txt").write_text("absent\n")
    python = str(Path(surroundings["VIRTUAL_ENV"], "bin/python"))

    found = machine.prepare(words=(python, "-c", "pass"))
    edit(root, "src/seqlab/__init__.py")

    assert found.kind == "current" and "requirements.txt is not used" in found.notes[0]
    assert machine.prints(found, python, "-c", "import seqlab; print(seqlab.VALUE)") == "bundle"


def test_an_environment_of_conda_gives_way_as_well(root: Path, machine: Machine) -> None:
    package(root, "seqlab")
    surroundings = own_environment(machine, root, "-e", str(root))

    found = machine.prepare(words=("conda", "run", "-p", surroundings["VIRTUAL_ENV"], "python", "x.py"))

    assert [one.name for one in found.packages] == ["seqlab"]


def test_a_version_module_that_git_ignores_is_there_for_the_script(root: Path, machine: Machine) -> None:
    package(root, "seqlab", '[tool.setuptools_scm]\nversion_file = "src/seqlab/_version.py"\n' + UV.format(up=""))
    (root / "requirements.txt").write_text(INDEX + "-e .\n")

    found = machine.prepare()

    assert machine.prints(found, "python", "-c", "from seqlab._version import version; print(version)") == "1"
    assert not (root / "src/seqlab/_version.py").exists()


def test_where_the_bundle_would_hide_pythons_own_modules_the_plan_says_whose_code_runs(
    root: Path, machine: Machine
) -> None:
    package(root, "seqlab")
    (root / "src/random.py").touch()
    machine.surroundings = own_environment(machine, root, "-e", str(root))

    found = machine.prepare("current")

    assert found.packages == () and "not from the bundle: src/random.py hides Python's own" in found.notes[0]


@pytest.mark.parametrize("by_file", [True, False])
def test_an_environment_that_a_shell_script_switches_on_gives_way_as_well(
    root: Path, machine: Machine, by_file: bool
) -> None:
    package(root, "seqlab", value="installed")
    surroundings = own_environment(machine, root, "-e", str(root))
    edit(root, "src/seqlab/__init__.py", "bundle")
    (root / "requirements.txt").write_text("absent\n")
    lines = (
        f"set -e\nsource {surroundings['VIRTUAL_ENV']}/bin/activate\npython -c 'import seqlab; print(seqlab.VALUE)'\n"
    )
    (root / "run.sh").write_text(lines)

    found = machine.prepare(words=("bash", "run.sh") if by_file else (lines,), script="run.sh" if by_file else None)
    edit(root, "src/seqlab/__init__.py")

    assert "requirements.txt is not used" in found.notes[0]
    assert machine.prints(found, "bash", "run.sh") == "bundle"


@pytest.mark.parametrize("flag", ["-I", "-uE"])
def test_a_flag_that_would_take_the_live_tree_is_refused(root: Path, machine: Machine, flag: str) -> None:
    package(root, "seqlab")
    machine.surroundings = own_environment(machine, root, "-e", str(root))

    with pytest.raises(SpecError, match="ignore PYTHONPATH, so seqlab would be what is installed"):
        machine.prepare("current", words=("python", flag, "train.py"))
    assert machine.prepare("current", words=("python", "train.py", flag)).packages
