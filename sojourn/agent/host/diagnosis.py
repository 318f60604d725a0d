"""What a machine looked like when its script failed, for whoever cannot look at it any more.

Gathered once, in seconds, each question with a limit of its own: a machine in trouble may
answer none of them, and its results matter more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

QUESTION_S = 5.0
PART_BYTES = 16 << 10
# Not `pip freeze`: environments made by uv have no pip, and on a busy machine it takes longer than may be asked for.
PACKAGES = """
from importlib.metadata import distributions
found = {"%s==%s" % (one.metadata["Name"], one.version) for one in distributions()}
print("\\n".join(sorted(found, key=str.lower)))
"""


def diagnosis(pids: list[int], path: str, limit_s: float) -> bytes:
    """Text about this machine; `pids` are the script's processes, `path` is where its programs are found."""
    until = time.monotonic() + limit_s
    questions = {
        "GPUs": ["nvidia-smi"],
        "disks": ["df", "-h", "--exclude-type=tmpfs"],
        "memory": ["free", "-m"],
        "the kernel's last words": ["dmesg", "--ctime"],
        "packages": ["python", "-c", PACKAGES],
    }
    parts = [_title("the script's processes (where Python hung stands at the end of the log)"), _stacks(pids)]
    for title, words in questions.items():
        parts += [_title(title), _answer(words, path, min(QUESTION_S, until - time.monotonic()))]
    return b"".join(parts)


def _answer(words: list[str], path: str, limit_s: float) -> bytes:
    program = shutil.which(words[0], path=path)
    if program is None:
        return f"{words[0]} is not installed\n".encode()
    if limit_s <= 0:
        return b"no time was left to ask\n"
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            env={**os.environ, "PATH": path},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{words[0]} did not answer: {error}\n".encode()
    return done.stdout[-PART_BYTES:]


def _stacks(pids: list[int]) -> bytes:
    """Where each process and thread stands, as the kernel sees it; only root is told the whole of it."""
    parts = []
    for pid in pids:
        parts.append(f"{pid} {_read(f'/proc/{pid}/cmdline').replace(chr(0), ' ')}\n")
        for task in _tasks(pid):
            folder = f"/proc/{pid}/task/{task}"
            state = _read(f"{folder}/stat").rpartition(")")[2][1:2]
            parts.append(f"  {task} {_read(f'{folder}/comm').strip()} {state} {_read(f'{folder}/wchan')}\n")
            parts += [f"      {line}\n" for line in _read(f"{folder}/stack").splitlines()[:8]]
    return "".join(parts).encode()[-PART_BYTES:] or b"none was left\n"


def _tasks(pid: int) -> list[str]:
    try:
        return sorted(os.listdir(f"/proc/{pid}/task"), key=int)[:64]
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(PART_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _title(text: str) -> bytes:
    return f"\n== {text} ==\n".encode()
