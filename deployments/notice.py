"""The automation that lets somebody know when a sweep found anything, by a notification block of theirs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from deployments.timetable import Change
from sojourn.errors import SpecError
from tasks.notice import FOUND, RESOURCE

NAME = "sojourn reap found something"
BODY = "{{ event.payload.said }}"
SUBJECT = "sojourn: {{ event.payload.count }} outlived their runs"


def difference(client: SyncPrefectClient, block: str) -> tuple[AutomationCore, Change] | None:
    """The automation that the server lacks or has otherwise; None when it stands. Raises SpecError for no block."""
    wanted = _automation(_document(client, block))
    there = next(iter(client.read_automations_by_name(NAME)), None)
    if there is not None and _words(there) == _words(wanted):
        return None
    return wanted, Change(NAME, there is None, (("notifies", None, block),))


def apply(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create or replace it. One that somebody switched off stays off."""
    there = next(iter(client.read_automations_by_name(NAME)), None)
    if there is None:
        client.create_automation(wanted)
    else:
        client.update_automation(there.id, wanted.model_copy(update={"enabled": there.enabled}))


def _automation(document: UUID) -> AutomationCore:
    return AutomationCore(
        name=NAME,
        description="Machines or runs outlived whoever had them in hand, and the sweep ended or closed them.",
        trigger=EventTrigger(
            expect={FOUND},
            match={"prefect.resource.id": RESOURCE},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[SendNotification(block_document_id=document, subject=SUBJECT, body=BODY)],
    )


def _document(client: SyncPrefectClient, block: str) -> UUID:
    kind, _, name = block.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise SpecError(
            f"notify: no block is saved as {block!r}",
            hint="write TYPE/NAME, like slack-webhook/team: sojourn prefect block ls",
        ) from None


def _words(automation: AutomationCore) -> Any:
    """What matters of it."""
    return automation.model_dump(mode="json", include={"trigger": {"expect", "match"}, "actions": True})
