"""One process that follows many runs, and the machines that write what it reads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from many_leases import Fleet

from cli.progress import SilentListener
from sojourn.names import LeaseName, run_folder
from sojourn.plan.planning import Plan
from sojourn.protocol import Exit, MachineBeat
from sojourn.run.journey import Journey
from sojourn.store.known_stores import known_store
from sojourn.store.mailbox import Mailbox

PRINTED_EVERY_S = 2.0


class Crowd:
    """The runs of a fleet, each followed as `attach` does it, in a thread of its own; when each end was noticed."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.noticed: dict[str, float] = {}
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._follow, args=[name], daemon=True) for name in fleet.names]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self, limit_s: float | None = None) -> None:
        for thread in self._threads:
            thread.join(limit_s)

    def _follow(self, name: str) -> None:
        run = LeaseName.parse(name)
        assert run is not None
        try:
            home = self.fleet.folder.parent / "home"
            mailbox = Mailbox(known_store(home, self.fleet.url), "digits", run.run)
            plan = mailbox.read("plan", Plan)
            assert plan is not None
            journey = Journey(plan, mailbox, self.fleet.provider(), home, SilentListener())
            with journey.held(), journey.leased():
                journey.train()
                self.noticed[run.run] = time.time()
        except Exception as error:
            self.failed.append(f"{run.run}: {type(error).__name__}: {error}")


class Scripts:
    """What machines write while their scripts run, for all planned runs of a store on files."""

    def __init__(self, store: Path) -> None:
        self._nodes: dict[str, Path] = {}
        for path in store.glob("control/*/*/plan.json"):
            plan = Plan.model_validate_json(path.read_bytes())
            node = store / "machine" / plan.project / run_folder(plan.run, plan.place) / "1" / "0"
            (node / "log").mkdir(parents=True)
            self._nodes[plan.run] = node
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._print, daemon=True)
        self._thread.start()

    def _print(self) -> None:
        number = 0
        while not self._over.wait(PRINTED_EVERY_S):
            for node in self._nodes.values():
                (node / "log" / f"{number:08d}").write_bytes(f"step {number}: loss 0.1\n".encode())
                (node / "beat.json").write_bytes(MachineBeat(at=time.time(), phase="running").to_bytes())
            number += 1

    def end(self, within_s: float) -> dict[str, float]:
        """Let all end, one after the other; when each did."""
        self._over.set()
        self._thread.join()
        ended = {}
        for run, node in self._nodes.items():
            last = Exit(node=0, reason="exited", exit_code=0, ended_at=time.time())
            (node / "exit.json").write_bytes(last.to_bytes())
            ended[run] = time.time()
            time.sleep(within_s / len(self._nodes))
        return ended
