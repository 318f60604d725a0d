"""The console script. Its modules come before a project's own that PYTHONPATH names: `cli.py`, `tasks/`, `json.py`.

What PYTHONPATH says is for the script, which finds it in its environment as before.
"""

from __future__ import annotations

import importlib
import os
import sys


def main() -> None:
    """Run the `sojourn` command."""
    sys.path[:] = behind(sys.path, os.environ.get("PYTHONPATH", ""))
    # By its name, for this floor knows nothing of the one above; and not before, or the project's own would be found.
    importlib.import_module("cli.main").main()


def behind(path: list[str], asked: str) -> list[str]:
    """The search path with what PYTHONPATH has put in front of it at its end."""
    named = {os.path.abspath(folder or os.curdir) for folder in asked.split(os.pathsep)} if asked else set()
    users = [folder for folder in path if os.path.abspath(folder) in named]
    first = [folder for folder in path if folder not in users]
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # Where we are installed from a working tree, its folder is on no path and would be asked last.
    return [*first, *([own] if users and own not in first else []), *users]
