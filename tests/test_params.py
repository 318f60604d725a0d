"""A params.yaml is the user's own: what is no plain YAML in it keeps no run from starting; ours is never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.spec.params import read_section, unread

OURS = "launch:\n  command: python train.py\n  nodes: 2   # machines\n"
SECTION = {"command": "python train.py", "nodes": 2}
THEIRS = {
    "a tag of their own": "model: !include model.yaml\nlr: 0.1\n",
    "a tag with a mapping": "net: !obj:torch.nn.Linear {a: 1}\n",
    "a template": "{% if big %}\nlr: 0.1\n{% endif %}\nseed: {{ seed }}\n",
    "a filled-in value": "path: {{ root }}/data\n",
    "a date that is none": "day: 2024-13-45\n",
    "a tab": "lr:\n\t- 1\n",
    "an unknown alias": "lr: *rate\n",
    "a key that is a list": "{[1, 2]: 3}: 4\n",
}


def written(folder: Path, text: str | bytes) -> Path:
    (folder / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize("text", THEIRS.values(), ids=THEIRS)
def test_a_file_that_says_nothing_of_launch_breaks_no_run_and_is_told_of(tmp_path: Path, text: str) -> None:
    assert read_section(written(tmp_path, text)) == {}
    (note,) = unread(tmp_path)
    assert note.startswith("params.yaml is not plain YAML (") and "no launch: section is read from it" in note


@pytest.mark.parametrize("theirs", THEIRS.values(), ids=THEIRS)
@pytest.mark.parametrize("first", [True, False])
def test_its_launch_section_is_read_by_itself(tmp_path: Path, theirs: str, first: bool) -> None:
    assert read_section(written(tmp_path, OURS + theirs if first else theirs + OURS)) == SECTION
    assert "its launch: section is read by itself" in unread(tmp_path)[0]


@pytest.mark.parametrize(
    "text", ["a: 1\n---\n" + OURS, OURS + "---\na: 1\n", OURS.replace("launch:", '"launch":') + "...\n---\na: !b c\n"]
)
def test_of_several_documents_the_one_with_the_section_counts(tmp_path: Path, text: str) -> None:
    assert read_section(written(tmp_path, text)) == SECTION


def test_two_documents_without_a_section_are_the_user_s(tmp_path: Path) -> None:
    assert read_section(written(tmp_path, "a: 1\n---\nb: 2\n")) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: !x 1\n" + OURS + "  gpu: [}\n", "in line 5"),
        ("lr: !x 1\nlaunch:\n  command: !here x\n", "in line 3"),
        (THEIRS["a template"] + "launch:\n  command: python {{ script }}\n", "launch: in line 5: a template stands in"),
        ("launch:\n  nodes: 1\nlr: 1\nlaunch:\n  nodes: 2\n", "stands more than once, in lines 1 and 4"),
        (OURS + "---\n" + OURS, "stands more than once"),
        ("{lr: !x 1, launch: {command: python train.py}}\n", "could not determine a constructor"),
        ("launch: [1]\n", "is not a mapping"),
        ("lr: !x 1\nlaunch: yes\n", "is not a mapping"),
        (b"\xff\xfel\0a\0u\0n\0c\0h\0:\0", "codec"),
    ],
)
def test_a_section_that_cannot_be_read_is_an_error_with_its_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_section(written(tmp_path, text))
    assert said in caught.value.message
    assert caught.value.hint


def test_other_words_of_launch_are_not_ours(tmp_path: Path) -> None:
    text = "# launch: a note\nprelaunch: !x 1\nmodel:\n  launch: 3\nlauncher: torchrun\ntext: |\n  launch:\n"
    assert read_section(written(tmp_path, text)) == {}


def test_bytes_that_are_no_text_and_not_ours_break_no_run(tmp_path: Path) -> None:
    assert read_section(written(tmp_path, b"name: caf\xe9\n")) == {}
    assert unread(tmp_path)


def test_a_plain_file_is_not_told_of(tmp_path: Path) -> None:
    assert unread(tmp_path) == ()
    assert read_section(written(tmp_path, b"\xef\xbb\xbf" + OURS.encode())) == SECTION
    assert unread(tmp_path) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "lr: 1\nlaunch:\n  deadline: 3h\n  nodes: 1\n  deadline: 1h\n",
            "launch.deadline: stands more than once, in lines 3",
        ),
        ("launch:\n  nodes: 1\n  'nodes': 2\n", "launch.nodes: stands more than once, in lines 2 and 3"),
        ("launch:\n  variables: {A: 1, B: 2, A: 3}\n", "launch.variables.A: stands more than once, in lines 2 and 2"),
        ("lr: !x 1\nlaunch:\n  command: a\n  command: b\n", "launch.command: stands more than once, in lines 3 and 4"),
        ("{launch: {nodes: 1},\n launch: {nodes: 2}}\n", "launch: stands more than once, in lines 1 and 2"),
    ],
)
def test_a_field_of_ours_that_stands_twice_is_refused_with_both_lines(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        read_section(written(tmp_path, text))
    assert said in refused.value.message and "params.yaml" in str(refused.value.hint)


def test_what_may_stand_twice_is_taken(tmp_path: Path) -> None:
    theirs = "lr: 1\nlr: 2\nusual: &usual {nodes: 3}\nmore: &more {deadline: 1h}\n"
    ours = "launch:\n  <<: *usual\n  <<: *more\n  command: python train.py\n  nodes: 2\n"
    assert read_section(written(tmp_path, theirs + ours)) == {**SECTION, "deadline": "1h"}
