"""One line that says how a run stands, as much of it as the terminal is wide."""

from __future__ import annotations

from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from sojourn.harmless import NAME, line
from sojourn.shorthand import format_bytes, format_duration, format_number
from sojourn.watch.charts import sparkline
from sojourn.watch.follower import Status

SPARK_WIDTH = 16
PHASES = {"waiting": "starting"}  # for its order, which is given before this is seen
SHORT_OF_TIME = 0.1  # of all the time there was


class Part(NamedTuple):
    """A piece of the line; of those that do not fit the largest `rank` goes first."""

    rank: int
    text: str
    style: str = ""


def status_line(status: Status, since_s: float, width: int) -> Text:
    """The status, `since_s` seconds after it was told, in at most `width` columns."""
    return _fitted(status_parts(status, since_s), width)


def status_parts(status: Status, since_s: float = 0.0) -> list[Part]:
    """What there is to say; what nobody reported is not there."""
    parts = _position(status) + _metrics(status)
    left = max(0.0, status.left_s - since_s)
    late = left < SHORT_OF_TIME * (status.elapsed_s + status.left_s)
    shown = clock(left) if left < 600 else format_duration(left)
    parts.append(Part(4, f"{shown} left", "yellow" if late else "dim"))
    if status.ceiling > 0:
        parts.append(Part(2, f"${status.cost:.2f} of at most ${status.ceiling:.2f}", "dim"))
    return parts


def clock(seconds: float) -> str:
    """`0:42`, `18:05`, `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _position(status: Status) -> list[Part]:
    if status.phase == "fetching":
        return [Part(1, f"fetching {format_bytes(status.bytes_done)} of {format_bytes(status.bytes_total)}")]
    parts = [] if status.phase == "running" else [Part(5, PHASES.get(status.phase, line(status.phase, NAME)))]
    if status.step is not None:
        of = f"/{format_number(status.steps)}" if status.steps else ""
        parts.append(Part(1, f"step {format_number(status.step)}{of}"))
    if status.rate is not None:
        slow = 0 < status.rate < 1
        parts.append(Part(6, f"{1 / status.rate:.3g} s/step" if slow else f"{_rounded(status.rate)} steps/s"))
    return parts


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if 100 <= rate < 1e12 else f"{rate:.3g}"


def _metrics(status: Status) -> list[Part]:
    parts = []
    for at, (name, value) in enumerate(status.values.items()):
        shown = "not finite" if value is None else format_number(value)
        parts.append(
            Part(0 if at == 0 else 6 + at, f"{line(name, NAME)} {shown}", "red bold" if value is None else "bold")
        )
        if at == 0 and (spark := sparkline(status.curve, SPARK_WIDTH)):
            parts.append(Part(5, spark, "cyan"))
    return parts


def _fitted(parts: list[Part], width: int) -> Text:
    kept = list(parts)
    while len(kept) > 1 and sum(cell_len(part.text) + 2 for part in kept) - 2 > width:
        kept.remove(max(kept, key=lambda part: part.rank))
    line = Text("  ").join(Text(part.text, style=part.style) for part in kept)
    line.truncate(width, overflow="ellipsis")
    return line
