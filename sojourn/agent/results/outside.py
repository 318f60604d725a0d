"""What the script writes outside its project: it goes with the machine, so it is told (promise P7).

Beside the tree this is so on every machine, for there all is ours. A machine of its own is looked at where
scripts write as well: in the home directory, /tmp, and folders like /output. What programs keep
for themselves (hidden folders, temporary ones) is no result, and a file system of the network stays.
"""

from __future__ import annotations

import os
import re
import stat
import time
from typing import Iterable, Iterator, Tuple

from sojourn.agent.host.clock import HOST, Clock
from sojourn.agent.paths import TREE

OUTSIDE = "outside the project"
LOOK_S = 3.0
PLACE_S = 0.5  # of it, so that a place with very many files hides no other
_SYSTEM = set(
    "bin boot dev etc home lib lib32 lib64 libx32 lost+found opt proc root run sbin snap sys tmp usr var".split(" ")
)
_PRIVATE = re.compile(
    r"\..*|tmp.*|pymp-.*|torchelastic_.*|torchinductor_.*|torch_extensions.*|triton.*|systemd-private-.*|hsperfdata_.*"
    r"|snap.*|uv-.*|pip-.*|ray|.*\.(?:lock|sock|pid)|__pycache__"
)
_NETWORK = re.compile(r"nfs\d?|cifs|smb3?|lustre|9p|ceph|glusterfs|fuse\..*|fuse")

Sizes = Tuple[int, int]  # files, bytes


class Outside:
    """What of the places around a tree is the script's, which starts after this."""

    def __init__(self, scratch: str, whole_machine: bool, clock: Clock = HOST) -> None:
        self._scratch = scratch
        self._root = os.path.join(scratch, TREE)
        self._whole_machine = whole_machine
        self._since = clock.now()

    def written(self) -> dict[str, Sizes]:
        """Files and bytes by path: a folder ends with a slash, what is beside the tree begins with dots."""
        found = dict(self._beside())
        if self._whole_machine:
            found.update(changed(_places(), self._since, {self._scratch}))
        return {path if _is_text(path) else ascii(path): sizes for path, sizes in found.items()}

    def _beside(self) -> Iterator[tuple[str, Sizes]]:
        inner = self._root
        while os.path.dirname(inner) != self._scratch:
            folder, own = os.path.split(inner)
            for entry in _listing(folder):
                if entry.name != own:
                    path = os.path.relpath(entry.path, self._root)
                    yield (
                        (path + "/" if _is_folder(entry) else path),
                        _count(_files(entry, set(), time.monotonic() + LOOK_S)),
                    )
            inner = folder


def changed(places: Iterable[str], since: float, apart: set[str]) -> dict[str, Sizes]:
    """What was written below these places since then, by what lies in them directly; as far as the time goes."""
    last = time.monotonic() + LOOK_S
    apart = apart | _network_mounts()
    found: dict[str, Sizes] = {}
    for place in places:
        until = min(last, time.monotonic() + PLACE_S)
        for entry in _listing(place):
            if entry.path in apart or _PRIVATE.fullmatch(entry.name):
                continue
            new = _count(state for state in _files(entry, apart, until) if state.st_ctime >= since)
            if new[0]:
                found[entry.path + "/" if _is_folder(entry) else entry.path] = new
    return found


def _places() -> Iterable[str]:
    """Where scripts write on a machine that is theirs."""
    import tempfile

    named = [entry.path for entry in _listing("/") if entry.name not in _SYSTEM and _is_folder(entry)]
    homes = [os.path.expanduser("~"), *(entry.path for entry in _listing("/home"))]
    return dict.fromkeys([*named, "/opt/ml", *homes, tempfile.gettempdir(), "/tmp"])


def _files(entry: os.DirEntry[str], apart: set[str], until: float) -> Iterator[os.stat_result]:
    """The regular files of an entry, none by a link; ends when the time has passed."""
    todo = [entry]
    while todo and time.monotonic() < until:
        one = todo.pop()
        if _is_folder(one):
            todo += [below for below in _listing(one.path) if below.path not in apart]
            continue
        try:
            state = one.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(state.st_mode):
            yield state


def _count(states: Iterable[os.stat_result]) -> Sizes:
    sizes = [state.st_size for state in states]
    return len(sizes), sum(sizes)


def _listing(folder: str) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return ()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _network_mounts() -> set[str]:
    """Where file systems are mounted that outlive the machine."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as mounts:
            parts = [line.split(" ") for line in mounts]
    except OSError:
        return set()
    return {part[1].encode().decode("unicode_escape") for part in parts if _NETWORK.fullmatch(part[2])}
