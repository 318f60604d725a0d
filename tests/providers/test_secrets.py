"""Secrets in the account: kept encrypted, told by name alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from clouds.aws_cloud import AwsCloud
from typer.testing import CliRunner, Result

from cli.main import app
from sojourn.errors import SpecError
from sojourn.providers.ec2.clients import Clients
from sojourn.providers.ec2.secrets import Secrets

VALUE = "correct horse\nbattery 'staple' ✓"


def run(folder: Path, *words: str, given: str = "") -> Result:
    (folder / "params.yaml").write_text("launch: {project_name: digits}")
    return CliRunner().invoke(app, ["secret", *words, "--project", str(folder)], input=given)


def test_a_secret_comes_from_standard_input_is_kept_encrypted_and_never_printed(aws: AwsCloud, tmp_path: Path) -> None:
    done = run(tmp_path, "set", "WANDB_API_KEY", given=f"{VALUE}\n")
    assert done.exit_code == 0, done.output
    ssm = aws.client("ssm")
    kept = ssm.get_parameter(Name="/sojourn/digits/WANDB_API_KEY", WithDecryption=True)["Parameter"]
    assert (kept["Type"], kept["Value"]) == ("SecureString", VALUE)
    for shown in (done, run(tmp_path, "list"), run(tmp_path, "list", "--json")):
        assert "WANDB_API_KEY" in shown.output
        assert "horse" not in shown.output


def test_a_secret_is_replaced_and_removed(clients: Clients, aws: AwsCloud) -> None:
    secrets = Secrets(clients, "digits")
    secrets.set("TOKEN", "one")
    secrets.set("TOKEN", "two")
    Secrets(clients, "faces").set("OTHER", "x")
    assert [one.name for one in secrets.list()] == ["TOKEN"]
    secrets.remove("TOKEN")
    assert secrets.list() == []


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
