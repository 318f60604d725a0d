"""When a bucket's rule removes an object: S3 says so of each object that one asks about, moto never.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/how-to-set-lifecycle-configuration-intro.html
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from moto.s3.responses import S3Response

from clouds.aws.repairs import repair
from clouds.aws.world import World


@repair(S3Response, "head_object")
def head_object(
    world: World, response: Any, original: Any, bucket_name: str, query: Any, key_name: str, **rest: Any
) -> Any:
    status, headers, body = original(bucket_name, query, key_name, **rest)
    if status == 200 and (said := _expiration(response.backend.get_bucket(bucket_name), key_name, headers)):
        headers["x-amz-expiration"] = said
    return status, headers, body


def _expiration(bucket: Any, key: str, headers: dict[str, str]) -> str | None:
    for rule in bucket.rules:
        prefix = (rule.filter.prefix if rule.filter else rule.prefix) or ""
        if rule.expiration_days and rule.status == "Enabled" and key.startswith(prefix):
            written = datetime.strptime(headers["last-modified"], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
            # Amazon rounds up to the next midnight.
            ends = (written + timedelta(days=int(rule.expiration_days) + 1)).replace(hour=0, minute=0, second=0)
            return f'expiry-date="{format_datetime(ends, usegmt=True)}", rule-id="{rule.id}"'
    return None
