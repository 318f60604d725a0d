"""Links between results: files that are other names of what lies in the tree, or comes home, as well.

A manifest names a file behind a link like any other, with the link it was reached by, so that whoever cannot
lay the link lays the file. A link is laid where what it leads to is laid too, with the same content, and where nothing
else lies below it. What a manifest says of one is data: it leads to another of the manifest's files or nowhere.
"""

from __future__ import annotations

import os
import posixpath
from typing import Iterator, Mapping, NamedTuple, Optional, Tuple

from sojourn.agent.files import Json
from sojourn.agent.paths import below
from sojourn.agent.results.tree import Sign

HOPS = 20  # links that lead to links; the kernel follows forty

Files = Mapping[str, Tuple[str, Optional["Via"]]]  # the hash of each, and how it was reached


class Via(NamedTuple):
    """The link by which a file was reached: the file itself or a folder above it."""

    link: str
    target: str  # relative to the link's own folder


def vias(root: str, by_links: Mapping[str, str]) -> dict[str, Via]:
    """Of paths of the tree that lead over a link: which, as it can be laid elsewhere."""
    found = {link: via_of(root, link) for link in set(by_links.values())}
    return {path: via for path, link in by_links.items() for via in [found[link]] if via is not None}


def via_of(root: str, link: str) -> Via | None:
    """What a link of the tree leads to, as said by one that can be laid anywhere; None where it leads out of the tree.

    An absolute target, and one by way of other linked folders, is told by where it is.
    """
    folder, top = posixpath.dirname(link), os.path.realpath(root)
    try:
        said = os.readlink(os.path.join(root, link))
    except OSError:  # gone meanwhile
        return None
    near = os.path.normpath(os.path.join(root, folder, said))
    if os.path.realpath(os.path.dirname(near)) == os.path.dirname(os.path.join(top, os.path.relpath(near, root))):
        own = os.path.relpath(near, root)
    else:
        own = os.path.relpath(os.path.realpath(near), top)
    if own.split("/")[0] in ("..", "."):
        return None
    return Via(link, posixpath.relpath(own, folder or "."))


def own_path(path: str, via: Via) -> str:
    """The path of the same file without the link."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(via.link), via.target)) + path[len(via.link) :]


def split(files: Mapping[str, Sign], vias: Mapping[str, Via]) -> tuple[dict[str, Sign], dict[str, str]]:
    """The files that are to be stored, and of all others, by links and hard links, which of those each is."""
    if len(set(files.values())) == len(files):
        return dict(files), {}
    first: dict[Sign, str] = {}
    for path in sorted(files, key=lambda path: (path in vias, path)):
        first.setdefault(files[path], path)
    direct = {path: sign for path, sign in files.items() if first[sign] == path}
    return direct, {path: first[sign] for path, sign in files.items() if path not in direct}


def line(path: str, of_file: Json, vias: Mapping[str, Via]) -> Json:
    """A manifest's line for this path with the content of a file's line."""
    via = vias.get(path)
    named = {**of_file, "path": path}
    return {**named, "link": {"path": via.link, "target": via.target}} if via is not None else named


def of_lines(lines: list[Json]) -> dict[str, str]:
    """`leading` of a manifest's lines."""
    return leading({one["path"]: (one["hash"], _via(one.get("link"))) for one in lines})


def _via(said: Json | None) -> Via | None:
    return Via(said["path"], said["target"]) if said else None


def leading(files: Files) -> dict[str, str]:
    """The links that can be laid, each with its target; all files reached by one of them need not be."""
    groups: dict[str, list[str]] = {}
    for path, (_, via) in files.items():
        if via is not None and _is_sound(path, via):
            groups.setdefault(via.link, []).append(path)
    if not groups:
        return {}
    for path, (_, via) in files.items():
        for link in _and_above(path):
            if link in groups and (via is None or via.link != link or via.target != _target(groups, link, files)):
                del groups[link]  # something else lies there
    depths: dict[str, int] = {}
    return {link: _target(groups, link, files) for link in groups if _depth(link, groups, files, depths, HOPS)}


def _target(groups: Mapping[str, list[str]], link: str, files: Files) -> str:
    via = files[groups[link][0]][1]
    assert via is not None
    return via.target


def _is_sound(path: str, via: Via) -> bool:
    """Whether it is a link in the tree to something else in it, and this file is it or below it."""
    link, target = via
    if posixpath.normpath(link) != link or link.split("/")[0] in ("", ".", "..") or not below(path, link):
        return False
    own = posixpath.normpath(posixpath.join(posixpath.dirname(link), target))
    if posixpath.relpath(own, posixpath.dirname(link) or ".") != target or own.split("/")[0] in ("", ".", ".."):
        return False
    return not (below(own, link) or below(link, own))


def _depth(link: str, groups: Mapping[str, list[str]], files: Files, depths: dict[str, int], hops: int) -> int:
    """How many links it takes to come to files; 0 for what leads to none, or in a circle."""
    if link not in depths:
        depths[link] = 0
        steps = [_step(path, groups, files, depths, hops - 1) for path in groups[link]]
        depths[link] = max(steps) if all(steps) else 0
    return depths[link]


def _step(path: str, groups: Mapping[str, list[str]], files: Files, depths: dict[str, int], hops: int) -> int:
    digest, via = files[path]
    assert via is not None
    own = own_path(path, via)
    if hops <= 0 or own not in files or files[own][0] != digest:
        return 0
    next_link = files[own][1]
    if next_link is None or next_link.link not in groups:
        return 1  # laid as a file
    further = _depth(next_link.link, groups, files, depths, hops)
    return 1 + further if further else 0


def _and_above(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
