"""What a line says of files that are left out, however many there are."""

from __future__ import annotations

from sojourn.agent.results.remains import PATHS as NAMED_THERE
from sojourn.agent.results.remains import _account
from sojourn.omissions import PATHS, Account, in_words


def test_the_number_of_others_counts_those_that_are_not_recorded() -> None:
    account = Account()
    for number in range(100):
        account.add("ignored by git", f"{number:03}.bin", size=10)
    (told,) = account.omissions()
    assert (len(told.paths), told.unnamed) == (PATHS, 100 - PATHS)
    assert in_words(told, "1 kB") == "100 files, 1 kB ignored by git: 000.bin, 001.bin, 002.bin and 97 more"


def test_a_machine_counts_what_it_does_not_name() -> None:
    (line,) = _account({f"{number:03}.bin": ("ignored by git", (1, 10)) for number in range(100)}, True, ["train.py"])
    assert (len(line["paths"]), line["unnamed"], line["files"]) == (NAMED_THERE, 100 - NAMED_THERE, 100)
