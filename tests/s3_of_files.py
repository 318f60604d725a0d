"""A directory served as a bucket of S3, which counts requests and takes its time for each, as a cloud does.

It holds what a store on files holds under the same keys, so tens of thousands of objects are there as soon as their
files are. It knows the requests that Sojourn makes and nothing else, and believes every signature; whether those
requests are S3's own is the business of tests against moto and a real gateway.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET = "files"
REGION = "eu-west-1"
PAGE = 1000


class FilesAsS3:
    """The bucket `files`, and what was asked of it."""

    def __init__(self, root: Path, delay_s: float = 0.0) -> None:
        self.root = root
        self.delay_s = delay_s
        self.calls: list[tuple[str, str]] = []  # verb and key or prefix
        self.most = self._now = 0  # requests on their way at once
        self._counting = threading.Lock()
        self._lock = threading.Lock()
        self._keys: list[str] = []
        self.look()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.files = self
        self.url = f"s3://{BUCKET}"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def look(self) -> None:
        """Find the files that were put there otherwise."""
        files = (path for path in self.root.rglob("*") if path.is_file())
        self._keys = sorted(path.relative_to(self.root).as_posix() for path in files)

    def reset(self) -> None:
        """Count from here."""
        self.calls.clear()
        self.most = 0

    @property
    def requests(self) -> int:
        """How many there were."""
        return len(self.calls)

    def by_verb(self) -> dict[str, int]:
        """How many of each."""
        return dict(Counter(verb for verb, _ in self.calls))

    def close(self) -> None:
        """Take it away; the files stay."""
        self._server.shutdown()
        self._server.server_close()

    # -- what S3 does --

    def counted(self, verb: str, about: str) -> None:
        """One more request, which takes as long as they do."""
        with self._counting:
            self.calls.append((verb, about))
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self.delay_s)
        with self._counting:
            self._now -= 1

    def body(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def written(self, key: str) -> float:
        return (self.root / key).stat().st_mtime

    def put(self, key: str, body: bytes, only_new: bool) -> bool:
        """Whether it was written."""
        path = self.root / key
        with self._lock:
            there = path.exists()
            if there and only_new:
                return False
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
            if not there:
                insort(self._keys, key)
            return True

    def delete(self, keys: list[str]) -> None:
        with self._lock:
            for key in keys:
                at = bisect_left(self._keys, key)
                if at < len(self._keys) and self._keys[at] == key:
                    del self._keys[at]
                    (self.root / key).unlink(missing_ok=True)

    def listing(self, prefix: str, delimiter: str, after: str) -> tuple[list[str], list[str], str | None]:
        """A page of keys and common prefixes, and from where the next one goes on."""
        keys: list[str] = []
        folders: list[str] = []
        with self._lock:
            at = bisect_left(self._keys, max(prefix, after))
            while at < len(self._keys) and (key := self._keys[at]).startswith(prefix):
                if len(keys) + len(folders) == PAGE:
                    return keys, folders, key
                rest, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if found:
                    folders.append(f"{prefix}{rest}{delimiter}")
                    at = bisect_left(self._keys, f"{prefix}{rest}{chr(ord(delimiter) + 1)}")
                else:
                    keys.append(key)
                    at += 1
        return keys, folders, None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    files: FilesAsS3

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        key, query = self._asked()
        if key:
            self._object(key, "get")
        elif "versions" in query:
            self.server.files.counted("list", query.get("prefix", ""))
            self._xml("ListVersionsResult", "<IsTruncated>false</IsTruncated>")
        else:
            self._list(query)

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        if key:
            self._object(key, "head")
        else:
            self.server.files.counted("head", "")
            self._answer(200, {"x-amz-bucket-region": REGION})

    def do_PUT(self) -> None:
        key, _ = self._asked()
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        only_new = self.headers.get("if-none-match") == "*"
        self.server.files.counted("create" if only_new else "put", key)
        if self.server.files.put(key, body, only_new):
            self._answer(200, {"ETag": _tag(body)})
        else:
            self._answer(412)

    def do_DELETE(self) -> None:
        key, _ = self._asked()
        self.server.files.counted("delete", key)
        self.server.files.delete([key])
        self._answer(204)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        if action := parse_qs(body).get("Action"):  # an account that rents nothing anywhere
            self._xml(f"{action[0]}Response", "<regionInfo></regionInfo>", "http://ec2.amazonaws.com/doc/2016-11-15/")
            return
        keys = [unescape(key, {"&quot;": '"', "&apos;": "'"}) for key in re.findall(r"<Key>([^<]*)</Key>", body)]
        self.server.files.counted("delete", f"{len(keys)} objects")
        self.server.files.delete(keys)
        self._xml("DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys))

    def _asked(self) -> tuple[str, dict[str, str]]:
        place = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(place.query, keep_blank_values=True).items()}
        return unquote(place.path).removeprefix(f"/{BUCKET}").lstrip("/"), query

    def _object(self, key: str, verb: str) -> None:
        files = self.server.files
        files.counted(verb, key)
        body = files.body(key)
        if body is None:
            text = f"<Error><Code>NoSuchKey</Code><Key>{escape(key)}</Key></Error>".encode()
            self._answer(404, {"Content-Type": "application/xml"}, text if verb == "get" else b"")
            return
        headers = {"ETag": _tag(body), "Last-Modified": formatdate(files.written(key), usegmt=True)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range") or "")
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), len(body) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            self._answer(206, headers, body[first : last + 1])
        else:
            self._answer(200, headers, body, len(body))

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        files = self.server.files
        files.counted("list", prefix)
        after = f"{query['start-after']}\0" if query.get("start-after") else ""
        keys, folders, following = files.listing(prefix, delimiter, query.get("continuation-token", after))
        parts = [f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"]
        parts.append(f"<KeyCount>{len(keys) + len(folders)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>")
        parts.append(f"<IsTruncated>{'true' if following else 'false'}</IsTruncated>")
        if following:
            parts.append(f"<NextContinuationToken>{escape(following)}</NextContinuationToken>")
        for key in keys:
            state = (files.root / key).stat()
            at = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(state.st_mtime))
            told = f"<Key>{escape(key)}</Key><LastModified>{at}</LastModified><Size>{state.st_size}</Size>"
            parts.append(f"<Contents>{told}<ETag>&quot;0&quot;</ETag></Contents>")
        parts += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        self._xml("ListBucketResult", "".join(parts))

    def _xml(self, name: str, text: str, space: str = "http://s3.amazonaws.com/doc/2006-03-01/") -> None:
        whole = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{space}">{text}</{name}>'
        self._answer(200, {"Content-Type": "application/xml"}, whole.encode())

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", size: int = 0) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size or len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


@contextmanager
def files_as_s3(root: Path, delay_s: float = 0.0) -> Iterator[FilesAsS3]:
    """A directory served so, for as long as the block lasts."""
    served = FilesAsS3(root, delay_s)
    try:
        yield served
    finally:
        served.close()
