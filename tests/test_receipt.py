"""The receipt: a line for each thing that was ever asked for, and for each attempt what it was and cost."""

from __future__ import annotations

from pathlib import Path

from sojourn.lease.receipt import write_receipt
from sojourn.lease.retained import count_left
from sojourn.names import LeaseName
from sojourn.plan import text
from sojourn.plan.planning import Plan
from sojourn.protocol import Bundle, Hold, Manifest, Outcome
from sojourn.receipts import Receipt
from sojourn.records import FileEntry
from sojourn.renting import Lease, Machine, Offer, Part
from sojourn.results.publish import Inputs
from sojourn.store.ledger import Entry, Kind
from sojourn.store.mailbox import Mailbox
from sojourn.store.storage import Store

GOLDEN = Path(__file__).parent / "golden" / "plan.json"
RUN = "quiet-heron-7f3a"


def plan() -> Plan:
    made = Plan.model_validate_json(GOLDEN.read_bytes())
    offers = tuple(
        Offer(provider="aws", machine="g6.xlarge", place=f"us-east-1{zone}", price=3.6, cpus=4, memory=1, market="spot")
        for zone in "ab"
    )
    return made.model_copy(update={"offers": offers, "launch": made.launch.model_copy(update={"nodes": 1})})


def ledger(*kinds: tuple[Kind, dict[str, object]]) -> list[Entry]:
    return [
        Entry(sequence=number, term=1, owner="me", at=100.0 + number, kind=kind, body=body)
        for number, (kind, body) in enumerate(kinds)
    ]


def intent(attempt: int, offer: int) -> tuple[Kind, dict[str, object]]:
    name = str(LeaseName(RUN, attempt, offer))
    parts = [{"kind": "volume", "name": f"{name}-n0"}, {"kind": "schedule", "name": name}]
    return "intent", {"attempt": attempt, "offer": offer, "name": name, "request": {"parts": parts}}


def lease(name: str, state: str, *parts: Part, seconds: float = 10.0) -> Lease:
    machine = Machine(
        name=f"{name}-n0",
        state=state,  # type: ignore[arg-type]
        identity="i-1",
        created_at=50.0,
        ended_at=50.0 + seconds,
        ended_by="spot reclaim",
    )
    return Lease(name=name, project="p", run=RUN, attempt=1, deadline_at=1e9, machines=(machine,), parts=parts)


LOST = Outcome(state="lost", message="taken back", ended_at=1.0).model_dump(mode="json")
DONE = Outcome(state="succeeded", message="well", ended_at=2.0).model_dump(mode="json")
FIRST, OTHER, SECOND = (str(LeaseName(RUN, *which)) for which in ((1, 0), (1, 1), (2, 0)))


def test_every_attempt_and_every_refusal_has_its_lines_and_its_own_times() -> None:
    entries = ledger(
        intent(1, 0), ("refused", {"offer": 0, "reason": "full"}),
        intent(1, 1), ("created", {}), ("ordered", {}), ("lost", LOST), ("release", {}), ("gone", {}),
        intent(2, 0), ("created", {}), ("ordered", {}), ("outcome", DONE), ("release", {}), ("gone", {}),
    )  # fmt: skip
    receipt = write_receipt(
        plan(), entries, {FIRST: None, OTHER: lease(OTHER, "gone"), SECOND: lease(SECOND, "gone", seconds=20.0)}
    )

    assert receipt.state == "closed" and receipt.cost == 0.03
    assert [(one.kind, one.ended_by) for one in receipt.resources if one.name == FIRST] == [
        ("g6.xlarge", "never created")
    ]
    gone = {one.name: one.gone_at for one in receipt.resources}
    assert (gone[OTHER], gone[SECOND]) == (107.0, 113.0)
    assert [(at.number, at.place, at.state, at.cost) for at in receipt.attempts] == [
        (1, "us-east-1b", "lost", 0.01),
        (2, "us-east-1a", "succeeded", 0.02),
    ]


def test_a_volume_that_still_stands_keeps_the_receipt_from_closing() -> None:
    entries = ledger(intent(1, 0), ("created", {}), ("outcome", DONE), ("release", {}))
    left = Part(kind="volume", name=f"{FIRST}-n0", identity="vol-1", created_at=50.0)
    receipt = write_receipt(plan(), entries, {FIRST: lease(FIRST, "gone", left)})

    assert receipt.state == "closing"
    assert [one.identity for one in receipt.resources if one.gone_at is None and one.kind == "volume"] == ["vol-1"]


def test_machines_are_called_as_they_called_themselves_whatever_their_provider_calls_them() -> None:
    """A cloud that forgot one of three, and numbers what it remembers anew."""
    names = {f"i-{number}": f"{FIRST}-n{2 - number}" for number in range(3)}
    entries = ledger(
        intent(1, 0),
        ("created", {}),
        ("ordered", {"machines": names}),
        ("outcome", DONE),
        ("release", {}),
        ("gone", {}),
    )
    two = plan().model_copy(update={"launch": plan().launch.model_copy(update={"nodes": 3})})
    seen = [lease(FIRST, "gone").machines[0].model_copy(update={"identity": f"i-{number}"}) for number in (1, 2)]
    found = lease(FIRST, "gone").model_copy(update={"machines": tuple(seen)})
    lines = [one for one in write_receipt(two, entries, {FIRST: found}).resources if one.kind == "g6.xlarge"]
    assert [(one.name[-2:], one.identity) for one in lines] == [("n0", "i-2"), ("n1", "i-1"), ("n2", None)]


