"""The floors of the house: which folder may import which, and what a bare import may cost."""

from __future__ import annotations

import ast
import os
import re
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
# The wings of the language: each may import those before it, and itself. The ground words stand in `sojourn` itself.
WINGS = [
    "",
    "agent",
    "clouds",
    "spec",
    "secrets",
    "store",
    "providers",
    "project",
    "environment",
    "plan",
    "lease",
    "watch",
    "results",
    "run",
]
GROUND = {
    *("errors", "names", "records", "protocol", "renting", "receipts", "shorthand", "waiting"),
    *("decoding", "entry", "harmless", "omissions", "places", "programs", "sharing"),
}
# The modules that may open an SDK: lazily, or (the reaper) as a function of the cloud that none of ours imports;
# `errors` asks botocore for its regions, once botocore has raised something.
_DOORS = [f"sojourn/clouds/aws/{name}.py" for name in ("clients", "expiry", "reaper_function", "errors")]
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


def _wing(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (ROOT / "sojourn" / parts[-1]).is_dir() else ""


def _whole_imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, lazily too, by its whole name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("sojourn."))
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("sojourn"):
            for alias in node.names:
                one = f"{node.module}.{alias.name}"
                is_module = (ROOT / one.replace(".", "/")).with_suffix(".py").exists()
                yield one if is_module or node.module == "sojourn" else str(node.module)


def test_each_wing_imports_only_what_lies_below_it() -> None:
    uphill = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _modules("sojourn")
        for name in _whole_imports(path)
        if WINGS.index(_wing(name)) > WINGS.index(_wing(".".join(path.relative_to(ROOT).with_suffix("").parts)))
    }
    assert not uphill


def test_every_module_stands_in_a_wing_or_is_a_ground_word() -> None:
    assert {path.name for path in (ROOT / "sojourn").iterdir() if path.is_dir()} - {"__pycache__"} == {*WINGS} - {""}
    assert {path.stem for path in (ROOT / "sojourn").glob("*.py")} - {"__init__"} == GROUND


# Where a cloud may be named by code: its own folders, the agent's files for it, its block, and the tables.
_CLOUDS_OWN = re.compile(
    r"sojourn/(clouds/aws|providers/ec2)/|blocks/aws\.py|sojourn/providers/(registry\.py|machines\.csv)"
    r"|sojourn/(clouds|agent/clouds|agent/stores)/(registry|stores)\.py|blocks/registry\.py"
    r"|sojourn/agent/(bootstrap\.py|stores/(s3|multipart)\.py|clouds/(ec2|imds|parameters|sigv4|credentials)\.py)"
)
_CLOUDS = re.compile(r"(?<![A-Za-z])(aws|ec2|amazon|s3|boto3?)(?![A-Za-z])", re.IGNORECASE)
# What is not about renting: other tools' names, files of secrets, and examples in help, hints and docstrings.
_EXAMPLES = {
    "cli/setup.py": 1,
    "flows/reap.py": 1,
    "flows/train.py": 1,
    "sojourn/agent/claim.py": 2,
    "sojourn/agent/interrupts.py": 1,
    "sojourn/agent/stores/store.py": 2,
    "sojourn/plan/template.py": 1,
    "sojourn/plan/text.py": 1,
    "sojourn/project/dvc/dataset.py": 1,
    "sojourn/project/dvc/refusals.py": 2,
    "sojourn/project/dvc/remote.py": 1,
    "sojourn/project/dvc/repo.py": 1,
    "sojourn/project/self_acting.py": 1,
    "sojourn/providers/local.py": 2,
    "sojourn/records.py": 1,
    "sojourn/secrets/secret_files.py": 5,
    "sojourn/spec/peers.py": 2,
    "sojourn/store/blobs.py": 1,
    "sojourn/store/known_stores.py": 1,
    "sojourn/store/storage.py": 6,
}


def test_a_cloud_is_named_where_it_lives_in_the_tables_and_in_examples_alone() -> None:
    named: dict[str, int] = {}
    for floor in FLOORS:
        for path in _modules(floor):
            name = path.relative_to(ROOT).as_posix()
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _CLOUDS.search(line)]
            if lines and not _CLOUDS_OWN.match(name):
                named[name] = len(lines)
    assert named == _EXAMPLES


def test_packages_are_empty_so_that_importing_one_module_imports_no_other() -> None:
    full = {path.parent.name for path in _modules("sojourn") if path.name == "__init__.py" and path.stat().st_size}
    assert full == {"sojourn", "agent"}, "the first has the version, the second says what an agent is"


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
                each = [f"{node.module}.{alias.name}" for alias in node.names]
                modules = [one for one in each if (ROOT / one.replace(".", "/")).with_suffix(".py").exists()]
                names |= set(modules) or {str(node.module)}
        found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = names
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
    assert users == {"dataset.py", "repo.py", "commit.py"}


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
