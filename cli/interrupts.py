"""What signals mean to a command that holds a run: Ctrl-C ends the run, a lost terminal does not."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from sojourn.run.journey import Journey

_LEAVE = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible(journey: Journey) -> Iterator[None]:
    """Ctrl-C asks the script to stop; a second one releases the machines at once.

    Once the machines are gone, Ctrl-C ends the command. SIGTERM and a closed terminal end
    it at any time: the run is handed over and its lease stands.
    """
    asked = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if journey.released:
            raise KeyboardInterrupt
        asked += 1
        if asked == 1:
            _say("stopping: what is committed will come home; Ctrl-C again releases the machines at once")
            journey.orchestrator.stop_for = "Ctrl-C"
        else:
            _say("releasing the machines now")
            journey.orchestrator.release_now = True

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, interrupt)}
    for number in _LEAVE:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup has said that a lost terminal is fine
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """A line to the terminal, past all buffers: the handler may have interrupted a writer to one.

    In a thread, for a terminal that is stopped takes nothing, and what was asked for must be done all the same.
    """
    live = sys.modules.get("cli.live")
    if live is not None and live.say_at_once(text):
        return
    threading.Thread(target=_write, args=(f"\n  {text}\n".encode(),), daemon=True).start()


def _write(line: bytes) -> None:
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line)
