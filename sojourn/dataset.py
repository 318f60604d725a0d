"""Reading a DVC project: what a stage needs, where its data lies, what the remote lacks.

DVC resolves its own files; nothing here parses dvc.yaml. Only `dvc.api` is public and it
knows neither stages nor objects, so this module and `homecoming` use DVC's internals, in
these two files alone and for the version that constraints.txt pins (3.67). DVC is imported
when first needed: its import takes longer than most commands of Sojourn.
Nothing changes the process's working directory; targets are given as absolute paths.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
import tomllib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from sojourn.errors import SojournError, SpecError, TransientError, nearest
from sojourn.records import FileEntry, Record
from sojourn.waiting import SystemClock, wait_for

T = TypeVar("T")
Echo = Callable[[str], None]
LOCK_WAIT_S = 30.0
_READABLE = ("local", "s3", "gs")  # the remotes that a machine can read by itself


class Dependency(Record):
    """Something a stage reads."""

    path: str
    kind: Literal["source", "data", "external"] = Field(
        description="source travels with the bundle, data with the DVC remote, external is the script's own affair"
    )
    hash: str | None = Field(default=None, description="DVC's hash, where one DVC output is the whole dependency")
    size: int | None = None
    is_dir: bool = False


class StageOutput(Record):
    """Something a stage writes."""

    path: str
    cache: bool
    persist: bool
    metric: bool
    plot: bool


class Stage(Record):
    """A DVC stage with its templates filled in; paths are relative to the DVC root."""

    address: str = Field(description="As `dvc repro` knows it at the DVC root: `train`, `sub/dvc.yaml:train`")
    command: tuple[str, ...] = Field(description="Shell lines, run one after the other")
    directory: str = Field(description="Where the command runs; '.' is the DVC root")
    frozen: bool = False
    dependencies: tuple[Dependency, ...] = ()
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict, description="Values by file and dotted name")
    outputs: tuple[StageOutput, ...] = ()


class Survey(Record):
    """What the plan says about a stage's data, before anything moves."""

    files: int
    bytes: int
    push_files: int = Field(description="Files that the DVC remote lacks")
    push_bytes: int
    unknown: tuple[str, ...] = Field(default=(), description="Inputs that earlier stages have yet to make")


class Pushed(Record):
    """What a push moved."""

    files: int
    bytes: int


def find_dvc(directory: Path) -> Path | None:
    """The nearest DVC root at or above `directory`, if any."""
    here = directory.resolve()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), None)


