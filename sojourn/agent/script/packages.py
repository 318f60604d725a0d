"""The project's own packages as the script's Python sees them: installed, with the code that lies in the tree.

Beside the tree stands a folder with what pip would leave of an editable installation: the
metadata, the paths, the programs. An environment of ours takes that folder in by itself
(see agent/venv.py), at the end of sys.path, where an editable installation has it too. Any other
Python gets it by PYTHONPATH, before what is installed there.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

from sojourn.agent.files import Json
from sojourn.agent.paths import inside
from sojourn.agent.script.venv import SITE, is_open_to_packages

FOLDER = "packages"
PROGRAM = """\
#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
import re
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.argv[0] = re.sub(r"(-script\\.pyw|\\.exe)?$", "", sys.argv[0])
    sys.exit({function}())
"""
_TARGET = re.compile(r"^\s*(?P<module>[\w.]+)\s*:\s*(?P<name>\w+)(?P<rest>(\.\w+)*)\s*$")


def search_path(path: str, root: str) -> str:
    """Each directory once; what is relative begins at the tree's root."""
    return os.pathsep.join(_distinct(os.path.join(root, one) if one else one for one in path.split(os.pathsep)))


def serve(packages: list[Json], first: list[str], root: str, scratch: str, env: dict[str, str]) -> dict[str, str]:
    """Lay the packages out; the variables with which the script finds them.

    `first` is what PYTHONPATH holds, relative to the tree or absolute. Programs run with `python` of env's PATH.
    """
    path = [os.path.normpath(os.path.join(root, one)) for one in first]
    path += [one for one in env.get("PYTHONPATH", "").split(os.pathsep) if one]
    if not packages:
        return {"PYTHONPATH": os.pathsep.join(path)} if path else {}
    site, programs = os.path.join(scratch, FOLDER, "site"), os.path.join(scratch, FOLDER, "bin")
    for folder in (site, programs):
        os.makedirs(folder, exist_ok=True)
    modules = _distinct(os.path.normpath(os.path.join(root, one)) for package in packages for one in package["paths"])
    for package in packages:
        _write_metadata(package, site, root)
        _write_generated(package, root)
        _write_programs(package, programs, root, env)
    variables = {"PATH": os.pathsep.join([programs, env["PATH"]])}
    if env.get("VIRTUAL_ENV") and is_open_to_packages(env["VIRTUAL_ENV"]):
        _write(os.path.join(site, "packages.pth"), "".join(f"{one}\n" for one in modules))
        return {**variables, SITE: site, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}
    return {**variables, "PYTHONPATH": os.pathsep.join([*path, *modules, site])}


def _write_metadata(package: Json, site: str, root: str) -> None:
    name = re.sub(r"[^A-Za-z0-9]+", "_", package["name"])
    info = os.path.join(site, f"{name}-{re.sub('[^A-Za-z0-9.+!_]+', '_', package['version'])}.dist-info")
    os.makedirs(info, exist_ok=True)
    _write(os.path.join(info, "METADATA"), package["metadata"])
    _write(os.path.join(info, "INSTALLER"), "sojourn\n")
    _write(os.path.join(info, "RECORD"), "")
    if package["entry_points"]:
        _write(os.path.join(info, "entry_points.txt"), package["entry_points"])


def _write_generated(package: Json, root: str) -> None:
    for name, text in package.get("generated", {}).items():
        path = inside(root, name)
        if os.path.isdir(os.path.dirname(path)) and not os.path.lexists(path):
            _write(path, text)


def _write_programs(package: Json, folder: str, root: str, env: dict[str, str]) -> None:
    python = _which("python", env["PATH"]) or _which("python3", env["PATH"]) or "python3"
    for name, target in package["scripts"].items():
        found = _TARGET.match(target)
        if found is None:
            continue
        text = PROGRAM.format(
            python=shlex.quote(python),
            module=found["module"],
            name=found["name"],
            function=found["name"] + found["rest"],
        )
        _write(os.path.join(folder, name), text, 0o755)
    for name, where in package["files"].items():
        link = os.path.join(folder, name)
        if not os.path.lexists(link):
            os.symlink(os.path.join(root, where), link)


def _which(name: str, path: str) -> str | None:
    found = (os.path.join(folder, name) for folder in path.split(os.pathsep))
    return next((one for one in found if os.access(one, os.X_OK) and not os.path.isdir(one)), None)


def _write(path: str, text: str, mode: int = 0o644) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def _distinct(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(paths))
