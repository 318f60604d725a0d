"""Asks git, and tells "there is no repository here" from every other refusal.

What a repository ignores decides what travels, so a git that refuses must never look like no git:
then everything would travel, or nothing. Its own sentence reaches the user with its own remedy.
Variables that point git at another repository, as hooks and `git rebase --exec` set them, are
left out: what stands in the directory is what counts.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sojourn.errors import SojournError, SpecError, TransientError

LIMIT_S = 60.0
# What `git rev-parse --local-env-vars` names, but for the GIT_CONFIG_* ones: those are how containers pass their own
# safe.directory. GIT_CEILING_DIRECTORIES hides a repository that is there.
ELSEWHERE = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_NAMESPACE",
    "GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS", "GIT_INTERNAL_SUPER_PREFIX", "GIT_CEILING_DIRECTORIES",
)  # fmt: skip
# A repository somewhere in the tree, out of an archive perhaps, names no program that a mere look at it starts.
STARTS_NOTHING = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}
_SAID = re.compile(r"^(?:fatal|error|xcrun: error): (.+)$", re.MULTILINE)
_PASSED_OVER = re.compile(
    r"^warning: ((?:could not open directory|unable to access '[^']*\.gitignore').*)$", re.MULTILINE
)
# A piece of git's sentence, and what mends it. `{root}` is where the repository stands.
_REMEDIES = (
    (r"dubious ownership|unsafe repository", "if you trust it: git config --global --add safe.directory {root}"),
    (r"index file|bad signature|bad index|index.*corrupt", "make it anew: rm {root}/.git/index && git -C {root} reset"),
    (r"config line|config file|configuration", "mend that file, then try: git -C {root} status"),
    (r"index\.lock", "end the git that holds it, or remove the lock"),
    (r"worktrees/", "tell the worktree where its repository is: git worktree repair, in that repository"),
    (r"\.git/modules/", "git submodule update --init, in the repository above"),
    (r"work tree", "stand in a working tree of it: git -C {root} worktree list"),
    (r"repo version|repository extension|unknown (option|switch)", "get a newer git than this one: git --version"),
    (
        r"hung up unexpectedly|filter|cannot run",
        "a filter that .gitattributes names cannot run, often git-lfs: install it; what it says: git -C {root} status",
    ),
    (r"xcrun|developer path", "xcode-select --install"),
    (
        r"could not open directory '(?P<folder>.+?)/?'",
        "look whose it is: ls -ld {folder}; or let git leave it out: echo {folder}/ >> {root}/.git/info/exclude",
    ),
    (r"Permission denied|could not open directory|unable to access", "look whose it is: ls -ld {root} {root}/.git"),
    (r"bad object|corrupt|missing (blob|tree|commit)|broken ref", "see what is broken: git -C {root} fsck"),
)  # fmt: skip


def ask(directory: Path, *arguments: str) -> str | None:
    """What git answers in a directory; None where it keeps nothing, is not installed, or says no. Raises SpecError."""
    return _told(directory, arguments, _run(directory, *arguments))


def _told(directory: Path, arguments: Sequence[str], done: subprocess.CompletedProcess[str] | None) -> str | None:
    if done is None:
        return None
    passed_over = _PASSED_OVER.search(done.stderr)
    if done.returncode == 0 and not passed_over:
        return done.stdout
    if done.returncode == 128 and "not a git repository" in done.stderr and dot_git(directory) is None:
        return None
    said = passed_over or _SAID.search(done.stderr)
    if done.returncode == 1 and said is None:  # a plain no: not ignored, not set
        return None
    raise refusal(directory, said[1] if said else f"git {arguments[0]} ended with {done.returncode}")


def top_of(directory: Path) -> Path | None:
    """The top of the working tree around a directory; None outside any, or without git. Raises SpecError."""
    answer = ask(directory, "rev-parse", "--show-toplevel")
    if answer is None:
        return None
    top, marker = Path(answer.removesuffix("\n")), dot_git(directory)
    if marker is not None and not top.samefile(marker.parent):  # git passes over a broken repository and looks above
        raise refusal(directory, f"{marker} is there, and git takes the repository to be that of {top}")
    if not directory.is_relative_to(top):
        raise refusal(directory, f"its repository keeps the files of {top}, not those that stand here")
    return top


def head_of(directory: Path) -> str | None:
    """The commit that a repository stands on; None before its first."""
    done = _run(directory, "rev-parse", "--verify", "--quiet", "HEAD")
    if done is not None and done.returncode == 1:  # no commit yet, or a branch whose file is broken
        refs = _run(directory, "for-each-ref", "--count=1")
        broken = re.search(r"^warning: (.*broken ref.*)$", refs.stderr if refs else "", re.MULTILINE)
        if broken:
            raise refusal(directory, broken[1])
        return None
    answer = _told(directory, ("rev-parse",), done)
    return answer.strip() if answer else None


def dot_git(directory: Path) -> Path | None:
    """The `.git` at or above a directory where git itself would look for it: on the same file system."""
    across = os.environ.get("GIT_DISCOVERY_ACROSS_FILESYSTEM", "").lower() in ("1", "true", "yes", "on")
    device = directory.stat().st_dev
    for folder in (directory, *directory.parents):
        if folder.stat().st_dev != device and not across:
            return None
        if os.path.lexists(folder / ".git"):
            return folder / ".git"
    return None


def refusal(directory: Path, sentence: str) -> SpecError:
    """What git said, and what mends it."""
    marker = dot_git(directory)
    root = shlex.quote(str(marker.parent if marker else directory))
    if sentence.startswith("not a git repository (or any"):
        sentence = f"{marker} is there, and git does not take it for a repository: it is broken or not whole"
    found = ((re.search(pattern, sentence), mend) for pattern, mend in _REMEDIES)
    fitting = (mend.format(root=root, **_quoted(match)) for match, mend in found if match)
    hint = next(fitting, f"see what it says: git -C {root} status")
    return SpecError(f"git refused at {directory}: {sentence}", hint=hint)


def _quoted(match: re.Match[str]) -> dict[str, str]:
    return {name: shlex.quote(value) for name, value in match.groupdict().items()}


def surroundings() -> dict[str, str]:
    """This process's environment for a git that looks at its directory alone, and says what we can read."""
    kept = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    said = kept.get("GIT_CONFIG_COUNT", "")
    number = int(said) if said.isascii() and said.isdecimal() else 0
    for name, value in STARTS_NOTHING.items():
        kept |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        number += 1
    return {**kept, "GIT_CONFIG_COUNT": str(number), "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Git's answer, whatever it is; None when it is not installed."""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=directory,
            env=surroundings(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=LIMIT_S,
        )
    except FileNotFoundError as error:
        if error.filename != "git":
            raise SpecError(f"project: {str(directory)!r} is gone", hint="name a directory: --project PATH") from None
        return None
    except subprocess.TimeoutExpired:
        raise TransientError(
            f"git {arguments[0]} did not answer within {LIMIT_S:.0f} s at {directory}",
            hint=f"see what holds it up: git -C {shlex.quote(str(directory))} status",
        ) from None
    except OSError as error:
        raise SojournError(f"git could not be started: {error.strerror}", hint="look at it: git --version") from error
