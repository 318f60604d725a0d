"""A large file on its way into S3, in parts side by side, each under the hash it had when the file was read.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, BinaryIO, Callable, NamedTuple

from sojourn.agent.errors import StoreError
from sojourn.agent.stores.store import MIB, Check, chunks
from sojourn.agent.stores.wire import Answer

PART = 16 * MIB
MOST_PARTS = 9000  # S3 takes 10,000
LANES = 4  # parts on their way at once, and in memory
PART_LIMIT_S = 120.0
TRIES = 4

Ask = Callable[..., Answer]


class Part(NamedTuple):
    """A piece of a file, and the SHA-256 it had."""

    offset: int
    size: int
    sha256: str


def hashed(source: BinaryIO, check: Check) -> tuple[str, list[Part]]:
    """The hash of a file and of each of its parts, in one reading."""
    most = max(PART, -(-os.fstat(source.fileno()).st_size // MOST_PARTS // MIB) * MIB)
    whole, parts = hashlib.sha256(), [Part(0, 0, "")]
    part = hashlib.sha256()
    for chunk in chunks(source, check):
        last = parts[-1]
        if last.size and last.size + len(chunk) > most:
            last = Part(last.offset + last.size, 0, "")
            parts.append(last)
            part = hashlib.sha256()
        whole.update(chunk)
        part.update(chunk)
        parts[-1] = Part(last.offset, last.size + len(chunk), "")
        parts[-1] = parts[-1]._replace(sha256=part.hexdigest())
    return whole.hexdigest(), parts


def send(ask: Ask, key: str, source: BinaryIO, parts: list[Part], check: Check) -> None:
    """Store the file as it was hashed, or raise an OSError and leave nothing."""
    begun = _text(ask("POST", key, query=[("uploads", "")]))
    found = re.search("<UploadId>([^<]+)</UploadId>", begun)
    if not found:
        raise StoreError(errno.EIO, f"{key}: the store begins no upload: {begun[:200]}")
    upload = found.group(1).replace("&amp;", "&")
    try:
        tags = _send_parts(ask, key, upload, source, parts, check)
        _complete(ask, key, upload, tags, sum(part.size for part in parts))
    except BaseException:
        with contextlib.suppress(OSError):  # what stays is the bucket's to clear: setup has told it to
            ask("DELETE", key, query=[("uploadId", upload)]).read()
        raise


def _send_parts(ask: Ask, key: str, upload: str, source: BinaryIO, parts: list[Part], check: Check) -> list[str]:
    failed: list[Any] = []

    def one(number: int, part: Part) -> str:
        if failed:
            return ""
        check()
        body = os.pread(source.fileno(), part.size, part.offset)
        query = [("partNumber", str(number)), ("uploadId", upload)]
        answer = ask("PUT", key, query=query, body=body, payload=part.sha256, limit_s=PART_LIMIT_S)
        if answer.status != 200:
            raise StoreError(errno.EIO, f"{key}: part {number} is refused: {_text(answer)[:200]}")
        answer.read()
        return answer.headers.get("etag", "")

    with ThreadPoolExecutor(LANES) as pool:
        jobs = [pool.submit(one, number, part) for number, part in enumerate(parts, 1)]
        done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
        failed += [job for job in done if job.exception()]
        for job in jobs:
            job.cancel()
    for job in failed:
        job.result()
    return [job.result() for job in jobs]


def _complete(ask: Ask, key: str, upload: str, tags: list[str], size: int) -> None:
    lines = (f"<Part><PartNumber>{n}</PartNumber><ETag>{tag}</ETag></Part>" for n, tag in enumerate(tags, 1))
    body = f"<CompleteMultipartUpload>{''.join(lines)}</CompleteMultipartUpload>".encode()
    said = ""
    for _ in range(TRIES):
        answer = ask("POST", key, query=[("uploadId", upload)], body=body, limit_s=PART_LIMIT_S)
        said = _text(answer)
        if answer.status == 200 and "<CompleteMultipartUploadResult" in said:  # an error may come under 200 too
            return
        if answer.status == 404 and _stands(ask, key, size):  # done by a request whose answer was lost
            return
    raise StoreError(errno.EIO, f"{key}: the upload is not completed: {said[:200]}")


def _stands(ask: Ask, key: str, size: int) -> bool:
    answer = ask("HEAD", key)
    answer.read()
    return answer.status == 200 and answer.headers.get("content-length") == str(size)


def _text(answer: Answer) -> str:
    return answer.whole(64 << 10).decode(errors="replace")
