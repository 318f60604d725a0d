"""Outputs and checkpoints reach the store while the script runs, by manifests that name whole files."""

from __future__ import annotations

import contextlib
import itertools
import os
import posixpath
import stat
import threading
import time

from sojourn.agent.errors import Exists, Late, say
from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place, dump
from sojourn.agent.paths import below
from sojourn.agent.patterns import Patterns
from sojourn.agent.procfs import being_written
from sojourn.agent.store import FileStore
from sojourn.agent.tree import Sign, scan

QUIET_S = 1.0  # a checkpoint file must not have changed for this long while its writer lives


class Committer:
    """Brings what the script writes into the store: blobs by hash, then a manifest that names them."""

    def __init__(self, store: FileStore, place: Place, order: Json, root: str, output: str, until: float) -> None:
        self._store = store
        self._place = place
        self.root = root
        self._output = output
        self._named = order["outputs"]
        self._pace = order["commit_every_s"]
        self._inputs = {entry["path"] for entry in order["inputs"]}
        self._resumed = [entry for entry in order["inputs"] if entry["source"].startswith("machine/")]
        self._ignored = Patterns(order["ignore"])
        self._checkpoint = Patterns(order["checkpoint"])
        self._several = len(order["nodes"]) > 1 and bool(order["checkpoint"])
        self._kept: dict[str, tuple[Sign, Json]] = {}
        self._last: dict[str, list[Json]] = {"out": [], "ckpt": []}
        self._last_checkpoint: dict[str, Sign] = {}
        self._completed = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.until = until  # on the monotonic clock; past it a commit keeps what it has
        self.sequence = {"out": 0, "ckpt": 0}
        self.troubles: dict[str, str] = {}  # what a later try may cure
        self.left_out: dict[str, str] = {}  # what none will
        self._before = self._scan()

    def start(self) -> None:
        """Commit from time to time from now on."""
        self._thread.start()

    def stable(self, until: float) -> None:
        """Commit what is stable while the script runs, and be done by `until`."""
        self._take_over(until)
        self._commit(QUIET_S)

    def final(self, until: float, torn: bool) -> None:
        """Commit everything, retried while the store fails.

        `torn`: the writer was killed, so what it wrote last is no checkpoint.
        """
        self._take_over(until)
        patience = min(until, time.monotonic() + self._store.patience_s)
        for pause in itertools.chain((0.2, 0.5, 1.0, 2.0), itertools.repeat(5.0)):
            self._commit(QUIET_S if torn else 0.0, time.time())
            if not self.troubles or time.monotonic() + pause > patience:
                return
            time.sleep(pause)

    def _take_over(self, until: float) -> None:
        self.until = until
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(max(0.0, until - time.monotonic()))

    def settle(self, seconds: float) -> None:
        """Let the newest checkpoint become complete over all nodes; rank 0's node waits for the others."""
        until = min(self.until, time.monotonic() + seconds)
        while self._several and time.monotonic() < until:
            self._sync(0.0)
            first = self._place.first
            if self._completed == self.sequence["ckpt"] if self._place.rank == 0 else first.exists("exit.json"):
                return
            time.sleep(0.1)

    def _run(self) -> None:
        due = time.monotonic() + self._pace
        while not self._over.wait(min(1.0, self._pace) if self._several else self._pace):
            with contextlib.suppress(OSError):
                self._sync(QUIET_S)
            if time.monotonic() >= due:
                self._commit(QUIET_S)
                due = time.monotonic() + self._pace

    def _commit(self, quiet: float, now: float | None = None) -> None:
        if not self._lock.acquire(timeout=max(0.0, self.until - time.monotonic())):
            return
        try:
            self.troubles = {}
            found = self._scan()
            changed = {path: sign for path, sign in found.items() if self._before.get(path) != sign}
            if self._place.rank == 0:
                self._lead(self._checkpoints(changed), quiet, now)
            self._outputs(found, changed)
        except OSError as error:
            self.troubles["the manifest"] = str(error)
        finally:
            self._lock.release()
            for what, why in self.troubles.items():
                say(f"not committed now: {what}: {why}")

    def _scan(self) -> dict[str, Sign]:
        return scan(self.root, [self._output, *(self._named or ())], self.left_out)

    def _outputs(self, found: dict[str, Sign], changed: dict[str, Sign]) -> None:
        entries = []
        for path in sorted(found):
            if self._is_output(path, path in changed):
                entry = self._entry(path, found[path])
                entries += [] if entry is None else [entry]
        if entries != self._last["out"]:
            self._manifest("out", entries)

    def _is_output(self, path: str, changed: bool) -> bool:
        if self._named is not None and any(below(path, posixpath.normpath(name)) for name in self._named):
            return True
        if not changed:
            return False
        if below(path, self._output) or self._checkpoint.match(path):
            return True
        return self._named is None and path not in self._inputs and not self._ignored.match(path)

    def _entry(self, path: str, sign: Sign) -> Json | None:
        """The manifest's line for this state of the file, or for the last one that could be kept."""
        known = self._kept.get(path)
        if known is None or known[0] != sign:
            try:
                known = self._keep(path, sign) or known
            except Late:
                self.troubles[path] = "the time was over"
            except (FileNotFoundError, NotADirectoryError):
                pass  # gone since the scan
            except PermissionError:
                self.left_out[path] = "it cannot be read"
            except OSError as error:
                self.troubles[path] = error.strerror or str(error)
        return known[1] if known else None

    def _keep(self, path: str, sign: Sign) -> tuple[Sign, Json] | None:
        full = os.path.join(self.root, path)
        with open(full, "rb") as file:
            before = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns, before.st_ino) != sign:
                return None
            digest, size = self._store.keep(self._place.blobs, file, self._in_time)
        after = os.stat(full)
        if (after.st_size, after.st_mtime_ns, after.st_ino) != sign or size != sign.size:
            return None
        source = f"{self._place.blobs}/{digest}"
        mode = stat.S_IMODE(before.st_mode)
        self._kept[path] = (
            sign,
            {"path": path, "hash": f"sha256:{digest}", "size": size, "mode": mode, "source": source},
        )
        return self._kept[path]

    def _in_time(self) -> None:
        if time.monotonic() > self.until:
            raise Late

    def _manifest(self, what: str, entries: list[Json]) -> None:
        while True:
            number = self.sequence[what] + 1
            body = {"sequence": number, "at": time.time(), "files": entries}
            with contextlib.suppress(Exists):
                self._store.create(self._place.key(f"{what}/{number:08d}.json"), dump(body), durable=True)
                break
            self.sequence[what] = number
        self.sequence[what] = number
        self._last[what] = entries

    # Rank 0's node numbers the checkpoints; the others commit theirs under the same number.

    def _checkpoints(self, changed: dict[str, Sign]) -> dict[str, Sign]:
        return {path: sign for path, sign in changed.items() if self._checkpoint.match(path)}

    def _lead(self, files: dict[str, Sign], quiet: float, now: float | None) -> None:
        if files and files != self._last_checkpoint:
            entries = self._whole(files, quiet, now)
            if entries is not None:
                self._manifest("ckpt", entries)
                self._last_checkpoint = files
        self._complete()

    def _whole(self, files: dict[str, Sign], quiet: float, now: float | None = None) -> list[Json] | None:
        """The checkpoint's lines, when none of its files is still being written."""
        now_ns = int((now or time.time()) * 1e9)
        if any(now_ns - sign.mtime_ns < quiet * 1e9 for sign in files.values()):
            return None
        if being_written() & {sign.inode for sign in files.values()}:
            return None
        entries = [self._entry(path, sign) for path, sign in sorted(files.items())]
        if any(self._kept[path][0] != sign for path, sign in files.items() if path in self._kept):
            return None
        if any(entry is None for entry in entries):
            return None
        # What an earlier attempt left and this one did not touch is part of it.
        return [entry for entry in entries if entry] + [e for e in self._resumed if e["path"] not in files]

    def _complete(self) -> None:
        while self._completed < self.sequence["ckpt"]:
            number = self._completed + 1
            if not all(node.exists(f"ckpt/{number:08d}.json") for node in self._place.nodes):
                return
            body = {"sequence": number, "at": time.time(), "nodes": len(self._place.nodes)}
            with contextlib.suppress(Exists):
                self._store.create(self._place.key(f"commit/{number:08d}.json"), dump(body), durable=True)
            self._completed = number

    def _sync(self, quiet: float) -> None:
        if not self._several:
            return
        with self._lock:
            if self._place.rank == 0:
                self._complete()
            while self._place.rank > 0 and self._place.first.exists(f"ckpt/{self.sequence['ckpt'] + 1:08d}.json"):
                found = self._scan()
                changed = {path: sign for path, sign in found.items() if self._before.get(path) != sign}
                entries = self._whole(self._checkpoints(changed), quiet)
                if entries is None:
                    return
                self._manifest("ckpt", entries)
