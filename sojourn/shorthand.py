"""The shorthand people write, and the values it stands for: `90m`, `64GB`, `L4:4`, `gpu`.

Each type parses text, and takes back what our own JSON holds. In a form, and on
`prefect deployment run`, it is text as people write it.
"""

from __future__ import annotations

import math
import re
import shlex
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from sojourn.renting import GpuNeed

LONGEST_S = 366 * 86400.0
LAST_AT = 253_370_764_800.0  # the year 9999, UTC, which is the same year everywhere
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\s*(\d+(?:\.\d+)?)\s*([smhd]))+\s*", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])", re.ASCII)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([MGT])(i?)B?\s*", re.ASCII | re.IGNORECASE)
_MONEY = re.compile(r"\s*\$?\s*(\d+(?:\.\d+)?)\s*(?:USD)?\s*", re.ASCII | re.IGNORECASE)
_GPU = re.compile(r"\s*(?:(?P<times>\d+)\s*x\s*)?(?P<what>[A-Za-z0-9][\w. -]*?)\s*(?::\s*(?P<count>\d+))?\s*", re.ASCII)


def parse_duration(value: object) -> float:
    """Seconds from `45s`, `90m`, `2h30m` or `1d`; a bare number is refused for its missing unit."""
    text = str(value)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration, write it like 45s, 90m or 2h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds > LONGEST_S:
        raise ValueError(f"{text!r} is longer than a year, write it like 45s, 90m or 2h30m")
    return seconds


def format_duration(seconds: float) -> str:
    """`2h 30m`, `45s`: the two largest units of a duration."""
    if not seconds < 1e11:  # a record may hold any number
        return f"{format_number(seconds / 86400)} days"
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return " ".join(parts[:2]) or "0s"


def format_seconds(seconds: float) -> str:
    """`7.5 s`, `1m 20s`: with a tenth where it is short."""
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)


def format_clock(at: float) -> str:
    """`16:42:00`: a time of day, local."""
    return f"{moment(at):%H:%M:%S}"


def moment(at: float) -> datetime:
    """A record's time, local; one that no calendar has is the first or the last that it has."""
    return datetime.fromtimestamp(min(max(at, 0.0), LAST_AT))


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning where it is longer than so many characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def counted(number: int, thing: str) -> str:
    """`1 file`, `2,014 files`, `3 copies`."""
    many = thing[:-1] + "ies" if thing.endswith("y") else thing + "s"
    return f"{number:,} {thing if number == 1 else many}"


def parse_size(value: object) -> float:
    """Bytes from `130GB`, `64GiB` or `1.5TB`; GB counts by powers of ten, GiB by powers of two."""
    found = _SIZE.fullmatch(str(value))
    if not found:
        raise ValueError(f"{str(value)!r} is not a size, write it like 64GB or 1TB")
    number, unit, binary = found.groups()
    power = "MGT".index(unit.upper()) + 2
    return float(number) * float((1024 if binary else 1000) ** power)


def parse_gpu(value: object) -> GpuNeed:
    """What `L4`, `L4:4`, `4xL4`, `80GB`, `A100-80GB:8` or a plain `2` asks for, on each machine."""
    found = _GPU.fullmatch(str(value))
    if not found or isinstance(value, bool) or (found["times"] and found["count"]):
        raise ValueError(f"{str(value)!r} is not a GPU, write it like L4, L4:4 or 80GB")
    what, count = found["what"], int(found["count"] or found["times"] or 1)
    if what.isdecimal():
        what, count = "", int(what) * count
    if not 1 <= count <= 64:
        raise ValueError(f"{str(value)!r} asks for {count} GPUs on one machine, a machine has 1 to 64")
    name, _, size = what.rpartition("-")
    if _SIZE.fullmatch(size):
        return GpuNeed(name=name or None, count=count, memory=int(parse_size(size)))
    return GpuNeed(name=what or None, count=count)


def parse_money(value: object) -> float:
    """US dollars from `5`, `$5.50` or `20 USD`."""
    found = _MONEY.fullmatch(str(value))
    if not found or isinstance(value, bool):
        raise ValueError(f"{str(value)!r} is not an amount of dollars, write it like 5, $5.50 or 20 USD")
    return float(found[1])


def _duration(value: object) -> float:
    # A float comes from our own JSON, where durations are seconds already.
    return float(value) if isinstance(value, float) else parse_duration(value)


def _size(value: object) -> float:
    # A float comes from our own JSON, where sizes are bytes already.
    return float(value) if isinstance(value, float) else parse_size(value)


def _room(value: object) -> float:
    return 0.0 if str(value).strip() in ("0", "0.0") else _size(value)


def _gpu(value: object) -> object:
    parse_gpu(value)
    return str(value).strip()


# What a shell takes as it stands, what it expands inside quotes, and what it acts on elsewhere.
_AS_IT_IS = re.compile(r"""'[^']*'|"(?:[^"\\$`]|\\["\\])*"|\\[^\n]""")
_EXPANDED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_OPERATOR = re.compile(r"""[|&;<>()\n'"\\]|(?:^|\s)[#!]|^\s*\w+=|(?:^|\s)[{}](?:\s|$)""")
_EXPANSION = re.compile(r"[$`*?\[\]{}]|(?:^|[\s=:])~")
_SETS = re.compile(r"[A-Za-z_]\w*=")
_SIGNS = {"&&", "||", "|", ";", "&", ">", ">>", "<", "<<", "2>", "2>&1", "&>"}


