"""A small real DVC project in a git repository, and a stand-in for the machine that runs a stage of it.

The machine here is a directory: the bundle's files, the inputs from their URLs, the command
started in it, the outputs taken away. Everything DVC does is DVC's own doing.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import loaded_dvc

from sojourn.project.bundle import fetch_file, pack, pack_inputs, survey, unpack
from sojourn.project.dvc import commit
from sojourn.project.dvc.dataset import Dataset
from sojourn.project.project import Project as Tree
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

DVC_YAML = """\
stages:
  prepare:
    cmd: python3 prepare.py
    deps: [prepare.py, raw.csv]
    outs: [prepared.csv]
  train:
    cmd: python3 train.py ${lr}
    deps: [train.py, lib, prepared.csv, data]
    params: [lr, "more.yaml": [model.depth, seed]]
    outs:
      - model.bin
      - weights
      - deep/er/notes.txt
      - ckpt: {persist: true}
    metrics: [metrics.json: {cache: false}]
    plots: [curve.csv: {cache: false}]
  report:
    cmd: python3 report.py
    deps: [report.py, model.bin]
    outs: [report.txt]
  publish:
    cmd: cp report.txt published.txt
    deps: [report.txt]
    outs: [published.txt]
  unrelated:
    cmd: cp unrelated.py unrelated.txt
    deps: [unrelated.py]
    outs: [unrelated.txt]
  grid:
    foreach: [a-1, b]
    do: {cmd: "echo ${item} > g-${item}", outs: ["g-${item}"]}
"""

TRAIN = """\
import json, pathlib, sys
depth = [l.split(":")[1].strip() for l in open("more.yaml") if "depth" in l][0]
seen = sorted(p.name for p in pathlib.Path("data").iterdir())
result = f"lr {sys.argv[1]} depth {depth} on {open('prepared.csv').read()!r} and {seen}"
pathlib.Path("deep/er").mkdir(parents=True, exist_ok=True)
pathlib.Path("weights/layer").mkdir(parents=True, exist_ok=True)
pathlib.Path("ckpt").mkdir(exist_ok=True)
pathlib.Path("model.bin").write_text(result)
pathlib.Path("weights/layer/1.bin").write_text(result + "1")
pathlib.Path("weights/2.bin").write_text(result + "2")
pathlib.Path("ckpt/last.pt").write_text(result)
pathlib.Path("deep/er/notes.txt").write_text(result)
pathlib.Path("metrics.json").write_text(json.dumps({"val": {"accuracy": 1 - float(sys.argv[1])}}))
pathlib.Path("curve.csv").write_text("step,loss\\n1,2\\n2,1\\n")
"""

FILES = {
    "dvc.yaml": DVC_YAML,
    "params.yaml": "lr: 0.1\n",
    "more.yaml": "model:\n  depth: 3\n  width: 7\nseed: 1\n",
    "prepare.py": "open('prepared.csv', 'w').write(open('raw.csv').read().upper())\n",
    "train.py": TRAIN,
    "lib/net.py": "LAYERS = 2\n",
    "report.py": "open('report.txt', 'w').write(open('model.bin').read())\n",
    "unrelated.py": "pass\n",
    "raw.csv": "a,b\n1,2\n",
    "data/1 ü.txt": "one",
    "data/deep/2.txt": "two",
}


def dvc(where: Path, *words: str) -> str:
    """What `dvc WORDS` prints; raises when it fails."""
    done = loaded_dvc.run(where, words)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def git(where: Path, *words: str) -> str:
    """What `git WORDS` prints; raises when it fails."""
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    return subprocess.run(["git", *identity, *words], cwd=where, check=True, capture_output=True, text=True).stdout


def status(where: Path, stage: str) -> dict[str, object]:
    """What DVC says has changed about a stage; nothing when it is as dvc.lock records it."""
    from dvc.repo import Repo

    with contextlib.chdir(where), Repo(".") as repo:
        return dict(repo.status(targets=[stage]))


def template(folder: Path) -> Project:
    """The project that lies there once `make_template` has made it; copy it."""
    return Project(folder / 'it\'s a "töp"', "ml project's ü")


def make_template(folder: Path) -> None:
    """A project under a hostile name, below its git root, whose first stage is made."""
    project = template(folder)
    project.root.mkdir(parents=True)
    git(project.top, "init", "-q", ".")
    dvc(project.root, "init", "-q", "--subdir")
    for name, text in FILES.items():
        project.write(name, text)
    project.write(".dvc/config", "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../../remote\n")
    dvc(project.root, "add", "-q", "raw.csv", "data")
    dvc(project.root, "repro", "-q", "prepare")
    project.save()


class Project:
    """The user's side: a DVC project that lies at or below the top of a git repository."""

    def __init__(self, folder: Path, below: str) -> None:
        self.folder = folder
        self.top = folder / "top"
        self.root = self.top / below
        self.remote = folder / "remote"

    def copy(self, folder: Path) -> Project:
        """The same project elsewhere."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Project(folder, self.root.relative_to(self.top).as_posix())

    def write(self, name: str, text: str) -> None:
        """Write a file in place of whatever DVC may have linked there."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)

    def read(self, name: str) -> str:
        """A file's text."""
        return (self.root / name).read_text()

    def save(self) -> None:
        """Commit everything to git."""
        git(self.top, "add", "-A")
        git(self.top, "commit", "-q", "-m", "work")

    def dataset(self, below: str = ".") -> Dataset:
        """The project as Sojourn sees it, from the directory `below`."""
        return Dataset(self.root, self.root / below)

    def tree(self) -> dict[str, bytes]:
        """Every file outside .git and .dvc, with its content."""
        return {
            path.relative_to(self.top).as_posix(): path.read_bytes()
            for path in sorted(self.top.rglob("*"))
            if path.is_file() and not {".git", ".dvc"} & set(path.relative_to(self.top).parts)
        }

    def send(
        self,
        stage: str = "train",
        during: Callable[[Path], None] = lambda machine: None,
        inputs: tuple[str, ...] = (),
    ) -> Run:
        """Run a stage on a machine, with `launch.inputs`; `during` may meddle with its directory after the script."""
        return Run(self, stage, during, inputs)


