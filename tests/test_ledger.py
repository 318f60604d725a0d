"""Who owns a run: terms, handover and takeover, over a real store."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sojourn.errors import SojournError, SupersededError
from sojourn.store.ledger import Ledger
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store
from sojourn.waiting import SystemClock

BEAT_S = 0.05


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    return Mailbox(Store((tmp_path / "store").as_uri()), "digits", "quiet-heron-7f3a")


def ledger(mailbox: Mailbox, owner: str) -> Ledger:
    return Ledger(mailbox, SystemClock(), owner=owner, beat_every_s=BEAT_S)


def test_the_first_to_join_opens_the_run(mailbox: Mailbox) -> None:
    ada = ledger(mailbox, "ada")
    ada.join()
    assert [(entry.kind, entry.term, entry.owner) for entry in ada.entries()] == [("opened", 1, "ada")]


def test_of_many_that_open_at_once_exactly_one_owns_the_run(mailbox: Mailbox) -> None:
    won, lost = [], []

    def join(name: str) -> None:
        try:
            one = ledger(mailbox, name)
            with one.beating():
                one.join()
                won.append(name)
        except SojournError:
            lost.append(name)

    threads = [threading.Thread(target=join, args=(f"owner-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(won) == 1 and len(lost) == 7


def test_a_run_is_not_taken_from_an_owner_that_lives(mailbox: Mailbox) -> None:
    ada = ledger(mailbox, "ada")
    ada.join()
    with ada.beating(), pytest.raises(SojournError, match="ada, which is alive"):
        ledger(mailbox, "bob").join()


def test_a_run_is_taken_over_from_an_owner_that_died(mailbox: Mailbox) -> None:
    ada, bob = ledger(mailbox, "ada"), ledger(mailbox, "bob")
    ada.join()
    ada.beat()
    bob.join()
    assert (bob.term, bob.entries()[-1].kind) == (2, "takeover")


def test_a_handover_is_taken_at_once(mailbox: Mailbox) -> None:
    ada = ledger(mailbox, "ada")
    ada.join()
    ada.append("handover", why="SIGTERM")
    clock = SystemClock()
    before = clock.monotonic()
    Ledger(mailbox, clock, owner="bob", beat_every_s=60).join()
    assert clock.monotonic() - before < 5


def test_whoever_was_superseded_cannot_write_again(mailbox: Mailbox) -> None:
    ada, bob = ledger(mailbox, "ada"), ledger(mailbox, "bob")
    ada.join()
    bob.join(take_over=True)
    with pytest.raises(SupersededError, match="taken over by bob"):
        ada.append("intent", offer=0)
    bob.append("intent", offer=0)
    assert [entry.owner for entry in bob.entries()] == ["ada", "bob", "bob"]


def test_of_two_that_take_over_at_once_one_wins(mailbox: Mailbox) -> None:
    ada, bob, eve = (ledger(mailbox, name) for name in ("ada", "bob", "eve"))
    ada.join()
    bob.entries(), eve.entries()
    bob.join(take_over=True)
    eve.term = 2  # as if eve had read the ledger just before bob's takeover was written
    with pytest.raises(SupersededError):
        eve.append("takeover", since="ada")


def test_entries_have_no_gaps_and_keep_their_order(mailbox: Mailbox) -> None:
    ada = ledger(mailbox, "ada")
    ada.join()
    threads = [
        threading.Thread(target=ada.append, args=("refused",), kwargs={"offer": n, "reason": ""}) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert [entry.sequence for entry in ledger(mailbox, "reader").entries()] == list(range(9))
