"""A user's computer in a temporary directory: the real `sojourn` command, the real agent, real processes.

What lives is read from the process table, by the paths of this world in a process's
environment, arguments and working directory, never from our own records.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sojourn.plan.planning import Plan
from sojourn.run.runs import all_mailboxes, entries_of
from sojourn.store.ledger import Entry
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

T = TypeVar("T")
BIN = Path(sys.executable).parent
SOJOURN = BIN / "sojourn"
COMMAND_LIMIT_S = 180.0
WAITS = """
    import pathlib, time
    pathlib.Path({ready!r}).touch()
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.05)
    pathlib.Path("model.txt").write_text("weights")
"""


class Cli:
    """A `sojourn` command that runs in the background, in a session of its own, as in another terminal."""

    def __init__(self, words: tuple[str, ...], world: World, environment: dict[str, str]) -> None:
        self.words = words
        self._output = world.root / f"cli-{len(world.started)}.log"
        with open(self._output, "wb") as output:
            self.process = subprocess.Popen(
                [str(SOJOURN), *words],
                cwd=world.project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has printed so far, errors included."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal, to itself alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"sojourn {' '.join(self.words)} does not end: {self.output}") from None


class World:
    """One user with a data directory, a home and a project directory, and no other user's settings."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "data"
        self.user = root / "user"
        self.project = root / "project"
        for folder in (self.home, self.user, self.project):
            folder.mkdir(parents=True)
        self.started: list[Cli] = []
        self.environment = {
            "PATH": os.pathsep.join([str(BIN), *os.environ["PATH"].split(os.pathsep)]),
            "HOME": str(self.user),
            "SOJOURN_HOME": str(self.home),
            "TMPDIR": str(self._folder("tmp")),
            "LANG": "C.UTF-8",
            "COLUMNS": "160",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_AUTHOR_NAME": "A Tester",
            "GIT_AUTHOR_EMAIL": "tester@example.com",
            "GIT_COMMITTER_NAME": "A Tester",
            "GIT_COMMITTER_EMAIL": "tester@example.com",
            "DVC_NO_ANALYTICS": "1",
            "DVC_TEST": "1",  # or each of its commands starts a process that asks for a newer version
            "DO_NOT_TRACK": "1",
            "DVC_SITE_CACHE_DIR": str(self._folder("dvc-site")),
            "PREFECT_HOME": str(root / "prefect"),
            "OMP_NUM_THREADS": "1",
        }

    def _folder(self, name: str) -> Path:
        (self.root / name).mkdir()
        return self.root / name

    # -- the user's files --

    def script(self, text: str, name: str = "train.py") -> Path:
        """A file of the project; its text may be indented."""
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def script_that_waits(self) -> None:
        """Its sign `ready` says that it runs; with the sign `go` it leaves model.txt and ends."""
        self.script(WAITS.format(ready=str(self.signs / "ready"), go=str(self.signs / "go")))

    def git(self, *words: str) -> str:
        """A git command in the project."""
        done = subprocess.run(
            ["git", *words], cwd=self.project, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    # -- the command --

    def sojourn(
        self, *words: str, seconds: float = COMMAND_LIMIT_S, cwd: Path | None = None, given: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `sojourn …` to its end, with `given` on standard input; further keywords are environment variables."""
        return subprocess.run(
            [str(SOJOURN), *words],
            cwd=cwd or self.project,
            env={**self.environment, **variables},
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def train(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """`sojourn train --no-prefect …` to its end; `python train.py` when no words are given."""
        return self.sojourn("train", "--no-prefect", *_command(words), **more)

    def start(self, *words: str, **variables: str) -> Cli:
        """`sojourn …` in the background."""
        cli = Cli(words, self, {**self.environment, **variables})
        self.started.append(cli)
        return cli

    def start_train(self, *words: str, **variables: str) -> Cli:
        """`sojourn train --no-prefect …` in the background."""
        return self.start("train", "--no-prefect", *_command(words), **variables)

    def show(self, run: str = "last") -> dict[str, Any]:
        """What `sojourn show RUN --json` prints."""
        done = self.sojourn("show", run, "--json")
        assert done.returncode == 0, done.stderr
        shown: dict[str, Any] = json.loads(done.stdout)
        return shown

    # -- the store --

    @property
    def store(self) -> Store:
        return Store(self.environment.get("SOJOURN_STORE") or (self.home / "store").as_uri())

    def mailbox(self) -> Mailbox | None:
        """The only run's mailbox, once there is one."""
        found = all_mailboxes(self.store)
        assert len(found) < 2, f"more than one run: {[one.run for one in found]}"
        return found[0] if found else None

    def run(self) -> str:
        """The only run's id, waited for."""
        return self.wait(self.mailbox).run

    def ledger(self) -> list[Entry]:
        """The only run's ledger as it stands."""
        mailbox = self.mailbox()
        return entries_of(mailbox) if mailbox else []

    def kinds(self) -> list[str]:
        """What stands in the ledger, in order."""
        return [entry.kind for entry in self.ledger()]

    def reached(self, phase: str) -> bool:
        """Whether the run has come to `phase`: `planned`, `hello`, `running` (the script), or a ledger entry."""
        mailbox = self.mailbox()
        if phase == "planned":
            return mailbox is not None and mailbox.read("plan", Plan) is not None
        if phase == "hello":
            return mailbox is not None and mailbox.hello(1, 0) is not None
        if phase == "running":
            beat = mailbox.beat(1, 0) if mailbox else None
            return beat is not None and beat.phase == "running"
        return phase in self.kinds()

    def wait_until(self, phase: str, seconds: float = 90.0) -> None:
        """Wait until the run has come to `phase`."""
        self.wait(lambda: self.reached(phase), seconds, every=0.005)

    def wait(self, what: Callable[[], T | None], seconds: float = 60.0, every: float = 0.02) -> T:
        """The first true answer of `what`."""
        until = time.monotonic() + seconds
        while not (answer := what()):
            if time.monotonic() > until:
                raise AssertionError(f"did not happen within {seconds} s; {self.story()}")
            time.sleep(every)
        return answer

    def wait_for_file(self, name: str, seconds: float = 90.0) -> Path:
        """Wait for a file that the script writes below `self.signs`, on the same host."""
        path = self.signs / name
        self.wait(path.exists, seconds)
        return path

    @property
    def signs(self) -> Path:
        """A directory outside run and project where a script may leave signs for the test."""
        (self.root / "signs").mkdir(exist_ok=True)
        return self.root / "signs"

    # -- what lives --

    def leases(self) -> list[str]:
        """The lease directories that were ever made."""
        machines = self.home / "machines"
        return sorted(entry.name for entry in machines.iterdir()) if machines.is_dir() else []

    def alive(self) -> dict[int, str]:
        """The command line of every process of this world but the commands themselves, by pid."""
        ours = {os.getpid(), *(cli.process.pid for cli in self.started)}
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        found = {pid: self._line(pid) for pid in pids if pid not in ours}
        return {pid: line for pid, line in found.items() if line is not None}

    def machines(self) -> dict[int, str]:
        """Those of them that belong to a machine: supervisor, agent, and whatever a script left."""
        return {pid: line for pid, line in self.alive().items() if self._is_machine(pid)}

    def supervisors(self) -> list[int]:
        """The supervisors' pids."""
        return [pid for pid, line in self.alive().items() if ".pyz supervise " in line]

    def agents(self) -> list[int]:
        """The agents' pids, as this host counts."""
        lines = self.alive().items()
        return [pid for pid, line in lines if ".pyz run " in line and ".pyz init " not in line]

    def wait_until_empty(self, seconds: float = 60.0) -> None:
        """Wait until no machine of this world lives."""
        self.wait(lambda: not self.machines(), seconds)

    def _line(self, pid: int) -> str | None:
        """The command line of a process of this world, None for any other and for a zombie."""
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            words = line + b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
            here = os.fsencode(os.readlink(f"/proc/{pid}/cwd")).startswith(os.fsencode(self.root))
        except OSError:
            return None
        mine = here or os.fsencode(self.root) in words
        return line.replace(b"\0", b" ").decode(errors="replace").strip() if mine else None

    def _is_machine(self, pid: int) -> bool:
        machines = os.fsencode(self.home / "machines")
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
            return b"SOJOURN_MACHINE=" in words or machines in words or os.fsencode(self.signs) in words
        except OSError:
            return False

    def story(self) -> str:
        """All that helps to understand a failure."""
        voices = [f"--- {' '.join(cli.words)}\n{cli.output}" for cli in self.started]
        logs = [
            f"--- {path}\n{path.read_text(errors='replace')[-2000:]}" for path in self.home.rglob("machines/*/*/*.log")
        ]
        return "\n".join([f"ledger {self.kinds()}", f"alive {self.alive()}", *voices, *logs])

    def clean(self) -> dict[int, str]:
        """Kill what is left; the machines' processes that were."""
        for cli in self.started:
            if cli.process.poll() is None:
                cli.kill()
        survived = self.machines()
        for _ in range(20):
            left = self.alive()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not left:
                break
            time.sleep(0.02)
        return survived


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    return words if "--" in words else (*words, "--", "python", "train.py")
