"""The report shows no secret that a metric file holds, also where stages of this host read the file itself."""

from __future__ import annotations

from sojourn.records import FileEntry
from sojourn.results.collect import Collected
from sojourn.results.report import _with_published


def collected(shown: str | None) -> Collected:
    entry = FileEntry(path="metrics.json", hash="sha256:0", size=1, source="machine/p/1", shown=shown)
    return Collected(files=(entry,), bytes=1, checkpoints=0)


def test_texts_that_a_stage_of_this_host_has_read_are_left_to_the_copy_that_may_be_shown() -> None:
    read_here = {"loss": 0.5, "model": "hunter2", "auc": 0.9, "more": "hunter2"}
    told = {"loss": 0.5, "model": "***"}
    assert _with_published(told, read_here, collected("machine/p/shown/1")) == {"auc": 0.9, **told}
    assert _with_published(told, read_here, collected(None)) == read_here, "nothing was hidden there"
