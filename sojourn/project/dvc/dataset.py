"""Reading a DVC project: what a stage needs, where its data lies, what the remote lacks.

DVC resolves its own files; nothing here parses dvc.yaml. Nothing changes the process's
working directory; targets are given as absolute paths.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pydantic import Field

from sojourn import programs
from sojourn.errors import SpecError, TransientError
from sojourn.project import metric_files
from sojourn.project.dvc.relay import Cargo
from sojourn.project.dvc.remote import Remote, StoredObject, only_files, open_remote, size_of
from sojourn.project.dvc.repo import (
    Echo,
    address_of,
    dvc_errors,
    exclusively,
    imported_by,
    is_params,
    locate,
    open_repo,
    reproduce,
)
from sojourn.records import FileEntry, Record
from sojourn.shorthand import counted

T = TypeVar("T")


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
    inside: bool = True
    recorded: bool = True
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
    read: tuple[str, ...] = Field(default=(), description="What DVC reads to know it: dvc.yaml, vars, parameters")

    @property
    def needed(self) -> tuple[str, ...]:
        """What must travel with the bundle, whatever git ignores."""
        return (*(dep.path for dep in self.dependencies if dep.kind == "source"), *self.read)


class Survey(Record):
    """What the plan says about a stage's data, before anything moves."""

    files: int
    bytes: int
    push_files: int = Field(description="Files that the DVC remote lacks")
    push_bytes: int
    carried_bytes: int = Field(default=0, description="In files that go by way of the store, once")
    buckets: tuple[str, ...] = Field(default=(), description="Those that machines read by themselves, like `s3://NAME`")
    with_keys: bool = Field(default=False, description="Whether machines need keys of a cloud to read it")
    unknown: tuple[str, ...] = Field(default=(), description="Inputs that earlier stages have yet to make")
    unasked: tuple[str, ...] = Field(default=(), description="Why remotes do not say what they have")
    paths: tuple[str, ...] = Field(default=(), repr=False, description="Of the files, where they would stand here")


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
        self._remotes: dict[str | None, Remote] = {}
        self._unasked: dict[str, str] = {}
        self._stages: dict[str, Any] = {}
        self._stale: dict[str, list[str]] = {}

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
        if stage.address not in self._stale:
            with dvc_errors():
                self._stale[stage.address] = [self._address(other) for other in self._stale_before(stage.address)]
        return self._stale[stage.address]

    def _stale_before(self, address: str) -> list[Any]:
        from dvc.repo.reproduce import get_active_graph, plan_repro

        target = self._at(address)
        graph = get_active_graph(self._repo.index.graph)
        upstream = [(s, list(graph.successors(s))) for s in plan_repro(graph, [target]) if s.cmd and s != target]
        return self._exclusively(f"read the state of {address}", lambda: _stale(upstream))

    def after(self, stage: Stage) -> list[str]:
        """The stages downstream of `stage`, in order."""
        from dvc.repo.reproduce import get_active_graph, plan_repro

        with dvc_errors():
            target = self._at(stage.address)
            order = plan_repro(get_active_graph(self._repo.index.graph), [target], downstream=True)
            return [self._address(other) for other in order if other.cmd and other != target]

    def reproduce(self, addresses: Iterable[str], echo: Echo) -> tuple[str, ...]:
        """Run those of these stages that changed here, in this order; which those were.

        Each line of their output goes to `echo`.
        """
        ran: list[str] = []
        for address in addresses:
            if self._changed(address):
                try:
                    reproduce(self.root, address, echo)
                finally:
                    self._forget()
                ran.append(address)
            else:
                echo(f"stage {address!r} did not change")
        return tuple(ran)

    def _changed(self, address: str) -> bool:
        """What `dvc repro --allow-missing` asks before it runs a stage; the run itself may not miss anything."""
        with dvc_errors():
            stage = self._at(address)
            return self._exclusively(f"read the state of {address}", lambda: _has_changed(stage))

    def survey(self, stage: Stage, this_host: bool = True) -> Survey:
        """Count a stage's input files and bytes, those that the remote lacks, and those that no machine can fetch.

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
            later = {self._relative(out.fs_path) for name in made for out in self._at(name).outs}
            missing = {dep.path for dep in stage.dependencies if not (self.root / dep.path).exists()}
            unknown |= {path for path in missing if not later.isdisjoint(_with_above(path))}
            self._verify(stage, known, later=unknown)
            objects = self._sized(self._objects(known))
            files, lacking = only_files(objects), only_files(self._lacking(objects))
            far, near = self._far(objects, this_host), self._by_remote(files)
        return Survey(
            files=len(files),
            bytes=sum(item.size or 0 for item in files),
            push_files=len(lacking),
            push_bytes=sum(item.size or 0 for item in lacking),
            carried_bytes=sum(item.size or 0 for item in far),
            buckets=tuple(sorted({remote.bucket for remote in near if remote.bucket})),
            with_keys=any(remote.readable(False) for remote in near),
            unknown=tuple(sorted(unknown)),
            unasked=tuple(self._unasked.values()),
            paths=tuple(item.path for item in files),
        )

    def out_of_reach(self, stage: Stage, this_host: bool) -> list[Cargo]:
        """The files of the stage's data, each once, that lie where no machine can fetch them; see `Remote.readable`."""
        with dvc_errors():
            objects = self._sized(self._objects(self._producers(stage)))
            return [self._cargo(item) for item in self._far(objects, this_host)]

    def inputs(self, stage: Stage, top: Path, carried: Mapping[str, str] = MappingProxyType({})) -> list[FileEntry]:
        """Every file of the stage's data, with its place below `top` and its URL in the remote.

        `carried` has the keys in the run's store of what is fetched from there, by MD5.
        """
        with dvc_errors():
            objects = self._sized(self._objects(self._producers(stage)))
            for item in objects:
                if item.size is None:
                    raise self._nowhere(item)
            return [self._entry(item, top.resolve(), carried) for item in only_files(objects)]

    def push(self, stage: Stage, echo: Echo, anew: bool = True) -> Pushed:
        """Push what the remote lacks of the stage's data, after checking that it is what DVC recorded.

        `anew`: what was read of it may be old, for people add data between a plan and the push.
        """
        if anew:
            self._forget()
        with dvc_errors():
            producers = list(self._producers(stage))
            self._verify(stage, producers)
            return self._push(self._objects(producers), echo)

    def push_outputs(self, addresses: Iterable[str], echo: Echo) -> Pushed:
        """Push what the remote lacks of these stages' outputs as dvc.lock records them."""
        self._forget()
        with dvc_errors():
            found = (out for address in addresses for out in self._at(address).outs)
            outs = [out for out in found if out.use_cache and out.can_push]
            return self._push(self._objects((out, out) for out in outs), echo)

    def push_command(self, addresses: Iterable[str]) -> str:
        """What to type at the DVC root to push the outputs of these stages."""
        stages = tuple(addresses)
        with dvc_errors():
            outs = [out for address in stages for out in self._at(address).outs]
            names = {out.remote or self._repo.config["core"].get("remote") for out in outs}
        remote = ["--remote", name] if len(names) == 1 and (name := next(iter(names))) else []
        return programs.dvc(shlex.join(["push", *remote, *stages]))

    def metrics(self, addresses: Iterable[str]) -> dict[str, Any]:
        """The values in the tree of the metric files that these stages write."""
        values: dict[str, Any] = {}
        for path in (path for address in addresses for path in self.metric_files(address)):
            file = self.root / path
            if file.is_file() and file.stat().st_size <= metric_files.SIZE_LIMIT:
                values.update(metric_files.read(path, file.read_bytes()))
        return values

    def metric_files(self, address: str) -> list[str]:
        """The files of metrics that a stage writes: outputs marked so, or named under `metrics:` in a dvc.yaml."""
        from dvc.repo.metrics.show import _collect_top_level_metrics

        with dvc_errors():
            outs = self._at(address).outs
            named = sorted(self.root / path for path in _collect_top_level_metrics(self._repo))
            below = [str(path) for path in named if any(out.fs.isin_or_eq(str(path), out.fs_path) for out in outs)]
            own = [out.fs_path for out in outs if out.metric]
            return list(dict.fromkeys(self._relative(path) for path in (*own, *below)))

    # --- DVC's objects ---

    @cached_property
    def _repo(self) -> Any:
        return open_repo(self.root)

    def _forget(self) -> None:
        """What was read counts no more: a stage has run, or outputs came home."""
        if "_repo" in self.__dict__:
            self.__dict__.pop("_repo").close()
        self._remotes.clear()
        self._stages.clear()
        self._stale.clear()

    def _exclusively(self, doing: str, look: Callable[[], T]) -> T:
        """A look under DVC's lock. DVC forgets what it has read when it lets go, and would read it again."""
        kept = {name: value for name, value in self._repo.__dict__.items() if name == "index"}
        found = exclusively(self._repo, doing, look)
        self._repo.__dict__.update(kept)
        return found

    def _described(self, found: Any) -> Stage:
        return Stage(
            address=address_of(found, self.root),
            command=tuple(found.cmd.splitlines() if isinstance(found.cmd, str) else found.cmd or ()),
            directory=self._relative(found.wdir),
            frozen=found.frozen,
            dependencies=tuple(one for dep in found.deps if not is_params(dep) for one in self._dependencies(dep)),
            parameters={self._relative(dep.fs_path): dep.read_params() for dep in found.params},
            outputs=tuple(self._output(out) for out in found.outs),
            read=tuple(self._read(found)),
        )

    def _read(self, found: Any) -> Iterator[str]:
        """The files from which DVC knows a stage, as far as they lie in the project."""
        files = {found.path, *(dep.fs_path for dep in found.params), *imported_by(found)}
        files |= {str(self.root / ".dvcignore"), str(self.root / ".dvc/config")}
        inside = (self._relative(path) for path in sorted(files))
        yield from (path for path in inside if not path.startswith("../"))

    def _at(self, address: str) -> Any:
        if address not in self._stages:
            self._stages[address] = locate(self._repo, address, (self.root,))
        return self._stages[address]

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
            path=self._relative(out.fs_path) if out.is_in_repo else str(out.def_path),
            inside=out.is_in_repo,
            recorded=bool(out.hash_info),
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

    def _objects(self, producers: Iterable[tuple[Any, Any]]) -> list[StoredObject]:
        """The objects below each dependency, once each."""
        found: dict[tuple[str, str], StoredObject] = {}
        for dep, out in producers:
            for item in self._objects_of(out):
                # A list in the remote tells DVC that all its files are there, so it goes only with all of them.
                if out.fs.isin_or_eq(item.path, dep.fs_path):
                    found[item.path, item.md5] = item
        return list(found.values())

    def _objects_of(self, out: Any) -> Iterator[StoredObject]:
        path = self._relative(out.fs_path)
        if not out.hash_info:
            raise SpecError(f"{path}: DVC has recorded no hash", hint=self._remake(out))
        if out.hash_info.name != "md5":
            raise SpecError(
                f"{path}: recorded by DVC 2 as {out.hash_info.name}",
                hint=f"{programs.dvc('cache migrate')} && {programs.dvc('cache migrate --dvc-files')}",
            )
        if not out.hash_info.isdir:
            yield StoredObject(
                out.fs_path, out.hash_info.value, out, size=out.meta.size, executable=bool(out.meta.isexec)
            )
            return
        tree = out.get_obj() or out.get_dir_cache(remote=self._remote(out.remote).name)
        if tree is None:
            raise self._nowhere(StoredObject(out.fs_path, out.hash_info.value, out))
        yield StoredObject(out.fs_path, out.hash_info.value, out, is_tree=True)
        yield from (StoredObject(out.fs.join(out.fs_path, *key), oid.value, out) for key, _, oid in tree)

    def _sized(self, objects: list[StoredObject]) -> list[StoredObject]:
        """The same objects with their sizes, from the cache or else from the remote."""
        cache = self._repo.cache.local
        sized: list[StoredObject] = []
        unknown: list[StoredObject] = []
        for item in objects:
            size = size_of(cache.oid_to_path(item.md5))
            (unknown if size is None else sized).append(item.sized(size))
        for remote, items in self._by_remote(unknown).items():
            sized += [item.sized(size) for item, size in zip(items, remote.sizes(items), strict=True)]
        return sorted(sized, key=lambda item: item.path)

    def _by_remote(self, objects: Iterable[StoredObject]) -> dict[Remote, list[StoredObject]]:
        groups: dict[Remote, list[StoredObject]] = {}
        for item in objects:
            groups.setdefault(self._remote(item.out.remote), []).append(item)
        return groups

    def _remote(self, name: str | None) -> Remote:
        if name not in self._remotes:
            self._remotes[name] = open_remote(self._repo, name)
        return self._remotes[name]

    def _far(self, objects: list[StoredObject], this_host: bool) -> list[StoredObject]:
        files = {item.md5: item for item in only_files(objects)}
        return [item for item in files.values() if not self._remote(item.out.remote).readable(this_host)]

    def _cargo(self, item: StoredObject) -> Cargo:
        if item.size is None:
            raise self._nowhere(item)
        cached, remote = Path(self._repo.cache.local.oid_to_path(item.md5)), self._remote(item.out.remote)
        return Cargo(self._relative(item.path), item.md5, item.size, cached, partial(remote.download, item.md5))

    def _entry(self, item: StoredObject, top: Path, carried: Mapping[str, str]) -> FileEntry:
        return FileEntry(
            path=Path(item.path).relative_to(top).as_posix(),
            hash=f"md5:{item.md5}",
            size=item.size or 0,
            mode=0o755 if item.executable else 0o644,
            source=carried.get(item.md5) or self._remote(item.out.remote).url(item.md5),
        )

    # --- pushing ---

    def _verify(self, stage: Stage, producers: Iterable[tuple[Any, Any]], later: Container[str] = ()) -> None:
        for output in stage.outputs:
            if not output.inside:
                raise SpecError(
                    f"{stage.address}: its output {output.path} is outside the project, from where nothing comes home",
                    hint=f"let it write below {self.root}, and name that in outs:",
                )
        for dependency in stage.dependencies:
            if dependency.kind == "external":
                raise SpecError(
                    f"{stage.address}: its dependency {dependency.path} lies outside the project",
                    hint=programs.dvc(shlex.join(["import-url", dependency.path])),
                )
            there = dependency.path in later or (self.root / dependency.path).exists()
            if dependency.kind == "source" and not there:
                raise SpecError(
                    f"{stage.address}: its dependency {dependency.path} does not exist", hint=programs.dvc("status")
                )
        for out in {id(out): out for _, out in producers}.values():
            if out.exists and out.hash_info and out.changed_checksum():
                raise self._modified(out)

    def _modified(self, out: Any) -> SpecError:
        path = self._relative(out.fs_path)
        record = self._relative(out.stage.path)
        record = record if out.stage.is_data_source else record.replace("dvc.yaml", "dvc.lock")
        added = out.stage.is_data_source and not out.stage.is_import
        accept = programs.dvc(shlex.join(["add", path])) if added else self._commit(out)
        return SpecError(
            f"{path} is not what {record} records (md5 {out.hash_info.value})",
            hint=f"to use it: {accept}; to go back: {programs.dvc(shlex.join(['checkout', '--force', path]))}",
        )

    def _commit(self, out: Any) -> str:
        return programs.dvc(shlex.join(["commit", self._address(out.stage)]))

    def _remake(self, out: Any) -> str:
        return programs.dvc(shlex.join(["update" if out.stage.is_import else "repro", self._address(out.stage)]))

    def _nowhere(self, item: StoredObject) -> SpecError:
        path = self._relative(item.path)
        if Path(item.path).exists():
            hint = self._commit(item.out)
        elif item.out.stage.cmd:
            hint = self._remake(item.out)
        else:
            hint = f"{programs.dvc(shlex.join(['pull', path]))}, or {programs.dvc('push')} where the data was added"
        remote = self._remote(item.out.remote)
        return SpecError(
            f"{path} (md5 {item.md5}) is neither in the DVC cache nor in remote {remote.name!r}", hint=hint
        )

    def _lacking(self, objects: Iterable[StoredObject]) -> list[StoredObject]:
        """The objects that the remotes lack, each of which can be pushed."""
        lacking = []
        for remote, items in self._by_remote(objects).items():
            found = remote.lacking(items)
            doubt = remote.doubt(found[0]) if found else None
            if isinstance(doubt, TransientError):
                raise doubt
            if doubt is not None:  # whoever may not look may be allowed to write all the same
                self._unasked[remote.name] = doubt.message
            lacking += found
        for item in lacking:
            if not os.path.exists(self._repo.cache.local.oid_to_path(item.md5)):
                raise self._nowhere(item)
            if not item.out.can_push:
                raise SpecError(
                    f"{self._relative(item.path)} is marked `push: false`, so no machine can read it",
                    hint=f"remove `push: false` in {self._relative(item.out.stage.path)}",
                )
        return lacking

    def _push(self, objects: list[StoredObject], echo: Echo) -> Pushed:
        lacking = self._lacking(self._sized(objects))
        for remote, items in self._by_remote(lacking).items():
            echo(f"pushing {counted(len(only_files(items)), 'file')} to DVC remote {remote.name!r}")
            remote.push(self._repo.cache.local, items)
        files = only_files(lacking)
        return Pushed(files=len(files), bytes=sum(item.size or 0 for item in files))


def _has_changed(stage: Any, **more: Any) -> bool:
    """What `dvc repro --allow-missing` asks, but for a stage that never ran: DVC takes its outputs for missing."""
    never_ran = bool(stage.cmd) and not stage.frozen and any(not out.hash_info for out in stage.outs)
    return never_ran or bool(stage.changed(allow_missing=True, **more))


def _with_above(path: str) -> list[str]:
    return [path, *map(str, PurePosixPath(path).parents)]


def _stale(upstream: list[tuple[Any, list[Any]]]) -> list[Any]:
    """Those of the stages, each given with the ones above it, that changed or follow one that did."""
    stale: list[Any] = []
    for stage, above in upstream:
        if any(other in stale for other in above) or _has_changed(stage, upstream=above):
            stale.append(stage)
    return stale
