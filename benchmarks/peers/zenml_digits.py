"""The digits training as a ZenML pipeline on its local stack."""

import subprocess
import sys

from zenml import pipeline, step


@step(enable_cache=False)
def train() -> None:
    """torchrun, two processes."""
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 examples/digits/train.py"
    subprocess.run([sys.executable, *command.split()], check=True)


@pipeline(enable_cache=False)
def digits() -> None:
    """One step."""
    train()


if __name__ == "__main__":
    digits()
