"""Which rights a call needs: action, resource and what conditions may ask about.

From Amazon's own list, for the services that Sojourn calls. A call that is not here is an error
once policies are enforced: it must be looked up, not guessed.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.s3.models import FakeDeleteMarker, s3_backends

from clouds.aws.calls import Call, place
from clouds.aws.iam.rules import Request
from clouds.aws.machines import ACCOUNT

Params = dict[str, list[str]]

_OBJECT_ACTIONS = {
    "HeadObject": "GetObject",
    "GetObject": "GetObject",
    "PutObject": "PutObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "UploadPartCopy": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "AbortMultipartUpload": "AbortMultipartUpload",
    "ListParts": "ListMultipartUploadParts",
    "DeleteObject": "DeleteObject",
}
_BUCKET_ACTIONS = {
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "HeadBucket": "ListBucket",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
}
# What RunInstances touches besides images, always and when asked for.
_MADE = ("instance", "volume", "network-interface")


def needed(call: Call) -> list[Request]:
    """Raises NotImplementedError for a call that nobody looked up."""
    service = _SERVICES.get(call.service)
    rights = service(call) if service else []
    if not rights:
        raise NotImplementedError(f"{call.service} {call.action}: the rights that it needs are not written down")
    return rights


def _s3(call: Call) -> list[Request]:
    bucket, key = place(call)
    query = parse_qs(call.query, keep_blank_values=True)
    if call.action == "ListBuckets":
        return [Request("s3:ListAllMyBuckets")]
    if call.action == "DeleteObjects":
        # "You must always specify the s3:DeleteObject permission", for versions another beside it:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
        wanted = ["s3:DeleteObject", *(["s3:DeleteObjectVersion"] if "<VersionId>" in call.body else [])]
        return [Request(one, f"arn:aws:s3:::{bucket}/{key}") for key in _deleted(call.body) for one in wanted]
    if "versionId" in query:  # of one version: deleting it, or reading it, is a right of its own
        named = f"{_OBJECT_ACTIONS[call.action]}Version"
        return [Request(f"s3:{named}", f"arn:aws:s3:::{bucket}/{key}")]
    if call.action in _OBJECT_ACTIONS:
        rights = [Request(f"s3:{_OBJECT_ACTIONS[call.action]}", f"arn:aws:s3:::{bucket}/{key}")]
        if call.copied_from:
            rights.append(Request("s3:GetObject", f"arn:aws:s3:::{unquote(call.copied_from).lstrip('/')}"))
        if call.action in ("GetObject", "HeadObject") and not _exists(bucket, key):
            # Only who may list learns that something is not there, and the key is what would be listed:
            # https://github.com/ceph/ceph/pull/68577 found the same of Amazon.
            rights.append(Request("s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": key}))
        return rights
    action = _BUCKET_ACTIONS.get(call.action, call.action)
    context: dict[str, str] = {"s3:prefix": query["prefix"][0]} if "prefix" in query else {}
    return [Request(f"s3:{action}", f"arn:aws:s3:::{bucket}", context)]


def _exists(bucket: str, key: str) -> bool:
    """Not either where a marker stands in its place, as in a bucket that keeps versions."""
    found = s3_backends[ACCOUNT]["aws"].buckets.get(bucket)
    return found is not None and not isinstance(found.keys.get(key), (FakeDeleteMarker, type(None)))


def _deleted(body: str) -> list[str]:
    return re.findall(r"<Key>(.*?)</Key>", body)


def _ec2(call: Call) -> list[Request]:
    params, action = parse_qs(call.body), call.action
    if action.startswith("Describe"):
        return [Request(f"ec2:{action}")]
    if action == "RunInstances":
        return _run_instances(call, params)
    if action == "CreateTags":
        tags = _tags("aws:RequestTag", _pairs(params, "Tag"))
        return [_on(call, one, tags) for one in _members(params, "ResourceId")]
    if action.endswith("PlacementGroup"):
        arn = _arn(call, f"placement-group/{params['GroupName'][0]}")
        if action.startswith("Delete"):
            return [Request(f"ec2:{action}", arn, _tags("aws:ResourceTag", _existing_tags(call, arn)))]
        named = _specified(params).get("placement-group", {})
        made = [Request("ec2:CreateTags", arn, _tags("aws:RequestTag", named) | {"ec2:CreateAction": action})]
        return [Request(f"ec2:{action}", arn, _tags("aws:RequestTag", named)), *(made if named else [])]
    if action == "CreateSecurityGroup":
        vpc = params.get("VpcId", ["*"])[0]
        tags = _tags("aws:RequestTag", _specified(params).get("security-group", {})) | {"ec2:CreateAction": action}
        made = [Request(f"ec2:{action}", _arn(call, one)) for one in ("security-group/*", f"vpc/{vpc}")]
        return [*made, Request("ec2:CreateTags", _arn(call, "security-group/*"), tags)]
    for field in ("InstanceId", "VolumeId", "GroupId"):
        found = _members(params, field)
        if found:
            return [_on(call, one, {}) for one in found]
    return []


def _on(call: Call, resource: str, context: dict[str, str]) -> Request:
    """The right to do this to a thing that exists, with its tags."""
    kinds = {"i": "instance", "vol": "volume", "sg": "security-group", "eni": "network-interface"}
    kind = kinds[resource.split("-")[0]]
    tags = _existing_tags(call, resource)
    had = _tags("aws:ResourceTag", tags) | _tags("ec2:ResourceTag", tags)
    return Request(f"ec2:{call.action}", _arn(call, f"{kind}/{resource}"), {**had, **context})


def _existing_tags(call: Call, resource: str) -> dict[str, str]:
    return dict(ec2_backends[ACCOUNT][call.region].tags.get(resource, {}))


def _run_instances(call: Call, params: Params) -> list[Request]:
    specified = _specified(params)
    made = [*_MADE, *(["spot-instances-request"] if params.get("InstanceMarketOptions.MarketType") == ["spot"] else [])]
    rights = [
        Request("ec2:RunInstances", _arn(call, f"{kind}/*"), _tags("aws:RequestTag", specified.get(kind, {})))
        for kind in made
    ]
    rights.append(Request("ec2:RunInstances", f"arn:aws:ec2:{call.region}::image/{params['ImageId'][0]}"))
    groups = _members(params, "SecurityGroupId") + _found(params, r"NetworkInterface\.\d+\.SecurityGroupId\.\d+")
    subnets = params.get("SubnetId", []) + _found(params, r"NetworkInterface\.\d+\.SubnetId")
    used = [f"security-group/{one}" for one in groups] + [f"subnet/{one}" for one in subnets or ["*"]]
    used += [f"placement-group/{one}" for one in params.get("Placement.GroupName", [])]
    rights += [Request("ec2:RunInstances", _arn(call, one)) for one in used]
    rights += [
        Request(
            "ec2:CreateTags", _arn(call, f"{kind}/*"), _tags("aws:RequestTag", tags) | {"ec2:CreateAction": call.action}
        )
        for kind, tags in specified.items()
    ]
    return rights + _passed_by_profile(params)


def _passed_by_profile(params: Params) -> list[Request]:
    """Whoever starts a machine hands it the role of its profile."""
    wanted = params.get("IamInstanceProfile.Arn", []) + params.get("IamInstanceProfile.Name", [])
    if not wanted:
        return []
    name = wanted[0].split("/")[-1]
    profiles = iam_backends[ACCOUNT]["aws"].instance_profiles.values()
    roles = [role.arn for profile in profiles if profile.name == name for role in profile.roles]
    return [Request("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"}) for role in roles]


def _iam(call: Call) -> list[Request]:
    params, action = parse_qs(call.body), f"iam:{call.action}"
    name = f"arn:aws:iam::{ACCOUNT}:"
    if call.action == "CreateServiceLinkedRole":
        service = params["AWSServiceName"][0]
        return [Request(action, f"{name}role/aws-service-role/{service}/*", {"iam:AWSServiceName": service})]
    if call.action == "AddRoleToInstanceProfile":
        role = f"{name}role/{params['RoleName'][0]}"
        profile = Request(action, f"{name}instance-profile/{params['InstanceProfileName'][0]}")
        return [profile, Request("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})]
    for field, kind in (("InstanceProfileName", "instance-profile"), ("RoleName", "role"), ("UserName", "user")):
        if field in params:
            return [Request(action, f"{name}{kind}/{params[field][0]}")]
    return [Request(action)] if call.action.startswith("List") else []


def _sts(call: Call) -> list[Request]:
    if call.action == "AssumeRole":
        return [Request("sts:AssumeRole", parse_qs(call.body)["RoleArn"][0])]
    return []


def _ssm(call: Call) -> list[Request]:
    if call.action == "DescribeParameters":
        return [Request("ssm:DescribeParameters")]
    asked = json.loads(call.body or "{}")
    names = asked.get("Names") or [asked.get("Name") or asked.get("Path") or ""]
    return [Request(f"ssm:{call.action}", _parameter(call.region, name)) for name in names if name]


def _parameter(region: str, name: str) -> str:
    if name.startswith("arn:"):
        return name
    owner = "" if name.startswith("/aws/service/") else ACCOUNT
    return f"arn:aws:ssm:{region}:{owner}:parameter/{name.lstrip('/')}"


def _scheduler(call: Call) -> list[Request]:
    if call.action.startswith("List"):
        return [Request(f"scheduler:{call.action}")]
    name = unquote(call.path.rsplit("/", 1)[-1])
    at = f"arn:aws:scheduler:{call.region}:{ACCOUNT}:"
    if call.action.endswith("ScheduleGroup"):
        return [Request(f"scheduler:{call.action}", f"{at}schedule-group/{name}")]
    asked = json.loads(call.body or "{}")
    group = asked.get("GroupName") or parse_qs(call.query).get("groupName", ["default"])[0]
    rights = [Request(f"scheduler:{call.action}", f"{at}schedule/{group}/{name}")]
    role = (asked.get("Target") or {}).get("RoleArn")
    if role:
        rights.append(Request("iam:PassRole", role, {"iam:PassedToService": "scheduler.amazonaws.com"}))
    return rights


def _lambda(call: Call) -> list[Request]:
    asked = json.loads(call.body or "{}") if call.action == "CreateFunction" else {}
    name = asked.get("FunctionName") or unquote(call.path).split("/functions/")[1].split("/")[0]
    function = f"arn:aws:lambda:{call.region}:{ACCOUNT}:function:{name}"
    # GetFunctionConfiguration, UpdateFunctionCode and the like: the action is called as the call.
    made = [Request(f"lambda:{call.action}", function)]
    handed = {"iam:PassedToService": "lambda.amazonaws.com"}
    return [*made, *([Request("iam:PassRole", asked["Role"], handed)] if "Role" in asked else [])]


def _events(call: Call) -> list[Request]:
    asked = json.loads(call.body or "{}")
    rule = f"arn:aws:events:{call.region}:{ACCOUNT}:rule/{asked.get('Rule') or asked.get('Name')}"
    return [Request(f"events:{call.action}", rule)]


def _anything(call: Call) -> list[Request]:
    return [Request(f"{call.service}:{call.action}")]


_SERVICES: dict[str, Callable[[Call], list[Request]]] = {
    "s3": _s3,
    "ec2": _ec2,
    "iam": _iam,
    "sts": _sts,
    "ssm": _ssm,
    "scheduler": _scheduler,
    "lambda": _lambda,
    "events": _events,
    "pricing": _anything,
    "servicequotas": _anything,
}


def _arn(call: Call, resource: str) -> str:
    return f"arn:aws:ec2:{call.region}:{ACCOUNT}:{resource}"


def _tags(key: str, tags: dict[str, str]) -> dict[str, str]:
    return {f"{key}/{name}": value for name, value in tags.items()}


def _members(params: Params, field: str) -> list[str]:
    return _found(params, rf"{field}(\.\d+)?")


def _found(params: Params, pattern: str) -> list[str]:
    return [values[0] for name, values in params.items() if re.fullmatch(pattern, name)]


def _pairs(params: Params, prefix: str) -> dict[str, str]:
    """`prefix.1.Key`, `prefix.1.Value`, … as a dictionary."""
    keys = {name.removesuffix(".Key"): values[0] for name, values in params.items() if name.endswith(".Key")}
    return {key: params.get(f"{at}.Value", [""])[0] for at, key in keys.items() if re.fullmatch(rf"{prefix}\.\d+", at)}


def _specified(params: Params) -> dict[str, dict[str, str]]:
    """Tags by kind of what is made."""
    said = re.compile(r"TagSpecification\.\d+\.ResourceType")
    kinds = {name: values[0] for name, values in params.items() if said.fullmatch(name)}
    return {kind: _pairs(params, name.removesuffix(".ResourceType") + r"\.Tag") for name, kind in kinds.items()}
