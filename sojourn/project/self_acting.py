"""Which results would be run or obeyed where they lie, by tools that nobody called: they are put beside, and told.

A script's results are data. But a new `.envrc`, `json.py`, `Makefile` or `conftest.py` among the user's own files is
an order to a shell, to Python, to an editor. So such files come to their place only where `launch.outputs` or a stage
names them; else they lie in `runs/<id>/`. In folders that runs made, only what tools look for everywhere counts: what
else trackers, checkpoints and configurations write there (`.hydra/`, `.metadata`, `requirements.txt`) is data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path, PurePosixPath

from sojourn.agent.results.patterns import Patterns
from sojourn.project.contents import is_environment

TOOLS = "that tools read or run by themselves"
PYTHON = "that Python would import beside your own modules"
DASH = "that commands would take for an option"

# Looked for in every folder that one stands in, opens or searches.
_EVERYWHERE = frozenset(
    """
    .envrc .env .direnv .autoenv .in .out .vscode .idea .zed .fleet .cursor .devcontainer .devcontainer.json .github
    .gitlab .gitlab-ci.yml .circleci .husky .pre-commit-config.yaml .dvc .exrc .nvimrc .nvim.lua .vimrc .lvimrc
    .dir-locals.el .projectile .pdbrc .gdbinit .lldbinit .npmrc .yarnrc .yarnrc.yml .pnp.cjs .mise.toml .rtx.toml
    .tool-versions .profile .login .bashrc .bash_profile .bash_login .bash_logout .zshrc .zshenv .zprofile .zlogin
    .cshrc .tcshrc .ssh .gnupg .aws .netrc .config .cargo .jupyter .ipython .claude .mcp.json sitecustomize.py
    usercustomize.py conftest.py __pycache__ site-packages dist-packages node_modules desktop.ini autorun.inf
    """.split()
)
_OF_REPOSITORIES = ("head", "commondir")  # with either, a folder of loose objects is one, and has settings
_TESTS = re.compile(r"test_.*\.py|.*_test\.py")
# Orders to whoever works in that folder: builds, tests, containers, environments, pipelines.
_AMONG_YOURS = re.compile(
    r"(gnu|bsd)?makefile(\.am|\.in)?|.*\.mk|justfile|taskfile\.ya?ml|rakefile|gemfile|jenkinsfile|vagrantfile|procfile|"
    r"(docker|container|brew|tilt|earth|snake|cap|danger|fast)file|(docker-)?compose(\..*)?\.ya?ml|"
    r"(pyproject|pixi|uv|ruff|mise|netlify|fly|cargo|\w*\.config)\.toml|(setup|tox|mypy|pytest|pylint|flake8|alembic)\.(cfg|ini)|"
    r"pipfile|(uv|poetry|pdm|pixi|conda|cargo|flake|gemfile|yarn|composer|pipfile)\.lock|"
    r"(conda-)?environment\.ya?ml|conda\.ya?ml|(requirements|constraints)[\w.-]*\.(txt|in)|"
    r"package(-lock)?\.json|tsconfig.*\.json|jsconfig\.json|deno\.jsonc?|cmakelists\.txt|cmakepresets\.json|meson\.build|"
    r"(build|workspace|module)(\.bazel|\.bzlmod)?|(flake|shell|default)\.nix|devbox\.json|lefthook(-local)?\.ya?ml|"
    r"(azure|bitbucket)-pipelines\.ya?ml|cloudbuild\.ya?ml|appveyor\.ya?ml|(dvc|params|prefect|mkdocs|skaffold|buildspec)\.ya?ml|"
    r"mlproject|nextflow\.config|main\.nf|wscript|scons(truct|cript)|build\.rs|go\.(mod|work)|pom\.xml|"
    r"(build|settings)\.gradle(\.kts)?|gradlew|configure|.*\.code-workspace|pyvenv\.cfg"
)
# Of names that begin with a dot, those that are data wherever they lie.
_DATA = re.compile(
    r"\.(hydra|submitit|ipynb_checkpoints|aim|neptune|guild|metadata|snapshot_metadata|z(array|attrs|group|metadata)|"
    r"(git)?keep|done|complete|finished|success)|\..*\.(crc|pt|pth|ckpt|safetensors|npy|npz|h5|csv|tsv|parquet|jsonl|log|"
    r"txt|png|jpe?g|svg|pdf|tmp)"
)
_IMPORTED = (".py", ".pyc", ".pyw", ".so", ".pyd", ".pth", ".egg-link")


class SelfActing:
    """Looks at results for one project directory, before any of them is placed.

    `work` is where the command ran, `sent` what travelled there, `made` the folders that runs made here; what is
    `named` comes to its place in any case.
    """

    def __init__(
        self, root: Path, work: str, sent: Iterable[str], made: Collection[str], named: Iterable[str] = ()
    ) -> None:
        self._root = root
        self._made = set(made)
        self._named = Patterns(f"/{name}" for name in named if name not in ("", "."))
        travelled = [PurePosixPath(path) for path in sent]
        self._yours = {"", "" if work == "." else work}
        self._yours |= {_folder(below) for path in travelled for below in (path, *path.parents)}
        self._modules = {"" if work == "." else work, ""}
        self._modules |= {_folder(path) for path in travelled if path.suffix == ".py"}
        self._is_yours = cache(self._look_whose)
        self._imports = cache(self._look_for_modules)
        self._is_environment = cache(lambda folder: is_environment(root / folder))

    def why(self, path: str) -> str | None:
        """Why this result must not come to its place by itself; None where it may."""
        if self._named.match(path):
            return None
        parts = path.split("/")
        if any(re.match(r"-(?![\d.])", part) for part in parts):
            return DASH
        for at, part in enumerate(parts):
            if self._is_obeyed("/".join(parts[:at]), part.casefold(), last=at == len(parts) - 1):
                return TOOLS
        if any(self._is_environment("/".join(parts[:at])) for at in range(1, len(parts))):
            return TOOLS
        return PYTHON if self._is_imported(parts) else None

    def _is_obeyed(self, folder: str, name: str, last: bool) -> bool:
        if name in _EVERYWHERE or name.startswith(".env."):
            return True
        if last and (name in _OF_REPOSITORIES or _TESTS.fullmatch(name)):
            return True
        order = name.startswith(".") or (last and _AMONG_YOURS.fullmatch(name))
        if not order or not self._is_yours(folder):
            return False
        return not _DATA.fullmatch(name)

    def _is_imported(self, parts: list[str]) -> bool:
        *folders, name = parts
        if not name.casefold().endswith(_IMPORTED):
            return False
        if self._imports("/".join(folders)):
            return True
        return name.partition(".")[0] == "__init__" and self._imports("/".join(folders[:-1]))

    def _look_whose(self, folder: str) -> bool:
        """Whether a folder is one of the user's, and not one that a run made."""
        return folder in self._yours or (folder not in self._made and (self._root / folder).is_dir())

    def _look_for_modules(self, folder: str) -> bool:
        if folder in self._modules:
            return True
        if not self._is_yours(folder):
            return False
        try:
            with os.scandir(self._root / folder) as entries:
                return any(entry.name.endswith(".py") for entry in entries)
        except OSError:
            return False


def _folder(path: PurePosixPath) -> str:
    """Where it lies; empty for the root."""
    return "" if str(path.parent) == "." else str(path.parent)
