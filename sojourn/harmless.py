"""Makes text that came from outside harmless where it is shown: on a terminal, on a page of markdown, in a line.

A script, a machine or whoever writes into a store says metric names, file names, messages and logs. A terminal obeys
what it prints (titles, the clipboard, links, what stood there before), a page loads its images. So whoever shows such
text takes it from here; records and `--json` keep it as it is.
"""

from __future__ import annotations

import codecs
import re

NAME = 100  # characters of a name in one line
VALUE = 200  # and of a value
LINE = 2_000  # of a sentence, or of a line of a log in an error
TAIL = 40  # lines of a log in an error

_BIDI = "\u202a-\u202e\u2066-\u2069"  # show letters in another order than they stand
_BREAKS = "\u2028\u2029"
_SURROGATES = "\ud800-\udfff"  # half a character, which no terminal can be sent
_ACTIVE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BREAKS}{_BIDI}{_SURROGATES}]")
_IN_A_LINE = re.compile(f"[\x00-\x1f\x7f-\x9f{_BREAKS}{_BIDI}{_SURROGATES}]")
_IN_A_LOG = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f{_BREAKS}{_BIDI}{_SURROGATES}]")
_COLOUR = r"\x1b\[[0-9;:]{0,60}m"
_SEQUENCE = re.compile(
    rf"(?P<colour>{_COLOUR})"
    r"|(?:\x1b\[|\x9b)[0-?]{0,60}[ -/]{0,8}[@-~]"  # CSI
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90-\x9f\n]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS and the like
    r"|\x1b[ -/]{0,8}[0-Z\\^-~]"
    r"|\x1b"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;:]{0,60})?\Z")
_MARKDOWN = re.compile(r"[\\`*_<>\[\]#|~$@&]|(?<=:)(?=//)|(?<=www)\.", re.IGNORECASE)


def line(text: object, limit: int = LINE) -> str:
    """In one line: what is no plain letter as it is written in Python, and no longer than this."""
    shown = str(text)
    if len(shown) > limit:
        shown = cut(shown, limit)
    return _IN_A_LINE.sub(_escaped, shown)


def lines(text: str, most: int = TAIL) -> str:
    """The last lines of a log, without colours, each no longer than a line may be."""
    whole = plain(text).splitlines()
    return "\n".join(cut(one, LINE) for one in whole[-most:])


def cut(text: str, limit: int) -> str:
    """The text, or its beginning with a word on how much there is."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


def inert(text: str) -> str:
    """The text with nothing in it that a terminal would obey; lines stay lines."""
    return _ACTIVE.sub(_escaped, text) if _ACTIVE.search(text) else text


def plain(text: str) -> str:
    """A log without any sequence, colours neither."""
    return inert(_IN_A_LOG.sub("", _SEQUENCE.sub("", text)).replace("\r\n", "\n"))


def coloured(text: str) -> str:
    """A log as a terminal may show it: its colours stay, and every other sequence goes."""
    if "\x1b" not in text and not _IN_A_LOG.search(text):
        return text
    kept = _SEQUENCE.sub(lambda found: found["colour"] or "", text)
    return _IN_A_LOG.sub("", kept)


class Coloured:
    """The same for a log that comes in pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> str:
        """What can be shown by now; of a colour that is not whole yet the beginning waits."""
        text = self._rest + self._decoder.decode(data)
        unfinished = _UNFINISHED.search(text)
        self._rest = text[unfinished.start() :] if unfinished else ""
        return coloured(text[: len(text) - len(self._rest)])


def markdown(text: object, limit: int = LINE) -> str:
    """In one line of markdown: nothing in it is a sign, a link, an image or HTML."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", line(text, limit))


def cell(text: object, limit: int = VALUE) -> str:
    """The same in a table, whose columns a bar would divide, however it is escaped."""
    return markdown(text, limit).replace("\\|", "&#124;")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
