"""From what the user asked to what will happen: a pure value, made before anything exists."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pydantic import Field

from sojourn import __version__
from sojourn.environment import environment
from sojourn.environment.environment import Environment
from sojourn.errors import SpecError
from sojourn.names import LeaseName, mint_place, project_name
from sojourn.omissions import Omission
from sojourn.plan import checkpoint, command, node_scripts, shell_variables
from sojourn.plan.budget import Budget
from sojourn.project import bundle, contents, named_in_code
from sojourn.project.dvc.dataset import Dataset, Stage, Survey
from sojourn.project.inputs import BRING, InputTree, sparse
from sojourn.project.placing import earlier_results
from sojourn.project.project import Project
from sojourn.project.travelling import does_not_travel
from sojourn.protocol import Checkpoint, Command
from sojourn.providers.contract import Provider
from sojourn.records import Record
from sojourn.renting import Boot, Capability, Offer
from sojourn.secrets.surroundings import check_written, kept_variables, not_hidden
from sojourn.spec.ceilings import ceilings
from sojourn.spec.launch import Launch
from sojourn.spec.params import unread
from sojourn.store.known_stores import known_store
from sojourn.store.storage import Store

METRICS_FILE = "metrics.json"
CHECKPOINTS = (
    "*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.distcp", "training_args.bin", "random_states_*.pkl",
    "trainer_state.json", "pytorch_model*.bin", "adapter_model.bin", "optimizer.bin", "checkpoint_[0-9]*", "*.keras",
    "*.weights.h5", "*.data-[0-9]*-of-[0-9]*", "_CHECKPOINT_METADATA", "manifest.ocdbt", "*.nemo",
)  # fmt: skip


class StagePlan(Record):
    """A DVC stage as it will run: what it needs, makes, and what runs here around it."""

    name: str
    lines: tuple[str, ...] = Field(default=(), description="Its command, as DVC read it when the run was planned")
    root: str = Field(default=".", description="The DVC root, relative to the bundle's root")
    outputs: tuple[str, ...] = Field(description="Relative to the bundle's root")
    remove: tuple[str, ...] = Field(description="Outputs of an older run, removed before the start")
    metrics: tuple[str, ...] = Field(default=(), description="The outputs that hold metrics")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Values by dotted name")
    before: tuple[str, ...] = Field(description="Stale stages that run here first")
    after: tuple[str, ...] = Field(description="Stages that run here when the results are home")


class Plan(Record):
    """Everything about a run that is decided before it starts."""

    run: str
    made_by: str = Field(default="", description="The version of Sojourn that made it")
    place: str = Field(default="", description="What nobody can guess of where its machines read and write")
    project: str
    created_at: float
    host: str
    directory: str
    store: str
    store_region: str | None = Field(default=None, description="Where the store's bucket lies")
    launch: Launch
    command: Command
    work_directory: str = Field(description="Where the command runs, relative to the bundle's root")
    environment: Environment
    environment_ready: bool
    offers: tuple[Offer, ...]
    remarks: tuple[str, ...] = Field(default=(), description="Offers left out and why, and what could not be asked")
    capability: Capability
    deadline_at: float
    ceiling: float = Field(description="Dollars, if every machine stood until deadline and grace are over")
    files: int
    bytes: int
    commit: str | None
    changed: int
    left_out: tuple[str, ...] = Field(description="Paths that do not travel in the bundle")
    needed: tuple[str, ...] = Field(default=(), description="Paths that travel although git ignores them")
    omissions: tuple[Omission, ...] = Field(default=(), description="What of the project does not get there, and why")
    input_files: int
    input_bytes: int
    push_bytes: int = Field(description="What the DVC remote lacks")
    send_bytes: int = Field(default=0, description="In inputs that are named; of them the store may have some or all")
    carried_bytes: int = Field(default=0, description="What lies in a DVC remote that machines cannot read")
    with_keys: bool = Field(default=False, description="Whether machines need keys of a cloud to read its data")
    yet_to_make: tuple[str, ...] = Field(default=(), description="Inputs that stages run here first will make")
    expected_s: float | None = Field(default=None, description="The median of this command's last runs")
    stage: StagePlan | None = None
    named_outputs: tuple[str, ...] = Field(default=(), description="launch.outputs, relative to the bundle's root")
    checkpoint: tuple[str, ...] = CHECKPOINTS
    resume: Checkpoint | None = Field(default=None, description="What is restored before the start")
    ignore: tuple[str, ...] = ()
    notes: tuple[str, ...] = Field(default=(), description="What the user should know and need not mend")

    def boot(self, attempt: int, offer: int) -> Boot:
        """What the machines of a lease are told at birth; with a budget it may be the earlier end."""
        ends_at = min(self.deadline_at, self.created_at + self.budget.script_s(self.offers, offer, attempt))
        return Boot(
            store=self.store,
            store_region=self.store_region,
            project=self.project,
            run=self.run,
            place=self.place,
            attempt=attempt,
            lease=str(LeaseName(self.run, attempt, offer)),
            nodes=self.launch.nodes,
            deadline_at=ends_at,
            grace_s=self.launch.grace,
            life_s=ends_at - self.created_at + self.launch.grace,
            variables=kept_variables(self.launch.secrets, self.store, self.with_keys),
        )

    @property
    def budget(self) -> Budget:
        """What the run may cost."""
        return _budget(self.launch, self.bytes + self.input_bytes, self.resumes)

    @property
    def regions(self) -> tuple[str, ...] | None:
        """Where its machines may stand; None for a provider without regions."""
        return tuple(sorted({offer.region for offer in self.offers if offer.region})) or None

    @property
    def resumes(self) -> int:
        """How often lost machines are replaced: on this host never, since what ended them would end the next."""
        return 0 if self.capability.shares_host else self.launch.resumes

    def resuming_command(self) -> Command:
        """The command of an attempt that begins with a checkpoint."""
        return command.with_arguments(self.command, self.launch.resume_args)

    def context(self) -> dict[str, str]:
        """Variables by which the script knows where it comes from: ours, and those of `dvc repro`."""
        told = {"SOJOURN_COMMIT": self.commit} if self.commit else {}
        return {**told, "DVC_STAGE": self.stage.name} if self.stage else told

    def outputs(self) -> tuple[str, ...] | None:
        """What comes home, relative to the bundle's root; None is everything new or changed."""
        return self.stage.outputs + self.named_outputs if self.stage else None

    def program(self) -> str:
        """What runs, without its arguments: a stage, a script, a module or a program."""
        if self.stage is not None:
            return self.stage.name
        return command.title(self.command)

    def metric_files(self) -> tuple[str, ...]:
        """Where the script may write its metrics, relative to the bundle's root."""
        return self.stage.metrics if self.stage else (os.path.normpath(f"{self.work_directory}/{METRICS_FILE}"),)

    def shown_command(self) -> str:
        """The command with its ranks, in one line."""
        text = command.shown(self.command)
        if self.command.processes != 1:
            text += f"  × {self.command.processes} processes"
        elif self.launch.nodes > 1 and self.command.wrap is None:
            text += "  once on each node"
        return text if self.stage is None else f"{text}    stage {self.stage.name}"


