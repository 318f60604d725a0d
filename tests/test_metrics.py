"""Numbers that a script reports: found in its log, kept in bounded length, and drawn."""

from __future__ import annotations

import math
import time
from xml.etree import ElementTree

import pytest

from sojourn.errors import SpecError
from sojourn.shorthand import format_duration, format_number
from sojourn.spec.launch import make_launch
from sojourn.spec.metric_patterns import BUDGET_S, LogReader
from sojourn.watch.charts import chart, sparkline
from sojourn.watch.metrics import POINTS, SERIES, Metrics, Series


class Log:
    """A reader, what it found and what it warned of."""

    def __init__(self, **patterns: str) -> None:
        self.warnings: list[str] = []
        self.reader = LogReader(patterns, self.warnings.append)

    def read(self, text: str) -> list[tuple[str, float, float | None]]:
        return [tuple(found) for found in self.reader.feed(text.encode())]


# --- patterns ---


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("loss=([0-9", "'loss=([0-9' is not a regular expression: unterminated character set at position 10"),
        ("a(b", "'a(b' is not a regular expression: missing ) at position 3"),
        ("loss=[0-9.]+", "'loss=[0-9.]+' has no group, put one around the number and make others (?:…)"),
        ("(loss)=(.*)", "'(loss)=(.*)' has 2 groups, put one around the number and make others (?:…)"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused_with_its_field_and_place(pattern: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_launch({"command": "python x.py", "metrics": {"loss": pattern}}, origin="params.yaml")
    assert caught.value.message == f"params.yaml: launch.metrics.loss: {message}"
    assert caught.value.hint and "regular expression" in caught.value.hint


def test_a_metric_with_an_odd_name_is_refused() -> None:
    with pytest.raises(SpecError, match=r"launch\.metrics.*'my loss' is not a name"):
        make_launch({"command": "python x.py", "metrics": {"my loss": "(x)"}}, origin="params.yaml")


def test_numbers_are_found_with_the_step_of_their_line_or_the_last_one_before() -> None:
    log = Log(loss="loss ([0-9.e+-]+)", step=r"step (\d+)")
    assert log.read("loss 3.5\nstep 1 loss 2.5\nstep 2\nloss 2e-1\n") == [
        ("loss", 3.5, None),
        ("loss", 2.5, 1.0),
        ("loss", 0.2, 2.0),
    ]


def test_a_line_that_comes_in_two_pieces_is_read_once_and_whole() -> None:
    log = Log(loss="loss ([0-9.]+)")
    assert log.read("loss 0.1") == []
    assert log.read("25\n") == [("loss", 0.125, None)]
    assert log.read("loss 7") == [] and [tuple(one) for one in log.reader.close()] == [("loss", 7.0, None)]


def test_a_bar_redrawn_with_carriage_returns_is_read_at_each_redraw() -> None:
    assert [value for _, value, _ in Log(loss="loss ([0-9.]+)").read("loss 3\rloss 2\rloss 1\n")] == [3, 2, 1]


def test_of_several_ranks_the_first_is_read_without_its_prefix() -> None:
    log = Log(loss="^loss ([0-9.]+)")
    assert log.read("[rank 1] loss 9\n[rank 0] loss 4\n") == [("loss", 4.0, None)]


def test_what_a_pattern_finds_that_is_no_number_is_said_once() -> None:
    log = Log(loss="loss (.*)")
    assert log.read("loss ?\nloss ?\nloss 1\n") == [("loss", 1.0, None)]
    assert log.warnings == ["launch.metrics.loss found '?', which is not a number"]


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("{'loss': '3.9', 'grad_norm': '1.5e-03', 'epoch': '1'}", {"loss": 3.9, "grad_norm": 0.0015, "epoch": 1}),
        ("{'loss': 3.9, 'learning_rate': 5e-05, 'epoch': 1.0}", {"loss": 3.9, "learning_rate": 5e-05, "epoch": 1}),
        ("  {'eval/acc@1': 0.5, 'took': 12}  ", {"eval/acc@1": 0.5, "took": 12}),
        ("{'epochs': 3, 'lr': 0.1, 'seed': 1}", {}),  # settings: a script that prints its arguments
        ("{'loss': 1, 'best': True}", {}),
        ("{'work_dir': 'out', 'num_workers': 4, 'resume': False, 'loss_scale': 1.0, 'device': None}", {}),
        ("{'train:loss': -1}", {"train:loss": -1}),
        ("{'loss': 1, 'nested': {'a': 1}}", {}),
        ("{'loss': 1, 'list': [1]}", {}),
        ("{'loss': 93%}", {}),
        ("{'loss': '93%'}", {}),
        ("loss {'loss': 1}", {}),
        ("{'loss': 1} and more", {}),
        ('{"loss": 1}', {}),
        ("{'loss': tensor(1.)}", {}),
        ("{'steps': 10}", {}),
        ("{", {}),
        ("{'" + "a" * 1900, {}),
    ],
)
def test_the_dict_that_a_trainer_prints_tells_its_numbers_without_being_asked(
    line: str, numbers: dict[str, float]
) -> None:
    assert {name: value for name, value, _ in Log().read(f"before\n{line}\nafter\n")} == numbers


def test_what_a_pattern_is_asked_for_is_not_read_from_a_dict_too() -> None:
    found = Log(loss="loss': '([0-9.]+)").read("{'loss': '3.9', 'epoch': 1.0, 'step': 7}\n")
    assert found == [("loss", 3.9, 7.0), ("epoch", 1.0, 7.0)]


