"""Stands in for the agent: does what STANDIN in its environment says.

`sleep` waits; `exit N` ends with code N once its machine directory's `end` file is there;
`evil N` ignores every polite signal and leaves N descendants that forked twice and took a
session of their own; `bare N` does so with an empty environment; `leave N` starts the same
as `evil` and exits at once with code 3; `readonly` fills the scratch directory with what is
hard to remove; `term` ends with code 7 on SIGTERM. Each start adds a line to STANDIN_STARTS.
"""

import os
import signal
import sys
import time
from pathlib import Path

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]


def daemons(count: int, tag: str, environment: "dict[str, str]") -> None:
    for number in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                if number % 2:
                    os.setpgid(0, 0)
                os.execve(sys.executable, [*SLEEP, tag], environment)
            os._exit(0)
        os.wait()


def hard_to_remove(scratch: Path) -> None:
    deep = scratch / "a dir" / "ä"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (deep / "link").symlink_to("/")
    for folder in (deep, deep.parent):
        folder.chmod(0o500)


def main() -> None:
    scratch = Path(sys.argv[sys.argv.index("--scratch") + 1])
    verb, _, number = os.environ.get("STANDIN", "sleep").partition(" ")
    with open(os.environ["STANDIN_STARTS"], "a") as starts:
        starts.write(f"{scratch}\n")
    if verb == "term":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    if verb in ("evil", "leave", "bare"):
        for polite in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(polite, signal.SIG_IGN)
        daemons(int(number), str(scratch), {} if verb == "bare" else dict(os.environ))
    if verb == "readonly":
        hard_to_remove(scratch)
    (scratch / "ready").touch()
    if verb == "leave":
        sys.exit(3)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (scratch.parent / "end").exists():
            sys.exit(int(number or 0))
        time.sleep(0.02)


main()
