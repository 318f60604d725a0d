"""Work in a process of its own, while this one imports Prefect: each takes a second or more of one core."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Generic, Literal, TypeVar

from sojourn.agent.host.processes import die_with_parent
from sojourn.errors import SojournError

T = TypeVar("T")
U = TypeVar("U")
Echo = Callable[[str], None]
Message = tuple[Literal["note", "done", "error"], Any]


class Aside(Generic[T]):
    """A fork of this process that does a first piece of work at once, and then what it is asked for.

    To be made before this process has threads or a store open. Where it cannot be done, and
    when the fork has ended without a word, the work is done here when its result is asked for.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._pipe: Connection | None = None
        self._process: multiprocessing.process.BaseProcess | None = None
        if sys.platform != "linux":  # elsewhere the system's own libraries may not survive a fork
            return
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, theirs, self._pipe), daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> bool:
        """Whether it has come to something."""
        return self._pipe is None or self._pipe.poll()

    def first(self) -> T:
        """What the first work came to, or the SojournError that it raised."""
        return self._answer(self._work)

    def call(self, work: Callable[..., U], *arguments: object, echo: Echo) -> U:
        """`work(*arguments, echo)`, a function of a module, with all that the fork has loaded already."""
        if self._pipe is not None:
            with suppress(OSError):  # it has ended, as the answer will show
                self._pipe.send((work, arguments))
        return self._answer(lambda: work(*arguments, echo), echo)

    def end(self) -> None:
        """No more work: the fork leaves."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _answer(self, otherwise: Callable[[], U], echo: Echo | None = None) -> U:
        while self._pipe is not None:
            try:
                kind, said = self._pipe.recv()
            except (EOFError, OSError):
                self.end()
                break
            except BaseException:  # whoever asked leaves, and so does what is done for them
                if self._process is not None:
                    self._process.terminate()
                raise
            if kind == "error":
                raise said
            if kind == "done":
                return said  # type: ignore[no-any-return]
            if echo is not None:
                echo(said)
        return otherwise()


def _serve(work: Callable[[], Any], to: Connection, others: Connection) -> None:
    die_with_parent()  # or it would place results beside whoever takes the run over
    others.close()  # else this process would keep its own pipe open
    answer = _answer_of(work)
    # From now on a Ctrl-C is for whoever asks, who knows what is to become of a run, and for programs that are
    # started here: they would inherit a signal that is ignored.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with suppress(EOFError, OSError):  # whoever asks has left
        while answer is not None:
            to.send(answer)
            job, arguments = to.recv()
            answer = _answer_of(partial(job, *arguments, lambda text: to.send(("note", text))))


def _answer_of(work: Callable[[], Any]) -> Message | None:
    """What came of it; None for a fault, which shows itself once more, with its traceback, where the user sees it."""
    try:
        return "done", work()
    except SojournError as error:
        return "error", error
    except BaseException:
        return None
