"""Amazon, saved in Prefect: which account, where in it, and which machines.

Loaded only when it is asked for: prefect-aws comes with the extra `aws`, and takes as long to
import as Prefect itself.
"""

import os
from typing import Any, Literal

from prefect_aws import AwsCredentials
from pydantic import Field, ValidationError, field_validator

from blocks.base import ProviderBlock
from sojourn.spec.launch import Launch

# Each way to name credentials goes before the others; one that is left over would win or be mixed in.
_WAYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")


class AwsProvider(ProviderBlock):
    """
    Machines of Amazon EC2, with data and results in S3.

    `sojourn setup aws` makes what the account needs. Give machine, or gpu, or neither and leave it to the run.

    Example:
        Run a script on an L4 by a saved provider:
        ```python
        from blocks import AwsProvider
        from flows.train import train
        from sojourn.spec.launch import Launch

        provider = AwsProvider.load("BLOCK_NAME")
        train(Launch(command=("python", "train.py"), gpu="L4"), provider=provider)
        ```
    """

    _block_type_name = "Sojourn AWS Provider"
    _block_type_slug = "sojourn-aws-provider"
    _documentation_url = "https://docs.prefect.io/v3/concepts/blocks"  # type: ignore[assignment]

    where = "aws"

    credentials: AwsCredentials | None = Field(
        default=None,
        title="Credentials",
        description="Whose account; those of the worker's host if absent: environment, profile, SSO or role.",
    )
    region: str | None = Field(
        default=None,
        title="Region",
        description="Where runs are kept, and machines rented unless regions are named; the credentials' if absent.",
        examples=["us-east-1"],
    )
    gpu: str | None = Field(
        default=None,
        title="GPU",
        description="GPUs of each machine by model and count, or memory of each, instead of a machine type.",
        examples=["L4:4", "A100", "80GB"],
    )
    disk: str | None = Field(
        default=None,
        title="Disk",
        description="Size of each machine's disk; as large as its image asks for if absent.",
        examples=["130GB"],
    )
    boot_image: str | None = Field(
        default=None,
        title="Boot image",
        description="What machines boot: ubuntu, nvidia, an AMI, or user@owner:arch:name; by the machine if absent.",
        examples=["nvidia", "ami-0123456789abcdef0"],
    )
    market: Literal["any", "spot", "on-demand"] | None = Field(
        default=None,
        title="Market",
        description="spot can be taken away and costs less, on-demand cannot; the cheapest first if absent.",
    )
    regions: list[str] | None = Field(
        default=None,
        title="Regions",
        description="Where to look for machines, in any order; the region alone if absent.",
        examples=[["us-east-1", "us-west-2"]],
    )

    budget: float | None = Field(
        default=None,
        title="Budget",
        description="Dollars for each run, lost machines included, unless a run names its own; no limit if absent.",
        examples=[5.0],
    )

    @field_validator("gpu", "disk", "boot_image", "market", "regions", "budget")
    @classmethod
    def _as_a_run_would_ask(cls, value: Any, info: Any) -> Any:
        try:
            Launch.model_validate({info.field_name: value} if value is not None else {})
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return value

    def prepare(self) -> None:
        """Put the block's credentials and region where every client of this process looks for them."""
        said = self.environment()
        if set(said) & set(_WAYS):
            for name in _WAYS:
                os.environ.pop(name, None)
        os.environ.update(said)

    def environment(self) -> dict[str, str]:
        """The variables by which boto3, obstore and DVC find the same account and region."""
        said = dict(self._identity())
        if region := self.region or (self.credentials.region_name if self.credentials else None):
            said |= {"AWS_DEFAULT_REGION": region, "AWS_REGION": region}
        if self.credentials and (url := self.credentials.aws_client_parameters.endpoint_url):
            said["AWS_ENDPOINT_URL"] = str(url)
        return said

    def complete(self, launch: Launch) -> Launch:
        """What was asked for, with this block's answers where the request says nothing."""
        said = super().complete(launch)
        asked = launch.model_fields_set
        says_which = asked & {"machine", "gpu", "cpus", "memory"} or self.machine
        answers = {
            name: value
            for name in ("gpu", "disk", "boot_image", "market", "regions", "budget")
            if name not in asked and (value := getattr(self, name)) is not None and not (name == "gpu" and says_which)
        }
        return Launch.model_validate({**said.model_dump(exclude_unset=True), **answers})

    def _identity(self) -> dict[str, str]:
        found = self.credentials
        if found is None:
            return {}
        if found.assume_role_arn:
            keys = found.get_boto3_session().get_credentials().get_frozen_credentials()
            return _keys(keys.access_key, keys.secret_key, keys.token)
        if found.aws_access_key_id and found.aws_secret_access_key:
            secret = found.aws_secret_access_key.get_secret_value()
            return _keys(found.aws_access_key_id, secret, found.aws_session_token)
        # A profile is read by every client itself, and so renewed.
        return {"AWS_PROFILE": found.profile_name} if found.profile_name else {}


def _keys(access: str, secret: str, token: str | None) -> dict[str, str]:
    keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
    return {**keys, "AWS_SESSION_TOKEN": token} if token else keys
