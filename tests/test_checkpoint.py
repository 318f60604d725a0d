"""Which checkpoint of a run is its newest complete one, read from what agents write into a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sojourn.errors import SpecError
from sojourn.names import LeaseName
from sojourn.plan import checkpoint
from sojourn.plan.command import from_words, with_arguments
from sojourn.protocol import Bundle, Checkpoint, Command, Manifest, Order, Outcome
from sojourn.records import FileEntry, Record
from sojourn.spec.launch import Launch, make_launch, resuming
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

RUN = "calm-panda-a2e3"
NOW = 1_800_000_000.0


class Run:
    """A run in a store, written as its orchestrator and agents would."""

    def __init__(self, folder: Path) -> None:
        self.mailbox = Mailbox(Store(folder.as_uri()), "digits", RUN)
        plan = {"deadline_at": NOW + 60.0, "launch": {"grace": 60.0}}
        self.mailbox.store.put(f"{self.mailbox.control}/plan.json", json.dumps(plan).encode())

    def order(self, attempt: int, *nodes: int) -> None:
        """The order of an attempt, its machines in rank order."""
        lease = LeaseName(RUN, attempt)
        order = Order(
            run=RUN, project="digits", attempt=attempt, nodes=tuple(lease.machine(node) for node in nodes),
            master_address="127.0.0.1", master_port=1, command=Command(argv=("python", "train.py")), deadline_at=0.0,
            bundle=Bundle(files=(), listing=(), directory="."), grace_s=1.0,
        )  # fmt: skip
        self.mailbox.post_order(order)

    def commit(self, attempt: int, node: int, sequence: int, *paths: str) -> None:
        """A node's manifest of one checkpoint; each file's blob is in the store."""
        files = []
        for path in paths:
            name = path.replace("/", "+")
            source = f"{self.mailbox.machine}/{attempt}/{node}/blob/{attempt}-{node}-{sequence}-{name}"
            self.mailbox.store.put(source, b"x")
            files.append(FileEntry(path=path, hash="sha256:0", size=1, source=source))
        self._put(attempt, node, "ckpt", sequence, Manifest(sequence=sequence, at=100.0 + sequence, files=tuple(files)))

    def complete(self, attempt: int, node: int, sequence: int) -> None:
        """Rank 0's word that all nodes have committed."""
        self._put(attempt, node, "commit", sequence, Manifest(sequence=sequence, at=0.0, files=()))

    def _put(self, attempt: int, node: int, what: str, sequence: int, record: Record) -> None:
        key = f"{self.mailbox.machine}/{attempt}/{node}/{what}/{sequence:08d}.json"
        self.mailbox.store.put(key, record.to_bytes())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "store")


def sources(run: Run) -> dict[str, str]:
    """The newest checkpoint's files, each as `attempt-node-sequence`."""
    found = checkpoint.newest(run.mailbox)
    assert found is not None
    return {
        entry.path: entry.source.rpartition("/")[2].removesuffix(f"-{entry.path.replace('/', '+')}")
        for entry in found.files
    }


def test_a_checkpoint_that_not_every_node_finished_is_passed_over(run: Run) -> None:
    run.order(1, 0, 1)
    for sequence in (1, 2):
        run.commit(1, 0, sequence, "a.pt")
    run.commit(1, 1, 1, "b.pt")
    run.complete(1, 0, 1)

    assert sources(run) == {"a.pt": "1-0-1", "b.pt": "1-1-1"}


def test_rank_0_has_the_commits_and_the_last_word_wherever_its_node_is(run: Run) -> None:
    run.order(1, 2, 0, 1)
    for node in (0, 1, 2):
        run.commit(1, node, 3, "same.pt", f"{node}.pt")
    run.complete(1, 2, 3)

    assert sources(run) == {"same.pt": "1-2-3", "0.pt": "1-0-3", "1.pt": "1-1-3", "2.pt": "1-2-3"}


def test_an_attempt_that_left_none_falls_back_on_the_one_before(run: Run) -> None:
    run.order(1, 0)
    run.commit(1, 0, 7, "a.pt")
    run.complete(1, 0, 7)
    run.order(2, 0)
    run.commit(2, 0, 1, "a.pt")

    assert sources(run) == {"a.pt": "1-0-7"}


def test_what_one_node_removed_of_a_restored_checkpoint_was_rotated_away_and_does_not_come_back(run: Run) -> None:
    run.order(1, 0, 1)
    for node, paths in ((0, ("out/checkpoint-16/a.pt",)), (1, ("out/checkpoint-16/b.pt",))):
        run.commit(1, node, 1, *paths)
        manifest = run.mailbox.manifest(1, node, "ckpt", 1)
        assert manifest is not None
        held = ("shared.pt", "out/checkpoint-8/b.pt") if node else ("shared.pt",)
        carried = [FileEntry(path=path, hash="", size=1, source=f"machine/digits/earlier/{path}") for path in held]
        body = manifest.model_copy(update={"files": (*manifest.files, *carried)}).to_bytes()
        run.mailbox.store.put(f"{run.mailbox.machine}/1/{node}/ckpt/00000001.json", body)
    run.complete(1, 0, 1)

    assert set(sources(run)) == {"out/checkpoint-16/a.pt", "out/checkpoint-16/b.pt", "shared.pt"}


