"""The digits training as a Metaflow flow on this host."""

import subprocess
import sys

from metaflow import FlowSpec, step


class Digits(FlowSpec):
    """One step that trains, between the two that Metaflow asks for."""

    @step
    def start(self):
        """Where Metaflow begins."""
        self.next(self.train)

    @step
    def train(self):
        """torchrun, two processes."""
        command = "-m torch.distributed.run --standalone --nproc-per-node 2 examples/digits/train.py"
        subprocess.run([sys.executable, *command.split()], check=True)
        self.next(self.end)

    @step
    def end(self):
        """Where Metaflow ends."""


if __name__ == "__main__":
    Digits()
