"""Names are derived again, read back, and told from a stranger's."""

from __future__ import annotations

import re

import pytest

from sojourn.names import LeaseName, is_project_name, is_run_id, mint_run_id, project_name

RUN = "quiet-heron-7f3a"
HOSTILE = ['it\'s a "Prüf" dir', "two\nlines", "🚀", "ä", "..", "a/b", "-", "x" * 300, "İ", "日本", "control"]


def test_the_same_seed_gives_the_same_run_id() -> None:
    assert mint_run_id("flow-run-1") == mint_run_id("flow-run-1") != mint_run_id("flow-run-2")


def test_a_run_id_without_a_seed_is_new_each_time() -> None:
    ids = {mint_run_id() for _ in range(50)}

    assert len(ids) == 50
    assert all(map(is_run_id, ids))


@pytest.mark.parametrize(
    "text", ["", "last", "quiet-heron", "quiet-heron-7f3", "Quiet-heron-7f3a", "quiet-heron-7f3a "]
)
def test_what_only_looks_like_a_run_id_is_none(text: str) -> None:
    assert not is_run_id(text)


@pytest.mark.parametrize("name", [LeaseName(RUN, 1), LeaseName(RUN, 12, 3)])
def test_a_lease_name_is_read_back_from_itself_and_from_its_machines(name: LeaseName) -> None:
    assert LeaseName.parse(str(name)) == name
    assert LeaseName.parse(name.machine(7)) == name


@pytest.mark.parametrize(
    "text",
    ["", "web-1", "sojourn-quiet-heron-7f3a-1-0", str(LeaseName(RUN, 1)).replace("-1-", "-01-"),
     "sojourn-quiet-heron-7f3a-1-0-0000", "sojourn-quiet-heron-7f3a-1-0-0000-n0"],
)  # fmt: skip
def test_a_name_that_we_did_not_give_is_nobodys(text: str) -> None:
    assert LeaseName.parse(text) is None


def test_a_changed_letter_breaks_the_checksum() -> None:
    name = str(LeaseName(RUN, 1))

    assert LeaseName.parse(name.replace("heron", "heros")) is None
    assert LeaseName.parse(name.replace("-1-0-", "-2-0-")) is None


def test_the_longest_machine_name_is_a_host_name() -> None:
    text = LeaseName("patient-dolphin-ffff", 999, 99).machine(1023)

    assert len(text) <= 63
    assert re.fullmatch(r"[a-z0-9-]+", text)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_directory_has_a_project_name_that_is_safe_in_a_key(text: str) -> None:
    name = project_name(text)

    assert is_project_name(name)
    assert name == project_name(text)


def test_a_plain_name_stays_as_it_is_and_others_never_collide_with_it() -> None:
    assert project_name("digits-2") == "digits-2"
    assert project_name("Digits 2") != "digits-2"
    assert len({project_name(text) for text in HOSTILE}) == len(HOSTILE)


def test_a_name_read_back_is_a_name() -> None:
    assert not is_project_name("../x y")
    assert not is_project_name("")
    assert not is_project_name("a\n")
