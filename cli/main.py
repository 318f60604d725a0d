"""`sojourn`: the command itself. Verbs import what they need when they run, to start fast."""

from __future__ import annotations

import gc
import io
import os
import sys

import typer

from cli import (
    attach,
    deploy,
    doctor,
    execute,
    init,
    logs,
    plan,
    programs,
    pull,
    purge,
    reap,
    recorded,
    runs,
    secret,
    setup,
    show,
    stop,
    train,
    ui,
)
from sojourn import __version__
from sojourn.errors import ExitCode, SojournError
from sojourn.project import git

app = typer.Typer(
    name="sojourn",
    help="Take a training script to rented machines, bring the results home, leave nothing behind.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
# A command's own options come after the program's name: `sojourn train python train.py --epochs 3`.
_WITH_COMMAND = {"allow_interspersed_args": False}

_TRAIN, _RUNS, _GONE = "Train", "Look at runs", "Leave nothing behind"
_PREFECT, _BESIDE = "In Prefect", "Accounts and data"
app.command("init", rich_help_panel=_TRAIN)(init.init)
app.command("doctor", rich_help_panel=_TRAIN)(doctor.doctor)
app.command("plan", rich_help_panel=_TRAIN, context_settings=_WITH_COMMAND)(plan.plan)
app.command("train", rich_help_panel=_TRAIN, context_settings=_WITH_COMMAND)(train.train)
app.command("runs", rich_help_panel=_RUNS)(runs.runs)
app.command("show", rich_help_panel=_RUNS)(show.show)
app.command("logs", rich_help_panel=_RUNS)(logs.logs)
app.command("attach", rich_help_panel=_RUNS)(attach.attach)
app.command("exec", rich_help_panel=_RUNS)(execute.execute)
app.command("stop", rich_help_panel=_RUNS)(stop.stop)
app.command("pull", rich_help_panel=_RUNS)(pull.pull)
app.command("reap", rich_help_panel=_GONE)(reap.reap)
app.command("purge", rich_help_panel=_GONE)(purge.purge)
app.command("deploy", rich_help_panel=_PREFECT)(deploy.deploy)
app.command("ui", rich_help_panel=_PREFECT)(ui.ui)
app.command("prefect", rich_help_panel=_PREFECT, context_settings=programs.AS_IT_IS)(programs.prefect)
app.add_typer(setup.app, name="setup", rich_help_panel=_BESIDE)
app.add_typer(secret.app, name="secret", rich_help_panel=_BESIDE)
app.command("dvc", rich_help_panel=_BESIDE, context_settings=programs.AS_IT_IS)(programs.dvc)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sojourn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Take a training script to rented machines, bring the results home, leave nothing behind."""


def main() -> None:
    """The console script."""
    code = ExitCode.OK
    for name in git.ELSEWHERE:  # DVC and Prefect ask git too, and what a hook has set is not for them
        os.environ.pop(name, None)
    try:
        _run()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else code
        raise
    finally:
        recorded.leave(code)


def _run() -> None:
    """One sentence and an exit code for whatever goes wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a sign that the terminal's encoding lacks ends no command
    gc.set_threshold(50_000)  # imports make 200,000 objects that stay; looking through them time and again takes 0.1 s
    try:
        app()
    except SojournError as error:
        from cli.console import show_error

        show_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.STOPPED)
    except Exception as error:  # code 1 says that the script failed, so nothing else may end with it
        from cli.faults import told

        typer.echo(f"error: {_of_prefect(error) or told(error, sys.argv[1:])}", err=True)
        sys.exit(ExitCode.INFRASTRUCTURE)
    finally:
        gc.freeze()  # else the interpreter's last collections walk all of Prefect once more, for 0.2 s


def _of_prefect(error: Exception) -> SojournError | None:
    """What a Prefect server refused in the middle of a command, if that is what went wrong."""
    if "prefect" not in sys.modules:
        return None
    from cli.refusals import call_refusal

    return call_refusal(error)
