"""The metadata service of a machine, version 2, at 169.254.169.254.

Who asks is known by address. Tokens are good for the machine that fetched them; the answer that
carries one travels as many hops as the instance's options allow, so a container behind one more
hop gets none with a limit of 1.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from clouds.aws.credentials import Credentials, Desk
from clouds.aws.machines import ACCOUNT, Machine

Environ = dict[str, Any]
Start = Callable[..., Any]

LONGEST_TOKEN_S = 6 * 3600


class Metadata:
    """The WSGI application."""

    def __init__(self, machine_at: Callable[[str], Machine | None], desk: Desk) -> None:
        self._machine_at, self._desk = machine_at, desk
        self._tokens: dict[str, tuple[str, float]] = {}  # machine and end of each

    def __call__(self, environ: Environ, start: Start) -> list[bytes]:
        machine = self._machine_at(environ["REMOTE_ADDR"])
        if machine is None:
            return _send(start, 404)
        options = machine.instance.metadata_options
        if options.http_endpoint == "disabled":
            return _send(start, 403)
        path = environ["PATH_INFO"].removeprefix("/latest/")
        if path == "api/token":
            return self._token(machine, environ, start)
        if not self._may(machine, environ):
            return _send(start, 401)
        found = self._look_up(machine, path)
        return _send(start, 404) if found is None else _send(start, 200, found)

    def _token(self, machine: Machine, environ: Environ, start: Start) -> list[bytes]:
        seconds = environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS", "")
        if environ["REQUEST_METHOD"] != "PUT":
            return _send(start, 405)
        if "HTTP_X_FORWARDED_FOR" in environ:
            return _send(start, 403)
        if not seconds.isdecimal() or not 1 <= int(seconds) <= LONGEST_TOKEN_S:
            return _send(start, 400)
        hops = machine.instance.metadata_options.http_put_response_hop_limit
        environ["werkzeug.socket"].setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        token = secrets.token_urlsafe(40)
        self._tokens[token] = machine.id, time.time() + int(seconds)
        return _send(start, 200, token, [("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", seconds)])

    def _may(self, machine: Machine, environ: Environ) -> bool:
        token = environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN")
        if token is None:
            return bool(machine.instance.metadata_options.http_tokens != "required")
        owner, end = self._tokens.get(token, ("", 0.0))
        return owner == machine.id and time.time() < end

    def _look_up(self, machine: Machine, path: str) -> str | bytes | None:
        path = path.rstrip("/")
        if path == "user-data":
            said = machine.instance.user_data
            return base64.b64decode(str(said)) if said else None
        if path == "dynamic/instance-identity/document":
            return json.dumps(_identity(machine))
        path = path.removeprefix("meta-data").lstrip("/")
        if path.startswith("iam/"):
            return self._iam(machine, path)
        if path.startswith("tags/instance"):
            return _tags(machine, unquote(path.removeprefix("tags/instance").lstrip("/")))
        return _plain(machine).get(path)

    def _iam(self, machine: Machine, path: str) -> str | None:
        if machine.role is None:
            return None
        name = machine.role.split("/")[-1]
        if path == "iam/security-credentials":
            return name
        if path == f"iam/security-credentials/{name}":
            return json.dumps(_told(self._desk.of_machine(machine)))
        return None


def _told(credentials: Credentials) -> dict[str, str]:
    return {
        "Code": "Success",
        "LastUpdated": _when(time.time()),
        "Type": "AWS-HMAC",
        "AccessKeyId": credentials.access_key,
        "SecretAccessKey": credentials.secret_key,
        "Token": credentials.token,
        "Expiration": _when(credentials.expires_at),
    }


def _plain(machine: Machine) -> dict[str, str]:
    instance = machine.instance
    found = {
        "instance-id": machine.id,
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "instance-type": machine.type,
        "instance-life-cycle": machine.market,
        "local-ipv4": instance.private_ip,
        "local-hostname": instance.private_dns_name,
        "hostname": instance.private_dns_name,
        "mac": instance.nics[0].mac_address,
        "placement/availability-zone": machine.zone,
        "placement/region": machine.region,
        "placement/group-name": instance.placement.group_name,
        "public-ipv4": instance.public_ip,
        "services/domain": "amazonaws.com",
        "services/partition": "aws",
    }
    if machine.notice_at:
        found["spot/instance-action"] = json.dumps({"action": "terminate", "time": _when(machine.notice_at)})
        found["spot/termination-time"] = _when(machine.notice_at)
    return {name: value for name, value in found.items() if value}


def _tags(machine: Machine, key: str) -> str | None:
    if machine.instance.metadata_options.instance_metadata_tags != "enabled":
        return None
    return machine.tags.get(key) if key else "\n".join(machine.tags)


def _identity(machine: Machine) -> dict[str, str]:
    return {
        "accountId": ACCOUNT,
        "availabilityZone": machine.zone,
        "imageId": machine.instance.image_id,
        "instanceId": machine.id,
        "instanceType": machine.type,
        "privateIp": machine.instance.private_ip,
        "region": machine.region,
    }


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _send(
    start: Start, status: int, body: str | bytes = b"", headers: list[tuple[str, str]] | None = None
) -> list[bytes]:
    said = body.encode() if isinstance(body, str) else body
    length = ("Content-Length", str(len(said)))
    start(f"{status} X", [("Content-Type", "text/plain"), ("Server", "EC2ws"), length, *(headers or [])])
    return [said]
