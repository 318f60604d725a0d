"""The fields of a request in the order and the groups in which people look for them.

`sojourn train --help` draws a panel for each group. Prefect's form knows no groups and draws
the properties of a schema in their order: what people set comes first, then the rest by group,
whose name stands before the field's own. A field of one type that may be absent is written
without its null, which would be one more switch to read; Prefect takes a null for it all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

GROUPS = {
    "What to run": ("command", "stage", "environment", "extras", "groups", "variables", "secrets"),
    "Machines": (
        "where", "gpu", "machine", "nodes", "processes",
        "cpus", "memory", "disk", "boot_image", "market", "regions", "network", "cluster",
    ),
    "Limits": ("deadline", "budget", "wait", "grace", "hold_on_failure", "resumes"),
    "Data and results": (
        "inputs", "outputs", "bring", "keep", "checkpoint", "resume", "resume_args", "metrics", "project_name", "store",
    ),
}  # fmt: skip
FIRST = (
    "command", "stage", "where", "gpu", "machine", "nodes", "processes", "deadline", "budget",
    "environment", "inputs", "outputs", "secrets", "variables",
)  # fmt: skip
OTHERS = "More"


def group_of(field: str) -> str:
    """The group that a field stands in."""
    return next((group for group, fields in GROUPS.items() if field in fields), OTHERS)


def shape(schema: dict[str, Any]) -> None:
    """Order the properties of a JSON schema, and name them."""
    fields = schema["properties"]
    schema["properties"] = {name: _field(name, fields[name]) for name in in_order(fields)}


def in_order(fields: Iterable[str]) -> list[str]:
    """What people set first, then the others by group."""
    known = [*FIRST, *(name for names in GROUPS.values() for name in names if name not in FIRST)]
    return sorted(fields, key=lambda name: known.index(name) if name in known else len(known))


def _field(name: str, field: dict[str, Any]) -> dict[str, Any]:
    title = name if name in FIRST else f"{group_of(name).lower()}: {name}"
    choices = [one for one in field.get("anyOf", ()) if one != {"type": "null"}]
    plain = {key: value for key, value in field.items() if (key, value) != ("default", None)}
    if len(choices) == 1:
        del plain["anyOf"]
        plain = {**choices[0], **plain}
    return {**plain, "title": title}
