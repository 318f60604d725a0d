"""What a script tries against the word of its own machine: it runs as the same user as the agent beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cli_world import World
from security.hostile import Home

from sojourn.protocol import Exit, Hello
from sojourn.results.collect import collect
from sojourn.store.mailbox import Mailbox

FORGES = """
    import glob, hashlib, json, os, sys, time
    [folder] = glob.glob({home!r} + "/store/machine/*/*/1/0")
    body = b"evil"
    sha = hashlib.sha256(body).hexdigest()
    os.makedirs(folder + "/blob", exist_ok=True)
    os.makedirs(folder + "/out", exist_ok=True)
    open(f"{{folder}}/blob/{{sha}}", "wb").write(body)
    source = folder[folder.index("/store/") + 7:] + "/blob/" + sha
    file = dict(path="evil.txt", hash="sha256:" + sha, size=4, mode=0o755, source=source)
    json.dump(dict(sequence=99, at=0.0, files=[file]), open(folder + "/out/00000099.json", "w"))
    hello = json.load(open(folder + "/hello.json"))
    json.dump({{**hello, "seal": hashlib.sha256(b"mine").hexdigest()}}, open(folder + "/hello.json", "w"))
    word = dict(node=0, reason="exited", exit_code=0, ended_at=time.time(), output=99, seal="mine")
    open("result.txt", "w").write("honest")
    json.dump(word, open(folder + "/exit.json", "w"))
    time.sleep(2)
    sys.exit({code})
"""
TOLD = "something else on this machine, most likely the script, had written its last words for it"


@pytest.mark.parametrize("code", [5, 0])
def test_last_words_and_a_commit_that_the_script_wrote_itself_end_no_run_and_bring_nothing_home(
    tmp_path: Path, code: int
) -> None:
    world = World(tmp_path)
    world.script(FORGES.format(home=str(world.home), code=code))
    done = world.train()
    shown = world.show()
    outcome = shown["outcome"]
    assert (done.returncode, outcome["exit_code"]) == (1 if code else 0, code), done.stdout + done.stderr
    assert outcome["ended_at"] - outcome["started_at"] > 1.5, "it was followed to its own end"
    assert TOLD in outcome["message"] + done.stdout
    assert not list(world.project.rglob("evil.txt"))
    assert len(list(world.project.rglob("result.txt"))) == 1


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def _word(**more: object) -> Exit:
    return Exit.model_validate({"node": 0, "reason": "exited", "exit_code": 0, "ended_at": 1.0, **more})


def test_a_commit_after_the_machine_s_last_is_no_result(home: Home) -> None:
    home.commit(home.entry("honest.txt"), sequence=2)
    home.commit(home.entry("evil.txt"), sequence=99)

    def found(*exits: Exit) -> list[str]:
        return [entry.path for entry in collect(home.mailbox, 1, 1, exits=exits).files]

    assert found(_word(output=2, seal="x")) == ["honest.txt"]
    assert found(_word(output=None, seal="x")) == [], "it never committed anything"
    assert found(_word(output=2)) == ["evil.txt"], "earlier versions' machines say it without a seal"
    assert found(_word(output=1, seal="x", lost=("b.txt",))) == ["evil.txt"], "the answer to its last commit was lost"


def test_only_the_agent_that_said_hello_has_the_last_word(home: Home) -> None:
    box: Mailbox = home.mailbox
    seal = hashlib.sha256(b"agent").hexdigest()
    hello = Hello(name="n", node=0, address="", port=1, clock=0.0, cpus=1, memory=1, python="3", version="1", seal=seal)
    folder = f"{box.machine}/1/0"

    def said(word: bytes, noted: str | None = None) -> bool:
        box.store.put(f"{folder}/exit.json", word)
        return box.exit(1, 0, noted) is not None

    assert said(_word().to_bytes()), "no hello, or one of an earlier version"
    box.store.put(f"{folder}/hello.json", hello.to_bytes())
    for forged in (_word().to_bytes(), _word(seal="guess").to_bytes(), _word(seal=seal).to_bytes(), b"garbage", b""):
        assert not said(forged) and not said(forged, seal)
    assert said(_word(seal="agent").to_bytes()) and said(_word(seal="agent").to_bytes(), seal)
    box.store.put(f"{folder}/hello.json", hello.model_copy(update={"seal": None}).to_bytes())
    assert not said(_word().to_bytes(), seal), "what was noted before the script began counts"
