"""What there is to rent: images, the parameters that name them, and quotas.

Moto has 1,301 old images, the same in every region, no public parameter of Canonical's or of the
Deep Learning images, and quotas of VPCs only.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from moto.ec2.models.amis import Ami, AmiBackend
from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.servicequotas.exceptions import NoSuchResource
from moto.servicequotas.responses import ServiceQuotasResponse
from moto.ssm.models import Parameter, ParameterDict
from moto.utilities.utils import get_partition

from clouds.aws import images
from clouds.aws.market import QUOTA_NAMES
from clouds.aws.repairs import repair
from clouds.aws.world import World


@repair(AmiBackend, "_load_amis")
def load_amis(world: World, backend: Any, original: Any) -> None:
    for image in images.IMAGES:
        ami_id = image.id_in(backend.region_name)
        backend.amis[ami_id] = _RootedAmi(image, backend, ami_id)


class _RootedAmi(Ami):
    """An image that tells its root disk as it is; moto says 15 GB for every one."""

    def __init__(self, image: images.Image, backend: Any, ami_id: str) -> None:
        super().__init__(
            backend,
            ami_id,
            name=image.name,
            description=image.name,
            owner_id=image.owner,
            owner_alias="amazon" if image.owner != images.CANONICAL else None,
            public=True,
            virtualization_type="hvm",
            architecture=image.architecture,
            state="available",
            hypervisor="xen",
            root_device_name=image.root_device,
            root_device_type="ebs",
            creation_date=datetime(2026, 9, 1, tzinfo=UTC),
            region_name=f"{backend.region_name}a",
        )
        self._root_gb = image.root_gb

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        (root,) = super().block_device_mappings
        root["Ebs"].update(VolumeSize=self._root_gb, DeleteOnTermination=True, VolumeType="gp3")
        return [root]


@repair(ParameterDict, "_check_loading_status")
def check_loading_status(world: World, parameters: Any, original: Any, key: str) -> None:
    """Public parameters appear when somebody asks for one."""
    if not str(key or "").startswith("/aws/service/") or getattr(parameters, "ours_loaded", False):
        return
    parameters.ours_loaded = True
    for name, value in images.parameters(parameters.region_name).items():
        parameters[name] = [
            Parameter(  # type: ignore[abstract]
                account_id=parameters.account_id,
                name=name,
                value=value,
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=datetime(2026, 9, 1),
                version=1,
                data_type="aws:ec2:image",
            )
        ]


@repair(RegionsAndZonesBackend, "describe_regions")
def describe_regions(world: World, backend: Any, original: Any, *names: Any) -> list[Any]:
    """Those of Amazon's cloud that this one stands in for; China and GovCloud have accounts of their own."""
    return [one for one in original(*names) if get_partition(one.name) == "aws"]


@repair(ServiceQuotasResponse, "get_service_quota")
def get_service_quota(world: World, response: Any, original: Any) -> str:
    asked = json.loads(response.body)
    if asked.get("ServiceCode") != "ec2":
        return str(original())
    if asked.get("QuotaCode") not in QUOTA_NAMES:
        raise NoSuchResource
    return json.dumps({"Quota": _quota(world, response, asked["QuotaCode"])})


@repair(ServiceQuotasResponse, "list_service_quotas")
def list_service_quotas(world: World, response: Any, original: Any) -> str:
    if json.loads(response.body).get("ServiceCode") != "ec2":
        return json.dumps({"Quotas": []})
    return json.dumps({"Quotas": [_quota(world, response, code) for code in QUOTA_NAMES]})


def _quota(world: World, response: Any, code: str) -> dict[str, Any]:
    return {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": f"arn:aws:servicequotas:{response.region}:{response.current_account}:ec2/{code}",
        "QuotaCode": code,
        "QuotaName": QUOTA_NAMES[code],
        "Value": world.market.quota(response.region, code),
        "Unit": "None",
        "Adjustable": True,
        "GlobalQuota": False,
    }
