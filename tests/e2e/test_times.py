"""Scripts take the newest of several files by its time: it is the same one on the machine, resumed and at home."""

from __future__ import annotations

import os
from pathlib import Path

from cli_world import World

NEWEST = """
    import glob, os, time
    for pattern in ("weights/*.bin", "data/*.csv", "runs/*/", "*.ckpt"):
        newest = max(glob.glob(pattern), key=os.path.getmtime, default=None)
        print("newest", pattern, newest and os.path.basename(os.path.normpath(newest)))
    for epoch in (9, 10):
        with open(f"epoch={epoch}.ckpt", "w") as file:
            file.write(str(epoch))
        time.sleep(0.05)
"""


def test_the_newest_file_is_the_same_one_there_after_a_resume_and_at_home(world: World) -> None:
    world.script(NEWEST)
    for age, name in enumerate(("weights/a.bin", "weights/z.bin", "data/a.csv", "data/z.csv", "runs/b/x", "runs/y/x")):
        path = world.script("x", name)
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    done = world.train("--input", "data", "--", "python", "train.py")
    assert done.returncode == 0, done.stderr
    told = [line for line in world.sojourn("logs", "last").stdout.splitlines() if line.startswith("newest")]
    assert told == ["newest weights/*.bin a.bin", "newest data/*.csv a.csv", "newest runs/*/ b", "newest *.ckpt None"]
    assert newest(world.project) == "epoch=10.ckpt"
    resumed = world.train("--from", "last")
    assert resumed.returncode == 0, resumed.stderr
    assert "newest *.ckpt epoch=10.ckpt" in world.sojourn("logs", "last").stdout
    assert world.sojourn("pull", "last", "--to", "there").returncode == 0
    assert newest(world.project / "there") == "epoch=10.ckpt"


def newest(folder: Path) -> str:
    return max(folder.glob("*.ckpt"), key=os.path.getmtime).name
