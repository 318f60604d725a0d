"""Prints the user's own credentials for a machine of this host, as AWS's `credential_process` does.

A local machine reads a store on S3 as its user would, by profile, SSO or role; it asks
again before the keys end, so nothing is copied to it that outlives a session.
https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

from sojourn.clouds.aws.clients import Clients
from sojourn.errors import SojournError

# How long a machine may use them before it asks again: boto3 renews what ends in less.
LAST_S = 600


def main() -> int:
    """Print them, or say in one line why there are none."""
    try:
        found = Clients().credentials()
    except SojournError as error:
        print(str(error).replace("\n ", ":"), file=sys.stderr)
        return 1
    keys = {"AccessKeyId": found.access_key, "SecretAccessKey": found.secret_key}
    token = {"SessionToken": found.token, "Expiration": _soon()} if found.token else {}
    print(json.dumps({"Version": 1, **keys, **token}))
    return 0


def _soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=LAST_S)).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    sys.exit(main())
