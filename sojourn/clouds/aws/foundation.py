"""What stands in the account before anything is rented, and what it is called.

`sojourn setup aws` makes it, once for an account, a region and a project; here it is only
looked for. Every name follows from those three, so that nobody has to configure one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import code_of, translated
from sojourn.errors import AccessError, SojournError, SpecError
from sojourn.records import Record

T = TypeVar("T")

GROUP = "sojourn-machines"
SCHEDULER_ROLE = "sojourn-scheduler"
SCHEDULE_GROUP = "sojourn"
REAPER = "sojourn-reaper"
POLICY = "sojourn"  # what the inline policy of each of our roles is called
READ_REMOTES = "ReadDvcRemotes"  # the statement of the machine role that names DVC's remotes

# Amazon's words for "there is no such thing".
_ABSENT = set(
    """
    404 NoSuchBucket NoSuchEntity InvalidGroup.NotFound ResourceNotFoundException ParameterNotFound
    NoSuchLifecycleConfiguration NoSuchPublicAccessBlockConfiguration OwnershipControlsNotFoundError
    ServerSideEncryptionConfigurationNotFoundError NoSuchBucketPolicy
    """.split()
)


@dataclass(frozen=True)
class Names:
    """What our things are called in one account and region, for one project."""

    account: str
    region: str
    project: str
    store: str = ""  # URL of a store of the user's own on S3, beside ours

    @property
    def stores(self) -> list[str]:
        """Where runs may be kept, as `bucket/prefix`: ours of every region, for roles are global, and the user's."""
        own = self.store.removeprefix("s3://").strip("/") if self.store.startswith("s3://") else ""
        return [f"sojourn-{self.account}-*", *([own] if own else [])]

    @property
    def bucket(self) -> str:
        """The store of every project in this region."""
        return f"sojourn-{self.account}-{self.region}"

    @property
    def machine_role(self) -> str:
        """The role of the project's machines, and the instance profile that hands it to them."""
        return f"sojourn-machine-{self.project}"

    @property
    def partition(self) -> str:
        """Amazon's three separate clouds have ARNs of their own."""
        apart = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
        return next((name for start, name in apart.items() if self.region.startswith(start)), "aws")

    def arn(self, service: str, resource: str, region: str = "") -> str:
        """The ARN of something in this account."""
        return f"arn:{self.partition}:{service}:{region}:{self.account}:{resource}"

    def iam(self, resource: str) -> str:
        """The ARN of a role or an instance profile, like `role/NAME`."""
        return self.arn("iam", resource)

    @property
    def secrets(self) -> str:
        """Below this lie the project's secrets among SSM's parameters."""
        return f"/sojourn/{self.project}"

    def secret(self, name: str, place: str) -> str:
        """The parameter that keeps one of them, in a place that nobody can guess; earlier versions had no place."""
        return f"{self.secrets}/{place}/{name}" if place else f"{self.secrets}/{name}"


class Ground(Record):
    """Where a region's machines stand."""

    region: str
    vpc_id: str
    group_id: str = Field(description="Security group of all our machines there: nothing comes in but from each other")


class Foundation(Ground):
    """Everything that renting needs, as it stands in the account."""

    account: str
    project: str
    bucket: str
    profile_arn: str = Field(description="Instance profile of the project's machines")
    scheduler_role_arn: str = Field(description="What ends a machine at its deadline acts by this role")
    schedule_group: str
    readable: tuple[str, ...] = Field(
        description="Places on S3 beside the store that the project's machines may read, like s3://bucket/dvc/"
    )

    @property
    def store(self) -> str:
        """The URL of the store where none is named."""
        return f"s3://{self.bucket}"


def find(clients: Clients, project: str) -> Foundation:
    """What stands in the account for a project, in the clients' region.

    Raises SpecError naming all that is missing and the command that makes it, AccessError without credentials.
    """
    names = Names(clients.account, clients.region, project)
    vpc = default_vpc(clients)
    found = {what: look() for what, look in looks(clients, names, vpc).items()}
    missing = [what for what, it in found.items() if it is None]
    if missing:
        raise lacking(names, missing)
    group, profile, policy, role, _, _ = found.values()
    if not is_current(policy, project):
        raise outdated(names)
    return Foundation(
        account=names.account,
        region=names.region,
        project=project,
        bucket=names.bucket,
        vpc_id=vpc,
        group_id=group["GroupId"],
        profile_arn=profile["Arn"],
        scheduler_role_arn=role["Arn"],
        schedule_group=SCHEDULE_GROUP,
        readable=readable(policy),
    )


def looks(clients: Clients, names: Names, vpc: str) -> dict[str, Callable[[], Any]]:
    """How to look for each thing that renting needs, by what it is; each answers None for what is missing."""
    return {
        f"security group {GROUP}": lambda: find_group(clients, vpc),
        f"instance profile {names.machine_role}": lambda: find_profile(clients, names.machine_role),
        f"role {names.machine_role}": lambda: find_policy(clients, names.machine_role),
        f"role {SCHEDULER_ROLE}": lambda: find_role(clients, SCHEDULER_ROLE),
        f"schedule group {SCHEDULE_GROUP}": lambda: find_schedule_group(clients),
        f"bucket {names.bucket}": lambda: find_bucket(clients, names) or None,
    }


def orders_below(project: str) -> str:
    """Where machines of a project find what they are told."""
    return f"orders/{project}/"


