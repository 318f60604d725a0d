"""Refusals of EC2 that are the cloud's fault, which moto cannot send: they come with a status of 500."""

from __future__ import annotations

from typing import Any

from werkzeug.exceptions import HTTPException

from clouds.aws import answers
from clouds.aws.market import Place


class NoCapacity(HTTPException):
    """No machine of this kind is free."""

    code = 500

    def __init__(self, place: Place) -> None:
        if place.market == "spot":
            said = "There is no Spot capacity available that matches your request."
        else:
            said = (
                f"We currently do not have sufficient {place.type} capacity in the Availability Zone you requested "
                f"({place.zone}). Our system will be working on provisioning additional capacity. You can currently "
                f"get {place.type} capacity by not specifying an Availability Zone in your request."
            )
        super().__init__(answers.xml("ec2", "InsufficientInstanceCapacity", said))

    def get_headers(self, *_: Any, **__: Any) -> list[tuple[str, str]]:
        return [("Content-Type", "text/xml")]
