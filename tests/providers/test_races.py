"""Races that left machines running elsewhere, each tried here on Amazon's wire.

Those that every provider must stand are in tests/contract/provider.py; docs/guarantee.md names all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clouds.aws_cloud import REGION, AwsCloud

pytest.register_assert_rewrite("tests.providers.account_world")

from sojourn.errors import ExitCode, SojournError, TeardownError  # noqa: E402
from sojourn.names import LeaseName  # noqa: E402
from sojourn.protocol import Stop  # noqa: E402
from sojourn.providers.contract import Request  # noqa: E402
from sojourn.providers.ec2.provider import Ec2Provider  # noqa: E402
from sojourn.receipts import Receipt  # noqa: E402
from sojourn.run.journey import Journey  # noqa: E402
from sojourn.run.runs import entries_of  # noqa: E402
from sojourn.store.mailbox import Mailbox  # noqa: E402
from sojourn.store.storage import Store  # noqa: E402
from tests.providers.account_world import Account, Fast  # noqa: E402
from tests.providers.ec2_world import AGENT, clients  # noqa: E402

RUN = "quiet-heron-7f3a"
LEASE = str(LeaseName(RUN, 1))
TIMER = LeaseName(RUN, 1).machine(0)


class Meanwhile(Ec2Provider):
    """At the moment of a create something else happens."""

    def __init__(self, account: Account, happens: Callable[[int], None]) -> None:
        super().__init__(clients(account.cloud.url), [REGION], AGENT)
        self._happens = happens
        self.creates = 0

    def create(self, request: Request) -> None:
        self.creates += 1
        try:
            super().create(request)
        finally:
            self._happens(self.creates)


@pytest.fixture
def account(aws: AwsCloud, tmp_path: Path) -> Iterator[Account]:
    account = Account(aws, tmp_path)
    account.clock = Fast()
    yield account


def begin(account: Account, provider: Ec2Provider | None = None, run: str = RUN, **changes: Any) -> Journey:
    """A run of one spot machine; nothing runs on it, so that it never says a word."""
    mailbox = Mailbox(account.store, "digits", run)
    offers = (account.offer(market="spot"),)
    now = account.clock.now()
    plan = account.plan(mailbox, offers=offers, **{"created_at": now, "deadline_at": now + 7200.0, **changes})
    return account.journey(plan, mailbox, provider)


def to_its_end(journey: Journey) -> None:
    """From the first machine to the last receipt."""
    with journey.held():
        with journey.leased():
            journey.provision()
            journey.train()
        journey.confirm()


def schedules(account: Account) -> list[str]:
    return [one["Name"] for one in account.cloud.client("scheduler").list_schedules()["Schedules"]]


def receipt_of(journey: Journey) -> Receipt:
    receipt = journey.mailbox.read("receipt", Receipt)
    assert receipt is not None
    return receipt


def test_a_cancel_at_the_moment_of_creation_leaves_nothing(account: Account) -> None:
    """There an instance stayed busy for ever: https://github.com/dstackai/dstack/issues/2068"""
    mailbox = Mailbox(account.store, "digits", RUN)
    account.cloud.fault("ec2", "RunInstances", "drop_after", count=2)  # and the answer is lost
    provider = Meanwhile(account, lambda _: mailbox.request_stop(Stop(reason="cancelled", at=account.clock.now())))
    journey = begin(account, provider)
    to_its_end(journey)
    assert len(account.cloud.rented()) == 1 and account.running() == set() and schedules(account) == []
    outcome = journey.orchestrator.state.outcome
    assert outcome is not None and outcome.state == "stopped" and receipt_of(journey).state == "closed"


@pytest.mark.slow
def test_terminate_answered_with_500_for_an_hour_is_an_open_receipt_until_it_works(account: Account) -> None:
    """There a machine is given up after 15 minutes and marked as terminated: dstack,
    src/dstack/_internal/server/background/pipeline_tasks/instances/termination.py;
    https://github.com/dstackai/dstack/issues/3453. SkyPilot gives up after six tries."""
    account.cloud.fault("ec2", "TerminateInstances", "error", count=None)
    journey = begin(account)
    began = account.clock.now()
    with pytest.raises(TeardownError) as raised:
        to_its_end(journey)
    (machine,) = account.running()
    assert raised.value.exit_code == ExitCode.TEARDOWN_OPEN and machine in raised.value.message
    assert "InternalError" in raised.value.message
    assert raised.value.hint is not None and "sojourn reap asks for its end again" in raised.value.hint
    assert (receipt_of(journey).state, schedules(account)) == ("open", [TIMER]), "its own timer still stands"

    while account.clock.now() < began + 3600:
        found = account.sweep(stores=[account.store])
        assert found[RUN].action == "failed" and account.running() == {machine}
    account.cloud.clear_faults()
    account.sweep(stores=[account.store])
    assert account.running() == set() and schedules(account) == []
    assert receipt_of(journey).state == "closed" and entries_of(journey.mailbox)[-1].kind == "closed"


