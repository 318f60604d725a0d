"""All that goes into an environment built on this host: what it is kept by, so that none is ever used for another.

A file's text alone would not do: it names other files, folders of the project, wheels that
are built anew under the same name, and uv reads settings from files and variables besides.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from sojourn.environment import local_packages
from sojourn.environment.local_packages import DESCRIPTIONS, Found, from_line, read_toml, table
from sojourn.environment.sources import Source
from sojourn.environment.target import ASKED
from sojourn.environment.uv import ask_uv
from sojourn.errors import TransientError
from sojourn.project.project import Project
from sojourn.spec.dependencies import Dependencies

_INCLUDE = re.compile(r"^\s*(-r|-c|--requirement|--constraint)[ =]?\s*(?P<path>[^\s#]+)", re.MULTILINE)
_LINKS = re.compile(r"^\s*(-f|--find-links)[ =]\s*(?P<path>[^\s#]+)", re.MULTILINE)
_INDEX = re.compile(r"^\s*(-i|--index-url|--extra-index-url|--index|--default-index)[ =]\s*(?P<url>\S+)", re.MULTILINE)
_REPOSITORY = re.compile(r"(?:git|hg|svn|bzr)\+[^\s\"'#,;]+")
_COMMIT = re.compile(r"@[0-9a-f]{7,40}$")
# Settings of uv that change how it works and not what it finds.
_NO_MATTER = re.compile(
    r"UV|UV_(CACHE_DIR|NO_CACHE|CONCURRENT_.*|HTTP_.*|REQUEST_.*|NO_PROGRESS|LINK_MODE|COMPILE_.*|TOOL_.*|PUBLISH_.*|"
    r"PYTHON_INSTALL_.*|PYTHON_BIN_DIR|PROJECT_ENVIRONMENT|NO_SYNC|OFFLINE|SYSTEM_CERTS|NATIVE_TLS|LOG.*|INTERNAL.*|"
    r"RUN_.*|ENV_FILE|NO_ENV_FILE|WORKING_DIR.*|UNMANAGED_INSTALL|INSTALL.*|VENV_.*|STACK_SIZE|LOCK_TIMEOUT|FROZEN|LOCKED)"
)
ASK_LIMIT_S = 20.0
_FILES_OF_VARIABLES = ("UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_BUILD_CONSTRAINT", "UV_CONFIG_FILE")


def fingerprint(
    source: Source, wanted: Dependencies, packages: Iterable[Found], root: Path, surroundings: Mapping[str, str]
) -> str:
    """Sixteen hexadecimal digits, the same where the same environment would be built."""
    digest = hashlib.sha256()

    def add(label: str, content: bytes) -> None:
        digest.update(f"{label}\0{len(content)}\0".encode(errors="surrogateescape") + content)

    add("for", f"{_python(source.folder, surroundings)}|{platform.platform()}|{source.kind}".encode())
    add("wanted", wanted.model_dump_json(exclude={"file"}).encode())
    for file in sorted(set(_files(source, packages, root, surroundings))):
        add(os.path.relpath(file, root), file.read_bytes())
    for folder in sorted(set(_link_folders(source, root))):
        add(os.path.relpath(folder, root), _listing(folder))
    for name, text in sorted(_settings(source.folder, root)):
        add(name, text)
    for name, value in sorted(surroundings.items()):
        if name.startswith("UV_") and not _NO_MATTER.fullmatch(name):
            add(name, value.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def requirement_texts(file: Path) -> list[Path]:
    """A requirements file and those it includes."""
    files = [file]
    for one in files:
        text = one.read_text(encoding="utf-8", errors="replace")
        for match in _INCLUDE.finditer(text):
            included = one.parent / expanded(match["path"])
            if included.is_file() and included not in files:
                files.append(included)
    return files


def _python(folder: Path, surroundings: Mapping[str, str]) -> str:
    """The interpreter that uv would take there now, with the version of the one that asks."""
    path = {"PATH": surroundings.get("PATH", os.defpath)}
    try:
        found = ask_uv("python", "find", "--system", cwd=folder, variables=path, limit_s=ASK_LIMIT_S)
    except TransientError:
        return platform.python_version()
    return f"{platform.python_version()}|{os.path.realpath(found.stdout.strip())}"


def logins(source: Source) -> dict[str, str]:
    """Indexes whose addresses in the requirements hold a login, as a variable of uv: its lock names files without."""
    texts = requirement_texts(source.file) if source.kind == "requirements" else []
    lines = (file.read_text(encoding="utf-8", errors="replace") for file in texts)
    found = [expanded(match["url"]) for text in lines for match in _INDEX.finditer(text)]
    known = [os.environ["UV_INDEX"]] if os.environ.get("UV_INDEX") else []
    with_login = [url for url in found if urlsplit(url).username]
    return {"UV_INDEX": " ".join([*with_login, *known])} if with_login else {}


def unpinned(source: Source) -> list[str]:
    """A remark on packages from a repository of which no commit is named: the environment keeps the one it got."""
    if source.kind not in ("requirements", "pyproject", "script"):
        return []
    texts = requirement_texts(source.file) if source.kind == "requirements" else [source.file]
    lines = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in texts)
    urls = [url for url in _REPOSITORY.findall(lines) if not _COMMIT.search(url)]
    sources = table(read_toml(source.file), "tool", "uv", "sources").values() if source.kind == "pyproject" else ()
    urls += [str(one["git"]) for one in sources if isinstance(one, dict) and "git" in one and "rev" not in one]
    shown = [re.sub(r"//[^/@]*@", "//", url) for url in dict.fromkeys(urls)]
    return [f"{url} names no commit: the environment keeps the one that it was built with; pin it" for url in shown]


def expanded(text: str) -> str:
    """`${NAME}` as pip and uv replace it; `${PROJECT_ROOT}` is another's."""
    return re.sub(r"\$\{(\w+)\}", lambda match: os.environ.get(match[1], match[0]), text)


