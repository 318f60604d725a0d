"""What a run rented and left, when it was gone, and what proves it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sojourn.records import Record
from sojourn.renting import Market


class Resource(Record):
    """One line of the receipt."""

    kind: str
    name: str
    identity: str | None = None
    created_at: float | None = None
    released_at: float | None = None
    asked_at: float | None = Field(default=None, description="When the run asked for it")
    gone_at: float | None = Field(default=None, description="When the provider was last asked and answered gone")
    ended_by: str | None = None
    seconds: float = 0.0
    cost: float = 0.0
    held_s: float = Field(default=0.0, description="Those of its seconds that came after the script had failed")


class Attempt(Record):
    """The machines of one attempt, and how it went."""

    number: int
    machine: str
    place: str
    market: Market
    nodes: int
    state: str = Field(description="lost, or how the run ended; open while it goes on")
    message: str = ""
    seconds: float = Field(default=0.0, description="Of all its machines together")
    cost: float = 0.0


Standing = Literal["closed", "closing", "open"]


class Left(Record):
    """What a run leaves in its store on purpose, in bytes."""

    store: str = Field(default="", description="Its URL")
    source: int = Field(default=0, description="Bundle, inputs, wheels; shared by hash with other runs")
    results: int = 0
    checkpoints: int = 0
    kept: int = Field(default=0, description="What the script wrote beside its results, for `sojourn pull`")
    logs: int = Field(default=0, description="With the numbers that were read from the script's files")
    records: int = Field(default=0, description="Plan, ledger, orders, receipt")
    until: float | None = Field(default=None, description="When the store forgets them; by sojourn purge where absent")

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.source + self.results + self.checkpoints + self.kept + self.logs + self.records


class Receipt(Record):
    """Proof of teardown: every resource the run ever asked for."""

    state: Standing = Field(
        description="closed: all gone; closing: it goes, and is not confirmed gone yet; "
        "open: it stands, and nobody has taken the request to end it"
    )
    resources: tuple[Resource, ...]
    attempts: tuple[Attempt, ...] = ()
    cost: float = 0.0
    held_s: float = Field(default=0.0, description="For somebody to look, of all machines together")
    held_cost: float = Field(default=0.0, description="What of the cost is that")
    leaves: Left = Left()

    @property
    def standing(self) -> tuple[Resource, ...]:
        """What is not confirmed gone."""
        return tuple(one for one in self.resources if one.gone_at is None)