class Dataset:
    """One DVC project, seen from the directory that the user stands in."""

    def __init__(self, root: Path, directory: Path | None = None) -> None:
        self.root = root.resolve()
        self.directory = (directory or root).resolve()
        self._remotes: dict[str | None, _Remote] = {}

    def stage(self, name: str) -> Stage:
        """The stage that `name` means to DVC in the user's directory, or else at the root.

        Raises SpecError when there is none or when a dvc.yaml is broken.
        """
        with dvc_errors():
            return self._described(locate(self._repo, name, (self.directory, self.root)))

    def at(self, address: str) -> Stage:
        """The stage with this address, wherever the user stands."""
        with dvc_errors():
            return self._described(self._at(address))

    def stale_before(self, stage: Stage) -> list[str]:
        """The stages upstream that DVC calls changed, and those between them and `stage`, in order.

        Data that is only missing here does not make a stage stale.
        """
        from dvc.repo.reproduce import get_active_graph, plan_repro

        with dvc_errors():
            target = self._at(stage.address)
            graph = get_active_graph(self._repo.index.graph)
            upstream = [(s, list(graph.successors(s))) for s in plan_repro(graph, [target]) if s.cmd and s != target]
            stale = exclusively(self._repo, f"read the state of {stage.address}", lambda: _stale(upstream))
            return [self._address(other) for other in stale]

    def after(self, stage: Stage) -> list[str]:
        """The stages downstream of `stage`, in order."""
        from dvc.repo.reproduce import get_active_graph, plan_repro

        with dvc_errors():
            target = self._at(stage.address)
            order = plan_repro(get_active_graph(self._repo.index.graph), [target], downstream=True)
            return [self._address(other) for other in order if other.cmd and other != target]

    def reproduce(self, addresses: Iterable[str], echo: Echo) -> None:
        """Run those of these stages that changed here, in this order, each line of their output to `echo`."""
        for address in addresses:
            self._forget()
            if self._changed(address):
                _reproduce(self.root, address, echo)
            else:
                echo(f"stage {address!r} did not change")
        self._forget()

    def _changed(self, address: str) -> bool:
        """What `dvc repro --allow-missing` asks before it runs a stage; the run itself may not miss anything."""
        with dvc_errors():
            stage = self._at(address)
            return exclusively(
                self._repo, f"read the state of {address}", lambda: bool(stage.changed(allow_missing=True))
            )

    def survey(self, stage: Stage) -> Survey:
        """Count a stage's input files and bytes, and those that the remote lacks.

        Raises what a push would raise, except for data that stale stages make anew.
        """
        made = set(self.stale_before(stage))
        with dvc_errors():
            known: list[tuple[Any, Any]] = []
            unknown: set[str] = set()
            for dep, out in self._producers(stage):
                if self._address(out.stage) in made:
                    unknown.add(self._relative(out.fs_path))
                else:
                    known.append((dep, out))
            self._verify(stage, known)
            objects = self._sized(self._objects(known))
            files, lacking = _files(objects), _files(self._lacking(objects))
        return Survey(
            files=len(files),
            bytes=sum(item.size or 0 for item in files),
            push_files=len(lacking),
            push_bytes=sum(item.size or 0 for item in lacking),
            unknown=tuple(sorted(unknown)),
        )

    def inputs(self, stage: Stage, top: Path) -> list[FileEntry]:
        """Every file of the stage's data, with its place below `top` and its URL in the remote."""
        with dvc_errors():
            objects = self._sized(self._objects(self._producers(stage)))
            for item in objects:
                if item.size is None:
                    raise self._nowhere(item)
            return [self._entry(item, top.resolve()) for item in _files(objects)]

    def push(self, stage: Stage, echo: Echo) -> Pushed:
        """Push what the remote lacks of the stage's data, after checking that it is what DVC recorded."""
        self._forget()  # people add data between the plan and the push
        with dvc_errors():
            producers = list(self._producers(stage))
            self._verify(stage, producers)
            return self._push(self._objects(producers), echo)

    def push_outputs(self, stage: Stage, echo: Echo) -> Pushed:
        """Push what the remote lacks of the stage's outputs as dvc.lock records them."""
        self._forget()
        with dvc_errors():
            outs = [out for out in self._at(stage.address).outs if out.use_cache and out.can_push]
            return self._push(self._objects((out, out) for out in outs), echo)

    def metrics(self, stage: Stage) -> dict[str, Any]:
        """The values of the stage's metric files in the tree, by dotted name."""
        values: dict[str, Any] = {}
        for output in stage.outputs:
            path = self.root / output.path
            if output.metric and path.is_file():
                values.update(_flattened(_parsed(path)))
        return values

    # --- DVC's objects ---

    @cached_property
    def _repo(self) -> Any:
        return open_repo(self.root)

    def _forget(self) -> None:
        if "_repo" in self.__dict__:
            self.__dict__.pop("_repo").close()
        self._remotes.clear()

    def _described(self, found: Any) -> Stage:
        return Stage(
            address=address_of(found, self.root),
            command=(found.cmd,) if isinstance(found.cmd, str) else tuple(found.cmd or ()),
            directory=self._relative(found.wdir),
            frozen=found.frozen,
            dependencies=tuple(one for dep in found.deps if not is_params(dep) for one in self._dependencies(dep)),
            parameters={self._relative(dep.fs_path): dep.read_params() for dep in found.params},
            outputs=tuple(self._output(out) for out in found.outs),
        )

    def _at(self, address: str) -> Any:
        return locate(self._repo, address, (self.root,))

    def _address(self, found: Any) -> str:
        return address_of(found, self.root)

    def _relative(self, path: str) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()

    def _dependencies(self, dep: Any) -> Iterator[Dependency]:
        """A dependency as one part that travels one way, or a directory's own files and each output below it."""
        if not dep.is_in_repo:
            yield Dependency(path=str(dep.def_path), kind="external")
            return
        outs = self._outs_of(dep)
        below = [out for out in outs if out.fs_path != dep.fs_path and dep.fs.isin(out.fs_path, dep.fs_path)]
        yield self._part(dep.fs_path, "data" if outs and not below else "source", outs)
        yield from (self._part(out.fs_path, "data", [out]) for out in below)

    def _part(self, path: str, kind: Literal["source", "data"], outs: list[Any]) -> Dependency:
        whole = next((out for out in outs if out.fs_path == path and out.hash_info), None)
        return Dependency(
            path=self._relative(path),
            kind=kind,
            hash=f"md5:{whole.hash_info.value}" if whole else None,
            size=whole.meta.size if whole else None,
            is_dir=os.path.isdir(path) or bool(whole and whole.meta.isdir),
        )

    def _output(self, out: Any) -> StageOutput:
        return StageOutput(
            path=self._relative(out.fs_path),
            cache=out.use_cache,
            persist=out.persist,
            metric=bool(out.metric),
            plot=bool(out.plot),
        )

    def _outs_of(self, dep: Any) -> list[Any]:
        """The cached outputs that are, hold or lie below a dependency; uncached ones are git's."""
        return [out for out in self._repo.index.outs if out.use_cache and dep.fs.overlaps(out.fs_path, dep.fs_path)]

    def _producers(self, stage: Stage) -> Iterator[tuple[Any, Any]]:
        for dep in self._at(stage.address).deps:
            if dep.is_in_repo and not is_params(dep):
                yield from ((dep, out) for out in self._outs_of(dep))

    def _objects(self, producers: Iterable[tuple[Any, Any]]) -> list[_Object]:
        """The objects below each dependency, once each."""
        found: dict[tuple[str, str], _Object] = {}
        for dep, out in producers:
            for item in self._objects_of(out):
                # A list in the remote tells DVC that all its files are there, so it goes only with all of them.
                if out.fs.isin_or_eq(item.path, dep.fs_path):
                    found[item.path, item.md5] = item
        return list(found.values())

    def _objects_of(self, out: Any) -> Iterator[_Object]:
        path = self._relative(out.fs_path)
        if not out.hash_info:
            raise SpecError(f"{path}: DVC has recorded no hash", hint=self._remake(out))
        if out.hash_info.name != "md5":
            raise SpecError(
                f"{path}: recorded by DVC 2 as {out.hash_info.name}",
                hint="dvc cache migrate && dvc cache migrate --dvc-files",
            )
        if not out.hash_info.isdir:
            yield _Object(out.fs_path, out.hash_info.value, out, size=out.meta.size, executable=bool(out.meta.isexec))
            return
        tree = out.get_obj() or out.get_dir_cache(remote=self._remote(out.remote).name)
        if tree is None:
            raise self._nowhere(_Object(out.fs_path, out.hash_info.value, out))
        yield _Object(out.fs_path, out.hash_info.value, out, is_tree=True)
        yield from (_Object(out.fs.join(out.fs_path, *key), oid.value, out) for key, _, oid in tree)

    def _sized(self, objects: list[_Object]) -> list[_Object]:
        """The same objects with their sizes, from the cache or else from the remote."""
        cache = self._repo.cache.local
        sized: list[_Object] = []
        unknown: list[_Object] = []
        for item in objects:
            size = _size_of(cache.oid_to_path(item.md5))
            (unknown if size is None else sized).append(item.sized(size))
        for remote, items in self._by_remote(unknown).items():
            sized += [item.sized(size) for item, size in zip(items, remote.sizes(items), strict=True)]
        return sorted(sized, key=lambda item: item.path)

    def _by_remote(self, objects: Iterable[_Object]) -> dict[_Remote, list[_Object]]:
        groups: dict[_Remote, list[_Object]] = {}
        for item in objects:
            groups.setdefault(self._remote(item.out.remote), []).append(item)
        return groups

    def _remote(self, name: str | None) -> _Remote:
        if name not in self._remotes:
            self._remotes[name] = _open_remote(self._repo, name)
        return self._remotes[name]

    def _entry(self, item: _Object, top: Path) -> FileEntry:
        return FileEntry(
            path=Path(item.path).relative_to(top).as_posix(),
            hash=f"md5:{item.md5}",
            size=item.size or 0,
            mode=0o755 if item.executable else 0o644,
            source=self._remote(item.out.remote).url(item.md5),
        )

    # --- pushing ---

    def _verify(self, stage: Stage, producers: Iterable[tuple[Any, Any]]) -> None:
        for dependency in stage.dependencies:
            if dependency.kind == "external":
                raise SpecError(
                    f"{stage.address}: its dependency {dependency.path} lies outside the project",
                    hint=shlex.join(["dvc", "import-url", dependency.path]),
                )
            if dependency.kind == "source" and not (self.root / dependency.path).exists():
                raise SpecError(f"{stage.address}: its dependency {dependency.path} does not exist", hint="dvc status")
        for out in {id(out): out for _, out in producers}.values():
            if out.exists and out.hash_info and out.changed_checksum():
                raise self._modified(out)

    def _modified(self, out: Any) -> SpecError:
        path = self._relative(out.fs_path)
        record = self._relative(out.stage.path)
        record = record if out.stage.is_data_source else record.replace("dvc.yaml", "dvc.lock")
        added = out.stage.is_data_source and not out.stage.is_import
        accept = shlex.join(["dvc", "add", path]) if added else self._commit(out)
        return SpecError(
            f"{path} is not what {record} records (md5 {out.hash_info.value})",
            hint=f"to use it: {accept}; to go back: {shlex.join(['dvc', 'checkout', '--force', path])}",
        )

    def _commit(self, out: Any) -> str:
        return shlex.join(["dvc", "commit", self._address(out.stage)])

    def _remake(self, out: Any) -> str:
        return shlex.join(["dvc", "update" if out.stage.is_import else "repro", self._address(out.stage)])

    def _nowhere(self, item: _Object) -> SpecError:
        path = self._relative(item.path)
        if Path(item.path).exists():
            hint = self._commit(item.out)
        elif item.out.stage.cmd:
            hint = self._remake(item.out)
        else:
            hint = f"{shlex.join(['dvc', 'pull', path])}, or dvc push where the data was added"
        remote = self._remote(item.out.remote)
        return SpecError(
            f"{path} (md5 {item.md5}) is neither in the DVC cache nor in remote {remote.name!r}", hint=hint
        )

    def _lacking(self, objects: Iterable[_Object]) -> list[_Object]:
        """The objects that the remotes lack, each of which can be pushed."""
        lacking = []
        for remote, items in self._by_remote(objects).items():
            lacking += remote.lacking(items)
        for item in lacking:
            if not os.path.exists(self._repo.cache.local.oid_to_path(item.md5)):
                raise self._nowhere(item)
            if not item.out.can_push:
                raise SpecError(
                    f"{self._relative(item.path)} is marked `push: false`, so no machine can read it",
                    hint=f"remove `push: false` in {self._relative(item.out.stage.path)}",
                )
        return lacking

    def _push(self, objects: list[_Object], echo: Echo) -> Pushed:
        lacking = self._lacking(self._sized(objects))
        for remote, items in self._by_remote(lacking).items():
            echo(f"pushing {len(_files(items))} files to DVC remote {remote.name!r}")
            remote.push(self._repo.cache.local, items)
        files = _files(lacking)
        return Pushed(files=len(files), bytes=sum(item.size or 0 for item in files))


