"""`sojourn exec RUN -- CMD`: one command on a machine of a run, without a port or a key."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli import options


def execute(
    run: options.Run,
    command: Annotated[list[str], typer.Argument(metavar="-- PROGRAM ARGS…", help="What to run there.")],
    node: Annotated[int, typer.Option(help="The machine, from 0.")] = 0,
    timeout: Annotated[str, typer.Option(help="It is ended after this long, like 60s or 5m.")] = "60s",
    store: options.StoreUrl = None,
) -> None:
    """Run one command on a machine of a run whose script runs, or failed and is held; its exit code is the command's.

    It runs in the script's directory and environment, through the store. It is ended after its time (exit code 124),
    and with its script; the first MB of each of its outputs is shown.

    Example: sojourn exec last -- nvidia-smi
    """
    from cli.raw import to_stream
    from cli.world import named_run, stores_for
    from sojourn.harmless import line
    from sojourn.run import execute as remote
    from sojourn.shorthand import format_bytes
    from sojourn.waiting import SystemClock

    mailbox = named_run(run, stores_for(run, store))
    done = remote.execute(mailbox, node, command, _seconds(timeout), SystemClock())
    for stream, body in ((sys.stdout, done.stdout), (sys.stderr, done.stderr)):
        to_stream(stream)(body)
        stream.flush()
    answer = done.answer
    for name, printed in (("standard output", answer.stdout_bytes), ("standard error", answer.stderr_bytes)):
        if printed > remote.OUTPUT_KEPT:
            typer.echo(f"sojourn: {name} was {format_bytes(printed)}, of which the first MB is shown", err=True)
    if answer.message:
        typer.echo(f"sojourn: {line(answer.message)}", err=True)
    raise typer.Exit(answer.exit_code or 0)


def _seconds(timeout: str) -> float:
    from sojourn.errors import SpecError
    from sojourn.shorthand import parse_duration

    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        raise SpecError(f"--timeout: {error}") from None
    if seconds <= 0:
        raise SpecError(f"--timeout: {timeout!r} is no time at all", hint="write it like 60s")
    return seconds
