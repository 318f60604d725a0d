"""The options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import completion

Command = Annotated[
    list[str] | None, typer.Argument(metavar="[--] PROGRAM ARGS…", help="What to run, as you would type it here.")
]
Directory = Annotated[Path, typer.Option("--project", metavar="DIR", help="The project's directory.")]
Stage = Annotated[
    str | None, typer.Option(help="A stage of dvc.yaml to run, instead of a program.", autocompletion=completion.stages)
]
Where = Annotated[
    str | None, typer.Option(help="The provider that rents the machines.", autocompletion=completion.providers)
]
Machine = Annotated[
    str | None, typer.Option(help="A machine type of that provider.", autocompletion=completion.machines)
]
Nodes = Annotated[str | None, typer.Option(help="How many machines.")]
Processes = Annotated[str | None, typer.Option(help="Ranks on each machine: a number, or `gpu`.")]
Deadline = Annotated[str | None, typer.Option(help="For the whole run, like 90m or 2h30m.")]
Grace = Annotated[str | None, typer.Option(help="After the deadline, to stop and leave, like 60s.")]
Environment = Annotated[str | None, typer.Option(help="auto, current, or a requirements file.")]
Secrets = Annotated[list[str] | None, typer.Option("--secret", help="The name of a variable the script needs.")]
Inputs = Annotated[list[str] | None, typer.Option("--input", help="A large file or directory to send along.")]
Outputs = Annotated[list[str] | None, typer.Option("--output", help="A path that comes home even if git ignores it.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="That run's spec with today's code, from its newest checkpoint.",
        autocompletion=completion.runs,
    ),
]
ResumeArgs = Annotated[
    str | None, typer.Option(metavar="ARGS", help="Arguments added to the command when a checkpoint is restored.")
]
StoreUrl = Annotated[str | None, typer.Option("--store", metavar="URL", help="Where runs are kept.")]
YesUpload = Annotated[bool, typer.Option("--yes-upload", help="Send the project even if it is very large.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings, errors and the report alone.")]
Events = Annotated[
    bool, typer.Option("--json", help="Write events to standard output, one JSON object a line (docs/events.md).")
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or `last`.", autocompletion=completion.runs)]


def flags(**given: Any) -> dict[str, Any]:
    """Launch fields from command-line values; what was not given is left out."""
    asked = {key: value for key, value in given.items() if value is not None and value != []}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in asked.items()}
