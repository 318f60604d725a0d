"""What the script's environment has beside its packages, made here or on the host where the run began."""

from __future__ import annotations

import glob
import os
import subprocess

SITE = "SOJOURN_SITE"  # names a folder of packages, see agent/packages.py
# In the site-packages of an environment of ours; Python carries out such a line at its start.
LINE = f"import os, site; list(map(site.addsitedir, filter(None, os.environ.get({SITE!r}, '').split(os.pathsep))))\n"
LINE_FILE = "_sojourn.pth"
SEEDS_LIMIT_S = 60.0
RUNNER = """\
#!/bin/sh
if [ "$1" = run ] && [ $# -gt 1 ]; then
    shift
    exec "$@"
fi
echo "{name}: this machine has its packages already and can only: {name} run PROGRAM" >&2
exit 127
"""
_BUNDLED = """
import ensurepip, os, sys, sysconfig
kept = [sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")]
wanted = ("pip-",) if sys.version_info >= (3, 12) else ("pip-", "setuptools-")
for folder in kept:
    found = sorted(os.listdir(folder)) if folder and os.path.isdir(folder) else []
    wheels = {name.split("-")[0]: name for name in found if name.startswith(wanted) and name.endswith(".whl")}
    for name in wheels.values():
        print(os.path.join(folder, name))
    if wheels:
        break
"""


def switched_on(venv: str) -> dict[str, str]:
    """What makes uv, poetry, pdm and pipenv run with this environment as it is, instead of making one of their own."""
    return {"VIRTUAL_ENV": venv, "UV_PROJECT_ENVIRONMENT": venv, "UV_NO_SYNC": "1"}


def runners(folder: str) -> None:
    """`poetry run X` and its like for a machine that lacks them: in an environment that is switched on, X itself."""
    for name in ("poetry", "pdm", "pipenv"):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(RUNNER.format(name=name))
        os.chmod(path, 0o755)


def bundled(python: str) -> list[str]:
    """The wheels with which `python -m venv` would begin: pip, and before Python 3.12 setuptools.

    They lie beside the interpreter, so this needs no network and no index. None where the distribution took them out.
    """
    try:
        found = subprocess.run([python, "-I", "-c", _BUNDLED], capture_output=True, text=True, timeout=SEEDS_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return found.stdout.splitlines() if found.returncode == 0 else []


def open_to_packages(venv: str) -> None:
    """Let an environment take in the folder that the variable names, at the end of sys.path."""
    for folder in glob.glob(os.path.join(glob.escape(venv), "lib", "python*", "site-packages")):
        with open(os.path.join(folder, LINE_FILE), "w", encoding="utf-8") as file:
            file.write(LINE)


def is_open_to_packages(venv: str) -> bool:
    """Whether it is one of ours."""
    return bool(glob.glob(os.path.join(glob.escape(venv), "lib", "python*", "site-packages", LINE_FILE)))
