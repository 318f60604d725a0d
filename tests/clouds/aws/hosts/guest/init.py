"""The first process of a host: waits for the network, runs the user data once, and switches off when told.

Standard library only; it runs on the host's own Python. Exit codes: 42 powered off, 43 to start again.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

METADATA = "http://169.254.169.254/latest/"
SCRIPT = pathlib.Path("/var/lib/cloud/instance/scripts/part-001")
DONE = pathlib.Path("/var/lib/cloud/instance/sem-user-data")
LOG = pathlib.Path("/var/log/cloud-init-output.log")
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"

POWER_OFF, REBOOT, AT_ONCE = signal.SIGRTMIN + 4, signal.SIGRTMIN + 5, signal.SIGRTMIN + 6
WATCHED = {signal.SIGCHLD, POWER_OFF, REBOOT, AT_ONCE}
CODES = {POWER_OFF: 42, REBOOT: 43, AT_ONCE: 42}


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    told = json.loads(pathlib.Path("/run/guest/host.json").read_text())
    os.write(int(sys.argv[1]), b"+")
    os.close(int(sys.argv[1]))
    sys.stdin.readline()
    connect(told["address"])
    say(f"{told['name']} is up")
    console = None if DONE.exists() else run_user_data(told["path"])
    asked = wait()
    if asked != AT_ONCE:
        end_all(told["grace_s"])
        if console:
            console.join(1)  # its last words
    say("off")
    sys.exit(CODES[asked])


def say(what: str) -> None:
    print(f"[init] {what}", flush=True)


def connect(address: str) -> None:
    commands = f"""\
link set lo up
addr add {address}/32 dev eth0
link set eth0 up
route add 172.31.0.1 dev eth0
route add default via 172.31.0.1
"""
    subprocess.run(["/usr/sbin/ip", "-batch", "-"], input=commands, text=True, check=True, timeout=20)


def run_user_data(path: list[str]) -> threading.Thread | None:
    """As cloud-init: the script, once in the machine's life, its output on the console and in a file."""
    said = user_data()
    DONE.parent.mkdir(parents=True, exist_ok=True)
    DONE.touch()
    if not said:
        return None
    if not said.startswith(b"#!"):
        say("user data is not a script; nothing else is understood here")
        return None
    SCRIPT.parent.mkdir(parents=True, exist_ok=True)
    SCRIPT.write_bytes(said)
    SCRIPT.chmod(0o700)
    watching = threading.Thread(target=watch, args=(started([str(SCRIPT)], path),), daemon=True)
    watching.start()
    return watching


def user_data() -> bytes:
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = ask(urllib.request.Request(METADATA + "api/token", method="PUT", headers=ttl)).decode()
    wanted = {"X-aws-ec2-metadata-token": token}
    try:
        return ask(urllib.request.Request(METADATA + "user-data", headers=wanted))
    except urllib.error.HTTPError:
        return b""


def ask(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=10) as answer:
        body: bytes = answer.read()
    return body


def started(command: list[str], path: list[str]) -> subprocess.Popen[bytes]:
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    trusting = dict.fromkeys(("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), TRUSTED)
    return subprocess.Popen(
        command,
        cwd="/",
        env={"PATH": ":".join([*path, usual]), "LANG": "C.UTF-8", **trusting},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED),
    )


def watch(process: subprocess.Popen[bytes]) -> None:
    LOG.parent.mkdir(parents=True, exist_ok=True)
    assert process.stdout is not None
    with LOG.open("ab", buffering=0) as log:
        while True:
            said = os.read(process.stdout.fileno(), 65536)
            if not said:
                return
            os.write(1, said)
            log.write(said)


def wait() -> int:
    """Bury who dies, until somebody switches off; says how."""
    while True:
        got = signal.sigwait(WATCHED)
        if got != signal.SIGCHLD:
            return got
        bury()


def bury() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def end_all(grace_s: float) -> None:
    """Ask everybody to end, and wait a while for them."""
    say("shutting down")
    try:
        os.kill(-1, signal.SIGTERM)
    except ProcessLookupError:
        return
    until = time.monotonic() + grace_s
    while time.monotonic() < until:
        bury()
        if not [one for one in os.listdir("/proc") if one.isdigit() and one != "1"]:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    main()
