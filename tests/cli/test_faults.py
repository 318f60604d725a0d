"""A fault of ours is one sentence and a file with all of it; an error of the system says where, and what mends it."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

import pytest

from cli.faults import told
from sojourn.errors import SpecError
from sojourn.run.faults import KEPT
from sojourn.run.runs import provide_home


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "home"


def raised(error: Exception) -> Exception:
    """The error as it arrives: with the place where it was raised."""
    try:
        raise error
    except Exception as caught:
        return caught


def file_of(sentence: str) -> Path:
    """The file that a sentence names."""
    found = re.search(r"all of it: (.+\.txt)$", sentence)
    assert found, sentence
    return Path(found[1])


def test_a_fault_of_ours_is_a_sentence_and_its_traceback_is_in_the_file_it_names(home: Path) -> None:
    sentence = told(raised(KeyError("no such\nkey")), ["train", "--", "python", "train.py"])
    assert sentence.startswith("a fault of Sojourn itself, in sojourn train: KeyError: ")
    assert "sojourn runs" in sentence and "Traceback" not in sentence
    file = file_of(sentence)
    assert file.is_relative_to(home)
    assert "Traceback (most recent call last)" in file.read_text() and "'train.py'" in file.read_text()


def test_where_the_data_directory_takes_nothing_the_file_is_in_the_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "file/home"))
    assert file_of(told(raised(ValueError("x")), [])).parent == tmp_path


def test_where_nothing_can_be_written_the_traceback_itself_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "file/home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert "Traceback (most recent call last)" in told(raised(ValueError("x")), ["runs"])


@pytest.mark.parametrize(
    ("number", "place", "said", "mend"),
    [
        (errno.EEXIST, None, "sojourn reap: File exists", "all of it: "),
        (errno.ENOSPC, "/mnt/x", "sojourn reap: /mnt/x: No space left on device", "make room there"),
        (errno.EMFILE, None, "sojourn reap: Too many open files", "ulimit -n"),
        (errno.EROFS, "HOME/machines", "Read-only file system", "export SOJOURN_HOME=DIRECTORY"),
        (errno.EACCES, "HOME", "Permission denied", "export SOJOURN_HOME=DIRECTORY"),
    ],
)
def test_an_error_of_the_system_says_what_was_being_done_and_what_mends_it(
    home: Path, number: int, place: str | None, said: str, mend: str
) -> None:
    where = (place.replace("HOME", str(home)),) if place else ()
    sentence = told(raised(OSError(number, os.strerror(number), *where)), ["reap", "--dry-run"])
    assert said in sentence and mend in sentence
    assert file_of(sentence).exists()


def test_a_data_directory_that_cannot_be_made_is_told_before_a_run_begins(tmp_path: Path) -> None:
    provide_home(tmp_path / "new/home")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file/home"):
        with pytest.raises(SpecError, match="the data directory cannot be used: .*/file") as caught:
            provide_home(place)
        assert "export SOJOURN_HOME=DIRECTORY" in str(caught.value.hint)


def test_files_of_old_faults_go(home: Path) -> None:
    (home / "faults").mkdir(parents=True)
    for day in range(10, 10 + KEPT + 5):
        (home / f"faults/sojourn-202501{day}-000000-1.txt").touch()
    newest = file_of(told(raised(ValueError("x")), []))
    assert len(list((home / "faults").iterdir())) == KEPT and newest.exists()
