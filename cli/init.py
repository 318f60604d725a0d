"""`sojourn init`: a commented `launch:` section that fits what is found here."""

from __future__ import annotations

from pathlib import Path

from cli import options


def init(project: options.Directory = Path(".")) -> None:
    """Write a `launch:` section into params.yaml, fitting this project. What is there already stays.

    Example: sojourn init
    """
    from cli.console import out
    from sojourn.errors import SpecError
    from sojourn.project import Project
    from sojourn.spec import PARAMS, read_section
    from sojourn.template import launch_section

    here = Project.at(project)
    if read_section(here.directory):
        raise SpecError(f"{PARAMS} has a launch: section already", hint="see what it means: sojourn plan")
    section = launch_section(here)
    path = here.directory / PARAMS
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    path.write_text(before + gap + section, encoding="utf-8")
    out.print(section, markup=False, end="")
    out.print(f"Written to {path}. Look at the plan: sojourn plan", markup=False)
