"""Numbers are read from whatever files of metrics a script leaves, and none is made up."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sojourn.agent.script.scalars import looks_like_metrics
from sojourn.project.metric_files import merged, read


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("m.json", '{"a": "3.9", "b": "1e-3", "c": "9%", "d": {"e": 1}}', {"a": 3.9, "b": 0.001, "c": "9%", "d.e": 1}),
        ("m.json", '{"a": NaN, "b": -Infinity}', {"a": "NaN", "b": "-Infinity"}),
        ("m.json", '{"c": null, "d": [1], "e": true}', {"e": True}),
        ("m.json", '{"a": "7", "b": "1_000", "c": ""}', {"a": 7, "b": "1_000"}),
        ("m.json", "\ufeff" + '{"a": 1}', {"a": 1}),
        ("m.yaml", "a: 1e-3\nb: {c: .5}\n", {"a": 0.001, "b.c": 0.5}),
        ("m.toml", "[t]\na = 1.5\n", {"t.a": 1.5}),
        ("m.csv", "epoch,loss,acc\n0,2.5,\n1,,0.5\n", {"epoch": 1, "loss": 2.5, "acc": 0.5}),
        ("m.jsonl", '{"a": 1, "b": 1}\n{"a": 2}\n{"a": 3', {"a": 2, "b": 1}),
        ("m.json", '{"a": 1}\n{"a": 2}\n', {"a": 2}),
        ("m.json", "[1, 2]", {}),
        ("m.json", "{", {}),
        ("m.json", "", {}),
        ("m.yaml", "a: [", {}),
        ("m.yaml", "!!python/object/apply:os.system [id]", {}),
        ("m.json", "[" * 100_000, {}),
        ("m.json", '{"a":' * 400 + "1" + "}" * 400, {}),
        ("m.csv", "\0", {}),
    ],
)  # fmt: skip
def test_values_are_read_flat_and_text_that_is_a_number_is_one(name: str, text: str, values: dict[str, object]) -> None:
    assert read(name, text.encode()) == values


def test_what_is_no_text_or_too_large_holds_none() -> None:
    assert read("m.json", b"\xff\xfe") == {} and read("m.json", b'{"a": 1' + b" " * 1_000_001 + b"}") == {}


def test_files_are_known_by_their_names() -> None:
    yes = (
        "metrics.json", "a/b/eval_metrics.json", "metrics_final.yaml", "train_results.json", "all_results.json",
        "scores.json", "logs/metrics.csv", "metrics.jsonl", "test-metrics.toml",
    )  # fmt: skip
    no = (
        "config.json",
        "params.yaml",
        "results.csv",
        "train.json",
        "mymetrics.py",
        "results.json.gz",
        "parametrics.json",
    )
    assert [name for name in (*yes, *no) if looks_like_metrics(name)] == list(yes)


def test_one_name_in_several_files_is_told_apart_by_their_folders_unless_they_agree() -> None:
    guessed = {"fold_1/metrics.json": {"auc": 0.5, "n": 10}, "fold_2/metrics.json": {"auc": 0.75, "n": 10}}
    assert merged({}, guessed) == {"fold_1/auc": 0.5, "fold_2/auc": 0.75, "n": 10}
    one_folder = {"out/train_results.json": {"loss": 1}, "out/eval_results.json": {"loss": 2}}
    assert merged({}, one_folder) == {"out/train_results/loss": 1, "out/eval_results/loss": 2}


def test_what_was_declared_leads_and_a_file_of_predictions_is_none_of_metrics() -> None:
    predictions = {f"image {at}": at for at in range(500)}
    found = merged(
        {"auc": 0.9, "kind": "resnet"}, {"r/results.json": predictions, "m/metrics.json": {"auc": 0.1, "x": 1}}
    )
    assert found == {"auc": 0.9, "kind": "resnet", "x": 1}
    assert json.dumps(found)


def _laughs(inner: str) -> bytes:
    """YAML whose few lines stand for 2^24 values."""
    lines = [f"a: &a {inner}"]
    lines += [f"{chr(98 + at)}: &{chr(98 + at)} {{p: *{chr(97 + at)}, q: *{chr(97 + at)}}}" for at in range(24)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("name", "body", "values"),
    [
        (
            "metrics.json",
            json.dumps({"loss": 0.1, "model": "resnet\U0001f600"}).encode(),
            {"loss": 0.1, "model": "resnet😀"},
        ),
        ("metrics.json", b'{"loss": 0.1, "model": "\\ud83d"}', {"loss": 0.1, "model": "?"}),
        ("metrics.json", b'{"\\ud83d": 1}', {"?": 1}),
        ("metrics.json", b'{"a": ' + b"9" * 400 + b', "b": 1}', {"b": 1}),
        ("metrics.json", b'{"a": ' + b"9" * 5000 + b"}", {}),
        ("metrics.json", b"[" * 100_000, {}),
        ("metrics.json", b'{"a":' * 50_000 + b"1" + b"}" * 50_000, {}),
        ("metrics.json", b'{"lr": 1e-05}', {"lr": 1e-05}),
        ("metrics.yaml", _laughs("{x: 1, y: 2}"), {}),
        ("metrics.yaml", _laughs("{}"), {}),
        ("metrics.yaml", b"a: &a {b: *a, c: *a}", {}),
        ("metrics.yaml", b"[" * 20_000, {}),
        ("metrics.toml", b"a = " + b"[" * 50_000, {}),
    ],
)
def test_whatever_a_script_writes_is_read_at_once_and_can_be_stored(
    name: str, body: bytes, values: dict[str, Any]
) -> None:
    began = time.process_time()  # a busy host makes it no longer
    found = read(name, body)
    assert found == values and time.process_time() - began < 2
    assert json.dumps(found).encode() and merged({}, {name: found}) is not None
