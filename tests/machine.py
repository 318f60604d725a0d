"""A machine that shares this host, as far as Python is concerned: the environment, a copy of the tree, a program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sojourn.agent.script.packages import search_path, serve
from sojourn.environment.environment import Environment, build, resolve, served, variables
from sojourn.environment.environment import search_path as own_path
from sojourn.spec.dependencies import Dependencies

PLAIN = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])}


@dataclass
class Machine:
    """Where a project's run would happen. `root` is the user's tree; it stands there as it is while the run goes on."""

    root: Path
    folder: Path
    surroundings: Mapping[str, str] = field(default_factory=lambda: PLAIN)

    @property
    def home(self) -> Path:
        """Sojourn's data directory."""
        return self.folder / "home"

    @property
    def tree(self) -> Path:
        """The bundle on the machine."""
        return self.folder / "machine" / "tree"

    def prepare(
        self,
        wanted: str | Dependencies = "auto",
        directory: str = ".",
        script: str | None = None,
        words: tuple[str, ...] = (),
    ) -> Environment:
        """Plan and build, and lay the bundle out."""
        here = (self.root / directory).resolve()
        found = resolve(
            wanted, here, self.surroundings, root=self.root, script=self.root / script if script else None, words=words
        )
        build(found, here, self.home, root=self.root)
        shutil.rmtree(self.folder / "machine", ignore_errors=True)
        shutil.copytree(self.root, self.tree, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "wheels"))
        return found

    def run(
        self, found: Environment, *words: str, directory: str = ".", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """A command in the tree, with what the agent would give it."""
        env = {"HOME": str(self.folder), **variables(found, self.home), **more}
        path = os.pathsep.join([*own_path(found, self.home), self.surroundings["PATH"]])
        env["PATH"] = search_path(path, str(self.tree))
        here = (self.root / directory).resolve()
        packages = [one.model_dump() for one in served(found, self.home, here)]
        env.update(serve(packages, list(found.python_path), str(self.tree), str(self.tree.parent), env))
        return subprocess.run(words, cwd=self.tree / directory, env=env, capture_output=True, text=True, timeout=60)

    def prints(self, found: Environment, *words: str, directory: str = ".", **more: str) -> str:
        """What the command printed; it must have succeeded."""
        done = self.run(found, *words, directory=directory, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()
