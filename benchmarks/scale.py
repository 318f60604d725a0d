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
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "e2e"), str(ROOT)]

import simulation.amazon  # noqa: E402
from cli_world import SOJOURN, World  # noqa: E402
from many_followers import Scripts  # noqa: E402
from many_leases import Fleet  # noqa: E402
from many_runs import Copies, a_run  # noqa: E402
from s3_of_files import BUCKET, FilesAsS3, files_as_s3  # noqa: E402

from cli.progress import SilentListener  # noqa: E402
from sojourn.agent.results.packs import Packs  # noqa: E402
from sojourn.agent.stores.store import FileStore  # noqa: E402
from sojourn.lease.state import State  # noqa: E402
from sojourn.plan.planning import Plan  # noqa: E402
from sojourn.store.storage import Store  # noqa: E402
from sojourn.waiting import SystemClock  # noqa: E402
from sojourn.watch.follower import Follower  # noqa: E402

BEGIN, END = "<!-- figures: benchmarks/scale.py -->", "<!-- end of figures: benchmarks/scale.py -->"
LIMIT_S = 900.0
TRIES = 2
SERIES = 4
BEAT_S = 4.0
FOLLOWED_S, ENDED_WITHIN_S = 20.0, 10.0
LOG_ROWS = ("logs, running", "attach, running", "logs, over", "attach, over")
WRITES = """
import os
os.makedirs("many")
for number in range({count}):
    with open(f"many/{{number:05d}}.txt", "w") as file:
        file.write(str(number).ljust(1000, "."))
"""
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


def pieces(counts: list[int], delay_s: float, folder: Path) -> dict[str, Any]:
    """A log of so many pieces, as an agent writes them: while its script runs, and after its end."""
    template = _one_run(folder / "template")
    found: dict[str, Any] = {}
    for count in counts:
        store = folder / f"store-{count}"
        shutil.copytree(template, store)
        node = f"{a_run(Store(store.as_uri())).machine}/1/0"
        for name in ("log", "packed"):
            shutil.rmtree(store / node / name, ignore_errors=True)
        agents = FileStore(store.as_uri())
        packs = Packs(agents, f"{node}/packed/log")
        for number in range(count):
            line = f"step {number}: loss {1 / (1 + number):.6f}, 18.4 steps/s, and what else two seconds bring"
            body = f"{line:<200}\n".encode()
            agents.create(f"{node}/log/{number:08d}", body)
            packs.add(number, body)
        with files_as_s3(store, delay_s) as files:
            bench = Bench(folder / f"user-{count}", files)
            found[str(count)] = {"logs, running": bench.best("logs", "last"), "attach, running": _followed(files)}
            packs.close()
            files.look()
            found[str(count)] |= {"logs, over": bench.best("logs", "last"), "attach, over": _followed(files)}
        shutil.rmtree(store)
    return found


def _followed(files: FilesAsS3) -> dict[str, float]:
    """What whoever attaches reads of the log before its time, by `Follower`, in this process."""
    with _environment(files):
        mailbox = a_run(Store(files.url))
        plan = mailbox.read("plan", Plan)
        assert plan is not None
        asked = plan.launch.model_copy(update={"metrics": {"loss": r"loss ([0-9.]+)"}})
        follower = Follower(plan.model_copy(update={"launch": asked}), mailbox, SilentListener(), SystemClock())
        files.reset()
        begun = time.perf_counter()
        follower.look(State(attempt=1, ordered_at=1.0))
        seconds = time.perf_counter() - begun
        asked_for = sum("/log" in about for _, about in files.calls)
    return {"seconds": round(seconds, 2), "requests": asked_for, "memory_mb": 0}


