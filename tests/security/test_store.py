"""What a store tries that somebody else fills: one that a cloned project's params.yaml names, or a team's."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_world import World
from made_once import made_once

from cli import main
from cli.progress import SilentListener
from sojourn.errors import SpecError, UnreadableError
from sojourn.plan.planning import Plan
from sojourn.providers.local import LocalProvider
from sojourn.run import planned
from sojourn.run.closed_runs import mark_open
from sojourn.run.journey import Journey, bring_home
from sojourn.run.runs import all_mailboxes, plan_of
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store


class Done(NamedTuple):
    """What a command said."""

    code: int
    out: str


Typed = Callable[..., Done]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run that ended well and left two files."""

    def make(folder: Path) -> None:
        folder.mkdir()
        world = World(folder)
        world.script("open('.bash_login', 'w').write('evil')\nopen('a.txt', 'w').write('result')")
        done = world.train()
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.move(world.home / "store", folder / "store")

    return made_once(tmp_path_factory, "trained", make) / "store"


class Attack:
    """A store of somebody else's with a run that nobody brought home, whose plan names the victim's home."""

    def __init__(self, folder: Path, victim: Path) -> None:
        self.folder = folder
        self.store = Store(folder.as_uri())
        (self.mailbox,) = all_mailboxes(self.store)
        self.run = self.mailbox.run
        self.victim = victim
        self.says(directory=str(victim), host="the-attackers")
        (folder / self.mailbox.control / "report.json").unlink()
        mark_open(self.store, self.mailbox.project, self.run)

    def says(self, **more: Any) -> None:
        """Change what the plan says."""
        plan = self.folder / self.mailbox.control / "plan.json"
        plan.write_text(json.dumps({**json.loads(plan.read_text()), "store": self.store.url, **more}))

    def no_machine_was_made(self) -> None:
        """By its ledger; of a run whose machines are processes of another host a sweep says nothing."""
        for entry in (self.folder / self.mailbox.control / "ledger").iterdir():
            entry.write_text(entry.read_text().replace('"created"', '"of-a-later-version"'))

    def has_not_begun(self) -> None:
        """Nothing of it but its plan, which would run a command where `attach` is typed."""
        shutil.rmtree(self.folder / self.mailbox.control / "ledger")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "victim")


@pytest.fixture
def attack(trained: Path, tmp_path: Path, world: World) -> Attack:
    made = Attack(Path(shutil.copytree(trained, tmp_path / "attackers")), world.user)
    (world.project / "params.yaml").write_text(f"launch:\n  store: {made.store.url}\n")
    return made


