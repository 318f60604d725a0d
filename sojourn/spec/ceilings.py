"""What a host allows its runs to ask for, whatever a project's files say.

A repository that is cloned for a run, or checked out by CI, decides in its params.yaml what is rented
and which secrets its script gets. The host on which the plan is made has the last word, by variables of
its own: they stand in the worker's or the CI's settings, where no commit reaches them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sojourn.errors import SpecError
from sojourn.renting import Offers
from sojourn.shorthand import format_duration, parse_duration, parse_money
from sojourn.spec.launch import Launch

BUDGET, PRICE, NODES, DEADLINE, SECRETS = (
    f"SOJOURN_{name}" for name in ("MAX_BUDGET", "MAX_PRICE", "MAX_NODES", "MAX_DEADLINE", "SECRETS")
)


class Ceilings(NamedTuple):
    """As this host's environment sets them; None where it does not."""

    budget: float | None
    price: float | None
    nodes: float | None
    deadline_s: float | None
    secrets: frozenset[str] | None

    def hold(self, launch: Launch) -> Launch:
        """The request, with this host's budget if it names none. Raises SpecError where it asks for more."""
        _check("nodes", launch.nodes, self.nodes, NODES, str(launch.nodes), f"{self.nodes:g}" if self.nodes else "")
        for name, seconds in (("deadline", launch.deadline), ("grace", launch.grace)):
            allowed = format_duration(self.deadline_s) if self.deadline_s else ""
            _check(name, seconds, self.deadline_s, DEADLINE, format_duration(seconds), allowed)
        if self.budget is not None and launch.budget is not None:
            _check("budget", launch.budget, self.budget, BUDGET, f"${launch.budget:g}", f"{self.budget:g}")
        self._check_secrets(launch)
        own = {"budget": self.budget} if self.budget is not None and launch.budget is None else {}
        return launch.model_copy(update=own)

    def within(self, found: Offers) -> Offers:
        """The offers whose machines cost no more an hour. Raises SpecError when there are none."""
        fitting = tuple(one for one in found.fitting if self.price is None or one.price <= self.price)
        if not fitting:
            cheapest = min(found.fitting, key=lambda one: one.price)
            raise SpecError(
                f"machine: {cheapest.machine} costs ${cheapest.price:g} an hour, and this host allows ${self.price:g}",
                hint=f"ask for a smaller one, or on this host: export {PRICE}=DOLLARS",
            )
        left = dict.fromkeys(f"{one.machine} {one.market}" for one in found.fitting if one not in fitting)
        remarks = (f"dearer than this host allows: {', '.join(left)}",) if left else ()
        return Offers(fitting=fitting, remarks=found.remarks + remarks)

    def _check_secrets(self, launch: Launch) -> None:
        for name in launch.secrets if self.secrets is not None else ():
            if name not in (self.secrets or ()):
                allowed = " ".join(sorted(self.secrets or ())) or "none"
                raise SpecError(
                    f"secrets: {name!r} is none that this host gives to such a run (allowed: {allowed})",
                    hint=f"whoever runs this host may allow it: export {SECRETS}='{name}'",
                )


def ceilings(surroundings: Mapping[str, str], from_git: bool = False) -> Ceilings:
    """Those of this host. Raises SpecError for one that cannot be read.

    A run whose project comes `from_git` gets no secret that this host does not allow by name.
    """
    listed = surroundings.get(SECRETS)
    names = frozenset(listed.replace(",", " ").split()) if listed is not None else None
    return Ceilings(
        budget=_read(surroundings, BUDGET, "20"),
        price=_read(surroundings, PRICE, "2.50"),
        nodes=_read(surroundings, NODES, "4"),
        deadline_s=_read(surroundings, DEADLINE, "8h"),
        secrets=frozenset() if names is None and from_git else names,
    )


def _read(surroundings: Mapping[str, str], name: str, example: str) -> float | None:
    text = surroundings.get(name, "").strip()
    if not text:
        return None
    try:
        value = parse_duration(text) if name == DEADLINE else int(text) if name == NODES else parse_money(text)
    except ValueError as error:
        raise SpecError(f"{name}: {error}", hint=f"write it like {name}={example}") from None
    if not 0 <= value < float("inf"):
        raise SpecError(f"{name}: {text!r} is no limit", hint=f"write it like {name}={example}")
    return float(value)


def _check(field: str, asked: float, allowed: float | None, name: str, shown: str, limit: str) -> None:
    if allowed is not None and asked > allowed:
        raise SpecError(
            f"{field}: {shown} is more than this host allows ({name}={limit})",
            hint=f"ask for less: {field}: {limit}",
        )