class _Work(NamedTuple):
    """What will run: a command, or a DVC stage with its data."""

    command: Command
    where: Path
    stage: StagePlan | None
    data: Survey
    left_out: Mapping[str, str | None]
    needed: tuple[str, ...]
    kept: tuple[str, ...]
    reads: tuple[str, ...]  # dependencies that travel with the bundle
    notes: tuple[str, ...] = ()


def make_plan(
    launch: Launch,
    project: Project,
    provider: Provider,
    *,
    run: str,
    place: str | None = None,
    store: str,
    home: Path,
    now: float,
    surroundings: Mapping[str, str] = os.environ,
    accept_size: bool = False,
    from_git: bool = False,
) -> Plan:
    """Decide the run. Creates nothing; raises SpecError for whatever could fail later and can be seen now.

    `from_git` says that the project is a clone which the run's own flow has made.
    """
    limits = ceilings(surroundings, from_git)
    launch = limits.hold(launch)
    name = launch.project_name or project_name(project.root.name)
    kept = known_store(home, store)
    resume = checkpoint.to_resume(launch, kept, name, now)
    capability = provider.capability()
    if capability.shares_host:
        _check_secrets(launch, surroundings)
    shell = command.shell_of(surroundings, capability.shares_host)
    work = (
        _stage_work(launch, project, capability.shares_host, shell) if launch.stage else _command_work(launch, project)
    )
    started = command.with_arguments(work.command, launch.resume_args) if resume else work.command
    check_written(launch, (*work.command.argv, *(work.stage.lines if work.stage else ())), surroundings)
    command.check_script(work.command, work.where)
    apart = node_scripts.look(work.command, work.where, launch.processes, launch.nodes)
    need = launch.need().model_copy(
        update={
            "project": name,
            "data": (store, *work.data.buckets),
            "secrets": launch.secrets,
            "until": now + launch.deadline + launch.grace,
        }
    )
    found = limits.within(provider.offers(need))
    _check_ranks(work.command, found.fitting)
    python = (
        environment.resolve(
            launch.environment,
            project.directory,
            surroundings,
            root=project.root,
            script=_script(work),
            words=work.command.argv,
        )
        if capability.shares_host
        else environment.resolve_away(
            launch.environment,
            project,
            found.fitting,
            launch.network,
            surroundings=surroundings,
            script=_script(work),
            words=work.command.argv,
        )
    )
    _check_program(work.command, python, work.where, home, surroundings)
    inputs = InputTree(project, launch.inputs)
    of_dvc = set(work.data.paths)
    named = [file for path, file in inputs.files.items() if str(project.root / path) not in of_dvc]
    send_bytes = sum(file.stat().st_size for file in named)
    input_bytes = work.data.bytes + send_bytes
    outputs = _outputs(launch, project)
    restored = tuple(entry.path for entry in resume.files) if resume else ()
    travel_otherwise: dict[str, str | None] = dict.fromkeys((*_inputs(launch, project), *restored))
    ours = dict.fromkeys(_our_own(store, home, project), contents.STORE)
    placed = earlier_results(home, project, work.reads)
    newer = checkpoint.newer_beside(resume, project.root)
    left_out = {**placed, **newer, **work.left_out, **travel_otherwise, **ours}
    tree = bundle.survey(project, left_out, work.needed, inputs)
    bundle.check_size(tree, accepted=accept_size)
    large = {one.path: project.root / one.path for one in tree.files if one.size >= bundle.BLOB_FROM}
    budget = _budget(launch, tree.bytes + input_bytes, 0 if capability.shares_host else launch.resumes)
    offers = budget.within(found)
    _check_travels(work.command, work.where, project, {*(file.path for file in tree.files), *left_out} - {*placed})
    return Plan(
        run=run,
        made_by=__version__,
        place=mint_place() if place is None else place,
        project=name,
        created_at=now,
        host=socket.gethostname(),
        directory=str(project.directory),
        store=store,
        store_region=kept.region,
        launch=launch,
        command=command.by_python(started) if python.reading == "script" else started,
        work_directory=work.where.resolve().relative_to(project.root).as_posix(),
        environment=python,
        environment_ready=environment.ready(python, home),
        offers=offers.fitting,
        remarks=offers.remarks,
        capability=capability,
        deadline_at=now + launch.deadline,
        ceiling=budget.ceiling(offers.fitting, launch.deadline),
        files=len(tree.files),
        bytes=tree.bytes,
        commit=project.commit,
        changed=bundle.changed_files(project),
        left_out=tuple(left_out),
        needed=work.needed,
        omissions=contents.account(project, tree.left, carried=inputs.files, script=_script(work)),
        input_files=work.data.files + len(named),
        input_bytes=input_bytes,
        push_bytes=work.data.push_bytes,
        send_bytes=send_bytes,
        carried_bytes=work.data.carried_bytes,
        with_keys=work.data.with_keys,
        yet_to_make=work.data.unknown,
        stage=work.stage,
        checkpoint=launch.checkpoint if launch.checkpoint is not None else work.kept or CHECKPOINTS,
        resume=resume,
        named_outputs=outputs,
        ignore=(*tree.ignore, *(f"!/{path}" for path in outputs)),
        notes=(
            *project.notes,
            *work.notes,
            *(f"what is to be pushed is not known: {why}" for why in work.data.unasked),
            *unread(project.directory),
            *command.notes(work.command, (project.root, project.directory)),
            *apart,
            *command.unheeded(work.command, work.stage.lines if work.stage else ()),
            *named_in_code.notes(tree.files, project, capability.shares_host),
            *sparse({**inputs.files, **large}),
            *(not_hidden(launch.secrets, surroundings) if capability.shares_host else ()),
            *shell_variables.note(
                surroundings,
                launch,
                work.command,
                _script(work),
                directory=work.where,
                lines=work.stage.lines if work.stage else work.command.argv if work.command.shell else (),
                given=python.variables,
                this_host=capability.shares_host,
                python_path=python.kind == "current" and capability.shares_host,
            ),
        ),
    )


