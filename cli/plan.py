"""`sojourn plan`: what a run would do, before anything exists."""

from __future__ import annotations

from pathlib import Path

import typer

from cli import options


def plan(
    command: options.Command = None,
    from_run: options.From = None,
    project: options.Directory = Path("."),
    stage: options.Stage = None,
    where: options.Where = None,
    machine: options.Machine = None,
    nodes: options.Nodes = None,
    processes: options.Processes = None,
    deadline: options.Deadline = None,
    grace: options.Grace = None,
    environment: options.Environment = None,
    secrets: options.Secrets = None,
    inputs: options.Inputs = None,
    outputs: options.Outputs = None,
    resume_args: options.ResumeArgs = None,
    store: options.StoreUrl = None,
    yes_upload: options.YesUpload = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what `sojourn train` would do. Creates nothing.

    Example: sojourn plan -- python train.py --epochs 3
    """
    from cli.console import out, show_plan
    from cli.world import prepare_plan

    asked = options.flags(
        command=command, stage=stage, where=where, machine=machine, nodes=nodes, processes=processes, deadline=deadline,
        grace=grace, environment=environment, secrets=secrets, inputs=inputs, outputs=outputs,
        resume_args=resume_args,
    )  # fmt: skip
    made = prepare_plan(project, asked, store, yes_upload, from_run)
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
        return
    show_plan(made)
    out.print("Nothing was created. Run it: sojourn train with the same words.")
