"""The options that several verbs share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from cli import completion
from sojourn.spec.form import group_of, in_order

Asked = dict[str, Any]
Directory = Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's directory.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="That run's spec with today's code, from its newest checkpoint.",
        autocompletion=completion.runs,
    ),
]
StoreUrl = Annotated[str | None, typer.Option("--store", metavar="URL", help="Where runs are kept.")]
YesUpload = Annotated[bool, typer.Option("--yes-upload", help="Send the project even if it is very large.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings, errors and the report alone.")]
Events = Annotated[
    bool, typer.Option("--json", help="Write events to standard output, one JSON object a line (docs/events.md).")
]
_LAST = "A run's id, or `last`: the newest of the project here, or of all."
Run = Annotated[str, typer.Argument(metavar="RUN", help=_LAST, autocompletion=completion.runs)]


def _option(text: str, *names: str, **more: Any) -> Any:
    return Annotated[str | None, typer.Option(*names, help=text, **{"metavar": "TEXT", **more})]


def _options(name: str, text: str) -> Any:
    return Annotated[list[str] | None, typer.Option(name, help=text)]


# The fields of `launch:` that have a flag.
_LAUNCH: dict[str, Any] = {
    "command": Annotated[
        list[str] | None, typer.Argument(metavar="[--] PROGRAM ARGS…", help="What to run, as you would type it here.")
    ],
    "stage": _option("A stage of dvc.yaml to run, instead of a program.", autocompletion=completion.stages),
    "where": _option("The provider that rents the machines.", autocompletion=completion.providers),
    "machine": _option("A machine type of that provider, or a size like l+t4.", autocompletion=completion.machines),
    "gpu": _option("The GPUs of each machine, like L4, L4:4 or 80GB; instead of a machine type."),
    "cpus": _option("CPUs of each machine, at least."),
    "memory": _option("Main memory of each machine, at least, like 64GB."),
    "disk": _option("Disk of each machine, like 130GB."),
    "boot_image": _option("What the machine boots: ubuntu, nvidia, ami-…, or user@owner:arch:name."),
    "market": _option("any, spot or on-demand."),
    "regions": _options("--region", "A region to look for machines in."),
    "network": _option("internet, or none."),
    "wait": _option("For machines that nobody has just now, like 2h."),
    "nodes": _option("How many machines."),
    "cluster": Annotated[
        bool | None, typer.Option("--cluster/--no-cluster", help="Several machines stand near each other.")
    ],
    "processes": _option("Ranks on each machine: a number, `gpu`, or `own`."),
    "deadline": _option("For the whole run, like 90m or 2h30m."),
    "budget": _option("Dollars for the whole run, like 5 or '$5.50'; it ends earlier then."),
    "grace": _option("After the deadline, to stop and leave, like 60s."),
    "hold_on_failure": _option(
        "Keep the machines for so long if the script fails, to look; like 20m.", "--hold-on-failure"
    ),
    "environment": _option("auto, current, or a requirements file."),
    "extras": _options("--extra", "An extra of the project to install."),
    "groups": _options("--group", "A dependency group of the project to install."),
    "secrets": _options("--secret", "The name of a variable the script needs."),
    "inputs": _options("--input", "A large file or directory to send along."),
    "outputs": _options("--output", "A path that comes home even if git ignores it."),
    "bring": _option("How much that nobody named comes home of each new file and folder at the top, like 50GB."),
    "keep": _option("How much of what does not come home is kept in the store, like 5GB; 0 for none."),
    "resume_args": _option("Arguments added to the command when a checkpoint is restored.", metavar="ARGS"),
}


_PANELS = {
    "from_run": "What to run",
    "project": "What to run",
    "store": "Data and results",
    "yes_upload": "Data and results",
}
_OUTPUT = "Output"
_METAVARS = {
    "NAME": ("stage", "where", "machine", "boot_image", "market", "regions", "network", "secrets", "extras", "groups"),
    "GPU": ("gpu",),
    "N": ("nodes", "cpus", "processes"),
    "SIZE": ("memory", "disk", "bring", "keep"),
    "TIME": ("wait", "deadline", "grace", "hold_on_failure"),
    "DOLLARS": ("budget",),
    "PATH": ("environment", "inputs", "outputs"),
}


def _in_panel(kind: Any, panel: str) -> Any:
    """The annotation of an option, for its place in the help of a verb that has many."""
    of, told = get_args(kind)
    placed = copy(told)
    placed.rich_help_panel = panel
    return Annotated[of, placed]


def _flag(name: str) -> Any:
    """The annotation of a field's flag; a program and its arguments have a panel of their own."""
    kind = _LAUNCH[name] if name == "command" else _in_panel(_LAUNCH[name], group_of(name))
    told = get_args(kind)[1]
    told.metavar = next((shown for shown, names in _METAVARS.items() if name in names), told.metavar)
    return kind


def asking(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the flags of `launch:`; its parameter `asked` gets those that were given, by field."""

    @wraps(verb)
    def called(**values: Any) -> None:
        given = {name: value for name in _LAUNCH if (value := values.pop(name)) not in (None, [])}
        asked = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        if len(words := asked.get("command", ())) == 1 and len(words[0].split()) > 1:
            asked["command"] = words[0]  # quoted as a whole: a text, as in params.yaml
        verb(asked=asked, **values)

    own = [one for one in inspect.signature(verb, eval_str=True).parameters.values() if one.name != "asked"]
    asked_for = {name: (_flag(name), None) for name in in_order(_LAUNCH)}
    others = {one.name: (_in_panel(one.annotation, _PANELS.get(one.name, _OUTPUT)), one.default) for one in own}
    shown = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in (asked_for | others).items()
    ]
    # Typer asks the function itself what its parameters are.
    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in shown}
    return called
