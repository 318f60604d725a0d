"""DVC's own command without its start: a process that has loaded it lets a copy of itself run each command.

To load DVC takes half a second of the processor, five times as long as most of its commands in a test's project.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any


def run(where: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What `dvc WORDS` does and prints in a directory, in this process's environment."""
    with tempfile.TemporaryDirectory(prefix="dvc-") as folder:
        outputs = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        asked = {"where": str(where), "words": list(words), "environment": dict(os.environ), "outputs": outputs}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        printed, told = (Path(name).read_text(encoding="utf-8") for name in outputs)
    return subprocess.CompletedProcess(["dvc", *words], code, printed, told)


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None and server.stdout is not None
    server.stdin.close()
    server.stdout.close()
    server.wait(30)


def _serve() -> None:
    """Answer each line with the exit code of its command."""
    import dvc.cli
    import dvc.commands.repro
    import dvc.commands.status
    import dvc.repo  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _command(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _command(asked: dict[str, Any]) -> None:
    from dvc.cli import main

    code = 255
    with contextlib.suppress(BaseException):
        for number, name in ((0, os.devnull), (1, asked["outputs"][0]), (2, asked["outputs"][1])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["where"])
        try:
            code = main(asked["words"])
        except SystemExit as left:
            code = int(left.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
