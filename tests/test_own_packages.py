"""The project's own packages: described from their files, and served from the bundle instead of the user's tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sojourn.environment.local_packages import describe, from_line

STATIC = '[project]\nname = "seq-lab"\nversion = "1.2"\n'
SETUPTOOLS = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


def write(folder: Path, files: dict[str, str]) -> Path:
    """A package of these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "paths"),
    [
        ({"pyproject.toml": STATIC, "src/seq_lab/__init__.py": ""}, ("src",)),
        ({"pyproject.toml": STATIC, "seq_lab/__init__.py": "", "src/x.c": ""}, (".",)),
        ({"pyproject.toml": STATIC, "seq_lab.py": ""}, (".",)),
        ({"pyproject.toml": STATIC, "src/other/__init__.py": ""}, ("src", ".")),
        (
            {"pyproject.toml": STATIC + '[tool.setuptools.packages.find]\nwhere = ["code"]\n', "code/a.py": ""},
            ("code",),
        ),
        ({"pyproject.toml": STATIC + '[tool.setuptools]\npackage-dir = {"" = "lib"}\n', "lib/a.py": ""}, ("lib",)),
        (
            {
                "pyproject.toml": STATIC + '[tool.setuptools]\npackage-dir = {seq = "py/seq"}\n',
                "py/seq/__init__.py": "",
            },
            ("py",),
        ),
        (
            {
                "pyproject.toml": STATIC + '[tool.hatch.build.targets.wheel]\npackages = ["python/seq_lab"]\n',
                "python/seq_lab/__init__.py": "",
            },
            ("python",),
        ),
        (
            {
                "pyproject.toml": STATIC + '[tool.poetry]\npackages = [{include = "s", from = "lib"}]\n',
                "lib/s/a.py": "",
            },
            ("lib",),
        ),
        (
            {
                "pyproject.toml": STATIC + '[build-system]\nrequires = ["uv_build"]\nbuild-backend = "uv_build"\n',
                "src/other/__init__.py": "",
            },
            ("src",),
        ),
        (
            {
                "setup.cfg": "[metadata]\nname = s\n[options]\npackage_dir =\n    =source\n",
                "source/s.py": "",
                "setup.py": "from setuptools import setup; setup()",
            },
            ("source",),
        ),
        (
            {"setup.py": 'setup(name="s", package_dir={"": "lib"}, packages=find_packages("lib"))', "lib/s.py": ""},
            ("lib",),
        ),
        ({"setup.py": 'setup(name="s", packages=find_packages(where="code"))', "code/s.py": ""}, ("code",)),
    ],
)
def test_modules_are_imported_from_where_their_build_takes_them(
    tmp_path: Path, files: dict[str, str], paths: tuple[str, ...]
) -> None:
    found = describe(write(tmp_path / "pkg", files), tmp_path)

    assert found is not None and found.built is None
    assert found.package.paths == tuple(f"pkg/{one}" if one != "." else "pkg" for one in paths)


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({"pyproject.toml": STATIC}, "1.2"),
        (
            {
                "pyproject.toml": '[project]\nname = "s"\ndynamic = ["version"]\n'
                '[tool.setuptools.dynamic]\nversion = {attr = "s.__version__"}\n',
                "src/s/__init__.py": "import torch\n__version__ = '3.1'\n",
            },
            "3.1",
        ),
        (
            {
                "pyproject.toml": '[project]\nname = "s"\ndynamic = ["version"]\n'
                '[tool.setuptools.dynamic]\nversion = {file = "VERSION"}\n',
                "VERSION": "4.0\n",
            },
            "4.0",
        ),
        (
            {
                "pyproject.toml": '[project]\nname = "s"\ndynamic = ["version"]\n'
                '[tool.hatch.version]\npath = "s/about.py"\n',
                "s/about.py": '__version__ = "5"\n',
            },
            "5",
        ),
        ({"pyproject.toml": '[tool.poetry]\nname = "s"\nversion = "6"\n'}, "6"),
        ({"setup.cfg": "[metadata]\nname = s\nversion = attr: s.VERSION\n", "s.py": "VERSION = '7'\n"}, "7"),
        ({"setup.py": 'V = "8"\nsetup(name="s", version=V)'}, "8"),
        ({"setup.py": 'setup(name="s", version=read())', "s.egg-info/PKG-INFO": "Name: s\nVersion: 9\n\n"}, "9"),
        ({"pyproject.toml": '[project]\nname = "s"\ndynamic = ["version"]\n'}, "0+unknown"),
    ],
)
def test_the_version_is_found_without_running_anything(tmp_path: Path, files: dict[str, str], version: str) -> None:
    found = describe(write(tmp_path, files), tmp_path)

    assert found is not None and found.package.version == version
    assert f"\nVersion: {version}\n" in found.package.metadata


