"""From what a machine must have to the types that have it, and to the nearest when none has."""

from __future__ import annotations

import pytest

from sojourn.errors import SpecError
from sojourn.providers.catalogue import candidates, exact, known
from sojourn.renting import Need
from sojourn.shorthand import parse_gpu, parse_size


def names(machine: str | None = None, gpu: str | None = None, cpus: int | None = None, memory: str = "") -> list[str]:
    """The types of Amazon for this."""
    size = int(parse_size(memory)) if memory else None
    need = Need(machine=machine, gpu=parse_gpu(gpu) if gpu else None, cpus=cpus, memory=size)
    return [one.name for one in candidates(need, "aws")]


def test_a_gpu_by_name_is_one_of_it_the_cheapest_first() -> None:
    assert names(gpu="L4")[:3] == ["g6.xlarge", "g6.2xlarge", "g6.4xlarge"]
    assert names(gpu="l4") == names(gpu="L4")


def test_a_number_of_gpus_is_just_that_many() -> None:
    assert names(gpu="L4:4") == ["g6.12xlarge", "g6.24xlarge"]
    assert names(gpu="4") == ["g4dn.12xlarge", "g6.12xlarge", "g5.12xlarge", "g6.24xlarge", "g5.24xlarge",
                              "g6e.12xlarge", "g7.24xlarge", "g6e.24xlarge", "g7e.24xlarge"]  # fmt: skip


def test_a_gpu_by_its_memory_is_any_with_at_least_as_much() -> None:
    assert names(gpu="80GB") == ["g7e.2xlarge", "g7e.4xlarge", "g7e.8xlarge", "p5.4xlarge"]
    assert names(gpu="80GB:4") == ["g7e.24xlarge"]
    assert names(gpu="80GB:8")[0] == "p4de.24xlarge"
    assert names(gpu="A100-80GB:8") == ["p4de.24xlarge"]


def test_cpus_and_memory_are_minima() -> None:
    assert names(cpus=8)[0] == "c6a.2xlarge"
    assert names(cpus=8, memory="60GB")[0] == "r6a.2xlarge"
    assert names(gpu="L4", memory="100GB") == ["gr6.4xlarge", "g6.8xlarge", "gr6.8xlarge", "g6.16xlarge"]


def test_what_is_not_asked_for_by_name_is_neither_arm_nor_slowed_down_by_credits() -> None:
    everything = set(names()) | set(names(cpus=1)) | set(names(gpu="1"))
    assert {known("aws")[name].architecture for name in everything} == {"x86_64"}
    assert not any(name.startswith("t") for name in everything)
    assert names(gpu="T4g")[0] == "g5g.xlarge"


@pytest.mark.parametrize(
    ("size", "first"),
    [("s", "t3.micro"), ("m", "c6a.2xlarge"), ("l", "c6a.8xlarge"), ("xl", "c6a.16xlarge"), ("m+t4", "g4dn.xlarge"),
     ("L+T4", "g4dn.12xlarge"), ("xl+l4", "g6.48xlarge"), ("xl+a100", "p4d.24xlarge"), ("m+h100", "p5.4xlarge")],
)  # fmt: skip
def test_a_size_counts_gpus_or_cpus_and_memory(size: str, first: str) -> None:
    assert exact(Need(machine=size)) is None
    assert names(machine=size)[0] == first


def test_any_other_machine_is_a_type() -> None:
    assert exact(Need(machine="g6.xlarge")) == "g6.xlarge"
    assert exact(Need(machine="xxl")) == "xxl"


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ({"gpu": "H200"}, "no machine has 1 × H200; they come with 8", "write --gpu H200:8"),
        ({"gpu": "A100:16"}, "no machine has 16 × A100; they come with 8", "--gpu A100:8"),
        ({"gpu": "80GB:3"}, "no machine has 3 × 80GB; they come with 1 or 2 or 4 or 8", "--gpu 80GB:4"),
        ({"gpu": "3"}, "no machine has 3 × GPU; they come with 1 or 2 or 4 or 8", "--gpu 4"),
        ({"gpu": "A100-141GB:8"}, "no A100 has 141 GB", "the largest has 80 GB"),
        ({"gpu": "L40"}, "'L40' is not known, did you mean 'L40S'?", "known: A100, A10G"),
        ({"gpu": "quadro"}, "'quadro' is not known, known: ", "--gpu 24GB"),
        ({"gpu": "V100"}, "the V100 is being withdrawn everywhere", "--gpu A10G"),
        ({"machine": "l+v100"}, "'l+v100' asks for GPUs that are being withdrawn", "--machine l+a10g"),
        ({"machine": "m+k80"}, "'m+k80' asks for GPUs that are being withdrawn", "--machine m+t4"),
        ({"machine": "m+a100"}, "no machine has 1 × A100; they come with 8", "--gpu A100:8"),
        ({"machine": "s+t4"}, "'s+t4' has no GPU", "m+t4 for one"),
        ({"machine": "m+l44"}, "'l44' is not known, did you mean 'L4'", "known: "),
        ({"cpus": 1000}, "cpus: no machine of aws has so much", "r8i.96xlarge: 384 CPUs, 3299 GB"),
        ({"gpu": "L4", "memory": "1TB"}, "memory: no machine of aws has so much", "g6.16xlarge: 64 CPUs, 275 GB"),
    ],
)
def test_what_nobody_sells_is_refused_with_the_nearest(asked: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        names(**asked)  # type: ignore[arg-type]
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_every_row_says_when_its_price_was_looked_up() -> None:
    assert {bool(one.priced) for one in known("aws").values() if one.price is not None} == {True}
    assert all((one.gpu is None) == (one.gpus == 0) == (one.gpu_memory is None) for one in known("aws").values())
