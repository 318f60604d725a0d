"""Bringing a stage's outputs home into the user's tree and dvc.lock.

`dvc commit` records the code and parameters of now. Training takes hours and people go on
working, so it would write today's script beside yesterday's result. Here the stage is
committed in a scratch tree that holds exactly what ran, and its lock entry moves into the
user's tree only while every dependency, parameter and the command there are still those.
DVC's internals are used as `dataset` says; nothing else in Sojourn touches dvc.lock.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from sojourn.errors import SpecError, TrainingError
from sojourn.project import contents
from sojourn.project.dvc.repo import dvc_errors, exclusively, is_params, locate, open_repo
from sojourn.records import FileEntry, Record

Lacks = Callable[[list[str]], bool]


class Committed(Record):
    """A stage as it ran: its entry for dvc.lock, with the cached outputs in the user's DVC cache."""

    address: str
    entry: dict[str, Any] = Field(description="What dvc.lock says of this stage, in DVC's own form")
    tree: Path = Field(description="The scratch tree's DVC root, which holds the outputs that no cache keeps")
    folders: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="Of each dependency that is a folder: its files with their hashes"
    )


class Applied(Record):
    """The outputs are in the user's tree and dvc.lock records them."""

    outputs: tuple[str, ...]
    replaced: dict[str, str] = Field(
        default_factory=dict, description="Other content that stood at an output's path, by its hash in the DVC cache"
    )


class Refused(Record):
    """The user's tree is no longer what ran; nothing in it was touched."""

    paths: tuple[str, ...] = Field(description="What differs: `src/train.py`, `params.yaml: lr`, `dvc.yaml: command`")
    by_hand: bool = Field(default=False, description="These are outputs with content that DVC could not bring back")


def commit(
    root: Path,
    scratch: Path,
    address: str,
    *,
    top: Path,
    inputs: Sequence[FileEntry],
    outputs: Path,
    command: tuple[str, ...] = (),
    lacks: Lacks | None = None,
) -> Committed:
    """Commit what ran, in a scratch tree, into the user's DVC cache.

    `root` is the user's DVC root and `scratch` the same directory of the bundle unpacked again.
    `outputs` holds what came home and `inputs` what DVC's remote gave, both with paths from `top`,
    the root of the bundle. The data is not read: its hashes are those that the machine verified.
    An input that DVC did not hash must lie in the scratch tree. `command` are the lines that ran: dvc.yaml
    may have been edited between the plan and the sending of the bundle. `lacks` is called with the paths, from
    the bundle's root, of what the stage depends on, before anything of it is read: what is lacking is to be there then.
    Raises TrainingError when a declared output is missing.
    """
    below = root.resolve().relative_to(top.resolve())
    tree = scratch.resolve()
    with dvc_errors():
        repo = _scratch_repo(root, tree)
        try:
            stage = locate(repo, address, (tree,))
            inside = [Path(dep.fs_path).relative_to(tree) for dep in stage.deps if dep.is_in_repo]
            if lacks is not None and lacks([(below / path).as_posix() for path in inside]):
                stage = locate(repo, address, (tree,))
            for out in stage.outs:
                path = Path(out.fs_path).relative_to(tree)
                _bring(outputs / below / path, tree / path, path.as_posix())
            known = {
                os.path.normpath(tree / os.path.relpath(e.path, below)): e for e in inputs if e.hash.startswith("md5:")
            }
            folders: dict[str, dict[str, str]] = {}
            entry = exclusively(repo, f"commit {address}", lambda: _commit(stage, known, folders))
        finally:
            repo.close()
    if command:
        entry["cmd"] = command[0] if len(command) == 1 and isinstance(entry["cmd"], str) else list(command)
    return Committed(address=address, entry=entry, tree=tree, folders=folders)