def _script(work: _Work) -> Path | None:
    script = command.script_of(work.command)
    return work.where / script if script else None


def _budget(launch: Launch, read: int, resumes: int) -> Budget:
    return Budget(launch.budget, launch.nodes, launch.grace, read, attempts=1 + resumes)


def _command_work(launch: Launch, project: Project) -> _Work:
    assert launch.command is not None
    started = command.read(launch.command, launch.processes, launch.nodes)
    nothing = Survey(files=0, bytes=0, push_files=0, push_bytes=0)
    return _Work(started, project.directory, stage=None, data=nothing, left_out={}, needed=(), kept=(), reads=())


def _stage_work(launch: Launch, project: Project, shares_host: bool, shell: tuple[str, ...]) -> _Work:
    if project.dvc is None or launch.stage is None:
        raise SpecError(
            f"stage: {launch.stage!r}: no DVC project at {project.directory}",
            hint="stand in the directory of dvc.yaml, or run a command: sojourn train -- python train.py",
        )
    dataset = Dataset(project.dvc, project.directory)
    stage = dataset.stage(launch.stage)
    plan = _stage_plan(dataset, stage, project)
    # What this stage and those after it write is made anew; data that DVC keeps goes by hash.
    data = [dep.path for dep in stage.dependencies if dep.kind == "data"]
    later = [out.path for name in plan.after for out in dataset.at(name).outputs]
    return _Work(
        command=command.from_stage(stage.command, launch.processes, launch.nodes, shell),
        where=project.dvc / stage.directory,
        stage=plan,
        data=dataset.survey(stage, shares_host),
        left_out={
            **dict.fromkeys((_from_root(project, path) for path in later), contents.MADE_ANEW),
            **dict.fromkeys(plan.outputs, contents.PERSISTED),
            **dict.fromkeys(plan.remove, contents.MADE_ANEW),
            **dict.fromkeys((_from_root(project, path) for path in data), contents.KEPT_BY_DVC),
        },
        needed=tuple(_from_root(project, path) for path in stage.needed),
        reads=tuple(_from_root(project, dep.path) for dep in stage.dependencies if dep.kind == "source"),
        kept=tuple("/" + _from_root(project, out.path) for out in stage.outputs if out.persist),
        notes=tuple(
            f"{out.path} stands here and dvc.lock does not record it, so it would be kept and the run's stay in the "
            "store: move it away first"
            for out in stage.outputs
            if not out.recorded and (project.dvc / out.path).exists()
        ),
    )


