"""What a round trip costs beside the training itself.

The digits job runs as bare `torchrun`, as `sojourn train` with a Prefect server running
(warm), and with none, so that one has to be started (cold). All three take turns, in copies
of this repository; the figures are medians of the differences to bare of the same turn. Beside
them runs a Prefect flow that does nothing: what no run that is recorded in Prefect can go below.

    python benchmarks/overhead.py --turns 5 --json

To compare with another version, name the `bin` of the virtual environment that it is installed in, and a repository
with a digits job that both can run; the two take turns in copies of it:

    python benchmarks/overhead.py --against /elsewhere/.venv/bin --tree /elsewhere --turns 9
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent
LIMIT_S = 300.0
# What anything that is recorded in Prefect pays: its import, a flow run, and as many tasks as a run has steps.
EMPTY_FLOW = """
from prefect import flow, task

@flow
def empty():
    for _ in range(11):
        task(lambda: None)()

empty()
"""


class Bench:
    """A copy of a repository with its own homes for Sojourn and Prefect, and one version of both."""

    def __init__(self, folder: Path, repository: Path = ROOT, installed: Path = BIN) -> None:
        self.tree, self.bare_tree = folder / "digits", folder / "bare"
        self.environment = {
            **{name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ},
            "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}",
            "SOJOURN_HOME": str(folder / "sojourn"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_API_PORT": str(_free_port()),
            "DO_NOT_TRACK": "1",
            "METAFLOW_USER": "benchmark",
            "ZENML_ANALYTICS_OPT_IN": "false",
        }
        for tree in (self.tree, self.bare_tree):
            subprocess.run(["git", "clone", "--quiet", str(repository), str(tree)], check=True)
            self._run("dvc", "repro", "--quiet", "prepare", where=tree)

    def bare(self) -> float:
        """Seconds of the training alone, as its author would start it."""
        self._forget_training()
        command = "torchrun --standalone --nproc-per-node 2 examples/digits/train.py"
        return self._run(*command.split(), where=self.bare_tree)

    def sojourn(self) -> float:
        """Seconds of the whole round trip."""
        return self._run("sojourn", "train")

    def empty_flow(self) -> float:
        """Seconds of a Prefect flow that does nothing, on the server that runs."""
        api = f"http://127.0.0.1:{self.environment['PREFECT_SERVER_API_PORT']}/api"
        known = {"PREFECT_API_URL": api, "PREFECT_LOGGING_LEVEL": "ERROR"}
        known["PREFECT_API_AUTH_STRING"] = (
            Path(self.environment["SOJOURN_HOME"], "prefect-server.password").read_text().strip()
        )
        return self._run("python", "-c", EMPTY_FLOW, **known)

    def phases(self) -> dict[str, float]:
        """Seconds of each step of the newest run."""
        shown = subprocess.run(
            ["sojourn", "show", "last", "--json"], cwd=self.tree, env=self.environment, capture_output=True, check=True
        )
        report: dict[str, Any] = json.loads(shown.stdout)["report"]
        return {**report["phases"], "script": report["script_s"]}

    def peer(self, peer: Peer) -> float:
        """Seconds of the same training as another tool's job on this host."""
        self._forget_training()
        return self._run(*peer.command, where=self.bare_tree, PATH=f"{peer.bin}{os.pathsep}{os.environ['PATH']}")

    def _forget_training(self) -> None:
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(self.bare_tree / name, ignore_errors=True)

    def start_server(self) -> None:
        """Have a server running, with its database made."""
        self._run("sojourn", "ui", "--no-browser")

    def stop_server(self) -> None:
        """Have none running."""
        self._run("sojourn", "ui", "--stop")

    def _run(self, *words: str, where: Path | None = None, **variables: str) -> float:
        begun = time.perf_counter()
        done = subprocess.run(
            words,
            cwd=where or self.tree,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        seconds = time.perf_counter() - begun
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return seconds


@dataclass(frozen=True)
class Peer:
    """Another tool, in a virtual environment of its own."""

    name: str
    package: str
    command: tuple[str, ...]
    bin: Path

    @classmethod
    def made(cls, folder: Path, name: str, package: str, command: str) -> Peer:
        """With its environment below `folder`, made by uv unless it is there."""
        environment = folder.resolve() / name
        if not environment.exists():
            uv = str(BIN / "uv")
            needs = [package, "torch==2.13.0", "scikit-learn", "tensorboard", "pyyaml"]
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
            subprocess.run([uv, "pip", "install", "--quiet", "--python", str(environment), *needs], check=True)
        return cls(name, package, tuple(command.split()), environment / "bin")


def peers(folder: Path) -> list[Peer]:
    """TorchX, Metaflow and ZenML; each runs the training alone, which is less than what `sojourn train` does."""
    scheduled = "torchx run --wait --scheduler local_cwd dist.ddp -j 1x2 --script examples/digits/train.py"
    return [
        Peer.made(folder, "torchx", "torchx==0.7.0", scheduled),
        Peer.made(folder, "metaflow", "metaflow==2.19.39", f"python {HERE}/peers/metaflow_digits.py run"),
        Peer.made(folder, "zenml", "zenml[local]==0.98.0", f"python {HERE}/peers/zenml_digits.py"),
    ]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def compare(turns: int, against: Path, repository: Path) -> dict[str, Any]:
    """Warm round trips of this version and of another one, turn about; medians in seconds."""
    with tempfile.TemporaryDirectory(prefix="sojourn-overhead-") as folder:
        benches = {
            "now": Bench(Path(folder, "now"), repository),
            "against": Bench(Path(folder, "against"), repository, against),
        }
        seconds: dict[str, list[float]] = {name: [] for name in benches}
        phases: dict[str, list[dict[str, float]]] = {name: [] for name in benches}
        try:
            for bench in benches.values():
                bench.start_server()
                bench.sojourn()
            for turn in range(turns):
                for name in sorted(benches, reverse=bool(turn % 2)):
                    seconds[name].append(benches[name].sojourn())
                    phases[name].append(benches[name].phases())
        finally:
            for bench in benches.values():
                bench.stop_server()
    beside = {
        name: [took - one["script"] for took, one in zip(seconds[name], phases[name], strict=True)] for name in benches
    }
    return {
        "ratio": round(statistics.median(seconds["now"]) / statistics.median(seconds["against"]), 3),
        **{name: round(statistics.median(took), 2) for name, took in seconds.items()},
        **{f"{name}_beside_the_script": round(statistics.median(took), 2) for name, took in beside.items()},
        **{f"{name}_phases": _medians(phases[name]) for name in benches},
        "turns": turns,
    }


def _medians(phases: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one.get(name, 0.0) for one in phases), 3) for name in phases[0]}


