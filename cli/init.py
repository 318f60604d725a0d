"""`sojourn init`: a commented `launch:` section that fits what is found here."""

from __future__ import annotations

from pathlib import Path

from cli import options


def init(project: options.Directory = Path(".")) -> None:
    """Write a `launch:` section into params.yaml, fitting this project. What is there already stays.

    Example: sojourn init
    """
    from cli.console import out
    from sojourn.plan.template import append, draft
    from sojourn.project.project import Project
    from sojourn.providers.registry import open_provider
    from sojourn.renting import Need
    from sojourn.run.runs import data_home
    from sojourn.spec.params import PARAMS

    here = Project.at(project)
    gpus = open_provider("local", data_home()).offers(Need()).fitting[0].gpus
    made, path = draft(here, len(gpus)), here.directory / PARAMS
    before = path.read_bytes() if path.exists() else b""
    added = append(before, made.text)[len(before) :]
    with path.open("ab") as file:
        file.write(added)
    out.print(made.text, markup=False, end="")
    then = "Look at the plan: sojourn plan" if made.runs else "Name your script in it, then: sojourn plan"
    out.print(f"\nWritten to {path}. {then}", markup=False)
