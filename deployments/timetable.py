"""Makes the deployments of a Prefect server equal to the timetable, and says what differs.

`prefect deploy` looks for flows relative to the current directory and asks questions;
this finds them as installed modules, from any directory, and applied twice it changes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker

from sojourn.errors import SpecError, nearest

OURS = Path(__file__).with_name("prefect.yaml")
_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


@dataclass(frozen=True)
class Timed:
    """One deployment of the timetable, and what it should be in the words of Prefect's API."""

    name: str
    flow: Flow[..., Any]
    wanted: dict[str, Any]

    @property
    def full_name(self) -> str:
        """As `prefect deployment run` takes it."""
        return f"{self.flow.name}/{self.name}"


@dataclass(frozen=True)
class Change:
    """A deployment that is new or differs, and in what: the field, what the server has, what it should have."""

    deployment: str
    new: bool
    fields: tuple[tuple[str, Any, Any], ...]


def read_timetable(path: Path, values: Mapping[str, str], names: tuple[str, ...] = ()) -> list[Timed]:
    """The deployments of a file with its `{{ $VARIABLES }}` filled in; only those named, or all. Raises SpecError."""
    try:
        content = yaml.safe_load(_filled(path.read_text(encoding="utf-8"), {**os.environ, **values}))
        timed = [_timed(entry) for entry in content["deployments"]]
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}", hint="name a timetable: --file FILE") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: not a timetable: {error!r}", hint=f"start from ours: {OURS}") from None
    known = {one.full_name: one for one in timed}
    for name in names:
        if name not in known:
            raise SpecError(f"no deployment {name!r} in {path}, {nearest(name, known)}")
    return [one for name, one in known.items() if not names or name in names]


def differences(client: SyncPrefectClient, timetable: list[Timed]) -> Iterator[tuple[Timed, Change]]:
    """The deployments that the server lacks or has otherwise."""
    for timed in timetable:
        there = _standing(client, timed)
        has = _words(there) if there else {}
        fields = tuple(_differing(has, timed.wanted))
        if fields:
            yield timed, Change(timed.full_name, there is None, fields)


def apply(client: SyncPrefectClient, timed: Timed) -> None:
    """Create or replace the deployment. A schedule or deployment that somebody switched off stays off."""
    there = _standing(client, timed)
    switched_off = {schedule.slug for schedule in there.schedules if not schedule.active} if there else set()
    wanted = timed.wanted
    pool = wanted["work_pool"]
    _provide_pool(client, pool)
    schedules = [
        DeploymentScheduleCreate(schedule=_cron(one), slug=one["slug"], active=one["slug"] not in switched_off)
        for one in wanted["schedules"]
    ]
    limit = wanted["concurrency_limit"]
    client.create_deployment(
        flow_id=client.create_flow(timed.flow),
        name=timed.name,
        description=wanted["description"],
        entrypoint=wanted["entrypoint"],
        parameters=wanted["parameters"],
        parameter_openapi_schema=wanted["form"],
        enforce_parameter_schema=True,
        tags=wanted["tags"],
        schedules=schedules,
        concurrency_limit=limit["limit"] if limit else None,
        concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]) if limit else None,
        work_pool_name=pool,
        job_variables=wanted["job_variables"],
        paused=there.paused if there else None,
    )


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise SpecError(f"the timetable needs ${match[1]}", hint=f"export {match[1]}=VALUE")
        return values[match[1]]

    return _VARIABLE.sub(value, text)


def _timed(entry: Mapping[str, Any]) -> Timed:
    flow = _flow(entry["entrypoint"])
    wanted = {
        "description": entry.get("description"),
        "entrypoint": entry["entrypoint"],
        "parameters": dict(entry.get("parameters", {})),
        "form": _form(flow),
        "tags": sorted(entry.get("tags", [])),
        "schedules": [_schedule(one) for one in entry.get("schedules", [])],
        "concurrency_limit": entry.get("concurrency_limit"),
        "work_pool": entry["work_pool"]["name"],
        "job_variables": dict(entry["work_pool"].get("job_variables", {})),
    }
    return Timed(entry["name"], flow, wanted)


def _form(flow: Flow[..., Any]) -> dict[str, Any]:
    """The schema of the flow's parameters, with defaults of nested fields told and not filled in.

    A default that the form shows is sent with the run, and would go before what the project's
    own params.yaml says.
    """
    form: dict[str, Any] = parameter_schema(flow).model_dump_for_openapi()
    for model in form.get("definitions", {}).values():
        for field in model.get("properties", {}).values():
            default = field.pop("default", None)
            if default not in (None, {}, [], ()):
                field["description"] = f"{field.get('description', '')} Default: {default}."
    for field in form.get("properties", {}).values():
        if isinstance(field.get("default"), dict):
            del field["default"]
    return form


def _flow(entrypoint: str) -> Flow[..., Any]:
    # Prefect's own loader puts the current directory first, where `tasks` may be somebody else's.
    module, _, name = entrypoint.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError):
        found = None
    if not isinstance(found, Flow):
        raise SpecError(f"entrypoint: {entrypoint!r} is no flow", hint="write MODULE.FLOW, like flows.train.train")
    return found


def _schedule(entry: Mapping[str, Any]) -> dict[str, str]:
    return {"slug": entry["slug"], "cron": entry["cron"], "timezone": entry.get("timezone", "UTC")}


def _cron(wanted: Mapping[str, str]) -> CronSchedule:
    return CronSchedule(cron=wanted["cron"], timezone=wanted["timezone"])


def _standing(client: SyncPrefectClient, timed: Timed) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(timed.full_name)
    except ObjectNotFound:
        return None


def _words(there: DeploymentResponse) -> dict[str, Any]:
    """What the server has, in the same words as the timetable."""
    schedules = [(one.slug or "", one.schedule) for one in there.schedules]
    limit, options = there.global_concurrency_limit, there.concurrency_options
    return {
        "description": there.description,
        "entrypoint": there.entrypoint,
        "parameters": there.parameters,
        "form": there.parameter_openapi_schema,
        "tags": sorted(there.tags),
        "schedules": [
            {"slug": slug, "cron": one.cron, "timezone": one.timezone or "UTC"}
            if isinstance(one, CronSchedule)
            else {"slug": slug}
            for slug, one in schedules
        ],
        "concurrency_limit": {
            "limit": limit.limit,
            "collision_strategy": options.collision_strategy.value if options else None,
        }
        if limit
        else None,
        "work_pool": there.work_pool_name,
        "job_variables": there.job_variables,
    }


def _differing(has: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for field, value in wanted.items():
        if has.get(field) == value:
            continue
        if field == "form":
            yield field, None, "follows the flow's parameters"
        else:
            yield field, has.get(field), value


def _provide_pool(client: SyncPrefectClient, name: str) -> None:
    """The work pool, made for processes when the server has none of that name."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type, base_job_template=template))