def test_a_directory_that_rank_0_did_not_finish_is_not_restored_by_halves_from_another_node(run: Run) -> None:
    run.order(1, 0, 1)
    run.commit(1, 0, 1, "out/checkpoint-8/a.pt")
    run.commit(1, 1, 1, "out/checkpoint-8/b.pt", "out/checkpoint-16/b.pt", "own/step_3/b.pt", "plain.pt")
    run.complete(1, 0, 1)

    assert set(sources(run)) == {
        "out/checkpoint-8/a.pt", "out/checkpoint-8/b.pt", "own/step_3/b.pt", "plain.pt",
    }  # fmt: skip


def test_folders_that_a_library_would_take_for_newer_stay_and_are_named(run: Run, tmp_path: Path) -> None:
    run.order(1, 0)
    run.commit(1, 0, 1, "out/checkpoint-8/model.pt", "out/checkpoint-8/trainer_state.json", "best.pt")
    run.complete(1, 0, 1)
    found = checkpoint.newest(run.mailbox)
    assert found is not None
    for name in ("out/checkpoint-4", "out/checkpoint-8", "out/checkpoint-16", "out/other-99", "checkpoint-99"):
        (tmp_path / name).mkdir(parents=True)

    assert checkpoint.folders(found.files) == ("out/checkpoint-8",)
    assert checkpoint.newer_beside(found, tmp_path) == {"out/checkpoint-16": checkpoint.NEWER}
    assert checkpoint.newer_beside(None, tmp_path) == {}


def test_of_a_folder_that_is_restored_only_what_is_of_another_checkpoint_goes(run: Run) -> None:
    files = [
        FileEntry(path=path, hash="", size=1, source="x")
        for path in ("out/checkpoint-8/model.pt", "step_1/model.pt", "best.pt")
    ]
    there = [
        "out/checkpoint-8/model.pt", "out/checkpoint-8/optimizer.pt", "out/checkpoint-8/trainer_state.json",
        "out/checkpoint-4/model.pt", "step_1/train.py", "step_1/data.csv", "step_1/old.pt", "other.pt",
    ]  # fmt: skip
    assert checkpoint.outdated(there, files, ["*.pt"]) == {
        "out/checkpoint-8/optimizer.pt", "out/checkpoint-8/trainer_state.json", "step_1/old.pt",
    }  # fmt: skip


def test_what_lies_beside_a_checkpoint_and_is_no_part_of_it_is_told(run: Run) -> None:
    run.order(1, 0)
    run.commit(1, 0, 1, "out/checkpoint-8/model.pt")
    run.complete(1, 0, 1)
    written = ("out/checkpoint-8/model.pt", "out/checkpoint-8/train.log", "elsewhere/x.txt")
    files = tuple(FileEntry(path=path, hash="", size=1, source="x") for path in written)
    run.mailbox.store.put(
        f"{run.mailbox.machine}/1/0/out/00000001.json", Manifest(sequence=1, at=0.0, files=files).to_bytes()
    )

    found = resume(run)
    assert isinstance(found, Checkpoint) and found.without == ("out/checkpoint-8/train.log",)


def resume(run: Run, name: str = RUN, now: float = NOW + 200.0) -> object:
    launch = Launch(command=("python", "my train.py"), resume=name)
    return checkpoint.to_resume(launch, run.mailbox.store, "digits", now)


def test_a_run_that_may_still_train_is_not_forked_because_it_removes_old_checkpoints(run: Run) -> None:
    run.order(1, 0)
    run.commit(1, 0, 1, "a.pt")
    run.complete(1, 0, 1)
    with pytest.raises(SpecError, match="may still be training") as caught:
        resume(run, now=NOW + 100.0)
    assert f"sojourn stop {RUN}" in str(caught.value.hint)

    run.mailbox.write("outcome", Outcome(state="stopped", message="stopped", ended_at=NOW))
    assert resume(run, now=NOW + 100.0)


def test_a_run_without_a_checkpoint_says_what_to_type_instead(run: Run) -> None:
    run.order(1, 0)
    with pytest.raises(SpecError, match="no complete checkpoint") as caught:
        resume(run)
    assert "sojourn train -- python 'my train.py'" in str(caught.value.hint)


