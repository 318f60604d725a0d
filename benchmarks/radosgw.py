"""An S3 service of its own for a measurement: Ceph's gateway on one object store in memory, on this host alone.

Debian's packages ceph-mon, ceph-osd and radosgw must be installed. Everything lies in one folder,
listens on 127.0.0.1, and ends with the block.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "sojourn-benchmark"
START_LIMIT_S = 120.0
END_LIMIT_S = 20.0
CONFIG = """[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon}
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
mon max pg per osd = 1000
"""


@contextmanager
def radosgw(folder: Path) -> Iterator[dict[str, str]]:
    """Run the service with an empty bucket; the variables that lead clients to it."""
    ports = {name: _free_port() for name in ("mon", "rgw")}
    config, fsid = folder / "ceph.conf", str(uuid.uuid4())
    config.write_text(CONFIG.format(folder=folder, fsid=fsid, mon=ports["mon"]))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    started: list[subprocess.Popen[bytes]] = []
    common = ("-c", str(config), "--setuser", "root", "--setgroup", "root")

    def start(program: str, *words: str) -> None:
        log = (folder / f"{program}.out").open("wb")
        started.append(subprocess.Popen([program, *common, "-f", *words], stdout=log, stderr=log))

    try:
        _run("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{ports['mon']}]", "--fsid", fsid,
             str(folder / "monmap"))  # fmt: skip
        _run("ceph-mon", *common, "-i", "a", "--mkfs", "--monmap", str(folder / "monmap"))
        start("ceph-mon", "-i", "a")
        store = str(uuid.uuid4())
        _run("ceph", "-c", str(config), "--connect-timeout", "60", "osd", "new", store)
        _run("ceph-osd", *common, "-i", "0", "--mkfs", "--osd-uuid", store)
        start("ceph-osd", "-i", "0", "--osd-uuid", store)
        start("radosgw", "-n", "client.rgw", f"--rgw-frontends=beast endpoint=127.0.0.1:{ports['rgw']}")
        _until_it_listens(ports["rgw"])
        keys = ("--access-key", "benchmark", "--secret", "benchmark")
        _run("radosgw-admin", "-c", str(config), "user", "create", "--uid", "one", "--display-name", "one", *keys)
        variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['rgw']}",
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{ports['rgw']}",  # s5cmd's own name for it
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        _make_bucket(variables)
        yield variables
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _make_bucket(variables: dict[str, str]) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_DEFAULT_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=BUCKET)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, timeout=START_LIMIT_S, capture_output=True)


def _until_it_listens(port: int) -> None:
    until = time.monotonic() + START_LIMIT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > until:
            raise SystemExit("radosgw did not start")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
