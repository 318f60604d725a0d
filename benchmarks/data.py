"""How fast a machine gets a stage's data: Sojourn's agent beside `dvc pull`, obstore and s5cmd.

Two sets, 2,000 files of 10 kB and one of 500 MB, are tracked by DVC and pushed to a remote. Each
way fetches them into an empty directory, as a whole process, in turns; the figures are medians
in seconds and the ratios of the same turn. The agent and `dvc pull` check every hash, obstore
and s5cmd do not.

The remote is a directory of this host; with `--s3` a bucket of a Ceph that is started for it
(Debian's packages ceph-mon, ceph-osd and radosgw), or with `--s3 NAME` one that the usual AWS
variables lead to. s5cmd takes part where it is installed.

    python benchmarks/data.py --turns 5 --s3 --json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radosgw import BUCKET, radosgw

from sojourn.project.dvc.dataset import Dataset

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SETS = {"small": (2_000, 10_000), "large": (1, 500_000_000)}
LIMIT_S = 300.0
STARTED = "a bucket of our own"

# What the agent does with an order, in a process with nothing but the standard library.
AGENT = """
import json, sys
from sojourn.agent.results.fetch import Fetcher
from sojourn.agent.stores.stores import open_store
inputs, root, store = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3]
order = {"bundle": {"archive": None, "files": [], "links": []}, "inputs": inputs, "remove": []}
Fetcher(open_store(store), root, root, lambda: None).fetch(order)
"""
OBSTORE = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
import obstore
from obstore.store import LocalStore, S3Store
inputs, root, place = json.load(open(sys.argv[1])), sys.argv[2], urlsplit(sys.argv[3])
far = place.scheme == "s3"
store = S3Store(place.netloc, client_options={"allow_http": True, "timeout": "300s"}) if far else LocalStore("/")
for folder in {os.path.dirname(os.path.join(root, one["path"])) for one in inputs}:
    os.makedirs(folder, exist_ok=True)
def fetch(one):
    with open(os.path.join(root, one["path"]), "wb") as file:
        for piece in obstore.get(store, urlsplit(one["source"]).path.lstrip("/")).stream(min_chunk_size=1 << 20):
            file.write(piece)
with ThreadPoolExecutor(32 if far else 8) as pool:
    list(pool.map(fetch, inputs))
"""


@dataclass(frozen=True)
class Remote:
    """Where DVC's data lies: the URL of a directory or of a bucket, and the variables that lead there."""

    url: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **self.variables, "PATH": path, "DVC_NO_ANALYTICS": "1"}


class Bench:
    """One set of files in a DVC project whose remote has them and whose cache does not."""

    def __init__(self, folder: Path, remote: Remote, count: int, size: int) -> None:
        self.folder, self.project, self.count, self.size = folder, folder / "project", count, size
        self.remote = remote
        self.manifest, self.copies = folder / "inputs.json", folder / "copies.txt"
        (self.project / "data").mkdir(parents=True)
        for number in range(count):
            (self.project / "data" / f"{number:05}.bin").write_bytes(os.urandom(size))
        (self.project / "dvc.yaml").write_text("stages:\n  train:\n    cmd: 'true'\n    deps: [data]\n")
        self._run("git", "init", "--quiet", ".")
        self._run("dvc", "init", "--quiet")
        self._run("dvc", "remote", "add", "--default", "store", f"{remote.url}/{folder.name}")
        self._run("dvc", "add", "--quiet", "data")
        self._run("dvc", "push", "--quiet")
        dataset = Dataset(self.project)
        entries = dataset.inputs(dataset.stage("train"), self.project)
        self.manifest.write_text(json.dumps([entry.model_dump(mode="json") for entry in entries]))
        copies = [f"cp '{one.source}' '{self._target / one.path}'" for one in entries]
        self.copies.write_text("\n".join(copies) + "\n")

    def ways(self) -> dict[str, Callable[[], float]]:
        """Each way of getting the data: seconds when it is called."""
        ways = {"dvc_pull": self.dvc, "sojourn": self.agent, "obstore": self.obstore}
        found = shutil.which("s5cmd", path=self.remote.environment["PATH"])
        return {**ways, "s5cmd": self.s5cmd} if found and self.remote.url.startswith("s3:") else ways

    def dvc(self) -> float:
        """`dvc pull` with an empty cache."""
        shutil.rmtree(self.project / "data")
        shutil.rmtree(self.project / ".dvc/cache", ignore_errors=True)
        return self._checked(self.project, "dvc", "pull", "--quiet")

    def agent(self) -> float:
        """The agent's fetch."""
        return self._fetched(sys.executable, "-c", AGENT)

    def obstore(self) -> float:
        """obstore in threads, nothing checked."""
        return self._fetched(sys.executable, "-c", OBSTORE)

    def s5cmd(self) -> float:
        """s5cmd with its list of copies, nothing checked."""
        self._empty()
        return self._checked(self._target, "s5cmd", "--log", "error", "run", str(self.copies))

    @property
    def _target(self) -> Path:
        return self.folder / "machine"

    def _empty(self) -> None:
        shutil.rmtree(self._target, ignore_errors=True)
        self._target.mkdir()

    def _fetched(self, *program: str) -> float:
        self._empty()
        store = self.remote.url if self.remote.url.startswith("s3:") else "file:///"
        return self._checked(self._target, *program, str(self.manifest), str(self._target), store)

    def _checked(self, where: Path, *words: str) -> float:
        subprocess.run(["sync"], check=True)
        seconds = self._run(*words)
        found = [path.stat().st_size for path in (where / "data").iterdir()]
        assert found == [self.size] * self.count, f"{words[0]}: not all files came"
        return seconds

    def _run(self, *words: str) -> float:
        begun = time.perf_counter()
        subprocess.run(
            words, cwd=self.project, env=self.remote.environment, timeout=LIMIT_S, check=True, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - begun


def measure(turns: int, remote: Remote) -> dict[str, Any]:
    """For each set the seconds of each way, and the others' seconds by the agent's of the same turn."""
    figures: dict[str, Any] = {"turns": turns, "remote": remote.url.split(":")[0]}
    for name, (count, size) in SETS.items():
        with tempfile.TemporaryDirectory(prefix="sojourn-data-") as folder:
            bench = Bench(Path(folder), remote, count, size)
            rounds = [{way: fetch() for way, fetch in bench.ways().items()} for _ in range(turns + 1)][1:]
        figures[name] = {f"{way}_s": _median(turn[way] for turn in rounds) for way in rounds[0]}
        figures[name]["times_faster_than_dvc"] = _median(turn["dvc_pull"] / turn["sojourn"] for turn in rounds)
        for other in rounds[0].keys() & {"obstore", "s5cmd"}:
            figures[name][f"times_{other}"] = _median(turn["sojourn"] / turn[other] for turn in rounds)
    return figures


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--s3", nargs="?", const=STARTED, metavar="BUCKET", help="the remote is in a bucket")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sojourn-remote-"))
        remote = Remote(f"s3://{chosen.s3}" if chosen.s3 else folder)
        if chosen.s3 == STARTED:
            remote = Remote(f"s3://{BUCKET}", stack.enter_context(radosgw(Path(folder))))
        figures = measure(chosen.turns, remote)
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return
    for name in SETS:
        print(name, "  ".join(f"{key} {value}" for key, value in figures[name].items()))


if __name__ == "__main__":
    main()
