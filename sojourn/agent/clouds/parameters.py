"""The values that a script needs and nobody else may see, from the account's own keeping by the machine's role.

They come straight into the script's environment: no file, no order and no log ever holds them.
https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Callable, Mapping, Sequence

from sojourn.agent.clouds.credentials import Identity, authorities
from sojourn.agent.clouds.sigv4 import Scope, signed
from sojourn.agent.errors import Refused, say
from sojourn.agent.files import Json
from sojourn.agent.stores.wire import Pool

AT_ONCE = 10  # that many names EC2's Systems Manager takes in a call
LIMIT = 1 << 20
TIMEOUT_S = 10.0
PATIENCE_S = 60.0


def read(
    names: Sequence[str],
    paths: Mapping[str, str],
    region: str,
    check: Callable[[], None],
    identity: Identity | None = None,
    endpoint: str | None = None,
) -> dict[str, str]:
    """The secrets of these names, each by its path, which the machine was told.

    Raises Refused for one that is not kept there any more, or that cannot be had in a minute.
    """
    pool, who = Pool(endpoint or f"https://ssm.{region}.amazonaws.com", authorities()), identity or Identity()
    wanted = sorted({paths[name] for name in names if name in paths})
    found: dict[str, str] = {}
    for first in range(0, len(wanted), AT_ONCE):
        asked = wanted[first : first + AT_ONCE]
        answer = _insist(lambda: _ask(pool, region, who, asked), check)  # noqa: B023 (called at once)
        found.update((one["Name"], one["Value"]) for one in answer["Parameters"])
    pool.close()
    for name in names:
        if paths.get(name) not in found:
            why = "is no more where it was kept when this run was planned" if name in paths else "was not told to it"
            raise Refused(f"the secret {name} {why}; see that it is there, and start the run anew: sojourn secret list")
    return {name: found[paths[name]] for name in names}


def _insist(ask: Callable[[], Json], check: Callable[[], None]) -> Json:
    until, pause = time.monotonic() + PATIENCE_S, 0.5
    while True:
        try:
            return ask()
        except OSError as error:
            say(f"the secrets cannot be read: {error}")
            if time.monotonic() > until:
                raise Refused(f"the secrets cannot be read: {error}") from error
        check()
        time.sleep(pause)
        pause = min(pause * 2, 10.0)


def _ask(pool: Pool, region: str, who: Identity, names: list[str]) -> Json:
    body = json.dumps({"Names": names, "WithDecryption": True}).encode()
    headers = {
        "host": pool.host,
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": "AmazonSSM.GetParameters",
    }
    digest = hashlib.sha256(body).hexdigest()
    headers = signed(who.credentials(), Scope(region, "ssm"), "POST", "/", [], headers, digest, time.time())
    answer = pool.send("POST", "/", headers, body, TIMEOUT_S)
    said = answer.whole(LIMIT)
    if answer.status == 200:
        found: Json = json.loads(said)
        return found
    kind = json.loads(said or b"{}").get("__type", "") if said[:1] == b"{" else ""
    if "AccessDenied" in kind:
        raise Refused("the machine's role may not read the run's secrets; grant it: sojourn setup aws")
    raise OSError(f"Systems Manager answers {answer.status} {kind}")
