"""Secrets in the account: kept encrypted, told by name alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from clouds.aws_cloud import AwsCloud
from typer.testing import CliRunner, Result

from cli.main import app
from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.foundation import Names
from sojourn.clouds.aws.secrets import Secrets
from sojourn.errors import SpecError

VALUE = "correct horse\nbattery 'staple' ✓"


def parameters(aws: AwsCloud) -> list[str]:
    """The paths of all that is kept."""
    return sorted(one["Name"] for one in aws.client("ssm").describe_parameters()["Parameters"])


def run(folder: Path, *words: str, given: str = "") -> Result:
    (folder / "params.yaml").write_text("launch: {project_name: digits}")
    return CliRunner().invoke(app, ["secret", *words, "--project", str(folder)], input=given)


def test_a_secret_comes_from_standard_input_is_kept_encrypted_and_never_printed(aws: AwsCloud, tmp_path: Path) -> None:
    done = run(tmp_path, "set", "WANDB_API_KEY", given=f"{VALUE}\n")
    assert done.exit_code == 0, done.output
    ssm = aws.client("ssm")
    (path,) = parameters(aws)
    assert re.fullmatch("/sojourn/digits/[0-9a-f]{32}/WANDB_API_KEY", path)
    kept = ssm.get_parameter(Name=path, WithDecryption=True)["Parameter"]
    assert (kept["Type"], kept["Value"]) == ("SecureString", VALUE)
    for shown in (done, run(tmp_path, "list"), run(tmp_path, "list", "--json")):
        assert "WANDB_API_KEY" in shown.output
        assert "horse" not in shown.output


def test_a_secret_is_replaced_where_it_is_and_removed(clients: Clients, aws: AwsCloud) -> None:
    secrets = Secrets(clients, "digits")
    secrets.set("TOKEN", "one")
    (path,) = parameters(aws)
    secrets.set("TOKEN", "two")
    Secrets(clients, "faces").set("OTHER", "x")
    assert [one.name for one in secrets.list()] == ["TOKEN"] and secrets.paths(["TOKEN"]) == {"TOKEN": path}
    assert aws.client("ssm").get_parameter(Name=path, WithDecryption=True)["Parameter"]["Value"] == "two"
    secrets.remove("TOKEN")
    assert secrets.list() == [] and len(parameters(aws)) == 1


def test_a_secret_that_an_earlier_version_kept_is_told_refused_to_runs_and_kept_anew(
    clients: Clients, aws: AwsCloud, tmp_path: Path
) -> None:
    ssm, secrets = aws.client("ssm"), Secrets(clients, "digits")
    for name in ("TOKEN", "KEY"):
        ssm.put_parameter(Name=f"/sojourn/digits/{name}", Value="x", Type="SecureString")
    ssm.put_parameter(Name="/sojourn/digits/not/OURS", Value="x", Type="String")
    assert [(one.name, one.earlier) for one in secrets.list()] == [("KEY", True), ("TOKEN", True)]
    assert "an earlier version kept it; sojourn secret set TOKEN" in " ".join(run(tmp_path, "list").output.split())
    with pytest.raises(SpecError, match="an earlier version kept 'TOKEN' where each machine of digits") as caught:
        secrets.paths(["TOKEN"])
    assert caught.value.hint == "keep it anew: sojourn secret set TOKEN"
    secrets.set("TOKEN", "anew")
    secrets.remove("KEY")
    (path, other) = parameters(aws)
    assert other == "/sojourn/digits/not/OURS" and secrets.paths(["TOKEN"]) == {"TOKEN": path}
    assert [(one.name, one.earlier) for one in secrets.list()] == [("TOKEN", False)]


def test_a_secret_that_two_kept_at_once_is_one_again_when_it_is_set(clients: Clients, aws: AwsCloud) -> None:
    secrets, names = Secrets(clients, "digits"), Names(clients.account, clients.region, "digits")
    for place in ("0" * 32, "f" * 32):
        aws.client("ssm").put_parameter(Name=names.secret("TOKEN", place), Value="x", Type="SecureString")
    assert [one.name for one in secrets.list()] == ["TOKEN"] and len(secrets.paths(["TOKEN"])) == 1
    secrets.set("TOKEN", "y")
    assert parameters(aws) == [*secrets.paths(["TOKEN"]).values()]
    secrets.remove("TOKEN")
    assert parameters(aws) == []


def test_a_secret_that_is_not_kept_is_refused_before_anything_is_rented(clients: Clients, aws: AwsCloud) -> None:
    Secrets(clients, "digits").set("WANDB_API_KEY", "x")
    with pytest.raises(SpecError, match="keeps no 'WANDB_KEY' for digits, did you mean 'WANDB_API_KEY'"):
        Secrets(clients, "digits").paths(["WANDB_API_KEY", "WANDB_KEY"])


def test_removing_what_is_not_there_names_what_is(clients: Clients, aws: AwsCloud) -> None:
    secrets = Secrets(clients, "digits")
    secrets.set("WANDB_API_KEY", "x")
    with pytest.raises(SpecError, match="did you mean 'WANDB_API_KEY'"):
        secrets.remove("WANDB_KEY")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WANDB-KEY", "x", "cannot be the name"),
        ("a/b", "x", "cannot be the name"),
        ("KEY", "", "empty"),
        ("KEY", "x" * 4097, "4,097 bytes"),
    ],
)
def test_what_cannot_be_a_variable_of_the_script_is_refused(
    clients: Clients, aws: AwsCloud, name: str, value: str, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        Secrets(clients, "digits").set(name, value)
