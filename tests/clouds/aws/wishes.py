"""What a call wants to do: the actions that IAM weighs for it, each with its resource and condition keys.

Moto asks for the action alone and takes `*` for the resource of most services. An action that is
not spelled out here wants `*` too, so that a policy which names a resource for it denies it loudly.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote

from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends

from clouds.aws.calls import Call
from clouds.aws.rules import Request

ACCOUNT = "123456789012"
LEASE = "sojourn:lease"
_READS = {"HeadObject": "GetObject", "GetObject": "GetObject"}
_WRITES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")
_LISTS = ("ListObjects", "ListObjectsV2", "HeadBucket")


def wishes(call: Call, host: str) -> list[Request]:
    """Everything that must be allowed for the call to happen."""
    known = {"ec2": _ec2, "scheduler": _scheduler, "ssm": _ssm, "iam": _iam, "s3": _s3}
    find: Callable[[Call, str], Iterator[Request]] = known.get(call.service, _plain)
    return list(find(call, host))


def _plain(call: Call, _host: str = "") -> Iterator[Request]:
    yield Request(f"{call.service}:{call.action}")


# --- EC2 ----------------------------------------------------------------------------------


def _ec2(call: Call, _host: str) -> Iterator[Request]:
    said = {key: values[0] for key, values in parse_qs(call.body).items()}
    if call.action == "RunInstances":
        yield from _run_instances(call, said)
    elif call.action in ("TerminateInstances", "GetConsoleOutput", "DeleteVolume"):
        for identity in (value for key, value in said.items() if re.fullmatch(r"(Instance|Volume)Id(\.\d+)?", key)):
            kind = "volume" if identity.startswith("vol-") else "instance"
            yield Request(f"ec2:{call.action}", _arn(call, f"{kind}/{identity}"), _standing_tags(call, identity))
    elif call.action in ("CreatePlacementGroup", "DeletePlacementGroup"):
        yield Request(f"ec2:{call.action}", _arn(call, f"placement-group/{said['GroupName']}"))
        yield from _tagging(call, said)
    else:
        yield from _plain(call)


def _run_instances(call: Call, said: dict[str, str]) -> Iterator[Request]:
    tagged = _asked_tags(said)
    kinds = ["instance", "volume", "network-interface"]
    kinds += ["spot-instances-request"] if said.get("InstanceMarketOptions.MarketType") == "spot" else []
    for kind in kinds:
        yield Request("ec2:RunInstances", _arn(call, f"{kind}/*"), _lease_key("RequestTag", tagged.get(kind, {})))
    yield Request("ec2:RunInstances", f"arn:aws:ec2:{call.region}::image/{said['ImageId']}")
    for kind, word in (("subnet", r"SubnetId"), ("security-group", r"SecurityGroupId\.\d+")):
        pattern = re.compile(rf"(NetworkInterface\.\d+\.)?{word}")
        for identity in (value for key, value in said.items() if pattern.fullmatch(key)):
            yield Request("ec2:RunInstances", _arn(call, f"{kind}/{identity}"))
    if group := said.get("Placement.GroupName"):
        yield Request("ec2:RunInstances", _arn(call, f"placement-group/{group}"))
    yield from _tagging(call, said)
    profile = said.get("IamInstanceProfile.Name") or said.get("IamInstanceProfile.Arn", "").rpartition("/")[2]
    for role in _roles_of(profile):
        yield from _passing(role, "ec2")


def _tagging(call: Call, said: dict[str, str]) -> Iterator[Request]:
    for kind, tags in _asked_tags(said).items():
        context = {"ec2:CreateAction": call.action, **_lease_key("RequestTag", tags)}
        yield Request("ec2:CreateTags", _arn(call, f"{kind}/*"), context)


def _asked_tags(said: dict[str, str]) -> dict[str, dict[str, str]]:
    """The tags that a call gives, by the kind of thing."""
    found: dict[str, dict[str, str]] = {}
    for key, kind in said.items():
        if match := re.fullmatch(r"(TagSpecification\.\d+)\.ResourceType", key):
            start = re.escape(match[1])
            names = {k: v for k, v in said.items() if re.fullmatch(rf"{start}\.Tag\.\d+\.Key", k)}
            found[kind] = {name: said[key.removesuffix("Key") + "Value"] for key, name in names.items()}
    return found


def _standing_tags(call: Call, identity: str) -> dict[str, str]:
    tags = ec2_backends[ACCOUNT][call.region].describe_tags({"resource-id": [identity]})
    return _lease_key("ResourceTag", {one["key"]: one["value"] for one in tags})


def _lease_key(kind: str, tags: dict[str, str]) -> dict[str, str]:
    return {f"aws:{kind}/{LEASE}": tags[LEASE]} if LEASE in tags else {}


def _arn(call: Call, resource: str) -> str:
    return f"arn:aws:{call.service}:{call.region}:{ACCOUNT}:{resource}"


# --- roles and timers ---------------------------------------------------------------------


def _iam(call: Call, _host: str) -> Iterator[Request]:
    said = {key: values[0] for key, values in parse_qs(call.body).items()}
    name = said.get("RoleName")
    profile = said.get("InstanceProfileName")
    resource = f"role/{name}" if name else f"instance-profile/{profile}" if profile else None
    yield Request(f"iam:{call.action}", f"arn:aws:iam::{ACCOUNT}:{resource}" if resource else "*")


def _scheduler(call: Call, _host: str) -> Iterator[Request]:
    name = unquote(call.path.rpartition("/")[2])
    said = json.loads(call.body or "{}")
    group = said.get("GroupName") or parse_qs(call.query).get("groupName", ["default"])[0]
    if call.action.endswith("ScheduleGroup"):
        yield Request(f"scheduler:{call.action}", _arn(call, f"schedule-group/{name}"))
    elif call.action == "ListSchedules":
        yield from _plain(call)
    else:
        yield Request(f"scheduler:{call.action}", _arn(call, f"schedule/{group}/{name}"))
    if role := said.get("Target", {}).get("RoleArn"):
        yield from _passing(role, "scheduler")


def _passing(role: str, service: str) -> Iterator[Request]:
    yield Request("iam:PassRole", role, {"iam:PassedToService": f"{service}.amazonaws.com"})


def _roles_of(profile: str) -> list[str]:
    """None for a profile that does not exist: that is told by whoever answers the call."""
    known = iam_backends[ACCOUNT]["aws"].instance_profiles.values()
    return [str(role.arn) for one in known if one.name == profile for role in one.roles]


# --- parameters and objects ---------------------------------------------------------------


def _ssm(call: Call, _host: str) -> Iterator[Request]:
    said = json.loads(call.body or "{}")
    names = said.get("Names") or [said[key] for key in ("Name",) if key in said]
    for name in names:
        owner = "" if name.startswith("/aws/service/") else ACCOUNT
        yield Request(f"ssm:{call.action}", f"arn:aws:ssm:{call.region}:{owner}:parameter/{name.lstrip('/')}")
    if not names:
        yield from _plain(call)


def _s3(call: Call, host: str) -> Iterator[Request]:
    virtual = re.match(r"(?P<bucket>[^.]+)\.s3[.-][^/]*amazonaws\.com", host)
    path = unquote(call.path).lstrip("/")
    bucket, _, key = (virtual["bucket"], "", path) if virtual else path.partition("/")
    place = f"arn:aws:s3:::{bucket}"
    query = parse_qs(call.query, keep_blank_values=True)
    if call.action in _LISTS:
        prefix = query.get("prefix", [None])[0]
        yield Request("s3:ListBucket", place, {} if prefix is None else {"s3:prefix": prefix})
    elif call.action in _READS:
        yield Request("s3:GetObject", f"{place}/{key}")
        if not _has(bucket, key):
            # Only who may list learns that something is not there; the name is what would be listed.
            yield Request("s3:ListBucket", place, {"s3:prefix": key})
    elif call.action in _WRITES:
        yield Request("s3:PutObject", f"{place}/{key}")
    elif call.action == "DeleteObjects":
        for name in re.findall(r"<Key>(.*?)</Key>", call.body):
            yield Request("s3:DeleteObject", f"{place}/{name}")
    else:
        yield Request(f"s3:{call.action}", f"{place}/{key}" if key else place)


def _has(bucket: str, key: str) -> bool:
    known: Any = s3_backends[ACCOUNT]["aws"].buckets.get(bucket)
    return known is not None and key in known.keys
