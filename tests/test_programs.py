"""What is printed as the next thing to type can be typed, also where `sojourn` alone is on the PATH."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sojourn import programs

ROOT = Path(__file__).parent.parent
FLOORS = ("cli", "deployments", "flows", "tasks", "blocks", "sojourn")
TYPED = re.compile(
    r"(?<!sojourn )\b"
    r"(dvc (push|pull|fetch|status|init|repro|remote|stage|cache|add|commit|checkout|install|config|doctor|diff|gc)|"
    r"prefect (worker|block|config|deployment|server|work-pool|flow-run|profile|cloud|version))\b"
)


def _told(path: Path) -> Iterator[str]:
    """Every text of a module that may be printed: not its docstrings, nor what a field is described by."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            node.body = node.body[1:]
        if isinstance(node, ast.keyword) and node.arg == "description":
            node.value = ast.Constant(None)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.List) and node.elts and isinstance(node.elts[0], ast.Constant):  # words for shlex
            yield " ".join(str(word.value) for word in node.elts if isinstance(word, ast.Constant))


def test_no_hint_names_a_program_that_may_not_be_on_the_path() -> None:
    modules = [path for floor in FLOORS for path in (ROOT / floor).rglob("*.py") if path.name != "programs.py"]
    found = [f"{path.relative_to(ROOT)}: {text}" for path in modules for text in _told(path) if TYPED.search(text)]
    assert not found, "write programs.dvc('…') or sojourn prefect …"


@pytest.mark.parametrize(("on_path", "typed"), [(True, "dvc push"), (False, "sojourn dvc push")])
def test_dvc_is_named_as_it_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: bool, typed: str
) -> None:
    if on_path:
        (tmp_path / "dvc").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert programs.dvc("push") == typed


def test_a_module_of_the_users_does_not_take_the_place_of_dvc(tmp_path: Path) -> None:
    (tmp_path / "dvc.py").write_text("raise SystemExit('theirs')")
    sojourn = shutil.which("sojourn", path=str(Path(sys.executable).parent))
    done = subprocess.run([str(sojourn), "dvc", "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.count(".")) == (0, 2), done.stderr


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({}, "http://127.0.0.1:4200/api"),
        pytest.param({"PREFECT_SERVER_API_PORT": "4321"}, "http://127.0.0.1:4321/api", marks=pytest.mark.slow),
        pytest.param({"PREFECT_API_URL": "http://example.com/api"}, "http://example.com/api", marks=pytest.mark.slow),
    ],
)
def test_prefect_asks_the_server_that_sojourn_uses(tmp_path: Path, settings: dict[str, str], asked: str) -> None:
    sojourn = shutil.which("sojourn", path=str(Path(sys.executable).parent))
    known = {"PATH": os.defpath, "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect"), "COLUMNS": "200"}
    done = subprocess.run(
        [str(sojourn), "prefect", "config", "view"],
        env={**known, **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"PREFECT_API_URL='{asked}'" in done.stdout, done.stdout + done.stderr