def _inputs(launch: Launch, project: Project) -> tuple[str, ...]:
    return tuple(project.placed(path, "inputs", BRING) for path in launch.inputs)


def _outputs(launch: Launch, project: Project) -> tuple[str, ...]:
    hint = "what the script writes elsewhere does not come home: have it write inside, or to $SOJOURN_OUTPUT_DIR"
    return tuple(project.placed(path, "outputs", hint) for path in launch.outputs)


def _our_own(store: str, home: Path, project: Project) -> tuple[str, ...]:
    """The store and the data directory, relative to the root, where they lie inside the project."""
    ours = (path.resolve() for path in (Store(store).root, home) if path is not None)
    return tuple(path.relative_to(project.root).as_posix() for path in ours if project.root in path.parents)


def _check_secrets(launch: Launch, surroundings: Mapping[str, str]) -> None:
    for name in launch.secrets:
        if not surroundings.get(name):
            raise SpecError(f"secrets: {name!r} is not set in this environment", hint=f"set it first: export {name}=…")


def _check_ranks(started: Command, offers: tuple[Offer, ...]) -> None:
    """A rank for each GPU is none where a machine has none. Raises SpecError."""
    without = next((offer for offer in offers if not offer.gpus), None)
    if started.processes == "gpu" and without is not None:
        raise SpecError(
            f"processes: gpu: {without.machine} has no GPU, so nothing would be started",
            hint="ask for machines that have some: --gpu L4; or for a number of ranks: --processes 2",
        )


