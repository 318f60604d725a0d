"""A package of the project itself: read from its files as they stand, served from the bundle as if installed.

Nothing is run to read it. What only its build backend could tell (the version of a tag,
say) is taken from the nearest sign of it. Packages that must be built before they can be
imported are told apart, with the reason.
"""

from __future__ import annotations

import ast
import configparser
import io
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from sojourn.errors import SpecError, first_line
from sojourn.project.project import Project
from sojourn.protocol import LocalPackage
from sojourn.shorthand import shortened

UNKNOWN = "0+unknown"
DESCRIPTIONS = ("pyproject.toml", "setup.py", "setup.cfg")
_COMPILES = re.compile(r"^[^#\n]*\b(ext_modules|rust_extensions|cffi_modules|cmake_install_dir)\b", re.MULTILINE)
_BACKENDS = ("maturin", "scikit_build_core", "mesonpy", "skbuild", "setuptools_rust", "cmeel", "enscons", "sipbuild")
_VCS = ("setuptools_scm", "vcs-versioning", "poetry-dynamic-versioning", "versioningit", "setuptools-git-versioning")
_ASSIGNED = re.compile(r"^(?:__version__|VERSION|version)\s*(?::[^=\n]+)?=\s*(['\"])v?(?P<version>[^'\"\n]+)\1", re.M)
_TAG = re.compile(r"^(?:.*?[^\d.])??v?(?P<tag>\d+(?:\.\d+)*[a-z0-9.]*)-(?P<ahead>\d+)-g(?P<commit>[0-9a-f]+)$")
_DOCUMENTED = {"console_scripts", "gui_scripts"}


@dataclass
class Found:
    """What the files of a package say of it."""

    package: LocalPackage
    built: str | None = None  # why it cannot be imported as it lies there
    dynamic: bool = False  # its dependencies are known to its build backend alone
    extras: frozenset[str] = frozenset()


@dataclass
class _Facts:
    """Collected from the files, the first word on each counts."""

    name: str = ""
    version: str = ""
    requires_python: str = ""
    dependencies: list[str] = field(default_factory=list)
    extras: dict[str, list[str]] = field(default_factory=dict)
    points: dict[str, dict[str, str]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    built: str | None = None
    dynamic: bool = False


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_package(folder: Path) -> bool:
    """Whether pip could install the folder."""
    return any((folder / name).is_file() for name in DESCRIPTIONS)


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file, empty where it is none; whoever needs it says what is wrong with it."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def table(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A table within tables, empty where there is none."""
    found: Any = content
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else {}


def describe(folder: Path, root: Path) -> Found | None:
    """The package that lies in a folder below the root; None where none is described.

    Raises SpecError for a description that no tool could install from.
    """
    try:
        return _described(folder, root)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{folder}: its package cannot be described: {shortened(first_line(error), 300)}",
            hint=f"mend it until this works: uv build {shlex.quote(str(folder))}",
        ) from error


def _described(folder: Path, root: Path) -> Found | None:
    pyproject = read_toml(folder / "pyproject.toml")
    facts = _Facts()
    for look in (_standard, _poetry, _flit, _setup_cfg, _setup_py):
        look(facts, pyproject, folder)
    if not facts.name:
        return None
    facts.built = facts.built or _why_built(pyproject, folder)
    if not facts.version:
        facts.version = _dynamic_version(pyproject, folder) or _installed_version(folder, facts.name) or UNKNOWN
    where = folder.resolve().relative_to(root.resolve())
    paths = facts.paths or _declared_paths(pyproject) or _usual_paths(folder, facts.name)
    inside = [path for path in dict.fromkeys(paths) if (folder / path).is_dir()]
    written = _version_files(pyproject, folder, inside, _line(facts.version))
    scripts = {**facts.points.get("console_scripts", {}), **facts.points.get("gui_scripts", {})}
    return Found(
        LocalPackage(
            name=facts.name,
            version=_line(facts.version),
            directory=where.as_posix(),
            paths=tuple((where / path).as_posix() for path in inside or ["."]),
            metadata=_metadata(facts),
            entry_points=_entry_points(facts.points),
            scripts={name: target.split("[")[0].strip() for name, target in scripts.items() if _is_program(name)},
            files={Path(file).name: (where / file).as_posix() for file in facts.files if (folder / file).is_file()},
            generated={(where / file).as_posix(): text for file, text in written.items()},
        ),
        built=facts.built,
        dynamic=facts.dynamic or facts.built is not None,
        extras=frozenset(map(normal, facts.extras)),
    )


