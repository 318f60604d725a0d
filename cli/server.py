"""Finds a Prefect server for a run, starting one in the background where none is configured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

PROBE_S = 1.0
START_LIMIT_S = 15.0
LOCAL_API = "http://127.0.0.1:4200/api"


def find_server() -> str | None:
    """The URL of a healthy API: the configured one, a local one, or one started now; else None."""
    configured = os.environ.get("PREFECT_API_URL") or _in_profile()
    url = configured or LOCAL_API
    if _healthy(url):
        return url
    return url if configured is None and _start() and _healthy_within(url, START_LIMIT_S) else None


def describe_server() -> tuple[bool, str]:
    """Whether a server answers, and a sentence about it. Starts nothing."""
    configured = os.environ.get("PREFECT_API_URL") or _in_profile()
    url = configured or LOCAL_API
    if _healthy(url):
        return True, f"a server answers at {url}"
    if configured:
        return False, f"{url} is configured and does not answer: runs go on without a record in Prefect"
    return False, "no server runs; the first run starts one in the background"


def _in_profile() -> str | None:
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PROBE_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _start() -> bool:
    """Start `prefect server` detached; it stays for the runs to come."""
    command = [sys.executable, "-m", "prefect", "server", "start", "--background"]
    environment = {**os.environ, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=START_LIMIT_S, env=environment)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _healthy_within(url: str, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not _healthy(url):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
