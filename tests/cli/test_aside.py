"""Work in a fork: its result, its errors, and what happens when it ends without a word."""

from __future__ import annotations

import os

import pytest

from cli.aside import aside
from sojourn.errors import SpecError


def test_work_is_done_in_another_process_and_its_result_comes_back() -> None:
    here = os.getpid()
    pid, words = aside(lambda: (os.getpid(), ["a", "b"]))()
    assert words == ["a", "b"] and pid != here


def test_an_error_for_the_user_arrives_whole() -> None:
    def refuse() -> None:
        raise SpecError("nodes: 0 is too few", hint="nodes: 1")

    with pytest.raises(SpecError, match="nodes: 0") as caught:
        aside(refuse)()
    assert caught.value.hint == "nodes: 1" and caught.value.exit_code == 2


def test_a_fork_that_ends_without_a_word_leaves_the_work_to_the_one_that_asks() -> None:
    here = os.getpid()

    def die_elsewhere() -> int:
        if os.getpid() != here:
            os._exit(9)
        return os.getpid()

    assert aside(die_elsewhere)() == here
