"""What a stage needs, where it lies, and what the remote lacks, as DVC itself resolves it."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import dvc_project
import pytest
from dvc_project import Project, dvc, status

from sojourn.errors import SpecError, TransientError
from sojourn.project.dvc.dataset import Dataset, Pushed, find_dvc
from sojourn.project.dvc.relay import carry
from sojourn.project.dvc.remote import open_remote
from sojourn.project.dvc.repo import open_repo
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

pytestmark = pytest.mark.local


@pytest.fixture
def project(dvc_template: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return dvc_template.copy(tmp_path / 'it\'s a "töp"')


def quiet(line: str) -> None:
    pass


def objects(project: Project) -> set[str]:
    """The hashes in the remote."""
    return {path.parent.name + path.name for path in project.remote.glob("files/md5/*/*")}


def body(source: str) -> bytes:
    return Path(unquote(urlsplit(source).path)).read_bytes()


def test_importing_the_module_does_not_import_dvc() -> None:
    check = "import sys, sojourn.project.dvc.dataset, sojourn.project.dvc.commit; sys.exit('dvc' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parent.parent)


def test_the_project_is_found_from_below_and_not_from_above(project: Project) -> None:
    assert find_dvc(project.root / "lib") == project.root
    assert find_dvc(project.top) is None


# --- stages ---


def test_a_stage_is_described_with_its_templates_filled_in(project: Project) -> None:
    stage = project.dataset().stage("train")
    assert stage.command == ("python3 train.py 0.1",)
    assert (stage.address, stage.directory, stage.frozen) == ("train", ".", False)
    assert stage.parameters == {"params.yaml": {"lr": 0.1}, "more.yaml": {"model.depth": 3, "seed": 1}}
    assert {(dep.path, dep.kind, dep.is_dir) for dep in stage.dependencies} == {
        ("train.py", "source", False),
        ("lib", "source", True),
        ("prepared.csv", "data", False),
        ("data", "data", True),
    }
    prepared = next(dep for dep in stage.dependencies if dep.path == "prepared.csv")
    assert prepared.size == 8
    assert prepared.hash == "md5:" + hashlib.md5(b"A,B\n1,2\n").hexdigest()


def test_outputs_say_how_dvc_keeps_them(project: Project) -> None:
    outputs = {out.path: out for out in project.dataset().stage("train").outputs}
    assert outputs["ckpt"].persist and outputs["ckpt"].cache
    assert outputs["metrics.json"].metric and not outputs["metrics.json"].cache
    assert outputs["curve.csv"].plot and not outputs["curve.csv"].metric
    assert outputs["deep/er/notes.txt"].cache and not outputs["deep/er/notes.txt"].persist


def test_generated_stages_and_other_files_have_addresses(project: Project) -> None:
    project.write(
        "sub/dvc.yaml",
        "stages:\n  train: {cmd: [a, b], wdir: .., deps: [lib]}\n  m: {matrix: {x: [1, 2]}, cmd: 'echo ${item.x}'}\n",
    )
    dataset = project.dataset("sub")
    assert dataset.stage("train").address == "sub/dvc.yaml:train"
    assert dataset.stage("train").command == ("a", "b")
    assert dataset.stage("m@2").command == ("echo 2",)
    assert project.dataset().stage("grid@a-1").command == ("echo a-1 > g-a-1",)
    assert dataset.at("train").command == ("python3 train.py 0.1",)
    assert dataset.at(dataset.stage("train").address).address == "sub/dvc.yaml:train"


def test_from_a_folder_without_stages_the_name_is_looked_up_at_the_root(project: Project) -> None:
    assert project.dataset("lib").stage("train").address == "train"


def test_an_unknown_stage_is_answered_with_the_nearest_and_all(project: Project) -> None:
    with pytest.raises(SpecError, match="stage 'trian' is not in dvc.yaml, did you mean 'train'?") as caught:
        project.dataset().stage("trian")
    assert "grid@a-1, grid@b, prepare, publish, report, train" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stages:\n  train:\n    cmd: 'open\n", "line 4"),
        ("stages:\n  train:\n    cmd: x\n    dips: [y]\n", "line 4: extra keys not allowed in stages -> train -> dips"),
        ("stages:\n  train:\n    cmd: x ${nope}\n", "Could not find 'nope'"),
    ],
)
def test_a_broken_dvc_yaml_is_named_with_its_line(project: Project, text: str, says: str) -> None:
    project.write("dvc.yaml", text)
    with pytest.raises(SpecError) as caught:
        project.dataset().stage("train")
    assert "dvc.yaml" in caught.value.message and says in caught.value.message
    assert "\n" not in caught.value.message


# --- what runs here before and after ---


def test_stale_stages_upstream_are_named_in_order_with_those_between(project: Project) -> None:
    dataset = project.dataset()
    assert dataset.stale_before(dataset.stage("train")) == []
    assert dataset.stale_before(dataset.stage("publish")) == ["train", "report"]
    dvc(project.root, "repro", "-q", "publish")
    project.write("raw.csv", "c,d\n")
    dvc(project.root, "add", "-q", "raw.csv")
    dataset = project.dataset()
    assert not status(project.root, "report")
    assert dataset.stale_before(dataset.stage("publish")) == ["prepare", "train", "report"]
    assert dataset.stale_before(dataset.stage("unrelated")) == []


def test_a_stage_whose_data_is_only_in_the_remote_is_not_stale(project: Project) -> None:
    dvc(project.root, "push", "-q")
    (project.root / "prepared.csv").unlink()
    shutil.rmtree(project.root / ".dvc/cache")
    dataset = project.dataset()
    assert dataset.stale_before(dataset.stage("train")) == []


def test_stages_downstream_are_named_in_order(project: Project) -> None:
    dataset = project.dataset()
    assert dataset.after(dataset.stage("train")) == ["report", "publish"]
    assert dataset.after(dataset.stage("publish")) == []


def test_stages_are_reproduced_here_and_their_output_is_heard(project: Project) -> None:
    project.write("prepare.py", "print('preparing'); open('prepared.csv', 'w').write('new')\n")
    project.write("psutil.py", "raise RuntimeError('DVC took a module of the user for its own')\n")
    dataset, heard = project.dataset(), list[str]()
    stage = dataset.stage("train")
    dataset.reproduce(dataset.stale_before(stage), heard.append)
    assert "preparing" in heard and project.read("prepared.csv") == "new"
    assert dataset.stale_before(stage) == [] and not status(project.root, "prepare")


def test_of_a_stage_that_runs_here_only_its_own_words_are_heard(project: Project) -> None:
    project.write("prepare.py", "print('preparing'); open('prepared.csv', 'w').write('new')\n")
    heard = list[str]()
    project.dataset().reproduce(["prepare"], heard.append)
    assert [line for line in heard if line.strip()] == ["preparing"]


def test_what_dvc_itself_has_against_a_stage_is_told(project: Project) -> None:
    project.write("prepare.py", "print('forgot to write')\n")
    with pytest.raises(SpecError, match=r"(?s)failed here:.*ERROR: .*prepared\.csv.* does not exist"):
        project.dataset().reproduce(["prepare"], quiet)


def test_a_stage_that_did_not_change_is_not_run_again(project: Project) -> None:
    dataset, heard = project.dataset(), list[str]()
    dataset.reproduce(["prepare"], heard.append)
    assert heard == ["stage 'prepare' did not change"]
    project.write("prepare.py", "open('prepared.csv', 'w').write('new')\n")
    dataset.reproduce(["prepare"], quiet)
    assert project.read("prepared.csv") == "new"


def test_a_stage_that_fails_here_is_named_with_its_last_lines(project: Project) -> None:
    project.write("prepare.py", "raise SystemExit('no such column: z')\n")
    with pytest.raises(SpecError, match=r"stage 'prepare' failed here") as caught:
        project.dataset().reproduce(["prepare"], quiet)
    assert "no such column: z" in caught.value.message and caught.value.hint == "dvc repro prepare"


# --- inputs ---


def test_inputs_are_every_file_with_its_hash_size_and_place_in_the_remote(project: Project) -> None:
    dataset = project.dataset()
    stage = dataset.stage("train")
    dataset.push(stage, quiet)
    entries = {entry.path: entry for entry in dataset.inputs(stage, project.top)}
    assert set(entries) == {f"ml project's ü/{name}" for name in ("data/1 ü.txt", "data/deep/2.txt", "prepared.csv")}
    for path, entry in entries.items():
        content = (project.top / path).read_bytes()
        assert (entry.hash, entry.size, entry.mode) == (f"md5:{hashlib.md5(content).hexdigest()}", len(content), 0o644)
        assert entry.source.startswith("file:///") and body(entry.source) == content


def test_inputs_are_known_when_only_the_remote_has_them(project: Project) -> None:
    first = project.dataset()
    first.push(first.stage("train"), quiet)
    expected = first.inputs(first.stage("train"), project.top)
    shutil.rmtree(project.root / ".dvc/cache")
    shutil.rmtree(project.root / "data")
    again = project.dataset()
    assert again.inputs(again.stage("train"), project.top) == expected
    assert again.push(again.stage("train"), quiet) == Pushed(files=0, bytes=0)


def test_a_program_among_the_data_stays_executable(project: Project) -> None:
    (project.root / "raw.csv").chmod(0o755)
    dvc(project.root, "add", "-q", "raw.csv")
    dataset = project.dataset()
    assert [entry.mode for entry in dataset.inputs(dataset.stage("prepare"), project.top)] == [0o755]


def test_one_file_of_a_data_directory_is_all_that_travels(project: Project) -> None:
    project.write("dvc.yaml", "stages:\n  one: {cmd: x, deps: ['data/deep']}\n")
    dataset = project.dataset()
    stage = dataset.stage("one")
    assert [(dep.path, dep.kind) for dep in stage.dependencies] == [("data/deep", "data")]
    assert [entry.path for entry in dataset.inputs(stage, project.root)] == ["data/deep/2.txt"]
    dataset.push(stage, quiet)
    # A directory's list without all its files would tell DVC that the whole directory is there.
    assert objects(project) == {hashlib.md5(b"two").hexdigest()}


def test_a_directory_that_mixes_sources_and_data_travels_both_ways(project: Project) -> None:
    project.write("mixed/readme.txt", "source")
    project.write("mixed/big.bin", "data")
    dvc(project.root, "add", "-q", "mixed/big.bin")
    project.write("dvc.yaml", "stages:\n  mix: {cmd: cat mixed/* > o.txt, deps: [mixed], outs: [o.txt]}\n")
    stage = project.dataset().stage("mix")
    assert [(dep.path, dep.kind) for dep in stage.dependencies] == [("mixed", "source"), ("mixed/big.bin", "data")]
    run = project.send("mix")
    assert [Path(entry.path).name for entry in run.inputs] == ["big.bin"]
    run.home()
    assert not status(project.root, "mix")


def test_data_added_by_dvc_2_is_refused_with_the_way_to_migrate(project: Project) -> None:
    project.write("raw.csv.dvc", project.read("raw.csv.dvc").replace("  hash: md5\n", ""))
    error = refused(project, "prepare")
    assert "md5-dos2unix" in error.message and "dvc cache migrate" in str(error.hint)


@pytest.mark.skipif(importlib.util.find_spec("dvc_s3") is not None, reason="dvc-s3 is installed")
def test_a_cloud_remote_needs_its_package_and_says_so(project: Project) -> None:
    project.write(".dvc/config", "[core]\n    remote = store\n['remote \"store\"']\n    url = s3://bucket/prefix\n")
    assert "install dvc-s3" in str(refused(project).hint)


# --- pushing ---


def test_a_push_sends_what_the_remote_lacks_and_the_next_one_nothing(project: Project) -> None:
    dataset, heard = project.dataset(), list[str]()
    stage = dataset.stage("train")
    assert dataset.push(stage, heard.append) == Pushed(files=3, bytes=14)
    assert heard == ["pushing 3 files to DVC remote 'store'"]
    before = {path: path.stat().st_mtime_ns for path in project.remote.rglob("*")}
    start = time.process_time()
    assert dataset.push(stage, heard.append) == Pushed(files=0, bytes=0)
    assert time.process_time() - start < 1
    assert before == {path: path.stat().st_mtime_ns for path in project.remote.rglob("*")}
    assert len(heard) == 1


def test_a_push_sends_only_this_stages_data(project: Project) -> None:
    dataset = project.dataset()
    dataset.push(dataset.stage("prepare"), quiet)
    assert objects(project) == {hashlib.md5(b"a,b\n1,2\n").hexdigest()}


def test_what_was_pushed_dvc_can_pull(project: Project) -> None:
    dataset = project.dataset()
    dataset.push(dataset.stage("train"), quiet)
    shutil.rmtree(project.root / ".dvc/cache")
    shutil.rmtree(project.root / "data")
    dvc(project.root, "pull", "-q", "data")
    assert project.read("data/deep/2.txt") == "two"


def test_the_survey_counts_without_moving_anything(project: Project) -> None:
    dataset = project.dataset()
    survey = dataset.survey(dataset.stage("train"))
    assert (survey.files, survey.bytes, survey.push_files, survey.push_bytes, survey.unknown) == (3, 14, 3, 14, ())
    assert not project.remote.exists()
    ahead = dataset.survey(dataset.stage("report"))
    assert (ahead.files, ahead.unknown) == (0, ("model.bin",))


def test_the_survey_leaves_out_what_a_stale_stage_makes_anew(project: Project) -> None:
    shutil.rmtree(project.root / ".dvc/cache")
    (project.root / "prepared.csv").unlink()
    project.write("raw.csv", "c,d\n")
    dvc(project.root, "add", "-q", "raw.csv", "data")
    dataset = project.dataset()
    survey = dataset.survey(dataset.stage("train"))
    assert (survey.files, survey.bytes, survey.unknown) == (2, 6, ("prepared.csv",))


def test_the_survey_refuses_what_a_push_would_refuse(project: Project) -> None:
    project.write("data/deep/2.txt", "three")
    dataset = project.dataset()
    with pytest.raises(SpecError, match="data is not what data.dvc records"):
        dataset.survey(dataset.stage("train"))


def test_data_added_after_the_plan_is_what_is_pushed(project: Project) -> None:
    dataset = project.dataset()
    stage = dataset.stage("train")
    project.write("data/deep/2.txt", "three")
    dvc(project.root, "add", "-q", "data")
    dataset.push(stage, quiet)
    assert hashlib.md5(b"three").hexdigest() in {entry.hash[4:] for entry in dataset.inputs(stage, project.top)}


def test_data_marked_not_to_be_pushed_is_refused(project: Project) -> None:
    project.write(
        "dvc.yaml", dvc_project.DVC_YAML.replace("outs: [prepared.csv]", "outs: [prepared.csv: {push: false}]")
    )
    assert "prepared.csv is marked `push: false`" in refused(project).message


def test_data_with_a_remote_of_its_own_goes_there(project: Project) -> None:
    dvc(project.root, "remote", "add", "-q", "other", "../../../other remote")
    project.write(
        "dvc.yaml", dvc_project.DVC_YAML.replace("outs: [prepared.csv]", "outs: [prepared.csv: {remote: other}]")
    )
    dataset = project.dataset()
    stage = dataset.stage("train")
    assert dataset.push(stage, quiet) == Pushed(files=3, bytes=14)
    sources = {Path(entry.path).name: entry.source for entry in dataset.inputs(stage, project.top)}
    assert "/other%20remote/files/md5/" in sources["prepared.csv"] and "/remote/files/md5/" in sources["2.txt"]
    assert body(sources["prepared.csv"]) == b"A,B\n1,2\n"


def test_a_truncated_object_in_a_local_remote_is_sent_again(project: Project) -> None:
    dataset = project.dataset()
    stage = dataset.stage("train")
    dataset.push(stage, quiet)
    spoilt = project.remote / "files/md5" / objects_path(b"two")
    spoilt.chmod(0o644)
    spoilt.write_bytes(b"t")
    assert dataset.push(stage, quiet) == Pushed(files=1, bytes=3)
    assert spoilt.read_bytes() == b"two"


def objects_path(content: bytes) -> str:
    digest = hashlib.md5(content).hexdigest()
    return f"{digest[:2]}/{digest[2:]}"


def test_outputs_are_pushed_once_they_are_home(project: Project) -> None:
    dataset = project.dataset()
    project.send().home()
    stage = dataset.stage("train")
    assert dataset.push_outputs((stage.address,), quiet).files == 3  # five files, three of them alike
    assert dataset.push_outputs((stage.address,), quiet) == Pushed(files=0, bytes=0)
    shutil.rmtree(project.root / ".dvc/cache")
    (project.root / "model.bin").unlink()
    dvc(project.root, "pull", "-q", "train")
    assert "lr 0.1" in project.read("model.bin")


# --- what a push refuses ---


def refused(project: Project, stage: str = "train") -> SpecError:
    dataset = project.dataset()
    with pytest.raises(SpecError) as caught:
        dataset.push(dataset.stage(stage), quiet)
    return caught.value


def test_data_edited_but_not_added_is_named(project: Project) -> None:
    project.write("data/deep/2.txt", "three")
    error = refused(project)
    assert error.message.startswith("data is not what data.dvc records (md5 ")
    assert "dvc add data" in str(error.hint) and "dvc checkout --force data" in str(error.hint)
    assert not project.remote.exists()


def test_an_edited_output_of_another_stage_is_named(project: Project) -> None:
    project.write("prepared.csv", "edited")
    error = refused(project)
    assert error.message.startswith("prepared.csv is not what dvc.lock records")
    assert "dvc commit prepare" in str(error.hint)


def test_data_that_is_nowhere_is_named(project: Project) -> None:
    shutil.rmtree(project.root / ".dvc/cache")
    error = refused(project, "prepare")
    assert "raw.csv (md5 " in error.message and "neither in the DVC cache nor in remote 'store'" in error.message
    assert error.hint == "dvc commit raw.csv.dvc"
    (project.root / "raw.csv").unlink()
    assert "dvc pull raw.csv" in str(refused(project, "prepare").hint)
    assert refused(project).hint in (
        "dvc commit prepare",
        "dvc commit data.dvc",
        "dvc pull data, or dvc push where the data was added",
    )


def test_a_project_without_a_remote_says_how_to_add_one(project: Project) -> None:
    project.write(".dvc/config", "")
    error = refused(project)
    assert error.message == "no DVC remote is configured" and "dvc remote add -d" in str(error.hint)
    project.write(".dvc/config", "['remote \"spare\"']\n    url = /nowhere\n")
    assert refused(project).hint == "dvc remote default spare"


def test_a_remote_that_cannot_be_written_is_named(project: Project) -> None:
    project.remote.write_text("a file where the remote should be")
    dataset = project.dataset()
    with pytest.raises((SpecError, TransientError), match="DVC remote 'store'"):
        dataset.push(dataset.stage("train"), quiet)


# --- data on its way to machines ---


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    return Mailbox(Store((tmp_path / "store").as_uri()), "digits", "calm-heron-7f3a")


def test_machines_of_this_host_read_a_remote_that_lies_on_it(project: Project) -> None:
    dataset = project.dataset()
    assert dataset.out_of_reach(dataset.stage("train"), this_host=True) == []
    assert dataset.survey(dataset.stage("train"), this_host=True).carried_bytes == 0


def test_data_that_machines_cannot_fetch_goes_by_way_of_the_store_once(project: Project, mailbox: Mailbox) -> None:
    dataset = project.dataset()
    stage = dataset.stage("train")
    dataset.push(stage, quiet)
    size = dataset.survey(stage, this_host=False).carried_bytes
    assert size > 0

    cargo = dataset.out_of_reach(stage, this_host=False)
    carried, sent = carry(cargo, mailbox)
    again = carry(cargo, mailbox)

    assert (sent, again) == (size, (carried, 0))
    for entry in dataset.inputs(stage, project.top, carried):
        body = mailbox.store.get(entry.source)
        assert (entry.hash, entry.size) == (f"md5:{hashlib.md5(body).hexdigest()}", len(body))


def test_data_that_is_only_in_the_remote_is_carried_from_there(project: Project, mailbox: Mailbox) -> None:
    dataset = project.dataset()
    dataset.push(dataset.stage("train"), quiet)
    shutil.rmtree(project.root / ".dvc" / "cache" / "files")
    dataset = project.dataset()

    carried, sent = carry(dataset.out_of_reach(dataset.stage("train"), this_host=False), mailbox)

    assert sent > 0
    assert all(hashlib.md5(mailbox.store.get(key)).hexdigest() == md5 for md5, key in carried.items())


def test_a_damaged_copy_is_not_carried(project: Project, mailbox: Mailbox) -> None:
    dataset = project.dataset()
    cargo = dataset.out_of_reach(dataset.stage("train"), this_host=False)[0]
    cargo.cached.chmod(0o644)
    cargo.cached.write_text("other bytes")

    with pytest.raises(SpecError, match="was damaged, or edited in place"):
        carry([cargo], mailbox)
    assert not mailbox.store.keys("control")


@pytest.mark.parametrize(
    ("config", "readable", "url", "bucket"),
    [
        ("url = s3://acme/da ta", True, "s3://acme/da%20ta/files/md5/ab/cdef", "s3://acme"),
        (
            "url = s3://acme/x\n endpointurl = https://minio.lab:9000/",
            True,
            "s3+https://minio.lab:9000/acme/x/files/md5/ab/cdef",
            None,
        ),
        ("url = s3://acme/x\n profile = other", False, "s3://acme/x/files/md5/ab/cdef", None),
        ("url = s3://acme/x\n access_key_id = A\n secret_access_key = s", False, "s3://acme/x/files/md5/ab/cdef", None),
    ],
)
def test_an_s3_remote_is_read_by_the_machine_s_own_identity_where_that_can_be(
    project: Project, config: str, readable: bool, url: str, bucket: str | None
) -> None:
    project.write(".dvc/config", f"[core]\n remote = store\n['remote \"store\"']\n {config}\n")
    remote = open_remote(open_repo(project.root), None)

    assert (remote.readable(this_host=False), remote.readable(this_host=True)) == (readable, readable)
    assert (remote.url("abcdef"), remote.bucket) == (url, bucket)


def test_a_dependency_outside_the_project_is_refused(project: Project) -> None:
    project.write("dvc.yaml", "stages:\n  far: {cmd: x, deps: [/etc/hostname]}\n")
    error = refused(project, "far")
    assert "/etc/hostname lies outside the project" in error.message
    assert error.hint == "dvc import-url /etc/hostname"


@pytest.mark.parametrize("where", ["../out", "/tmp/out", "s3://bucket/out"])
def test_an_output_outside_the_project_is_refused(project: Project, where: str) -> None:
    project.write("dvc.yaml", f"stages:\n  far: {{cmd: x, outs: ['{where}': {{cache: false}}]}}\n")
    error = refused(project, "far")
    assert error.message == f"far: its output {where} is outside the project, from where nothing comes home"


def test_a_dependency_that_does_not_exist_is_refused(project: Project) -> None:
    (project.root / "train.py").unlink()
    assert refused(project).message == "train: its dependency train.py does not exist"


# --- metrics, silence ---


def test_metrics_are_read_flat_from_json_yaml_and_toml(project: Project) -> None:
    project.write("dvc.yaml", "stages:\n  m: {cmd: x, metrics: [a.json: {cache: false}, b.yaml, c.toml, gone.json]}\n")
    project.write("a.json", '{"val": {"acc": 0.5, "by class": {"x": 1}}}')
    project.write("b.yaml", "loss: 1.5\n")
    project.write("c.toml", "[t]\nz = 3\n")
    dataset = project.dataset()
    values: dict[str, Any] = dataset.metrics(["m"])
    assert values == {"val.acc": 0.5, "val.by class.x": 1, "loss": 1.5, "t.z": 3}
    project.write("a.json", "{")
    assert dataset.metrics(["m"]) == {"loss": 1.5, "t.z": 3}, "one broken file costs its own numbers"


def test_metrics_that_dvc_yaml_names_at_its_top_are_those_of_the_stage_that_writes_them(project: Project) -> None:
    stages = "stages:\n  m: {cmd: x, outs: [eval]}\n  n: {cmd: y, outs: [b.json]}\n"
    project.write("dvc.yaml", stages + "metrics: [eval/m.json, b.json]\n")
    project.write("eval/m.json", '{"acc": "0.5"}')
    project.write("b.json", '{"other": 1}')
    dataset = project.dataset()
    assert dataset.metric_files("m") == ["eval/m.json"] and dataset.metrics(["m"]) == {"acc": 0.5}
    assert dataset.metrics(["m", "n"]) == {"acc": 0.5, "other": 1}


def test_dvc_says_nothing_by_itself(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("dvc").setLevel(logging.INFO)
    # DVC warns of an empty output.
    project.send(during=lambda machine: (machine / "deep/er/notes.txt").write_text("") and None).home()
    assert not caplog.records


def test_a_directory_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        Dataset(tmp_path).stage("train")
    assert caught.value.hint == "dvc init"
