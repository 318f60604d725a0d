"""The reaper in the cloud: one function, and the rule that calls it every ten minutes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import code_of, translated
from sojourn.clouds.aws.foundation import REAPER, Names, unless_absent
from sojourn.errors import SojournError, TransientError
from sojourn.waiting import SystemClock, wait_for

SOURCE = Path(__file__).parent.with_name("reaper_function.py")
EVERY = "rate(10 minutes)"
READY_LIMIT_S = 90.0
_CALLER = "sojourn-rule"


class Reaper:
    """The function and its rule in one region."""

    def __init__(self, clients: Clients, names: Names, region: str) -> None:
        self.title = f"function {REAPER} in {region}"
        self._function = clients.client("lambda", region)
        self._events = clients.client("events", region)
        self._arn = names.arn("lambda", f"function:{REAPER}", region)
        self._rule_arn = names.arn("events", f"rule/{REAPER}", region)
        self._settings: dict[str, Any] = {
            "Runtime": "python3.13",
            "Handler": "reaper.handler",
            "Role": names.iam(f"role/{REAPER}"),
            "Timeout": 60,
            "MemorySize": 128,
        }

    def wanted(self) -> dict[str, Any]:
        """What it should be: this code, run so often, by this role."""
        code = base64.b64encode(hashlib.sha256(archive()).digest()).decode()
        return {"code": code, **self._settings, "called": EVERY, "by": self._rule_arn}

    def standing(self) -> dict[str, Any] | None:
        """What it is; None while there is no such function."""
        has = self._configuration()
        if has is None:
            return None
        return {
            "code": has["CodeSha256"],
            **{key: has.get(key) for key in self._settings},
            "called": self._called(),
            "by": self._rule_arn if self._may_be_called() else None,
        }

    def make(self, has: dict[str, Any] | None) -> None:
        """Create or replace the function, then have it called."""
        if has is None:
            wait_for(self._created, what=f"aws: make {self.title}", limit_s=READY_LIMIT_S, clock=SystemClock())
        else:
            with translated(f"replace the code of {self.title}"):
                self._function.update_function_code(FunctionName=REAPER, ZipFile=archive())
            self._settle()
            with translated(f"change {self.title}"):
                self._function.update_function_configuration(FunctionName=REAPER, **self._settings)
        self._settle()
        with translated(f"have {self.title} called"):
            self._events.put_rule(Name=REAPER, ScheduleExpression=EVERY, State="ENABLED")
            if not self._may_be_called():
                self._function.add_permission(
                    FunctionName=REAPER,
                    StatementId=_CALLER,
                    Action="lambda:InvokeFunction",
                    Principal="events.amazonaws.com",
                    SourceArn=self._rule_arn,
                )
            self._events.put_targets(Rule=REAPER, Targets=[{"Id": REAPER, "Arn": self._arn}])

    def remove(self) -> None:
        """Have it called no more, then delete it."""

        def uncalled() -> None:
            self._events.remove_targets(Rule=REAPER, Ids=[REAPER])
            self._events.delete_rule(Name=REAPER)

        unless_absent(f"have {self.title} called no more", uncalled)
        with translated(f"delete {self.title}"):
            self._function.delete_function(FunctionName=REAPER)

    def _created(self) -> bool | None:
        """True once it is made; a role that is some seconds old cannot be assumed yet."""
        try:
            with translated(f"make {self.title}"):
                about = "Ends machines of Sojourn that outlived their deadline"
                code = {"ZipFile": archive()}
                self._function.create_function(FunctionName=REAPER, Description=about, Code=code, **self._settings)
        except TransientError:
            return None
        except SojournError as error:
            code_said = code_of(error.__cause__) if error.__cause__ else None
            if code_said == "InvalidParameterValueException" and "role" in error.message:
                return None
            raise
        return True

    def _settle(self) -> None:
        """Lambda refuses a change while the last one is under way."""

        def settled() -> bool | None:
            has = self._configuration() or {}
            return True if (has.get("State"), has.get("LastUpdateStatus")) == ("Active", "Successful") else None

        wait_for(settled, what=f"aws: {self.title} is ready", limit_s=READY_LIMIT_S, clock=SystemClock())

    def _configuration(self) -> dict[str, Any] | None:
        doing = f"look at {self.title}"
        return unless_absent(doing, lambda: self._function.get_function_configuration(FunctionName=REAPER))

    def _called(self) -> str | None:
        rule = unless_absent(f"look at rule {REAPER}", lambda: self._events.describe_rule(Name=REAPER))
        if rule is None or rule["State"] != "ENABLED":
            return None
        with translated(f"look at what rule {REAPER} calls"):
            targets = self._events.list_targets_by_rule(Rule=REAPER)["Targets"]
        return str(rule["ScheduleExpression"]) if self._arn in {one["Arn"] for one in targets} else None

    def _may_be_called(self) -> bool:
        doing = f"read who may call {self.title}"
        found = unless_absent(doing, lambda: self._function.get_policy(FunctionName=REAPER))
        return found is not None and _CALLER in {one["Sid"] for one in json.loads(found["Policy"])["Statement"]}


def archive() -> bytes:
    """The function as Lambda takes it: the same bytes from the same source."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        entry = zipfile.ZipInfo("reaper.py", date_time=(1980, 1, 1, 0, 0, 0))
        entry.external_attr = 0o644 << 16
        file.writestr(entry, SOURCE.read_bytes())
    return packed.getvalue()