# --- objects and remotes ------------------------------------------------------------------


@dataclass(frozen=True)
class _Object:
    """One object of DVC's store and the absolute path it stands for."""

    path: str
    md5: str
    out: Any
    size: int | None = None
    executable: bool = False
    is_tree: bool = False

    def sized(self, size: int | None) -> _Object:
        return _Object(self.path, self.md5, self.out, size, self.executable, self.is_tree)


def _files(objects: Iterable[_Object]) -> list[_Object]:
    return [item for item in objects if not item.is_tree]


@dataclass(frozen=True, eq=False)
class _Remote:
    """A DVC remote that machines can read."""

    name: str
    odb: Any

    def url(self, md5: str) -> str:
        path = self.odb.oid_to_path(md5)
        return Path(path).as_uri() if self._local else f"{self.odb.fs.protocol}://{path}"

    def sizes(self, items: list[_Object]) -> list[int | None]:
        """The size of each object in the remote; None where there is none."""
        paths = [self.odb.oid_to_path(item.md5) for item in items]
        if self._local:
            return [_size_of(path) for path in paths]
        with self._answering():
            found = self.odb.fs.info(paths, return_exceptions=True)
            for answer in found:
                if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                    raise answer
        return [None if isinstance(answer, Exception) else answer["size"] for answer in found]

    def lacking(self, items: list[_Object]) -> list[_Object]:
        """The objects, each once, that are not there or on a local disk not there in full."""
        unique = list({item.md5: item for item in items}.values())
        if self._local:
            sizes = self.sizes(unique)
            return [item for item, size in zip(unique, sizes, strict=True) if size is None or size != item.size]
        with self._answering():
            held = set(self.odb.oids_exist([item.md5 for item in unique]))
        return [item for item in unique if item.md5 not in held]

    def push(self, cache: Any, items: list[_Object]) -> None:
        """Copy objects from the cache, a directory's list after its files, as DVC does."""
        for trees in (False, True):
            oids = sorted({item.md5 for item in items if item.is_tree is trees})
            failures: list[BaseException] = []
            if oids:
                with self._answering():
                    self.odb.add(
                        [cache.oid_to_path(oid) for oid in oids],
                        cache.fs,
                        oids,
                        check_exists=False,
                        on_error=lambda _, error, failures=failures: failures.append(error),
                    )
            if failures:
                raise TransientError(
                    f"DVC remote {self.name!r} took only {len(oids) - len(failures)} of {len(oids)} files: "
                    f"{_line(failures[0])}",
                    hint=f"dvc push --remote {self.name}",
                )

    @property
    def _local(self) -> bool:
        return bool(self.odb.fs.protocol == "local")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        # Each kind of remote raises its own library's errors; all of them mean the same to us.
        try:
            yield
        except Exception as error:
            raise SpecError(
                f"DVC remote {self.name!r} at {self.odb.path} does not answer: {_line(error)}",
                hint=f"dvc status --cloud --remote {self.name}",
            ) from error


