"""DVC's own `Repo`: opened in silence, asked for stages, locked, and its errors told as ours.

Only `dvc.api` is public and it knows neither stages nor objects, so this module, `dataset` and
`homecoming` use DVC's internals, in these files alone and for the version that constraints.txt
pins (3.67). DVC is imported when first needed: its import takes longer than most commands of
Sojourn.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sojourn import programs
from sojourn.errors import SojournError, SpecError, TransientError, first_line, nearest
from sojourn.project.dvc.refusals import dvc_refusal
from sojourn.waiting import SystemClock, wait_for

T = TypeVar("T")
Echo = Callable[[str], None]
LOCK_WAIT_S = 30.0


def open_repo(root: Path, config: dict[str, Any] | None = None) -> Any:
    """A silent DVC `Repo` at `root`, with `config` laid over its files."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    # Progress bars look at the level of their logger, so this stills both.
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # DVC's own use of its libraries, which no user of ours can change.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(dvc|dvc_data|dvc_objects|pygtrie)\b")
    with dvc_errors():
        from dvc.repo import Repo

        return Repo(str(root), config=config)


def remotes_on(scheme: str, root: Path | None) -> list[str]:
    """Return the remotes of a DVC project with this scheme, like `s3://bucket/prefix`; none without a project."""
    if root is None:
        return []
    with dvc_errors():
        from dvc.config import Config

        remotes = {name: one.get("url", "") for name, one in Config(str(root / ".dvc"))["remote"].items()}
    urls = [_resolved(url, remotes) for url in remotes.values()]
    return sorted(url.rstrip("/") for url in urls if url.startswith(f"{scheme}://"))


def _resolved(url: str, remotes: dict[str, str]) -> str:
    """A remote may lie below another: `remote://storage/part`."""
    for _ in remotes:
        if not url.startswith("remote://"):
            break
        name, _, below = url.removeprefix("remote://").partition("/")
        url = f"{remotes.get(name, '').rstrip('/')}/{below}"
    return url


def locate(repo: Any, name: str, directories: Iterable[Path]) -> Any:
    """DVC's stage object for `name`, looked up in the first directory that has its dvc.yaml."""
    from dvc.stage.exceptions import StageNotFound
    from dvc.utils import parse_target

    file, stage = parse_target(name)
    paths = [Path(directory, file or "dvc.yaml") for directory in directories]
    path = next((path for path in paths if path.is_file()), None)
    if path is None or not stage:
        where = paths[-1] if path is None else path
        raise SpecError(
            f"stage {name!r}: {where} " + ("does not exist" if path is None else "holds no such stage"),
            hint=programs.dvc("stage list --all"),
        )
    try:
        return repo.stage.load_one(str(path), stage)
    except StageNotFound:
        known = {item.name for item in repo.stage.load_all(str(path))}
        raise SpecError(
            f"stage {stage!r} is not in {os.path.relpath(path, repo.root_dir)}, {nearest(stage, known)}",
            hint=f"stages: {', '.join(sorted(known))}",
        ) from None


def address_of(stage: Any, root: Path) -> str:
    """What `dvc repro` calls the stage when started at `root`."""
    file = Path(os.path.relpath(stage.path, root)).as_posix()
    name = getattr(stage, "name", None)
    if not name:
        return file
    return str(name) if file == "dvc.yaml" else f"{file}:{name}"


def imported_by(stage: Any) -> list[str]:
    """The files that the templates of a stage's dvc.yaml take values from: `vars`, and params.yaml by default."""
    project_file = stage.dvcfile
    resolver = getattr(project_file, "resolver", None)  # a .dvc file has none
    if resolver is None:
        return []
    # DVC notes them as seen from the working directory of this process.
    imports = [os.path.abspath(path) for path in resolver.context.imports]
    definition = (project_file.contents.get("stages") or {}).get(str(stage.name).split("@")[0]) or {}
    own = [one.partition(":")[0] for one in definition.get("vars") or () if isinstance(one, str)]
    return imports + [os.path.normpath(os.path.join(stage.wdir, path)) for path in own]