def outputs(counts: list[int], delay_s: float, folder: Path) -> dict[str, Any]:
    """A run that writes so many files of 1 KB: all of it, and then all of them fetched once more."""
    found: dict[str, Any] = {}
    for count in counts:
        store = folder / f"store-{count}"
        store.mkdir()
        with files_as_s3(store, delay_s) as files:
            bench = Bench(folder / f"user-{count}", files)
            bench.world.script(WRITES.format(count=count))
            train = bench.once("train", "--no-prefect", "-q", "--", "python", "train.py")
            report = json.loads(_said(bench, "show", "last", "--json"))["report"]
            home = report["phases"]["collect"] + report["phases"]["publish"]
            there = len(list((bench.world.project / "many").iterdir()))
            pull = bench.once("pull", "last", "--to", str(folder / f"pulled-{count}"))
            found[str(count)] = {
                "train": {**train, "home": there, "home_s": round(home, 2), "script_s": round(report["script_s"], 2)},
                "pull": pull,
            }
    return found


def machines(counts: list[int], delay_s: float, folder: Path) -> dict[str, Any]:
    """A sweep over so many machines of Amazon's, each of a run with an owner that lives, a tenth of them given back.

    The account is the simulated one of tests/simulation, whose machines end at once here, asked by the provider that
    asks the real one; each of its calls takes as long as one to the store.
    """
    found: dict[str, Any] = {}
    for count in counts:
        store = folder / f"store-{count}"
        store.mkdir()
        fleet = Fleet(store, count, "on-demand", over=count // 10, planned=True, url=f"s3://{BUCKET}")
        fleet.amazon.delay_s, simulation.amazon.ENDING_S = delay_s, (0.0, 0.0)
        with files_as_s3(store, delay_s) as files, _environment(files), _beating(store):
            begun = time.perf_counter()
            said = Counter(one.action for one in fleet.sweep().values())
            found[str(count)] = {
                "sweep": {"seconds": round(time.perf_counter() - begun, 2), "requests": files.requests, "memory_mb": 0},
                "ended": said["ended"],
                "left": said["left"],
                "calls": dict(fleet.amazon.calls),
            }
        shutil.rmtree(store)
    return found


def crowd(counts: list[int], delay_s: float, folder: Path) -> dict[str, Any]:
    """One process (benchmarks/crowd.py) that follows so many runs, whose scripts print a line every other second."""
    found: dict[str, Any] = {}
    for count in counts:
        store = folder / f"store-{count}"
        store.mkdir()
        with files_as_s3(store, delay_s) as files:
            command = [sys.executable, str(ROOT / "benchmarks" / "crowd.py"), str(store), files.url, str(count)]
            with subprocess.Popen(
                [*command, str(FOLLOWED_S)],
                env={**os.environ, **files.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as follower:
                found[str(count)] = _followed_by(follower, store, files)
        shutil.rmtree(store)
    return found


def _followed_by(follower: subprocess.Popen[str], store: Path, files: FilesAsS3) -> dict[str, Any]:
    assert follower.stdin is not None and follower.stdout is not None
    say = iter(follower.stdout)
    next(say)
    files.look()
    scripts = Scripts(store)
    print("go", file=follower.stdin, flush=True)
    next(say)
    files.reset()
    told = json.loads(next(say))
    requests = files.requests
    ended = scripts.end(ENDED_WITHIN_S)
    last = json.loads(next(say))
    if last["failed"]:
        raise SystemExit(f"runs could not be followed: {last['failed']}")
    late = sorted(last["noticed"][run] - at for run, at in ended.items())
    return {
        **told,
        "requests_a_second": round(requests / FOLLOWED_S, 1),
        "noticed_s": round(late[len(late) // 2], 2),
        "noticed_last_s": round(late[-1], 2),
    }


@contextmanager
def _beating(store: Path) -> Iterator[None]:
    """All owners of a store show every few seconds that they live."""
    beats, over = list(store.glob("control/*/*/owner.json")), Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            for one in beats:
                os.utime(one)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _environment(files: FilesAsS3) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(files.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


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
    "log": lambda asked, folder: pieces(asked.pieces, asked.delay / 1000, folder),
    "outputs": lambda asked, folder: outputs(asked.outputs, asked.delay / 1000, folder),
    "machines": lambda asked, folder: machines(asked.machines, asked.delay / 1000, folder),
    "crowd": lambda asked, folder: crowd(asked.crowd, asked.delay / 1000, folder),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="this part alone")
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 1000, 5000])
    parser.add_argument("--pieces", type=int, nargs="+", default=[430, 43000], help="of a log; a day has 43,000")
    parser.add_argument("--outputs", type=int, nargs="+", default=[100, 10000])
    parser.add_argument("--machines", type=int, nargs="+", default=[100, 10000])
    parser.add_argument("--crowd", type=int, nargs="+", default=[1, 50, 200], help="runs that one process follows")
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
    memory = f", {one['memory_mb']:.0f} MB" if one["memory_mb"] else ""
    return f"{one['seconds']:.1f} s, {one['requests']:,.0f} requests{memory}"


def _table(title: str, rows: dict[str, str]) -> Callable[[dict[str, Any]], str]:
    """A column for each count."""

    def made(found: dict[str, Any]) -> str:
        counts = " | ".join(f"{int(count):,}" for count in found)
        lines = [f"| {title} | {counts} |", "|---" * (len(found) + 1) + "|"]
        for row, text in rows.items():
            lines.append(f"| {text} | " + " | ".join(_cell(one[row]) for one in found.values()) + " |")
        return "\n".join(lines)

    return made


def _outputs_table(found: dict[str, Any]) -> str:
    text = _table("files of 1 KB", {"train": "`train`, all of it", "pull": "`pull --to`"})(found)
    homes = "; ".join(f"of {int(count):,} in {one['train']['home_s']:.1f} s" for count, one in found.items())
    return f"{text}\n\nVerified, in the store and at their places after the script's end: {homes}."


def _machines_table(found: dict[str, Any]) -> str:
    text = _table("machines of Amazon's, a tenth given back", {"sweep": "`reap`, of the store"})(found)
    counts = " | ".join(f"{sum(one['calls'].values()):,} calls" for one in found.values())
    asked = "; ".join(f"{int(count):,}: {_asked(one['calls'])}" for count, one in found.items())
    return f"{text}\n| of the cloud | {counts} |\n\nCalls to the cloud: {asked}."


def _asked(calls: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {''.join(word.title() for word in name.split('_'))}" for name, count in calls.items())


def _crowd_table(found: dict[str, Any]) -> str:
    counts = " | ".join(f"{int(count):,}" for count in found)
    lines = [f"| runs followed by one process | {counts} |", "|---" * (len(found) + 1) + "|"]
    for title, name in CROWD.items():
        lines.append(f"| {title} | " + " | ".join(f"{one[name]:,}" for one in found.values()) + " |")
    return "\n".join(lines)


CROWD = {
    "cores": "cores",
    "memory, MB": "memory_mb",
    "threads": "threads",
    "open files": "files",
    "requests a second to the store": "requests_a_second",
    "calls a second to Amazon": "cloud_calls_a_second",
    "CPU seconds to begin": "begun_cpu_s",
    "seconds until the end of a script is noticed, median": "noticed_s",
    "the last one": "noticed_last_s",
}

TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "runs": _runs_table,
    "log": _table("pieces of a log", {name: f"`{name.replace(',', '`,')}" for name in LOG_ROWS}),
    "outputs": _outputs_table,
    "machines": _machines_table,
    "crowd": _crowd_table,
}


def write(page: Path, figures: dict[str, Any], delay: float) -> None:
    """Put the figures between the page's marks."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    when = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()}, {delay:.0f} ms a request."
    text = f"{BEGIN}\n{tables(figures)}\n\n{when}\n{END}"
    old = page.read_text(encoding="utf-8")
    page.write_text(re.sub(f"{BEGIN}.*?{END}", lambda _: text, old, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
