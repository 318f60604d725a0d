"""The rules of a lease's life, without a clock, a network or a process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sojourn.lease.state import (
    HELLO_LIMIT_S,
    MARGIN_S,
    PEERS_LIMIT_S,
    ROUND_S,
    VISIBLE_LIMIT_S,
    Conclude,
    Create,
    Gone,
    Intend,
    Lose,
    PostOrder,
    Release,
    Seen,
    State,
    Terms,
    fold,
    step,
)
from sojourn.protocol import Exit, ExitReason, Hello, Hold, Outcome, RankExit, Stop
from sojourn.renting import Lease, Machine, Part
from sojourn.store.ledger import Entry, Kind

NAME = "sojourn-quiet-heron-7f3a-1-0-abcd"
TERMS = Terms(nodes=2, offers=2, deadline_at=1000.0, grace_s=60.0)
INTENDED = State(name=NAME, request={"token": NAME}, offer=0, intended_at=10.0)
CREATED = State(name=NAME, request={"token": NAME}, offer=0, intended_at=10.0, created_at=11.0)
ORDERED = State(name=NAME, request={"token": NAME}, offer=0, intended_at=10.0, created_at=11.0, ordered_at=20.0)


def machines(*states: str, ended_by: str | None = None) -> Lease:
    return Lease(
        name=NAME,
        project="digits",
        run="quiet-heron-7f3a",
        attempt=1,
        deadline_at=1000.0,
        machines=tuple(
            Machine(name=f"{NAME}-n{node}", state=state, ended_by=ended_by)  # type: ignore[arg-type]
            for node, state in enumerate(states)
        ),
    )


def hello(node: int) -> Hello:
    return Hello(
        name=f"{NAME}-n{node}",
        node=node,
        address="127.0.0.1",
        port=1,
        clock=0,
        cpus=1,
        memory=1,
        python="3",
        version="1",
    )


def exited(node: int, code: int = 0, at: float = 50.0, **fields: object) -> Exit:
    return Exit(node=node, reason="exited", exit_code=code, ended_at=at).model_copy(update=fields)


def outcome(action: object) -> Outcome:
    assert isinstance(action, Conclude)
    return action.outcome


def test_the_intention_comes_before_the_creation() -> None:
    assert step(State(), Seen(now=10), TERMS) == Intend(0)
    assert step(INTENDED, Seen(now=10), TERMS) == Create()


def test_a_refused_offer_leads_to_the_next_and_then_to_an_end() -> None:
    assert step(State(tried=((0, "full"),)), Seen(now=10), TERMS) == Intend(1)
    ended = outcome(step(State(tried=((0, "full"), (1, "also full"))), Seen(now=10), TERMS))
    assert ended.state == "lost" and "full; also full" in ended.message


def test_the_order_waits_for_every_hello() -> None:
    running = machines("running", "running")
    assert step(CREATED, Seen(now=12, lease=running, hellos=(hello(0), None), exits=(None, None)), TERMS) is None
    both = Seen(now=12, lease=running, hellos=(hello(0), hello(1)), exits=(None, None))
    assert step(CREATED, both, TERMS) == PostOrder()


def test_all_exits_good_is_a_success() -> None:
    seen = Seen(now=60, lease=machines("running", "running"), exits=(exited(0), exited(1)))
    assert outcome(step(ORDERED, seen, TERMS)).state == "succeeded"


def test_the_first_rank_to_fail_is_the_one_that_counts() -> None:
    late = exited(0, 1, failed_rank=0, tail="connection lost", ranks=(RankExit(rank=0, exit_code=1, at=42.0),))
    first = exited(1, 1, failed_rank=2, tail="ZeroDivisionError", ranks=(RankExit(rank=2, exit_code=1, at=41.0),))
    ended = outcome(step(ORDERED, Seen(now=60, lease=machines("running", "running"), exits=(late, first)), TERMS))
    assert (ended.failed_rank, ended.tail) == (2, "ZeroDivisionError")


def test_a_peers_end_is_an_echo() -> None:
    echo = Exit(node=0, reason="peer", ended_at=40.0)
    ended = outcome(step(ORDERED, Seen(now=60, exits=(echo, exited(1, 3, at=41.0))), TERMS))
    assert (ended.state, ended.exit_code) == ("failed", 3)


def test_a_fault_of_an_agent_is_not_the_scripts() -> None:
    why = "the agent failed while running: KeyError('reason')"
    fault = Exit(node=1, reason="fault", exit_code=137, signal="SIGKILL", message=why, ended_at=41.0)
    ended = outcome(step(ORDERED, Seen(now=60, exits=(Exit(node=0, reason="peer", ended_at=40.0), fault)), TERMS))
    assert (ended.state, ended.message, ended.failed_node) == ("lost", why, 1)


def test_one_failed_node_does_not_wait_for_the_others_for_ever() -> None:
    seen = Seen(now=50 + PEERS_LIMIT_S - 1, lease=machines("ended", "running"), exits=(exited(0, 1), None))
    assert step(ORDERED, seen, TERMS) is None
    late = Seen(now=50 + PEERS_LIMIT_S + 1, lease=machines("ended", "running"), exits=(exited(0, 1), None))
    assert outcome(step(ORDERED, late, TERMS)).state == "failed"


def test_a_machine_that_left_without_a_last_word_is_lost() -> None:
    seen = Seen(now=60, lease=machines("gone", "running", ended_by="killed"), exits=(None, None))
    ended = outcome(step(ORDERED, seen, TERMS))
    assert ended.state == "lost" and f"{NAME}-n0" in ended.message and "killed" in ended.message


def test_a_new_machine_may_be_invisible_for_a_while() -> None:
    nothing = (None, None)
    assert step(CREATED, Seen(now=11 + VISIBLE_LIMIT_S - 1, exits=nothing, hellos=nothing), TERMS) is None
    gone = step(CREATED, Seen(now=11 + VISIBLE_LIMIT_S + 1, exits=nothing, hellos=nothing), TERMS)
    assert outcome(gone).state == "lost"


def test_a_machine_that_never_says_hello_is_given_up() -> None:
    seen = Seen(
        now=11 + HELLO_LIMIT_S + 1, lease=machines("running", "starting"), hellos=(None, None), exits=(None, None)
    )
    assert outcome(step(CREATED, seen, TERMS)).state == "lost"


def test_a_stop_before_the_order_ends_the_attempt_at_once() -> None:
    seen = Seen(now=12, lease=machines("running", "running"), exits=(None, None), stop=Stop(reason="Ctrl-C", at=12))
    assert outcome(step(CREATED, seen, TERMS)).state == "stopped"


def test_a_stop_is_left_to_the_agents_until_they_had_their_time() -> None:
    def seen(now: float) -> Seen:
        return Seen(now=now, lease=machines("running", "running"), exits=(None, None), stop=Stop(reason="x", at=100))

    assert step(ORDERED, seen(100 + TERMS.grace_s), TERMS) is None
    assert outcome(step(ORDERED, seen(101 + TERMS.grace_s + MARGIN_S), TERMS)).state == "stopped"


def test_an_agent_that_slept_through_the_deadline_is_not_waited_for() -> None:
    seen = Seen(
        now=TERMS.deadline_at + TERMS.grace_s + MARGIN_S + 1, lease=machines("running", "running"), exits=(None, None)
    )
    assert outcome(step(ORDERED, seen, TERMS)).state == "deadline"


def test_nothing_is_rented_after_the_deadline() -> None:
    assert outcome(step(INTENDED, Seen(now=1001), TERMS)).state == "deadline"


@pytest.mark.parametrize("state", ["starting", "running", "ended"])
def test_release_is_repeated_until_the_provider_says_gone(state: str) -> None:
    ended = Outcome(state="succeeded", message="", ended_at=50.0)
    over = State(name=NAME, request={}, created_at=11.0, ordered_at=20.0, outcome=ended)
    assert step(over, Seen(now=60), TERMS) == Release()
    released = State(name=NAME, request={}, created_at=11.0, ordered_at=20.0, outcome=ended, released_at=60.0)
    assert step(released, Seen(now=61, lease=machines("gone", state)), TERMS) == Release()
    assert step(released, Seen(now=61, lease=machines("gone", "gone")), TERMS) == Gone()


def test_a_ledger_folds_into_the_state_it_describes() -> None:
    def entry(sequence: int, kind: Kind, **body: object) -> Entry:
        return Entry(sequence=sequence, term=1, owner="ada", at=float(sequence), kind=kind, body=body)

    state = fold(
        [
            entry(0, "opened"),
            entry(1, "intent", attempt=1, offer=0, name="first", request={"n": 1}),
            entry(2, "refused", offer=0, reason="full"),
            entry(3, "intent", attempt=1, offer=1, name="second", request={"n": 2}),
            entry(4, "created", name="second"),
            entry(5, "takeover", since="ada"),
            entry(6, "release", name="second"),
            entry(7, "release", name="second"),
        ]
    )
    assert (state.tried, state.name, state.request) == (((0, "full"),), "second", {"n": 2})
    assert (state.created_at, state.released_at, state.gone_at) == (4.0, 6.0, None)


LOST = Outcome(state="lost", message="taken back", ended_at=100.0)
CLOUD = Terms(nodes=1, offers=3, deadline_at=1000.0, grace_s=60.0, visible_after_s=120.0, wait_s=90.0, resumes=1)


def test_a_cloud_that_cannot_see_yet_what_it_made_has_not_said_that_nothing_is_left() -> None:
    released = replace(CREATED, outcome=LOST, released_at=20.0)
    assert step(released, Seen(now=50.0, lease=None), CLOUD) == Release()
    assert step(released, Seen(now=131.0, lease=None), CLOUD) == Gone()


def test_a_lease_whose_volume_still_stands_is_not_gone() -> None:
    released = replace(CREATED, outcome=LOST, released_at=20.0)
    machine_gone = machines("gone")
    volume = Part(kind="volume", name=f"{NAME}-n0")
    assert (
        step(released, Seen(now=50.0, lease=machine_gone.model_copy(update={"parts": (volume,)})), CLOUD) == Release()
    )
    assert step(released, Seen(now=50.0, lease=machine_gone), CLOUD) == Gone()


def test_when_every_offer_was_refused_the_first_comes_again_after_a_while_and_not_for_ever() -> None:
    refused = State(tried=((0, "full"), (1, "full"), (2, "no quota")), sought_since=10.0, refused_at=20.0)
    assert step(refused, Seen(now=30.0), CLOUD) is None
    assert step(refused, Seen(now=20.0 + ROUND_S), CLOUD) == Intend(0)
    ended = outcome(step(replace(refused, refused_at=75.0), Seen(now=75.0), CLOUD))
    assert ended.state == "lost" and ended.message == "no machine to be had: full; no quota"


def test_lost_machines_are_given_back_before_others_take_their_place() -> None:
    reclaimed = Seen(now=100.0, lease=machines("gone", ended_by="spot reclaim"), exits=(None,))
    action = step(ORDERED, reclaimed, CLOUD)
    assert isinstance(action, Lose) and "spot reclaim" in action.outcome.message
    lost = replace(ORDERED, lost=action.outcome)
    assert step(lost, reclaimed, CLOUD) == Release()
    assert step(replace(lost, released_at=101.0), Seen(now=102.0, lease=machines("ended")), CLOUD) == Release()
    assert step(replace(lost, released_at=101.0), reclaimed, CLOUD) == Gone()
    assert step(replace(lost, released_at=101.0, gone_at=103.0), reclaimed, CLOUD) == Intend(1, attempt=2)


def test_whoever_may_not_rent_ends_the_run_where_its_attempt_was_lost() -> None:
    between = replace(ORDERED, lost=LOST, released_at=101.0, gone_at=103.0)
    assert step(between, Seen(now=104.0), replace(CLOUD, resumes=0)) == Conclude(LOST)


def test_the_second_attempt_starts_from_nothing_but_the_offer_that_was_lost() -> None:
    intent = {"attempt": 1, "offer": 2, "name": NAME, "request": {"token": NAME}}
    second = {"attempt": 2, "offer": 0, "name": "other", "request": {"token": "other"}}
    kinds: list[tuple[Kind, dict[str, object]]] = [
        ("intent", intent),
        ("created", {}),
        ("ordered", {}),
        ("lost", LOST.model_dump(mode="json")),
        ("release", {}),
        ("gone", {}),
        ("intent", second),
    ]
    state = fold(
        Entry(sequence=n, term=1, owner="me", at=float(n), kind=kind, body=body) for n, (kind, body) in enumerate(kinds)
    )
    assert (state.attempt, state.offer, state.name, state.after) == (2, 0, "other", 2)
    assert state.created_at is state.ordered_at is state.released_at is state.gone_at is state.lost is None
    refused = replace(state, tried=((0, "full"),), request=None)
    assert step(refused, Seen(now=50.0), CLOUD) == Intend(1, attempt=2)


@pytest.mark.parametrize(
    ("state", "seen"),
    [
        (replace(ORDERED, attempt=2), Seen(now=100.0, lease=machines("gone"), exits=(None,))),
        (ORDERED, Seen(now=950.0, lease=machines("gone"), exits=(None,))),
        (ORDERED, Seen(now=100.0, lease=machines("gone"), exits=(None,), stop=Stop(reason="enough", at=90.0))),
        (ORDERED, Seen(now=100.0, lease=machines("running"), exits=(exited(0, 1),))),
    ],
    ids=["no resume left", "hardly any time left", "stopped", "the script failed"],
)
def test_nothing_else_is_rented_when(state: State, seen: Seen) -> None:
    assert isinstance(step(state, seen, CLOUD), Conclude)


@pytest.mark.parametrize(
    ("last", "replaced"),
    [
        (Exit(node=0, reason="preempted", exit_code=0, interrupted=True, ended_at=90.0), True),
        (Exit(node=0, reason="preempted", exit_code=0, ended_at=90.0), True),
        (Exit(node=0, reason="fault", exit_code=0, interrupted=True, ended_at=90.0), True),
        (Exit(node=0, reason="fault", exit_code=0, ended_at=90.0), False),
        (Exit(node=0, reason="exited", exit_code=0, lost=("a.pt",), ended_at=90.0), False),
    ],
    ids=[
        "saved on the notice",
        "told by an older agent",
        "cut off from the store",
        "done before a fault",
        "not stored",
    ],
)
def test_a_lost_machine_is_replaced_unless_its_script_came_to_its_own_end(last: Exit, replaced: bool) -> None:
    action = step(ORDERED, Seen(now=100.0, lease=machines("gone"), exits=(last,)), CLOUD)
    assert isinstance(action, Lose if replaced else Conclude)


def test_a_node_that_was_ended_for_a_peer_has_not_done_its_work() -> None:
    ends = (
        Exit(node=0, reason="peer", exit_code=143, ended_at=92.0),
        Exit(node=1, reason="fault", exit_code=0, ended_at=90.0),
    )
    two = replace(CLOUD, nodes=2)
    assert isinstance(step(ORDERED, Seen(now=100.0, lease=machines("gone", "gone"), exits=ends), two), Lose)


def test_machines_that_never_said_a_word_are_replaced_only_when_their_cloud_took_them() -> None:
    silent = Seen(now=100.0, lease=machines("gone", ended_by="machine"), hellos=(None,), exits=(None,))
    ended = outcome(step(CREATED, silent, CLOUD))
    assert ended.message == f"{NAME}-n0 went away without a word, ended by machine"
    assert silent.lease is not None
    taken = silent.lease.machines[0].model_copy(update={"taken_back": True})
    reclaimed = replace(silent, lease=silent.lease.model_copy(update={"machines": (taken,)}))
    assert isinstance(step(CREATED, reclaimed, CLOUD), Lose)


def test_a_machine_without_a_way_to_the_store_is_named() -> None:
    waiting = Seen(now=11.0 + HELLO_LIMIT_S + 1, lease=machines("running", "running"), hellos=(hello(0), None))
    ended = outcome(step(CREATED, waiting, TERMS))
    assert f"no hello from {NAME}-n1 within 900 s" in ended.message


def test_a_stop_between_two_attempts_ends_the_run() -> None:
    between = replace(ORDERED, lost=LOST, released_at=101.0, gone_at=103.0)
    assert outcome(step(between, Seen(now=104.0, stop=Stop(reason="enough", at=103.5)), CLOUD)).state == "stopped"
    assert outcome(step(between, Seen(now=1000.0), CLOUD)).state == "deadline"


@pytest.mark.parametrize(
    ("reason", "said", "stop", "message"),
    [
        ("stopped", "stop was requested: sojourn stop", "sojourn stop", "sojourn stop"),
        ("stopped", "stop was requested: Ctrl-C; 2 files were not kept", "Ctrl-C", "Ctrl-C; 2 files were not kept"),
        ("stopped", "the machine was asked to end by SIGTERM", None, "the machine was asked to end by SIGTERM"),
        ("stopped", None, None, "asked to end"),
        ("deadline", "the deadline came", None, "ended at its deadline"),
    ],
)
def test_how_a_run_ended_is_said_once(reason: ExitReason, said: str | None, stop: str | None, message: str) -> None:
    ends = tuple(Exit(node=node, reason=reason, message=said, ended_at=50.0) for node in range(2))
    asked = Stop(reason=stop, at=40.0) if stop else None
    action = step(ORDERED, Seen(now=51.0, lease=machines("running", "running"), exits=ends, stop=asked), TERMS)
    assert outcome(action).message == message


def test_machines_that_their_budget_ended_say_so_and_are_not_replaced() -> None:
    cut = machines("gone", "gone", ended_by="cloud timer").model_copy(update={"deadline_at": 500.0})
    terms = replace(TERMS, resumes=3)
    action = step(ORDERED, Seen(now=560.0, lease=cut, exits=(None, None)), terms)
    assert isinstance(action, Conclude) and action.outcome.state == "lost"
    assert action.outcome.message.endswith("ended by cloud timer, as the budget was reached")
    assert isinstance(step(ORDERED, Seen(now=300.0, lease=cut, exits=(None, None)), terms), Lose), (
        "before it, they were merely lost"
    )

    ends = tuple(Exit(node=node, reason="deadline", ended_at=500.0) for node in range(2))
    action = step(ORDERED, Seen(now=505.0, lease=cut, exits=ends), TERMS)
    assert isinstance(action, Conclude)
    assert action.outcome.message == "ended at its deadline, as the budget was reached"
    full = machines("gone", "gone")
    action = step(ORDERED, Seen(now=1001.0, lease=full, exits=ends), TERMS)
    assert isinstance(action, Conclude) and action.outcome.message == "ended at its deadline"


# --- held machines ----------------------------------------------------------------------

HOLD = Hold(since=51.0, until=300.0)
HELD = replace(ORDERED, outcome=Outcome(state="failed", message="exit code 3", ended_at=50.0, hold=HOLD))


def test_a_failed_script_with_a_hold_is_over_and_its_machines_stay() -> None:
    exits = (exited(0, 3, hold=HOLD), Exit(node=1, reason="peer", ended_at=52.0, hold=Hold(since=53.0, until=301.0)))
    ended = outcome(step(ORDERED, Seen(now=60, lease=machines("running", "running"), exits=exits), TERMS))
    assert (ended.state, ended.hold) == ("failed", Hold(since=51.0, until=301.0))


def test_nothing_is_held_that_did_not_fail() -> None:
    taken = Exit(node=1, reason="preempted", ended_at=40.0)
    seen = Seen(now=60, lease=machines("running", "running"), exits=(exited(0, 3, hold=HOLD), taken))
    assert outcome(step(ORDERED, seen, TERMS)).hold is None, "the other machine was lost first"


def test_held_machines_are_given_back_when_the_time_is_over() -> None:
    standing = machines("running", "running")
    assert step(HELD, Seen(now=299, lease=standing), TERMS) is None
    assert step(HELD, Seen(now=300, lease=standing), TERMS) == Release()
    assert step(replace(HELD, released_at=300.0), Seen(now=301, lease=standing), TERMS) == Release()
    assert step(replace(HELD, released_at=300.0), Seen(now=301, lease=machines("gone", "gone")), TERMS) == Gone()


def test_what_a_cloud_does_not_show_yet_is_held_all_the_same() -> None:
    slow = replace(TERMS, visible_after_s=120.0)
    held = replace(HELD, intended_at=10.0)
    assert step(held, Seen(now=100, lease=None), slow) is None
    assert step(held, Seen(now=130, lease=None), slow) == Release()


def test_a_stop_ends_a_hold_at_once() -> None:
    standing = machines("running", "running")
    stop = Stop(reason="sojourn stop", at=100.0)
    assert step(HELD, Seen(now=100, lease=standing, stop=stop), TERMS) == Release()
    assert step(HELD, Seen(now=100, lease=standing, release_now=True), TERMS) == Release()


def test_no_hold_outlasts_its_machines_or_the_deadline() -> None:
    assert step(HELD, Seen(now=100, lease=machines("running", "ended")), TERMS) is None
    assert step(HELD, Seen(now=100, lease=machines("ended", "gone")), TERMS) == Release()
    assert step(HELD, Seen(now=100, lease=None), TERMS) == Release()
    wrong = replace(HELD, outcome=HELD.outcome.model_copy(update={"hold": Hold(since=51.0, until=9e9)}))  # type: ignore[union-attr]
    assert step(wrong, Seen(now=999, lease=machines("running", "running")), TERMS) is None
    assert step(wrong, Seen(now=1000, lease=machines("running", "running")), TERMS) == Release()
