"""The sweep over an account: what it ends, what it leaves and why, and that it needs no memory of its own.

Each lease stands in the account as a run would have left it; what is asked afterwards is Amazon.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clouds.aws_cloud import AwsCloud
from typer.testing import CliRunner

pytest.register_assert_rewrite("tests.providers.account_world")

from cli.main import app  # noqa: E402
from sojourn.errors import TeardownError  # noqa: E402
from sojourn.protocol import Outcome  # noqa: E402
from sojourn.receipts import Receipt  # noqa: E402
from sojourn.results.report import Report  # noqa: E402
from sojourn.run.reap import STRANGER_GRACE_S, raise_for_failed  # noqa: E402
from tests.providers.account_world import FAR, Account  # noqa: E402

SUCCEEDED = Outcome(state="succeeded", message="the script ended with exit code 0", exit_code=0, ended_at=1.0)
LOST = SUCCEEDED.model_copy(update={"state": "lost", "message": "taken back"})


@pytest.fixture
def account(aws: AwsCloud, tmp_path: Path) -> Iterator[Account]:
    yield Account(aws, tmp_path)


def test_from_a_fresh_machine_it_ends_what_outlived_its_run_in_any_region_and_nothing_else(account: Account) -> None:
    late = account.rent("late-gull-0001", deadline=-60.0)
    far = account.rent("late-gull-0002", deadline=-60.0, region=FAR)
    over = account.rent("loyal-gull-0003")
    account.ledger("loyal-gull-0003", ("ordered", {}), ("outcome", SUCCEEDED.model_dump(mode="json")))
    lost = account.rent("loyal-gull-0004")
    account.ledger("loyal-gull-0004", ("ordered", {}), ("lost", LOST.model_dump(mode="json")))
    goes_on = account.rent("loyal-gull-0005")
    account.ledger("loyal-gull-0005", ("ordered", {}))
    unknown = account.rent("loyal-gull-0006")
    # Tags are copied easily, by "launch more like this" for one; a name of ours holds a checksum over itself.
    forged = account.copy(late, **{"sojourn:lease": "sojourn-late-gull-0001-1-0-ffff"})
    other = account.copy(late, **{"sojourn:lease": "somebody-elses"})

    would = account.sweep(dry_run=True)
    assert account.running() == {late, far, over, lost, goes_on, unknown, forged, other}
    found = account.sweep()

    assert {run: one.action for run, one in found.items()} == {
        "late-gull-0001": "ended", "late-gull-0002": "ended", "loyal-gull-0003": "ended", "loyal-gull-0004": "ended",
        "loyal-gull-0005": "left", "loyal-gull-0006": "left",
    }  # fmt: skip
    assert {run: one.action.replace("would end", "ended") for run, one in would.items()} == {
        run: one.action for run, one in found.items()
    }
    assert "deadline passed" in found["late-gull-0001"].reason and "(succeeded)" in found["loyal-gull-0003"].reason
    assert "its run goes on" in found["loyal-gull-0005"].reason and "no ledger" in found["loyal-gull-0006"].reason
    assert account.running() == {goes_on, unknown, forged, other}
    assert account.sweep(later=STRANGER_GRACE_S + 5)["loyal-gull-0006"].action == "ended"
    assert account.running() == {goes_on, forged, other}


def test_a_copy_with_every_tag_of_a_machine_of_ours_is_left_and_told(account: Account) -> None:
    # As "launch more like this", a launch template or a restored backup make it.
    late = account.rent("late-gull-0001", deadline=-60.0)
    goes_on = account.rent("loyal-gull-0005")
    account.ledger("loyal-gull-0005", ("ordered", {}))
    copies = [account.copy(late), account.copy(goes_on)]
    for found in (account.sweep(dry_run=True), account.sweep(), account.sweep(later=7200.0)):
        assert {found[one].action for one in copies} == {"left"}
        assert "tags of sojourn-late-gull-0001-1-0-" in found[copies[0]].reason
        assert "not made by us" in found[copies[0]].reason
        raise_for_failed(found.values())
    assert account.running() == set(copies)
    assert not account.sweep(project="letters")


def test_a_run_that_is_over_is_closed_though_nothing_here_remembers_it(account: Account) -> None:
    # Its machines are gone and forgotten, so that only the account's own bucket tells of it.
    over = ("outcome", SUCCEEDED.model_dump(mode="json"))
    mailbox = account.ledger("loyal-gull-0003", ("ordered", {}), over, ago=600.0)
    account.plan(mailbox)
    assert account.sweep()["loyal-gull-0003"].action == "closed"
    report, receipt = mailbox.read("report", Report), mailbox.read("receipt", Receipt)
    assert report is not None and receipt is not None
    assert (report.state, receipt.state) == ("succeeded", "closed") and account.running() == set()
    assert receipt.leaves.until is not None and 29 < (receipt.leaves.until - time.time()) / 86400 < 32


def test_a_project_is_swept_by_itself(account: Account) -> None:
    ours = account.rent("late-gull-0001", deadline=-60.0)
    theirs = account.rent("late-gull-0002", deadline=-60.0, project="letters")
    assert set(account.sweep(project="digits")) == {"late-gull-0001"}
    assert account.running() == {theirs}, ours


def test_a_region_that_is_closed_to_us_or_fails_hides_no_other(account: Account) -> None:
    account.rent("late-gull-0001", deadline=-60.0)
    closed = {"code": "UnauthorizedOperation", "status": 403}
    account.cloud.fault("ec2", "DescribeInstances", "error", region=FAR, count=None, **closed)
    found = account.sweep()
    assert found["late-gull-0001"].action == "ended" and found["aws"].action == "unseen"
    raise_for_failed(found.values())

    account.cloud.clear_faults()
    account.cloud.fault("ec2", "DescribeInstances", "error", region=FAR, count=None)
    blind = account.sweep()["aws"]
    assert blind.action == "failed" and FAR in blind.reason
    with pytest.raises(TeardownError, match="could not be looked at: aws"):
        raise_for_failed([blind])


def test_what_cannot_be_ended_is_an_error_and_keeps_no_other_alive(account: Account) -> None:
    stubborn = account.rent("late-gull-0001", deadline=-60.0)
    account.rent("late-gull-0002", deadline=-60.0)
    account.cloud.fault("ec2", "TerminateInstances", "error", body=stubborn, count=None)
    found = account.sweep()
    assert account.running() == {stubborn} and found["late-gull-0002"].action == "ended"
    with pytest.raises(TeardownError, match="sojourn-late-gull-0001") as raised:
        raise_for_failed(found.values())
    assert raised.value.exit_code == 4
    account.cloud.clear_faults()
    assert account.sweep()["late-gull-0001"].action == "ended"


def test_a_ledger_that_cannot_be_read_leaves_its_lease_until_the_deadline(account: Account) -> None:
    """dstack marks a machine as gone that it cannot reach (https://github.com/dstackai/dstack/issues/1551)."""
    late = account.rent("late-gull-0001", deadline=-60.0, store="s3://nobodys-bucket")
    early = account.rent("loyal-gull-0002", store="s3://nobodys-bucket")
    found = account.sweep(later=STRANGER_GRACE_S + 60)
    assert account.running() == {early}, late
    assert "its ledger cannot be read" in found["loyal-gull-0002"].reason
    assert json.dumps([one.model_dump(mode="json") for one in found.values()])


def test_credentials_are_enough_for_a_sweep_where_no_region_is_configured(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = account.rent("late-gull-0002", deadline=-60.0, region=FAR)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("SOJOURN_HOME", str(tmp_path / "fresh"))
    done = CliRunner().invoke(app, ["reap", "--region", FAR, "--json"])
    assert done.exit_code == 0, done.output
    assert [(one["run"], one["action"]) for one in json.loads(done.stdout)] == [("late-gull-0002", "ended")]
    assert late not in account.running()
