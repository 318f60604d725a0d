"""What a stage depends on travels whole, and dvc.lock records what ran and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dvc_project import Project, dvc, git, status

from sojourn.errors import SpecError
from sojourn.project.bundle import survey
from sojourn.project.dvc.commit import Applied, Refused
from sojourn.project.project import Project as Tree

pytestmark = pytest.mark.local

READ = """\
import pathlib
found = sorted(path.read_text() for path in pathlib.Path({!r}).rglob("*.txt") if path.name != "o.txt")
open("o.txt", "w").write(" ".join(found))
"""


@pytest.fixture
def project(dvc_template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return dvc_template.copy(tmp_path / "work")


def stage(project: Project, deps: str, reads: str = "src", more: str = "") -> None:
    """A dvc.yaml with one stage, whose script puts the text of all below `reads` into o.txt."""
    project.write("read.py", READ.format(reads))
    project.write(
        "dvc.yaml", f"stages:\n  read:\n    cmd: python3 read.py\n    deps: {deps}\n    outs: [o.txt]\n{more}"
    )


def clean(project: Project) -> None:
    """DVC finds nothing changed, and would run nothing."""
    assert not status(project.root, "read")
    assert "didn't change" in dvc(project.root, "repro", "--dry", "read")


def home(project: Project) -> None:
    """The stage runs elsewhere and is here as if it had run here."""
    applied = project.send("read").home()
    assert isinstance(applied, Applied), applied
    clean(project)
    there = project.read("o.txt")
    dvc(project.root, "repro", "-q", "--force", "--single-item", "read")
    assert project.read("o.txt") == there


@pytest.mark.parametrize("ignored", ["__pycache__/\n", ""])
def test_caches_below_a_dependency_do_not_make_the_tree_another(project: Project, ignored: str) -> None:
    stage(project, "[src]")
    project.write("src/a.txt", "a")
    project.write(".gitignore", project.read(".gitignore") + ignored)
    project.write("src/__pycache__/a.cpython-311.pyc", "bytes")
    project.write("src/deep/.ipynb_checkpoints/b.txt.x", "bytes")
    project.write("src/env/pyvenv.cfg", "")
    project.write("src/env/lib/x.py", "")
    project.write("src/own/pyvenv.cfg", "")
    project.write("src/own/b.txt", "b")

    home(project)
    run = project.send("read")
    project.write("src/own/b.txt", "edited")
    assert run.home() == Refused(paths=("src",))


def test_a_cache_that_comes_while_it_trains_does_not_matter(project: Project) -> None:
    stage(project, "[src]")
    project.write("src/a.txt", "a")
    run = project.send("read")
    project.write("src/__pycache__/a.cpython-311.pyc", "bytes")

    assert isinstance(run.home(), Applied)
    clean(project)


@pytest.mark.parametrize(("name", "text"), [("src/a.txt", "edited"), ("src/new.txt", "new"), ("src/deep/b.txt", None)])
def test_a_change_of_content_beside_a_cache_is_named(project: Project, name: str, text: str | None) -> None:
    stage(project, "[src]")
    project.write("src/a.txt", "a")
    project.write("src/deep/b.txt", "b")
    project.write("src/__pycache__/a.cpython-311.pyc", "bytes")
    run = project.send("read")
    if text is None:
        (project.root / name).unlink()
    else:
        project.write(name, text)

    assert run.home() == Refused(paths=("src",))


def test_a_dependency_that_git_ignores_travels(project: Project) -> None:
    stage(project, "[raw, one/file.txt]", reads=".")
    project.write(".gitignore", project.read(".gitignore") + "raw/\none/\n")
    project.write("raw/deep/a.txt", "a")
    project.write("one/file.txt", "b")
    project.write("one/other.md", "c")

    run = project.send("read")

    assert (run.folder / "scratch" / "ml project's ü" / "raw/deep/a.txt").exists()
    assert not (run.folder / "scratch" / "ml project's ü" / "one/other.md").exists()
    home_again = run.home()
    assert isinstance(home_again, Applied)
    clean(project)


def test_what_git_ignores_inside_a_dependency_travels_and_its_change_is_noticed(project: Project) -> None:
    stage(project, "[src]")
    project.write("src/a.txt", "a")
    project.write("src/.gitignore", "local.txt\n_version.py\n")
    project.write("src/local.txt", "local")
    project.write("src/_version.py", "1")

    home(project)
    assert project.read("o.txt") == "a local"
    run = project.send("read")
    project.write("src/local.txt", "edited")
    assert run.home() == Refused(paths=("src",))


def test_what_dvc_ignores_inside_a_dependency_stays_and_does_not_matter(project: Project) -> None:
    stage(project, "[src]")
    project.write(".dvcignore", "*.log\nsrc/build/\n")
    project.write(".gitignore", project.read(".gitignore") + "*.log\nbuild/\n")
    project.write("src/a.txt", "a")
    project.write("src/x.log", "x")
    project.write("src/build/x.txt", "built")

    run = project.send("read")
    project.write("src/x.log", "y")

    assert not (run.folder / "scratch" / "ml project's ü" / "src/build").exists()
    assert isinstance(run.home(), Applied)
    clean(project)


@pytest.mark.parametrize("tracked", [True, False])
def test_what_is_left_out_of_a_dependency_by_hand_is_refused_until_dvc_leaves_it_out_too(
    project: Project, tracked: bool
) -> None:
    stage(project, "[src]")
    project.write("src/a.txt", "a")
    project.write("src/.env", "KEY=1")
    (project.top / ".sojournignore").write_text("/ml project's ü/src/.env\n")
    if tracked:
        project.save()

    with pytest.raises(SpecError, match=r"src/.env: part of what the stage depends on, and left out by .sojournignore"):
        project.send("read")
    project.write(".dvcignore", "/src/.env\n")
    assert isinstance(project.send("read").home(), Applied)
    clean(project)


def test_results_of_earlier_runs_and_outputs_below_a_dependency_do_not_matter(project: Project) -> None:
    stage(project, "[src]")
    project.write("src/a.txt", "a")
    project.write("src/runs/quiet-heron-7f3a/b.txt", "old")

    run = project.send("read")

    assert not (run.folder / "scratch" / "ml project's ü" / "src/runs").exists()
    assert isinstance(run.home(), Applied)
    clean(project)
    assert project.read("o.txt") == "a"


def test_parameters_and_templates_that_git_ignores_travel(project: Project) -> None:
    project.write("params.local.yaml", "lr: 1\n")
    project.write("vars.local.yaml", "word: hello\n")
    project.write("sub/own.yaml", "name: o.txt\n")
    project.write(".gitignore", project.read(".gitignore") + "*.local.yaml\nsub/own.yaml\n/params.yaml\n")
    git(project.top, "rm", "-q", "--cached", str(project.root / "params.yaml"))
    project.write(
        "dvc.yaml",
        "vars: [vars.local.yaml]\nstages:\n  read:\n    vars: [sub/own.yaml]\n"
        "    cmd: cat params.local.yaml > ${name}; echo ${word} ${lr} >> ${name}\n"
        "    params: [params.local.yaml: [lr]]\n    outs: ['${name}']\n",
    )

    home(project)

    assert project.read("o.txt") == "lr: 1\nhello 0.1\n"


def test_dvc_s_settings_travel_although_git_ignores_them(project: Project) -> None:
    stage(project, "[src, data]", reads=".")
    project.write("src/a.txt", "a")
    project.save()
    (project.top / ".gitignore").write_text(".dvc/\n")
    git(project.top, "rm", "-q", "--cached", str(project.root / ".dvc/config"))

    run = project.send("read")

    assert isinstance(run.home(), Applied)
    clean(project)


def test_a_dependency_that_is_a_link_travels_or_is_refused(project: Project) -> None:
    stage(project, "[src, alias.txt]")
    project.write("src/a.txt", "a")
    project.write("src/deep/b.txt", "b")
    (project.root / "alias.txt").symlink_to("src/a.txt")
    (project.root / "src/linked.txt").symlink_to("../alias.txt")
    home(project)

    (project.folder / "nas").mkdir()
    (project.folder / "nas/c.txt").write_text("c")
    (project.root / "far").symlink_to(project.folder / "nas")
    stage(project, "[far]", reads="far")
    project.write(".gitignore", project.read(".gitignore") + "/far\n")
    with pytest.raises(SpecError, match=r"far: links to .*nas, which is outside the project"):
        project.send("read")


def test_a_dependency_behind_a_link_whose_target_git_ignores_travels(project: Project) -> None:
    stage(project, "[alias.txt]")
    project.write(".gitignore", project.read(".gitignore") + "/hidden/\n")
    project.write("hidden/a.txt", "a")
    (project.root / "alias.txt").symlink_to("hidden/a.txt")
    project.write("src/x", "")

    home(project)


def test_a_dependency_that_is_a_link_to_a_folder_which_git_ignores_travels(project: Project) -> None:
    stage(project, "[far, near/deep/b.txt]", reads="far")
    project.write(".gitignore", project.read(".gitignore") + "/hidden/\n/other/\n")
    project.write("hidden/deep/a.txt", "a")
    project.write("other/deep/b.txt", "b")
    project.write("other/c.txt", "c")
    (project.root / "far").symlink_to("hidden/deep")
    (project.root / "near").symlink_to("other")

    run = project.send("read")

    scratch = run.folder / "scratch" / "ml project's ü"
    assert (scratch / "far/a.txt").read_text() == "a" and (scratch / "near/deep/b.txt").read_text() == "b"
    assert not (scratch / "other/c.txt").exists()
    assert isinstance(run.home(), Applied)
    clean(project)


@pytest.mark.parametrize("dep", ["node_modules", "node_modules/lib/a.txt", "runs/quiet-heron-7f3a", "env"])
def test_a_cache_an_environment_or_an_earlier_run_that_is_named_travels(project: Project, dep: str) -> None:
    stage(project, f"[{dep}]", reads="kept")
    project.write(".gitignore", project.read(".gitignore") + "/node_modules/\n/runs/\n")
    project.write("kept/a.txt", "a")
    for name in ("node_modules/lib/a.txt", "runs/quiet-heron-7f3a/a.txt", "env/pyvenv.cfg", "env/lib/a.txt"):
        project.write(name, "a")
    project.write("node_modules/lib/other.txt", "b")

    run = project.send("read")

    scratch = run.folder / "scratch" / "ml project's ü"
    there = {path.relative_to(scratch).as_posix() for path in scratch.rglob("*.txt")}
    one = {"node_modules/lib/a.txt", "runs/quiet-heron-7f3a/a.txt", "env/lib/a.txt", "node_modules/lib/other.txt"}
    assert there & one == {path for path in one if path.startswith(dep)}
    assert isinstance(run.home(), Applied)
    clean(project)


def test_metrics_of_an_earlier_stage_that_git_ignores_travel(project: Project) -> None:
    earlier = "  earlier:\n    cmd: python3 earlier.py\n    deps: [earlier.py]\n"
    stage(project, "[src/scores.txt]", more=earlier + "    metrics: [src/scores.txt: {cache: false}]\n")
    project.write("src/scores.txt", "1")
    project.write("earlier.py", "open('src/scores.txt', 'w').write('1')\n")
    project.write(".gitignore", project.read(".gitignore") + "/src/\n")
    dvc(project.root, "repro", "-q", "earlier")

    home(project)


def test_what_a_stale_stage_will_write_outside_the_cache_need_not_be_there_yet(project: Project) -> None:
    earlier = "  earlier:\n    cmd: mkdir src; echo 1 > src/a.txt\n    outs: [src: {cache: false}]\n"
    stage(project, "[src]", more=earlier)
    project.write(".gitignore", project.read(".gitignore") + "/src/\n")
    dataset = project.dataset()
    found = dataset.stage("read")

    assert dataset.stale_before(found) == ["earlier"]
    assert dataset.survey(found).unknown == ("src",)
    dataset.reproduce(["earlier"], lambda line: None)
    home(project)


def test_of_data_and_sources_in_one_folder_all_is_as_dvc_sees_it(project: Project) -> None:
    stage(project, "[mixed]", reads="mixed")
    project.write("mixed/readme.txt", "source")
    project.write("mixed/big.txt", "data")
    project.write("mixed/__pycache__/x.pyc", "cache")
    project.write("mixed/own.txt", "ignored")
    dvc(project.root, "add", "-q", "mixed/big.txt")
    project.write("mixed/.gitignore", project.read("mixed/.gitignore") + "/own.txt\n")

    home(project)
    shutil.rmtree(project.root / "mixed/__pycache__")
    assert isinstance(project.send("read").home(), Applied)
    clean(project)


def test_a_dependency_that_travels_as_an_input_may_hold_links_to_folders(project: Project) -> None:
    stage(project, "[raw]", reads="raw")
    project.write(".gitignore", project.read(".gitignore") + "/raw\n")
    project.write("../../nas/deep/b.txt", "b")
    project.write("raw/a.txt", "a")
    (project.root / "raw/linked").symlink_to("../../../nas/deep")

    run = project.send("read", inputs=("raw",))

    assert "a b" in (run.folder / "outputs" / "ml project's ü" / "o.txt").read_text()
    assert isinstance(run.home(), Applied)
    clean(project)
    run = project.send("read", inputs=("raw",))
    project.write("raw/a.txt", "edited")
    assert run.home() == Refused(paths=("raw",))


def test_the_plan_counts_what_a_dependency_brings_although_git_ignores_it(project: Project) -> None:
    stage(project, "[raw]", reads="raw")
    project.write(".gitignore", project.read(".gitignore") + "raw/\n")
    project.write("raw/a.txt", "a")
    needed = [f"ml project's ü/{path}" for path in project.dataset().stage("read").needed]

    tree = survey(Tree.at(project.root), ["ml project's ü/o.txt"], needed)

    assert "ml project's ü/raw/a.txt" in {one.path for one in tree.files}
