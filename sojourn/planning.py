"""From what the user asked to what will happen: a pure value, made before anything exists."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from sojourn import bundle, command, environment
from sojourn.dataset import Dataset, Stage, Survey
from sojourn.environment import Environment
from sojourn.errors import SpecError
from sojourn.names import LeaseName, project_name
from sojourn.project import Project
from sojourn.providers import Provider
from sojourn.records import Boot, Capability, Command, Offer, Record
from sojourn.spec import Launch, format_duration

CHECKPOINTS = ("*.pt", "*.pth", "*.ckpt", "*.safetensors")


class StagePlan(Record):
    """A DVC stage as it will run: what it needs, makes, and what runs here around it."""

    name: str
    outputs: tuple[str, ...] = Field(description="Relative to the bundle's root")
    remove: tuple[str, ...] = Field(description="Outputs of an older run, removed before the start")
    metrics: tuple[str, ...] = Field(default=(), description="The outputs that hold metrics")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Values by dotted name")
    before: tuple[str, ...] = Field(description="Stale stages that run here first")
    after: tuple[str, ...] = Field(description="Stages that run here when the results are home")


class Plan(Record):
    """Everything about a run that is decided before it starts."""

    run: str
    project: str
    created_at: float
    host: str
    directory: str
    store: str
    launch: Launch
    command: Command
    work_directory: str = Field(description="Where the command runs, relative to the bundle's root")
    environment: Environment
    environment_ready: bool
    offers: tuple[Offer, ...]
    capability: Capability
    deadline_at: float
    ceiling: float = Field(description="Dollars, if every machine stood until deadline and grace are over")
    files: int
    bytes: int
    commit: str | None
    changed: int
    input_files: int
    input_bytes: int
    push_bytes: int = Field(description="What the DVC remote lacks")
    stage: StagePlan | None = None
    checkpoint: tuple[str, ...] = CHECKPOINTS
    ignore: tuple[str, ...] = ()

    def boot(self, attempt: int, offer: int) -> Boot:
        """What the machines of a lease are told at birth."""
        return Boot(
            store=self.store,
            project=self.project,
            run=self.run,
            attempt=attempt,
            lease=str(LeaseName(self.run, attempt, offer)),
            nodes=self.launch.nodes,
            deadline_at=self.deadline_at,
            grace_s=self.launch.grace,
        )

    def outputs(self) -> tuple[str, ...] | None:
        """What comes home, relative to the bundle's root; None is everything new or changed."""
        return self.stage.outputs + self.launch.outputs if self.stage else None

    def lines(self) -> list[tuple[str, str]]:
        """The plan for a person, as (heading, text)."""
        source = f" @ {self.commit[:7]}" if self.commit else ""
        changed = f" (+{self.changed} changed)" if self.changed else ""
        grace, gone_by = self.launch.grace, _clock(self.deadline_at + self.launch.grace)
        data = f"{self.input_files:,} files, {format_bytes(self.input_bytes)}, {format_bytes(self.push_bytes)} to push"
        lines = [
            ("run", f"{self.run}    project {self.project}{source}{changed}"),
            ("command", self.shown_command()),
            ("source", f"{self.files:,} files, {format_bytes(self.bytes)}"),
            ("inputs", data if self.input_files else "none"),
            ("environment", self._shown_environment()),
            ("machine", self._shown_machine()),
            (
                "time",
                f"deadline {format_duration(self.launch.deadline)}, then {format_duration(grace)} to stop and leave",
            ),
            ("money", f"at most ${self.ceiling:.2f}"),
            ("makes", f"{self.launch.nodes} × processes and scratch directory: gone by {gone_by} whatever happens"),
            ("leaves", f"results, logs and bundle in {self.store}"),
        ]
        if self.stage and self.stage.before:
            lines.append(("first", f"runs here: {', '.join(self.stage.before)}"))
        if self.stage and self.stage.after:
            lines.append(("then", f"runs here: {', '.join(self.stage.after)}"))
        lines += [("ends by", f"{layer}: {what}") for layer, what in self.capability.layers.items()]
        return lines + [("note", warning) for warning in self.capability.warnings]

    def shown_command(self) -> str:
        """The command with its ranks, in one line."""
        text = " ".join(self.command.argv).replace("\n", "; ")
        ranks = f"  × {self.command.processes} processes" if self.command.processes != 1 else ""
        return f"{text}{ranks}" if self.stage is None else f"{text}{ranks}    stage {self.stage.name}"

    def _shown_machine(self) -> str:
        offer = self.offers[0]
        gpus = f", {len(offer.gpus)} × {offer.gpus[0]}" if offer.gpus else ""
        size = f"{offer.cpus} CPUs, {format_bytes(offer.memory)}{gpus}"
        return f"{self.launch.nodes} × {offer.machine}  {size}  {offer.place}"

    def _shown_environment(self) -> str:
        if self.environment.kind == "current":
            return "the python on your PATH"
        return f"{self.environment.source} {'(built)' if self.environment_ready else '(to build)'}"


