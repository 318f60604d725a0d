"""What a script, a machine or a store tries by the text that people are shown: on a terminal and on Prefect's pages."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from cli import console
from cli.live import LiveListener
from cli.raw import to_stream
from cli.statusline import status_line
from sojourn import harmless
from sojourn.errors import TrainingError
from sojourn.omissions import Omission
from sojourn.project import metric_files
from sojourn.protocol import Exit, Outcome
from sojourn.receipts import Attempt, Receipt, Resource
from sojourn.results.publish import Published
from sojourn.results.report import Report
from sojourn.run.runs import RunLine
from sojourn.store.ledger import Entry
from sojourn.watch.charts import chart
from sojourn.watch.follower import Status
from sojourn.watch.metrics import Metrics, Point, Series
from tasks.artifacts import findings_page, receipt_page, report_page

ORDERS = {
    "title": "\x1b]0;pwned\x07", "clipboard": "\x1b]52;c;cm0gLXJm\x07", "link": "\x1b]8;;http://evil\x1b\\x\x1b]8;;\x1b\\",
    "clear": "\x1b[2J\x1b[H", "up": "\x1b[1A", "device": "\x1bPq\x1b\\", "private": "\x1b_x\x1b\\",
    "open OSC": "\x1b]0;open",
    "C1 CSI": "\x9b2J", "C1 OSC": "\x9d0;x\x9c", "bell": "\x07", "backspace": "\x08\x08", "return": "\rspoofed",
    "escape": "\x1b", "charset": "\x1b(0", "reset": "\x1bc", "bidi": "\u202egpj", "isolate": "\u2066x\u2069",
    "separator": "\u2028next", "vertical": "\x0b\x0c", "delete": "\x7f", "null": "\0", "half": "\ud83d", "nel": "\x85",
    "paste": "\x1b[200~", "query": "\x1b[6n", "mouse": "\x1b[?1003h", "sixel": "\x1bP0;0q#0~\x1b\\",
    "markup": "[link=http://e]x[/]",
}  # fmt: skip
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
OURS = re.compile(r"\x1b\[[0-9;]*m")  # colours of our own words


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What stands on both streams since."""
    page = io.StringIO()
    about: dict[str, Any] = {"force_terminal": request.param, "width": 200, "highlight": False, "soft_wrap": True}
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, type(console.out)(file=page, **about))
    return page.getvalue


def _report(evil: str, **more: Any) -> Report:
    known: dict[str, Any] = {
        "run": "quiet-heron-7f3a", "project": "digits", "store": "file:///store", "state": "failed", "message": evil,
        "command": f"python {evil}", "machine": "this-host", "nodes": 1, "commit": None, "changed": 0, "inputs": "",
        "ended_at": 0.0, "seconds": 9.0, "cost": 0.0, "receipt": "closed", "files": 1, "bytes": 61, "checkpoints": 0,
        "metrics": {f"loss{evil}": 0.5, "model": f"resnet{evil}"}, "parameters": {evil: evil},
        "series": {f"loss{evil}": Series(source="log", count=2, points=(Point(1, 1.0, 0), Point(2, 2.0, 1)))},
        "kept": (Omission(reason=f"odd{evil}", paths=(evil,), files=1, bytes=1),),
        "left_behind": (Omission(reason=f"odd{evil}", paths=(evil,), files=1, bytes=1),),
        "published": Published(placed=(f"a{evil}.txt",), beside=(evil,), directory=f"/d{evil}", note=evil),
    }  # fmt: skip
    return Report.model_construct(**{**known, **more})


def _receipt(evil: str) -> Receipt:
    stood = Resource(kind=evil, name=evil, identity=evil, asked_at=1.0, ended_by=evil)
    tried = [
        Attempt.model_construct(
            number=at,
            machine=evil,
            place=evil,
            market="spot",
            nodes=1,
            seconds=1.0,
            cost=1.0,
            state="lost",
            message=evil,
        )
        for at in (1, 2)
    ]
    return Receipt(state="open", resources=(stood,)).model_copy(update={"attempts": tuple(tried)})


