"""The machine images of this cloud and the public parameters that name them.

As at Amazon an image's id differs from region to region, so that an id of one is unknown in another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

CANONICAL, AMAZON = "099720109477", "137112412989"
_UBUNTU = "/aws/service/canonical/ubuntu/server/{version}/stable/current/{arch}/hvm/ebs-{disk}/ami-id"
_LEARNING = "/aws/service/deeplearning/ami/{arch}/base-oss-nvidia-driver-gpu-{system}/latest/ami-id"
_LINUX = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}"


@dataclass(frozen=True)
class Image:
    name: str
    owner: str
    architecture: str  # x86_64, arm64
    parameter: str  # its public name in SSM
    root_gb: int
    root_device: str = "/dev/sda1"

    def id_in(self, region: str) -> str:
        return "ami-" + hashlib.sha256(f"{region}/{self.name}".encode()).hexdigest()[:17]


def _ubuntu(codename: str, version: str, arch: str, disk: str) -> Image:
    debian = {"x86_64": "amd64", "arm64": "arm64"}[arch]
    return Image(
        f"ubuntu/images/hvm-ssd-{disk}/ubuntu-{codename}-{version}-{debian}-server-20260901".replace("-gp2/", "/"),
        CANONICAL,
        arch,
        _UBUNTU.format(version=version, arch=debian, disk=disk),
        8,
    )


def _learning(system: str, title: str, arch: str) -> Image:
    prefix = "Deep Learning ARM64 Base" if arch == "arm64" else "Deep Learning Base"
    return Image(
        f"{prefix} OSS Nvidia Driver GPU AMI ({title}) 20260901",
        "898082745236",
        arch,
        _LEARNING.format(arch=arch, system=system),
        40,
    )


IMAGES = tuple(
    image
    for arch in ("x86_64", "arm64")
    for image in (
        _ubuntu("jammy", "22.04", arch, "gp2"),
        _ubuntu("noble", "24.04", arch, "gp3"),
        _learning("ubuntu-22.04", "Ubuntu 22.04", arch),
        _learning("ubuntu-24.04", "Ubuntu 24.04", arch),
        Image(f"al2023-ami-2023.9-{arch}", AMAZON, arch, _LINUX.format(arch=arch), 8, "/dev/xvda"),
    )
)


def parameters(region: str) -> dict[str, str]:
    """Name and value of every public parameter."""
    return {image.parameter: image.id_in(region) for image in IMAGES}


def by_id(region: str, image_id: str) -> Image | None:
    return next((image for image in IMAGES if image.id_in(region) == image_id), None)
