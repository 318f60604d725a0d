"""No bytes make a reader raise what is no error of ours, or take a second; `benchmarks/fuzz.py` tries many more."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fuzz.mutations import mutated
from fuzz.readers import Reader, fault_of, readers

READERS = {reader.name: reader for reader in readers()}


@pytest.mark.parametrize("name", READERS)
def test_real_bytes_are_read(name: str) -> None:
    for sample in READERS[name].samples:
        READERS[name].read(sample)


@pytest.mark.parametrize("name", READERS)
def test_damaged_bytes_are_an_error_of_ours_or_nothing(name: str) -> None:
    reader, chance = READERS[name], Random(name)
    for _ in range(25 if reader.slow else 150):
        fault = fault_of(reader, mutated(chance.choice(reader.samples), chance))
        assert fault is None, str(fault)


@seed(1)
@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([one for one in READERS.values() if not one.slow]), st.binary(max_size=400))
def test_bytes_of_any_kind_are_an_error_of_ours_or_nothing(reader: Reader, body: bytes) -> None:
    fault = fault_of(reader, body)
    assert fault is None, str(fault)
