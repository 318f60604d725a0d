"""A command as it was typed, for lines that end with what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer


def again(running: typer.Context, *further: str, but: Collection[str] = ()) -> str:
    """The command `running` with `further` flags; of its own, not those of the parameters named in `but`."""
    words: list[str] = []
    for parameter in running.command.params:
        source = running.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in but:
            flag = parameter.opts[0] if parameter.param_type_name == "option" else None
            words += _words(flag, running.params[str(parameter.name)])
    # The first word is whatever the program was started as.
    return shlex.join(["sojourn", *running.command_path.split()[1:], *words, *further])


def _words(flag: str | None, value: Any) -> Iterator[str]:
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if flag is not None:
            yield flag
        if one is not True:
            yield str(one)
