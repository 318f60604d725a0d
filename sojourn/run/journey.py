"""One run from plan to receipt, as steps that may each be done again.

Every step first looks whether its result is in the store already, so a run whose
orchestrator died is continued by walking the same way once more. `walk` is the whole
way without Prefect; `flows/train.py` takes the same steps as Prefect tasks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from sojourn.agent.pack import pack
from sojourn.agent.results.patterns import Patterns
from sojourn.environment import environment
from sojourn.environment.environment import Setups
from sojourn.errors import (
    AccessError,
    SojournError,
    SpecError,
    StoppedError,
    SupersededError,
    TrainingError,
    TransientError,
    UnreadableError,
    first_line,
)
from sojourn.lease.orchestrator import Orchestrator
from sojourn.lease.proof import prove, proving, still_standing
from sojourn.plan import checkpoint, command
from sojourn.plan.planning import Plan
from sojourn.project import bundle
from sojourn.project.dvc.dataset import Dataset
from sojourn.project.project import Project
from sojourn.protocol import Bundle, Hello, Order, Outcome
from sojourn.providers.contract import Provider
from sojourn.receipts import Receipt
from sojourn.records import FileEntry
from sojourn.renting import Offer
from sojourn.results import publish, remainder
from sojourn.results.collect import LOST, Collected, collect
from sojourn.results.missing import missing
from sojourn.results.publish import Inputs, Published
from sojourn.results.report import Report, inputs_digest, read_metrics, write_report
from sojourn.run import planned
from sojourn.run.closed_runs import ClosedRuns, Summary, mark_open
from sojourn.run.faults import is_fault, told
from sojourn.run.inputs import gather
from sojourn.run.runs import checkouts, known_runs, provide_home, reports_to_compare
from sojourn.shorthand import counted, format_bytes, format_clock, format_duration
from sojourn.store.known_stores import remember
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox
from sojourn.store.purge_mark import wait_until_purged
from sojourn.waiting import CLOCK_LIMIT_S, Clock, SystemClock
from sojourn.watch.follower import Audience, Follower

CATCH_UP_S = 2.0  # for the end of the log, while the machines that wrote it still stand
T = TypeVar("T")


class Listener(Audience, Protocol):
    """Who is told what happens: a terminal, a plain log, Prefect."""

    def started(self, step: str, ago: float = 0.0) -> None:
        """A step runs; one that another process began has been running for `ago` seconds."""
        ...

    def finished(self, step: str, text: str, seconds: float, good: bool = True) -> None:
        """A step is done; `text` says in a few words what it did, `good` whether that was hoped for."""
        ...


class Doer(Protocol):
    """Does a piece of work with DVC, which is slow to load: here, or in a process that has loaded it already."""

    def __call__(self, work: Callable[..., T], *arguments: object, echo: Callable[[str], None]) -> T:
        """`work(*arguments, echo)`; `echo` is told in a line what takes its time."""
        ...


def here(work: Callable[..., T], *arguments: object, echo: Callable[[str], None]) -> T:
    """In this process."""
    return work(*arguments, echo)


class Journey:
    """A run on its way, in the hands of this process."""

    def __init__(
        self,
        plan: Plan,
        mailbox: Mailbox,
        provider: Provider,
        home: Path,
        listener: Listener,
        *,
        clock: Clock | None = None,
        owner: str | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.plan = plan
        self.mailbox = mailbox
        self.home = home
        self.listener = listener
        self.cancelled = cancelled
        self.clock = clock or SystemClock()
        beat_every = 2.0 if mailbox.store.root is not None else 5.0
        self.ledger = Ledger(mailbox, self.clock, owner=owner, beat_every_s=beat_every)
        self.provider = provider
        poll_s = 0.05 if mailbox.store.root is not None else 0.5
        self.orchestrator = Orchestrator(plan, provider, mailbox, self.ledger, self.clock, self._order, poll_s)
        self.follower = Follower(plan, mailbox, listener, self.clock)
        self.orchestrator.watch = lambda state: self._show(lambda: self.follower.look(state))
        self.orchestrator.warn = listener.warn
        self.phases: dict[str, float] = {}
        self.released = False
        self._blind = False
        self.do: Doer = here

    @classmethod
    def begin(cls, plan: Plan, mailbox: Mailbox, *rest: object, **options: object) -> Journey:
        """Store the plan, before any side effect. Raises SpecError when the run id is taken or the clock is off."""
        journey = cls(plan, mailbox, *rest, **options)  # type: ignore[arg-type]
        provide_home(journey.home)
        mailbox.store.provide()
        off = mailbox.store.clock_off()
        if off > CLOCK_LIMIT_S:
            raise SpecError(
                f"this computer's clock is {off:.0f} s off the store's, and deadlines go by the store's",
                hint="set the clock: sudo timedatectl set-ntp true",
            )
        with suppress(AccessError):  # in a store of several users it may not be this one's to give
            mailbox.store.identify()
        planned.note(journey.home, plan)
        if word := remember(journey.home, mailbox.store):
            journey.listener.warn(word)
        mark_open(mailbox.store, plan.project, plan.run)
        if not mailbox.write_once("plan", plan):
            raise SpecError(f"run {plan.run} exists already", hint=f"continue it: sojourn attach {plan.run}")
        return journey

    # -- the steps --------------------------------------------------------------------------

    def upstream(self) -> None:
        """Run the stale stages that come before, here."""
        stage = self.plan.stage
        if stage is None or not stage.before or self._sent is not None or self._over:
            return
        with self._step("upstream") as say:
            self._dataset.reproduce(stage.before, self.listener.note)
            say(", ".join(stage.before))

    def bundle(self) -> None:
        """Send the source tree."""
        if self._sent is not None or self._over:
            return
        with self._step("bundle") as say:
            wait_until_purged(self.mailbox.store, self.plan.project, self.clock)
            plan = self.plan
            packed = bundle.send(
                self._project, plan.left_out, plan.needed, plan.launch.inputs, plan.work_directory, self.mailbox
            )
            self.mailbox.write_once("bundle", packed.bundle)
            size = format_bytes(packed.bundle.bytes)
            of_git = f", {format_bytes(packed.of_git)} of it git's" if packed.of_git else ""
            sent = f"{format_bytes(packed.uploaded)} sent{of_git}" if packed.uploaded else "nothing to send"
            say(f"{size}, {sent}")

    def data(self) -> None:
        """Send the data that the DVC remote or the store lacks, and write the manifest of inputs."""
        if self.mailbox.read("inputs", Inputs) is not None or self._over:
            return
        with self._step("data") as say:
            wait_until_purged(self.mailbox.store, self.plan.project, self.clock)
            assert self._project  # where it is gone, that is told
            found = self.do(gather, self.plan, self.mailbox, echo=self.listener.note)
            self.mailbox.write_once("inputs", Inputs(files=found.files))
            moved = [(found.pushed, "pushed"), (found.sent, "sent")]
            told = [f"{format_bytes(size)} {how}" for size, how in moved if size] or ["nothing to move"]
            say(", ".join([counted(len(found.files), "file"), *(told if found.files else ())]))

    def environment(self) -> None:
        """Make the environment, or send what machines make it from, unless that is done."""
        if self._over or self._setups is not None:
            return
        with self._step("environment") as say:
            if self.plan.environment.kind == "sent":
                say(self._send_environment())
                return
            made = not self.started and self._made_environment()
            say("built" if made else "current" if self.plan.environment.kind == "current" else "unchanged")

    def _made_environment(self) -> bool:
        """Whether the environment had to be made; only then is the project's directory asked for."""
        python = self.plan.environment
        root = None if environment.ready(python, self.home) else self._project.root
        made = environment.build(python, Path(self.plan.directory), self.home, root=root)
        self._check_program()
        return made

    def _check_program(self) -> None:
        """Refuse a program that the environment turned out not to have, before anything is rented."""
        program, python = command.program_of(self.plan.command), self.plan.environment
        path = os.environ.get("PATH", os.defpath)
        if program and "/" not in program and not environment.find_program(program, python, self.home, path):
            raise environment.no_program(program, python)

    def _send_environment(self) -> str:
        if not self.planned_here:
            raise self._not_ours("what it needs from there is not sent")
        wait_until_purged(self.mailbox.store, self.plan.project, self.clock)
        network = self.plan.launch.network
        setups, sent = environment.send(self.plan.environment, network, self.mailbox, self.home)
        self.mailbox.write_once("environment", setups)
        number = self.plan.environment.locks[0].packages
        packages = f"{counted(number, 'package')} locked"
        return f"{packages}, {format_bytes(sent)} sent" if sent else f"{packages}, unchanged"

    def provision(self) -> None:
        """Rent the machines and tell them what to do."""
        if self._over:
            return
        self._tell_of_equal()
        with self._step("provision") as say:
            if not self.plan.capability.shares_host:
                archive = pack()
                self.mailbox.send_agent(archive.name, archive.body)
            self.orchestrator.provision()
            rented = f"{self.plan.launch.nodes} × {self._offer.machine}"
            say(rented if self.started or self.outcome is None else self.outcome.message, self.started)

    def _tell_of_equal(self) -> None:
        """Say before money is spent that a run with the very same inputs has succeeded already.

        Here and not in the plan, since source and data have their hashes by now, whatever their size.
        """
        if not self.plan.ceiling or self.orchestrator.state.intended_at is not None:
            return
        digest = self._digest
        done = [one for one in self._past if _is_equal(one, digest)]
        if digest and done:
            ago = format_duration(max(0.0, self.clock.now() - done[-1].ended_at))
            self.listener.warn(
                f"same source, data, command and environment as {done[-1].run}, which succeeded {ago} ago; "
                f"its results: sojourn pull {done[-1].run} --to DIR"
            )

    def train(self) -> Outcome:
        """Follow the script to its end."""
        with self._step("train", ago=self._trained_for()) as say:
            outcome = self.orchestrator.follow()
            self._show(lambda: self.follower.catch_up(self.orchestrator.state, CATCH_UP_S))
            say(outcome.message if self.started else "not started", outcome.state == "succeeded")
        self.mailbox.write("outcome", outcome)
        return outcome

    def collect(self) -> Collected:
        """Confirm that what was committed is in the store, while the lease stands."""
        with self._step("collect") as say:
            found = self.results()
            say(f"{counted(found.count, 'file')}, {format_bytes(found.bytes)}")
            return found

    def release(self) -> None:
        """Give the machines back, once nobody may look at them any more.

        Raises TeardownError when their provider does not take them.
        """
        if self.orchestrator.state.released_at is None:
            self._hold()
            with self._step("release"), proving(self.orchestrator):
                self.orchestrator.release()
        self.released = True
        self._show(lambda: self.follower.finish(self.orchestrator.state))

    def _hold(self) -> None:
        outcome, run = self.orchestrator.state.outcome, self.plan.run
        if outcome is None or outcome.hold is None or not self.orchestrator.holding():
            return
        with self._step("hold") as say:
            until = format_clock(outcome.hold.until)
            self.listener.warn(
                f"held until {until}; look: sojourn exec {run} -- nvidia-smi; end it: sojourn stop {run}"
            )
            say(self.orchestrator.hold())

    def _show(self, show: Callable[[], None]) -> None:
        """Tell of what the machines write; a fault in that keeps nobody from looking after them."""
        if self._blind:
            return
        try:
            show()
        except Exception as error:
            if not is_fault(error):
                raise
            self._blind = True
            self.listener.warn(f"{self._words(error)}; the run goes on, and is not shown any more")

    def confirm(self) -> Receipt:
        """Ask until nothing is left, and write the receipt. Raises TeardownError when something is."""
        with self._step("confirm") as say:
            with proving(self.orchestrator):
                self.orchestrator.confirm()
            receipt = prove(self.orchestrator)
            number = counted(len(receipt.resources), "resource")
            say(f"{number}, {receipt.state}, ${receipt.cost:.2f}", not receipt.standing)
        if receipt.state != "closed":
            raise still_standing(self.plan, receipt)
        return receipt

    def publish(self) -> Report:
        """Bring the results into the project, and close the run with its report."""
        outcome = self.orchestrator.state.outcome
        assert outcome is not None
        found = self.results()
        with self._step("publish") as say:
            placed, outcome = self._place(outcome, found)
            say(_where(placed), good=not placed.failed)
        gone = [one for one in found.account if one.reason == LOST]
        missing = [f"{one.files} of its files, {LOST}: {', '.join(one.paths[:3])}" for one in gone]
        missing += remainder.refused(found)
        for warning in (*missing, *self._unwritten(outcome, found), *placed.warnings):
            self.listener.warn(warning)
        return self._close(outcome, found, placed)

    @property
    def started(self) -> bool:
        """Whether the machines were told what to do."""
        return self.orchestrator.state.ordered_at is not None

    @property
    def outcome(self) -> Outcome | None:
        """How the script ended, once it has."""
        return self.orchestrator.state.outcome

    # -- results on request ------------------------------------------------------------------

    def results(self) -> Collected:
        """What the run has committed so far."""
        nodes, state = self.plan.launch.nodes, self.orchestrator.state
        exits = state.outcome.exits if state.outcome else ()
        return collect(self.mailbox, state.attempt, nodes, declared=self.plan.stage is not None, exits=exits)

    def aside(self) -> Path:
        """Where its results may always go in its project. Raises SpecError where another host planned it."""
        self._check_directory()
        return Path(self.plan.directory, bundle.HOME, self.plan.run)

    def apply(self) -> Published:
        """Bring a finished run's results into the project's tree, if what ran is what stands there."""
        self._check_directory()
        outcome = self.orchestrator.state.outcome
        if outcome is None or outcome.state != "succeeded":
            raise SpecError(
                f"{self.plan.run} did not succeed, so there is nothing to apply",
                hint=f"sojourn pull {self.plan.run} --to DIR",
            )
        return self._publish(outcome, self.results(), asked=True)

    def _check_directory(self) -> None:
        """Raise SpecError where another host planned the run, or its project has moved away."""
        if not self.planned_here:
            raise self._not_ours("its results go where you say")
        if not Path(self.plan.directory).is_dir():
            raise SpecError(
                f"{self.plan.run}: the directory that it ran in is not there any more: {self.plan.directory}",
                hint=f"say where its results go: sojourn pull {self.plan.run} --to DIR",
            )

    # -- holding the run ---------------------------------------------------------------------

    @contextmanager
    def held(self, take_over: bool = False) -> Iterator[None]:
        """Own the run for as long as the block lasts, and show it by a heartbeat.

        Whatever ends the block early hands the run over, so that the next owner need not
        wait until our heartbeat has stopped.
        """
        self._go_by_the_store()
        self.ledger.join(take_over=take_over)
        with self.ledger.beating():
            try:
                yield
            except SupersededError:
                raise
            except BaseException as error:
                self._hand_over(error)
                raise

    def _go_by_the_store(self) -> None:
        """Deadlines are the store's time, of which this computer's clock may be a day ahead, now or after a jump."""
        told = self.mailbox.store.now()
        if told is None:
            self.mailbox.store.clock_off()  # which says why
            raise TransientError(f"the store {self.mailbox.store.url} does not tell what time it is")
        self.clock.go_by(told)

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Release the machines at the end of the block, or hand the run over.

        They are released when the attempt is over, on a stop or a confirmed cancel, and on
        an error before the order was posted. Any other error leaves them to whoever
        continues the run; their own timers end them at the deadline.
        """
        try:
            yield
        except SupersededError:
            raise
        except BaseException as error:
            self._leave(error)
            raise
        self.release()

    def _leave(self, error: BaseException) -> None:
        if self.orchestrator.state.ordered_at is None and isinstance(error, Exception):
            self.orchestrator.give_up(error, self._words(error))
            with proving(self.orchestrator):
                self.orchestrator.release()
                self.orchestrator.confirm()
            self._give_up_books(error)
        elif isinstance(error, KeyboardInterrupt) or self.cancelled():
            self.orchestrator.stop("cancelled")
            self.orchestrator.follow()
            self.release()
        elif self._over and not self.orchestrator.holding():
            with suppress(Exception):  # it has not been told yet what went wrong
                self.orchestrator.release()

    def _words(self, error: Exception) -> str:
        """What went wrong; of what nobody foresaw also where all of it is written."""
        return told(error, f"run {self.plan.run}", self.home) if is_fault(error) else first_line(error)

    def _give_up_books(self, error: Exception) -> None:
        outcome = self.orchestrator.state.outcome
        assert outcome is not None
        self.mailbox.write("outcome", outcome)
        receipt = prove(self.orchestrator)
        if receipt.state != "closed":
            raise still_standing(self.plan, receipt, because=first_line(error)) from error
        self._close(outcome, self.results(), Published(note="nothing was started"))

    def _hand_over(self, error: BaseException) -> None:
        with suppress(SojournError):  # where the store takes no more word of ours, our heartbeat's end says it
            if self.ledger.last("closed") is not None:
                return
            fault = {"fault": self._words(error)} if isinstance(error, Exception) and is_fault(error) else {}
            self.ledger.append("handover", why=type(error).__name__, **fault)
        self.listener.warn(f"the run goes on without this process; continue it: sojourn attach {self.plan.run}")

    # -- parts -------------------------------------------------------------------------------

    @cached_property
    def _project(self) -> Project:
        """Where the run was started. Raises SpecError where that is gone, or on another host."""
        directory, run = Path(self.plan.directory), self.plan.run
        if not self.planned_here:
            raise self._not_ours("what it needs from there is not sent")
        if not directory.is_dir():
            raise SpecError(
                f"{run} was started on {self.plan.host} in {directory}, which is not here, and needs files from there",
                hint=f"continue it where they are: sojourn attach {run}; or end it: sojourn stop {run}",
            )
        return Project.at(directory)

    def _not_ours(self, so: str) -> SpecError:
        plan = self.plan
        return SpecError(
            f"{plan.run} was planned on {plan.host} in {plan.directory} and not on this host, so {so}",
            hint=f"sojourn pull {plan.run} --to DIR; or continue it where it was planned: sojourn attach {plan.run}",
        )

    @cached_property
    def planned_here(self) -> bool:
        """Whether this host made the plan; what somebody else's says of directories is not obeyed."""
        return planned.is_ours(self.home, self.plan, self.mailbox.store)

    @cached_property
    def _dataset(self) -> Dataset:
        assert self._project.dvc is not None
        return Dataset(self._project.dvc, self._project.directory)

    @property
    def _checkout(self) -> Path:
        """Where this run's project was cloned to, if it was."""
        return checkouts(self.home) / self.plan.run

    @property
    def _over(self) -> bool:
        return self.orchestrator.state.outcome is not None

    def _trained_for(self) -> float:
        """Seconds since the machines were told what to do, or until the script's end if that is known already."""
        state = self.orchestrator.state
        now = state.outcome.ended_at if state.outcome else self.clock.now()
        return max(0.0, now - (state.ordered_at or now))

    @property
    def _digest(self) -> str:
        """Equal for runs that were given the same; empty before all is sent, and where that cannot be read any more."""
        with suppress(UnreadableError):
            sent, inputs = self._sent, self.mailbox.read("inputs", Inputs)
            return inputs_digest(self.plan, sent, inputs) if sent and inputs else ""
        return ""

    @property
    def _past(self) -> list[Summary]:
        """The project's other runs that are closed, oldest first."""
        past = known_runs(self.mailbox.store, self.plan.project)
        return [one for one in past if one.run != self.plan.run]

    @property
    def _sent(self) -> Bundle | None:
        return self.mailbox.read("bundle", Bundle)

    @property
    def _offer(self) -> Offer:
        """What is rented, or tried first."""
        return self.plan.offers[self.orchestrator.state.offer or 0]

    @property
    def _setups(self) -> Setups | None:
        return self.mailbox.read("environment", Setups)

    def _order(self, attempt: int, hellos: tuple[Hello, ...]) -> Order:
        plan, sent, inputs = self.plan, self._sent, self.mailbox.read("inputs", Inputs)
        assert sent is not None and inputs is not None
        own = checkpoint.newest(self.mailbox) if attempt > 1 else None
        resume = own or plan.resume
        restored = own.files if own else checkpoint.brought(plan.resume.files if plan.resume else (), self.mailbox)
        paths = {entry.path for entry in restored}  # a directory of inputs may hold an older copy of one
        there = (entry.path for entry in (*sent.listing, *inputs.files))
        old = checkpoint.outdated(there, restored, plan.checkpoint) - paths
        script = environment.variables(plan.environment, self.home) | plan.context() | plan.launch.variables
        return Order(
            run=plan.run,
            project=plan.project,
            attempt=attempt,
            nodes=tuple(hello.name for hello in hellos),
            master_address=hellos[0].address,
            master_port=hellos[0].port,
            command=plan.command if plan.resume or not resume else plan.resuming_command(),
            bundle=sent,
            inputs=(*(e for e in inputs.files if e.path not in paths | old), *restored),
            clear=tuple(sorted(old)),
            remove=_removed(plan.stage.remove if plan.stage else (), restored),
            path=environment.search_path(plan.environment, self.home),
            setup=environment.setup_for(plan.environment, self._setups, self._offer),
            environment=script,
            directories={"DVC_ROOT": plan.stage.root} if plan.stage else {},
            packages=environment.served(plan.environment, self.home, Path(plan.directory)),
            python_path=plan.environment.python_path,
            secrets=plan.launch.secrets,
            outputs=plan.outputs(),
            named=plan.named_outputs,
            ignore=plan.ignore,
            bring=plan.launch.bring,
            keep=plan.launch.keep,
            checkpoint=plan.checkpoint,
            metrics=plan.metric_files(),
            deadline_at=plan.deadline_at,
            grace_s=plan.launch.grace,
            hold_s=plan.launch.hold_on_failure,
        )

    def _unwritten(self, outcome: Outcome, found: Collected) -> list[str]:
        """What was asked for by name and never written: a slip in the name, as likely as not."""
        if outcome.state != "succeeded":
            return []
        named = [name for name in self.plan.named_outputs if not any(map(Patterns([f"/{name}"]).match, _paths(found)))]
        return [f"output {name!r} was not written" for name in named]

    def _place(self, outcome: Outcome, found: Collected) -> tuple[Published, Outcome]:
        """Bring the results home. What fails on the way is told, and keeps no run open: they are in the store."""
        again, away = f"sojourn pull {self.plan.run} --apply", f"sojourn pull {self.plan.run} --to DIR"
        try:
            return self._publish(outcome, found), outcome
        except SupersededError:
            raise
        except TrainingError as error:  # a stage that did not write what it declares
            aside = f"nothing is in place; get what is there: {away}"
            failed = outcome.model_copy(update={"state": "failed", "message": error.message})
            return Published(note=aside, failed=True, warnings=(error.message,)), failed
        except Exception as error:
            why = error.message if isinstance(error, SojournError) else self._words(error)
            cure = f" ({error.hint})" if isinstance(error, SojournError) and error.hint else ""
            said = f"the results are in the store and not in place: {why}{cure}; "
            said += f"when that is mended: {again}, or at once: {away}"
            return Published(note=f"not in place: {again}", failed=True, warnings=(said,)), outcome

    def _publish(self, outcome: Outcome, found: Collected, asked: bool = False) -> Published:
        if not self.planned_here:
            plan = self.plan
            away = f"it was planned on {plan.host} and not here, so its results are in the store alone"
            return Published(note=f"{away}; get the results: sojourn pull {plan.run} --to DIR")
        came_from = (self.plan, self.mailbox, outcome, found, self.home, self._checkout, asked)
        return self.do(publish.bring_home, *came_from, echo=self.listener.note)

    def _close(self, outcome: Outcome, found: Collected, placed: Published) -> Report:
        receipt = self.mailbox.read("receipt", Receipt)
        assert receipt is not None
        past, program, digest = self._past, self.plan.program(), self._digest
        report = write_report(
            self.plan,
            outcome,
            found,
            placed,
            receipt,
            metrics=read_metrics(self.plan, found, self.mailbox),
            series=self.follower.metrics.series(),
            inputs=digest,
            same_as=next((one.run for one in reversed(past) if digest and _is_equal(one, digest)), None),
            past=reports_to_compare(self.mailbox.store, self.plan.project, past, program),
            phases=self.phases,
            now=self.clock.now(),
            missing=self._missing(outcome),
        )
        self.ledger.append("closed")
        self.mailbox.write("report", report)  # the reaper leaves alone what has one
        ClosedRuns(self.mailbox.store, self.plan.project).add([Summary.of(self.plan, report)])  # the very last
        shutil.rmtree(self._checkout, ignore_errors=True)
        return report

    def _missing(self, outcome: Outcome) -> tuple[str, ...]:
        if outcome.state != "failed":
            return ()
        not_installed = environment.not_installed(self.plan.environment, outcome.tail, Path(self.plan.directory))
        with suppress(UnreadableError):  # a hint, and no reason to leave a run open
            sent, inputs = self._sent, self.mailbox.read("inputs", Inputs)
            if sent is not None and inputs is not None:
                return missing(self.plan, outcome.tail, sent, inputs.files) or not_installed
        return not_installed

    @contextmanager
    def _step(self, name: str, ago: float = 0.0) -> Iterator[Say]:
        """Tell the listener that a step runs, how long it took (begun `ago`, maybe by another) and what it did."""
        self.listener.started(name, ago)
        begun = self.clock.monotonic() - ago
        said = Say()
        yield said
        self.phases[name] = self.clock.monotonic() - begun
        self.listener.finished(name, said.text, self.phases[name], said.good)


