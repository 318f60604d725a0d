"""The `launch:` section of a params.yaml, which is the user's own file first.

What is in the rest of it is none of our business: a file with tags, templates or several documents that
plain YAML does not know must not keep a run from starting. Only its `launch:` section must be readable,
and is read by itself where the whole is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sojourn.errors import SpecError, first_line

PARAMS = "params.yaml"
_OURS = re.compile(r"""^(?:launch|'launch'|"launch")[ \t]*:(?=\s|$)""", re.MULTILINE)
_FLOW = re.compile(r"""\A\s*(?:#.*\n\s*)*\{.*\blaunch['"]?\s*:""", re.DOTALL)  # {launch: {…}}, all in braces
_MERGED = "tag:yaml.org,2002:merge"  # `<<: *other`, which may stand more than once
_TEMPLATE = re.compile(r"\{\{|\{%|\{#")
# Not all that PyYAML raises is of its own: a date without such a day, a key that is a list, a thousand brackets.
_BROKEN = (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError)


@dataclass(frozen=True)
class _Read:
    section: Mapping[str, Any]
    note: str | None = None


def read_section(directory: Path) -> Mapping[str, Any]:
    """The `launch:` section of a directory's params.yaml as it stands, empty without one. Raises SpecError."""
    return _read(directory / PARAMS).section


def unread(directory: Path) -> tuple[str, ...]:
    """What a plan says of a params.yaml that is no plain YAML."""
    note = _read(directory / PARAMS).note
    return (note,) if note else ()


def _read(path: Path) -> _Read:
    if not path.is_file():
        return _Read({})
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}", hint="look whose it is: ls -l params.yaml") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"launch" in raw.replace(b"\0", b""):
            raise _broken(path, error, 0) from None
        return _Read({}, _not_ours(error))
    starts = [match.start() for match in _OURS.finditer(text)]
    if len(starts) > 1:
        lines = " and ".join(str(text.count("\n", 0, start) + 1) for start in starts)
        raise SpecError(f"{PARAMS}: launch: stands more than once, in lines {lines}", hint=f"keep one of them: {path}")
    try:
        content = _loaded(path, text, 0)
    except _BROKEN as error:
        return _by_itself(path, text, starts, error)
    return _Read(_section(content))


def _by_itself(path: Path, text: str, starts: list[int], error: Exception) -> _Read:
    """Our section of a file that is not plain YAML as a whole."""
    if not starts:
        if _FLOW.match(text):
            raise _broken(path, error, 0) from None
        return _Read({}, _not_ours(error))
    head, rest = text[: starts[0]], text[starts[0] :].splitlines(keepends=True)
    ends = next((at for at, line in enumerate(rest[1:], 1) if line.strip() and line[0] not in " \t#-}]"), len(rest))
    ends = next((at for at, line in enumerate(rest[1:ends], 1) if line.startswith(("---", "..."))), ends)
    ours, above = "".join(rest[:ends]), head.count("\n")
    if _TEMPLATE.search(ours):
        what = "a template stands in it, and nobody fills it in before it is read"
        raise SpecError(f"{PARAMS}: launch: in line {above + 1}: {what}", hint=f"write plain values: {path}") from None
    try:
        section = _section(_loaded(path, ours, above))
    except _BROKEN as own:
        raise _broken(path, own, above) from None
    return _Read(section, f"{PARAMS} is not plain YAML ({_where(error, 0)}): its launch: section is read by itself")


def _loaded(path: Path, text: str, above: int) -> object:
    """What plain YAML says. Raises SpecError for a field of ours that stands twice, of which YAML takes the last."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        _check_once(path, [one for one in _pairs(node) if one[0].value == "launch"], "", above)
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _check_once(path: Path, fields: list[tuple[yaml.ScalarNode, yaml.Node]], within: str, above: int) -> None:
    lines: dict[str, int] = {}
    for name, value in fields:
        field, line = f"{within}{name.value}", name.start_mark.line + 1 + above
        if field in lines:
            where = f"lines {lines[field]} and {line}"
            raise SpecError(f"{PARAMS}: {field}: stands more than once, in {where}", hint=f"keep one of them: {path}")
        if name.tag != _MERGED:
            lines[field] = line
        _check_once(path, _pairs(value), f"{field}.", above)


def _pairs(node: object) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """The fields of a mapping, by their names."""
    if not isinstance(node, yaml.MappingNode):
        return []
    return [(name, value) for name, value in node.value if isinstance(name, yaml.ScalarNode)]


def _section(content: object) -> Mapping[str, Any]:
    section = content.get("launch") if isinstance(content, dict) else None
    if section is not None and not isinstance(section, dict):
        raise SpecError(f"{PARAMS}: launch: {section!r} is not a mapping", hint="write fields below it, like  nodes: 1")
    return {str(key): value for key, value in (section or {}).items()}


def _not_ours(error: Exception) -> str:
    return f"{PARAMS} is not plain YAML ({_where(error, 0)}): no launch: section is read from it"


def _broken(path: Path, error: Exception, above: int) -> SpecError:
    return SpecError(f"{PARAMS}: not valid YAML: {_where(error, above)}", hint=f"mend that line: {path}")


def _where(error: Exception, above: int) -> str:
    """What is wrong, and in which line of the file; `above` are the lines before the text that was read."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return first_line(error)
    problem = getattr(error, "problem", None) or "cannot be read"
    return f"{problem} in line {mark.line + 1 + above}, column {mark.column + 1}"
