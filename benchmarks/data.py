"""How fast a machine gets a stage's data: Sojourn's agent beside `dvc pull` and obstore alone.

Two sets, 2,000 files of 10 kB and one of 500 MB, are tracked by DVC and pushed to a remote
on this host's disk. Each way fetches them into an empty directory, as a whole process, in
turns; the figures are medians in seconds and the ratios of the same turn. The agent and
`dvc pull` check every hash, obstore alone does not.

    python benchmarks/data.py --turns 5 --json
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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sojourn.dataset import Dataset

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SETS = {"small": (2_000, 10_000), "large": (1, 500_000_000)}
LIMIT_S = 300.0
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}

# What the agent does with an order, in a process with nothing but the standard library.
AGENT = """
import json, sys
from sojourn.agent.fetch import Fetcher
from sojourn.agent.store import FileStore
inputs, root = json.load(open(sys.argv[1])), sys.argv[2]
order = {"bundle": {"archive": None, "files": [], "links": []}, "inputs": inputs, "remove": []}
Fetcher(FileStore("file:///"), root, root, lambda: None).fetch(order)
"""
OBSTORE = """
import json, os, sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
import obstore
from obstore.store import LocalStore
inputs, root = json.load(open(sys.argv[1])), sys.argv[2]
store = LocalStore("/")
for folder in {os.path.dirname(os.path.join(root, one["path"])) for one in inputs}:
    os.makedirs(folder, exist_ok=True)
def fetch(one):
    with open(os.path.join(root, one["path"]), "wb") as file:
        for piece in obstore.get(store, urlsplit(one["source"]).path.lstrip("/")).stream(min_chunk_size=1 << 20):
            file.write(piece)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(fetch, inputs))
"""


class Bench:
    """One set of files in a DVC project whose remote has them and whose cache does not."""

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self.folder, self.project, self.count, self.size = folder, folder / "project", count, size
        self.manifest = folder / "inputs.json"
        (self.project / "data").mkdir(parents=True)
        for number in range(count):
            (self.project / "data" / f"{number:05}.bin").write_bytes(os.urandom(size))
        (self.project / "dvc.yaml").write_text("stages:\n  train:\n    cmd: 'true'\n    deps: [data]\n")
        self._run("git", "init", "--quiet", ".")
        self._run("dvc", "init", "--quiet")
        self._run("dvc", "remote", "add", "--default", "store", str(folder / "remote"))
        self._run("dvc", "add", "--quiet", "data")
        self._run("dvc", "push", "--quiet")
        dataset = Dataset(self.project)
        entries = dataset.inputs(dataset.stage("train"), self.project)
        self.manifest.write_text(json.dumps([entry.model_dump(mode="json") for entry in entries]))

    def dvc(self) -> float:
        """Seconds of `dvc pull` with an empty cache."""
        shutil.rmtree(self.project / "data")
        shutil.rmtree(self.project / ".dvc/cache", ignore_errors=True)
        return self._checked(self.project, "dvc", "pull", "--quiet")

    def agent(self) -> float:
        """Seconds of the agent's fetch."""
        return self._fetched(AGENT)

    def obstore(self) -> float:
        """Seconds of obstore in eight threads, nothing checked."""
        return self._fetched(OBSTORE)

    def _fetched(self, program: str) -> float:
        target = self.folder / "machine"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return self._checked(target, sys.executable, "-c", program, str(self.manifest), str(target))

    def _checked(self, where: Path, *words: str) -> float:
        subprocess.run(["sync"], check=True)
        seconds = self._run(*words)
        found = [path.stat().st_size for path in (where / "data").iterdir()]
        assert found == [self.size] * self.count, f"{words[0]}: not all files came"
        return seconds

    def _run(self, *words: str) -> float:
        begun = time.perf_counter()
        subprocess.run(words, cwd=self.project, env=ENVIRONMENT, timeout=LIMIT_S, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun


def measure(turns: int) -> dict[str, Any]:
    """For each set the seconds of each way, how many times faster than DVC, and how many times obstore's time."""
    figures: dict[str, Any] = {"turns": turns}
    for name, (count, size) in SETS.items():
        with tempfile.TemporaryDirectory(prefix="sojourn-data-") as folder:
            bench = Bench(Path(folder), count, size)
            rounds = [(bench.dvc(), bench.agent(), bench.obstore()) for _ in range(turns + 1)][1:]
        figures[name] = {
            "dvc_pull_s": _median(dvc for dvc, _, _ in rounds),
            "sojourn_s": _median(ours for _, ours, _ in rounds),
            "obstore_s": _median(alone for _, _, alone in rounds),
            "times_faster_than_dvc": _median(dvc / ours for dvc, ours, _ in rounds),
            "times_obstore": _median(ours / alone for _, ours, alone in rounds),
        }
    return figures


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    figures = measure(chosen.turns)
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return
    for name in SETS:
        print(name, "  ".join(f"{key} {value}" for key, value in figures[name].items()))


if __name__ == "__main__":
    main()
