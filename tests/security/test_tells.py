"""A script that tells its secrets in every way it has: nothing of them is in what anybody is shown."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_world import World

pytestmark = pytest.mark.local
VALUE = 'hunter2/"pass"+word-9Zq'
TELLS = """
    import base64, json, os, sys, urllib.parse
    secret = os.environ["API_KEY"]
    print("plain", secret)
    print({"key": secret}, json.dumps({"key": secret}), urllib.parse.quote(secret, safe=""))
    print("Authorization: Basic", base64.b64encode(f"me:{secret}".encode()).decode())
    for letter in secret + "\\n":
        sys.stdout.write(letter)
        sys.stdout.flush()
    os.makedirs("outputs", exist_ok=True)
    told = {"loss": 0.25, "model": secret, "url": "https://me:" + secret + "@host", secret: 1.5}
    json.dump(told, open("metrics.json", "w"))
    open("scores.csv", "w").write("step,acc," + secret.replace(",", "") + "\\n1,0.5,2\\n2,0.75,3\\n")
    os.makedirs(f"outputs/{base64.urlsafe_b64encode(secret.encode()).decode()}")
    open(f"outputs/{base64.urlsafe_b64encode(secret.encode()).decode()}/model.pt", "w").write("weights")
    open("outputs/fine.txt", "w").write(secret)
    raise RuntimeError(f"no login with {secret}")
"""


def forms() -> set[str]:
    raw = VALUE.encode()
    inner = base64.b64encode(b"me:" + raw).decode()[6:-4]
    quoted = urllib.parse.quote(VALUE, safe="")
    return {VALUE, json.dumps(VALUE)[1:-1], json.dumps(json.dumps(VALUE)[1:-1])[1:-1], quoted, inner, VALUE[8:]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.environment["API_KEY"] = VALUE
    yield made
    assert not made.clean()


def test_nothing_that_is_told_of_a_run_holds_its_secret(world: World) -> None:
    world.script(TELLS)
    done = world.train("--secret", "API_KEY", "--", "python", "train.py")
    assert done.returncode == 1 and "RuntimeError: no login with ***" in done.stdout + done.stderr, done.stderr
    shown = [done.stdout, done.stderr]
    for words in (("show", "last"), ("show", "last", "--json"), ("logs", "last"), ("runs", "--json")):
        shown.append(world.sojourn(*words).stdout)
    store = world.home / "store"
    told = {path: path.read_bytes().decode(errors="replace") for path in store.rglob("*") if is_record(path)}
    assert len(told) > 10
    for form in forms():
        assert not any(form in text for text in shown), form
        assert [path for path, text in told.items() if form in text] == [], form
        assert not any(form in str(path) for path in store.rglob("*")), form

    report = world.show()
    assert report["metrics"]["loss"] == 0.25 and report["metrics"]["model"] == "***"
    assert report["metrics"]["url"] == "https://me:***@host" and report["metrics"]["***"] == 1.5
    assert (
        "outputs/***/model.pt could not be stored: its name holds a secret"
        in (report["outcome"]["message"] or "") + done.stdout
    )


def is_record(path: Path) -> bool:
    """Everything but the files of the script and of its results, which are the user's own."""
    return path.is_file() and "blob" not in path.parts and "bundle" not in path.name


def test_results_come_home_as_they_were_written(world: World) -> None:
    world.script(TELLS.replace("raise", "print('done')  # raise"))
    done = world.train("--secret", "API_KEY", "--", "python", "train.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((world.project / "metrics.json").read_text())["model"] == VALUE
    assert (world.project / "outputs/fine.txt").read_text() == VALUE
    assert [path.name for path in (world.project / "outputs").iterdir()] == ["fine.txt"]


def test_an_ordinary_value_is_not_hidden_and_the_plan_says_so(world: World) -> None:
    world.script("print('flag is true, mode dev')\n")
    world.environment |= {"FLAG": "true", "MODE": "dev"}
    secrets = [word for name in ("FLAG", "MODE", "API_KEY") for word in ("--secret", name)]
    planned = world.sojourn("plan", *secrets, "--", "python", "train.py")
    assert planned.returncode == 0, planned.stderr
    (line,) = [line for line in planned.stdout.splitlines() if "not hidden in the log" in line]
    assert "FLAG, MODE" in line and "API_KEY" not in line
    done = world.train("--secret", "FLAG", "--secret", "MODE", "--", "python", "train.py")
    assert done.returncode == 0 and "flag is true, mode dev" in done.stdout