def _check_program(
    started: Command, python: Environment, directory: Path, home: Path, surroundings: Mapping[str, str]
) -> None:
    program = command.program_of(started)
    if python.path:
        command.check_shell(started, os.pathsep.join(python.path))
    if program is None:
        return
    if "/" in program and not os.access(directory / program, os.X_OK):
        what = "cannot be executed" if (directory / program).exists() else f"is not a file in {directory}"
        raise SpecError(f"command: {program!r} {what}", hint="name the interpreter: sojourn train -- python FILE")
    if "/" in program or environment.find_program(program, python, home, surroundings.get("PATH", os.defpath)):
        return
    if python.kind == "current":
        other = "python3" if program == "python" and environment.find_program("python3", python) else None
        raise SpecError(
            f"command: {program!r} is not a program on your PATH",
            hint=f"write {other} for it, or activate your environment"
            if other
            else "name the interpreter: sojourn train -- python FILE",
        )
    raise environment.no_program(program, python)


def _check_travels(started: Command, directory: Path, project: Project, travels: set[str]) -> None:
    """Refuse a script, or a program named by a relative path, that the machine would not have."""
    program, script = command.program_of(started), command.script_of(started)
    read = [name for name in command.read_by_runner(started) if not name.startswith("/")]
    named = [*([script] if script else []), *read]
    if program and "/" in program and not program.startswith("/"):
        named.append(program)
    for name in named:
        path = PurePosixPath(os.path.relpath(directory / name, project.root))
        if name.startswith("/") or travels.isdisjoint({str(path), *map(str, path.parents)}):
            raise does_not_travel(name, directory, project)


def _stage_plan(dataset: Dataset, stage: Stage, project: Project) -> StagePlan:
    outputs = {_from_root(project, out.path): out for out in stage.outputs}
    return StagePlan(
        name=stage.address,
        lines=stage.command,
        root=_from_root(project, "."),
        outputs=tuple(outputs),
        remove=tuple(path for path, out in outputs.items() if not out.persist),
        metrics=tuple(_from_root(project, path) for path in dataset.metric_files(stage.address)),
        parameters={name: value for values in stage.parameters.values() for name, value in values.items()},
        before=tuple(dataset.stale_before(stage)),
        after=tuple(dataset.after(stage)),
    )


def _from_root(project: Project, path: str) -> str:
    assert project.dvc is not None
    return PurePosixPath(os.path.relpath(project.dvc / path, project.root)).as_posix()