def test_a_machine_that_takes_its_time_to_go_is_a_receipt_that_is_closing(account: Account) -> None:
    """There what is being terminated counts as terminated: https://github.com/skypilot-org/skypilot/issues/4443"""
    account.cloud.timing(shutdown_s=3600.0)
    journey = begin(account)
    with pytest.raises(TeardownError, match="the receipt is closing"):
        to_its_end(journey)
    assert receipt_of(journey).state == "closing" and schedules(account) == [TIMER]


def test_what_somebody_else_deleted_is_gone_and_no_error(account: Account) -> None:
    """There a backend that raised on it blocked the termination: https://github.com/dstackai/dstack/issues/3031"""

    def delete_all(_: int) -> None:
        account.cloud.client("ec2").terminate_instances(InstanceIds=sorted(account.running()))
        account.cloud.client("scheduler").delete_schedule(Name=TIMER, GroupName="sojourn")

    journey = begin(account, Meanwhile(account, delete_all))
    to_its_end(journey)
    assert receipt_of(journey).state == "closed" and len(account.cloud.rented()) == 1
    assert account.provider().release(LEASE) is True


def test_two_deletes_at_once_are_one(account: Account) -> None:
    """There two tasks ended one instance, and the second failed: https://github.com/dstackai/dstack/issues/3019"""
    account.rent(RUN)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(account.provider().release, LEASE) for _ in range(4)]:
            done.result()
    waited = [account.provider().release(LEASE)]
    while not waited[-1] and len(waited) < 50:
        with ThreadPoolExecutor(2) as pool:
            waited += [one.result() for one in [pool.submit(account.provider().release, LEASE) for _ in range(2)]]
    assert waited[-1] and account.running() == set() and schedules(account) == []


def test_without_its_ledger_nothing_is_rented_and_what_stands_keeps_its_timers(account: Account) -> None:
    """There a server crash before the commit left the machine unknown: https://github.com/dstackai/dstack/issues/3453"""
    account.store = Store("s3://digits-runs")
    account.cloud.client("s3").create_bucket(Bucket="digits-runs")
    refuse = {"code": "AccessDenied", "status": 403, "count": None}
    account.cloud.fault("s3", "PutObject", "error", body='"kind": ?"intent"', **refuse)
    with pytest.raises(SojournError):
        to_its_end(begin(account, run="calm-panda-a2e3"))
    assert account.cloud.rented() == []

    account.cloud.clear_faults()
    away = Meanwhile(account, lambda _: account.cloud.fault("s3", "(Put|Get)Object", "error", **refuse))
    journey = begin(account, away)
    with pytest.raises(SojournError):
        to_its_end(journey)
    assert len(account.running()) == 1 and schedules(account) == [TIMER]

    found = account.sweep(stores=[account.store])
    assert found[account.store.url].action == "failed" and len(account.running()) == 1
    account.cloud.clear_faults()
    account.clock.sleep(800)  # its machine never says hello
    account.sweep(stores=[account.store])
    account.sweep(stores=[account.store])
    assert account.running() == set() and receipt_of(journey).state == "closed"


def test_a_machine_that_is_taken_back_while_the_next_attempt_starts_is_rented_once_more(account: Account) -> None:
    """There recoveries overlapped and jobs were lost in them: https://github.com/skypilot-org/skypilot/issues/3300,
    https://github.com/dstackai/dstack/issues/2917"""

    def interrupt(creates: int) -> None:
        if creates <= 2:  # the machine of the first attempt, and that of the second as soon as it exists
            for machine in account.running():
                account.cloud.interrupt(machine, notice_s=0.0)

    launch = begin(account).plan.launch.model_copy(update={"resumes": 3})
    journey = begin(account, Meanwhile(account, interrupt))
    plan = journey.plan.model_copy(update={"launch": launch})
    journey = account.journey(plan, journey.mailbox, Meanwhile(account, interrupt))
    to_its_end(journey)
    kinds = [entry.kind for entry in entries_of(journey.mailbox)]
    assert kinds.count("intent") == 3 and kinds.count("lost") == 2 and kinds.count("outcome") == 1
    tokens = [one["tags"]["sojourn:lease"] for one in account.cloud.rented()]
    assert tokens == [str(LeaseName(RUN, attempt)) for attempt in (1, 2, 3)]
    receipt = receipt_of(journey)
    assert account.running() == set() and schedules(account) == []
    assert receipt.state == "closed" and [at.state for at in receipt.attempts] == ["lost", "lost", "lost"]
