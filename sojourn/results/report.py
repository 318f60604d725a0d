"""One record of a run: parameters, metrics, cost, machine, commit and data hash together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

from pydantic import Field

from sojourn import __version__
from sojourn.agent.script.scalars import looks_like_metrics
from sojourn.errors import SojournError
from sojourn.omissions import Omission
from sojourn.plan import text
from sojourn.plan.planning import Plan
from sojourn.project import metric_files
from sojourn.project.metric_files import is_number
from sojourn.protocol import Bundle, Outcome
from sojourn.receipts import Receipt
from sojourn.records import Record
from sojourn.results import remainder
from sojourn.results.collect import Collected
from sojourn.results.publish import Inputs, Published
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import MissingKeyError
from sojourn.watch.metrics import Series

GUESSES = 20  # files that look like metrics and that nobody called so


class Comparison(Record):
    """How a run's metrics differ from those of the last run of the same script that succeeded."""

    run: str
    changes: dict[str, float]


class Report(Record):
    """What a run was, what it gave and what it cost."""

    INDENT: ClassVar[int | None] = None  # a line for each number of its series would make it ten times as long

    run: str
    made_by: str = Field(default="", description="The version of Sojourn that closed it")
    project: str
    store: str
    state: str
    message: str
    command: str
    program: str = Field(default="", description="The stage or script without its arguments")
    machine: str
    nodes: int
    commit: str | None
    changed: int
    inputs: str = Field(description="Digest over source, data, command and environment: equal runs have equal ones")
    resumed_from: str | None = Field(default=None, description="The run whose checkpoint it began with")
    resumed_checkpoint: int | None = Field(default=None, description="The sequence of that checkpoint")
    resumed_files: str | None = Field(default=None, description="Its files, like out/checkpoint-45")
    same_as: str | None = Field(default=None, description="An earlier run with the same inputs")
    parameters: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(
        default_factory=dict, description="From the metric files, and the last values of the series they do not name"
    )
    compared: Comparison | None = None
    series: dict[str, Series] = Field(default_factory=dict, description="What was reported while the script ran")
    ended_at: float
    seconds: float = Field(description="From plan to report")
    script_s: float | None = Field(default=None, description="From the script's start to its end")
    phases: dict[str, float] = Field(default_factory=dict, description="Seconds in each step of this orchestrator")
    cost: float
    held_s: float = Field(default=0.0, description="For which machines stood after the script had failed")
    held_cost: float = Field(default=0.0, description="What of the cost is that")
    receipt: str
    files: int
    bytes: int
    checkpoints: int
    published: Published
    missing: tuple[str, ...] = Field(default=(), description="What the script did not find there, and stands here")
    kept: tuple[Omission, ...] = Field(default=(), description="In the store alone; sojourn pull RUN --to DIR")
    left_behind: tuple[Omission, ...] = Field(default=(), description="On the machine alone, and gone with it")


def write_report(
    plan: Plan,
    outcome: Outcome,
    collected: Collected,
    published: Published,
    receipt: Receipt,
    metrics: dict[str, Any],
    series: dict[str, Series],
    inputs: str,
    same_as: str | None,
    past: Sequence[Report],
    phases: dict[str, float],
    now: float,
    missing: tuple[str, ...] = (),
) -> Report:
    """The report, from the run's other records and the `past` reports of its program, oldest first."""
    metrics = _with_published(metrics, published.metrics, collected)
    metrics |= {name: value for name, value in _last_values(series).items() if not _is_known(name, series, metrics)}
    return Report(
        run=plan.run,
        made_by=__version__,
        project=plan.project,
        store=plan.store,
        state=outcome.state,
        message=outcome.message,
        command=plan.shown_command(),
        program=plan.program(),
        machine=(receipt.attempts[-1] if receipt.attempts else plan.offers[0]).machine,
        nodes=plan.launch.nodes,
        commit=plan.commit,
        changed=plan.changed,
        inputs=inputs,
        resumed_from=plan.resume.run if plan.resume else None,
        resumed_checkpoint=plan.resume.sequence if plan.resume else None,
        resumed_files=text.restored(plan.resume) if plan.resume else None,
        same_as=same_as,
        parameters=plan.stage.parameters if plan.stage else {},
        metrics=metrics,
        compared=_compared(plan.program(), metrics, past) if outcome.state == "succeeded" else None,
        series={name: one for name, one in series.items() if one.count > 1},
        ended_at=now,
        seconds=round(now - plan.created_at, 3),
        script_s=round(outcome.ended_at - outcome.started_at, 3) if outcome.started_at else None,
        phases={name: round(seconds, 3) for name, seconds in phases.items()},
        cost=receipt.cost,
        held_s=receipt.held_s,
        held_cost=receipt.held_cost,
        receipt=receipt.state,
        files=collected.count,
        bytes=collected.bytes,
        checkpoints=collected.checkpoints,
        published=published,
        missing=missing,
        kept=remainder.in_store(plan, collected, published),
        left_behind=remainder.left_behind(plan, collected),
    )


