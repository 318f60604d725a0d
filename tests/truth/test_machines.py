"""The catalogue against moto's copy of what EC2 says of its types, and the script that writes it."""

from __future__ import annotations

import csv
from types import ModuleType

import pytest

TABLE = """// generated at 2031-02-20T13:44:30Z for us-east-1
	"us-east-1": {
		"g6.xlarge": 0.9, "t3.micro": 0.010400,
	},
	"us-west-2": {
		"g6.xlarge": 7.0,
	},
"""


@pytest.fixture(scope="module")
def catalogue() -> ModuleType:
    """The script; loaded late, since every process of a run reads this file and moto takes long to load."""
    from truth import catalogue

    return catalogue


def test_every_row_is_what_the_script_would_write_but_for_its_price(catalogue: ModuleType) -> None:
    with catalogue.FILE.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    names = sorted(filter(catalogue.wanted, catalogue.INSTANCE_TYPES), key=catalogue.order)
    assert [row[1] for row in rows] == names
    for row in rows:
        assert row[:8] == [str(one) for one in catalogue.row(row[1], None, "")[:8]], row[1]


def test_prices_are_those_of_the_home_region_with_their_month(catalogue: ModuleType) -> None:
    assert catalogue.read(TABLE) == ({"g6.xlarge": 0.9, "t3.micro": 0.0104}, "2031-02")
    assert catalogue.row("g6.xlarge", 0.9, "2031-02")[-2:] == ["0.9", "2031-02"]
    with pytest.raises(SystemExit, match="not the table"):
        catalogue.read("something else")
