"""Each error code that we know has a source, and those that stand in Amazon's own models are looked up there."""

from __future__ import annotations

from functools import cache

import botocore.session
import pytest

from sojourn.clouds.aws.codes import CODES, HINTS, Code

PAGES = ("ec2", "s3-errors", "common", "karpenter", "unknown")


@cache
def shapes(service: str) -> frozenset[str]:
    """The errors of a service, by their shapes and by their words on the wire."""
    model = botocore.session.get_session().get_service_model(service)
    found = [model.shape_for(name) for name in model.shape_names]
    errors = [one for one in found if one.metadata.get("exception")]
    return frozenset({one.name for one in errors} | {one.metadata.get("error", {}).get("code", "") for one in errors})


@pytest.mark.parametrize("code", [one for one in CODES if one.source not in PAGES], ids=lambda one: one.name)
def test_a_code_of_a_model_stands_in_it(code: Code) -> None:
    assert code.name in shapes(code.source)


def test_each_code_has_one_row_and_each_hint_a_code() -> None:
    names = [one.name for one in CODES]
    assert len(set(names)) == len(names) and set(HINTS) <= set(names)
