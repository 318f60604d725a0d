"""Which dependencies the user wants: a file, or parts of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema

from sojourn.errors import nearest
from sojourn.records import Record
from sojourn.shorthand import Names

IndexStrategy = Literal["first-index", "unsafe-first-match", "unsafe-best-match"]


class Dependencies(Record):
    """A dependency file, and what of it is wanted beside what it gives without being asked."""

    file: str = Field(default="auto", description="auto, current, or the path of a dependency file.")
    extras: Names = Field(default=(), description="Extras of the project: optional-dependencies.")
    groups: Names = Field(default=(), description="Groups of the project: dependency-groups.")
    package: str | None = Field(default=None, description="The member of a uv workspace that is meant.")
    index_strategy: IndexStrategy | None = Field(
        default=None, description="How uv takes a package that several indexes have: first-index, unsafe-best-match …"
    )
    # What the flags of `uv run` in the command say beside that; see `runner`.
    python: str | None = Field(default=None, description="The Python that the command asks uv for.")
    flags: tuple[str, ...] = Field(default=(), description="The command's further flags, as uv export takes them.")


KEYS = tuple(name for name in Dependencies.model_fields if name not in ("python", "flags"))


def wanted(value: str | Dependencies) -> Dependencies:
    """What `environment:` means, whichever way it was written."""
    return Dependencies(file=value) if isinstance(value, str) else value


def with_parts(asked: object, parts: Mapping[str, object]) -> object:
    """What `environment:` says, as yet unread, with other extras or groups."""
    if isinstance(asked, Dependencies):
        return {**asked.model_dump(include=set(KEYS)), **parts}
    return {**(asked if isinstance(asked, Mapping) else {"file": asked}), **parts}


def _read(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    for key in value:
        if key not in KEYS:
            raise ValueError(f"unknown key {str(key)!r}, {nearest(str(key), KEYS)}")
    try:
        return Dependencies.model_validate(dict(value))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}") from None


def _schema() -> dict[str, Any]:
    mapping = {
        "type": "object",
        "title": "Dependencies",
        "properties": {name: {} for name in KEYS},
    }
    return {"anyOf": [{"type": "string"}, mapping]}


Wanted = Annotated[str | Dependencies, BeforeValidator(_read), WithJsonSchema(_schema())]