def make_plan(
    launch: Launch,
    project: Project,
    provider: Provider,
    *,
    run: str,
    store: str,
    home: Path,
    now: float,
    surroundings: Mapping[str, str] = os.environ,
    accept_size: bool = False,
) -> Plan:
    """Decide the run. Creates nothing; raises SpecError for whatever could fail later and can be seen now."""
    _check_secrets(launch, surroundings)
    dataset = Dataset(project.dvc, project.directory) if launch.stage and project.dvc else None
    if launch.stage and dataset is None:
        raise SpecError(
            f"stage: {launch.stage!r}: no DVC project at {project.directory}",
            hint="stand in the directory of dvc.yaml, or run a command: sojourn train -- python train.py",
        )
    stage = dataset.stage(launch.stage) if dataset and launch.stage else None
    where = project.dvc / stage.directory if stage and project.dvc else project.directory
    started = _command(launch, stage)
    command.check_script(started, where)
    surroundings_of_script = environment.resolve(launch.environment, project.directory, surroundings)
    _check_program(started, surroundings_of_script, where)
    offers = provider.offers(launch.machine, launch.nodes)
    tree = bundle.survey(project, skip=left_out(launch, project, stage))
    bundle.check_size(tree, accepted=accept_size)
    data = dataset.survey(stage) if dataset and stage else Survey(files=0, bytes=0, push_files=0, push_bytes=0)
    named = bundle.input_files(project, launch.inputs)
    return Plan(
        run=run,
        project=launch.project_name or project_name(project.root.name),
        created_at=now,
        host=socket.gethostname(),
        directory=str(project.directory),
        store=store,
        launch=launch,
        command=started,
        work_directory=where.resolve().relative_to(project.root).as_posix(),
        environment=surroundings_of_script,
        environment_ready=environment.ready(surroundings_of_script, home),
        offers=tuple(offers),
        capability=provider.capability(),
        deadline_at=now + launch.deadline,
        ceiling=max(offer.price for offer in offers) * launch.nodes * (launch.deadline + launch.grace) / 3600,
        files=len(tree.files),
        bytes=tree.bytes,
        commit=project.commit,
        changed=bundle.changed_files(project),
        input_files=data.files + len(named),
        input_bytes=data.bytes + sum(path.stat().st_size for path in named),
        push_bytes=data.push_bytes,
        stage=_stage_plan(dataset, stage, project) if dataset and stage else None,
        checkpoint=_checkpoint(launch, stage, project),
        ignore=(*tree.ignore, *(f"!/{path}" for path in launch.outputs)),
    )


def left_out(launch: Launch, project: Project, stage: Stage | None) -> list[str]:
    """What does not travel in the bundle: named inputs, and data that DVC keeps."""
    named = [(project.directory / path).relative_to(project.root).as_posix() for path in launch.inputs]
    if stage is None or project.dvc is None:
        return named
    kept = [dep.path for dep in stage.dependencies if dep.kind == "data"] + [out.path for out in stage.outputs]
    return named + [_from_root(project, path) for path in kept]


def format_bytes(size: float) -> str:
    """`84 KB`, `1.9 GB`: powers of ten, as disks and clouds count."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _command(launch: Launch, stage: Stage | None) -> Command:
    if stage is not None:
        return command.from_stage(stage.command, launch.processes, launch.nodes)
    assert launch.command is not None
    return command.from_words(launch.command, launch.processes, launch.nodes)


def _check_secrets(launch: Launch, surroundings: Mapping[str, str]) -> None:
    for name in launch.secrets:
        if not surroundings.get(name):
            raise SpecError(f"secrets: {name!r} is not set in this environment", hint=f"set it first: export {name}=…")


def _check_program(started: Command, python: Environment, directory: Path) -> None:
    program = started.argv[0]
    if started.shell:
        return
    if "/" in program and not os.access(directory / program, os.X_OK):
        what = "cannot be executed" if (directory / program).exists() else f"is not a file in {directory}"
        raise SpecError(f"command: {program!r} {what}", hint="name the interpreter: sojourn train -- python FILE")
    if "/" not in program and not environment.find_program(program, python):
        raise SpecError(
            f"command: {program!r} is not a program on your PATH",
            hint="name the interpreter: sojourn train -- python FILE",
        )


def _stage_plan(dataset: Dataset, stage: Stage, project: Project) -> StagePlan:
    outputs = {_from_root(project, out.path): out for out in stage.outputs}
    return StagePlan(
        name=stage.address,
        outputs=tuple(outputs),
        remove=tuple(path for path, out in outputs.items() if not out.persist),
        metrics=tuple(path for path, out in outputs.items() if out.metric),
        parameters={name: value for values in stage.parameters.values() for name, value in values.items()},
        before=tuple(dataset.stale_before(stage)),
        after=tuple(dataset.after(stage)),
    )


def _checkpoint(launch: Launch, stage: Stage | None, project: Project) -> tuple[str, ...]:
    if launch.checkpoint is not None:
        return launch.checkpoint
    kept = tuple("/" + _from_root(project, out.path) for out in stage.outputs if out.persist) if stage else ()
    return kept or CHECKPOINTS


def _from_root(project: Project, path: str) -> str:
    assert project.dvc is not None
    return (project.dvc / path).relative_to(project.root).as_posix()


def _clock(at: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(at).strftime("%H:%M:%S")
