"""The lines of a .gitignore, as git reads them.

https://git-scm.com/docs/gitignore
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from typing import Tuple


class Patterns:
    """The last line that matches a path, or a folder above it, decides."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [rule for rule in map(_rule, lines) if rule is not None]
        self._folders: dict[str, bool] = {"": False}

    def match(self, path: str) -> bool:
        """Whether the file at this relative path is meant."""
        return self._folder(posixpath.dirname(path)) or self._decide(path, False)

    def _folder(self, path: str) -> bool:
        above = [path]
        while above[-1] not in self._folders:  # not by recursion: a script may nest folders thousands deep
            above.append(posixpath.dirname(above[-1]))
        meant = self._folders[above.pop()]
        for folder in reversed(above):
            meant = self._folders[folder] = meant or self._decide(folder, True)
        return meant

    def _decide(self, path: str, folder: bool) -> bool:
        for regex, wanted, folders_only in reversed(self._rules):
            if (folder or not folders_only) and regex.fullmatch(path):
                return wanted
        return False


Rule = Tuple["re.Pattern[str]", bool, bool]


def _rule(line: str) -> Rule | None:
    text = re.sub(r"(?<!\\)\s+$", "", line)
    if not text or text.startswith("#"):
        return None
    wanted = not text.startswith("!")
    text = text if wanted else text[1:]
    folders_only = text.endswith("/")
    text = text.rstrip("/")
    anywhere = "/" not in text
    try:
        regex = re.compile(("(?:.*/)?" if anywhere else "") + _glob(text.lstrip("/")), re.DOTALL)
    except re.error:
        return None
    return regex, wanted, folders_only


_TOKEN = re.compile(r"(?:^|(?<=/))\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?[^\]]*\]|\\.|.", re.DOTALL)


def _glob(text: str) -> str:
    return "".join(_piece(token.group()) for token in _TOKEN.finditer(text))


def _piece(token: str) -> str:
    fixed = {"**/": "(?:.*/)?", "/**": "/.+", "?": "[^/]"}
    if token in fixed:
        return fixed[token]
    if token.startswith("*"):
        return "[^/]*"
    if len(token) > 1 and token.startswith("["):
        body = token[1:-1].replace("\\", "\\\\")
        return f"(?!/)[^{body[1:]}]" if body[0] in "!^" else f"(?!/)[{body}]"
    return re.escape(token[-1])
