"""What a run has left in its store, over its nodes and attempts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sojourn.names import LeaseName
from sojourn.plan.command import Command
from sojourn.plan.planning import CHECKPOINTS
from sojourn.protocol import Bundle, Manifest, Order, Remainder
from sojourn.records import FileEntry
from sojourn.results.collect import AGAIN, HALF, LOST, STRANGE, collect
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

RUN = "calm-panda-a2e3"


class Run:
    """A run in a store, written as its agents would."""

    def __init__(self, folder: Path) -> None:
        self.mailbox = Mailbox(Store(folder.as_uri()), "digits", RUN)

    def commit(
        self,
        attempt: int,
        node: int,
        *paths: str,
        what: str = "out",
        carried: dict[str, str] | None = None,
        of: str = "0",
    ) -> None:
        """A node's newest commit; `carried` lies elsewhere already, and `of` tells one content from another."""
        prefix = f"{self.mailbox.machine}/{attempt}/{node}"
        entries = [self._entry(path, f"{prefix}/blob/{path.replace('/', '+')}", of) for path in paths]
        entries += [self._entry(path, source) for path, source in (carried or {}).items()]
        account = (Remainder(reason="r", kept=True, paths=paths, files=1, bytes=1),) if what == "kept" else ()
        manifest = Manifest(sequence=1, at=0.0, files=tuple(entries), account=account)
        self.mailbox.store.put(f"{prefix}/{what}/00000001.json", manifest.to_bytes())

    def _entry(self, path: str, source: str, of: str = "0") -> FileEntry:
        self.mailbox.store.put(source, b"x")
        return FileEntry(path=path, hash=f"sha256:{of}", size=1, source=source)

    def order(self, attempt: int, *restored: str, outputs: tuple[str, ...] | None = None) -> None:
        files = tuple(FileEntry(path=path, hash="", size=1, source=f"machine/{path}") for path in restored)
        bundle = Bundle(archive=None, files=(), listing=(), directory=".")
        self.mailbox.post_order(
            Order(
                run=RUN, project="digits", attempt=attempt, nodes=(LeaseName(RUN, attempt).machine(0),),
                master_address="127.0.0.1", master_port=1, command=Command(argv=("python", "train.py")),
                deadline_at=0.0, bundle=bundle, grace_s=1.0, inputs=files, outputs=outputs, checkpoint=CHECKPOINTS,
            )
        )  # fmt: skip

    def found(self, attempt: int, nodes: int = 1, declared: bool = False) -> dict[str, str]:
        files = collect(self.mailbox, attempt, nodes, declared).files
        return {entry.path: "/".join(entry.source.split("/")[3:5]) for entry in files}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "store")


def test_what_an_attempt_wrote_before_its_machine_was_lost_comes_home_with_what_its_successor_wrote(run: Run) -> None:
    run.commit(1, 0, "samples/1.png", "log.csv", "out/checkpoint-8/a.pt", "out/checkpoint-10/a.pt", "best.pt")
    run.order(2, "out/checkpoint-8/a.pt", "best.pt")
    run.commit(2, 0, "samples/2.png", "log.csv", "out/checkpoint-16/a.pt")

    assert run.found(2) == {
        "samples/1.png": "1/0", "samples/2.png": "2/0", "log.csv": "2/0", "out/checkpoint-16/a.pt": "2/0",
    }, "but not what was removed there, and no half checkpoint of a machine that is lost"  # fmt: skip


def test_the_declared_outputs_of_a_stage_are_one_attempts(run: Run) -> None:
    run.commit(1, 0, "weights/1.bin", "weights/2.bin")
    run.order(2)
    run.commit(2, 0, "weights/1.bin")
    assert run.found(2, declared=True) == {"weights/1.bin": "2/0"}


def test_machines_that_came_to_nothing_hide_nothing(run: Run) -> None:
    run.commit(1, 0, "model.pt", "out/checkpoint-8/a.pt")
    run.order(2, "out/checkpoint-8/a.pt")
    run.order(3, "out/checkpoint-8/a.pt")
    for declared in (True, False):
        assert run.found(3, declared=declared) == {"model.pt": "1/0", "out/checkpoint-8/a.pt": "1/0"}


def test_what_a_node_wrote_itself_counts_before_what_rank_0_only_carries_on(run: Run) -> None:
    elsewhere = f"machine/digits/{RUN}/0/9/blob/"
    run.commit(1, 0, "a.pt", carried={"shard.pt": elsewhere + "shard", "old.pt": elsewhere + "old"})
    run.commit(1, 1, "shard.pt", carried={"gone.pt": elsewhere + "gone", "old.pt": elsewhere + "old"})
    assert run.found(1, 2) == {"a.pt": "1/0", "shard.pt": "1/1", "old.pt": "0/9"}