def apply(root: Path, committed: Committed) -> Applied | Refused:
    """Take a committed stage over into the user's tree, if that is still what ran.

    Outputs that the user changed by hand, and that DVC could not bring back, are never replaced.
    Raises TransientError when another DVC process holds the tree for too long.
    """
    root = root.resolve()
    with dvc_errors():
        repo = open_repo(root)
        try:
            return exclusively(repo, f"record {committed.address} in dvc.lock", lambda: _apply(repo, root, committed))
        finally:
            repo.close()


# --- in the scratch tree --------------------------------------------------------------------


def _scratch_repo(root: Path, tree: Path) -> Any:
    """A DVC project at `tree` that shares the user's cache and needs no git."""
    user = open_repo(root)
    try:
        kept = {key: user.config["cache"][key] for key in ("type", "shared") if key in user.config["cache"]}
        cache = {**kept, "dir": user.cache.local_cache_dir}
    finally:
        user.close()
    site = tree / ".dvc" / "tmp" / "site"
    site.mkdir(parents=True, exist_ok=True)
    core = {"no_scm": True, "autostage": False, "site_cache_dir": str(site)}
    return open_repo(tree, {"core": core, "cache": cache})


def _bring(source: Path, target: Path, name: str) -> None:
    """Put an output at its place in the scratch tree, in place of what the bundle had there."""
    if not source.exists():
        raise TrainingError(f"the stage did not write {name}")
    _remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        _link(str(source), str(target))


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _commit(stage: Any, known: dict[str, FileEntry], folders: dict[str, dict[str, str]]) -> dict[str, Any]:
    from dvc.stage.serialize import to_single_stage_lockfile

    for dep in stage.deps:
        listed = _save_dependency(dep, known)
        if listed is not None:
            folders[dep.def_path] = listed
    stage.save_outs()
    stage.commit(relink=False)
    return dict(to_single_stage_lockfile(stage))


def _save_dependency(dep: Any, known: dict[str, FileEntry]) -> dict[str, str] | None:
    """Give a dependency the hash of what ran: from the inputs, from the tree, or from both; a folder's files."""
    inside = {path: entry for path, entry in known.items() if dep.fs.isin_or_eq(path, dep.fs_path)}
    if is_params(dep) or not (inside or dep.fs.isdir(dep.fs_path)):
        dep.save()
        return None
    dep.hash_name = "md5"
    if dep.fs_path in inside:
        entry = inside[dep.fs_path]
        dep.hash_info, dep.meta = _hash_of(entry), _meta(size=entry.size, isexec=entry.mode & 0o100 != 0)
        return None
    return _save_directory(dep, inside)


def _save_directory(dep: Any, inside: dict[str, FileEntry]) -> dict[str, str]:
    """Give it the hash that DVC gives a directory of these inputs and of the files that the bundle brought."""
    from dvc_data.hashfile.tree import Tree

    make: Callable[[], Any] = Tree
    tree, size = make(), 0
    for key, meta, oid in _standing(dep):
        tree.add(key, meta, oid)
        size += meta.size or 0
    for path, entry in inside.items():
        tree.add(dep.fs.relparts(path, dep.fs_path), _meta(size=entry.size), _hash_of(entry))
        size += entry.size
    tree.digest()
    dep.hash_info, dep.meta = tree.hash_info, _meta(isdir=True, size=size, nfiles=len(tree))
    return _listed(tree)


