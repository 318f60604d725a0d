"""Train a digit classifier with plain PyTorch DistributedDataParallel.

The same script runs alone (`python train.py`), under `torchrun --nproc-per-node 2 train.py`, and on several nodes; on
GPUs where there are any. It saves a checkpoint after every epoch and on SIGTERM, and continues from it when it is
started again, so that losing the machine costs at most one epoch.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import signal
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerAction, profile, schedule, tensorboard_trace_handler
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torch.utils.tensorboard import SummaryWriter

DATA = Path("data/digits/train.npz")
CHECKPOINT = Path("checkpoints/last.pt")
TENSORBOARD = "tensorboard"
STOP_CHECK_STEPS = 10  # the ranks agree on stopping every so many steps: each check makes them wait for one another


@dataclasses.dataclass(frozen=True)
class Settings:
    epochs: int
    batch_size: int
    lr: float
    hidden: int
    seed: int
    profile: bool


def main() -> None:
    settings = read_settings()
    device = join_process_group()
    finished = Trainer(settings, device).run()
    dist.destroy_process_group()
    if not finished:
        sys.exit(128 + signal.SIGTERM)


def read_settings() -> Settings:
    """Section `train` of params.yaml, where each value can be overridden on the command line (`--epochs 3`)."""
    params = yaml.safe_load(Path("params.yaml").read_text())["train"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Settings):
        kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": field.type}
        parser.add_argument("--" + field.name.replace("_", "-"), default=params[field.name], **kind)
    return Settings(**vars(parser.parse_args()))


def join_process_group() -> torch.device:
    """Meet the other processes, or be a group of one; each process gets the device of its local rank."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    alone = {} if "RANK" in os.environ else {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    dist.init_process_group("nccl" if cuda else "gloo", **alone)
    if dist.get_world_size() > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # otherwise every process starts as many threads as there are cores
    return device


