"""What `launch.inputs` names, whole: folders walked, links followed, and refused by name what cannot travel.

Data that trains in part and succeeds is the worst that can happen, so nothing in a named folder is
passed over: a link that leads nowhere, a pipe or a file that cannot be read ends the plan.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sojourn import programs
from sojourn.errors import SpecError, nearest
from sojourn.omissions import Left
from sojourn.project import contents
from sojourn.project.project import Project
from sojourn.secrets.ignore_file import IGNORE_FILE, leave_out, root_of
from sojourn.secrets.secret_files import refuse_secret

POINTERS = {
    b"version https://git-lfs.github.com/spec/v1": ("Git LFS", "git lfs pull"),
    b"/annex/objects/": ("git-annex", "git annex get"),
}
BRING = "only what is inside travels: copy it into the project, or link it there"
SPARSE_FROM = 100_000_000
_Identity = tuple[int, int]


class InputTree:
    """The files that `launch.inputs` names, by their paths in the tree; each once, whatever links lead to it."""

    def __init__(self, project: Project, names: Iterable[str], vetted: bool = True) -> None:
        """`vetted`: what must not travel is refused, by its content too."""
        self._vetted = vetted
        self.files: dict[str, Path] = {}
        self.folders: list[str] = []
        self.left: list[Left] = []
        self._root = project.root
        self._real = os.path.realpath(project.root)
        for name in names:
            path = project.root / project.placed(name, "inputs", BRING)
            if not path.exists():
                raise _not_there(name, path, project)
            try:
                self._add(path, (), os.path.realpath(path.parent))
            except RecursionError:
                raise contents.too_deep(path) from None
        self._folders_without_files()

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.files.values())

    def _add(self, path: Path, chain: tuple[_Identity, ...], folder: str) -> None:
        """What lies there; `folder` is where the folder above it really lies."""
        name = self._name(path)
        try:
            info = path.stat()
        except OSError as error:
            raise _unreadable(name, path, error) from None
        if stat.S_ISDIR(info.st_mode):
            real = os.path.realpath(path) if path.is_symlink() else f"{folder}/{path.name}"
            self._folder(path, name, chain, (info.st_dev, info.st_ino), real)
        elif stat.S_ISREG(info.st_mode):
            if self._vetted:
                real = os.path.realpath(path) if path.is_symlink() else f"{folder}/{path.name}"
                outside = None if Path(real).is_relative_to(self._real) else real
                refuse_secret(name, path, outside)
                check_content(path, name, info.st_size)
            self.files[name] = path
        else:
            raise SpecError(
                f"inputs: {name!r} is neither a file nor a folder: a pipe, socket or device cannot travel",
                hint="remove it, or name in inputs: what lies beside it",
            )

    def _folder(self, path: Path, name: str, chain: tuple[_Identity, ...], identity: _Identity, real: str) -> None:
        if identity in chain:
            self.left.append(Left(name, contents.LOOP))
            return
        try:
            below = sorted(path.iterdir())
        except OSError as error:
            raise _unreadable(name, path, error) from None
        self.folders.append(name)
        for one in below:
            if reason := _own(one):
                self.left.append(Left(self._name(one) + "/" * one.is_dir(), reason))
            else:
                self._add(one, (*chain, identity), real)

    def _name(self, path: Path) -> str:
        name = path.relative_to(self._root).as_posix()
        check_name(name)
        return name

    def _folders_without_files(self) -> None:
        """Keep of the folders those that no file would make."""
        made = {above for name in (*self.files, *self.folders) for above in _above(name)}
        self.folders = sorted({name for name in self.folders if name not in made})


def check_name(path: str) -> None:
    """Raise SpecError for a path that fits in no manifest."""
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise SpecError(f"{shown}: the name is not UTF-8", hint=f"rename it, or ignore it in {IGNORE_FILE}") from None


def check_content(file: Path, path: str, size: int) -> None:
    """Raise SpecError for a file that cannot be read, or whose content is elsewhere."""
    if not os.access(file, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise SpecError(
            f"{path}: cannot be read: Permission denied",
            hint=f"look whose it is: ls -l {path}; or leave it out: {leave_out([path], root_of(path, file))}",
        )
    begins = file.read_bytes() if size < 1024 else b""
    for sign, (tool, command) in POINTERS.items():
        if begins.startswith(sign):
            raise SpecError(
                f"{path}: is a {tool} pointer, its content is not here",
                hint=f"fetch it: {command}; or leave it out: {leave_out([path], root_of(path, file))}",
            )


def sparse(files: Mapping[str, Path]) -> Iterator[str]:
    """A sentence for each large file that is mostly holes: the zeros in them are read, sent and written."""
    for name, file in files.items():
        info = file.stat()
        if info.st_size >= SPARSE_FROM and info.st_blocks * 512 < info.st_size / 2:
            on_disk, sent = f"{info.st_blocks * 512 / 1e6:,.1f} MB", f"{info.st_size / 1e6:,.0f} MB"
            yield f"{name} is sparse: {on_disk} on this disk, {sent} as it travels"


def _own(path: Path) -> str | None:
    """Why a folder below an input is none of its data. It is told: a corpus may consist of such folders."""
    if not path.is_dir() or path.is_symlink():
        return contents.GIT if path.name == ".git" else None
    if path.name == "__pycache__":
        return contents.CACHE
    made = path.name == ".git" or path.name in contents.CACHES or contents.is_environment(path)
    return contents.OF_INPUTS if made else None


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _not_there(name: str, path: Path, project: Project) -> SpecError:
    if path.is_symlink():
        return _unreadable(name, path, FileNotFoundError())
    if path.with_name(path.name + ".dvc").exists():
        return SpecError(
            f"inputs: {name!r} is kept by DVC and not here",
            hint=f"bring it: {programs.dvc(shlex.join(['pull', name]))}",
        )
    there = (entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else ()
    return SpecError(
        f"inputs: {name!r} is not in {project.directory}, {nearest(path.name, there)}",
        hint="mend the path: --input PATH, or inputs: in params.yaml",
    )


def _unreadable(name: str, path: Path, error: OSError) -> SpecError:
    if path.is_symlink() and not path.exists():
        return SpecError(
            f"inputs: {name!r} links to {os.readlink(path)}, which is not there",
            hint=f"bring back what it links to, or remove the link: rm {name}",
        )
    return SpecError(f"inputs: {name!r} cannot be read: {error.strerror}", hint=f"look whose it is: ls -ld {name}")
