"""The machine that an agent runs on: who it is, what it is given in secret, and how it is told that it ends.

One class a kind of machine, by the name that its boot record gives. A kind of its own is a module here
and a row in `registry`.
"""

from __future__ import annotations

import os
from typing import Callable, NamedTuple, Sequence

from sojourn.agent.errors import Refused
from sojourn.agent.files import Json


class Notice(NamedTuple):
    """The cloud takes the machine back: when, in its own words and as seconds since the epoch."""

    at: str
    ends_at: float


class Machine:
    """This host: shared with its user, whose environment holds the secrets.

    `whole` is a machine that stands for one run alone, so that all of it goes with the run: what a script writes
    anywhere is looked for, and what the machine looked like when it failed is kept. `asked_to_end` is the reason
    that a signal to end means there.
    """

    whole = False
    asked_to_end = "stopped"

    def identity(self) -> str | None:
        """Return the cloud's own id of the machine; None where nobody needs one. Raises OSError."""
        return None

    def secrets(self, names: Sequence[str], boot: Json, check: Callable[[], None]) -> dict[str, str]:
        """Return the values of these secrets. Raises Refused for one that cannot be had."""
        for name in names:
            if name not in os.environ:
                raise Refused(f"the secret {name} is not set on this machine")
        return {name: os.environ[name] for name in names}

    def notice(self) -> Notice | None:
        """Return the notice that the machine is taken back, if there is one. Raises OSError."""
        return None


class Container(Machine):
    """A container of somebody's cluster: it knows nothing of a cloud, and has environment variables alone.

    Nobody asks it to end but the system that takes it away.
    """

    whole = True
    asked_to_end = "preempted"

    def identity(self) -> str | None:
        """Return the name that the cluster gave its host."""
        return os.environ.get("HOSTNAME")