@pytest.fixture
def typed(world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """`sojourn WORDS` in this process, in the cloned project."""
    for name, value in {**world.environment, "PREFECT_API_URL": "http://127.0.0.1:9/api"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.project)
    threshold = gc.get_threshold()

    def typed(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["sojourn", *words])
        with pytest.raises(SystemExit) as left:
            main._run()
        said = capfd.readouterr()
        return Done(int(left.value.code or 0), said.out + said.err)

    yield typed
    gc.unfreeze()
    gc.set_threshold(*threshold)


def swept(world: World, *words: str) -> Done:
    """`sojourn reap WORDS` as a process of its own, which asks no server that another test has started."""
    done = world.sojourn("reap", *words, PREFECT_API_URL="http://127.0.0.1:9/api")
    return Done(done.returncode, done.stdout + done.stderr)


def nothing_came(world: World) -> bool:
    """Neither the victim's home nor the project has a file that was not there."""
    return not list(world.user.iterdir()) and [one.name for one in world.project.iterdir()] == ["params.yaml"]


def test_a_sweep_leaves_a_store_alone_that_only_a_params_yaml_names(attack: Attack, world: World) -> None:
    attack.no_machine_was_made()
    done = swept(world)
    assert "only the params.yaml here names this store" in done.out and f"--store {attack.store.url}" in done.out
    assert attack.run not in done.out and nothing_came(world)
    assert not attack.store.exists(f"{attack.mailbox.control}/report.json")


def test_a_sweep_that_is_told_to_look_there_closes_the_run_and_writes_nothing(
    attack: Attack, world: World, typed: Typed
) -> None:
    attack.no_machine_was_made()
    done = swept(world, "--store", attack.store.url)
    assert done.code == 0 and "closed" in done.out and f"sojourn pull {attack.run} --to DIR" in done.out
    assert nothing_came(world)
    assert typed("pull", attack.run, "--to", "there").code == 0
    assert (world.project / "there/a.txt").read_text() == "result"


@pytest.mark.parametrize("verb", ["attach", "stop", "exec"])
def test_the_last_run_of_such_a_store_is_not_meant_by_last(
    attack: Attack, world: World, typed: Typed, verb: str
) -> None:
    words = {"attach": ("attach",), "stop": ("stop", "last"), "exec": ("exec", "last", "--", "true")}[verb]
    done = typed(*words)
    assert done.code == 2 and "only the params.yaml here names this store" in done.out
    assert "there is no run yet" in done.out and nothing_came(world)


def test_a_run_that_another_host_planned_is_brought_to_its_end_and_its_results_stay_in_the_store(
    attack: Attack, world: World, typed: Typed
) -> None:
    done = typed("attach", attack.run, "--take-over", "-q")
    assert done.code == 0 and "was planned on the-attackers and not here" in done.out
    assert f"sojourn pull {attack.run} --to DIR" in done.out and nothing_came(world)


def test_its_results_go_nowhere_that_its_plan_names(attack: Attack, world: World, typed: Typed) -> None:
    for words in (("pull", attack.run), ("pull", attack.run, "--apply")):
        done = typed(*words)
        assert done.code == 2 and "was planned on the-attackers" in done.out and "--to DIR" in done.out
    assert nothing_came(world)


def test_a_command_that_another_host_planned_is_not_started_without_being_told_so(
    attack: Attack, world: World, typed: Typed, tmp_path: Path
) -> None:
    attack.has_not_begun()
    done = typed("attach", attack.run, "--take-over")
    assert done.code == 2 and "has not started; to go on with it would run python train.py" in done.out
    assert f"sojourn attach {attack.run} --start" in done.out and nothing_came(world)
    assert not LocalProvider(world.home).leases()


def test_files_of_a_directory_that_another_s_plan_names_are_not_sent(
    attack: Attack, world: World, typed: Typed
) -> None:
    attack.has_not_begun()
    (world.user / "id_rsa.txt").write_text("private")
    for name in ("bundle.json", "inputs.json"):
        (attack.folder / attack.mailbox.control / name).unlink()
    before = set(attack.folder.rglob("blob/*"))
    done = typed("attach", attack.run, "--take-over", "--start")
    assert done.code == 2 and "what it needs from there is not sent" in done.out
    assert set(attack.folder.rglob("blob/*")) == before


def test_a_ledger_that_says_more_than_it_did_starts_no_machine(attack: Attack, world: World) -> None:
    ledger = attack.folder / attack.mailbox.control / "ledger"
    marker = world.root / "started"
    for entry in sorted(ledger.iterdir()):
        body = json.loads(entry.read_text())
        if body["kind"] == "intent":
            body["body"]["request"] = {"program": ["touch", str(marker)], "argv": ["touch", str(marker)]}
        if body["kind"] not in ("opened", "takeover", "intent"):
            entry.unlink()
        else:
            entry.write_text(json.dumps(body))
    shutil.rmtree(attack.folder / attack.mailbox.machine)
    plan = plan_of(Mailbox(attack.store, attack.mailbox.project, attack.run))
    journey = Journey(plan, attack.mailbox, LocalProvider(world.home), world.home, SilentListener())
    with pytest.raises(SpecError, match="to go on with it would start machines"):
        bring_home(journey, take_over=True)
    assert not marker.exists() and not LocalProvider(world.home).leases()


@pytest.mark.parametrize("more", [{"run": "../../../victim/user"}, {"project": "other"}, {"run": "calm-panda-a2e3"}])
def test_a_plan_that_says_it_is_another_run_s_is_not_read(attack: Attack, world: World, more: dict[str, str]) -> None:
    """A folder is removed, and results are laid, by the name that a plan gives."""
    attack.says(**more)
    with pytest.raises(UnreadableError, match="plan.json cannot be read: it is of"):
        plan_of(Mailbox(attack.store, attack.mailbox.project, attack.run))


def test_what_this_host_planned_is_kept_outside_of_every_store_and_says_which(attack: Attack, tmp_path: Path) -> None:
    home = tmp_path / "data"
    plan = plan_of(attack.mailbox)
    assert not planned.is_ours(home, plan, attack.store)
    planned.note(home, plan)
    assert planned.is_ours(home, plan, attack.store)
    (file,) = (home / planned.FOLDER).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    other = plan.model_copy(update={"directory": "/elsewhere"})
    assert not planned.is_ours(home, other, attack.store)
    assert not planned.is_ours(home, plan, Store((tmp_path / "other").as_uri()))
    file.write_text("[garbage")
    assert not planned.is_ours(home, plan, attack.store)
    planned.forget(home, plan.run)
    assert not file.exists()


def test_a_store_that_this_host_has_planned_into_is_looked_at(attack: Attack, world: World) -> None:
    (world.home / "stores.json").write_text(json.dumps({"stores": [attack.store.url]}))
    attack.no_machine_was_made()
    done = swept(world, "--dry-run")
    assert "only the params.yaml" not in done.out and f"would close {attack.run}" in " ".join(done.out.split())


def test_a_plan_is_written_down_before_it_is_in_the_store(world: World, attack: Attack, tmp_path: Path) -> None:
    plan: Plan = plan_of(attack.mailbox)
    with pytest.raises(SpecError, match="exists already"):
        Journey.begin(plan, attack.mailbox, LocalProvider(world.home), world.home, SilentListener())
