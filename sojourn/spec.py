"""What the user asks for: `launch:` in params.yaml, flow parameters, command-line flags.

One frozen model serves all three. It parses the shorthand people write (`90m`, `gpu`)
and refuses unknown keys, so that a typing error costs a sentence and not a machine.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from sojourn.errors import SpecError, first_line, nearest
from sojourn.names import is_project_name, project_name
from sojourn.patterns import check_name, check_pattern

PARAMS = "params.yaml"
COMMAND_LINE = "command line"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\s*(\d+(?:\.\d+)?)\s*([smhd]))+\s*")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


def parse_duration(value: object) -> float:
    """Seconds from `45s`, `90m`, `2h30m` or `1d`; a bare number is refused for its missing unit."""
    text = str(value)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration, write it like 45s, 90m or 2h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def format_duration(seconds: float) -> str:
    """`2h 30m`, `45s`: the two largest units of a duration."""
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2]) or "0s"


def _duration(value: object) -> float:
    # A number comes from our own JSON, where durations are seconds already.
    return float(value) if isinstance(value, float) else parse_duration(value)


def _words(value: object) -> object:
    try:
        return tuple(shlex.split(value)) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} has a quote that does not end") from None


def _text(value: object) -> object:
    # YAML reads `PORT: 29500` as a number. A bool is left to be refused: nobody can tell which spelling is meant.
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _names(value: object) -> object:
    if isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is not a list, write it as [{value}]")
    return value


def _processes(value: object) -> object:
    count = str(value)
    if count != "gpu" and (not count.isdecimal() or not 1 <= int(count) <= 1024):
        raise ValueError(f"{value!r} is neither a number from 1 to 1024 nor 'gpu'")
    return value if count == "gpu" else int(count)


def _count(value: object) -> object:
    if not str(value).isdecimal() or not 1 <= int(str(value)) <= 1024:
        raise ValueError(f"{value!r} is not a number from 1 to 1024")
    return int(str(value))


def _inside(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{path!r} leaves the project, name a path inside it")
    return paths


# In a form, and on `prefect deployment run`, both are text as people write it.
Duration = Annotated[
    float, BeforeValidator(_duration), WithJsonSchema({"type": "string", "examples": ["45s", "90m", "2h30m"]})
]
Words = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class Launch(BaseModel):
    """One run as the user asks for it. Every field has a default but the thing to run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: Words | None = Field(default=None, description="The program and its arguments; instead of a stage.")
    stage: str | None = Field(default=None, description="A stage of dvc.yaml; instead of a command.")
    where: str = Field(default="local", description="The provider that rents the machines.")
    machine: str | None = Field(default=None, description="A machine type of that provider; its default when absent.")
    nodes: Annotated[int, BeforeValidator(_count)] = Field(
        default=1, ge=1, le=1024, description="Machines, each with its own agent."
    )
    processes: Annotated[Annotated[int, Field(ge=1, le=1024)] | Literal["gpu"], BeforeValidator(_processes)] = Field(
        default=1, description="Ranks on each machine; `gpu` is one for each of its GPUs."
    )
    deadline: Duration = Field(
        default=7200.0,
        gt=0,
        json_schema_extra={"default": "2h"},
        description="Time for the whole run, waiting and recovery included, like 90m or 2h30m; kept in seconds.",
    )
    grace: Duration = Field(
        default=60.0,
        ge=2,
        json_schema_extra={"default": "1m"},
        description="Time after the deadline for stopping, the last commit and leaving, like 45s; kept in seconds.",
    )
    environment: str = Field(
        default="auto",
        description="`auto` builds one from the dependency files found, `current` takes the python on your PATH, "
        "anything else is the path of a requirements file.",
    )
    variables: dict[str, Annotated[str, BeforeValidator(_text)]] = Field(
        default_factory=dict, description="Environment variables for the script."
    )
    secrets: Names = Field(
        default=(), description="Names of secrets the script gets as environment variables; never their values."
    )
    inputs: Names = Field(
        default=(), description="Large files or directories that travel beside the bundle, one blob each."
    )
    outputs: Names = Field(default=(), description="Paths that come home even when git ignores them.")
    checkpoint: Names | None = Field(
        default=None,
        description="Patterns of checkpoint files; the stage's persisted outputs or *.pt and kin if absent.",
    )
    metrics: dict[Annotated[str, AfterValidator(check_name)], Annotated[str, AfterValidator(check_pattern)]] = Field(
        default_factory=dict,
        description="Numbers to find in rank 0's log: a name and a regular expression with one group, like "
        "loss: 'loss=([0-9.]+)'. `step` and `steps` tell where the script is and how far it goes.",
    )
    resume: str | None = Field(
        default=None, description="A run of this project whose newest checkpoint is restored before the start."
    )
    resume_args: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        default=(), description="Arguments added to the command when a checkpoint is restored, like --resume last.pt."
    )
    project_name: str | None = Field(
        default=None, description="The name of the project in the store; that of its directory if absent."
    )
    store: str | None = Field(default=None, description="URL of the store; a directory of this user's if absent.")

    _paths = field_validator("inputs", "outputs")(_inside)

    @field_validator("command")
    @classmethod
    def _not_empty(cls, command: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if command is not None and not command:
            raise ValueError("the command is empty, write it after --")
        return command

    @field_validator("project_name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not is_project_name(name):
            raise ValueError(f"{name!r} is not a name of small letters, digits and dashes, try {project_name(name)!r}")
        return name


def read_launch(directory: Path, flags: Mapping[str, Any]) -> Launch:
    """The `launch:` section of the directory's params.yaml with `flags` laid over it.

    A command given as a flag replaces a stage in the file, and a stage a command.
    Raises SpecError naming the field, the value and what would be valid.
    """
    return _overlaid(read_section(directory), flags, PARAMS)


def resuming(run: str, launch: Launch, flags: Mapping[str, Any]) -> Launch:
    """What another run asked for, with `flags` laid over it, to begin with that run's newest checkpoint."""
    return _overlaid({**launch.model_dump(exclude_unset=True), "resume": run}, flags, f"the spec of {run}")


def _overlaid(values: Mapping[str, Any], flags: Mapping[str, Any], origin: str) -> Launch:
    asked, given = dict(values), {key: value for key, value in flags.items() if value is not None}
    for one, other in (("command", "stage"), ("stage", "command")):
        if one in given and other not in given:
            asked.pop(other, None)
    return make_launch({**asked, **given}, origin=origin if asked else COMMAND_LINE, flags=given)


def make_launch(values: Mapping[str, Any], origin: str, flags: Collection[str] = ()) -> Launch:
    """A Launch from plain values; `flags` are the fields that the command line gave.

    Raises SpecError that names where the value came from, the field and the value.
    """
    try:
        launch = Launch.model_validate(dict(values))
    except ValidationError as error:
        raise _sentence(error, origin, flags) from None
    if (launch.command is None) == (launch.stage is None):
        what = "nothing to run" if launch.command is None else "both a command and a stage"
        raise SpecError(
            f"{origin}: {what}",
            hint="try: sojourn train -- python train.py   (or --stage NAME for a stage of dvc.yaml)",
        )
    return launch


def read_section(directory: Path) -> Mapping[str, Any]:
    """The `launch:` section of a directory's params.yaml as it stands, empty without one."""
    path = directory / PARAMS
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{PARAMS}: not valid YAML: {_where(error)}", hint=f"mend that line: {path}") from None
    section = content.get("launch") if isinstance(content, dict) else None
    if section is not None and not isinstance(section, dict):
        raise SpecError(f"{PARAMS}: launch: {section!r} is not a mapping", hint="write fields below it, like  nodes: 1")
    return {str(key): value for key, value in (section or {}).items()}


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return first_line(error)
    problem = getattr(error, "problem", None) or "cannot be read"
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}"


def _sentence(error: ValidationError, origin: str, flags: Collection[str]) -> SpecError:
    first = error.errors()[0]
    origin = COMMAND_LINE if first["loc"][0] in flags else origin
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return SpecError(
            f"{origin}: launch: unknown key {field!r}, {nearest(field, Launch.model_fields)}", hint=_all_fields()
        )
    name = str(first["loc"][0])
    says = first["msg"].removeprefix("Value error, ")
    says = says if first["type"] == "value_error" else says[0].lower() + says[1:]
    value = "" if repr(first["input"]) in says else f"{first['input']!r}: "
    known = Launch.model_fields.get(name)
    return SpecError(f"{origin}: launch.{field}: {value}{says}", hint=f"{name}: {known.description}" if known else None)


def _all_fields() -> str:
    return f"known keys: {', '.join(sorted(Launch.model_fields))}"
