"""How an earlier and a later version of the product write the same records.

An earlier one knows fewer fields, a later one more, and kinds of ledger entries that nobody here knows. What a cloud
was asked for is the same for all: it is kept in the ledger word by word.
"""

from __future__ import annotations

import json
from typing import Any

VERSIONS = ("", "later", "earlier")  # this one first
LATER = {"of_later": {"a": [1, None]}}
UNKNOWN_KIND = "audited"
# Fields that runs of some weeks ago did not have.
UNKNOWN_EARLIER = set(
    """
    variables condition without interpreter interrupted kept seal link mtime_ns offset shown bring keep account
    clear directories named packages python_path needed notes omissions send_bytes with_keys copied left_behind missing
    resumed_files seals
    """.split()
)
ONLY_IN = {"identity": "hello.json", "machines": "ledger"}  # elsewhere they are as old as the product
NEVER = {"request"}


def written(version: str, key: str, body: bytes) -> bytes:
    """A record in the words of another version; what is none is as it is."""
    if not version or not body.startswith(b"{"):
        return body
    try:
        content = json.loads(body)
    except ValueError:
        return body
    changed = {**content, **LATER} if version == "later" else _without(content, key)
    if version == "later" and isinstance(changed.get("body"), dict):
        changed["body"] = {**changed["body"], **LATER}
    return json.dumps(changed).encode()


def _without(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_without(one, key) for one in value]
    if not isinstance(value, dict):
        return value
    unknown = UNKNOWN_EARLIER | {name for name, where in ONLY_IN.items() if where in key}
    return {name: one if name in NEVER else _without(one, key) for name, one in value.items() if name not in unknown}
