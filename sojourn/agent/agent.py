"""The agent: carries out one order on one machine and tells the store how it went.

Its phases: waiting (hello, then the order), fetching (bundle and inputs, every hash
checked), preparing (the Python environment, where the order sends one), running (the
script in a clean environment; log segments, outputs and checkpoints reach the store
meanwhile), committing (what is left), done (`exit.json`, the very last thing). A stop
request, the deadline or SIGTERM lead from any phase to the last two. Between them a
machine whose script failed may be held, with its `exit.json` written. The agent never
retries the script, and no process of the script outlives it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import posixpath
import sys
from collections.abc import Callable

from sojourn.agent import files
from sojourn.agent.claim import claim
from sojourn.agent.clouds.machine import Machine
from sojourn.agent.clouds.registry import open_machine
from sojourn.agent.errors import Exists, Refused, Stop, say
from sojourn.agent.files import Json
from sojourn.agent.heart import Heart
from sojourn.agent.host import hold, host
from sojourn.agent.host.clock import HOST, Clock, Deadline, Grace
from sojourn.agent.host.diagnosis import diagnosis
from sojourn.agent.host.processes import MARK_DIRECTORY, adopt_orphans
from sojourn.agent.interrupts import Interrupts
from sojourn.agent.mailbox import Place, dump, parse
from sojourn.agent.paths import TREE, inside
from sojourn.agent.results.commit import Committer
from sojourn.agent.results.fetch import Fetcher
from sojourn.agent.results.kept import keep
from sojourn.agent.results.outside import Outside
from sojourn.agent.results.packs import Packs
from sojourn.agent.script.environment import Environment, with_python
from sojourn.agent.script.execs import Execs
from sojourn.agent.script.launch import HOMES, command_line, environment
from sojourn.agent.script.log import Log
from sojourn.agent.script.mask import Mask
from sojourn.agent.script.packages import search_path, serve
from sojourn.agent.script.scalars import Scalars
from sojourn.agent.script.script import Script
from sojourn.agent.stores.store import NO_FILE, Store
from sojourn.agent.stores.stores import open_store
from sojourn.agent.work import Work

VERSION = "1"
NEEDED = ("deadline_at", "grace_s", "nodes", "bundle", "inputs", "command", "secrets")  # of an order, to begin with
UNSTORED = 3  # as an exit code: all is said, and not all is stored
DIAGNOSIS_S = 15.0
UNASKED = ("preempted", "deadline", "fault")  # reasons to end a script that nobody wished; its own success counts more
LEAVE_S = 5.0  # between our last word and the moment the cloud ends the machine


def run(program: str, boot: str, node: int, scratch: str, address: str) -> int:
    """Be the agent of machine `node`, as `boot` (a file) says; 0 when its last words are in the store.

    A cloud's number for a machine is what it asks for among the machines of its lease.
    """
    told = files.read(boot)
    if told is None:
        say(f"{boot} cannot be read")
        return 2
    store = open_store(told["store"], told.get("store_region"))
    try:
        machine = open_machine(told.get("metadata"))
        told["identity"] = machine.identity()
        if told["identity"] is not None:
            node = claim(store, told, node, told["identity"])
    except (OSError, Refused) as error:
        say(str(error))
        return 2
    return Agent(program, told, node, scratch, address, store, machine).run()


class Agent:
    """One machine's part of one attempt, from hello to exit."""

    def __init__(
        self,
        program: str,
        boot: Json,
        node: int,
        scratch: str,
        address: str,
        store: Store,
        machine: Machine,
        clock: Clock = HOST,
    ) -> None:
        self._program = program
        self._boot = boot
        self._clock = clock
        self._deadline = Deadline(boot["deadline_at"], clock)
        self._grace = Grace(self._deadline, boot["grace_s"])
        self._store = store
        self._place = Place(self._store, boot, node)
        self._address = address
        self._scratch = os.path.abspath(scratch)
        self._root = os.path.join(self._scratch, TREE)
        self._hold_s = 0.0
        self._path = os.defpath  # where the script's programs are found
        self._fetcher: Fetcher | None = None
        self._machine = machine
        self._interrupts = Interrupts(self._store, self._place, self._deadline, machine)
        self._heart = Heart(self._store, self._place, self._progress, clock)
        self._exit: Json = {"node": node, "reason": "refused", "message": None}
        self._umask = 0o022
        self._seal = os.urandom(16).hex()  # in this process's memory alone, until its last words show it
        self._mask = Mask()

    def run(self) -> int:
        """All phases, as a process of a machine of its own; 0 when the exit record is in the store."""
        self._umask = os.umask(0o077)
        adopt_orphans()
        self._interrupts.listen()
        return self.live()

    def live(self) -> int:
        """All phases; 0 when the exit record is in the store."""
        try:
            self._hello()
            self._heart.start()
            work = self._start(self._await_order())
        except Stop as stop:
            self._exit.update(reason=stop.reason, message=stop.message)
        except Refused as refusal:
            self._exit["message"] = str(refusal)
        except Exception as error:
            self._fault(error)
        else:
            self._see_through(work)
            return self._leave_later(work)
        return self._leave()

    # -- waiting --

    def _hello(self) -> None:
        hello = {
            "name": self._place.name,
            "node": self._place.node,
            "identity": self._boot.get("identity"),
            "address": self._address,
            "clock": self._clock.now(),
            "version": VERSION,
            "seal": hashlib.sha256(self._seal.encode()).hexdigest(),
            **self._facts(),
        }
        self._insist(lambda: self._store.put(self._place.key("hello.json"), dump(hello)))

    def _facts(self) -> Json:
        return {
            "port": host.free_port(self._address),
            "cpus": host.cpus(),
            "memory": host.memory(),
            "gpus": host.gpus(),
            "python": platform.python_version(),
        }

    def _insist(self, write: Callable[[], None]) -> None:
        """A write that is retried for as long as an order is waited for."""
        pause = 0.1
        until = self._clock.monotonic() + self._boot["order_wait_s"]
        while True:
            try:
                return write()
            except OSError as error:
                say(f"the store does not take it: {error}")
                if self._clock.monotonic() > until:
                    raise Refused(f"the store cannot be written: {error.strerror}") from error
            self._interrupts.check()
            self._clock.sleep(pause)
            pause = min(pause * 2, 5.0)

    def _await_order(self) -> Json:
        pause = max(0.01, self._store.pace_s / 4)
        until = self._clock.monotonic() + self._boot["order_wait_s"]
        while True:
            body = self._store.find(self._place.order)
            order = parse(body)
            if order is not None:
                break
            self._interrupts.check()
            if self._clock.monotonic() > until:
                which = "no order came" if body is None else "no order that can be read came"
                raise Refused(f"{which} within {self._boot['order_wait_s']:g} s")
            self._interrupts.sleep(pause)
            pause = min(pause * 1.2, 1.0)
        lacking = [name for name in NEEDED if name not in order]
        if lacking:
            raise Refused(f"the order lacks {', '.join(lacking)}: another version of Sojourn wrote it")
        self._deadline.lower(order["deadline_at"])
        self._grace.seconds = order["grace_s"]
        self._hold_s = order.get("hold_s", 0.0)
        self._place.rank_by(order["nodes"])
        return order

    def _progress(self) -> tuple[int, int]:
        return (self._fetcher.bytes_done, self._fetcher.bytes_total) if self._fetcher else (0, 0)

    # -- fetching and starting --

    def _start(self, order: Json) -> Work:
        cwd = os.path.normpath(os.path.join(self._root, order["bundle"]["directory"]))
        secrets = self._machine.secrets(order["secrets"], self._boot, self._interrupts.check)
        env = environment(order, self._place, self._root, secrets)
        self._heart.phase = "fetching"
        self._fetcher = Fetcher(
            self._store, self._root, self._scratch, self._interrupts.check, self._boot.get("store_region")
        )
        self._fetcher.fetch(order)
        env["PATH"] = search_path(env["PATH"], self._root)
        env.update(self._prepare(order.get("setup"), env["PATH"]))
        env.update(serve(order.get("packages", []), order.get("python_path", []), self._root, self._scratch, env))
        homes = [posixpath.normpath(posixpath.join(order["bundle"]["directory"], name)) for name in HOMES]
        os.makedirs(inside(self._root, homes[0]), exist_ok=True)
        self._mask = mask = Mask(secrets.values())
        committer = Committer(
            self._store, self._place, order, self._root, homes, self._grace.latest(), self._clock, mask=mask
        )
        scalars = Scalars(self._store, self._place, order, self._root, mask)
        log = Log(self._store, self._place.key("log"), Packs(self._store, self._place.key("packed/log")), mask)
        self._interrupts.check()
        records = os.path.join(self._scratch, "ranks")
        keeper = [sys.executable, "-I", "-S", self._program, "rank", "--record", records, "--"]
        self._path = env["PATH"]
        argv = command_line(order, self._place.rank, keeper, self._scratch)
        outside = Outside(self._scratch, self._machine.whole, self._clock)
        script = Script(argv, cwd, env, log.pipe, records, self._umask)
        executor = [sys.executable, "-I", "-S", self._program, "execute"]
        execs = Execs(self._store, self._place, executor, script, env, self._scratch, secrets.values())
        work = Work(script, log, committer, scalars, execs, mask, self._grace, self._store.patience_s, outside)
        work.start()
        self._heart.phase = "running"
        self._heart.leaving = lambda: committer.leaving
        say(f"started {argv[0]!r} as node rank {self._place.rank}")
        return work

    def _prepare(self, setup: Json | None, path: str) -> dict[str, str]:
        """Make the environment that the order sends; the search path with it, and what else it takes."""
        if setup is None:
            return {"PATH": with_python(path, self._scratch)}
        python = Environment(setup, self._scratch, self._interrupts)
        self._fetcher = Fetcher(self._store, self._scratch, self._scratch, self._interrupts.check)
        self._fetcher.bring(python.files())
        self._heart.phase = "preparing"
        return python.make(path)

    # -- running and committing --

    def _see_through(self, work: Work) -> None:
        """From the start of the script to the last commit; the tree is over in every case."""
        self._exit.update(reason="exited", started_at=work.script.started_at)
        try:
            work.follow(self._interrupts)
            if self._interrupts.shut_down:  # the script was asked with us, and was faster
                self._interrupts.check_signal()
        except Stop as stop:
            self._exit.update(reason=stop.reason, message=stop.message)
            if stop.reason == "deadline":
                self._diagnose(work)  # while what hangs can still be looked at
            if stop.ends_at is not None:
                self._grace.seconds = max(1.0, min(self._grace.seconds, stop.ends_at - self._clock.now() - LEAVE_S))
            work.halt(stop.reason)
            self._exit.update(self._how_it_ended(stop, work))
        except Exception as error:
            self._fault(error)
        work.end()
        self._exit["ended_at"] = self._clock.now()
        self._heart.phase = "committing"
        try:
            work.commit(self._exit["reason"])
        except Exception as error:
            self._fault(error, excuse=work.script.status == 0)
        if self._exit["reason"] == "fault" or (self._exit["reason"] == "exited" and work.script.status != 0):
            self._diagnose(work)
        self._exit.update(work.account(self._exit["reason"]))
        self._exit["message"] = "; ".join(filter(None, [self._exit["message"], *work.notes])) or None

    def _how_it_ended(self, stop: Stop, work: Work) -> Json:
        """Whether the script came to its own end after all, while we were about to ask it.

        Of one that ends well after it was asked nobody can tell how far it had come, so other machines go on with it.
        """
        asked = work.script.asked or self._interrupts.shut_down
        if not asked and work.script.status == 0 and stop.reason in UNASKED:
            return {"reason": "exited"}
        return {"interrupted": asked}

    def _diagnose(self, work: Work) -> None:
        """Leave word of what this machine looks like, where nobody could look at it later."""
        if not self._machine.whole:
            return
        found = diagnosis(work.script.pids(), self._path, min(DIAGNOSIS_S, 0.1 * self._grace.seconds))
        try:
            self._store.put(self._place.key("diagnosis.txt"), work.masked(found))
        except OSError as error:
            say(f"the diagnosis could not be stored: {error}")

    # -- held --

    def _leave_later(self, work: Work) -> int:
        """Leave, but where the script failed and the order says so only after somebody could look."""
        held = None
        try:
            held = hold.due(self._exit, self._hold_s, self._place, self._deadline)
        except Exception as error:  # whatever is wrong with it, the last words are said
            self._fault(error)
        if held is None:
            return self._leave()
        self._exit["hold"] = held
        self._heart.phase = "held"
        code = self._say_exit()
        hold.stay(held, self._interrupts, work)
        self._heart.phase = "done"
        self._heart.stop()
        return code

    # -- done --

    def _leave(self) -> int:
        self._heart.phase = "done"
        self._heart.stop()
        return self._say_exit()

    def _fault(self, error: Exception, excuse: bool = True) -> None:
        """What nobody foresaw: the attempt ends as ours, unless it had a reason before; `excuse` the script or not."""
        import traceback

        say("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        message = f"the agent failed while {self._heart.phase}: {error!r}"
        self._exit["message"] = "; ".join(filter(None, [self._exit["message"], message]))
        if excuse and self._exit["reason"] in ("refused", "exited"):
            self._exit["reason"] = "fault"

    def _say_exit(self) -> int:
        self._exit.setdefault("ended_at", self._clock.now())
        done = self._keep_what_is_lost()
        for name in ("message", "tail", "lost"):  # the rest is our own words, and no secret whatever a secret is
            if name in self._exit:
                self._exit[name] = self._mask.strings(self._exit[name])
        self._exit["seal"] = self._seal
        say(f"{self._exit['reason']}: {self._exit['message']}")
        until = min(self._grace.latest(), self._clock.monotonic() + self._store.patience_s)
        while True:
            try:
                self._write_exit(self._place.key("exit.json"))
                return done
            except OSError as error:
                say(f"the exit record cannot be written: {error}")
                if self._clock.monotonic() > until:
                    return 1
            self._clock.sleep(0.5)

    def _write_exit(self, key: str) -> None:
        """Nobody else may have the last word: what a script put there in our name gives way, and is told."""
        try:
            self._store.create(key, dump(self._exit), durable=True)
        except Exists:
            if self._is_written(key):
                return  # ours, whose answer was lost
            told = "something else on this machine, most likely the script, had written its last words for it"
            self._exit["message"] = "; ".join(filter(None, [self._exit["message"], told]))
            self._store.put(key, dump(self._exit))

    def _is_written(self, key: str) -> bool:
        try:
            return self._store.get(key) == dump(self._exit)
        except OSError as error:
            if error.errno not in (*NO_FILE, errno.EACCES):  # what is no file, or not for us to read, is not ours
                raise
            return False

    def _keep_what_is_lost(self) -> int:
        """Leave what the store did not take on this host, where there is one; our exit code then, else 0."""
        machine = os.path.dirname(self._scratch)
        here = os.environ.get(MARK_DIRECTORY) == machine  # a supervisor, which goes by our exit code
        if not self._exit.get("lost") or not here or "hold" in self._exit:
            return 0
        kept = keep(machine, self._scratch)
        if kept is None:
            return 0
        where = f"what the store did not take is on {platform.node()} in {kept}"
        self._exit["message"] = "; ".join(filter(None, [self._exit["message"], where]))
        return UNSTORED
