"""What `sojourn doctor` sees, and that each thing missing comes with the command that mends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_disk import fill, small_disk

from sojourn.clouds.account import Check
from sojourn.errors import SojournError, SpecError
from sojourn.plan.planning import Plan
from sojourn.project.project import Project
from sojourn.providers.local import LocalProvider
from sojourn.run import doctor
from sojourn.run.doctor import examine_project
from sojourn.spec.launch import read_launch
from sojourn.store.storage import Store


def distribution(folder: Path, name: str, version: str, needs: str = "") -> None:
    """An installed package as pip leaves it, without any code."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = "".join(f"Requires-Dist: {need}\n" for need in needs.split(", ") if need)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}")


@pytest.mark.parametrize(
    ("needs", "state", "found"),
    [
        ("brick>=1<3", "good", ""),
        ("brick<2", "missing", "brick is 2.5, and <2 is needed"),
        ("mortar, brick", "missing", "mortar is not installed"),
        ('mortar; extra == "house", brick', "good", ""),
    ],
)
def test_a_package_of_a_version_that_does_not_work_is_named_with_the_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: str, state: str, found: str
) -> None:
    distribution(tmp_path, "house", "1.0", needs.replace("1<", "1,<"))
    distribution(tmp_path, "brick", "2.5")
    monkeypatch.syspath_prepend(str(tmp_path))

    check = doctor.packages("house")

    assert check.state == state
    assert found in check.found
    assert state == "good" or "pip install" in str(check.mend)


def test_macos_is_said_to_be_weaker() -> None:
    check = doctor.host("darwin")
    assert check.state == "weak"
    assert "may survive" in check.found
    assert doctor.host("linux").state == "good"


@pytest.mark.parametrize(("system", "mend"), [("linux", "apt-get"), ("darwin", "xcode-select")])
def test_a_host_without_git_works_and_is_told_what_that_means(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: str, mend: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    check = doctor.git(system)
    assert check.state == "weak"
    assert mend in str(check.mend)


def test_a_data_directory_that_cannot_be_made_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = doctor.place(tmp_path / "file" / "home")
    assert (check.state, check.mend) == ("missing", "export SOJOURN_HOME=DIRECTORY")
    assert doctor.place(tmp_path / "not" / "yet" / "there").state in ("good", "weak")


def test_a_store_is_written_to_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    doctor.probe(Store(tmp_path.as_uri()))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_store_that_takes_nothing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(SojournError):
        doctor.probe(Store((tmp_path / "store").as_uri()))


@pytest.mark.parametrize(
    ("python", "other", "mend"),
    [("python", "", None), ("", "python3", "write python3 for python"), ("", "", "activate your environment")],
)
def test_a_host_without_python_on_its_path_is_told_what_to_type(
    tmp_path: Path, python: str, other: str, mend: str | None
) -> None:
    for name in filter(None, (python, other)):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    check = doctor.python(str(tmp_path))
    assert (check.state == "good") is (mend is None)
    assert (mend or "") in str(check.mend)


def test_a_standing_lease_is_named(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path)
    assert checks(doctor.examine_host(tmp_path, tmp_path.as_uri(), provider))["leases"].state == "good"
    (provider.machines / "sojourn-calm-panda-a2e3-1-0-e4b3").mkdir(parents=True)
    check = checks(doctor.examine_host(tmp_path, tmp_path.as_uri(), provider))["leases"]
    assert (check.state, check.mend) == ("weak", "sojourn reap --dry-run")


# --- the project --------------------------------------------------------------------------


def checks(found: object) -> dict[str, Check]:
    """The checks by what they looked at."""
    return {check.what: check for check in found}  # type: ignore[attr-defined]


def look(folder: Path, params: str | None, plan: Callable[[], Plan] | None = None) -> dict[str, Check]:
    """The project's checks, with this params.yaml."""
    if params is not None:
        (folder / "params.yaml").write_text(params)

    def refuse() -> Plan:
        read_launch(Project.at(folder).directory, {})
        raise SpecError("the plan's own words", hint="the plan's own hint")

    return checks(examine_project(folder, plan or refuse))


def test_a_project_without_a_section_is_told_of_init(tmp_path: Path) -> None:
    check = look(tmp_path, None)["launch"]
    assert (check.state, check.mend) == ("weak", "sojourn init")


def test_the_python_of_a_project_is_the_one_that_a_run_would_get(tmp_path: Path) -> None:
    assert "built from" not in look(tmp_path, None)["python"].found
    (tmp_path / "requirements.txt").write_text("torch\n")
    (tmp_path / "poetry.lock").touch()

    found = look(tmp_path, None)["python"].found

    assert "an environment built from requirements.txt" in found and "poetry.lock is not used" in found


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ("launch: [", "not valid YAML"),
        ("launch: 3", "not a mapping"),
        ("launch: {comand: python x.py}", "did you mean 'command'?"),
        ("launch: {command: python x.py}", "the plan's own words"),
    ],
)
def test_whatever_a_plan_would_refuse_is_missing(tmp_path: Path, params: str, found: str) -> None:
    check = look(tmp_path, params)["launch"]
    assert check.state == "missing"
    assert found in check.found
    assert check.mend


def test_a_store_that_is_away_is_not_made_by_looking_at_it(tmp_path: Path) -> None:
    with pytest.raises(SojournError, match="is not there, or shows nothing"):
        doctor.probe(Store((tmp_path / "store").as_uri(), expected=True))
    assert not (tmp_path / "store").exists()


@pytest.mark.root
def test_a_store_without_room_takes_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        store = Store((disk / "store").as_uri())
        store.put("control/x", b"x")
        fill(disk / "ballast")
        with pytest.raises(SojournError, match="the store is full"):
            doctor.probe(store)
