"""Private addresses that no two machines share, whatever their regions.

At Amazon each region's default VPC has the same addresses, and they never meet. Here all hosts
live in one network, so an address is given out once.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models.subnets import Subnet

from clouds.aws.repairs import repair
from clouds.aws.world import World


@repair(Subnet, "get_available_subnet_ip")
def get_available_subnet_ip(world: World, subnet: Any, original: Any, instance: Any) -> str:
    used = {machine.instance.private_ip for machine in world.machines.living()}
    while True:
        address = str(original(instance))
        if address not in used:
            return address