def test_a_checkpoint_whose_files_are_gone_is_refused_before_anything_is_rented(run: Run) -> None:
    run.order(1, 0)
    run.commit(1, 0, 1, "a.pt", "b.pt")
    run.complete(1, 0, 1)
    assert resume(run)
    run.mailbox.store.delete(f"{run.mailbox.machine}/1/0/blob/1-0-1-b.pt")

    with pytest.raises(SpecError, match=r"checkpoint 1 of calm-panda-a2e3 is no longer in the store: b\.pt"):
        resume(run)


@pytest.mark.parametrize(
    "source",
    [
        "control/digits/quiet-heron-7f3a/plan.json",
        f"machine/digits/{RUN}/1/0/exit.json",
        "orders/digits/x/order/1.json",
        "machine/faces/x/1/0/blob/a",
        "machine/digits/x/1/0/blob/../../../../../control/digits/x/plan.json",
        "https://example.org/a.pt",
    ],
)
def test_a_checkpoint_that_names_what_no_script_wrote_is_not_brought_to_other_machines(run: Run, source: str) -> None:
    run.order(1, 0)
    run.commit(1, 0, 1, "a.pt")
    run.complete(1, 0, 1)
    found = resume(run)
    assert isinstance(found, Checkpoint)
    run.mailbox.store.put("control/digits/quiet-heron-7f3a/plan.json", b"{}")
    forged = found.model_copy(update={"files": (found.files[0].model_copy(update={"source": source}),)})
    with pytest.raises(SpecError, match="where no machine keeps a file"):
        checkpoint.bring(forged, goes_on(run))
    assert not run.mailbox.store.keys("orders/digits")


def goes_on(run: Run) -> Mailbox:
    """Another run of the project."""
    plan = {"run": "calm-panda-0001", "place": "0123456789abcdef" * 2}
    run.mailbox.store.put("control/digits/calm-panda-0001/plan.json", json.dumps(plan).encode())
    return Mailbox(run.mailbox.store, "digits", "calm-panda-0001")


def test_a_checkpoint_is_brought_to_where_the_run_that_goes_on_may_read_it_and_stays_where_it_was(run: Run) -> None:
    run.order(1, 0)
    run.commit(1, 0, 1, "a.pt", "b/c.pt")
    run.complete(1, 0, 1)
    found, box = resume(run), goes_on(run)
    assert isinstance(found, Checkpoint)
    shown = f"{run.mailbox.machine}/1/0/shown/{64 * 'a'}"
    for number, key in enumerate((*(entry.source for entry in found.files), shown)):
        run.mailbox.store.put(key, str(number).encode())
    found = found.model_copy(update={"files": (found.files[0].model_copy(update={"shown": shown}), found.files[1])})
    for _ in range(2):
        checkpoint.bring(found, box)
    there = checkpoint.brought(found.files, box)
    assert there[0].shown and box.store.get(there[0].shown) == b"2" and there[1].shown is None
    again = checkpoint.brought(there, box)
    assert again == there, "what was brought is brought on under the same names"
    assert all(one.source.startswith(f"{box.orders}/restored/") for one in there)
    assert [box.store.get(one.source) for one in there] == [b"0", b"1"]
    assert [box.store.get(one.source) for one in found.files] == [b"0", b"1"]
    assert checkpoint.brought(found.files, run.mailbox) == found.files, "an earlier version's run reads where it lies"
    run.mailbox.store.delete(found.files[0].source)
    with pytest.raises(SpecError, match="no longer in the store"):
        checkpoint.bring(found, box)


@pytest.mark.parametrize("name", ["calm-panda-ffff", "nonsense", "../other"])
def test_a_run_that_is_not_there_is_named(run: Run, name: str) -> None:
    with pytest.raises(SpecError, match="is not a run of digits"):
        resume(run, name)


def test_the_spec_of_a_run_is_taken_over_and_flags_override_it() -> None:
    before = make_launch({"stage": "train", "nodes": 2, "deadline": "90m", "secrets": ["KEY"]}, origin="test")
    stored = Launch.model_validate_json(before.model_dump_json())

    again = resuming(RUN, stored, {"nodes": "3"})
    assert again == before.model_copy(update={"nodes": 3, "resume": RUN})
    other = resuming(RUN, stored, {"command": ("python", "x.py")})
    assert (other.stage, other.command, other.deadline) == (None, ("python", "x.py"), 5400.0)


def test_resume_args_go_to_the_end_of_the_command_and_never_into_a_shell_line() -> None:
    started = from_words(("uv", "run", "python", "train.py"), 2, 1)
    assert with_arguments(started, ("--resume", "a b.pt")).argv[-3:] == ("train.py", "--resume", "a b.pt")
    with pytest.raises(SpecError, match="cannot be added"):
        with_arguments(Command(argv=("set -e\ncat x | python train.py",), shell=True), ("--resume",))