def test_the_version_of_a_tag_is_what_its_plugin_would_make_of_it(tmp_path: Path) -> None:
    write(tmp_path, {
        "pyproject.toml": '[build-system]\nrequires = ["hatch-vcs"]\n[project]\nname = "s"\ndynamic = ["version"]\n'
    })  # fmt: skip
    me = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a"], ["tag", "v1.4.2"]):
        subprocess.run([*me, *words], cwd=tmp_path, check=True)
    at_the_tag = describe(tmp_path, tmp_path)
    subprocess.run([*me, "commit", "-q", "--allow-empty", "-m", "b"], cwd=tmp_path, check=True)
    after = describe(tmp_path, tmp_path)

    assert at_the_tag is not None and at_the_tag.package.version == "1.4.2"
    assert after is not None and after.package.version.startswith("1.4.3.dev1+g")


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"setup.py": "setup(name='s', ext_modules=[Extension('s.fast', ['fast.c'])])"}, "compiles extensions"),
        ({"pyproject.toml": STATIC + '[build-system]\nbuild-backend = "maturin"\n'}, "maturin compiles it"),
        ({"pyproject.toml": STATIC + '[build-system]\nbuild-backend = "scikit_build_core.build"\n'}, "compiles it"),
        ({"pyproject.toml": STATIC + "[tool.hatch.build.hooks.cython]\n"}, "hatch makes parts of it"),
        ({"pyproject.toml": STATIC + '[tool.setuptools]\npackage-dir = {s = "code"}\n'}, "folder of another name"),
    ],
)
def test_what_cannot_be_imported_as_it_lies_there_is_told_apart(
    tmp_path: Path, files: dict[str, str], why: str
) -> None:
    found = describe(write(tmp_path, files), tmp_path)

    assert found is not None and why in (found.built or "")


def test_programs_and_plugins_are_those_of_every_kind_of_file(tmp_path: Path) -> None:
    standard = describe(write(tmp_path / "a", {
        "pyproject.toml": STATIC + '[project.scripts]\ngo = "seq_lab.cli:main"\n'
        '[project.entry-points."seq.models"]\nbig = "seq_lab.models:Big"\n'
    }), tmp_path)  # fmt: skip
    poetry = describe(write(tmp_path / "b", {
        "pyproject.toml": '[tool.poetry]\nname = "s"\n[tool.poetry.scripts]\ngo = "s:main"\n'
        '[tool.poetry.plugins."seq.models"]\nbig = "s:Big"\n'
    }), tmp_path)  # fmt: skip
    setup = describe(write(tmp_path / "c", {
        "setup.py": "setup(name='s', scripts=['bin/tool'], entry_points={'console_scripts': ['go=s:main']})",
        "bin/tool": "#!/bin/sh\n",
    }), tmp_path)  # fmt: skip

    assert standard is not None and standard.package.scripts == {"go": "seq_lab.cli:main"}
    assert "[seq.models]\nbig = seq_lab.models:Big\n" in standard.package.entry_points
    assert poetry is not None and poetry.package.scripts == {"go": "s:main"}
    assert "[seq.models]\nbig = s:Big\n" in poetry.package.entry_points
    assert setup is not None and setup.package.scripts == {"go": "s:main"}
    assert setup.package.files == {"tool": "c/bin/tool"}


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("-e .", "."),
        ("-e ./pkg[viz]", "pkg"),
        ("--editable=pkg ; python_version > '3'", "pkg"),
        ("./pkg", "pkg"),
        ("../pkg", "../pkg"),
        ("seq @ file://{here}/pkg", "pkg"),
        ("seq[viz] @ file://{here}/a%20b#egg=seq", "a b"),
        ("-e file://{here}/pkg#egg=seq", "pkg"),
        ("seq @ file:///${{PROJECT_ROOT}}/pkg", "pkg"),
        ("./wheels/x-1-py3-none-any.whl --hash=sha256:aa", "wheels/x-1-py3-none-any.whl"),
        ("numpy>=1", None),
        ("seq @ https://example.com/seq.whl", None),
        ("git+https://example.com/seq", None),
    ],
)
def test_a_requirement_that_is_a_path_is_known_in_every_spelling(tmp_path: Path, line: str, path: str | None) -> None:
    found = [one.resolve() for one in from_line(line.format(here=tmp_path), tmp_path)]

    assert found == ([] if path is None else [(tmp_path / path).resolve()])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('[tool.setuptools_scm]\nversion_file = "src/seq_lab/_v.py"\n', "__version__ = version = '1.2'"),
        ('[tool.hatch.build.hooks.vcs]\nversion-file = "src/seq_lab/_v.py"\n', "version_tuple = (1, 2)"),
        ('[tool.pdm.version]\nwrite_to = "seq_lab/_v.py"\nwrite_template = "V = \'{}\'"\n', "V = '1.2'"),
    ],
)
def test_the_module_that_a_version_plugin_writes_is_there(tmp_path: Path, text: str, written: str) -> None:
    found = describe(write(tmp_path / "pkg", {"pyproject.toml": STATIC + text, "src/seq_lab/a.py": ""}), tmp_path)

    assert found is not None and written in found.package.generated["pkg/src/seq_lab/_v.py"]