class Trainer:
    """Model, optimizer and data of one rank. `step` counts the steps of all epochs; no other progress is kept."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.step, self.stopping = 0, False
        signal.signal(signal.SIGTERM, self.on_sigterm)
        torch.manual_seed(settings.seed)
        training, self.held_out = load_data()
        self.sampler = DistributedSampler(training, seed=settings.seed)
        self.loader = DataLoader(
            training,
            batch_size=max(1, settings.batch_size // self.world_size),
            sampler=self.sampler,
            generator=torch.Generator(),  # its own, so that a resumed epoch leaves the model's random numbers alone
        )
        self.model = DistributedDataParallel(build_model(settings.hidden).to(device))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.lr)

    def on_sigterm(self, *_: object) -> None:
        self.stopping = True  # and nothing else: the step under way ends first

    def run(self) -> bool:
        """Train to the last epoch; False if SIGTERM ended it early, with the checkpoint saved."""
        self.restore()
        first = self.step // len(self.loader)
        self.writer = SummaryWriter(TENSORBOARD, purge_step=first + 1) if self.rank == 0 else None
        with profiler(self.settings.profile and self.rank == 0) as self.profiler:
            for epoch in range(first, self.settings.epochs):
                before, started = self.step, time.monotonic()
                if not self.train_epoch(epoch):
                    self.save()
                    self.say(f"stopped by SIGTERM at step {self.step}, saved in {CHECKPOINT}")
                    return False
                rate = (self.step - before) * self.settings.batch_size / (time.monotonic() - started)
                metrics = self.validate()
                self.report(epoch + 1, metrics | {"samples_per_second": rate})
                if epoch + 1 == self.settings.epochs:
                    self.publish(metrics)
                self.save()  # after publishing: a finished checkpoint means that the results are there
        return True

    def train_epoch(self, epoch: int) -> bool:
        """The steps of this epoch that are still to do; False if the ranks agreed to stop."""
        self.sampler.set_epoch(epoch)
        self.model.train()
        for images, labels in islice(self.loader, self.step % len(self.loader), None):
            if self.step % STOP_CHECK_STEPS == 0 and self.total(self.stopping).item():
                return False
            loss = cross_entropy(self.model(images.to(self.device)), labels.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.step += 1
            self.profiler.step()
        return True

    def total(self, *values: float) -> Tensor:
        """Sums over all ranks, so that all decide alike: one that stopped alone would leave the others waiting."""
        summed = torch.tensor(values, dtype=torch.float32, device=self.device)
        dist.all_reduce(summed)
        return summed

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the held-out images; each rank looks at its share."""
        self.model.eval()
        images, labels = (part[self.rank :: self.world_size].to(self.device) for part in self.held_out.tensors)
        logits = self.model.module(images)
        correct = (logits.argmax(1) == labels).sum().item()
        sums = self.total(cross_entropy(logits, labels, reduction="sum").item(), correct)
        return dict(zip(("loss", "accuracy"), (sums / len(self.held_out)).tolist(), strict=True))

    def report(self, epoch: int, values: dict[str, float]) -> None:
        line = "loss {loss:.3f} accuracy {accuracy:.3f} {samples_per_second:.0f} samples/s".format(**values)
        self.say(f"epoch {epoch}/{self.settings.epochs} step {self.step} {line}")
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, epoch)
            self.writer.flush()

    def save(self) -> None:
        """Replace the checkpoint in one move: whoever reads it sees the old one or the new one, never half of it."""
        if self.rank == 0:
            CHECKPOINT.parent.mkdir(exist_ok=True)
            unfinished = CHECKPOINT.with_suffix(".tmp")
            state = {
                "made_with": self.made_with(),
                "step": self.step,
                "model": self.model.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
            }
            torch.save(state, unfinished)
            os.replace(unfinished, CHECKPOINT)
        dist.barrier()  # no rank leaves, or trains on, before the checkpoint is there

    def restore(self) -> None:
        """Continue from the checkpoint if it fits. Rank 0 hands it out: the other nodes need not have the file."""
        found = [self.fitting_checkpoint() if self.rank == 0 else None]
        dist.broadcast_object_list(found)
        if state := found[0]:
            self.step = state["step"]
            self.model.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            if self.device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"])

    def fitting_checkpoint(self) -> dict | None:
        """None without a checkpoint, with one of other settings or data, and with one that leaves nothing to train."""
        if not CHECKPOINT.exists():
            return None
        state = torch.load(CHECKPOINT, map_location="cpu")
        epoch = state["step"] // len(self.loader)
        if state["made_with"] != self.made_with():
            self.say(f"starts from scratch: {CHECKPOINT} was made with other settings or data")
        elif epoch >= self.settings.epochs:
            self.say(f"starts from scratch: {CHECKPOINT} has finished its {epoch} epochs")
        else:
            self.say(f"resumes from epoch {epoch} step {state['step']} in {CHECKPOINT}")
            return state
        return None

    def made_with(self) -> dict:
        """What a checkpoint must agree with to be continued; more epochs and a profile are no other training."""
        settings = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in ("epochs", "profile")}
        return settings | {"data": hashlib.sha256(DATA.read_bytes()).hexdigest()}

    def publish(self, metrics: dict[str, float]) -> None:
        """What the training is for: the model and its metrics, from rank 0."""
        if self.rank == 0:
            torch.save({"hidden": self.settings.hidden, "weights": self.model.module.state_dict()}, "model.pt")
            metrics = metrics | {"epochs": self.settings.epochs, "steps": self.step}
            Path("metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")

    def say(self, line: str) -> None:
        if self.rank == 0:
            print(line, flush=True)


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Nine tenths to train on, one tenth held out. The test file is not touched before evaluate.py."""
    with np.load(DATA) as data:
        images = torch.from_numpy(data["images"]).float() / 16
        labels = torch.from_numpy(data["labels"]).long()
    kept = len(labels) * 9 // 10
    return TensorDataset(images[:kept], labels[:kept]), TensorDataset(images[kept:], labels[kept:])


def build_model(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 10))


def profiler(enabled: bool) -> profile:
    """Three steps, recorded once and early; the trace lies where TensorBoard's profiler plugin looks for it."""
    steps = schedule(wait=2, warmup=2, active=3, repeat=1) if enabled else lambda _: ProfilerAction.NONE
    return profile(schedule=steps, on_trace_ready=tensorboard_trace_handler(TENSORBOARD, worker_name="rank0"))


if __name__ == "__main__":
    main()
