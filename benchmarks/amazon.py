"""How long a machine of Amazon's is paid for beside the training: before its first step, and after its last.

A whole run on the stand-in for Amazon, whose machines are hosts of this one (root is needed):
the real boot script, agent and script. The times are those of the calls on the wire and those
that the script prints itself. Amazon's own time to start a machine is not in them.

    python benchmarks/amazon.py --turns 3 --json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "e2e")]

from amazon_world import QUICK, AmazonWorld  # noqa: E402
from clouds.aws_cloud import AwsCloud  # noqa: E402

SCRIPT = """
import time
began = time.time()
import torch
imported = time.time()
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(8, 4)).sum().backward()
optimizer.step()
print(f"first step at {time.time():.3f}, imports took {imported - began:.3f}", flush=True)
print(f"end at {time.time():.3f}", flush=True)
"""


def turn(cloud: AwsCloud) -> dict[str, float]:
    """One run, from nothing to nothing."""
    cloud.reset()
    os.environ.update(cloud.environment)
    with tempfile.TemporaryDirectory() as folder:
        world = AmazonWorld(Path(folder), cloud)
        world.script(SCRIPT)
        done = world.train(*QUICK, "--", "python", "train.py", seconds=240)
        assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"first step at (\S+), imports took (\S+)\n.*?end at (\S+)", done.stdout, re.DOTALL)
    assert said is not None
    step, imports, end = (float(text) for text in said.groups())
    rented, ended = (cloud.calls("ec2", action)[0]["at"] for action in ("RunInstances", "TerminateInstances"))
    return {"imports_s": imports, "before_s": step - rented - imports, "after_s": ended - end}


def main() -> None:
    """Medians over the turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with AwsCloud(hosts=True) as cloud:
        turns = [turn(cloud) for _ in range(asked.turns)]
    found = {name: round(statistics.median(one[name] for one in turns), 2) for name in turns[0]}
    if asked.json:
        print(json.dumps(found))
        return
    print(f"RunInstances to the first step, beside the imports: {found['before_s']} s (imports {found['imports_s']} s)")
    print(f"end of the script to TerminateInstances:            {found['after_s']} s")


if __name__ == "__main__":
    main()
