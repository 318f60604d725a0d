"""The floors of the house: which folder may import which, and what a bare import may cost."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each floor may import those after it, and itself.
FLOORS = ["cli", "deployments", "flows", "tasks", "blocks", "sojourn"]
LANGUAGE_STAYS_FREE_OF = {"prefect", "boto3", "botocore", "google", "azure", "kubernetes", "torch", "typer", "rich"}
# The modules that may open an SDK: lazily, or (the reaper) as a function of the cloud that none of ours imports;
# `errors` asks botocore for its regions, once botocore has raised something.
_DOORS = [f"sojourn/providers/ec2/{name}.py" for name in ("clients", "login", "reaper", "errors")]
SDK_DOORS = {name: _DOORS for name in ("boto3", "botocore")}


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
    # A vendor's SDK is known to its provider alone, and loaded when a client is made.
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _modules("sojourn")
        for name in _imports(path)
        if name in LANGUAGE_STAYS_FREE_OF and path.relative_to(ROOT).as_posix() not in SDK_DOORS.get(name, ())
    }
    assert not found


def _agent_imports() -> dict[str, set[str]]:
    """Each module of the agent with the modules that it imports, by their whole names."""
    found: dict[str, set[str]] = {}
    for path in _modules("sojourn/agent"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                one_by_one = node.module == "sojourn.agent"
                names |= {f"{node.module}.{a.name}" for a in node.names} if one_by_one else {str(node.module)}
        found[f"sojourn.agent.{path.stem}"] = names
    return found


def test_what_travels_to_the_machine_is_python_3_8_and_needs_the_standard_library_alone() -> None:
    modules = _agent_imports()
    others = {name for names in modules.values() for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert others <= set(modules)


def test_the_agent_s_modules_import_one_way_only() -> None:
    modules = _agent_imports()
    order = list(TopologicalSorter(modules).static_order())  # raises CycleError
    assert set(modules) <= set(order)
    assert not [name for name, names in modules.items() if "sojourn.agent.pack" in names], "pack does not travel"


def test_only_the_dvc_adapter_knows_dvc() -> None:
    users = {path.name for floor in FLOORS for path in _modules(floor) if "dvc" in set(_imports(path))}
    assert users == {"dataset.py", "dvc_repo.py", "homecoming.py"}


def test_no_flow_file_is_named_like_another_module() -> None:
    # Prefect puts flows/ first on sys.path and registers the bare stem.
    taken = sys.stdlib_module_names | {"dvc", "docker", "kubernetes", "sagemaker", "torch", "prefect"}
    assert not {path.stem for path in _modules("flows")} & taken


@pytest.mark.parametrize(
    "module", ["cli.main", "sojourn.run.journey", "sojourn.providers.local", "sojourn.clouds.aws.clients"]
)
def test_importing_it_loads_neither_prefect_nor_dvc_nor_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not {"prefect", "dvc", "torch", "boto3", "google"} & set(loaded)


def test_a_plan_of_a_script_starts_fast_by_loading_little(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    code = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=open('loaded', 'w')))\n"
    code += "sys.argv[1:] = ['plan', '--', sys.executable, 'train.py']\nfrom cli.main import main\nmain()"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "SOJOURN_HOME": str(tmp_path)}
    )
    loaded = {name.split(".")[0] for name in (tmp_path / "loaded").read_text().split()}
    assert not {"prefect", "dvc", "torch", "http", "asyncio", "packaging"} & loaded