class Run:
    """A stage that ran somewhere else and waits to come home."""

    def __init__(
        self, project: Project, name: str, during: Callable[[Path], None], inputs: tuple[str, ...] = ()
    ) -> None:
        self.project = project
        dataset = project.dataset()
        self.stage = dataset.stage(name)
        dataset.push(self.stage, lambda line: None)
        self.inputs = dataset.inputs(self.stage, project.top)
        number = len(list(project.folder.glob("run-*")))
        self.folder = project.folder / f"run-{number}"
        self._send_bundle(self.folder / "scratch", inputs)
        self._run(self.folder / "machine", during)

    def home(self) -> commit.Applied | commit.Refused:
        """Bring the outputs home."""
        return commit.apply(self.project.root, self.commit())

    def commit(self, command: tuple[str, ...] = ()) -> commit.Committed:
        """Commit the stage in its scratch tree; `command` is what ran, if not what stands there."""
        below = self.project.root.relative_to(self.project.top)
        return commit.commit(
            self.project.root,
            self.folder / "scratch" / below,
            self.stage.address,
            top=self.project.top,
            inputs=self.inputs,
            outputs=self.folder / "outputs",
            command=command,
        )

    def _send_bundle(self, scratch: Path, inputs: tuple[str, ...]) -> None:
        mailbox = Mailbox(Store((self.project.folder / "store").as_uri()), "tree", "quiet-heron-7f3a")
        here = Tree.at(self.project.root)
        below = self.project.root.relative_to(here.root)
        elsewhere = [dep.path for dep in self.stage.dependencies if dep.kind == "data"]
        skip = [str(below / path) for path in (*elsewhere, *inputs, *(out.path for out in self.stage.outputs))]
        tree = survey(here, skip, [str(below / path) for path in self.stage.needed])
        unpack(pack(tree, here, ".", mailbox).bundle, mailbox, scratch)
        for entry in pack_inputs(here, inputs, mailbox)[0]:
            fetch_file(entry, mailbox, scratch)

    def _run(self, machine: Path, during: Callable[[Path], None]) -> None:
        shutil.copytree(self.folder / "scratch", machine, symlinks=True)
        for entry in self.inputs:
            body = Path(unquote(urlsplit(entry.source).path)).read_bytes()
            assert (entry.size, entry.hash) == (len(body), f"md5:{hashlib.md5(body).hexdigest()}")
            (machine / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (machine / entry.path).write_bytes(body)
        below = self.project.root.relative_to(self.project.top)
        for line in self.stage.command:
            subprocess.run(line, shell=True, check=True, cwd=machine / below / self.stage.directory)
        during(machine / below)
        for output in self.stage.outputs:
            source, target = machine / below / output.path, self.folder / "outputs" / below / output.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists():
                shutil.copy2(source, target)
