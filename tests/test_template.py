"""`sojourn init`: a section that fits the project, and a params.yaml in which nothing else moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sojourn.errors import SpecError
from sojourn.plan.template import append, draft
from sojourn.project.project import Project
from sojourn.spec.launch import Launch, make_launch, read_launch

TORCH = "import torch\n"
RANKS = "from torch.nn.parallel import DistributedDataParallel\n"
STAGES = """\
stages:
  prepare: {cmd: python prepare.py, outs: [data.csv]}
  "train: v2": {cmd: python model.py}
  evaluate: {cmd: python evaluate.py}
"""
FOREACH = "stages: {prepare: {cmd: 'true'}, train: {foreach: [1, 2], do: {cmd: 'python x.py'}}}\n"
MATRIX = "stages: {prepare: {cmd: 'true'}, train: {matrix: {a: [1]}, cmd: 'true'}, check: {cmd: 'true'}}\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    """A project of these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def launch(folder: Path, files: dict[str, str], gpus: int = 0) -> Launch:
    """What `init` would write for these files, read by our own parser."""
    text = draft(Project.at(write(folder, files)), gpus).text
    return make_launch(yaml.safe_load(text)["launch"], origin="init")


@pytest.mark.parametrize(
    ("files", "script"),
    [
        ({"train.py": "", "main.py": TORCH}, "train.py"),
        ({"main.py": "", "model.py": TORCH}, "model.py"),
        ({"main.py": TORCH, "model.py": TORCH}, "main.py"),
        ({"trainer.py": TORCH, "run.py": TORCH}, "run.py"),
        ({"finetune_llm.py": "", "main.py": TORCH}, "finetune_llm.py"),
        ({"a.py": TORCH, "z.py": TORCH + 'if __name__ == "__main__": pass'}, "z.py"),
        ({"src/train.py": "", "utils.py": ""}, "src/train.py"),
        ({"tests/train.py": TORCH, "test_train.py": TORCH, "setup.py": "", "main.py": ""}, "main.py"),
        ({"my train: #1's.py": TORCH}, "my train: #1's.py"),
    ],
)
def test_the_script_is_the_one_that_trains(tmp_path: Path, files: dict[str, str], script: str) -> None:
    assert launch(tmp_path, files).command == ("python", script)


@pytest.mark.parametrize(
    ("dvc", "stage"), [(STAGES, "train: v2"), (FOREACH, "train@1"), (MATRIX, "check"), ("stages: nonsense\n", None)]
)
def test_a_dvc_project_gets_the_stage_that_trains(tmp_path: Path, dvc: str, stage: str | None) -> None:
    (tmp_path / ".dvc").mkdir()
    made = launch(tmp_path, {"dvc.yaml": dvc, "train.py": "", "data/a": ""})
    assert (made.stage, made.command) == ((stage, None) if stage else (None, ("python", "train.py")))


def test_a_directory_without_a_script_gets_a_valid_section_that_says_so(tmp_path: Path) -> None:
    made = draft(Project.at(write(tmp_path, {"utils.py": "x = 1\n"})), gpus=0)
    assert made.runs is None
    assert "name yours" in made.text
    make_launch(yaml.safe_load(made.text)["launch"], origin="init")


@pytest.mark.parametrize(("code", "gpus", "processes"), [(RANKS, 2, "gpu"), (RANKS, 0, 1), (TORCH, 2, 1)])
def test_ranks_are_for_scripts_that_know_them_on_hosts_with_gpus(
    tmp_path: Path, code: str, gpus: int, processes: str | int
) -> None:
    assert launch(tmp_path, {"train.py": code}, gpus).processes == processes


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"requirements.txt": ""}, "auto"),
        ({"requirements-gpu.txt": ""}, "requirements-gpu.txt"),
        ({"src/requirements.txt": "", "src/x.py": ""}, "src/requirements.txt"),
        ({"requirements/train.txt": ""}, "requirements/train.txt"),
        ({"pylock.toml": ""}, "auto"),
        ({"environment.yml": ""}, "current"),
        ({"poetry.lock": ""}, "current"),
        ({"pyproject.toml": "[tool.ruff]\n"}, "current"),
        ({}, "current"),
    ],
)
def test_the_environment_is_built_from_what_names_packages(tmp_path: Path, files: dict[str, str], wanted: str) -> None:
    assert launch(tmp_path, {"train.py": "", **files}).environment == wanted


@pytest.mark.parametrize("files", [{"train.py": ""}, {"train.py": "", "requirements.txt": "", "data/a": ""}, {}])
def test_each_commented_line_is_valid_once_its_sign_is_taken_away(tmp_path: Path, files: dict[str, str]) -> None:
    lines = draft(Project.at(write(tmp_path, files)), gpus=0).text.splitlines()
    commented = [at for at, line in enumerate(lines) if line.startswith("  # ")]
    assert len(commented) >= 8
    for at in (*([one] for one in commented), commented):
        used = [line.replace("# ", "", 1) if number in at else line for number, line in enumerate(lines)]
        (tmp_path / "params.yaml").write_text("\n".join(used) + "\n")
        named = {used[one].split(":")[0].strip() for one in at}
        assert read_launch(tmp_path, {}).model_fields_set >= named


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"train:\n  lr: 0.1 # keep me\n",
        b"train: {lr: .nan, on: 2024-01-01}",
        b"# only a comment\r\nlr: 1e-3\r\n",
        "größe: 'ü'\n".encode(),
        b"\xef\xbb\xbflr: 1\n",
        b"text: |\n  last line\n",
    ],
)
def test_every_byte_of_an_existing_file_stays(tmp_path: Path, before: bytes) -> None:
    section = draft(Project.at(write(tmp_path, {"train.py": ""})), gpus=0).text

    after = append(before, section)

    assert after.startswith(before)
    assert before.count(b"\r\n") == 0 or after.count(b"\n") == after.count(b"\r\n")
    (tmp_path / "params.yaml").write_bytes(after)
    assert read_launch(tmp_path, {}).command == ("python", "train.py")


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (b"launch:\n  nodes: 2\n", "already"),
        (b"launch:\n", "already"),
        (b"a: 1\n---\nb: 2\n", "not valid YAML"),
        (b"a: [1\n", "not valid YAML"),
        (b"- 1\n- 2\n", "not a mapping"),
        (b"{lr: 0.1}\n", "below its end"),
        (b"a: 1\n...\n", "below its end"),
        (b"text: |+\n  kept newlines\n", "below its end"),
        (b"\xff\xfe", "not valid YAML"),
    ],
)
def test_a_file_that_could_change_its_meaning_is_left_alone(tmp_path: Path, before: bytes, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        append(before, draft(Project.at(tmp_path), gpus=0).text)
