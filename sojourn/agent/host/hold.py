"""Keeps the machine of a script that failed for a while, so that somebody can look at it.

All that is to come home is in the store by then, the machine's last words too, so nothing
depends on how a hold ends: its time is over, somebody asks for it, or the machine dies.
"""

from __future__ import annotations

from sojourn.agent.errors import Stop, say
from sojourn.agent.files import Json
from sojourn.agent.host.clock import Deadline
from sojourn.agent.interrupts import Interrupts
from sojourn.agent.mailbox import Place
from sojourn.agent.work import Work

LEAST_S = 1.0


def due(end: Json, hold_s: float, place: Place, deadline: Deadline) -> Json | None:
    """The hold that follows such an end: its script failed by itself, or another node's did that is held."""
    now = deadline.clock.now()
    if end["reason"] == "exited" and end.get("exit_code") != 0:
        until = now + hold_s
    elif end["reason"] == "peer" and hold_s > 0:
        holds = (peer.end().get("hold") for peer in place.others)
        until = max((hold["until"] for hold in holds if hold), default=0.0)
    else:
        return None
    until = min(until, now + deadline.left())
    return {"since": now, "until": until} if until - now >= LEAST_S else None


def stay(hold: Json, interrupts: Interrupts, work: Work) -> None:
    """Until the hold is over, or there is a reason to leave; commands are run until then, and end with it."""
    time_is_over = Deadline(hold["until"], interrupts.clock)
    say(f"held for {time_is_over.left():.0f} s")
    work.execs.open()
    try:
        while time_is_over.left() > 0:
            interrupts.check()
            work.script.poll()  # reaps
            interrupts.sleep(min(0.2, max(time_is_over.left(), 0.0)))
    except Stop as stop:
        say(f"held no longer: {stop.message}")
    work.end()
    work.execs.settle()