@pytest.mark.parametrize("order", ORDERS)
def test_a_terminal_obeys_nothing_that_a_run_s_records_say(shown: Callable[[], str], order: str) -> None:
    evil = ORDERS[order]
    console.show_report(_report(evil))
    console.show_series(_report(evil))
    console.show_receipt(_receipt(evil))
    console.show_warning(f"what it said {evil}")
    console.show_error(TrainingError(f"the script{evil}", hint=f"Traceback\n{evil}\nKeyError"))
    console.show_step("train", evil, 1.0, good=False)
    console.show_ledger([Entry.model_construct(sequence=0, at=0.0, term=1, owner=evil, kind=evil, body={})])
    line = RunLine(
        run="quiet-heron-7f3a", project=evil, created_at=0.0, state="failed", command=evil, owner=evil, deadline_at=0.0,
        receipt=None, orphan=evil, remedy="sojourn reap",
    )  # fmt: skip
    console.show_runs([line], 1.0)
    said = OURS.sub("", shown())
    assert not ACTIVE.search(said.replace("\n", "")), repr(ACTIVE.search(said))
    assert "]8;" not in shown() or order == "link", "no link of the markup's"
    assert "quiet-heron-7f3a" in said


@pytest.mark.parametrize("order", ORDERS)
def test_a_log_keeps_its_colours_on_a_terminal_and_no_other_sequence(order: str) -> None:
    evil, red = ORDERS[order], "\x1b[31mred\x1b[0m"
    log = f"before {red} {evil} after\n".encode("utf-8", "surrogatepass")
    for pieces in ([log], [log[at : at + 1] for at in range(len(log))], [log[:9], log[9:]]):
        seen = harmless.Coloured()
        said = "".join(map(seen.feed, pieces))
        assert red in said and "fter" in said.replace("\r", "")
        assert not ACTIVE.search(OURS.sub("", said).replace("\r", "").replace("\n", "").replace("\x85", ""))
    assert not ACTIVE.search(harmless.lines(log.decode("utf-8", "replace"))), "and an error has not even colours"


def test_bytes_reach_a_pipe_as_they_are_and_a_terminal_without_orders() -> None:
    log = b"a\x1b]0;title\x07b \x1b[32mgreen\x1b[0m\n"
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        to_stream(stream)(log)
        stream.flush()
    assert os.read(reader, 1000) == log
    reader, writer = pty.openpty()
    with open(writer, "w") as stream:
        to_stream(stream)(log)
        stream.flush()
        assert os.read(reader, 1000) == b"ab \x1b[32mgreen\x1b[0m\r\n"


def test_the_live_view_shows_no_link_of_a_script_s(monkeypatch: pytest.MonkeyPatch) -> None:
    page = io.StringIO()
    shown = type(console.out)(file=page, force_terminal=True, width=100)
    monkeypatch.setattr("cli.live.out", shown)
    listener = LiveListener()
    listener.script(0, f"see {ORDERS['link']} {ORDERS['title']}\n".encode())
    assert page.getvalue().strip() == "see x"


@pytest.mark.parametrize("begin", ["\x1b]", "\x1b[1;", "\x9d", "\x1bP", "\x1b[0;1;", "\x1b", "\x1b]a", "\x1b[?"])
def test_no_text_takes_long_to_be_looked_at(begin: str) -> None:
    text, began = begin * 100_000 + "a" * 500_000 + begin + "1;" * 100_000, time.monotonic()
    for look in (harmless.coloured, harmless.plain, harmless.line, harmless.lines, harmless.markdown):
        assert not ACTIVE.search(OURS.sub("", look(text)).replace("\n", ""))
    assert time.monotonic() - began < 3


SIGNS = [
    "![](https://evil.example/x.png)", "[click](https://evil.example)", "<img src=x onerror=alert(1)>",
    "<script>x", "</script>", "https://evil.example/a", "www.evil.example", "a|b\\|c", "`code`", "``` \n# head",
    "</table>", "&lt;b&gt;", "[x]: http://e", "me@evil.example", "~~x~~", "**x**", "<http://evil.example>",
    "\\![](x)", "\\\\[a](b)", "line\n# head", "| a | b |\n|---|", "\x1b]0;x\x07", "HTTPS://EVIL.example",
    "ftp://evil.example", "$x$", "![a][b]", "\u202egpj",
]  # fmt: skip