def test_numbers_that_are_none_come_from_a_dict_as_such() -> None:
    ((_, value, _),) = Log().read("{'loss': nan}\n")
    assert math.isnan(value)


@pytest.mark.parametrize("name", ["train:loss", "val/acc@1", "a.b-c_d"])
def test_a_metric_may_be_named_as_other_services_name_it(name: str) -> None:
    launch = make_launch({"command": "python x.py", "metrics": {name: "x=([0-9.]+)"}}, origin="params.yaml")
    assert list(launch.metrics) == [name]


def test_a_pattern_without_end_holds_nobody_up_and_leaves_the_others_alone() -> None:
    log = Log(slow="(?:a|aa)+$(b)", loss="loss ([0-9.]+)")
    begun = time.monotonic()
    found = [log.read(f"{'a' * 200}!\nloss {at}\n")[0][1] for at in range(5)]
    assert found == [0, 1, 2, 3, 4]
    assert time.monotonic() - begun < 60 * BUDGET_S  # on a busy host; without a limit it is for ever
    assert len(log.warnings) == 1 and "launch.metrics.slow is no longer looked for" in log.warnings[0]


# --- series ---


def reported(count: int) -> Series:
    """The series of a metric that was reported so often, at steps 1, 2, …"""
    metrics = Metrics()
    for step in range(1, count + 1):
        metrics.add("log", "loss", 1 / step, step, float(step))
    return metrics.series()["loss"]


@pytest.mark.parametrize("count", [1, 2, POINTS - 1, POINTS, POINTS + 1, 12_345])
def test_a_series_keeps_its_first_and_last_point_and_at_most_500(count: int) -> None:
    series = reported(count)
    assert len(series.points) <= POINTS and len(series.points) >= min(count, POINTS // 2)
    assert (series.points[0].step, series.points[-1].step, series.count) == (1, count, count)
    steps = [point.step for point in series.points]
    assert steps == sorted(set(steps))


def test_a_series_survives_its_own_json_with_what_is_not_finite() -> None:
    metrics = Metrics()
    for value in (1.0, math.nan, math.inf):
        metrics.add("log", "loss", value, None, None)
    series = metrics.series()["loss"]
    assert [point.value for point in series.points] == [1.0, None, None]
    assert Series.model_validate_json(series.to_bytes()) == series


def test_names_without_end_are_left_out() -> None:
    metrics = Metrics()
    for at in range(SERIES + 5):
        metrics.add("tensorboard", f"tag{at}", 1.0, 1, 1.0)
    assert len(metrics.series()) == SERIES


def test_of_two_sources_the_one_that_the_user_pointed_to_counts() -> None:
    metrics = Metrics()
    metrics.add("log", "loss", 1.0, 10, 0.0)
    metrics.add("tensorboard", "loss", 2.0, 3, 0.0)
    metrics.add("file", "accuracy", 0.5, None, 0.0)
    assert metrics.newest() == {"loss": 1.0, "accuracy": 0.5} and metrics.step() == 10


def test_a_loss_leads_and_counters_come_last() -> None:
    metrics = Metrics()
    for name in ("epoch", "accuracy", "train/loss"):
        metrics.add("tensorboard", name, 1.0, 1, 1.0)
    assert list(metrics.newest()) == ["train/loss", "accuracy", "epoch"]


def test_the_rate_is_of_the_last_half_minute_and_starts_again_with_the_steps() -> None:
    metrics = Metrics()
    for second in range(70):
        metrics.add("log", "loss", 1.0, 10 * min(second, 30) + 2 * max(0, second - 30), float(second))
    assert metrics.rate() == pytest.approx(2.0, rel=0.1)
    metrics.add("log", "loss", 1.0, 1, 70.0)
    assert metrics.rate() is None and metrics.step() == 1


def test_two_reports_at_once_give_no_rate() -> None:
    metrics = Metrics()
    metrics.add("log", "loss", 1.0, 1, 5.0)
    metrics.add("log", "loss", 1.0, 100, 5.01)
    assert metrics.rate() is None


# --- pictures ---


def test_a_sparkline_goes_from_the_lowest_to_the_highest() -> None:
    assert sparkline([1, 2, 3, 4]) == "▁▃▆█"
    assert sparkline([5]) == "" and sparkline([2, 2]) == "▄▄"
    assert len(sparkline(range(1000), 20)) == 20


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(3410.0, "3,410"), (0.21349, "0.2135"), (3.2e-5, "3.2e-05"), (12345.6, "12,346"), (0.0, "0"), (-0.0, "0")],
        *[(1e308, "1e+308"), (-1e308, "-1e+308"), (5e-324, "4.941e-324")],
        *[(float("inf"), "inf"), (float("nan"), "nan"), (999_999_999_999, "999,999,999,999"), (10**12, "1e+12")],
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_a_number_or_a_duration_of_hundreds_of_digits_is_short_too() -> None:
    assert (format_number(10**400), format_number(-(10**400))) == ("inf", "-inf")
    assert format_duration(1e300) == "1.157e+295 days" and format_duration(float("nan")) == "nan days"


@pytest.mark.parametrize("values", [[], [None], [1.0], [3.0, 3.0], [2.0, None, 1.0, 1e-9], [1e300, -1e300]])
def test_a_chart_is_well_formed_whatever_was_reported(values: list[float | None]) -> None:
    points = tuple((step, value, None) for step, value in enumerate(values))
    series = Series.model_validate({"source": "log", "count": len(values), "points": points})
    drawing = ElementTree.fromstring(chart("a <loss> & more", series))
    assert "nan" not in ElementTree.tostring(drawing, encoding="unicode")
    lines = drawing.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == (1 if any(value is not None for value in values) else 0)