def test_a_lease_whose_machines_did_not_all_say_their_names_has_each_name_once() -> None:
    three = lease(FIRST, "running").machines * 3
    machines = [one.model_copy(update={"name": f"{FIRST}-n{n}", "identity": f"i-{n}"}) for n, one in enumerate(three)]
    named = lease(FIRST, "running").model_copy(update={"machines": tuple(machines)}).named({"i-0": f"{FIRST}-n1"})
    assert [one.name[-2:] for one in named.machines] == ["n0", "n1", "n2"]
    assert {one.identity: one.name[-2:] for one in named.machines} == {"i-0": "n1", "i-1": "n0", "i-2": "n2"}


def test_what_was_never_released_is_open() -> None:
    entries = ledger(intent(1, 0), ("created", {}), ("ordered", {}))
    assert write_receipt(plan(), entries, {FIRST: lease(FIRST, "running")}).state == "open"


def test_what_machines_cost_after_the_script_had_failed_is_told_apart() -> None:
    failed = Outcome(state="failed", message="exit code 3", ended_at=52.0, hold=Hold(since=54.0, until=90.0))
    entries = ledger(intent(1, 0), ("outcome", failed.model_dump(mode="json")), ("release", {}), ("gone", {}))
    receipt = write_receipt(plan(), entries, {FIRST: lease(FIRST, "gone", seconds=10.0)})
    assert [one.held_s for one in receipt.resources] == [6.0, 0.0, 0.0]
    assert (receipt.cost, receipt.held_s, receipt.held_cost) == (0.01, 6.0, 0.006)


def test_what_goes_is_closing_and_what_works_on_in_spite_of_its_release_is_open() -> None:
    entries = ledger(intent(1, 0), ("created", {}), ("outcome", DONE), ("release", {}))
    assert write_receipt(plan(), entries, {FIRST: lease(FIRST, "ended")}).state == "closing"
    unheard = write_receipt(plan(), entries, {FIRST: lease(FIRST, "running")})
    assert unheard.state == "open" and [one.identity for one in unheard.standing if one.identity] == ["i-1"]


def test_what_its_provider_has_forgotten_is_told_by_the_ledger_and_not_called_never_created() -> None:
    entries = ledger(intent(1, 0), ("created", {}), ("outcome", DONE), ("release", {}), ("gone", {}))
    receipt = write_receipt(plan(), entries, {FIRST: None})
    (machine,) = [one for one in receipt.resources if one.kind == "g6.xlarge"]
    assert (machine.created_at, machine.ended_by, machine.seconds, machine.cost) == (101.0, "unknown", 2.0, 0.002)
    assert (machine.asked_at, machine.gone_at, receipt.state) == (100.0, 104.0, "closed")


def test_a_receipt_of_an_earlier_version_can_be_read() -> None:
    assert Receipt.model_validate_json('{"state": "closed", "resources": [], "leaves": {}}').leaves.bytes == 0


def test_what_stays_in_the_store_is_counted_by_what_it_is(tmp_path: Path) -> None:
    mailbox = Mailbox(Store(tmp_path.as_uri()), "digits", RUN)
    node = f"{mailbox.machine}/1/0"

    def keep(name: str, size: int) -> FileEntry:
        mailbox.store.put(f"{node}/blob/{name}", b"x" * size)
        return FileEntry(path=name, hash=f"sha256:{name}", size=size, source=f"{node}/blob/{name}")

    both, saved, made = keep("both", 7), keep("saved", 100), keep("made", 20)
    for what, files in (("ckpt", (both, saved)), ("out", (both, made))):
        mailbox.store.put(f"{node}/{what}/00000001.json", Manifest(sequence=1, at=0.0, files=files).to_bytes())
    mailbox.store.put(f"{node}/log/00000000", b"y" * 3)
    sent = FileEntry(path="big", hash="sha256:b", size=1000, source=mailbox.blob_key("b"))
    mailbox.write("bundle", Bundle(files=(sent,), listing=(sent,), directory="."))
    far = sent.model_copy(update={"source": "s3://acme-data/dvc/files/md5/aa", "size": 10**9})
    mailbox.write("inputs", Inputs(files=(far,)))

    left = count_left(mailbox)
    assert (left.source, left.results, left.checkpoints, left.logs, left.until) == (1000, 27, 100, 3, None)
    assert left.records == sum(mailbox.store.sizes(mailbox.control).values()) + sum(
        mailbox.store.sizes(f"{node}/{what}")[f"{node}/{what}/00000001.json"] for what in ("ckpt", "out")
    )
    told = text.leaves(left)
    assert told.endswith(", until sojourn purge")
    assert [part.split()[0] for part in told.split("(")[1].split(")")[0].split(", ")] == [
        "source",
        "results",
        "checkpoints",
        "logs",
        "records",
    ], "its parts are the whole"
