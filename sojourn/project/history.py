"""The commit that a run stands on, as a `.git` of its own for the machine: for whoever asks git there.

`git rev-parse HEAD`, `git status`, `git diff`, GitPython and DVC answer as they do here. It holds
that commit, its trees and the old content of small files that were changed; no other history and
no login. The machine needs no git for it. Order and dates in it are fixed, so equal commits are
equal bytes.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sojourn.errors import SojournError
from sojourn.project import git
from sojourn.project.project import Project
from sojourn.secrets.secret_files import by_name, in_content

CONTENT_LIMIT = 1_000_000  # bytes; of a larger file `git diff` cannot show what it was
TREES_LIMIT = 20_000_000  # bytes; without its trees a commit still has a name, an author and a message
PACK_LIMIT_S = 60.0
LANES = 4
_EPOCH = 946_684_800
_LOGIN = re.compile(r"//[^/@]*@")


def pack(project: Project) -> bytes | None:
    """A .tar of the `.git`; None where there is no commit, or none that git can give away."""
    if project.commit is None:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="sojourn-") as folder:
            _make(project, project.commit, Path(folder, ".git"))
            return _archive(Path(folder))
    except (SojournError, OSError, subprocess.SubprocessError):
        return None  # a repository that lost objects: the name of the commit is in SOJOURN_COMMIT


def _make(project: Project, commit: str, folder: Path) -> None:
    objects = folder / "objects" / "pack"
    objects.mkdir(parents=True)
    (folder / "refs" / "heads").mkdir(parents=True)
    with ThreadPoolExecutor(LANES) as pool:  # each is a git of its own
        trees, changed = pool.submit(_trees, project, commit), pool.submit(lambda: [*_changed(project, commit)])
        index = pool.submit(_index, project, commit, folder / "index")
        tags = pool.submit(_tags, project, commit)
        origin = pool.submit(_line, project, "config", "--default", "", "--get", "remote.origin.url")
        *branches, kind = _line(project, "rev-parse", "--symbolic-full-name", "HEAD", "--show-object-format").split(
            "\n"
        )
        named = dict.fromkeys(name for name, _ in tags.result())  # of an annotated one, with its own words
        if not _pack_objects(project, [*trees.result(), *named, *changed.result()], objects, TREES_LIMIT):
            _pack_objects(project, dict.fromkeys([commit, *named]), objects)
        index.result()
    (folder / "shallow").write_text(f"{commit}\n")
    branch = "".join(branches)
    if branch.startswith("refs/heads/"):
        _write(folder / branch, f"{commit}\n")
    (folder / "HEAD").write_text(f"ref: {branch}\n" if branch.startswith("refs/heads/") else f"{commit}\n")
    for name, ref in tags.result():
        _write(folder / ref, f"{name}\n")
    (folder / "config").write_text(_config(kind, origin.result()))


def _tags(project: Project, commit: str) -> list[tuple[str, str]]:
    """The tags of the commit: the object that each names, and the reference."""
    words = ("for-each-ref", f"--points-at={commit}", "--format=%(objectname) %(refname)", "refs/tags")
    return [(name, ref) for name, _, ref in (line.partition(" ") for line in (project.git(*words) or "").splitlines())]


def _trees(project: Project, commit: str) -> list[str]:
    listed = project.git("rev-list", "--objects", "--no-object-names", "--filter=blob:none", "--no-walk", commit)
    return (listed or "").split()


def _changed(project: Project, commit: str) -> Iterator[str]:
    """The old content of files that are otherwise now.

    `diff` reads a file whose times the index does not know, as in a copied tree, where `diff-index` would list it.
    """
    raw = ("--raw", "--no-abbrev", "--no-renames", "--no-ext-diff", "--ignore-submodules=all")
    changes = [
        line.removeprefix(":").split(maxsplit=4) for line in (project.git("diff", *raw, commit) or "").splitlines()
    ]
    old = {name: path.partition("\t")[2] for mode, _, name, _, path in changes if mode != "160000" and name.strip("0")}
    sizes = _given(project, old, "cat-file", "--batch-check=%(objectname) %(objectsize)") if old else ""
    known = dict(line.split() for line in sizes.splitlines())
    small = [name for name, size in known.items() if size.isdecimal() and int(size) <= CONTENT_LIMIT]  # or `missing`
    secret = {name for name, body in _contents(project, small) if _was_secret(old[name].strip('"'), body)}
    yield from (name for name in small if name not in secret)


def _contents(project: Project, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Each object with its content, by one question."""
    given = "".join(f"{name}\n" for name in names).encode()
    words = ["git", "cat-file", "--batch"]
    done = subprocess.run(
        words,
        cwd=project.root,
        env=git.surroundings(),
        input=given,
        capture_output=True,
        timeout=PACK_LIMIT_S,
        check=True,
    )
    said = io.BytesIO(done.stdout)
    while header := said.readline().split():
        yield header[0].decode(), said.read(int(header[2]))
        said.readline()


def _was_secret(path: str, body: bytes) -> bool:
    """A file may have been a secret in the commit, and be mended or removed since."""
    return by_name(path) is not None or (b"\0" not in body[:1000] and in_content(path, body) is not None)


def _pack_objects(project: Project, names: Iterable[str], folder: Path, limit: int | None = None) -> bool:
    """Pack these objects and their index; False, and nothing, when that is more than the limit."""
    _given(project, names, "pack-objects", "-q", "--threads=1", str(folder / "pack"))
    if limit is None or sum(file.stat().st_size for file in folder.iterdir()) <= limit:
        return True
    for file in folder.iterdir():
        file.unlink()
    return False


def _given(project: Project, names: Iterable[str], *words: str) -> str:
    """What git answers to the names of objects on its standard input."""
    done = subprocess.run(
        ["git", *words],
        cwd=project.root,
        env=git.surroundings(),
        input="".join(f"{name}\n" for name in names),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=PACK_LIMIT_S,
        check=True,
    )
    return done.stdout


def _index(project: Project, commit: str, file: Path) -> None:
    subprocess.run(
        ["git", "read-tree", commit],
        cwd=project.root,
        env={**git.surroundings(), "GIT_INDEX_FILE": str(file)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PACK_LIMIT_S,
        check=True,
    )


def _config(kind: str, origin: str) -> str:
    """What makes it a repository, and where it came from, without a login."""
    lines = ["[core]", f"\trepositoryformatversion = {int(kind != 'sha1')}", "\tfilemode = true", "\tbare = false"]
    if kind != "sha1":
        lines += ["[extensions]", f"\tobjectformat = {kind}"]
    if origin:
        lines += ['[remote "origin"]', f'\turl = "{_LOGIN.sub("//", origin)}"']
    return "\n".join(lines) + "\n"


def _line(project: Project, *words: str) -> str:
    return (project.git(*words) or "").strip()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _archive(root: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for place, folders, files in sorted(os.walk(root)):
            for name in sorted([*folders, *files]):
                info = tar.gettarinfo(str(Path(place, name)), Path(place, name).relative_to(root).as_posix())
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                info.mtime, info.mode = _EPOCH, 0o755 if info.isdir() else 0o644
                with open(os.devnull, "rb") if info.isdir() else Path(place, name).open("rb") as content:
                    tar.addfile(info, content)
    return packed.getvalue()
