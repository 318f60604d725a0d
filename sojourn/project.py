"""Where the user stands: the directory, the root that travels with it, and its git state."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sojourn.dataset import find_dvc
from sojourn.errors import SpecError


@dataclass(frozen=True)
class Project:
    """A directory of the user's; `root` is its git top level, or the directory itself."""

    directory: Path

    @classmethod
    def at(cls, directory: Path) -> Project:
        """The project around an existing directory. Raises SpecError for anything else."""
        if not directory.is_dir():
            what = "is a file" if directory.exists() else "does not exist"
            raise SpecError(f"project: {str(directory)!r} {what}", hint="name a directory: --project PATH")
        return cls(directory.resolve())

    @cached_property
    def root(self) -> Path:
        """The top of the tree that travels."""
        top = self.git("rev-parse", "--show-toplevel")
        return Path(top.rstrip("\n")) if top else self.directory

    @cached_property
    def in_git(self) -> bool:
        """Whether git keeps this tree."""
        return self.git("rev-parse", "--show-toplevel") is not None

    @cached_property
    def dvc(self) -> Path | None:
        """The DVC root at or above the directory and not above the git root, if any."""
        found = find_dvc(self.directory)
        return found if found and found.is_relative_to(self.root) else None

    @cached_property
    def commit(self) -> str | None:
        """The commit the tree stands on."""
        head = self.git("rev-parse", "HEAD")
        return head.strip() if head else None

    @property
    def relative(self) -> str:
        """The directory as seen from the root, '.' for the root itself."""
        return self.directory.relative_to(self.root).as_posix()

    def git(self, *arguments: str) -> str | None:
        """What git answers here, or None when it refuses or is not installed."""
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.directory,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                timeout=60,
            )
        except FileNotFoundError:
            return None
        return done.stdout if done.returncode == 0 else None
