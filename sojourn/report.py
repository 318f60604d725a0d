"""One record of a run: parameters, metrics, cost, machine, commit and data hash together."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import yaml
from pydantic import Field

from sojourn.collect import Collected
from sojourn.errors import SojournError
from sojourn.mailbox import Mailbox
from sojourn.planning import Plan
from sojourn.publish import Inputs, Published
from sojourn.records import Bundle, Outcome, Receipt, Record

METRICS_FILE = "metrics.json"
_METRICS_LIMIT = 1_000_000


class Report(Record):
    """What a run was, what it gave and what it cost."""

    run: str
    project: str
    store: str
    state: str
    message: str
    command: str
    machine: str
    nodes: int
    commit: str | None
    changed: int
    inputs: str = Field(description="Digest over source, data, command and environment: equal runs have equal ones")
    same_as: str | None = Field(default=None, description="An earlier run with the same inputs")
    parameters: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    ended_at: float
    seconds: float = Field(description="From plan to report")
    script_s: float | None = Field(default=None, description="From the script's start to its end")
    phases: dict[str, float] = Field(default_factory=dict, description="Seconds in each step of this orchestrator")
    cost: float
    receipt: str
    files: int
    bytes: int
    checkpoints: int
    published: Published


def write_report(
    plan: Plan,
    outcome: Outcome,
    collected: Collected,
    published: Published,
    receipt: Receipt,
    metrics: dict[str, Any],
    inputs: str,
    same_as: str | None,
    phases: dict[str, float],
    now: float,
) -> Report:
    """The report, from the run's other records."""
    return Report(
        run=plan.run,
        project=plan.project,
        store=plan.store,
        state=outcome.state,
        message=outcome.message,
        command=plan.shown_command(),
        machine=plan.offers[0].machine,
        nodes=plan.launch.nodes,
        commit=plan.commit,
        changed=plan.changed,
        inputs=inputs,
        same_as=same_as,
        parameters=plan.stage.parameters if plan.stage else {},
        metrics=metrics,
        ended_at=now,
        seconds=round(now - plan.created_at, 3),
        script_s=round(outcome.ended_at - outcome.started_at, 3) if outcome.started_at else None,
        phases={name: round(seconds, 3) for name, seconds in phases.items()},
        cost=receipt.cost,
        receipt=receipt.state,
        files=len(collected.files),
        bytes=collected.bytes,
        checkpoints=collected.checkpoints,
        published=published,
    )


def read_metrics(plan: Plan, collected: Collected, mailbox: Mailbox) -> dict[str, Any]:
    """The numbers in the metric files that the script wrote, by dotted name."""
    default = METRICS_FILE if plan.work_directory == "." else f"{plan.work_directory}/{METRICS_FILE}"
    wanted = plan.stage.metrics if plan.stage else (default,)
    values: dict[str, Any] = {}
    for entry in collected.files:
        if entry.path in wanted and entry.size < _METRICS_LIMIT:
            values.update(_flat(_parsed(mailbox.store.get(entry.source))))
    return values


def inputs_digest(plan: Plan, sent: Bundle, inputs: Inputs) -> str:
    """Equal for two runs that were given the same source, data, command and environment."""
    facts = {
        "files": [(entry.path, entry.hash, entry.mode) for entry in sent.listing if not _is_record(entry.path)],
        "links": [(link.path, link.target) for link in sent.links],
        "inputs": [(entry.path, entry.hash) for entry in inputs.files],
        "command": plan.command.model_dump(mode="json"),
        "environment": plan.environment.digest or plan.environment.path,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _is_record(path: str) -> bool:
    # A homecoming writes results into dvc.lock, and the first one adds the outputs to .gitignore.
    return path.rsplit("/", 1)[-1] in ("dvc.lock", ".gitignore")


def _parsed(body: bytes) -> Any:
    try:
        return yaml.safe_load(body)  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError, SojournError):
        return None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value} if prefix and isinstance(value, (int, float, str)) else {}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
