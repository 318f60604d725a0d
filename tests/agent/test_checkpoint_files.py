"""What libraries write when they save a checkpoint: taken whole, and not before it is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from node_world import Node, sha256

from sojourn.agent.results import checkpoints
from sojourn.agent.results.checkpoint_files import half, members
from sojourn.agent.results.patterns import Patterns
from sojourn.plan.planning import CHECKPOINTS

# The very lists that these libraries leave, looked at on a disk (transformers 5, accelerate 1, Lightning 2, torch 2,
# orbax) or in their sources (DeepSpeed, TensorFlow, Keras, NeMo, Megatron).
TRAINER = (
    "config.json", "generation_config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt",
    "trainer_state.json", "training_args.bin", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip
WHOLE = {
    "transformers": [f"out/checkpoint-8/{name}" for name in TRAINER],
    "transformers, a LoRA": [
        f"out/checkpoint-8/{name}"
        for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "README.md", *TRAINER[4:8])
    ],
    "transformers, the model alone": [
        f"out/checkpoint-8/{name}"
        for name in ("config.json", "model.safetensors", "trainer_state.json", "training_args.bin")
    ],
    "transformers, in shards, as .bin": [
        f"out/checkpoint-8/{name}"
        for name in (
            "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json",
            "config.json", "trainer_state.json", "training_args.bin",
        )
    ],
    "transformers on FSDP": [
        "out/checkpoint-8/pytorch_model_fsdp_0/.metadata", "out/checkpoint-8/pytorch_model_fsdp_0/__0_0.distcp",
        "out/checkpoint-8/optimizer_0/.metadata", "out/checkpoint-8/optimizer_0/__0_0.distcp",
        "out/checkpoint-8/rng_state_0.pth", "out/checkpoint-8/scheduler.pt", "out/checkpoint-8/trainer_state.json",
    ],
    "transformers on DeepSpeed": [
        "out/checkpoint-8/global_step8/mp_rank_00_model_states.pt",
        "out/checkpoint-8/global_step8/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "out/checkpoint-8/latest", "out/checkpoint-8/zero_to_fp32.py", "out/checkpoint-8/rng_state_0.pth",
        "out/checkpoint-8/trainer_state.json", "out/checkpoint-8/training_args.bin", "out/checkpoint-8/config.json",
    ],
    "DeepSpeed": [
        "ck/global_step8/mp_rank_00_model_states.pt", "ck/global_step8/zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "ck/latest", "ck/zero_to_fp32.py",
    ],
    "accelerate": [
        f"mine/{name}"
        for name in (
            "model.safetensors", "optimizer.bin", "scheduler.bin", "sampler.bin", "random_states_0.pkl",
            "custom_checkpoint_0.pkl",
        )
    ],
    "accelerate, numbered, as .bin": [
        f"run/checkpoints/checkpoint_0/{name}"
        for name in ("pytorch_model.bin", "optimizer.bin", "random_states_0.pkl", "scaler.pt")
    ],
    "torch.distributed.checkpoint": ["dcp/any/.metadata", "dcp/any/__0_0.distcp", "dcp/any/__1_0.distcp"],
    "Lightning": ["lightning_logs/version_0/checkpoints/epoch=0-step=8.ckpt"],
    "Lightning, in shards": [
        "ck/epoch=0-step=8.ckpt/.metadata", "ck/epoch=0-step=8.ckpt/__0_0.distcp", "ck/epoch=0-step=8.ckpt/meta.pt",
    ],
    "Lightning on DeepSpeed": [
        "ck/last.ckpt/checkpoint/mp_rank_00_model_states.pt", "ck/last.ckpt/checkpoint/zero_pp_rank_0_optim_states.pt",
        "ck/last.ckpt/latest", "ck/last.ckpt/zero_to_fp32.py",
    ],
    "TensorFlow": ["tf/checkpoint", "tf/ckpt-1.index", "tf/ckpt-1.data-00000-of-00001"],
    "TensorFlow, saved model": [
        "export/saved_model.pb", "export/fingerprint.pb", "export/variables/variables.index",
        "export/variables/variables.data-00000-of-00001", "export/assets/vocab.txt",
    ],
    "Keras": ["best.keras", "last.weights.h5"],
    "orbax": [
        "ck/10/_CHECKPOINT_METADATA", "ck/10/default/_METADATA", "ck/10/default/manifest.ocdbt",
        "ck/10/default/d/0a1b", "ck/10/default/ocdbt.process_0/manifest.ocdbt",
    ],
    "flax, legacy": ["ck/checkpoint_3"],
    "NeMo": [
        "nemo/m--epoch=1-step=8/weights/.metadata", "nemo/m--epoch=1-step=8/weights/__0_0.distcp",
        "nemo/m--epoch=1-step=8/weights/common.pt", "nemo/m--epoch=1-step=8/weights/metadata.json",
        "nemo/m--epoch=1-step=8/context/model.yaml",
    ],
    "Megatron": ["mg/iter_0000010/mp_rank_00/model_optim_rng.pt", "mg/latest_checkpointed_iteration.txt"],
}  # fmt: skip
BESIDE = (
    "out/runs/a/events.out.tfevents.1", "train.log", "predictions.csv", "metrics.json", "out/all_results.json",
    "mine/train.log", "lightning_logs/version_0/hparams.yaml", "samples/epoch_1/1.png",
    "out/checkpoint-8/events.out.tfevents.1", "tmp-checkpoint-9/model.safetensors",
)  # fmt: skip
DEFAULT = Patterns(CHECKPOINTS).match


@pytest.mark.parametrize("library", WHOLE)
def test_a_librarys_checkpoint_is_taken_whole_and_nothing_beside_it(library: str) -> None:
    files = WHOLE[library]
    assert members([*files, *BESIDE], DEFAULT) == set(files)
    assert half(files, lambda _: "global_step8" if "global" in str(files) else "checkpoint", lives=True) == set()


@pytest.mark.parametrize(
    ("library", "missing"),
    [
        ("transformers", "out/checkpoint-8/trainer_state.json"),
        ("transformers, the model alone", "out/checkpoint-8/trainer_state.json"),
        ("transformers, in shards, as .bin", "out/checkpoint-8/trainer_state.json"),
        ("transformers on FSDP", "out/checkpoint-8/optimizer_0/.metadata"),
        ("transformers on DeepSpeed", "out/checkpoint-8/trainer_state.json"),
        ("torch.distributed.checkpoint", "dcp/any/.metadata"),
        ("Lightning, in shards", "ck/epoch=0-step=8.ckpt/.metadata"),
        ("NeMo", "nemo/m--epoch=1-step=8/weights/.metadata"),
    ],
)
def test_a_directory_that_lacks_what_is_written_last_is_no_checkpoint(library: str, missing: str) -> None:
    files = [name for name in WHOLE[library] if name != missing]
    other = [name.replace("8", "4") for name in WHOLE[library]] if "8" in missing else ["last.pt"]
    found = half([*files, *other], lambda path: "global_step4" if "-4" in path else "global_step8", lives=True)
    assert found >= set(files) and not found & set(other)


def test_shards_that_are_not_all_there_are_no_checkpoint() -> None:
    shards = [f"m/model-0000{at}-of-00003.safetensors" for at in (1, 2)]
    assert half([*shards, "m/x.pt"], lambda _: "", lives=True) == set(shards)
    data = "tf/ckpt-2.data-00000-of-00001"
    assert half([data, "tf/ckpt-1.index", "tf/ckpt-1.data-00000-of-00001"], lambda _: "", lives=True) == {data}


@pytest.mark.parametrize(
    ("latest", "lives", "whole"),
    [
        ("global_step8", True, True),
        ("global_step4", True, False),
        ("global_step12", True, True),
        (None, True, False),
        (None, False, True),
    ],
)
def test_deepspeeds_directory_counts_once_latest_names_it_or_a_later_one(
    latest: str | None, lives: bool, whole: bool
) -> None:
    files = ["ck/global_step8/mp_rank_00_model_states.pt", *(["ck/latest"] if latest else [])]
    assert (not half(files, lambda _: latest or "", lives)) is whole


@pytest.mark.parametrize(
    "names",
    [
        ("model.pt", "optimizer.pt"),
        ("model.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
        ("weights.safetensors", "optimizer.pt", "scaler.pt"),
        ("optimizer.pt",),
        ("ema_model_states.pt", "args.json"),
    ],
)
def test_a_folder_of_a_loop_of_ones_own_waits_for_no_library(names: tuple[str, ...]) -> None:
    assert not half([f"ck/step_100/{name}" for name in names], lambda _: "", lives=True)


def test_the_random_state_that_another_node_left_alone_is_no_checkpoint() -> None:
    left = ["out/checkpoint-3/rng_state_1.pth"]
    whole = [name.replace("rng_state.", "rng_state_0.") for name in WHOLE["transformers"]]
    assert half([*left, *whole, "out/checkpoint-8/rng_state_1.pth"], lambda _: "", lives=False) == set(left)


def test_what_nemo_marks_as_unfinished_is_none() -> None:
    files = ["ck/m.ckpt/weights/common.pt", "ck/m.ckpt-unfinished", "ck/n.pt"]
    assert half(files, lambda _: "", lives=True) == set(files[:2])


def test_a_pattern_of_the_users_own_takes_a_directory_along_too() -> None:
    files = ["ck/step_10/model.bin", "ck/step_10/state.json", "ck/notes.txt"]
    assert members(files, Patterns(["model.bin"]).match) == set(files[:2])


def test_a_half_directory_waits_and_the_one_before_it_stays_the_newest(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, checkpoint=list(CHECKPOINTS), ignore=["out/"])
    first = {name: f"{name} of 8" for name in WHOLE["transformers"]}
    node.write(first)
    node.commit()
    assert node.manifest("ckpt", 1) == first
    second = {name.replace("-8", "-16"): "of 16" for name in first}
    last = second.pop("out/checkpoint-16/trainer_state.json")
    node.write(second)
    node.commit()
    assert not (node.root / node.prefix / "ckpt" / "00000002.json").exists()
    node.write({"out/checkpoint-16/trainer_state.json": last})
    node.commit()
    assert set(node.manifest("ckpt", 2)) == {*first, *second, "out/checkpoint-16/trainer_state.json"}
    assert set(node.home()) == set(node.manifest("ckpt", 2)), "and all of it comes home although git ignores it"


def test_what_a_library_rotated_away_does_not_come_back(tmp_path: Path) -> None:
    files = {name: f"{name} of 8" for name in WHOLE["transformers"]}
    node, entries = None, []
    for name, text in files.items():
        source = "machine/digits/earlier/1/0/blob/" + sha256(text)
        (tmp_path / "store" / source).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / source).write_text(text)
        entries.append(
            {"path": name, "hash": f"sha256:{sha256(text)}", "size": len(text), "mode": 0o644, "source": source}
        )
        (tmp_path / "tree0" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree0" / name).write_text(text)
    node = Node(tmp_path, 0, 1, checkpoint=list(CHECKPOINTS), inputs=entries)
    newer = {name.replace("-8", "-16"): "of 16" for name in files}
    node.write(newer)
    node.commit()
    assert set(node.manifest("ckpt", 1)) == {*files, *newer}
    for name in files:
        (node.tree / name).unlink()
    node.commit()
    assert set(node.manifest("ckpt", 2)) == set(newer) == set(node.home())
    manifest = node.finish()
    reasons = {one.reason for one in manifest.account} if manifest else set()
    assert "removed by the script" not in reasons, "a library's rotation is nobody's loss"


def test_a_file_beside_that_grows_keeps_no_checkpoint_waiting(tmp_path: Path) -> None:
    node = Node(tmp_path, 0, 1, checkpoint=list(CHECKPOINTS), commit_every_s=0.2)
    node.write(dict.fromkeys(WHOLE["transformers"], "8"))
    node.commit_on(well_until=lambda: time.time() + 60)
    until = time.monotonic() + 10
    while not (node.root / node.prefix / "ckpt/00000001.json").exists() and time.monotonic() < until:
        node.write({"out/checkpoint-8/train.log": str(time.time()), "out/runs/events.out.tfevents.1": str(time.time())})
        time.sleep(0.05)
    assert set(node.manifest("ckpt", 1)) == set(WHOLE["transformers"])
    assert os.listdir(node.tree)


def test_a_log_in_a_folder_of_the_scripts_own_delays_a_checkpoint_and_does_not_prevent_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "PATIENCE_S", 1.5)
    node = Node(tmp_path, 0, 1, checkpoint=["*.pt"], commit_every_s=0.2)
    node.write({"step_1/model.pt": "1", "step_1/state.json": "1"})
    node.commit_on(well_until=lambda: time.time() + 60)
    until = time.monotonic() + 15
    while not (node.root / node.prefix / "ckpt/00000001.json").exists() and time.monotonic() < until:
        node.write({"step_1/progress.txt": str(time.time())})
        time.sleep(0.05)
    assert set(node.manifest("ckpt", 1)) == {"step_1/model.pt", "step_1/state.json"}
    time.sleep(1.0)
    node.write({"step_1/progress.txt": "more"})
    assert len(list((node.root / node.prefix / "ckpt").iterdir())) == 1
