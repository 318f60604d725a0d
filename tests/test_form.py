"""What a request looks like as a form and as flags: what people set comes first, nothing is left out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sojourn.spec import form
from sojourn.spec.launch import Launch

SOJOURN = Path(sys.executable).parent / "sojourn"


@pytest.fixture(scope="module")
def fields() -> dict[str, dict[str, Any]]:
    """The fields of Prefect's form, by name, as Prefect makes them."""
    code = "import json; from flows.train import train; print(json.dumps(train.parameters.model_dump()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    properties: dict[str, dict[str, Any]] = json.loads(done.stdout)["definitions"]["Launch"]["properties"]
    return properties


def test_the_form_begins_with_what_people_set_and_has_every_field(fields: dict[str, dict[str, Any]]) -> None:
    assert list(fields)[: len(form.FIRST)] == list(form.FIRST)
    assert fields.keys() == Launch.model_fields.keys()
    assert {field["title"] for field in fields.values()} >= {"command", "gpu", "machines: disk", "limits: wait"}


def test_every_field_stands_in_one_group() -> None:
    named = [name for names in form.GROUPS.values() for name in names]
    parts = {"extras", "groups"}  # flags that lead into `environment:`
    assert sorted(named) == sorted([*Launch.model_fields, *parts])


def test_prefect_takes_a_request_with_every_field_absent_or_null(fields: dict[str, dict[str, Any]]) -> None:
    from prefect.utilities.schema_tools.validation import validate

    schema = {"type": "object", "properties": fields, "additionalProperties": False}
    whole = Launch().model_dump(mode="json")
    units = {name: "1" for name, value in whole.items() if isinstance(value, float)}  # written with a unit, as text
    for asked in ({}, {"command": None, "stage": "train"}, {**whole, **units}):
        assert validate(asked, schema, raise_on_error=True) == [], asked  # type: ignore[arg-type]
    wrong = validate({"nodse": 2}, schema, raise_on_error=False)  # type: ignore[arg-type]
    assert len(wrong) == 1


def test_the_help_of_train_has_its_flags_in_groups() -> None:
    done = subprocess.run([SOJOURN, "train", "--help"], capture_output=True, text=True, timeout=60)
    panels = [title for title in re.findall(r"╭─ (.+?) ─", done.stdout) if title not in ("Arguments", "Options")]
    assert panels == [*form.GROUPS, "Output"]
    assert done.stdout.index("--gpu") < done.stdout.index("--cpus") and "<str>" not in done.stdout
