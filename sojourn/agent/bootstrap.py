"""A rented machine's first program: fetches the agent by the machine's own role and becomes it.

Its text travels in the machine's user data, which holds 16 KB, so it stands alone: standard
library only, nothing of ours imported. What it fetches has the promised hash or does not run.
It takes one argument, a JSON object: where the archive lies and what the agent is told.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Callable, TypeVar

T = TypeVar("T")
METADATA = "http://169.254.169.254/latest/"
FOLDER = "/opt/sojourn"
ANSWER_LIMIT_S = 20.0


def metadata(path: str) -> str:
    """What the machine's metadata service says."""
    wanted = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    asked = urllib.request.Request(METADATA + "api/token", method="PUT", headers=wanted)
    token = {"X-aws-ec2-metadata-token": ask(asked).decode()}
    return ask(urllib.request.Request(METADATA + "meta-data/" + path, headers=token)).decode()


def ask(request: urllib.request.Request) -> bytes:
    """What is answered, in time or not at all. Raises OSError."""
    with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as answer:
        body: bytes = answer.read()
    return body


def fetch(bucket: str, key: str, region: str) -> bytes:
    """An object, asked for with a signature of the role that this machine has."""
    role = metadata("iam/security-credentials/").strip()
    keys = json.loads(metadata("iam/security-credentials/" + role))
    host, path = place(bucket, key, region)
    headers = signed(host, path, region, keys, datetime.datetime.now(datetime.timezone.utc))
    return ask(urllib.request.Request("https://" + host + path, headers=headers))


def place(bucket: str, key: str, region: str) -> tuple[str, str]:
    """Host and path of an object; a bucket with a dot in its name does not match the certificate of a host of its own.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html
    """
    dotted = "." in bucket
    host = f"{'' if dotted else bucket + '.'}s3.{region}.amazonaws.com"
    return host, "/" + urllib.parse.quote(f"{bucket}/{key}" if dotted else key)


def signed(host: str, path: str, region: str, keys: dict[str, str], now: datetime.datetime) -> dict[str, str]:
    """The headers of a GET without a body, signed by version 4 of Amazon's scheme.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {
        "host": host,
        "x-amz-content-sha256": hashlib.sha256(b"").hexdigest(),
        "x-amz-date": stamp,
        "x-amz-security-token": keys["Token"],
    }
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    names = ";".join(sorted(headers))
    canonical = "\n".join(["GET", path, "", lines, names, headers["x-amz-content-sha256"]])
    scope = "/".join([day, region, "s3", "aws4_request"])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = ("AWS4" + keys["SecretAccessKey"]).encode()
    for word in [*scope.split("/"), "\n".join(["AWS4-HMAC-SHA256", stamp, scope, digest])]:
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    proof = "AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={}, Signature={}"
    return {**headers, "authorization": proof.format(keys["AccessKeyId"], scope, names, key.hex())}


def insist(step: Callable[[], T], until: float) -> T:
    """The same step again until it works; its last error once the time is over."""
    pause = 0.2
    while True:
        try:
            return step()
        except (OSError, ValueError, KeyError) as error:
            said = getattr(error, "read", lambda: b"")()[:300]
            print("sojourn: {} {}".format(error, said.decode(errors="replace")), file=sys.stderr, flush=True)
            if time.monotonic() > until:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 10.0)


def main(told: dict[str, Any]) -> None:
    """Fetch the agent and become it; ends with its error when that cannot be done in time."""
    boot, agent = told["boot"], told["agent"]
    until = time.monotonic() + boot["order_wait_s"]
    body = insist(lambda: fetch(agent["bucket"], agent["key"], agent["region"]), until)
    if hashlib.sha256(body).hexdigest() != agent["sha256"]:
        raise SystemExit("sojourn: the agent in the store is not the one that was promised")
    program, told_to = os.path.join(FOLDER, "agent.pyz"), os.path.join(FOLDER, "boot.json")
    os.makedirs(os.path.join(FOLDER, "work"), mode=0o700, exist_ok=True)
    with open(program, "wb") as file:
        file.write(body)
    with open(told_to, "w") as file:
        json.dump(boot, file)
    node = insist(lambda: metadata("ami-launch-index"), until)
    address = insist(lambda: metadata("local-ipv4"), until)
    words = ["run", "--boot", told_to, "--node", node, "--scratch", os.path.join(FOLDER, "work")]
    os.execv(sys.executable, [sys.executable, "-I", "-S", program, *words, "--address", address])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