def named_paths(source: Source) -> Iterator[Path]:
    """The folders and files that a source names as packages, its own folder among them where it is a project's."""
    for file in requirement_texts(source.file) if source.kind == "requirements" else []:
        for line in _logical_lines(file):
            yield from from_line(line, source.folder, expanded)
    if source.kind == "export":
        yield from (one for one in local_packages.from_pyproject(source.folder / "pyproject.toml") if one.is_dir())
    if source.kind in ("uv", "pyproject") and local_packages.is_package(source.folder):
        yield from local_packages.from_pyproject(source.folder / "pyproject.toml")
    if source.kind == "uv" and source.file.parent != source.folder:
        yield from local_packages.from_pyproject(source.file.parent / "pyproject.toml")
    if source.kind in ("uv", "pylock"):
        yield from _locked_paths(source.file)


def _locked_paths(file: Path) -> Iterator[Path]:
    for package in read_toml(file).get("package", []):
        where = table(package, "source")
        for key in ("editable", "directory", "virtual", "path"):
            if isinstance(where.get(key), str):
                yield file.parent / where[key]
    for package in read_toml(file).get("packages", []):
        for key in ("directory", "archive"):
            path = table(package, key).get("path")
            if isinstance(path, str):
                yield file.parent / path


def _logical_lines(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ")
    for line in text.splitlines():
        plain = re.sub(r"(^|\s)#.*$", "", line).strip()
        if plain and (not plain.startswith("-") or plain.startswith(("-e", "--editable"))):
            yield plain


def _files(source: Source, packages: Iterable[Found], root: Path, surroundings: Mapping[str, str]) -> Iterator[Path]:
    yield from requirement_texts(source.file) if source.kind == "requirements" else [source.file]
    if source.kind == "uv":
        yield from _there(source.file.parent, DESCRIPTIONS)
    yield from _there(source.folder, DESCRIPTIONS if source.kind != "requirements" else ())
    yield from (file for file in named_paths(source) if file.is_file())
    for found in packages:
        folder = root / found.package.directory
        yield from _there(folder, DESCRIPTIONS)
        if found.dynamic:
            for pattern in ("*.txt", "*.in", "*.cfg", "requirements/*"):
                yield from (file for file in folder.glob(pattern) if file.is_file())
        if found.built:
            yield from contents(folder)
    if source.kind == "script":
        yield from _there(source.file.parent, (f"{source.file.name}.lock",))
    for above in (source.folder, *source.folder.parents):
        if above.is_relative_to(root):
            yield from _there(above, (ASKED, "uv.toml"))
    for name in _FILES_OF_VARIABLES:
        for one in surroundings.get(name, "").split():
            yield from (file for file in [source.folder / one] if file.is_file())
    config = Path(surroundings.get("XDG_CONFIG_HOME") or Path(surroundings.get("HOME", "/nonexistent"), ".config"))
    yield from _there(config / "uv", ("uv.toml", ASKED))
    yield from _there(Path("/etc/uv"), ("uv.toml",))


def contents(folder: Path) -> list[Path]:
    """All files of a package that travel."""
    listed = Project(folder).git_if_it_will("ls-files", "--cached", "--others", "--exclude-standard", "-z")
    if listed is None:
        return sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return sorted(file for name in listed.split("\0") if name and (file := folder / name).is_file())


def _there(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    yield from (file for name in names if (file := folder / name).is_file())


def _link_folders(source: Source, root: Path) -> Iterator[Path]:
    """Folders of wheels that uv looks into."""
    if source.kind == "requirements":
        for file in requirement_texts(source.file):
            text = file.read_text(encoding="utf-8", errors="replace")
            for base in (file.parent, source.folder):
                yield from (one for match in _LINKS.finditer(text) if (one := base / expanded(match["path"])).is_dir())
    for above in (source.folder, *source.folder.parents):
        if above.is_relative_to(root):
            settings = [table(read_toml(above / "pyproject.toml"), "tool", "uv"), read_toml(above / "uv.toml")]
            links = [one for each in settings for one in each.get("find-links", [])]
            yield from (one for link in links if isinstance(link, str) and (one := above / link).is_dir())


def _listing(folder: Path) -> bytes:
    """A wheel may be built anew under its old name."""
    infos = ((one.name, one.stat()) for one in sorted(folder.iterdir()) if one.is_file())
    return json.dumps([(name, info.st_size, info.st_mtime_ns, info.st_ctime_ns) for name, info in infos]).encode()


def _settings(folder: Path, root: Path) -> Iterator[tuple[str, bytes]]:
    """What pyproject.toml files above say to uv."""
    for above in folder.parents:
        if above.is_relative_to(root) and (said := table(read_toml(above / "pyproject.toml"), "tool", "uv")):
            yield str(above.relative_to(root)), json.dumps(said, sort_keys=True, default=str).encode()


def find_packages(paths: Iterable[Path], root: Path, refuse: Callable[[Path], Exception]) -> list[Found]:
    """The packages below the root that are named, and those that they name in turn.

    Raises what `refuse` makes of a folder outside the root.
    """
    todo, seen, found = list(paths), set(), []
    while todo:
        folder = Path(os.path.abspath(todo.pop(0)))
        if folder in seen or not folder.is_dir():
            continue
        seen.add(folder)
        if not folder.resolve().is_relative_to(root.resolve()):
            if local_packages.is_package(folder):
                raise refuse(folder)
            continue
        described = local_packages.describe(folder, root)
        if described is not None:
            found.append(described)
        if (folder / "pyproject.toml").is_file():
            todo += local_packages.from_pyproject(folder / "pyproject.toml")
    return found