def is_current(policy: dict[str, Any], project: str) -> bool:
    """Whether a machine role lets a machine read its orders; earlier versions kept them where it read all runs'."""
    resources = [one["Resource"] for one in policy["Statement"]]
    flat = [arn for one in resources for arn in ([one] if isinstance(one, str) else one)]
    return any(f"/{orders_below(project)}" in arn for arn in flat)


def outdated(names: Names) -> SpecError:
    """The error for an account that an earlier version set up."""
    return SpecError(
        f"aws: role {names.machine_role} has the rights of an earlier version, with which machines read all runs of "
        "their project, and could not read their orders now",
        hint=f"give it today's, once no run of {names.project} goes on: sojourn setup aws --region {names.region}",
    )


def find_ground(clients: Clients, region: str) -> Ground:
    """Where machines stand in another region than the store's. Raises SpecError when nothing was made there."""
    vpc = default_vpc(clients, region)
    group = find_group(clients, vpc, region)
    missing = [f"security group {GROUP}"] if group is None else []
    missing += [] if find_schedule_group(clients, region) else [f"schedule group {SCHEDULE_GROUP}"]
    if group is None or missing:
        raise lacking(Names(clients.account, region, ""), missing, home=clients.region)
    return Ground(region=region, vpc_id=vpc, group_id=group["GroupId"])


def lacking(names: Names, missing: list[str], home: str | None = None) -> SpecError:
    """The error for what was not made yet."""
    where = f"--region {home} --region {names.region}" if home else f"--region {names.region}"
    return SpecError(
        f"aws: account {names.account} lacks in {names.region}: {', '.join(missing)}",
        hint=f"make it once: sojourn setup aws {where}   (for your administrator: add --print)",
    )


# --- one thing each: what Amazon says of it, or None --------------------------------------------


def default_vpc(clients: Clients, region: str | None = None) -> str:
    """The id of a region's default network. Raises SpecError when the account removed it."""
    where = region or clients.region
    with translated(f"look for the default network of {where}"):
        found = clients.client("ec2", region).describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])
    if not found["Vpcs"]:
        raise SpecError(
            f"aws: {where} has no default VPC, and machines need a network",
            hint=f"make it anew, it costs nothing: aws ec2 create-default-vpc --region {where}",
        )
    return str(found["Vpcs"][0]["VpcId"])


def find_group(clients: Clients, vpc: str, region: str | None = None) -> dict[str, Any] | None:
    """The security group of our machines in this network."""
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [GROUP]}]
    with translated(f"look for security group {GROUP}"):
        found: list[dict[str, Any]] = clients.client("ec2", region).describe_security_groups(Filters=wanted)[
            "SecurityGroups"
        ]
    return found[0] if found else None


def find_bucket(clients: Clients, names: Names) -> bool:
    """Whether the account has the bucket. Raises AccessError when it is somebody else's."""
    s3 = clients.client("s3", names.region)
    doing = f"look at bucket {names.bucket}"
    try:
        answer = unless_absent(doing, lambda: s3.head_bucket(Bucket=names.bucket, ExpectedBucketOwner=names.account))
    except SojournError as error:
        if code_of(error.__cause__ or error) not in ("403", "AccessDenied"):
            raise
        # A HEAD has no body, so whose it is cannot be told from what we may not do.
        raise AccessError(
            f"aws: bucket {names.bucket} belongs to another account than {names.account}, "
            "or these credentials may not use it",
            hint="see whether it is yours: aws s3api list-buckets; else name a store of your own: --store s3://BUCKET",
        ) from error.__cause__
    return answer is not None


def find_role(clients: Clients, name: str) -> dict[str, Any] | None:
    """A role, with its trust policy."""
    iam = clients.client("iam")
    answer = unless_absent(f"look at role {name}", lambda: iam.get_role(RoleName=name))
    return answer["Role"] if answer else None


def find_policy(clients: Clients, role: str) -> dict[str, Any] | None:
    """The policy document of one of our roles."""
    iam = clients.client("iam")
    doing = f"read the policy of role {role}"
    answer = unless_absent(doing, lambda: iam.get_role_policy(RoleName=role, PolicyName=POLICY))
    return answer["PolicyDocument"] if answer else None


def find_profile(clients: Clients, name: str) -> dict[str, Any] | None:
    """An instance profile that has its role."""
    iam = clients.client("iam")
    doing = f"look at instance profile {name}"
    answer = unless_absent(doing, lambda: iam.get_instance_profile(InstanceProfileName=name))
    return answer["InstanceProfile"] if answer and answer["InstanceProfile"]["Roles"] else None


def find_schedule_group(clients: Clients, region: str | None = None) -> dict[str, Any] | None:
    """The group that holds the schedules of our machines."""
    scheduler = clients.client("scheduler", region)
    doing = f"look at schedule group {SCHEDULE_GROUP}"
    return unless_absent(doing, lambda: scheduler.get_schedule_group(Name=SCHEDULE_GROUP))


def readable(policy: dict[str, Any]) -> tuple[str, ...]:
    """The places on S3 that a machine role's policy names as DVC's remotes."""
    named = [one["Resource"] for one in policy["Statement"] if one.get("Sid") == READ_REMOTES]
    flat = [arn for one in named for arn in ([one] if isinstance(one, str) else one)]
    return tuple(f"s3://{arn.split(':::', 1)[1].removesuffix('*')}" for arn in flat)


def unless_absent(doing: str, ask: Callable[[], T]) -> T | None:
    """What Amazon answers; None when it says that there is no such thing. Other errors are decisions."""
    try:
        with translated(doing):
            return ask()
    except SojournError as error:
        if error.__cause__ is not None and code_of(error.__cause__) in _ABSENT:
            return None
        raise
