"""Makes the script's Python environment on this machine, from what the order sends and, if it may, an index.

uv came with the order, so the image needs a python3 for the agent and nothing else. All of
it lies in the scratch directory, uv's cache too, and goes with the machine.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import re
import shutil
import signal
import subprocess

from sojourn.agent import files
from sojourn.agent.errors import Refused, say
from sojourn.agent.files import Json
from sojourn.agent.host.processes import MARK, MARK_DIRECTORY, descendants, kill_all, own_proc, processes
from sojourn.agent.interrupts import Interrupts
from sojourn.agent.script.launch import passed
from sojourn.agent.script.venv import bundled, open_to_packages, runners, switched_on
from sojourn.agent.stores.store import MIB

FOLDER = "environment"
SAID_LINES = 6
NO_WAY_OUT = re.compile(
    r"dns error|tcp connect|client error \(Connect\)|timed? ?out|unreachable|error sending request", re.IGNORECASE
)
NO_PYTHON = re.compile(r"No interpreter found", re.IGNORECASE)


class Environment:
    """Made before the script starts; a stop or the deadline end that at once."""

    def __init__(self, setup: Json, scratch: str, interrupts: Interrupts) -> None:
        self._setup = setup
        self._scratch = scratch
        self._place = os.path.join(scratch, FOLDER)
        self._interrupts = interrupts
        self._offline = setup["network"] == "none"

    def files(self) -> list[Json]:
        """What must be fetched into the scratch directory first."""
        return [self._setup["tool"], self._setup["requirements"], *self._setup["files"]]

    def make(self, path: str) -> dict[str, str]:
        """Make the environment; the variables that switch it on, before the search path as it was.

        Raises Refused in the words of uv, and Stop.
        """
        venv = os.path.join(self._place, "venv")
        number = self._setup["packages"]
        say(f"making the environment: {number} package{'s' * (number != 1)}, Python {self._setup['python']}")
        try:
            uv = self._unpack_uv()
            self._run(uv, "venv", "--python", self._setup["python"], venv)
            python = os.path.join(venv, "bin", "python")
            seeds = bundled(python)  # whatever the project wants takes their place
            if seeds:
                self._run(uv, "pip", "install", "--no-deps", "--no-index", "--python", python, *seeds)
            self._run(uv, "pip", "install", "--no-deps", "--python", python, "-r", self._setup["requirements"]["path"])
            open_to_packages(venv)
            files.remove(os.path.join(self._scratch, "wheels"))  # the disk is the script's now
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Refused("environment: the machine's disk is full") from error
            raise Refused(f"environment: cannot be made here: {error}") from error
        runners(self._place)
        programs = os.pathsep.join([os.path.join(venv, "bin"), path, self._place])
        return {"PATH": programs, **switched_on(venv)}

    def _unpack_uv(self) -> str:
        uv = os.path.join(self._place, "uv")
        os.makedirs(self._place, exist_ok=True)
        with gzip.open(os.path.join(self._scratch, self._setup["tool"]["path"])) as packed, open(uv, "wb") as file:
            shutil.copyfileobj(packed, file, MIB)
        os.chmod(uv, 0o700)
        return uv

    def _run(self, uv: str, *words: str) -> None:
        flags = ["--no-config", *(["--offline", "--no-python-downloads"] if self._offline else [])]
        output = os.path.join(self._place, "output")
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [uv, *words, *flags],
                cwd=self._scratch,
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            while process.poll() is None:
                self._interrupts.check()
                self._interrupts.sleep(0.2)
        except BaseException:
            _end(process)
            raise
        with open(output, encoding="utf-8", errors="replace") as said:
            lines = said.read().splitlines()
        say("\n".join([f"uv {words[0]} ended with {process.returncode}", *lines]))
        if process.returncode != 0:
            raise Refused(self._refusal(lines))

    def _variables(self) -> dict[str, str]:
        """What uv sees: the machine's own settings of the network, and all its own in the scratch directory."""
        env = passed()
        env.pop("LD_LIBRARY_PATH", None)
        env.update({mark: os.environ[mark] for mark in (MARK, MARK_DIRECTORY) if mark in os.environ})
        env.setdefault("HOME", self._scratch)
        env.update(self._setup.get("variables", {}))
        env.update(
            TMPDIR=self._place,
            UV_CACHE_DIR=os.path.join(self._place, "cache"),
            UV_PYTHON_INSTALL_DIR=os.path.join(self._place, "python"),
            UV_PYTHON_PREFERENCE="system",
            UV_NO_PROGRESS="1",
        )
        return env

    def _refusal(self, lines: list[str]) -> str:
        text = "\n".join(lines)
        said = "\n  ".join(line for line in lines[-SAID_LINES:])
        if "No space left on device" in text:
            return f"environment: the machine's disk is full: {said}"
        if NO_PYTHON.search(text) and self._offline:
            return f"environment: the image has no Python {self._setup['python']}, and machines have no way out: {said}"
        if NO_WAY_OUT.search(text) and not self._offline:
            why = "the machine cannot reach the index; with  network: none  all packages travel from your computer"
            return f"environment: {why}: {said}"
        return f"environment: uv could not make it on the machine: {said}"


def with_python(path: str, scratch: str) -> str:
    """A search path on which `python` is found, if only as the image's python3: many have no other name for it."""
    python3 = shutil.which("python3", path=path)
    if python3 is None or shutil.which("python", path=path) is not None:
        return path
    folder = os.path.join(scratch, FOLDER, "bin")
    os.makedirs(folder, exist_ok=True)
    os.symlink(python3, os.path.join(folder, "python"))
    return os.pathsep.join([path, folder])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill uv and whatever it builds with; nothing else runs below us yet."""
    kill_all(lambda: descendants(processes()), process.poll)
    if process.poll() is None or not own_proc():
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
