"""Where the user stands: the directory, the root that travels with it, and its git state."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sojourn.errors import SojournError, SpecError
from sojourn.project import git
from sojourn.project.dvc.dataset import find_dvc


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
        where = directory.resolve()
        try:
            str(where).encode()
        except UnicodeEncodeError:
            shown = os.fsencode(where).decode(errors="backslashreplace")
            raise SpecError(f"project: {shown}: the name is not UTF-8", hint="rename the directory") from None
        return cls(where)

    @cached_property
    def root(self) -> Path:
        """The top of the tree that travels."""
        marker = git.dot_git(self.directory)  # where git is not installed, it tells the top all the same
        return self._top or (marker.parent if marker else self.directory)

    @property
    def in_git(self) -> bool:
        """Whether git keeps this tree."""
        return self._top is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a plan says of the tree."""
        if self.in_git or git.dot_git(self.directory) is None:
            return ()
        return (
            f"git keeps {self.root} and is not on your PATH: what travels is decided by the .gitignore there alone, "
            "and the commit is not known",
        )

    @cached_property
    def _top(self) -> Path | None:
        return git.top_of(self.directory)

    @cached_property
    def dvc(self) -> Path | None:
        """The DVC root at or above the directory and not above the git root, if any."""
        found = find_dvc(self.directory)
        return found if found and found.is_relative_to(self.root) else None

    @cached_property
    def commit(self) -> str | None:
        """The commit the tree stands on; None outside git and before the first commit."""
        return git.head_of(self.directory) if self.in_git else None

    @property
    def relative(self) -> str:
        """The directory as seen from the root, '.' for the root itself."""
        return self.directory.relative_to(self.root).as_posix()

    def placed(self, path: str, field: str, hint: str) -> str:
        """A path as it was typed in the directory, relative to the root. Raises SpecError for one outside the root."""
        where = Path(os.path.normpath(self.directory / path))
        if not where.is_relative_to(self.root):
            where = where.parent.resolve() / where.name  # typed in full, by way of a link
        if not where.is_relative_to(self.root):
            raise SpecError(f"{field}: {path!r} is not inside the project, {self.root}", hint=hint)
        return where.relative_to(self.root).as_posix()

    def git(self, *arguments: str) -> str | None:
        """What git answers here; None where it keeps nothing or is not installed. Raises SpecError when it refuses."""
        return git.ask(self.directory, *arguments)

    def git_if_it_will(self, *arguments: str) -> str | None:
        """The same where no file hangs on it: None also when git refuses."""
        try:
            return self.git(*arguments)
        except SojournError:
            return None
