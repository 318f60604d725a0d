"""What a verb costs as runs, log pieces, files and machines become many: seconds, requests and memory.

The store is a directory served as a bucket of S3 on this host (tests/s3_of_files.py): real `sojourn` commands, real
obstore and boto3 over real HTTP, each request held up by `--delay` milliseconds as the way to a cloud does it, counted.
Past runs are copies of one that was really run, with a report of 30 KB. Of each verb the faster of two tries counts.

    python benchmarks/scale.py --json                       all of it, some ten minutes
    python benchmarks/scale.py --part runs --runs 10 1000   one part of it
    python benchmarks/scale.py --write docs/robustness.md   its figures into the page
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "e2e"), str(ROOT)]

from cli_world import SOJOURN, World  # noqa: E402
from many_runs import Copies  # noqa: E402
from s3_of_files import FilesAsS3, files_as_s3  # noqa: E402

BEGIN, END = "<!-- figures: benchmarks/scale.py -->", "<!-- end of figures: benchmarks/scale.py -->"
LIMIT_S = 900.0
TRIES = 2
SERIES = 4
VERBS = {
    "runs": ("runs",),
    "show last": ("show", "last"),
    "plan": ("plan", "--", "python", "train.py"),
    "reap --dry-run": ("reap", "--dry-run"),
    "purge (list)": ("purge",),
    "train": ("train", "--no-prefect", "-q", "--", "python", "train.py"),
}


class Bench:
    """A user whose store is in that bucket."""

    def __init__(self, folder: Path, files: FilesAsS3) -> None:
        self.world = World(folder)
        self.world.script("import json; json.dump({'loss': 0.5}, open('metrics.json', 'w'))")
        self.files = files
        self.world.environment |= {**files.environment, "SOJOURN_STORE": files.url, "PREFECT_API_URL": ""}

    def best(self, *words: str, tries: int = TRIES) -> dict[str, float]:
        """The fastest of some tries of a command."""
        return min((self.once(*words) for _ in range(tries)), key=lambda one: one["seconds"])

    def once(self, *words: str) -> dict[str, float]:
        """Seconds, requests and the most memory of a command."""
        self.files.reset()
        begun = time.perf_counter()
        with open(self.world.root / "said", "w+b") as said:
            process = subprocess.Popen(
                [str(SOJOURN), *words],
                cwd=self.world.project,
                env=self.world.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            memory = 0
            while process.poll() is None:
                memory = max(memory, _most_memory(process.pid))
                time.sleep(0.01)
            seconds = time.perf_counter() - begun
            said.seek(0)
            if process.returncode != 0:
                raise SystemExit(f"sojourn {' '.join(words)} failed:\n{said.read()[-2000:].decode(errors='replace')}")
        return {
            "seconds": round(seconds, 2),
            "requests": self.files.requests,
            "memory_mb": round(memory / 1024),
        }


def _most_memory(process: int) -> int:
    """KB at most so far; what `wait4` tells includes the memory of the parent."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
        return int(found[1]) if found else 0
    return 0


def runs(counts: list[int], delay_s: float, folder: Path) -> dict[str, Any]:
    """Each verb beside so many closed runs; at the most of them all but a tenth are purged as well."""
    template = _one_run(folder / "template")
    found: dict[str, Any] = {}
    for count in counts:
        store = folder / f"store-{count}"
        store.mkdir()
        Copies(template, SERIES).write(store, count, days=100)
        with files_as_s3(store, delay_s) as files:
            bench = Bench(folder / f"user-{count}", files)
            found[str(count)] = {verb: bench.best(*words) for verb, words in VERBS.items()}
            if count == max(counts):
                found["purge"] = {"of": count, **bench.once("purge", "--older-than", "20d", "--yes")}
                found["purge"]["left"] = len(json.loads(_said(bench, "runs", "--limit", "100000", "--json")))
        shutil.rmtree(store)
    return found


def _one_run(folder: Path) -> Path:
    world = World(folder)
    world.script("import json; json.dump({'loss': 0.5}, open('metrics.json', 'w'))")
    done = world.train()
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    return world.home / "store"


def _said(bench: Bench, *words: str) -> str:
    return bench.world.sojourn(*words).stdout


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "runs": lambda asked, folder: runs(asked.runs, asked.delay / 1000, folder),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="this part alone")
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 1000, 5000])
    parser.add_argument("--delay", type=float, default=30.0, help="milliseconds that each request takes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the figures into this page")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for part in asked.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="sojourn-scale-") as folder:
            figures[part] = PARTS[part](asked, Path(folder))
    if asked.write:
        write(asked.write, figures, asked.delay)
    print(json.dumps(figures, indent=2) if asked.json else tables(figures))
    return 0


def tables(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    return "\n\n".join(TABLES[part](found) for part, found in figures.items())


def _runs_table(found: dict[str, Any]) -> str:
    counts = [count for count in found if count.isdecimal()]
    head = "| closed runs | " + " | ".join(f"{int(count):,}" for count in counts) + " |"
    lines = [head, "|---" * (len(counts) + 1) + "|"]
    lines += [f"| {verb} | " + " | ".join(_cell(found[count][verb]) for count in counts) + " |" for verb in VERBS]
    done = found["purge"]
    gone = done["of"] - done["left"]
    return "\n".join([*lines, "", f"`purge --yes` of some {gone:,} of these runs: {_cell(done)}."])


def _cell(one: dict[str, float]) -> str:
    return f"{one['seconds']:.1f} s, {one['requests']:,.0f} requests, {one['memory_mb']:.0f} MB"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"runs": _runs_table}


def write(page: Path, figures: dict[str, Any], delay: float) -> None:
    """Put the figures between the page's marks."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    when = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()}, {delay:.0f} ms a request."
    text = f"{BEGIN}\n{tables(figures)}\n\n{when}\n{END}"
    old = page.read_text(encoding="utf-8")
    page.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: text, old, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