def _standing(dep: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The files of a directory that stand there, as DVC sees them."""
    from dvc_data.hashfile.build import build

    if dep.fs.isdir(dep.fs_path):
        files: Any
        _, _, files = build(dep.local_cache, dep.fs_path, dep.fs, "md5", ignore=dep.dvcignore, dry_run=True)
        yield from files


def _listed(files: Any) -> dict[str, str]:
    """The hash of each file by its path, without those that never travel: caches, environments, earlier runs."""
    listed = {"/".join(key): str(oid.value) for key, _, oid in files}
    environments = contents.in_environments(listed)
    return {
        path: value
        for path, value in listed.items()
        if not (contents.is_cached(path) or contents.is_ours(path) or path in environments)
    }


def _hash_of(entry: FileEntry) -> Any:
    from dvc_data.hashfile.hash_info import HashInfo

    return HashInfo("md5", entry.hash.removeprefix("md5:"))


def _meta(**values: Any) -> Any:
    from dvc_data.hashfile.meta import Meta

    return Meta(**values)


# --- in the user's tree -----------------------------------------------------------------------


def _apply(repo: Any, root: Path, committed: Committed) -> Applied | Refused:
    try:
        stage = locate(repo, committed.address, (root,))
    except SpecError:
        return Refused(paths=(f"dvc.yaml: {committed.address}",))
    with _claimed(stage):
        return _take_over(stage, committed, root)


@contextmanager
def _claimed(stage: Any) -> Iterator[None]:
    """DVC's own claim on the stage's files: `dvc repro` holds one, and not the lock, while a command runs.

    Raises DVC's LockError at once when another process has it.
    """
    from dvc.rwlock import rwlock

    repo = stage.repo
    read, write = ([item.fs_path for item in items if item.is_in_repo] for items in (stage.deps, stage.outs))
    # The name must be the one that DVC's own methods give us, or we would be in our own way.
    with rwlock(
        repo.tmp_dir, repo.fs, " ".join(sys.argv), read, write, repo.config["core"].get("hardlink_lock", False)
    ):
        yield


def _take_over(stage: Any, committed: Committed, root: Path) -> Applied | Refused:
    from dvc.stage.loader import StageLoader

    old = {out.fs_path: out.hash_info for out in stage.outs}
    present = {out.fs_path: out.get_hash() for out in stage.outs if out.exists}
    entry = _as_here(stage, committed)
    if differing := _differing(stage, entry, root):
        return Refused(paths=tuple(differing))
    StageLoader.fill_from_lock(stage, entry)
    replaced = [out for out in stage.outs if out.fs_path in present and present[out.fs_path] != out.hash_info]
    made_by_hand = [out for out in replaced if present[out.fs_path] != old[out.fs_path] and not _kept(out, present)]
    if made_by_hand:
        return Refused(paths=tuple(_relative(out.fs_path, root) for out in made_by_hand), by_hand=True)
    _place(stage, committed.tree, root)
    return Applied(
        outputs=tuple(_relative(out.fs_path, root) for out in stage.outs),
        replaced={
            _relative(out.fs_path, root): f"md5:{present[out.fs_path].value}" for out in replaced if out.use_cache
        },
    )


def _as_here(stage: Any, committed: Committed) -> dict[str, Any]:
    """The lock entry of the run, with the hash that DVC gives here to each folder that holds the files which ran.

    Beside them it may hold caches: they are no part of what ran, and DVC hashes them all the same.
    """
    from dvc.stage.serialize import to_single_stage_lockfile

    for dep in stage.deps:
        _save_present(dep)
    now = {item["path"]: item for item in to_single_stage_lockfile(stage).get("deps", [])}
    same = {dep.def_path for dep in stage.deps if _holds(dep, committed.folders.get(dep.def_path))}
    deps = [now[item["path"]] if item["path"] in same else item for item in committed.entry.get("deps", [])]
    return {**committed.entry, "deps": deps} if deps else committed.entry


def _holds(dep: Any, ran: dict[str, str] | None) -> bool:
    """Whether a folder holds here what ran. DVC does not look behind links to folders, and what travelled has none."""
    if ran is None or not dep.fs.isdir(dep.fs_path):
        return False
    here = Path(dep.fs_path)
    behind = {path for path in ran if any((here / above).is_symlink() for above in PurePosixPath(path).parents[:-1])}
    return _listed(_standing(dep)) == {path: value for path, value in ran.items() if path not in behind}


def _differing(stage: Any, ran: dict[str, Any], root: Path) -> list[str]:
    """What the tree has otherwise than the lock entry of the run, in words for the user."""
    from dvc.stage.serialize import to_single_stage_lockfile

    now = to_single_stage_lockfile(stage)
    file = _relative(stage.path, root)
    found = [f"{file}: command"] if now["cmd"] != ran["cmd"] else []
    deps = _changed(_content(now, "deps"), _content(ran, "deps"))
    found += [_relative(os.path.join(stage.wdir, path), root) for path in deps]
    for name in sorted({*now.get("params", {}), *ran.get("params", {})}):
        values = _changed(now.get("params", {}).get(name, {}), ran.get("params", {}).get(name, {}))
        found += [f"{_relative(os.path.join(stage.wdir, name), root)}: {key}" for key in values]
    outs = {out["path"] for out in now.get("outs", [])} ^ {out["path"] for out in ran.get("outs", [])}
    return found + [f"{file}: output {path}" for path in sorted(outs)]


def _save_present(dep: Any) -> None:
    """The hash of a dependency as it stands here; one that is not here has what DVC recorded, or none."""
    from dvc_data.hashfile.hash_info import HashInfo

    if is_params(dep):
        # Not dep.save(), which raises when a parameter is gone: that is a difference like any other.
        dep.hash_info = HashInfo("params", dep.read_params())
    elif dep.exists:
        dep.save()
    else:
        dep.hash_info, dep.meta = _recorded(dep) or (HashInfo(), _meta())


def _recorded(dep: Any) -> tuple[Any, Any] | None:
    """Hash and size of data that is not checked out, from the output that it is or lies in."""
    for out in dep.repo.index.outs:
        if out.use_cache and out.fs_path == dep.fs_path:
            return out.hash_info, out.meta
        if out.use_cache and dep.fs.isin(dep.fs_path, out.fs_path) and out.get_obj():
            part = out.get_obj(filter_info=dep.fs_path)
            return (part.hash_info, _meta()) if part else None
    return None


def _content(entry: dict[str, Any], kind: str) -> dict[str, Any]:
    """Each path of a lock entry with what identifies its content."""
    sizes = ("path", "size", "nfiles", "isexec")
    return {item["path"]: {k: v for k, v in item.items() if k not in sizes} for item in entry.get(kind, [])}


def _changed(now: dict[str, Any], ran: dict[str, Any]) -> list[str]:
    missing = object()
    return [key for key in sorted({*now, *ran}) if now.get(key, missing) != ran.get(key, missing)]


def _kept(out: Any, present: dict[str, Any]) -> bool:
    """Whether DVC's cache could bring back all that stands at this output's path."""
    from dvc_data.hashfile.tree import Tree

    cache, content = out.local_cache, present[out.fs_path]
    try:
        oids = [oid.value for _, _, oid in Tree.load(cache, content)] if content.isdir else [content.value]
    except FileNotFoundError:
        return False
    return all(os.path.exists(cache.oid_to_path(oid)) for oid in oids)


def _place(stage: Any, tree: Path, root: Path) -> None:
    """Outputs first and dvc.lock last: a crash between the two leaves what a second try completes."""
    for out in stage.outs:
        Path(out.fs_path).parent.mkdir(parents=True, exist_ok=True)  # where DVC puts its .gitignore
    with stage.repo.scm_context(quiet=True):
        stage.ignore_outs()
        for out in stage.outs:
            path = Path(out.fs_path)
            if not out.use_cache:
                _copy(tree / path.relative_to(root), path)
            elif path.is_file() == out.hash_info.isdir:
                _remove(path)
        stage.checkout(force=True)
        stage.dump(update_pipeline=False)


def _copy(source: Path, target: Path) -> None:
    """Put a file or directory at `target`, whole or not at all."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".sojourn-") as near:
        copy = Path(near, target.name)
        if source.is_dir():
            shutil.copytree(source, copy)
            _remove(target)
        else:
            shutil.copyfile(source, copy)
        os.replace(copy, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _relative(path: str, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()
