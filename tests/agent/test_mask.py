"""Secrets stay out of what is shown, in every form in which programs print them, however the bytes come."""

from __future__ import annotations

import base64
import html
import json
import random
import re
import string
import time
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.agent.script.mask import BATCH, Mask, is_ordinary

BODY = base64.b64encode(random.Random(1).randbytes(2300)).decode()
PEM = "\n".join(
    [
        "-----BEGIN PRIVATE KEY-----",
        *(BODY[at : at + 64] for at in range(0, len(BODY), 64)),
        "-----END PRIVATE KEY-----",
    ]
)
ACCOUNT = json.dumps({"type": "service_account", "private_key_id": "8f" * 20, "private_key": PEM + "\n"}, indent=2)
ODD = "p\"a's\\s w/o+r?d=ä&<1>%\t9"


def in_small_letters(url: str) -> str:
    """As some libraries write the codes in a URL."""
    return re.sub("%..", lambda code: code.group().lower(), url)


def as_go_writes(text: str) -> str:
    """JSON that may stand in HTML."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


FORMS: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda value: value.encode(),
    "JSON": lambda value: json.dumps({"key": value}).encode(),
    "JSON as it is": lambda value: json.dumps({"key": value}, ensure_ascii=False).encode(),
    "JSON in JSON": lambda value: json.dumps(json.dumps({"key": value})).encode(),
    "JSON of other languages": lambda value: json.dumps(value).replace("/", "\\/").encode(),
    "JSON of Go": lambda value: as_go_writes(json.dumps(value, ensure_ascii=False)).encode(),
    "ASCII": lambda value: ascii([value]).encode(),
    "repr": lambda value: repr({"key": value}).encode(),
    "repr beside a quote": lambda value: repr(f'it\'s "{value}"').encode(),
    "repr of bytes": lambda value: repr(value.encode()).encode(),
    "a URL": lambda value: urllib.parse.quote(value, safe="").encode(),
    "a URL's path": lambda value: urllib.parse.quote(value).encode(),
    "a form": lambda value: urllib.parse.urlencode({"key": value}).encode(),
    "a URL in small letters": lambda value: in_small_letters(urllib.parse.quote(value, safe="~")).encode(),
    "base64": lambda value: base64.b64encode(value.encode()),
    "base64 for URLs": lambda value: base64.urlsafe_b64encode(value.encode()),
    "Basic": lambda value: b"Authorization: Basic " + base64.b64encode(f"me:{value}".encode()),
    "Basic of a longer name": lambda value: base64.b64encode(f"user1:{value}".encode()),
    "Basic with the key first": lambda value: base64.b64encode(f"{value}:".encode()),
    "base64 in the middle": lambda value: base64.b64encode(f"ab{value}cd".encode()),
    "hex": lambda value: value.encode().hex().encode(),
    "HEX": lambda value: value.encode().hex().upper().encode(),
    "capitals": lambda value: value.upper().encode(),
    "small letters": lambda value: value.lower().encode(),
    "HTML": lambda value: html.escape(value).encode(),
    "UTF-16": lambda value: value.encode("utf-16"),
    "UTF-16 of the other end": lambda value: value.encode("utf-16-be"),
    "base32": lambda value: base64.b32encode(value.encode()),
    "base32 without its end": lambda value: base64.b32encode(value.encode()).rstrip(b"="),
    "base32 in small letters": lambda value: base64.b32encode(f"a{value}".encode()).lower(),
    **{
        f"base32 behind {before}": lambda value, before=before: base64.b32encode(f"{'n' * before}{value}:x".encode())
        for before in range(1, 5)
    },
    "colours": lambda value: "".join(f"\x1b[3{at % 8}m{letter}" for at, letter in enumerate(value)).encode(),
    "a colour in it": lambda value: f"{value[:4]}\x1b[1;38;5;12m{value[4:]}\x1b[0m".encode(),
    "a link in it": lambda value: f"{value[:3]}\x1b]8;;http://x\x07{value[3:]}".encode(),
    "coloured JSON": lambda value: json.dumps({"k": value}).replace("2", "\x1b[36m2\x1b[0m\x1b(B").encode(),
}
LIKE_A_KEY = st.text(string.ascii_letters + string.digits + "-_+/=!\"'\\ %&<äß", min_size=12, max_size=40).map(
    lambda text: f"k9{text}z7"
)


def shown(mask: Mask, stream: bytes, sizes: list[int]) -> bytes:
    """The stream in chunks of these sizes, as the log would have it."""
    parts, at = [], 0
    while at < len(stream):
        size = sizes[at % len(sizes)]
        parts.append(mask.feed(stream[at : at + size]))
        if at % 3 == 0:
            parts.append(mask.rest())
        at += size
    return b"".join([*parts, mask.close()])


def pieces(form: bytes) -> set[bytes]:
    """Parts of a form that would tell of it; a few letters at either end belong to what stands beside it."""
    return {form[at : at + 10] for at in range(3, max(4, len(form) - 13))}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("value", ["hunter2-Hunter2-hunter2", ODD, "a1b2/c3d4+e5f6==", "ünï-cödé-1234-schlüssel"])
def test_a_value_is_hidden_in_the_forms_in_which_programs_print_it(name: str, value: str) -> None:
    whole = FORMS[name](value)
    left = Mask([value]).whole(b"before " + whole + b" after")
    assert b"***" in left and left.startswith(b"before") and left.endswith(b" after"), left
    assert len(left) < len(b"before  after") + len(whole) - len(value) / 2, left


@settings(max_examples=60, deadline=None)
@given(
    value=LIKE_A_KEY, name=st.sampled_from(sorted(FORMS)), sizes=st.lists(st.integers(1, 90), min_size=1, max_size=5)
)
def test_whatever_the_value_and_however_the_bytes_come_nothing_of_it_is_left(
    value: str, name: str, sizes: list[int]
) -> None:
    form = FORMS[name](value.strip())
    stream = b"x" * 50 + form + b"\n" + b"loss=0.1\n" * 20
    left = shown(Mask([value]), stream, sizes)
    secret = {piece for piece in pieces(FORMS["as it is"](value.strip())) if b"loss" not in piece}
    assert not any(piece in left for piece in secret)
    assert left.endswith(b"loss=0.1\n" * 20)
    assert left == Mask([value]).whole(stream), "the same as in one piece"


@pytest.mark.parametrize("size", [1, 7, 100, 5000, 100_000])
def test_a_key_of_many_lines_is_hidden_whole_by_lines_and_as_a_dict(size: int) -> None:
    mask = Mask([ACCOUNT])
    key = json.loads(ACCOUNT)["private_key"]
    told = [ACCOUNT, key, repr(json.loads(ACCOUNT)), "\n".join(f"[rank0]: {line}" for line in key.splitlines())]
    stream = "\n".join(["loss=0.1", *told, key.replace("\n", "\r\n"), "done"]).encode()
    left = b"".join([*(mask.feed(stream[at : at + size]) for at in range(0, len(stream), size)), mask.close()])
    assert left.startswith(b"loss=0.1\n") and left.endswith(b"\ndone")
    assert not any(BODY[at : at + 12].encode() in left for at in range(len(BODY) - 12))
    assert b"8f8f8f8f" not in left


def test_a_short_last_line_of_a_key_is_hidden_too() -> None:
    assert b"aB3=" not in Mask(["-----BEGIN X-----\n" + "aB3dE6gH" * 8 + "\naB3="]).whole(b"[rank0]: aB3=\n")


def test_the_password_of_an_address_is_hidden_by_itself() -> None:
    mask = Mask(["postgres://me:s3cr3t-pw@db.example:5432/runs"])
    assert mask.whole(b"password=s3cr3t-pw host=db.example") == b"password=*** host=db.example"


def test_secrets_that_overlap_leave_nothing_of_either() -> None:
    assert Mask(["abcdef123", "def123xyz"]).whole(b"<abcdef123xyz>") == b"<***>"


def test_a_value_at_the_end_of_what_may_be_another_is_not_cut() -> None:
    mask = Mask(["abcdefgh", "efghijkl-long"])
    assert mask.feed(b"abcdefgh") + mask.rest() + mask.feed(b"!") + mask.rest() + mask.close() == b"***!"


@pytest.mark.parametrize(
    "value",
    ["", "1", "0.5", "1e-4", "42", "123456", "abc", "true", "True", "dev", "prod", " dev\n", "localhost", "cuda"],
)
def test_what_is_too_short_or_too_usual_is_not_hidden(value: str) -> None:
    assert is_ordinary(value)
    text = b"epoch 1 loss 0.5 lr 1e-4 seed 42 step 123456 dev prod localhost cuda true True abc"
    assert Mask([value]).whole(text) == text and not Mask([value])


def test_an_ordinary_value_takes_no_other_with_it() -> None:
    assert Mask(["true", "hunter2-hunter2"]).whole(b"true hunter2-hunter2") == b"true ***"


def test_what_was_printed_without_a_secret_is_shown_at_once_and_unchanged() -> None:
    mask = Mask(["hunter2-hunter2"])
    assert mask.feed(b"epoch 1\n") + mask.rest() == b"epoch 1\n"
    noise = random.Random(3).randbytes(3 * BATCH)
    assert mask.feed(noise) + mask.close() == noise


def test_names_and_texts_of_a_record_are_hidden() -> None:
    told = {"hunter2-1": ["x hunter2-1", 1, None, {"a": "hunter2-1"}], "odd\udcff": "\ud83d"}
    hidden = {"***": ["x ***", 1, None, {"a": "***"}], "odd\udcff": "\ud83d"}
    assert Mask(["hunter2-1"]).strings(told) == hidden


@pytest.mark.parametrize("size", [100, 4096, 262_144])
def test_a_long_key_slows_no_log_down(size: int) -> None:
    lines = [
        f"2026-11-29 09:33:51 INFO step {at} loss={at / 7:.5f} lr=1.00e-04 tokens/s={at * 37}\n" for at in range(60_000)
    ]
    log = "".join(lines).encode()
    mask = Mask([PEM, "hf_" + "aB3dE6gH" * 4])
    began = time.process_time()
    for at in range(0, len(log), size):
        mask.feed(log[at : at + size])
    mask.close()
    assert len(log) / (time.process_time() - began) > 40e6, "bytes a second of one core; 80 to 200 MB/s on an idle host"


def test_a_colour_goes_on_and_ends_where_a_secret_stood() -> None:
    red, end = b"\x1b[31m", b"\x1b[0m"
    mask = Mask(["hunter2-hunter2"])
    assert mask.whole(b"a" + red + b"hunter2" + end + b"-hunter2 b") == b"a" + red + b"***" + end + b" b"
    assert mask.whole(red + b"hunter" + end + b" loss") == red + b"hunter" + end + b" loss"


@pytest.mark.parametrize(
    "text", [b"loss\x1b", b"loss\x1b[3", b"loss\x1b]0;a title", b"hunt\x1b[31mer2\x1b[", b"\x1b]" + b"x" * 5_000]
)
def test_a_colour_that_never_ends_holds_nothing_up_for_good(text: bytes) -> None:
    mask = Mask(["hunter2-hunter2"])
    assert mask.feed(text) + mask.rest() + mask.feed(b" and on\n" * 300) + mask.close() == text + b" and on\n" * 300
    mask = Mask(["hunter2-hunter2"])
    assert mask.feed(text) + mask.close() == text


def test_what_only_colours_is_not_kept_in_memory() -> None:
    mask = Mask(["hunter2-hunter2"])
    told = mask.feed(b"hunter")
    for _ in range(100):
        told += mask.feed(b"\x1b[31m" * 1_000) + mask.rest()
    assert len(told) > 300_000


@pytest.mark.parametrize("kind", ["coloured", "letters"])
def test_nor_does_a_log_with_colours_or_long_words(kind: str) -> None:
    beginning = (
        "\x1b[32m2026-11-29\x1b[0m 09:33:51 \x1b[1;34mINFO\x1b[0m"
        if kind == "coloured"
        else "configurationmanagersofthis"
    )
    log = "".join(f"{beginning} step {at} loss={at / 7:.5f} tokens/s={at * 37}\n" for at in range(60_000)).encode()
    mask = Mask(["hf_" + "aB3dE6gH" * 4, "hunter2-Hunter2"])
    began = time.process_time()
    for at in range(0, len(log), 4096):
        mask.feed(log[at : at + 4096])
    mask.close()
    assert len(log) / (time.process_time() - began) > 40e6


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_colour_that_comes_in_two_pieces_parts_no_secret(cut: int) -> None:
    mask, text = Mask(["hunter2-hunter2"]), b"a hunt\x1b[38;5;12mer2-hunter2 b"
    told = mask.feed(text[:cut]) + mask.rest() + mask.feed(text[cut:]) + mask.rest() + mask.close()
    assert told == b"a ***\x1b[38;5;12m b"
