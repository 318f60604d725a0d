"""Bad input costs one sentence: what is wrong, its value, the nearest valid name, what to type; and creates nothing."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_world import World

from cli import main
from sojourn.store.known_stores import remember, remembered, unread_stores
from sojourn.store.storage import Store

BAD_INPUT = 2
Done = subprocess.CompletedProcess[str]
Typed = Callable[..., Done]


@pytest.fixture
def project(world: World) -> Path:
    """A directory with one script that says nothing."""
    world.script("pass\n")
    return world.project


@pytest.fixture
def typed(world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """`sojourn WORDS` in this process: it says the same as in one of its own, which would take seconds to start.

    Not `train`, which forks and imports Prefect while it plans; it takes the same words as `plan`.
    """
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.project)
    threshold = gc.get_threshold()

    def typed(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["sojourn", *words])
        with pytest.raises(SystemExit) as left:
            main._run()
        said = capfd.readouterr()
        return Done(words, int(left.value.code or 0), said.out, said.err)

    yield typed
    gc.unfreeze()
    gc.set_threshold(*threshold)


def refused(world: World, done: Done, sentence: str, hint: str) -> None:
    """The command ended with one sentence and a hint, and left no trace."""
    assert done.returncode == BAD_INPUT, done.stdout + done.stderr
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ") and sentence in first
    assert hint in "\n".join(rest)
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not any(world.home.iterdir())


def sending_is_refused(world: World, typed: Typed, sentence: str, hint: str) -> None:
    """`sojourn plan` refuses the tree as it stands."""
    refused(world, typed("plan", "--", "python", "train.py"), sentence, hint)


def test_a_wrong_word_costs_a_sentence_and_leaves_nothing(world: World, project: Path) -> None:
    done = world.sojourn("train", "--", "python", "trian.py")
    refused(world, done, "'trian.py' is not a file in ", "train.py")


@pytest.mark.parametrize(
    ("words", "sentence", "hint"),
    [
        ("plan -- python trian.py", "'trian.py' is not a file in ", "train.py"),
        ("plan -- pyhton train.py", "'pyhton' is not a program on your PATH", "sojourn train -- python FILE"),
        ("plan -- ./run.sh", "'./run.sh' is not a file in ", "sojourn train -- python FILE"),
        ("plan --nodes 0 -- python train.py", "launch.nodes: '0' is not a number from 1 to 1024", "Machines"),
        ("plan --nodes two python train.py", "launch.nodes: 'two' is not a number", "Machines"),
        ("plan --processes two python train.py", "launch.processes: 'two' is neither a number", "gpu"),
        ("plan --processes 2 -- bash run.sh", "'bash run.sh' cannot be started by torchrun", "python FILE"),
        ("plan --deadline 5parsecs python train.py", "'5parsecs' is not a duration, write it like 45s", "deadline"),
        ("plan --deadline 90 python train.py", "'90' is not a duration", "deadline"),
        ("plan --where lcoal python train.py", "no provider 'lcoal', did you mean 'local'?", "--where local"),
        ("plan --machine this-hots python train.py", "has no 'this-hots', did you mean 'this-host'?", "leave it out"),
        ("plan --stage train", "'train': no DVC project at ", "sojourn train -- python train.py"),
        ("plan --stage train python train.py", "both a command and a stage", "sojourn train -- python train.py"),
        ("plan", "nothing to run", "sojourn train -- python train.py"),
        ("plan --project nowhere python train.py", "'nowhere' does not exist", "--project PATH"),
        ("plan --project train.py python train.py", "'train.py' is a file", "--project PATH"),
        ("plan --environment dev.txt python train.py", "'dev.txt' is no file in ", "auto, current"),
        ("plan --secret TOKEN python train.py", "'TOKEN' is not set in this environment", "export TOKEN="),
        ("plan --input train.p python train.py", "'train.p' is not in ", "--input PATH"),
        ("plan --input ../data python train.py", "'../data' is not inside the project", "link it there"),
        ("plan --store nonsense python train.py", "'nonsense' is not a store URL", "/project/nonsense"),
        ("plan --store s4://bucket python train.py", "'s4://bucket' is not a store URL, did you mean 's3'?", "s3://"),
        ("plan --store s3:// python train.py", "'s3://' names no bucket", "s3://bucket/prefix"),
        ("plan --store file://runs python train.py", "'file://runs' has no absolute path", "file:///"),
        ("show quiet-heron-7f3a", "run 'quiet-heron-7f3a' is not in ", "sojourn runs"),
        ("logs quiet-heron-7f3a", "run 'quiet-heron-7f3a' is not in ", "sojourn runs"),
        ("attach quiet-heron-7f3a", "run 'quiet-heron-7f3a' is not in ", "sojourn runs"),
        ("stop quiet-heron-7f3a", "run 'quiet-heron-7f3a' is not in ", "sojourn runs"),
        ("pull quiet-heron-7f3a", "run 'quiet-heron-7f3a' is not in ", "sojourn runs"),
        ("pull last", "there is no run yet", "sojourn train -- python train.py"),
    ],
)
def test_a_wrong_word_is_named_with_the_right_one(
    world: World, project: Path, typed: Typed, words: str, sentence: str, hint: str
) -> None:
    refused(world, typed(*words.split()), sentence, hint)


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        (
            "launch: {nods: 2}",
            "params.yaml: launch: unknown key 'nods', did you mean 'nodes'?",
            "known keys: boot_image, bring, budget",
        ),
        ("launch: {deadline: 5 parsecs}", "params.yaml: launch.deadline: '5 parsecs' is not a duration", "90m"),
        ("launch: [nodes, 2]", "params.yaml: launch: ['nodes', 2] is not a mapping", "nodes: 1"),
        ("launch: {nodes: [", "params.yaml: not valid YAML: ", "mend that line: "),
        (
            "launch: {secrets: TOKEN}",
            "params.yaml: launch.secrets: 'TOKEN' is not a list, write it as [TOKEN]",
            "secrets",
        ),
    ],
)
def test_a_wrong_line_in_the_file_costs_a_sentence(
    world: World, project: Path, typed: Typed, text: str, sentence: str, hint: str
) -> None:
    (project / "params.yaml").write_text(text + "\n")

    sending_is_refused(world, typed, sentence, hint)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", "A=1"),
        ("conf/.env.local", "A=1"),
        ("key.pem", "-----BEGIN RSA PRIVATE KEY-----\nMII"),
        ("deploy", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl"),
        (".ssh/id_ed25519", "x"),
        (".netrc", "machine x"),
        (".aws/credentials", "[default]"),
    ],
)
def test_a_secret_does_not_travel(world: World, project: Path, typed: Typed, name: str, content: str) -> None:
    world.script(content, name)

    sending_is_refused(world, typed, f"{name}: looks like a secret", f"printf '%s\\n' /{name} >> .sojournignore")

    (project / ".sojournignore").write_text(f"/{name}\n")
    assert typed("plan", "--", "python", "train.py").returncode == 0


def odd_name(project: Path) -> None:
    with open(os.fsencode(project) + b"/caf\xe9.txt", "w"):
        pass


def link_outside(project: Path) -> None:
    (project / "passwords").symlink_to("/etc/passwd")


def large_pointer(project: Path) -> None:
    (project / "model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")


def large_file(project: Path) -> None:
    (project / "data").mkdir()
    with (project / "data/all.bin").open("wb") as file:
        file.truncate(201_000_000)


@pytest.mark.parametrize(
    ("make", "sentence", "hint"),
    [
        (odd_name, r"caf\xe9.txt: the name is not UTF-8", "rename it"),
        (link_outside, "passwords: links to /etc/passwd, which is outside the project", "copy it into the project"),
        (large_pointer, "model.bin: is a Git LFS pointer", "git lfs pull"),
        (large_file, "2 files, 201 MB are too much for a bundle; largest: data/ (1 file, 201 MB)", "inputs: [data/]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_travel_is_named(
    world: World, project: Path, typed: Typed, make: Callable[[Path], None], sentence: str, hint: str
) -> None:
    make(project)

    sending_is_refused(world, typed, sentence, hint)


def test_a_large_tree_travels_when_it_is_meant(project: Path, typed: Typed) -> None:
    large_file(project)

    assert typed("plan", "--yes-upload", "--", "python", "train.py").returncode == 0


@pytest.mark.local
def test_results_are_not_pulled_into_a_directory_that_holds_something(world: World, project: Path) -> None:
    world.script("open('out.txt', 'w').write('x')")
    assert world.train().returncode == 0
    (world.root / "full").mkdir()
    (world.root / "full/mine.txt").write_text("mine")

    done = world.sojourn("pull", "last", "--to", str(world.root / "full"))

    assert done.returncode == BAD_INPUT
    assert "full' is not empty" in done.stderr and "--to PATH" in done.stderr
    assert [entry.name for entry in (world.root / "full").iterdir()] == ["mine.txt"]


@pytest.mark.local
def test_a_run_that_is_nearly_named_is_suggested(world: World, project: Path) -> None:
    assert world.train().returncode == 0
    run = world.run()

    done = world.sojourn("show", run[:-1] + "z")

    assert done.returncode == BAD_INPUT
    assert f"did you mean '{run}'?" in done.stderr


def test_a_plan_creates_nothing_and_says_so(world: World, project: Path) -> None:
    before = sorted(world.root.rglob("*"))

    done = world.sojourn("plan", "--", "python", "train.py", "--epochs", "3")

    assert done.returncode == 0, done.stderr
    assert "python train.py --epochs 3" in done.stdout
    assert "Nothing was created." in done.stdout
    assert sorted(world.root.rglob("*")) == before


def test_a_plan_is_printed_as_json(world: World, project: Path) -> None:
    done = world.sojourn("plan", "--json", "--nodes", "2", "--deadline", "30m", "python", "train.py", "--json")

    plan = json.loads(done.stdout)
    assert plan["command"]["argv"] == ["python", "train.py", "--json"]
    assert (plan["launch"]["nodes"], plan["launch"]["deadline"]) == (2, 1800)
    assert not any(world.home.iterdir())


def test_a_params_file_of_one_s_own_that_is_no_plain_yaml_is_a_note_and_breaks_no_run(
    world: World, project: Path, typed: Typed
) -> None:
    (project / "params.yaml").write_text("model: !include model.yaml\n---\nlr: {{ lr }}\n")
    done = typed("plan", "--", "python", "train.py")
    assert done.returncode == 0, done.stderr
    assert "params.yaml is not plain YAML (" in done.stdout
    assert "no launch: section is read from it" in done.stdout
    assert typed("plan").returncode == BAD_INPUT, "and without a command there is nothing to run"


@pytest.mark.parametrize("number", ["0", "-5"])
def test_a_list_of_no_run_is_refused(world: World, typed: Typed, number: str) -> None:
    refused(world, typed("runs", "--limit", number), f"--limit: {number} shows no run", "sojourn runs --limit 5")


@pytest.mark.local
def test_a_machine_that_the_run_did_not_have_is_named_with_those_it_had(world: World, typed: Typed) -> None:
    world.script("print('mine')\n")
    assert world.train("--nodes", "2", "--processes", "own", "--", "python", "train.py").returncode == 0
    for number in ("2", "99", "-1"):
        done = typed("logs", "last", "--node", number)
        assert (done.returncode, done.stdout) == (BAD_INPUT, "")
        assert f"no machine {number}: it has 2 machines" in done.stderr and "sojourn logs" in done.stderr
    shown = world.sojourn("logs", "last", "--node", "1")
    assert (shown.returncode, shown.stdout) == (0, "mine\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ('{"stores": ["s3://[x", "nonsense", "file:///%00"]}', "sojourn runs --forget 's3://[x'"),
        ("", "stores.json is no list of stores any more"),
        ('{"stores": "s3://one"}', "stores.json is no list of stores any more"),
        ('{"stores": [1, {"a": 2}]}', "stores.json is no list of stores any more"),
    ],
)
def test_a_damaged_list_of_stores_stops_no_verb_and_is_told(
    world: World, project: Path, typed: Typed, damage: str, told: str
) -> None:
    (world.home / "stores.json").write_text(damage)
    for words in (["runs"], ["reap"], ["runs", "--json"]):
        done = typed(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert told in done.stderr
    for words in (["show", "last"], ["logs", "last"], ["pull", "last"], ["stop", "last"], ["attach", "last"]):
        done = typed(*words)
        assert done.returncode == BAD_INPUT and told in done.stderr, done.stderr
        assert "there is no run yet" in done.stderr
    assert typed("plan", "--", "python", "train.py").returncode == 0


def test_a_sweep_of_prefect_s_goes_by_the_stores_that_can_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.logging import disable_run_logger

    from tasks.reap import find_stores

    monkeypatch.setenv("SOJOURN_HOME", str(world.home))
    (world.home / "stores.json").write_text('{"stores": ["s3://[x", "file:///there"]}')
    with disable_run_logger():
        assert [store.url for store in find_stores([])] == [(world.home / "store").as_uri(), "file:///there"]


def test_a_damaged_list_of_stores_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "stores.json").write_text('{"stores": ["s3://one", ')
    remember(tmp_path, Store("s3://two"))
    assert remembered(tmp_path) == ["s3://two"]
    assert "s3://one" in (tmp_path / "stores.json.damaged").read_text()
    assert "stores.json.damaged is no list" in str(unread_stores(tmp_path))