# --- what each kind of file says -----------------------------------------------------------


def _standard(facts: _Facts, pyproject: dict[str, Any], folder: Path) -> None:
    """The [project] table, https://packaging.python.org/en/latest/specifications/pyproject-toml/."""
    project = table(pyproject, "project")
    dynamic = project.get("dynamic", [])
    facts.name = str(project.get("name", ""))
    facts.version = str(project.get("version", ""))
    facts.requires_python = str(project.get("requires-python", ""))
    facts.dependencies = [str(one) for one in project.get("dependencies", [])]
    facts.extras = {
        name: [str(one) for one in lines] for name, lines in table(project, "optional-dependencies").items()
    }
    facts.dynamic = bool({"version", "dependencies", "optional-dependencies"} & set(dynamic))
    for group, key in (("console_scripts", "scripts"), ("gui_scripts", "gui-scripts")):
        _add_points(facts, group, table(project, key))
    for group, points in table(project, "entry-points").items():
        _add_points(facts, group, points)
    facts.files += [str(file) for file in table(pyproject, "tool", "setuptools").get("script-files", [])]


def _poetry(facts: _Facts, pyproject: dict[str, Any], folder: Path) -> None:
    poetry = table(pyproject, "tool", "poetry")
    if not poetry:
        return
    facts.name = facts.name or str(poetry.get("name", ""))
    facts.version = facts.version or str(poetry.get("version", ""))
    facts.dynamic = facts.dynamic or "project" not in pyproject
    facts.extras = facts.extras or {name: list(lines) for name, lines in table(poetry, "extras").items()}
    for name, target in table(poetry, "scripts").items():
        if isinstance(target, Mapping) and target.get("type") == "file":
            facts.files.append(str(target.get("reference")))
        else:
            where = target.get("reference") or target.get("callable") if isinstance(target, Mapping) else target
            _add_points(facts, "console_scripts", {name: str(where)})
    for group, points in table(poetry, "plugins").items():
        _add_points(facts, group, points)
    for one in poetry.get("packages", []):
        if one.get("to"):
            facts.built = f"its pyproject.toml moves {one.get('include')} to {one['to']}"
        facts.paths.append(str(one.get("from", ".")))


def _flit(facts: _Facts, pyproject: dict[str, Any], folder: Path) -> None:
    flit = table(pyproject, "tool", "flit")
    metadata = table(flit, "metadata")
    facts.name = facts.name or str(metadata.get("dist-name", metadata.get("module", "")))
    facts.dynamic = facts.dynamic or bool(metadata)
    _add_points(facts, "console_scripts", table(flit, "scripts"))
    for group, points in table(flit, "entrypoints").items():
        _add_points(facts, group, points)