def measure(turns: int, others: list[Peer]) -> dict[str, Any]:
    """Bare, warm, cold and the peers in turns; medians in seconds."""
    with tempfile.TemporaryDirectory(prefix="sojourn-overhead-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.start_server()
            bench.bare(), bench.sojourn(), bench.empty_flow()  # caches, database, first imports
            bares, warms, colds, empties, phases = [], [], [], [], []
            beside: dict[str, list[float]] = {peer.name: [bench.peer(peer)] for peer in others}
            for _ in range(turns):
                bares.append(bench.bare())
                warms.append(bench.sojourn() - bares[-1])
                phases.append(bench.phases())
                empties.append(bench.empty_flow())
                bench.stop_server()
                colds.append(bench.sojourn() - bares[-1])
                for peer in others:
                    beside[peer.name].append(bench.peer(peer) - bares[-1])
        finally:
            bench.stop_server()
    return {
        "bare_s": round(statistics.median(bares), 2),
        "warm_overhead_s": round(statistics.median(warms), 2),
        "cold_overhead_s": round(statistics.median(colds), 2),
        "empty_flow_s": round(statistics.median(empties), 2),
        "phases": _medians(phases),
        "peers_overhead_s": {peer.package: round(statistics.median(beside[peer.name][1:]), 2) for peer in others},
        "turns": turns,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="measure peers too; DIR keeps their environments")
    parser.add_argument(
        "--against", type=Path, metavar="BIN", help="the commands of another version, to take turns with"
    )
    parser.add_argument("--tree", type=Path, default=ROOT, help="the repository whose copies --against runs in")
    chosen = parser.parse_args()
    if chosen.against:
        print(json.dumps(compare(chosen.turns, chosen.against.resolve(), chosen.tree.resolve()), indent=2))
        return
    figures = measure(chosen.turns, peers(chosen.peers) if chosen.peers else [])
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return
    print(f"bare {figures['bare_s']} s, warm +{figures['warm_overhead_s']} s, cold +{figures['cold_overhead_s']} s")
    print(f"a Prefect flow that does nothing: {figures['empty_flow_s']} s")
    print("  ".join(f"{name} {seconds}" for name, seconds in figures["phases"].items()))
    print("  ".join(f"{name} +{seconds}" for name, seconds in figures["peers_overhead_s"].items()))


if __name__ == "__main__":
    main()
