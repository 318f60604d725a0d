"""A budget is kept whatever happens: it is time, and the time is in the machines' own timers."""

from __future__ import annotations

import random

import pytest

from sojourn.errors import SpecError
from sojourn.plan.budget import ENDING_S, Budget
from sojourn.renting import Offer, Offers

GRACE_S = 60.0


def offer(price: float, transfer: float = 0.0) -> Offer:
    place = f"zone-{price}"
    return Offer(provider="x", machine="m", place=place, price=price, cpus=1, memory=1, transfer=transfer)


def budget(dollars: float | None, nodes: int = 1, read: int = 0, attempts: int = 1) -> Budget:
    return Budget(dollars, nodes, GRACE_S, read, attempts)


def test_a_budget_is_the_time_it_pays_for_less_what_ending_takes() -> None:
    assert budget(1.0).script_s([offer(0.5)], 0) == 7200 - GRACE_S - ENDING_S
    assert budget(1.0, nodes=2).script_s([offer(0.5)], 0) == 3600 - GRACE_S - ENDING_S
    assert budget(1.0, read=10**9).script_s([offer(0.5, transfer=0.5)], 0) == 3600 - GRACE_S - ENDING_S


def test_without_a_budget_or_a_price_time_has_no_end() -> None:
    assert budget(None).script_s([offer(0.5)], 0) == budget(1.0).script_s([offer(0.0)], 0) == float("inf")


@pytest.mark.parametrize("seed", range(50))
def test_no_sequence_of_lost_machines_costs_more_than_the_budget(seed: int) -> None:
    dice = random.Random(seed)
    offers = sorted(
        (offer(dice.uniform(0.1, 5), dice.choice([0, 0.02, 0.09])) for _ in range(4)), key=lambda o: o.price
    )
    nodes, attempts, read = dice.randint(1, 4), dice.randint(1, 4), dice.randint(0, 10**10)
    dollars = dice.uniform(5, 50)
    kept = budget(dollars, nodes, read, attempts)
    now = spent = 0.0
    for attempt in range(1, attempts + 1):
        at = dice.randrange(4)
        paid = kept.script_s(offers, at, attempt)
        latest = paid + GRACE_S + ENDING_S if paid else 0.0
        if latest <= now:
            break
        until = latest if dice.random() < 0.3 else dice.uniform(now, latest)
        spent += nodes * (offers[at].price * (until - now) / 3600 + offers[at].transfer * read / 1e9)
        now = until
    assert spent <= dollars + 1e-9


def test_the_ceiling_is_the_dearest_offer_to_the_deadline_or_the_budget() -> None:
    offers = [offer(0.5), offer(1.0)]
    assert budget(None).ceiling(offers, 3540) == pytest.approx(1.0)
    assert budget(0.75).ceiling(offers, 3540) == pytest.approx(0.75)
    assert budget(9.0).ceiling(offers, 3540) == pytest.approx(1.0 + ENDING_S / 3600)


def test_what_is_too_dear_for_the_budget_is_left_out_and_said() -> None:
    found = budget(0.1).within(Offers(fitting=(offer(0.5), offer(50.0)), remarks=("else",)))
    assert [one.price for one in found.fitting] == [0.5]
    assert found.remarks == ("else", "the budget pays for less than a minute: m on-demand")


def test_a_budget_that_pays_for_nothing_is_refused_with_one_that_does() -> None:
    offers = Offers(fitting=(offer(6.0), offer(50.0)))
    with pytest.raises(SpecError, match=r"budget: \$0\.20 pays for less than a minute") as caught:
        budget(0.2).within(offers)
    least = float(str(caught.value.hint).rpartition(" ")[2])
    assert budget(least).within(offers).fitting == offers.fitting[:1]