class Say:
    """What a step has to say about itself when it is done."""

    text = ""
    good = True

    def __call__(self, text: str, good: bool = True) -> None:
        """Say it; the last word counts."""
        self.text, self.good = text, good


def walk(journey: Journey, take_over: bool = False) -> Report:
    """The whole way, from wherever the run stands."""
    with journey.held(take_over=take_over):
        with journey.leased():
            journey.upstream()
            journey.clock.together([journey.bundle, journey.data, journey.environment])
            journey.provision()
            journey.train()
            journey.collect()
            journey.release()
        journey.confirm()
        return journey.publish()


def bring_home(journey: Journey, take_over: bool = False) -> Report:
    """The way from the end of the attempt, for a run whose owner died; needs nothing of its project."""
    journey.orchestrator.rent_no_more()
    with journey.held(take_over=take_over):
        with journey.leased():
            journey.train()
            journey.collect()
            journey.release()
        journey.confirm()
        return journey.publish()


def raise_for(report: Report, outcome: Outcome | None) -> None:
    """Raise the error that a run's end means for its caller; nothing for a success."""
    from sojourn.errors import LostError, TrainingError

    if report.state == "succeeded":
        return
    if report.state == "stopped":
        raise StoppedError(report.message)
    tail = "\n".join([*([outcome.tail] if outcome and outcome.tail else []), *report.missing])
    kind: type[SojournError] = TrainingError if report.state in ("failed", "deadline") else LostError
    raise kind(report.message, hint=tail or f"all of it: sojourn show {report.run}")


def _is_equal(past: Summary, digest: str) -> bool:
    """Whether it has succeeded with these very inputs: one that was stopped or failed has no results to compare."""
    return past.state == "succeeded" and past.inputs == digest


def _paths(found: Collected) -> list[str]:
    return [entry.path for entry in found.files]


def _removed(outputs: tuple[str, ...], restored: tuple[FileEntry, ...]) -> tuple[str, ...]:
    """The outputs of an older run that go before the start, but for those that hold a restored checkpoint."""
    kept = {above for entry in restored for above in (PurePosixPath(entry.path), *PurePosixPath(entry.path).parents)}
    return tuple(path for path in outputs if PurePosixPath(path) not in kept)


def _where(placed: Published) -> str:
    parts = []
    if placed.placed:
        links = f" and {counted(len(placed.links), 'link')}" if placed.links else ""
        parts.append(f"{counted(len(placed.placed), 'file')}{links} in place")
    if placed.beside:
        parts.append(f"{len(placed.beside)} in {placed.directory}")
    return ", ".join(parts) or placed.note or "nothing to place"