def _open_remote(repo: Any, name: str | None) -> _Remote:
    name = name or repo.config["core"].get("remote")
    known = list(repo.config["remote"])
    if not name:
        hint = f"dvc remote default {known[0]}" if known else "dvc remote add -d storage s3://BUCKET/PATH"
        raise SpecError("no DVC remote is configured" if not known else "no DVC remote is the default", hint=hint)
    if name not in known:
        raise SpecError(f"DVC remote {name!r} is not configured, {nearest(name, known)}", hint="dvc remote list")
    try:
        odb = repo.cloud.get_remote_odb(name, "push")
    except ImportError as error:
        scheme = repo.config["remote"][name].get("url", "").partition(":")[0]
        raise SpecError(
            f"DVC remote {name!r}: DVC's package for {scheme} is not installed",
            hint=f"install dvc-{scheme} into Sojourn's environment: {sys.executable} -m pip install dvc-{scheme}",
        ) from error
    if odb.fs.protocol not in _READABLE:
        raise SpecError(
            f"DVC remote {name!r} is of kind {odb.fs.protocol!r}; machines read {', '.join(_READABLE)}",
            hint="dvc remote add -d storage s3://BUCKET/PATH",
        )
    return _Remote(name, odb)


def _size_of(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


# --- DVC itself, shared with homecoming -----------------------------------------------------


def open_repo(root: Path, config: dict[str, Any] | None = None) -> Any:
    """A silent DVC `Repo` at `root`, with `config` laid over its files."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    # Progress bars look at the level of their logger, so this stills both.
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # DVC's own use of its libraries, which no user of ours can change.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(dvc|dvc_data|dvc_objects|pygtrie)\b")
    with dvc_errors():
        from dvc.repo import Repo

        return Repo(str(root), config=config)


def locate(repo: Any, name: str, directories: Iterable[Path]) -> Any:
    """DVC's stage object for `name`, looked up in the first directory that has its dvc.yaml."""
    from dvc.stage.exceptions import StageNotFound
    from dvc.utils import parse_target

    file, stage = parse_target(name)
    paths = [Path(directory, file or "dvc.yaml") for directory in directories]
    path = next((path for path in paths if path.is_file()), None)
    if path is None or not stage:
        where = paths[-1] if path is None else path
        raise SpecError(
            f"stage {name!r}: {where} " + ("does not exist" if path is None else "holds no such stage"),
            hint="dvc stage list --all",
        )
    try:
        return repo.stage.load_one(str(path), stage)
    except StageNotFound:
        known = {item.name for item in repo.stage.load_all(str(path))}
        raise SpecError(
            f"stage {stage!r} is not in {os.path.relpath(path, repo.root_dir)}, {nearest(stage, known)}",
            hint=f"stages: {', '.join(sorted(known))}",
        ) from None


def address_of(stage: Any, root: Path) -> str:
    """What `dvc repro` calls the stage when started at `root`."""
    file = Path(os.path.relpath(stage.path, root)).as_posix()
    name = getattr(stage, "name", None)
    if not name:
        return file
    return str(name) if file == "dvc.yaml" else f"{file}:{name}"


def exclusively(repo: Any, doing: str, work: Callable[[], T]) -> T:
    """What `work` returns under DVC's own lock; it starts again while another process is in the way.

    Raises TransientError after LOCK_WAIT_S seconds.
    """
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    def attempt() -> tuple[T] | None:
        try:
            with lock_repo(repo):
                return (work(),)
        except LockError:
            return None

    try:
        return wait_for(attempt, what=doing, limit_s=LOCK_WAIT_S, clock=SystemClock())[0]
    except TransientError as error:
        raise TransientError(
            f"another DVC process is at work in {repo.root_dir}: could not {doing} within {LOCK_WAIT_S:.0f} s",
            hint="wait for it, then try again; if there is none, remove .dvc/tmp/lock and .dvc/tmp/rwlock",
        ) from error


@contextmanager
def dvc_errors() -> Iterator[None]:
    """DVC's exceptions as ours: one sentence, the place, what to type next."""
    try:
        yield
    except SojournError:
        raise
    except Exception as error:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        if isinstance(error, LockError):
            raise TransientError(
                f"another DVC process is at work: {_line(error)}", hint="wait for it to end"
            ) from error
        if isinstance(error, DvcException):
            raise SpecError(f"DVC: {_line(error)}{_place(error)}", hint=_next_command(error)) from error
        raise


def _next_command(error: Exception) -> str:
    from dvc.exceptions import NotDvcRepoError

    return "dvc init" if isinstance(error, NotDvcRepoError) else "dvc status"


def _place(error: Exception) -> str:
    """Where a DVC file is broken, from the parser's own marks."""
    from dvc.utils.serialize import parse_yaml_for_update
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError, determine_linecol

    if isinstance(error, YAMLSyntaxError):
        cause = error.exc.__cause__
        mark = getattr(cause, "problem_mark", None)
        return f", line {mark.line + 1}: {getattr(cause, 'problem', '')}" if mark else ""
    if isinstance(error, YAMLValidationError):
        first = error.exc.errors[0]
        line, _, _ = determine_linecol(parse_yaml_for_update(error.text, error.path), first.path)
        where = " -> ".join(str(part) for part in first.path)
        return (f", line {line}" if line else "") + f": {first.error_message} in {where}"
    return ""


def _line(error: BaseException) -> str:
    """An exception's first line, or its name when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def is_params(dep: Any) -> bool:
    from dvc.dependency.param import ParamsDependency

    return isinstance(dep, ParamsDependency)


def _stale(upstream: list[tuple[Any, list[Any]]]) -> list[Any]:
    """Those of the stages, each given with the ones above it, that changed or follow one that did."""
    stale: list[Any] = []
    for stage, above in upstream:
        if any(other in stale for other in above) or stage.changed(allow_missing=True, upstream=above):
            stale.append(stage)
    return stale


# `dvc repro` would add advice about git and pushing to what the stage itself says; `dvc -q repro` would hide errors.
_REPRODUCE = """
import logging, sys
from dvc.exceptions import DvcException
from dvc.repo import Repo

for name in ("dvc", "dvc_data", "dvc_objects"):
    logging.getLogger(name).setLevel(logging.WARNING)
try:
    Repo().reproduce(sys.argv[1], single_item=True)
except DvcException:
    logging.getLogger("dvc").exception("")
    sys.exit(255)
"""


def _reproduce(root: Path, address: str, echo: Echo) -> None:
    # -P: a module of the project that is named like one of DVC's own is not taken for it.
    command = [sys.executable, "-P", "-c", _REPRODUCE, address]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}
    tail: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail.append(line.rstrip("\n"))
                echo(tail[-1])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        last = "\n  ".join(line for line in tail if line.strip())
        raise SpecError(f"stage {address!r} failed here:\n  {last}", hint=f"dvc repro {address}")


# --- metric files ---------------------------------------------------------------------------


def _parsed(path: Path) -> Any:
    from dvc.utils.serialize import parse_yaml

    with dvc_errors():
        text = path.read_text(encoding="utf-8")
        try:
            if path.suffix == ".json":
                return json.loads(text)
            return tomllib.loads(text) if path.suffix == ".toml" else parse_yaml(text, str(path))
        except ValueError as error:
            raise SpecError(f"{path}: not a metric file: {_line(error)}", hint="write JSON, YAML or TOML") from error


def _flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flattened(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
