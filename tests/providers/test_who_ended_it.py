"""What a provider says of a machine's end, and of the layers that are missing here."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sojourn.providers.ec2 import responses
from sojourn.providers.local import LocalProvider

END = 1_700_000_010  # deadline and grace


@pytest.mark.parametrize(("after", "by"), [(-100, "release"), (50, "cloud timer"), (1000, "reaper")])
def test_a_machine_that_a_sweep_ended_is_not_put_down_to_its_timer(after: int, by: str) -> None:
    moment = f"{datetime.fromtimestamp(END + after, UTC):%Y-%m-%d %H:%M:%S}"
    tags = {"sojourn:deadline": str(END - 60), "sojourn:grace": "60"}
    instance: dict[str, Any] = {
        "InstanceId": "i-1", "State": {"Name": "terminated"}, "LaunchTime": datetime.fromtimestamp(END - 600, UTC),
        "StateReason": {"Code": "Client.UserInitiatedShutdown"},
        "StateTransitionReason": f"User initiated ({moment} GMT)",
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }  # fmt: skip
    assert responses.machine("one", instance).ended_by == by


def test_where_the_kernel_holds_no_processes_together_the_plan_says_so(tmp_path: Path) -> None:
    without = LocalProvider(tmp_path, isolation="subreaper").capability()
    assert any("allows no namespaces of processes" in warning for warning in without.warnings)
    assert without.layers["reaper"].endswith("where they keep that")
