"""Takes the screenshots of the documentation: a real server, a real run, a headless Chromium.

Playwright and Chromium are in an environment of their own, never among the project's dependencies:

    python3 -m venv /tmp/shots && /tmp/shots/bin/pip install playwright==1.65.2 pillow==12.3.0
    /tmp/shots/bin/python docs/screenshots.py .venv/bin /tmp/shots/pictures

The first argument is the `bin` folder where `sojourn` is installed, the second where the pictures
go. Chromium is the one on PATH. `run-small.png` is the README's `docs/run.png`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PORT = 4299
API = f"http://127.0.0.1:{PORT}/api"
UI = f"http://127.0.0.1:{PORT}"
SCRIPT = """
import json, time

for step in range(1, 41):
    print(f"step {step} loss {2.3 * 0.93**step + 0.1 / step:.4f}", flush=True)
    time.sleep(0.1)
open("model.txt", "w").write("weights")
json.dump({"accuracy": 0.958, "loss": 0.126}, open("metrics.json", "w"))
"""
PARAMS = """
launch:
  command: python train.py
  deadline: 30m
  metrics:
    loss: 'loss ([0-9.]+)'
"""
BLOCKS = """
from blocks import LocalProvider, Store
store = Store(url="file:///srv/sojourn")
store.save("team", overwrite=True)
LocalProvider(store=store).save("workstation", overwrite=True)
"""
READY_S = 120.0
DRAWING_MS = 10_000  # the graph draws itself after the data is there


def main(programs: Path, pictures: Path) -> None:
    """Train once, and look at what Prefect shows of it."""
    pictures.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="screenshots-"))
    environment = _environment(home, programs)
    with _server(environment, home):
        _populate(home / "digits", environment, programs)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800}, device_scale_factor=1)
            for name, path, height in _pages():
                _take(page, UI + path, pictures / f"{name}.png", height)
            _take_artifacts(page, pictures / "run-artifacts.png")
            browser.close()
    graph = Image.open(pictures / "run.png").crop((256, 0, 1280, 512))
    graph.quantize(64).save(pictures / "run-small.png", optimize=True)
    shutil.rmtree(home, ignore_errors=True)


def _environment(home: Path, programs: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "SOJOURN_HOME": str(home / "data"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": API,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


@contextmanager
def _server(environment: dict[str, str], home: Path) -> Iterator[None]:
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PORT)]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + READY_S
        while not _answers():
            assert time.monotonic() < end, (home / "server.log").read_text()
            time.sleep(0.5)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers() -> bool:
    try:
        with urllib.request.urlopen(f"{API}/health", timeout=1):
            return True
    except OSError:
        return False


def _populate(project: Path, environment: dict[str, str], programs: Path) -> None:
    project.mkdir()
    (project / "train.py").write_text(SCRIPT)
    (project / "params.yaml").write_text(PARAMS)
    for words in (
        ["prefect", "block", "register", "-m", "blocks"],
        ["python", "-c", BLOCKS],
        ["sojourn", "deploy"],
        ["sojourn", "train", "--quiet"],
    ):
        subprocess.run([programs / words[0], *words[1:]], cwd=project, env=environment, check=True)


def _pages() -> Iterator[tuple[str, str, int]]:
    run = _ask("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})[0]["id"]
    manual = next(one["id"] for one in _ask("/deployments/filter", {}) if one["name"] == "manual")
    report = next(one for one in _ask("/artifacts/filter", {}) if (one["key"] or "").endswith("-report"))
    yield "run", f"/runs/flow-run/{run}", 800
    yield "report", f"/artifacts/artifact/{report['id']}", 1200
    yield "deployments", "/deployments", 700
    yield "form", f"/deployments/deployment/{manual}/run", 3400
    yield "block", "/blocks/catalog/sojourn-local-provider", 900
    yield "block-form", "/blocks/catalog/sojourn-local-provider/create", 900


def _ask(path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(API + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def _take(page: Page, url: str, picture: Path, height: int) -> None:
    page.set_viewport_size({"width": 1280, "height": height})
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(DRAWING_MS)
    page.screenshot(path=picture)


def _take_artifacts(page: Page, picture: Path) -> None:
    run = _ask("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})[0]["id"]
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{UI}/runs/flow-run/{run}")
    page.get_by_text("Artifacts", exact=True).first.click()
    page.wait_for_timeout(DRAWING_MS)
    page.screenshot(path=picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
