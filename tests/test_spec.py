"""What the user asks for is parsed with the shorthand people write, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sojourn.errors import ExitCode, SpecError
from sojourn.renting import GpuNeed, Need
from sojourn.shorthand import format_duration, parse_duration, parse_gpu, parse_money, parse_size
from sojourn.spec import peers
from sojourn.spec.launch import Launch, make_launch, read_launch

COMMAND = {"command": ("python", "train.py")}


def refusal(values: dict[str, Any]) -> SpecError:
    """What a launch section with these values is told."""
    with pytest.raises(SpecError) as caught:
        make_launch({**COMMAND, **values}, origin="params.yaml")
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return caught.value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("2h30m", 9000), ("2h 30m", 9000), ("1d", 86400), ("1.5h", 5400), (" 5 s ", 5)],
)
def test_a_duration_is_written_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["90", "", "5 parsecs", "-5m", "5m3", "m", "1e3s", "٣", "5m\n7"])
def test_a_duration_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 45s, 90m or 2h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.4, "0s"), (61, "1m 1s"), (9000, "2h 30m"), (90061, "1d 1h")]
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("130GB", 130e9), ("64gb", 64e9), ("64 G", 64e9), ("1.5TB", 1.5e12), ("512MB", 512e6), ("64GiB", 64 * 2**30)],
)
def test_a_size_counts_by_powers_of_ten_unless_it_says_otherwise(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "size"), [("0", 0), (0, 0), ("5GB", 5e9), (1e9, 1e9)])
def test_what_is_kept_beside_the_results_may_be_nothing(text: object, size: float) -> None:
    assert make_launch({"command": "python x.py", "keep": text}, origin="params.yaml").keep == size
    with pytest.raises(SpecError, match="launch.keep"):
        make_launch({"command": "python x.py", "keep": "-1"}, origin="params.yaml")


@pytest.mark.parametrize("text", ["64", "", "GB", "64 bytes", "-1GB", "64GBB", "1e3GB"])
def test_a_size_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 64GB or 1TB"):
        parse_size(text)


@pytest.mark.parametrize(("text", "dollars"), [("5", 5), (5, 5), ("$5.50", 5.5), ("20 USD", 20), ("$ 7", 7)])
def test_money_is_dollars(text: object, dollars: float) -> None:
    assert parse_money(text) == dollars


@pytest.mark.parametrize("text", ["", "$", "5 EUR", "-5", True, "1e3"])
def test_what_is_no_money_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"write it like 5, \$5\.50 or 20 USD"):
        parse_money(text)


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("L4", GpuNeed(name="L4")),
        ("L4:4", GpuNeed(name="L4", count=4)),
        ("4xL4", GpuNeed(name="L4", count=4)),
        ("A100-80GB:8", GpuNeed(name="A100", count=8, memory=80 * 10**9)),
        ("80GB", GpuNeed(memory=80 * 10**9)),
        ("80GB:2", GpuNeed(memory=80 * 10**9, count=2)),
        (2, GpuNeed(count=2)),
    ],
)
def test_gpus_are_asked_for_by_name_memory_or_number(text: object, need: GpuNeed) -> None:
    assert parse_gpu(text) == need


@pytest.mark.parametrize("text", ["", ":", "L4:", "L4:0", "L4:65", "2xL4:2", "L4:4:4", True, "L4;"])
def test_what_is_no_gpu_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="write it like L4, L4:4 or 80GB|a machine has 1 to 64"):
        parse_gpu(text)


def test_a_need_is_what_the_launch_asks_of_the_machines() -> None:
    asked = {"gpu": "L4:4", "cpus": "8", "memory": "64GB", "disk": "130GB", "market": "spot", "regions": ["us-east-2"]}

    assert make_launch({**COMMAND, **asked, "nodes": 2}, origin="x").need() == Need(
        gpu=GpuNeed(name="L4", count=4), cpus=8, memory=64 * 10**9, disk=130 * 10**9, market="spot",
        regions=("us-east-2",), nodes=2,
    )  # fmt: skip
    assert make_launch(COMMAND, origin="x").need() == Need()


def test_every_field_is_described() -> None:
    assert [name for name, field in Launch.model_fields.items() if not field.description] == []


def test_a_launch_survives_its_own_json() -> None:
    asked = {"deadline": "90m", "processes": "gpu", "inputs": ["data"], "disk": "130GB", "gpu": "L4:4", "budget": "$5"}
    launch = make_launch({**COMMAND, **asked}, origin="params.yaml")

    assert Launch.model_validate_json(launch.model_dump_json()) == launch


def test_a_command_in_one_string_is_split_like_a_shell_would() -> None:
    launch = make_launch({"command": "python 'my train.py' --name \"it's\""}, origin="params.yaml")

    assert launch.command == ("python", "my train.py", "--name", "it's")


def test_numbers_in_variables_are_text_for_the_script() -> None:
    launch = make_launch({**COMMAND, "variables": {"PORT": 29500, "RATE": 0.1}}, origin="params.yaml")

    assert launch.variables == {"PORT": "29500", "RATE": "0.1"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"timeout": "2h"}, "params.yaml: launch: unknown key 'timeout', did you mean 'deadline'?"),
        ({"cloud": "aws"}, "params.yaml: launch: unknown key 'cloud', did you mean 'where'?"),
        ({"script": "python x.py"}, "params.yaml: launch: unknown key 'script', did you mean 'command'?"),
        ({"disk_size": 30}, "params.yaml: launch: unknown key 'disk_size', did you mean 'disk'?"),
        ({"num_nodes": 2}, "params.yaml: launch: unknown key 'num_nodes', did you mean 'nodes'?"),
        ({"use_spot": True}, "params.yaml: launch: unknown key 'use_spot', did you mean 'market'?"),
        ({"Max-Duration": "2h"}, "params.yaml: launch: unknown key 'Max-Duration', did you mean 'deadline'?"),
        ({"resources": {"gpu": "L4"}}, "params.yaml: launch: unknown key 'resources', "
         "write gpu:, cpus:, memory: and disk: directly below launch:"),
        ({"workdir": "."}, "params.yaml: launch: unknown key 'workdir', "
         "the directory is where you stand, or: --project DIR"),
        ({"nods": 2}, "params.yaml: launch: unknown key 'nods', did you mean 'nodes'?"),
        ({"nodes": 0}, "params.yaml: launch.nodes: 0 is not a number from 1 to 1024"),
        ({"nodes": "two"}, "params.yaml: launch.nodes: 'two' is not a number from 1 to 1024"),
        ({"nodes": True}, "params.yaml: launch.nodes: True is not a number from 1 to 1024"),
        (
            {"processes": "gpus"},
            "params.yaml: launch.processes: 'gpus' is neither a number from 1 to 1024 nor 'gpu' nor 'own'",
        ),
        ({"processes": 0}, "params.yaml: launch.processes: 0 is neither a number from 1 to 1024 nor 'gpu' nor 'own'"),
        (
            {"deadline": "5 parsecs"},
            "params.yaml: launch.deadline: '5 parsecs' is not a duration, write it like 45s, 90m or 2h30m",
        ),
        ({"deadline": "0s"}, "params.yaml: launch.deadline: 0.0: input should be greater than 0"),
        ({"memory": 64}, "params.yaml: launch.memory: '64' is not a size, write it like 64GB or 1TB"),
        ({"memory": 64.5}, "params.yaml: launch.memory: 64.5: input should be greater than or equal to 1000000"),
        ({"gpu": "L4:no"}, "params.yaml: launch.gpu: 'L4:no' is not a GPU, write it like L4, L4:4 or 80GB"),
        ({"cpus": "many"}, "params.yaml: launch.cpus: 'many' is not a number from 1 to 1024"),
        ({"market": "cheap"}, "params.yaml: launch.market: 'cheap': input should be 'any', 'spot' or 'on-demand'"),
        ({"network": "some"}, "params.yaml: launch.network: 'some': input should be 'internet' or 'none'"),
        ({"regions": "us-east-1"}, "params.yaml: launch.regions: 'us-east-1' is not a list, write it as [us-east-1]"),
        ({"machine": "l", "gpu": "L4"}, "params.yaml: both machine: l and gpu: L4 say which machine"),
        ({"secrets": "TOKEN"}, "params.yaml: launch.secrets: 'TOKEN' is not a list, write it as [TOKEN]"),
        ({"project_name": "../x y"}, "params.yaml: launch.project_name: '../x y' is not a name of small letters, "
         "digits and dashes, try 'x-y-46c7'"),
        ({"variables": {"A": ["b"]}}, "params.yaml: launch.variables.A: ['b']: input should be a valid string"),
        ({"command": ""}, "params.yaml: launch.command: '': the command is empty, write it after --"),
        ({"command": "python 'x"}, "params.yaml: launch.command: \"python 'x\" has a quote that does not end"),
        ({"stage": "train"}, "params.yaml: both a command and a stage"),
        ({"command": None}, "params.yaml: nothing to run"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_field(values: dict[str, Any], message: str) -> None:
    error = refusal(values)

    assert error.message == message
    assert error.hint


def params(directory: Path, text: str) -> Path:
    (directory / "params.yaml").write_text(text, encoding="utf-8")
    return directory


def test_a_flag_overrides_the_file_and_is_blamed_for_its_own_value(tmp_path: Path) -> None:
    here = params(tmp_path, "launch: {command: python train.py, nodes: 2, deadline: 1h}\n")

    assert read_launch(here, {"nodes": "3"}).nodes == 3
    with pytest.raises(SpecError, match=r"^command line: launch\.nodes"):
        read_launch(here, {"nodes": "three"})


def test_a_command_on_the_command_line_replaces_the_stage_of_the_file(tmp_path: Path) -> None:
    launch = read_launch(params(tmp_path, "launch: {stage: train}\n"), {"command": ("python", "other.py")})

    assert (launch.stage, launch.command) == (None, ("python", "other.py"))


def test_a_stage_on_the_command_line_replaces_the_command_of_the_file(tmp_path: Path) -> None:
    launch = read_launch(params(tmp_path, "launch: {command: python train.py}\n"), {"stage": "train"})

    assert (launch.stage, launch.command) == ("train", None)


def test_a_machine_and_what_it_must_have_replace_each_other(tmp_path: Path) -> None:
    here = params(tmp_path, "launch: {command: python train.py, gpu: L4, memory: 64GB}\n")

    assert read_launch(here, {"machine": "g6.xlarge"}).need() == Need(machine="g6.xlarge")
    assert read_launch(here, {"cpus": "4"}).need() == Need(gpu=GpuNeed(name="L4"), memory=64 * 10**9, cpus=4)
    here = params(tmp_path, "launch: {command: python train.py, machine: g6.xlarge}\n")
    assert read_launch(here, {"gpu": "80GB"}).need() == Need(gpu=GpuNeed(memory=80 * 10**9))


@pytest.mark.parametrize("text", ["", "lr: 0.1\n", "launch:\n", "- a list\n"])
def test_a_file_without_a_launch_section_asks_for_nothing(tmp_path: Path, text: str) -> None:
    assert read_launch(params(tmp_path, text), COMMAND) == Launch(command=("python", "train.py"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("launch: [a, b]\n", "params.yaml: launch: ['a', 'b'] is not a mapping"),
        ("launch:\n  nodes: [\n", "params.yaml: not valid YAML: expected the node content, but found '<stream end>' "
         "in line 3, column 1"),
        ("launch:\n  1: x\n", "params.yaml: launch: unknown key '1', known: boot_image, bring, budget"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_launch(params(tmp_path, text), COMMAND)

    assert caught.value.message.startswith(message)
    assert caught.value.hint


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"launch: \xff\xfe")

    with pytest.raises(SpecError, match="not valid YAML"):
        read_launch(tmp_path, COMMAND)


def test_the_words_of_other_tools_are_none_of_ours_and_lead_to_ours() -> None:
    words = [word for words in peers._OURS.values() for word in words.split()]
    assert set(peers._OURS) <= set(Launch.model_fields)
    assert not {*words, *peers._OTHERWISE} & set(Launch.model_fields)
    assert len(words) == len(set(words)), "one word, one meaning"


def test_a_time_beyond_a_year_is_refused_and_a_value_without_end_is_shown_in_part() -> None:
    for name in ("deadline", "grace"):
        with pytest.raises(SpecError, match="is longer than a year"):
            make_launch({"command": "python train.py", name: "3000000d"}, origin="params.yaml")
    many: Any = "x"
    for _ in range(24):
        many = {"p": many, "q": many}
    with pytest.raises(SpecError) as refused:
        make_launch({"command": "python train.py", "variables": many}, origin="params.yaml")
    assert len(refused.value.message) < 2_000