def is_shell(text: str) -> bool:
    """Whether a shell would do more with the text than split it into words."""
    rest = _AS_IT_IS.sub("x", join_lines(text))
    return bool(_OPERATOR.search(rest) or _EXPANSION.search(rest))


def is_one_command(text: str) -> bool:
    """Whether a shell would start one program with it, whatever it makes of its words."""
    rest = _EXPANDED.sub("x", _AS_IT_IS.sub("x", join_lines(text)))
    return not _OPERATOR.search(rest) and "$(" not in rest


def join_lines(text: str) -> str:
    """The text without the ends of lines that a backslash takes away, and without space around it."""
    return re.sub(r"""('[^']*')|\\\n""", lambda found: found[1] or "", text).strip()


def _command(value: object) -> object:
    """One program and its arguments as words; what only a shell can read stays the text that it is."""
    if isinstance(value, str):
        return _text_or_words(value.strip())
    for word in value if isinstance(value, (list, tuple)) else ():
        if isinstance(word, str) and word in _SIGNS:
            raise ValueError(
                f"{word!r} is a sign for a shell, and a list starts one program: write the command as one text, "
                "with quotes around what is an argument"
            )
    return _with_env(value) if isinstance(value, (list, tuple)) else value


def _with_env(words: list[object] | tuple[object, ...]) -> tuple[object, ...]:
    """`LR=1 python train.py` typed as words: a shell would set the variable, and so does `env`."""
    sets = next((at for at, word in enumerate(words) if not _SETS.match(str(word))), len(words))
    return ("env", *words) if 0 < sets < len(words) else tuple(words)


def _text_or_words(text: str) -> object:
    lines = [line for line in text.splitlines() if line.strip()]
    if all(line.lstrip().startswith("#") for line in lines):
        return ()
    if not text.startswith("#!") and (len(lines) == 1 or not is_shell(text)):
        words = _words(text)  # refuses a quote that does not end
        return text if is_shell(text) else words
    return f"{text}\n"


def _words(value: object) -> object:
    try:
        return tuple(shlex.split(join_lines(value))) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} has a quote that does not end") from None


def _arguments(value: object) -> object:
    if isinstance(value, str) and is_shell(value):
        raise ValueError(f"{value!r} has signs that only a shell acts on: quote them, or write a list")
    return _words(value)


def _text(value: object) -> object:
    # YAML reads `PORT: 29500` as a number. A bool is left to be refused: nobody can tell which spelling is meant.
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _names(value: object) -> object:
    if isinstance(value, (str, int, float)):
        raise ValueError(f"{value!r} is not a list, write it as [{value}]")
    return value


def _processes(value: object) -> object:
    count = str(value)
    if count in ("gpu", "own"):
        return count
    if not count.isdecimal() or not 1 <= int(count) <= 1024:
        raise ValueError(f"{value!r} is neither a number from 1 to 1024 nor 'gpu' nor 'own'")
    return int(count)


def _count(value: object) -> object:
    if not str(value).isdecimal() or not 1 <= int(str(value)) <= 1024:
        raise ValueError(f"{value!r} is not a number from 1 to 1024")
    return int(str(value))


def _written_like(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": list(examples)})


Duration = Annotated[float, BeforeValidator(_duration), _written_like("45s", "90m", "2h30m")]
Size = Annotated[float, Field(ge=1e6), BeforeValidator(_size), _written_like("64GB", "1TB")]
Room = Annotated[float, Field(ge=0), BeforeValidator(_room), _written_like("5GB", "0")]
Money = Annotated[float, Field(gt=0), BeforeValidator(parse_money), _written_like("5", "$5.50", "20 USD")]
Gpu = Annotated[str, BeforeValidator(_gpu), _written_like("L4", "L4:4", "80GB")]
Count = Annotated[int, Field(ge=1, le=1024), BeforeValidator(_count)]
Processes = Annotated[Annotated[int, Field(ge=1, le=1024)] | Literal["gpu", "own"], BeforeValidator(_processes)]
Text = Annotated[str, BeforeValidator(_text)]
_TEXT_OR_LIST = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
CommandText = Annotated[tuple[str, ...] | str, BeforeValidator(_command), _TEXT_OR_LIST]
Words = Annotated[tuple[str, ...], BeforeValidator(_arguments), _TEXT_OR_LIST]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


def format_bytes(size: float) -> str:
    """`84 KB`, `1.9 GB`: powers of ten, as disks and clouds count."""
    size = min(size, 1e24)  # a record may hold any whole number
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 9.95 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_number(value: float) -> str:
    """`3,410`, `0.213`, `3.2e-05`: four digits that count, whole numbers whole up to twelve digits."""
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        number = math.inf if value > 0 else -math.inf
    if not math.isfinite(number):
        return str(number)
    if abs(number) >= 1e12:
        return f"{number:.4g}"
    if number == int(number):
        return f"{int(number):,}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
