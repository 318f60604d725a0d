"""Machines of one request settle among themselves which is which."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sojourn.agent.claim import claim
from sojourn.agent.errors import Refused
from sojourn.agent.files import Json
from sojourn.agent.stores.store import Store
from sojourn.agent.stores.stores import open_store


def boot(nodes: int) -> Json:
    run = {"project": "digits", "run": "quiet-heron-7f3a", "attempt": 1, "lease": "sojourn-quiet-heron-7f3a-1-0-f5b0"}
    return {**run, "nodes": nodes, "order_wait_s": 1.0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}", None)


def test_machines_that_all_are_the_first_of_their_request_have_a_number_each(store: Store) -> None:
    machines = [f"i-{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(lambda one: claim(store, boot(4), 0, one), machines)) == [0, 1, 2, 3]


def test_a_machine_has_the_number_that_its_cloud_gave_it_where_it_is_free(store: Store) -> None:
    assert [claim(store, boot(3), number, f"i-{number}") for number in (2, 0, 1)] == [2, 0, 1]


def test_a_machine_whose_answer_was_lost_finds_its_number_again(store: Store) -> None:
    assert claim(store, boot(2), 0, "i-0") == claim(store, boot(2), 0, "i-0") == 0
    assert claim(store, boot(2), 0, "i-1") == claim(store, boot(2), 0, "i-1") == 1


def test_a_machine_alone_asks_nobody_and_one_too_many_is_refused(store: Store, tmp_path: Path) -> None:
    assert claim(store, boot(1), 5, "i-0") == 0 and not list(tmp_path.rglob("claim.json"))
    for number in range(2):
        claim(store, boot(2), 7, f"i-{number}")
    with pytest.raises(Refused, match=r"each of the 2 machines .* has its number, and i-9 has none"):
        claim(store, boot(2), 0, "i-9")
