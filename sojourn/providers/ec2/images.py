"""What a machine boots: from the words of a spec to one image of one region.

`ubuntu` and `nvidia` are the current images of Canonical and of Amazon's Deep Learning team, by
the parameters that both publish. Where those may not be read, their newest image by name is the same.
https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/
https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sojourn.clouds.aws.clients import Clients
from sojourn.clouds.aws.errors import translated
from sojourn.errors import SojournError, SpecError, nearest

GIB = 2**30
_BY_FILTER = re.compile(r"(?P<user>[^@:]+)@(?P<owner>[^@:]+):(?P<architecture>[^@:]+):(?P<name>.+)")
# Of the releases of Ubuntu, which are in the names of the images.
_PYTHONS = {"20.04": "3.8", "22.04": "3.10", "24.04": "3.12", "26.04": "3.14"}
_ALSO = "ubuntu, nvidia, ami-…, or user@owner:architecture:name"


class Image(NamedTuple):
    """An image as its region describes it."""

    id: str
    name: str
    architecture: str
    root_device: str
    root_gib: int

    @property
    def python(self) -> str | None:
        """The version of its python3, where the name tells."""
        return next((python for version, python in _PYTHONS.items() if version in self.name), None)


class _Alias(NamedTuple):
    """A word for an image: where it is published, the newest first, and how it is found by name."""

    parameters: tuple[str, ...]
    owner: str
    name: str


def resolve(clients: Clients, region: str, word: str, architecture: str) -> Image:
    """The image that a word means for machines of this architecture. Raises SpecError naming what would be valid."""
    if word.startswith("ami-"):
        found = _by_id(clients, region, word)
    elif by_filter := _BY_FILTER.fullmatch(word):
        found = _newest(clients, region, by_filter["owner"], by_filter["name"], by_filter["architecture"], word)
    else:
        found = _by_alias(clients, region, _alias(word, architecture), architecture, word)
    if found.architecture != architecture:
        raise SpecError(
            f"boot_image: {word!r} is for {found.architecture}, and the machine is {architecture}",
            hint="leave boot_image out, or name a machine of its architecture",
        )
    return found


def check_word(word: str) -> None:
    """Refuse what can be no image, before anything is asked."""
    if not (word.startswith("ami-") or _BY_FILTER.fullmatch(word) or word in ("ubuntu", "nvidia")):
        raise SpecError(f"boot_image: {word!r} is none, {nearest(word, ['ubuntu', 'nvidia'])}", hint=f"write {_ALSO}")


def _alias(word: str, architecture: str) -> _Alias:
    if word == "ubuntu":
        debian = {"x86_64": "amd64"}.get(architecture, architecture)
        return _Alias(
            (f"/aws/service/canonical/ubuntu/server/24.04/stable/current/{debian}/hvm/ebs-gp3/ami-id",),
            "099720109477",
            f"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{debian}-server-*",
        )
    prefix = "Deep Learning ARM64 Base" if architecture == "arm64" else "Deep Learning Base"
    published = "/aws/service/deeplearning/ami/{}/base-oss-nvidia-driver-gpu-ubuntu-{}/latest/ami-id"
    return _Alias(
        tuple(published.format(architecture, version) for version in ("24.04", "22.04")),
        "amazon",
        f"{prefix} OSS Nvidia Driver GPU AMI (Ubuntu 2?.04) *",
    )


def _by_alias(clients: Clients, region: str, alias: _Alias, architecture: str, word: str) -> Image:
    try:
        with translated(f"find the image {word}"):
            answer = clients.client("ssm", region).get_parameters(Names=list(alias.parameters))
        published = {one["Name"]: one["Value"] for one in answer["Parameters"]}
    except SojournError:  # most likely a right that is missing, and describing images is another one
        published = {}
    for name in alias.parameters:
        if name in published:
            return _by_id(clients, region, published[name])
    return _newest(clients, region, alias.owner, alias.name, architecture, word)


def _by_id(clients: Clients, region: str, image: str) -> Image:
    try:
        with translated(f"look at {image}"):
            found = clients.client("ec2", region).describe_images(ImageIds=[image])["Images"]
    except SpecError:
        found = []
    if not found:
        raise SpecError(
            f"boot_image: {image!r} does not exist, or is not yours to use",
            hint=f"an image's id is of one region; write {_ALSO}",
        )
    return _read(found[0])


def _newest(clients: Clients, region: str, owner: str, name: str, architecture: str, word: str) -> Image:
    wanted = {"name": name, "architecture": architecture, "state": "available", "root-device-type": "ebs"}
    filters = [{"Name": key, "Values": [value]} for key, value in wanted.items()]
    with translated(f"find the image {word}"):
        found = clients.client("ec2", region).describe_images(Owners=[owner], Filters=filters)["Images"]
    if not found:
        raise SpecError(
            f"boot_image: there is no {word!r}",
            hint=f"look: aws ec2 describe-images --region {region} --owners {owner} "
            f"--filters 'Name=name,Values={name}' 'Name=architecture,Values={architecture}'",
        )
    return _read(max(found, key=lambda one: str(one["CreationDate"])))


def _read(found: dict[str, Any]) -> Image:
    device = found.get("RootDeviceName") or "/dev/sda1"
    sizes = {one.get("DeviceName"): one.get("Ebs", {}).get("VolumeSize", 0) for one in found["BlockDeviceMappings"]}
    return Image(found["ImageId"], found.get("Name", ""), found["Architecture"], device, int(sizes.get(device) or 8))
