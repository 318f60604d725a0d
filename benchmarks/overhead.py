"""What a round trip costs beside the training itself.

The digits job runs as bare `torchrun`, as `sojourn train` with a Prefect server running
(warm), and with none, so that one has to be started (cold). All three take turns, in copies
of this repository; the figures are medians of the differences to bare of the same turn.

    python benchmarks/overhead.py --turns 5 --json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LIMIT_S = 300.0


class Bench:
    """A copy of the repository with its own homes for Sojourn and Prefect."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.bare_tree = folder / "digits", folder / "bare"
        self.environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "SOJOURN_HOME": str(folder / "sojourn"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_API_PORT": str(_free_port()),
            "DO_NOT_TRACK": "1",
        }
        for tree in (self.tree, self.bare_tree):
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
            self._run("dvc", "repro", "--quiet", "prepare", where=tree)

    def bare(self) -> float:
        """Seconds of the training alone, as its author would start it."""
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(self.bare_tree / name, ignore_errors=True)
        command = "torchrun --standalone --nproc-per-node 2 examples/digits/train.py"
        return self._run(*command.split(), where=self.bare_tree)

    def sojourn(self) -> float:
        """Seconds of the whole round trip."""
        return self._run("sojourn", "train")

    def phases(self) -> dict[str, float]:
        """Seconds of each step of the newest run."""
        shown = subprocess.run(
            ["sojourn", "show", "last", "--json"], cwd=self.tree, env=self.environment, capture_output=True, check=True
        )
        report: dict[str, Any] = json.loads(shown.stdout)["report"]
        return {**report["phases"], "script": report["script_s"]}

    def start_server(self) -> None:
        """Have a server running, with its database made."""
        self._run("sojourn", "ui", "--no-browser")

    def stop_server(self) -> None:
        """Have none running."""
        subprocess.run(["prefect", "server", "stop"], env=self.environment, capture_output=True, timeout=LIMIT_S)

    def _run(self, *words: str, where: Path | None = None) -> float:
        begun = time.perf_counter()
        done = subprocess.run(
            words, cwd=where or self.tree, env=self.environment, capture_output=True, text=True, timeout=LIMIT_S
        )
        seconds = time.perf_counter() - begun
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return seconds


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def measure(turns: int) -> dict[str, Any]:
    """Bare, warm and cold in turns; medians in seconds."""
    with tempfile.TemporaryDirectory(prefix="sojourn-overhead-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.start_server()
            bench.bare(), bench.sojourn()  # caches, database, first imports
            bares, warms, colds, phases = [], [], [], []
            for _ in range(turns):
                bares.append(bench.bare())
                warms.append(bench.sojourn() - bares[-1])
                phases.append(bench.phases())
                bench.stop_server()
                colds.append(bench.sojourn() - bares[-1])
        finally:
            bench.stop_server()
    return {
        "bare_s": round(statistics.median(bares), 2),
        "warm_overhead_s": round(statistics.median(warms), 2),
        "cold_overhead_s": round(statistics.median(colds), 2),
        "phases": {name: round(statistics.median(one.get(name, 0.0) for one in phases), 3) for name in phases[0]},
        "turns": turns,
    }


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
    print(f"bare {figures['bare_s']} s, warm +{figures['warm_overhead_s']} s, cold +{figures['cold_overhead_s']} s")
    print("  ".join(f"{name} {seconds}" for name, seconds in figures["phases"].items()))


if __name__ == "__main__":
    main()