def exclusively(repo: Any, doing: str, work: Callable[[], T]) -> T:
    """What `work` returns under DVC's own lock; it starts again while another process is in the way.

    Raises TransientError after LOCK_WAIT_S seconds.
    """
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    def attempt() -> tuple[T] | None:
        try:
            with lock_repo(repo):
                return (work(),)
        except LockError:
            return None

    try:
        return wait_for(attempt, what=doing, limit_s=LOCK_WAIT_S, clock=SystemClock())[0]
    except TransientError as error:
        raise TransientError(
            f"another DVC process is at work in {repo.root_dir}: could not {doing} within {LOCK_WAIT_S:.0f} s",
            hint="wait for it, then try again; if there is none, remove .dvc/tmp/lock and .dvc/tmp/rwlock",
        ) from error


@contextmanager
def dvc_errors() -> Iterator[None]:
    """DVC's exceptions as ours: one sentence, the place, what to type next."""
    try:
        yield
    except SojournError:
        raise
    except Exception as error:
        from dvc.exceptions import DvcException
        from dvc.lock import LockError

        if isinstance(error, LockError):
            raise TransientError(
                f"another DVC process is at work: {first_line(error)}", hint="wait for it to end"
            ) from error
        if isinstance(error, DvcException):
            raise SpecError(f"DVC: {first_line(error)}{_place(error)}", hint=_next_command(error)) from error
        if refused := dvc_refusal(error):
            raise refused from error
        raise


def _next_command(error: Exception) -> str:
    from dvc.exceptions import NotDvcRepoError

    return programs.dvc("init" if isinstance(error, NotDvcRepoError) else "status")


def _place(error: Exception) -> str:
    """Where a DVC file is broken, from the parser's own marks."""
    from dvc.utils.serialize import parse_yaml_for_update
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError, determine_linecol

    if isinstance(error, YAMLSyntaxError):
        cause = error.exc.__cause__
        mark = getattr(cause, "problem_mark", None)
        return f", line {mark.line + 1}: {getattr(cause, 'problem', '')}" if mark else ""
    if isinstance(error, YAMLValidationError):
        first = error.exc.errors[0]
        line, _, _ = determine_linecol(parse_yaml_for_update(error.text, error.path), first.path)
        where = " -> ".join(str(part) for part in first.path)
        return (f", line {line}" if line else "") + f": {first.error_message} in {where}"
    return ""


def is_params(dep: Any) -> bool:
    """Whether a dependency is on parameters and not on a file."""
    from dvc.dependency.param import ParamsDependency

    return isinstance(dep, ParamsDependency)


# `dvc repro` would add advice about git and pushing to what the stage itself says; `dvc -q repro` would hide errors.
_REPRODUCE = """
import logging, sys
from dvc.exceptions import DvcException
from dvc.repo import Repo

for name in ("dvc", "dvc_data", "dvc_objects"):
    logging.getLogger(name).setLevel(logging.WARNING)
try:
    Repo().reproduce(sys.argv[1], single_item=True)
except DvcException:
    logging.getLogger("dvc").exception("")
    sys.exit(255)
"""


def reproduce(root: Path, address: str, echo: Echo) -> None:
    """Run one stage here, each line of its output to `echo`. Raises SpecError with the last of them."""
    # -P: a module of the project that is named like one of DVC's own is not taken for it.
    command = [sys.executable, "-P", "-c", _REPRODUCE, address]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_TEST": "1"}
    tail: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                tail.append(line.rstrip("\n"))
                echo(tail[-1])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        last = "\n  ".join(line for line in tail if line.strip())
        raise SpecError(f"stage {address!r} failed here:\n  {last}", hint=programs.dvc(f"repro {address}"))
