"""The machine's program: one archive, started in one of five modes.

    run --boot FILE --node N --scratch DIR [--address A]     the agent
    rank --record DIR -- COMMAND...                          the keeper of one rank, below torchrun
    execute DIR                                              the keeper of one command of `sojourn exec`
    supervise DIR [--agent FILE] [--isolation WAY]           the local provider's machine
    init COMMAND...                                          process 1 of that machine's namespace

Each mode imports its own modules only: a rank's keeper starts once for every rank, and
archives keep no compiled code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable


def main(program: str, words: list[str]) -> int:
    """Carry out one mode; its exit code."""
    mode, rest = (words[0], words[1:]) if words else ("", [])
    if mode == "rank":
        from sojourn.agent.script.rank import Rank

        return Rank(_options(rest[:2], ["record"])["record"], rest[3:]).run()
    if mode == "execute":
        from sojourn.agent.script.execute import execute

        return execute(rest[0])
    if mode == "run":
        from sojourn.agent.agent import run

        given = {"address": "127.0.0.1", **_options(rest, ["boot", "node", "scratch", "address"])}
        return run(program, given["boot"], int(given["node"]), given["scratch"], given["address"])
    if mode == "supervise":
        from sojourn.agent.host.supervisor import supervise

        return supervise(program, rest[0], **_options(rest[1:], ["agent", "isolation"]))
    if mode == "init":
        from sojourn.agent.host.namespace import init

        return init(rest)
    return _refuse(f"there is no mode {mode!r}")


def _options(words: list[str], names: Iterable[str]) -> dict[str, str]:
    # Not argparse, whose import takes longer than all else that a rank's keeper does.
    flags = [f"--{name}" for name in names]
    if len(words) % 2 or not set(words[::2]) <= set(flags):
        _refuse(f"{' '.join(words)}: expected pairs of {', '.join(flags)}")
    return {flag[2:]: value for flag, value in zip(words[::2], words[1::2])}


def _refuse(why: str) -> int:
    raise SystemExit(f"sojourn-agent: {why}\n\n{__doc__}")


def _leave(code: int) -> None:
    """End at once: a piece of a large file that is on its way still, in a thread, would keep the machine."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    code = main(os.path.abspath(sys.argv[0]), sys.argv[1:])
    if sys.argv[1:2] == ["run"]:
        _leave(code)
    sys.exit(code)