def test_what_was_restored_from_another_run_and_nobody_touched_comes_home_and_no_other_order_s_does(run: Run) -> None:
    plan = json.dumps({"run": RUN, "place": "0123456789abcdef" * 2}).encode()
    run.mailbox.store.put(f"{run.mailbox.control}/plan.json", plan)
    other = f"orders/digits/{'f' * 32}-{RUN}/restored/x"
    own = f"{run.mailbox.orders}/restored/x"
    run.commit(1, 0, "a.pt", carried={"old.pt": own, "stolen.pt": other, "order.pt": f"{run.mailbox.orders}/stop.json"})
    found = collect(run.mailbox, 1, 1)
    assert {entry.path: entry.source for entry in found.files if entry.path != "a.pt"} == {"old.pt": own}
    assert [(one.reason, set(one.paths)) for one in found.account] == [(STRANGE, {"stolen.pt", "order.pt"})]


def test_what_is_kept_is_told_of_each_node_and_is_no_result(run: Run) -> None:
    run.commit(1, 0, "a.pt")
    run.commit(1, 0, "logs/0.txt", what="kept")
    run.commit(1, 1, "logs/1.txt", what="kept")
    found = collect(run.mailbox, 1, 2)
    assert [entry.path for entry in found.files] == ["a.pt"] and found.bytes == 1
    assert [entry.path for entry in found.kept] == ["logs/0.txt", "logs/1.txt"]
    assert [one.paths for one in found.account] == [("logs/0.txt",), ("node 1: logs/1.txt",)]


def test_what_two_nodes_wrote_under_one_name_is_kept_of_each_and_told(run: Run) -> None:
    run.commit(1, 0, "pred.csv", "same.json")
    run.commit(1, 0, "logs/train.log", what="kept")
    run.commit(1, 1, "same.json", carried={"pred.csv": f"{run.mailbox.machine}/0/9/blob/pred.csv"})
    run.commit(1, 2, "pred.csv", of="2")
    run.commit(1, 2, "logs/train.log", what="kept", of="2")
    found = collect(run.mailbox, 1, 3)
    assert {entry.path: entry.hash for entry in found.files} == {"pred.csv": "sha256:0", "same.json": "sha256:0"}
    assert {entry.path: entry.hash for entry in found.kept} == {
        "logs/train.log": "sha256:0", "node-2/logs/train.log": "sha256:2", "node-2/pred.csv": "sha256:2",
    }  # fmt: skip
    told = [(one.reason, one.kept, one.paths, one.files) for one in found.account]
    assert told[0] == (AGAIN, True, ("node-2/pred.csv",), 1)


def test_an_object_that_the_store_has_lost_costs_itself_and_is_told(run: Run) -> None:
    run.commit(1, 0, "a.pt", "b.pt")
    run.mailbox.store.delete(f"{run.mailbox.machine}/1/0/blob/a.pt")
    found = collect(run.mailbox, 1, 1)
    assert [entry.path for entry in found.files] == ["b.pt"]
    assert [(one.reason, one.kept, one.paths) for one in found.account] == [(LOST, False, ("a.pt",))]


def test_a_checkpoint_that_one_node_removed_and_another_did_not_stays_in_the_store_and_is_told(run: Run) -> None:
    whole = [f"out/checkpoint-6/{name}" for name in ("model.safetensors", "training_args.bin", "trainer_state.json")]
    run.order(1)
    run.commit(1, 0, *whole, "out/checkpoint-6/rng_state_0.pth", "out/log.csv")
    run.commit(1, 1, "out/checkpoint-3/rng_state_1.pth", "out/checkpoint-6/rng_state_1.pth")
    found = collect(run.mailbox, 1, 2)
    both = {f"out/checkpoint-6/rng_state_{node}.pth" for node in (0, 1)}
    assert {entry.path for entry in found.files} == {*whole, *both, "out/log.csv"}
    assert [entry.path for entry in found.kept] == ["out/checkpoint-3/rng_state_1.pth"]
    assert [(one.reason, one.kept, one.paths, one.files) for one in found.account] == [
        (HALF, True, ("out/checkpoint-3/",), 1)
    ]


def test_a_half_checkpoint_in_a_declared_output_is_part_of_what_dvc_is_told(run: Run) -> None:
    run.order(1, outputs=("out",))
    run.commit(
        1, 0, "out/checkpoint-3/training_args.bin", "out/checkpoint-3/model.safetensors", "tmp/a-00001-of-00002.bin"
    )
    found = collect(run.mailbox, 1, 1, declared=True)
    assert len(found.files) == 3 and not found.account


def test_deepspeeds_latest_is_read_from_the_store(run: Run) -> None:
    run.order(1)
    run.commit(
        1, 0, "ck/global_step8/mp_rank_00_model_states.pt", "ck/global_step4/mp_rank_00_model_states.pt", "ck/latest"
    )
    run.mailbox.store.put(f"{run.mailbox.machine}/1/0/blob/ck+latest", b"global_step4\n")
    assert [entry.path for entry in collect(run.mailbox, 1, 1).kept] == ["ck/global_step8/mp_rank_00_model_states.pt"]