@pytest.mark.parametrize("evil", SIGNS)
def test_a_page_holds_no_image_link_or_html_of_a_run_s(evil: str) -> None:
    curve = ("data:image/svg+xml;base64,", "![")
    ended = Outcome(state="failed", message=evil, tail=f"{evil}\n{evil}", ended_at=0.0)
    found = _findings(evil)
    for page in (report_page(_report(evil), ended), receipt_page(_receipt(evil)), findings_page(found)):
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
        inner = [one for token in tokens for one in (token, *(token.children or ()))]
        assert not {one.type for one in inner} & {"link_open", "html_block", "html_inline"}
        assert all(str(one.attrs["src"]).startswith(curve[0]) for one in inner if one.type == "image")
        text = "".join(one.content for one in inner if one.type == "text" and one.level < 99)
        assert not ACTIVE.search(text)
        outside = re.sub(r"(`+).*?\1|\(data:[^)]*\)", "", re.sub(r"\\.", "", page), flags=re.DOTALL)
        assert not re.search(r"(?i)\w+://|www\.|\w@\w", outside), "what pages make links of by themselves"
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)


def _findings(evil: str) -> list[Any]:
    from sojourn.run.reap import Finding

    return [Finding(name=evil, run=evil, action="failed", reason=evil)]


def test_a_text_for_a_metric_is_cut_when_it_is_taken_and_says_how_long_it_was() -> None:
    taken = metric_files.read(
        "metrics.json", json.dumps({"model": "x" * 300_000, "n" * 50_000: 1, "a": {"b" * 500: 2}}).encode()
    )
    assert taken["model"] == "x" * 300 + "… (300,000 characters)" and max(map(len, taken)) < 250
    assert len(json.dumps(taken)) < 1_500
    told = Metrics()
    told.add("tensorboard", "y" * 100_000, 1.0, 1, None)
    assert max(map(len, told.newest())) < 250


def test_a_machine_s_last_words_are_of_a_length_that_can_be_shown(tmp_path: Any) -> None:
    from security.hostile import Home

    home = Home(tmp_path)
    word = Exit(node=0, reason="fault", ended_at=1.0, message="m" * 1_000_000, tail="t\n" * 1_000_000)
    home.mailbox.store.put(f"{home.mailbox.machine}/1/0/exit.json", word.to_bytes())
    taken = home.mailbox.exit(1, 0)
    assert taken is not None and len(str(taken.message)) < 5_000 and len(taken.tail) <= 16_000


def test_a_drawing_is_whole_whatever_its_name_is() -> None:
    from xml.etree import ElementTree

    for evil in (*ORDERS.values(), *SIGNS):
        ElementTree.fromstring(chart(evil, Series(source="log", count=1, points=(Point(1, 1.0, 0.0),))))


def test_what_is_printed_for_programs_is_exact() -> None:
    evil = "".join(one for one in ORDERS.values() if "\ud83d" not in one)
    assert json.loads(json.dumps({"x": evil}))["x"] == evil and "\x1b" not in json.dumps({"x": evil})


def test_a_console_cleans_what_is_printed_raw_too() -> None:
    page = io.StringIO()
    type(console.out)(file=page, force_terminal=True, width=300).print("a\x1b[2Jb\x9dc", markup=False)
    assert OURS.sub("", page.getvalue()) == "a\\x1b[2Jb\\x9dc\n"
    assert isinstance(console.err, Console) and type(console.err) is type(console.out)


@pytest.mark.parametrize("order", ORDERS)
def test_the_line_that_says_how_a_run_stands_is_one_line(order: str) -> None:
    evil = f"{ORDERS[order]}\nloss"
    status = Status(
        run="r", project="p", phase=evil, at=0.0, elapsed_s=1.0, left_s=1.0, values={evil: 0.5}, cost=0.0, ceiling=0.0
    )
    said = status_line(status, 0.0, 400).plain
    assert "loss" in said and "\n" not in said and not ACTIVE.search(said)