def _setup_cfg(facts: _Facts, pyproject: dict[str, Any], folder: Path) -> None:
    parser = configparser.RawConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of programs keep their letters
    try:
        parser.read(folder / "setup.cfg", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return
    sections = {name: dict(parser.items(name)) for name in parser.sections()}
    metadata, options = sections.get("metadata", {}), sections.get("options", {})
    if not metadata and not options:
        return
    facts.dynamic = facts.dynamic or "project" not in pyproject
    facts.name = facts.name or metadata.get("name", "").strip()
    facts.version = facts.version or _setuptools_version(metadata.get("version", ""), folder)
    facts.extras = facts.extras or {
        name: text.split("\n") for name, text in sections.get("options.extras_require", {}).items()
    }
    for group, text in sections.get("options.entry_points", {}).items():
        _add_points(facts, group, _pairs(text))
    facts.files += options.get("scripts", "").split()
    _add_package_dir(facts, _pairs(options.get("package_dir", "")))
    facts.paths += sections.get("options.packages.find", {}).get("where", "").split()


def _setup_py(facts: _Facts, pyproject: dict[str, Any], folder: Path) -> None:
    """What setup() is called with, as far as it stands there as plain values."""
    file = folder / "setup.py"
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8", errors="replace")
    facts.dynamic = facts.dynamic or "project" not in pyproject
    if _COMPILES.search(text):
        facts.built = facts.built or "its setup.py compiles extensions"
    given = _setup_call(text)
    facts.name = facts.name or str(given.get("name") or "")
    facts.version = facts.version or str(given.get("version") or "")
    if not facts.name and not facts.dynamic:
        return
    facts.name = facts.name or _installed_name(folder) or folder.resolve().name
    extras = given.get("extras_require")
    if isinstance(extras, dict):
        facts.extras = facts.extras or {str(name): [str(one) for one in lines] for name, lines in extras.items()}
    points = given.get("entry_points")
    for group, lines in _setup_points(points):
        _add_points(facts, group, _pairs("\n".join(lines)))
    facts.files += [str(one) for one in given.get("scripts") or []]
    if isinstance(given.get("package_dir"), dict):
        _add_package_dir(facts, given["package_dir"])
    facts.paths += [str(where) for where in given.get("find_packages", [])]


def _setup_call(text: str) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of what is nested too deep
        return {}
    names = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    given: dict[str, Any] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "setup":
            for word in node.keywords:
                value = _literal(
                    names.get(word.value.id, word.value) if isinstance(word.value, ast.Name) else word.value
                )
                if word.arg and value is not None:
                    given[word.arg] = value
        elif called in ("find_packages", "find_namespace_packages"):
            first = [_literal(one) for one in node.args[:1]]
            first += [_literal(word.value) for word in node.keywords if word.arg == "where"]
            given["find_packages"] = [one for one in first if isinstance(one, str)]
    return given


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _setup_points(points: object) -> Iterator[tuple[str, list[str]]]:
    if isinstance(points, str):
        parser = configparser.RawConfigParser()
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read_file(io.StringIO(points))
        except configparser.Error:
            return
        yield from (
            (group, [f"{name} = {target}" for name, target in parser.items(group)]) for group in parser.sections()
        )
    elif isinstance(points, dict):
        for group, lines in points.items():
            yield str(group), [lines] if isinstance(lines, str) else [str(one) for one in lines]


def _add_points(facts: _Facts, group: str, points: Mapping[str, Any]) -> None:
    known = facts.points.setdefault(str(group), {})
    for name, target in points.items():
        known.setdefault(str(name), str(target))


def _pairs(text: str) -> dict[str, str]:
    """`name = value` lines; a package_dir may have nothing before its `=`."""
    halves = (line.partition("=") for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, _, value in halves}


def _add_package_dir(facts: _Facts, moved: Mapping[str, str]) -> None:
    for name, where in moved.items():
        last = str(name).rpartition(".")[2]
        if not name:
            facts.paths.append(str(where) or ".")
        elif Path(where).name == last and "." not in name:
            facts.paths.append(Path(where).parent.as_posix())
        elif "." not in name:
            facts.built = facts.built or f"its package {name} lies in a folder of another name, {where}"


# --- where modules lie ---------------------------------------------------------------------


def _declared_paths(pyproject: dict[str, Any]) -> list[str]:
    tool = table(pyproject, "tool")
    setuptools = table(tool, "setuptools")
    moved = table(setuptools, "package-dir")
    hatch, wheel = table(tool, "hatch", "build"), table(tool, "hatch", "build", "targets", "wheel")
    backend = str(table(pyproject, "build-system").get("build-backend", ""))
    uv = table(tool, "uv", "build-backend")
    paths: list[str] = [str(where) for name, where in moved.items() if not name]
    paths += [Path(where).parent.as_posix() for name, where in moved.items() if name and Path(where).name == name]
    paths += [str(one) for one in table(setuptools, "packages", "find").get("where", [])]
    paths += [str(one) for one in hatch.get("dev-mode-dirs", [])]
    sources = wheel.get("sources", hatch.get("sources", []))
    paths += [str(one) for one in sources if str(one)]
    paths += [Path(one).parent.as_posix() for one in wheel.get("packages", [])] if not paths else []
    paths += [str(one) for one in [table(tool, "pdm", "build").get("package-dir")] if one]
    paths += [str(one) for one in [table(tool, "maturin").get("python-source")] if one]
    if backend == "uv_build" or uv:
        paths.append(str(uv.get("module-root", "src")) or ".")
    return paths


def _usual_paths(folder: Path, name: str) -> list[str]:
    """src, or the folder itself, by where a module of its name lies; both when none has it."""
    module = normal(name).replace("-", "_")
    for where in ("src", "."):
        if (folder / where / module).is_dir() or (folder / where / f"{module}.py").is_file():
            return [where]
    return [where for where in ("src", ".") if (folder / where).is_dir()]


def _why_built(pyproject: dict[str, Any], folder: Path) -> str | None:
    backend = str(table(pyproject, "build-system").get("build-backend", ""))
    tool = table(pyproject, "tool")
    if backend.split(".")[0] in _BACKENDS:
        return f"{backend} compiles it"
    if table(tool, "setuptools").get("ext-modules"):
        return "its pyproject.toml names ext-modules"
    for name, where in table(tool, "setuptools", "package-dir").items():
        if name and "." not in name and Path(str(where)).name != name:
            return f"its package {name} lies in a folder of another name, {where}"
    hooks = [*table(tool, "hatch", "build", "hooks"), *table(tool, "hatch", "build", "targets", "wheel", "hooks")]
    other = [name for name in hooks if name not in ("vcs", "version")]
    if other:
        return f"hatch makes parts of it ({', '.join(other)})"
    if table(tool, "hatch", "build", "targets", "wheel").get("force-include"):
        return "its pyproject.toml has force-include"
    script = tool.get("poetry", {}).get("build") if isinstance(tool.get("poetry"), dict) else None
    if script and (not isinstance(script, dict) or script.get("script")):
        return "poetry runs a build script for it"
    if table(tool, "pdm", "build").get("run-setuptools"):
        return "pdm runs its setup.py"
    return None


_VERSION_MODULE = "__version__ = version = {version!r}\n__version_tuple__ = version_tuple = {version_tuple!r}\n"


def _version_files(pyproject: dict[str, Any], folder: Path, paths: Iterable[str], version: str) -> dict[str, str]:
    """The modules that a version plugin writes into the package. git mostly ignores them, so they do not travel."""
    numbers = tuple(int(part) if part.isdigit() else part for part in re.split(r"[.+]", version))
    written: dict[str, str] = {}
    for names in (("setuptools_scm",), ("hatch", "build", "hooks", "vcs"), ("pdm", "version")):
        found = table(pyproject, "tool", *names)
        file = next(
            (found[key] for key in ("version_file", "write_to", "version-file") if isinstance(found.get(key), str)), ""
        )
        if not file:
            continue
        where = next((one for one in (".", *paths) if (folder / one / file).parent.is_dir()), ".")
        place = folder / where / file
        keys = ("version_file_template", "write_to_template", "template", "write_template")
        template = str(next((found[key] for key in keys if found.get(key)), _VERSION_MODULE))
        try:
            text = template.replace("{}", "{version}").format(version=version, version_tuple=numbers)
        except (KeyError, IndexError, ValueError, AttributeError):
            text = _VERSION_MODULE.format(version=version, version_tuple=numbers)
        written[(Path(where) / file).as_posix()] = _text(place) if place.is_file() else text
    return written


# --- versions ------------------------------------------------------------------------------


def _dynamic_version(pyproject: dict[str, Any], folder: Path) -> str:
    tool = table(pyproject, "tool")
    dynamic = table(tool, "setuptools", "dynamic").get("version")
    if isinstance(dynamic, dict):
        files = dynamic.get("file", [])
        said = (
            f"attr: {dynamic['attr']}"
            if "attr" in dynamic
            else f"file: {files if isinstance(files, str) else files[0]}"
        )
        return _setuptools_version(said, folder)
    for settings in (table(tool, "hatch", "version"), table(tool, "pdm", "version")):
        if isinstance(settings.get("path"), str):
            return _assigned(folder / settings["path"])
    requires = " ".join(map(str, table(pyproject, "build-system").get("requires", [])))
    if any(name in tool or name in requires.replace("_", "-") or name in requires for name in (*_VCS, "hatch-vcs")):
        return _vcs_version(folder)
    if table(tool, "hatch", "version").get("source") == "vcs" or table(tool, "pdm", "version").get("source") == "scm":
        return _vcs_version(folder)
    name = str(table(pyproject, "project").get("name", "")).replace("-", "_")
    roots = (folder / "src" / name, folder / name)
    return next((found for one in roots if (found := _assigned(one / "__init__.py"))), "")


def _setuptools_version(said: str, folder: Path) -> str:
    """`1.0`, `attr: package.__version__` or `file: VERSION`, as setuptools means it."""
    kind, colon, where = said.strip().partition(":")
    if not colon:
        return said.strip()
    if kind.strip() == "file":
        text = _text(folder / where.strip().split(",")[0])
        return text.strip().splitlines()[0].strip() if text.strip() else ""
    module = where.strip().rpartition(".")[0].replace(".", "/")
    files = (folder / base / f"{module}{end}" for base in ("src", ".", "lib") for end in (".py", "/__init__.py"))
    return next((found for one in files if (found := _assigned(one))), "")


def _assigned(file: Path) -> str:
    found = _ASSIGNED.search(_text(file))
    return found["version"] if found else ""


def _vcs_version(folder: Path) -> str:
    """What setuptools-scm would make of git's tags, without the day's date."""
    said = Project(folder).git_if_it_will("describe", "--tags", "--long", "--match", "*[0-9]*")
    found = _TAG.match((said or "").strip())
    if found is None:
        return ""
    if found["ahead"] == "0":
        return found["tag"]
    head, _, last = found["tag"].rpartition(".")
    number = f"{head}.{int(last) + 1}" if head and last.isdigit() else found["tag"]
    return f"{number}.dev{found['ahead']}+g{found['commit']}"


def _installed_version(folder: Path, name: str) -> str:
    """As an earlier installation left it beside the sources."""
    found = [one for one in _egg_infos(folder) if normal(one.get("Name", "")) == normal(name)]
    return str(found[0].get("Version", "")) if found else _vcs_version(folder)


def _installed_name(folder: Path) -> str:
    return next((str(one.get("Name")) for one in _egg_infos(folder)), "")


def _egg_infos(folder: Path) -> Iterator[Any]:
    for where in (folder, folder / "src", folder / "lib"):
        for file in sorted(where.glob("*.egg-info/PKG-INFO")):
            yield HeaderParser().parsestr(_text(file))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- as an installation has it --------------------------------------------------------------


def _metadata(facts: _Facts) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {_line(facts.name)}", f"Version: {_line(facts.version)}"]
    if facts.requires_python:
        lines.append(f"Requires-Python: {_line(facts.requires_python)}")
    lines += [f"Requires-Dist: {_line(one)}" for one in facts.dependencies]
    for extra, needed in facts.extras.items():
        lines.append(f"Provides-Extra: {_line(extra)}")
        lines += [f"Requires-Dist: {_conditional(one, extra)}" for one in needed if one.strip()]
    return "\n".join(lines) + "\n"


def _conditional(requirement: str, extra: str) -> str:
    what, semicolon, marker = _line(requirement).partition(";")
    also = f"({marker.strip()}) and " if semicolon else ""
    return f'{what.strip()} ; {also}extra == "{_line(extra)}"'


def _entry_points(points: Mapping[str, Mapping[str, str]]) -> str:
    sections = ((group, lines) for group, lines in points.items() if lines)
    return "\n".join(
        f"[{_line(group)}]\n" + "".join(f"{_line(name)} = {_line(target)}\n" for name, target in lines.items())
        for group, lines in sections
    )


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _is_program(name: str) -> bool:
    return bool(name) and "/" not in name and name not in (".", "..")


# --- what refers to packages ----------------------------------------------------------------


def from_pyproject(file: Path) -> Iterator[Path]:
    """The folders that a pyproject.toml takes packages from: its own, and those that its dependencies name."""
    content, folder = read_toml(file), file.parent
    tool = table(content, "tool")
    yield folder
    for one in _sources(table(tool, "uv", "sources").values()):
        if isinstance(one.get("path"), str):
            yield folder / one["path"]
    if any(one.get("workspace") for one in _sources(table(tool, "uv", "sources").values())):
        yield from workspace_members(workspace_root(folder) or folder)
    poetry = table(tool, "poetry")
    tables = [table(poetry, "dependencies"), table(poetry, "dev-dependencies")]
    tables += [table(group, "dependencies") for group in table(poetry, "group").values()]
    for dependencies in tables:
        for one in _sources(dependencies.values()):
            if isinstance(one.get("path"), str):
                yield folder / one["path"]
    for line in _requirement_strings(content):
        yield from from_line(line, folder)


def _sources(values: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield one


def _requirement_strings(content: dict[str, Any]) -> Iterator[str]:
    project = table(content, "project")
    lists = [project.get("dependencies", []), *table(project, "optional-dependencies").values()]
    lists += [
        *table(content, "dependency-groups").values(),
        *table(content, "tool", "pdm", "dev-dependencies").values(),
    ]
    for lines in lists:
        yield from (line for line in lines if isinstance(line, str))


def workspace_root(folder: Path, top: Path | None = None) -> Path | None:
    """The root of the uv workspace that a folder with a pyproject.toml belongs to, itself at the least."""
    if table(read_toml(folder / "pyproject.toml"), "tool", "uv", "workspace"):
        return folder
    for above in folder.parents:
        if top is not None and not above.is_relative_to(top):
            return None
        if table(read_toml(above / "pyproject.toml"), "tool", "uv", "workspace"):
            return above if folder.resolve() in {one.resolve() for one in workspace_members(above)} else None
    return None


def workspace_members(root: Path) -> Iterator[Path]:
    """The folders of a uv workspace, its root first."""
    workspace = table(read_toml(root / "pyproject.toml"), "tool", "uv", "workspace")
    excluded = {one.resolve() for pattern in workspace.get("exclude", []) for one in root.glob(str(pattern))}
    yield root
    for pattern in workspace.get("members", []):
        for one in sorted(root.glob(str(pattern))):
            if (one / "pyproject.toml").is_file() and one.resolve() not in excluded:
                yield one


_EDITABLE = re.compile(r"^(?:-e|--editable)[ =]\s*")
_DIRECT = re.compile(r"^[A-Za-z0-9._-]+\s*(?:\[[^\]]*\])?\s*@\s*(?P<where>\S+)")
_AROUND = re.compile(r"(\[[^\]]*\])?\s*(;.*)?$")


def from_line(line: str, base: Path, expand: Callable[[str], str] = lambda text: text) -> Iterator[Path]:
    """The path that a requirement names, a folder or a file: `-e ./x[y]`, `x @ file:///…`, `./x.whl`."""
    editable = _EDITABLE.match(line.strip()) is not None
    text = expand(_EDITABLE.sub("", line.strip()))
    text = text.replace("${PROJECT_ROOT}", str(base)).replace("{root:uri}", base.as_uri() if base.is_absolute() else "")
    direct = _DIRECT.match(text)
    where = direct["where"] if direct else text
    where = _AROUND.sub("", where.split("#egg=")[0].split(" #")[0].split(" --")[0].strip()).strip().strip("\"'")
    if where.startswith("file:"):
        from urllib.parse import unquote, urlsplit

        where = unquote(urlsplit(where).path) or unquote(where.removeprefix("file:"))
    elif "://" in where or not where or not (direct or editable or _looks_like_path(where)):
        return
    yield base / where


def _looks_like_path(where: str) -> bool:
    return where.startswith((".", "/", "~")) or "/" in where or where.endswith((".whl", ".tar.gz", ".zip"))
