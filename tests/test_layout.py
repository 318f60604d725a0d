"""The floors of the house: which folder may import which, and what a bare import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each floor may import those after it, and itself.
FLOORS = ["cli", "deployments", "flows", "tasks", "blocks", "sojourn"]
LANGUAGE_STAYS_FREE_OF = {"prefect", "boto3", "botocore", "google", "azure", "kubernetes", "torch", "typer", "rich"}


def _modules(floor: str) -> list[Path]:
    return sorted((ROOT / floor).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_downwards_only(floor: str) -> None:
    above = set(FLOORS[: FLOORS.index(floor)])
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _modules(floor)
        for name in _imports(path)
        if name in above
    }
    assert not found


def test_the_language_knows_no_prefect_and_no_vendor() -> None:
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _modules("sojourn")
        for name in _imports(path)
        if name in LANGUAGE_STAYS_FREE_OF
    }
    assert not found


@pytest.mark.parametrize("module", ["agent", "supervisor"])
def test_what_travels_to_the_machine_needs_the_standard_library_alone(module: str) -> None:
    used = set(_imports(ROOT / "sojourn" / "agent" / f"{module}.py"))
    assert used <= sys.stdlib_module_names


def test_only_the_dvc_adapter_knows_dvc() -> None:
    users = {path.name for floor in FLOORS for path in _modules(floor) if "dvc" in set(_imports(path))}
    assert users == {"dataset.py", "homecoming.py"}


def test_no_flow_file_is_named_like_another_module() -> None:
    # Prefect puts flows/ first on sys.path and registers the bare stem.
    taken = sys.stdlib_module_names | {"dvc", "docker", "kubernetes", "sagemaker", "torch", "prefect"}
    assert not {path.stem for path in _modules("flows")} & taken


@pytest.mark.parametrize("module", ["cli.main", "sojourn.journey", "sojourn.providers.local"])
def test_importing_it_loads_neither_prefect_nor_dvc_nor_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"prefect", "dvc", "torch", "boto3", "google"} & set(loaded)
