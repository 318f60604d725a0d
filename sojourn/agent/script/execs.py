"""Commands that somebody sends to this machine while it stands, by `sojourn exec`: found, run, answered.

Each request is an object of its own, numbered without gaps over all machines, so that a
look at the next number tells whether there is one. Nothing here may harm the script:
commands run below processes of their own (`execute`), what goes wrong is said in the
answer, and all of them end with the script.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable

from sojourn.agent import files
from sojourn.agent.errors import say
from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place, dump
from sojourn.agent.script.execute import KEPT
from sojourn.agent.script.mask import Mask
from sojourn.agent.script.script import Script
from sojourn.agent.stores.store import Store

POLL_S = 0.2  # where a look costs a request, the store's own pace
SELDOM_S, SOON_S = 0.5, 60.0  # and so often when nobody has sent one for so long
MOST = 8  # side by side
ANSWER_S = 5.0  # for the last answers, before the machine goes


class Execs:
    """Looks for requests from `open` to `close`, and answers each in a thread of its own."""

    def __init__(
        self,
        store: Store,
        place: Place,
        keeper: list[str],
        script: Script,
        env: dict[str, str],
        scratch: str,
        secrets: Iterable[str],
    ) -> None:
        self._store = store
        self._place = place
        self._keeper = keeper
        self._script = script
        self._env = env
        self._scratch = os.path.join(scratch, "exec")
        self._secrets = list(secrets)
        self._open = False
        self._lock = threading.Lock()
        self._answering: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def open(self) -> None:
        """From now on commands are run."""
        self._open = True
        if not self._thread.is_alive():
            self._thread.start()

    def shut(self) -> None:
        """From now on none is started; those that run end with the processes that are below the agent."""
        with self._lock:
            self._open = False

    def settle(self) -> None:
        """Let the answers under way reach the store."""
        until = time.monotonic() + ANSWER_S
        for thread in self._answering:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        number, heard = 0, time.monotonic()
        while True:
            pause = POLL_S if time.monotonic() - heard < SOON_S else SELDOM_S
            time.sleep(max(pause, self._store.pace_s))
            while self._open:
                body = self._store.find(self._place.exec(number))
                if body is None:
                    break
                self._take(number, body)
                number, heard = number + 1, time.monotonic()

    def _take(self, number: int, body: bytes) -> None:
        try:
            request: Json = json.loads(body)
            mine = request["node"] == self._place.node
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            say(f"exec {number} cannot be read: {error}")
            return
        if mine:
            thread = threading.Thread(target=self._serve, args=(number, request), daemon=True)
            self._answering = [one for one in self._answering if one.is_alive()]
            busy = len(self._answering) >= MOST
            self._answering.append(thread)
            request["refused"] = f"{MOST} commands run here already" if busy else None
            thread.start()

    def _serve(self, number: int, request: Json) -> None:
        folder = os.path.join(self._scratch, str(number))
        try:
            end = self._carry_out(folder, request)
            for name in ("out", "err"):
                shown = self._shown(os.path.join(folder, name), end.get(f"std{name}_bytes", 0))
                if shown:
                    self._store.put(self._place.key(f"exec/{number:08d}.{name}"), shown)
            self._store.create(self._place.key(f"exec/{number:08d}.json"), dump(end))
        except Exception as error:
            say(f"exec {number} could not be answered: {error!r}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _carry_out(self, folder: str, request: Json) -> Json:
        """How the command ended, or why it was not started."""
        now = time.time()
        why = request["refused"]
        if why is None and now > request["until"]:
            why = f"it came {now - request['until']:.0f} s too late"
        if why is None:
            say(f"exec: {request['argv']!r}")
            why, said = self._execute(folder, request)
            if said:
                return dict(json.loads(said))
        return {"message": why, "started_at": now, "ended_at": time.time()}

    def _execute(self, folder: str, request: Json) -> tuple[str, bytes]:
        """Why there is nothing to tell, if there is not; what the command's keeper tells."""
        try:
            os.makedirs(folder)
            told = {"argv": request["argv"], "timeout_s": request["timeout_s"], "umask": self._script.umask}
            files.write(os.path.join(folder, "request.json"), told, sync=False)
            with self._lock:
                if not self._open:
                    return "the script ended before it began", b""
                process = subprocess.Popen(
                    [*self._keeper, folder],
                    cwd=self._script.cwd,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    start_new_session=True,
                )
        except OSError as error:
            return f"it cannot be started: {error.strerror}", b""
        process.returncode = 0  # whoever waits for the script reaps all of us
        assert process.stdout is not None
        with contextlib.closing(process.stdout) as told_by:
            return "it was ended together with the script, or with its machine", told_by.read()

    def _shown(self, path: str, printed: int) -> bytes:
        """What it printed, masked; where that was cut, without what may be the beginning of a secret."""
        try:
            with open(path, "rb") as file:
                body = file.read(KEPT)
        except OSError:
            return b""
        mask = Mask(self._secrets)
        shown = mask.feed(body) + mask.rest()
        return shown if printed > len(body) else shown + mask.close()
