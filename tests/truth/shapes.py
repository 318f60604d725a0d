"""What botocore's models say of a request and botocore itself does not check: enums, patterns, lengths.

https://github.com/boto/botocore/blob/develop/botocore/validate.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

# Lists that grow faster than models do; Amazon says itself whether it knows a value.
OPEN = {"InstanceType"}


def problems(shape: Any, value: Any, path: str = "") -> Iterator[str]:
    """Everything in a value that its shape does not allow, and each member that it does not know."""
    kind = shape.type_name
    if kind == "structure":
        yield from _of_structure(shape, value, path)
    elif kind == "list":
        yield from _of_length(shape, len(value), f"{path} has {len(value)} items")
        for number, one in enumerate(value):
            yield from problems(shape.member, one, f"{path}[{number}]")
    elif kind == "map":
        for key, one in value.items():
            yield from problems(shape.key, key, f"{path} key {key!r}")
            yield from problems(shape.value, one, f"{path}[{key!r}]")
    elif kind == "string":
        yield from _of_string(shape, value, path)
    elif kind in ("integer", "long") and not isinstance(value, bool):
        yield from _of_length(shape, value, f"{path} is {value}")


def _of_structure(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for name in shape.required_members:
        if name not in value:
            yield f"{path}.{name} is missing"
    for name, one in value.items():
        if name not in shape.members:
            yield f"{path}.{name} is not known"
        elif one is not None:
            yield from problems(shape.members[name], one, f"{path}.{name}")


def _of_string(shape: Any, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        return
    if shape.enum and value not in shape.enum and shape.name not in OPEN:
        yield f"{path}: {value!r} is none of {', '.join(shape.enum[:8])}"
    pattern = _compiled(shape.metadata.get("pattern"))
    if pattern and not pattern.fullmatch(value):
        yield f"{path}: {value[:80]!r} does not match {pattern.pattern}"
    yield from _of_length(shape, len(value), f"{path} has {len(value)} characters")


def _of_length(shape: Any, length: int, said: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and length < least or most is not None and length > most:
        yield f"{said}, and {shape.name} takes {least} to {most}"


@cache
def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern, re.DOTALL) if pattern else None
    except re.error:  # Java's, and no pattern in Python
        return None
