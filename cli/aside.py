"""Work in a process of its own, while this one imports Prefect: each takes a second of one core."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from sojourn.errors import SojournError

T = TypeVar("T")


def aside(work: Callable[[], T]) -> Callable[[], T]:
    """Begin `work` in a fork of this process; what is returned waits for its result or raises its error.

    To be called before this process has threads or a store open. Where it cannot be done,
    and when the fork ends without a word, the work is done here when it is asked for.
    """
    if sys.platform != "linux":  # elsewhere the system's own libraries may not survive a fork
        return work
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(work, theirs), daemon=True)  # ended when this process leaves
    process.start()
    theirs.close()

    def result() -> T:
        try:
            done, error = ours.recv()
        except EOFError:
            return work()
        if error is not None:
            raise error
        return done  # type: ignore[no-any-return]

    return result


def _tell(work: Callable[[], Any], to: Connection) -> None:
    answer: tuple[Any, SojournError | None]
    try:
        answer = work(), None
    except SojournError as error:
        answer = None, error
    except BaseException:  # a fault shows itself once more, with its traceback, where the user sees it
        return
    with suppress(BrokenPipeError):  # whoever asked has left meanwhile
        to.send(answer)
