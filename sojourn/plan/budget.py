"""Money becomes time: until when a lease may stand, for what the whole run may cost.

The end is set in the timers of machine and cloud, so that money is capped with everyone dead.
It counts from the plan on, as if the machines had stood all the while. An attempt that follows a
lost one counts at the price of the dearest offer: whichever the lost one was, the sum stays below.
"""

from __future__ import annotations

from collections.abc import Sequence

from sojourn.errors import SpecError
from sojourn.renting import Offer, Offers

ENDING_S = 120.0  # a cloud's timer is exact to a minute, and switching off takes part of another
LEAST_S = 60.0  # what pays for less of the script is not worth a machine


class Budget:
    """What a run of so many nodes may cost, each reading so many bytes, attempts after lost ones included."""

    def __init__(self, dollars: float | None, nodes: int, grace_s: float, read: int, attempts: int) -> None:
        self.dollars = dollars
        self._nodes = nodes
        self._besides_s = grace_s + ENDING_S
        self._read_gb = read / 1e9 * attempts * nodes

    def script_s(self, offers: Sequence[Offer], offer: int, attempt: int = 1) -> float:
        """How long the script may run, from the plan on; for ever without a budget, or where nothing costs."""
        price = offers[offer].price if attempt == 1 else max(one.price for one in offers)
        transfer = self.transfer(offers[offer]) if attempt == 1 else max(map(self.transfer, offers))
        if self.dollars is None or not price:
            return float("inf")
        paid_s = (self.dollars - transfer) / (price * self._nodes) * 3600
        return max(0.0, paid_s - self._besides_s)

    def within(self, found: Offers) -> Offers:
        """The offers that it pays for. Raises SpecError when it pays for none."""
        every = found.fitting
        fitting = tuple(one for at, one in enumerate(every) if self.script_s(every, at) >= LEAST_S)
        if not fitting:
            raise SpecError(
                f"budget: ${self.dollars:.2f} pays for less than a minute of the script on any machine that fits",
                hint=f"at least: --budget {min(map(self._least, every)):.2f}",
            )
        dear = dict.fromkeys(f"{one.machine} {one.market}" for one in every if one not in fitting)
        remarks = (f"the budget pays for less than a minute: {', '.join(dear)}",) if dear else ()
        return Offers(fitting=fitting, remarks=found.remarks + remarks)

    def ceiling(self, offers: Sequence[Offer], deadline_s: float) -> float:
        """Dollars at most, when the machines of the dearest offer stand to the very end."""
        return max(self._cost(one, min(deadline_s, self.script_s(offers, at))) for at, one in enumerate(offers))

    def transfer(self, offer: Offer) -> float:
        """Dollars for the way of the run's data to machines of this offer."""
        return offer.transfer * self._read_gb

    def _cost(self, offer: Offer, script_s: float) -> float:
        # Without a budget the grace is all that follows a deadline; what a timer may be late is seconds then.
        besides_s = self._besides_s - (ENDING_S if self.dollars is None else 0.0)
        return offer.price * self._nodes * (script_s + besides_s) / 3600 + self.transfer(offer)

    def _least(self, offer: Offer) -> float:
        return self._cost(offer, LEAST_S) + 0.01
