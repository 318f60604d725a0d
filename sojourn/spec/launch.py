"""What the user asks for: `launch:` in params.yaml, flow parameters, command-line flags.

One frozen model serves all three. It parses the shorthand people write (`90m`, `gpu`)
and refuses unknown keys, so that a typing error costs a sentence and not a machine.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from sojourn.errors import SpecError
from sojourn.names import is_project_name, project_name
from sojourn.records import Network
from sojourn.renting import Need
from sojourn.shorthand import (
    CommandText,
    Count,
    Duration,
    Gpu,
    Money,
    Names,
    Processes,
    Room,
    Size,
    Text,
    Words,
    parse_gpu,
    shortened,
)  # fmt: skip
from sojourn.spec import form
from sojourn.spec.dependencies import Wanted, with_parts
from sojourn.spec.metric_patterns import check_name, check_pattern
from sojourn.spec.params import PARAMS, read_section
from sojourn.spec.peers import meant

COMMAND_LINE = "command line"
# Of each pair a request names one side; a flag for one side replaces the other side in a file.
_EITHER = ((("command",), ("stage",)), (("machine",), ("gpu", "cpus", "memory")))


BRING = 1e10  # bytes


class Launch(BaseModel):
    """One run as the user asks for it. Every field has a default but the thing to run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=form.shape)

    command: CommandText | None = Field(
        default=None,
        description="The program and its arguments, or a script for a shell (several lines, &&, pipes); "
        "instead of a stage.",
    )
    stage: str | None = Field(default=None, description="A stage of dvc.yaml; instead of a command.")
    where: str = Field(default="local", description="The provider that rents the machines.")
    machine: str | None = Field(
        default=None,
        description="A machine type of that provider, or a size: s, m, l, xl, and with GPUs m+t4, l+l4, xl+h100 …; "
        "the provider's default when absent.",
    )
    gpu: Gpu | None = Field(
        default=None,
        description="The GPUs of each machine, instead of a machine type: L4, L4:4 for four of them, "
        "80GB for any with that much memory.",
    )
    cpus: Count | None = Field(default=None, description="Virtual CPUs of each machine, at least.")
    memory: Size | None = Field(
        default=None, description="Main memory of each machine, at least, like 64GB; kept in bytes."
    )
    disk: Size | None = Field(
        default=None, description="Disk of each machine, like 130GB; as large as its image asks for if absent."
    )
    boot_image: str | None = Field(
        default=None,
        description="What the machine boots: ubuntu, nvidia (with driver and CUDA), ami-…, or user@owner:arch:name; "
        "nvidia for machines with GPUs and ubuntu for others if absent.",
    )
    market: Literal["any", "spot", "on-demand"] = Field(
        default="any", description="spot can be taken away and costs less, on-demand cannot; any is the cheapest first."
    )
    regions: Names = Field(
        default=(), description="Regions to look for machines in; that of your credentials if absent."
    )
    network: Network = Field(
        default="internet",
        description="internet, or none: the machine needs the store and nothing else, and all wheels travel.",
    )
    wait: Duration = Field(
        default=900.0,
        ge=0,
        json_schema_extra={"default": "15m"},
        description="Time in all to wait for machines that nobody has just now, like 2h; kept in seconds.",
    )
    nodes: Count = Field(default=1, description="Machines, each with its own agent.")
    cluster: bool = Field(
        default=False, description="Machines of several nodes stand near each other, for fast ways between them."
    )
    processes: Processes = Field(
        default=1,
        description="Ranks on each machine, started by torchrun; `gpu` is one for each of its GPUs, `own` leaves "
        "that to the script: it is started once on each node.",
    )
    deadline: Duration = Field(
        default=7200.0,
        gt=0,
        json_schema_extra={"default": "2h"},
        description="Time for the whole run, waiting and recovery included, like 90m or 2h30m; kept in seconds.",
    )
    budget: Money | None = Field(
        default=None,
        description="Dollars for the whole run, lost machines included, like 5 or $5.50; it ends earlier then.",
    )
    grace: Duration = Field(
        default=60.0,
        ge=2,
        json_schema_extra={"default": "1m"},
        description="Time after the deadline for stopping, the last commit and leaving, like 45s; kept in seconds.",
    )
    hold_on_failure: Duration = Field(
        default=0.0,
        ge=0,
        json_schema_extra={"default": "0s"},
        description="How long the machines stay when the script failed, to look at them by `sojourn exec`, like 20m; "
        "never beyond deadline and budget; kept in seconds.",
    )
    environment: Wanted = Field(
        default="auto",
        description="`auto` builds one from the dependency files found, `current` takes the python on your PATH "
        "(on a rented machine, its image's), anything else is the path of a dependency file; or a mapping: "
        "{file: auto, extras: [viz], groups: [train], package: member, index_strategy: unsafe-best-match}.",
    )
    variables: dict[str, Text] = Field(default_factory=dict, description="Environment variables for the script.")
    secrets: Names = Field(
        default=(), description="Names of secrets the script gets as environment variables; never their values."
    )
    inputs: Names = Field(
        default=(), description="Large files or directories that travel beside the bundle, one blob each."
    )
    outputs: Names = Field(default=(), description="Paths that come home even when git ignores them.")
    keep: Room = Field(
        default=1e9,
        json_schema_extra={"default": "1GB"},
        description="How much of what the script writes and does not come home by itself (ignored by git, not an "
        "output of the stage) is kept in the store for `sojourn pull`, like 5GB; 0 for none; kept in bytes.",
    )
    bring: Room = Field(
        default=BRING,
        json_schema_extra={"default": "10GB"},
        description="How much that nobody named comes home of each new file and folder at the top of the project, the "
        "smallest files first, like 50GB: data that a script downloads is left. Checkpoints, models, `outputs/` and "
        "what `outputs` names come home whatever they take; kept in bytes.",
    )
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
    resume_args: Words = Field(
        default=(), description="Arguments added to the command when a checkpoint is restored, like --resume last.pt."
    )
    resumes: Annotated[int, Field(ge=0, le=100)] = Field(
        default=3,
        description="How often machines that the cloud took back are replaced; each time the newest checkpoint "
        "is restored.",
    )
    project_name: str | None = Field(
        default=None, description="The name of the project in the store; that of its directory if absent."
    )
    store: str | None = Field(default=None, description="URL of the store; a directory of this user's if absent.")

    @field_validator("command")
    @classmethod
    def _not_empty(cls, command: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        if command is not None and not command:
            raise ValueError("the command is empty, write it after --")
        return command

    @field_validator("project_name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not is_project_name(name):
            raise ValueError(f"{name!r} is not a name of small letters, digits and dashes, try {project_name(name)!r}")
        return name

    def need(self) -> Need:
        """What the machines must be, for a provider to look for."""
        return Need(
            machine=self.machine,
            gpu=parse_gpu(self.gpu) if self.gpu else None,
            cpus=self.cpus,
            memory=int(self.memory) if self.memory else None,
            disk=int(self.disk) if self.disk else None,
            boot_image=self.boot_image,
            market=None if self.market == "any" else self.market,
            regions=self.regions,
            network=self.network,
            nodes=self.nodes,
            cluster=self.cluster,
        )


def read_launch(directory: Path, flags: Mapping[str, Any]) -> Launch:
    """The `launch:` section of the directory's params.yaml with `flags` laid over it.

    A command given as a flag replaces a stage in the file, and a stage a command; so do a machine type
    and what a machine must have.
    Raises SpecError naming the field, the value and what would be valid.
    """
    return _overlaid(read_section(directory), flags, PARAMS)


def resuming(run: str, launch: Launch, flags: Mapping[str, Any]) -> Launch:
    """What another run asked for, with `flags` laid over it, to begin with that run's newest checkpoint."""
    return _overlaid({**launch.model_dump(exclude_unset=True), "resume": run}, flags, f"the spec of {run}")


def _overlaid(values: Mapping[str, Any], flags: Mapping[str, Any], origin: str) -> Launch:
    asked, given = dict(values), {key: value for key, value in flags.items() if value is not None}
    for pair in _EITHER:
        for one, other in (pair, pair[::-1]):
            if given.keys() & set(one) and not given.keys() & set(other):
                asked = {key: value for key, value in asked.items() if key not in other}
    parts: dict[str, object] = {name: given.pop(name) for name in ("extras", "groups") if name in given}
    if parts:  # of the environment that is asked for anyway
        given["environment"] = with_parts(given.get("environment", asked.get("environment", "auto")), parts)
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
    also = [name for name in _EITHER[1][1] if getattr(launch, name) is not None]
    if launch.machine is not None and also:
        raise SpecError(
            f"{origin}: both machine: {launch.machine} and {also[0]}: {values[also[0]]} say which machine",
            hint="a machine type has its GPUs, CPUs and memory: keep one of the two",
        )
    return launch


WORDS = 300
_VALUES = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = _VALUES.maxlong = 200


def _sentence(error: ValidationError, origin: str, flags: Collection[str]) -> SpecError:
    first = error.errors()[0]
    origin = COMMAND_LINE if first["loc"][0] in flags else origin
    field = shortened(".".join(str(part) for part in first["loc"]), WORDS)
    if first["type"] == "extra_forbidden":
        return SpecError(
            f"{origin}: launch: unknown key {field!r}, {meant(field, Launch.model_fields)}", hint=_all_fields()
        )
    name = str(first["loc"][0])
    says = shortened(first["msg"].removeprefix("Value error, "), WORDS)
    says = says if first["type"] == "value_error" else says[0].lower() + says[1:]
    shown = _VALUES.repr(first["input"])  # YAML's anchors make a value of a megabyte out of a few lines
    value = "" if shown in says else f"{shown}: "
    known = Launch.model_fields.get(name)
    return SpecError(f"{origin}: launch.{field}: {value}{says}", hint=f"{name}: {known.description}" if known else None)


def _all_fields() -> str:
    return f"known keys: {', '.join(sorted(Launch.model_fields))}"