def _last_values(series: dict[str, Series]) -> dict[str, Any]:
    last = {name: one.points[-1].value for name, one in series.items()}
    return {name: value for name, value in last.items() if value is not None}


def _with_published(metrics: dict[str, Any], published: dict[str, Any], collected: Collected) -> dict[str, Any]:
    """Together with those of stages that ran here, which read the results themselves and not what may be shown."""
    if any(entry.shown for entry in (*collected.files, *collected.kept)):
        return {**{name: value for name, value in published.items() if not isinstance(value, str)}, **metrics}
    return metrics | published


def _is_known(name: str, series: dict[str, Series], metrics: dict[str, Any]) -> bool:
    """Whether the files say it themselves, also where several files say it, each of its own folder."""
    several = series[name].source == "file" and any(known.endswith(f"/{name}") for known in metrics)
    return several or name in metrics


def _compared(program: str, metrics: dict[str, Any], past: Sequence[Report]) -> Comparison | None:
    """Against the newest run of the same program that succeeded and reported one of the same metrics."""
    for one in reversed(past):
        if one.state == "succeeded" and one.program == program:
            changes = {
                name: value - one.metrics[name]
                for name, value in metrics.items()
                if is_number(value) and is_number(one.metrics.get(name))
            }
            if changes:
                return Comparison(run=one.run, changes=changes)
    return None


def read_metrics(plan: Plan, collected: Collected, mailbox: Mailbox) -> dict[str, Any]:
    """The numbers in the files of metrics that the script wrote, by dotted name; those that were declared lead."""
    wanted = plan.metric_files()
    declared: dict[str, Any] = {}
    guessed: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()  # a link to a folder of results shows them a second time
    for entry in sorted((*collected.files, *collected.kept), key=lambda one: (one.path not in wanted, one.path)):
        if entry.size > metric_files.SIZE_LIMIT or not (entry.path in wanted or looks_like_metrics(entry.path)):
            continue
        if entry.path not in wanted and entry.hash in seen:
            continue
        seen.add(entry.hash)
        with suppress(SojournError, MissingKeyError):  # it has gone from the store, and the report is worth more
            body = (mailbox.store.find(entry.shown) or b"") if entry.shown else mailbox.contents.get(entry)
            values = metric_files.read(entry.path, body)
            if entry.path in wanted:
                declared.update(values)
            elif len(guessed) < GUESSES:
                guessed[entry.path] = values
    return metric_files.merged(declared, guessed)


def inputs_digest(plan: Plan, sent: Bundle, inputs: Inputs) -> str:
    """Equal for two runs that were given the same source, data, command and environment."""
    facts = {
        "files": [(entry.path, entry.hash, entry.mode) for entry in sent.listing if not _is_record(entry.path)],
        "links": [(link.path, link.target) for link in sent.links],
        "inputs": [(entry.path, entry.hash) for entry in inputs.files + (plan.resume.files if plan.resume else ())],
        "command": plan.command.model_dump(mode="json"),
        "environment": plan.environment.digest or plan.environment.path,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _is_record(path: str) -> bool:
    # A homecoming writes results into dvc.lock, and the first one adds the outputs to .gitignore.
    return path.rsplit("/", 1)[-1] in ("dvc.lock", ".gitignore")
