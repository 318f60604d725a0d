"""Reads the records that lie in a store, whoever wrote them: the one place that says what an unreadable one means.

A record of a later version is read as far as it is understood: what it holds besides is passed over, so that
two versions can share a store. One that is empty, cut off, of another shape or too large is an
UnreadableError, which names the object; every loop over runs, machines or reports survives it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from json import JSONDecodeError
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sojourn import __version__
from sojourn.errors import UnreadableError
from sojourn.shorthand import shortened

R = TypeVar("R", bound=BaseModel)

WORDS = 160  # characters of what is wrong; some of pydantic's sentences quote the value
LIMIT = 64 << 20  # bytes; the largest real record is a manifest of 100,000 files, a third of it


def decode(body: bytes, kind: type[R], name: str) -> R:
    """The record of an object `name`. Raises UnreadableError."""
    _check_size(body, name)
    try:
        return kind.model_validate_json(body, extra="ignore")
    except Exception as error:  # not pydantic's own alone: a validator of ours may stumble over what it is given
        raise UnreadableError(f"{name} cannot be read: {_reason(body, error)}", hint=_hint(name, body)) from error


def decode_values(values: dict[str, Any], kind: type[R], name: str) -> R:
    """The same of a record that lay in another one."""
    try:
        return kind.model_validate(values, extra="ignore")
    except Exception as error:
        raise UnreadableError(f"{name} cannot be read: {_first(error)}", hint=_hint(name)) from error


def decode_object(body: bytes, name: str) -> dict[str, Any]:
    """A JSON object of whatever fields, for readers that must not mind its version. Raises UnreadableError."""
    _check_size(body, name)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{name} cannot be read: {_reason(body, error)}", hint=_hint(name)) from error
    if not isinstance(value, dict):
        raise UnreadableError(f"{name} cannot be read: it is no JSON object", hint=_hint(name))
    return value


def _made_by(body: bytes) -> str | None:
    """Which Sojourn wrote a record, where it says so."""
    with suppress(ValueError, RecursionError):
        value = json.loads(body)
        told = value.get("made_by") if isinstance(value, dict) else None
        return shortened(told, 40) if isinstance(told, str) else None
    return None


def _check_size(body: bytes, name: str) -> None:
    if len(body) > LIMIT:
        raise UnreadableError(f"{name} cannot be read: {len(body):,} bytes are no record of ours", hint=_hint(name))


def _reason(body: bytes, error: Exception) -> str:
    if not body.strip(b"\0 \n"):
        return "it is empty, as a power cut or a full disk leaves it"
    return "it is no JSON" if isinstance(error, (JSONDecodeError, UnicodeError, RecursionError)) else _first(error)


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"a field has a value that it cannot have ({type(error).__name__})"
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(part for part in map(str, found["loc"]) if "[" not in part)  # pydantic's names of types
    return shortened(f"{where}: {found['msg']}" if where else found["msg"], WORDS)


def _hint(name: str, body: bytes = b"") -> str:
    if (version := _made_by(body)) and version != __version__:
        return f"Sojourn {version} wrote it, and this is {__version__}: use that one; the object is {name}"
    return f"if a later version of Sojourn wrote it, update this one; the object is {name}"
