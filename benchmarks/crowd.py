"""One process that follows many runs: `python benchmarks/crowd.py STORE-FOLDER STORE-URL RUNS SECONDS`, for scale.py.

Each run is on a machine of its own of the simulated Amazon, was handed over by whoever began it, and is followed as
`attach` does it, in a thread, by the real orchestrator over the real store. It says "ready" once the store is filled,
follows when a line comes in, and after those seconds says what that took; once all scripts have ended it says when it
noticed.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from many_followers import Crowd  # noqa: E402
from many_leases import Fleet  # noqa: E402

SETTLED_S = 10.0


def used() -> dict[str, float]:
    """What this process has used and holds by now."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "cpu_s": now.ru_utime + now.ru_stime,
        "at": time.monotonic(),
        "memory_mb": memory / 1024,
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
    }


def main(folder: str, url: str, runs: int, seconds: float) -> None:
    crowd = Crowd(Fleet(Path(folder), runs, "on-demand", planned=True, left=True, url=url))
    say("ready")
    sys.stdin.readline()
    before, calls = used(), crowd.fleet.amazon.calls
    crowd.start()
    time.sleep(SETTLED_S)
    asked, first = calls.total(), used()
    say("settled")
    time.sleep(seconds)
    last = used()
    took = last["at"] - first["at"]
    say(
        {
            "cores": round((last["cpu_s"] - first["cpu_s"]) / took, 3),
            "begun_cpu_s": round(first["cpu_s"] - before["cpu_s"], 2),
            "memory_mb": round(last["memory_mb"]),
            "more_memory_mb": round(last["memory_mb"] - before["memory_mb"]),
            "threads": last["threads"],
            "files": last["files"],
            "cloud_calls_a_second": round((calls.total() - asked) / took, 2),
        }
    )
    crowd.join()
    say({"noticed": crowd.noticed, "failed": crowd.failed[:5]})


def say(what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
