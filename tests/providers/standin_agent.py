"""Stands in for the agent: does what STANDIN in its environment says, in its scratch directory.

`sleep` waits; `exit N` ends with code N; `evil N` ignores every polite signal and leaves N
descendants that forked twice and took a session of their own; `leave N` starts the same
and exits at once; `readonly` fills the scratch directory with what is hard to remove;
`term` ends with code 7 on SIGTERM.
"""

import os
import signal
import sys
import time
from pathlib import Path


def daemons(count: int) -> None:
    for number in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                if number % 2:
                    os.setpgid(0, 0)
                time.sleep(120)
            os._exit(0)
        os.wait()


def main() -> None:
    scratch = Path(sys.argv[sys.argv.index("--scratch") + 1])
    verb, _, number = os.environ.get("STANDIN", "sleep").partition(" ")
    scratch.mkdir(exist_ok=True)
    if verb == "exit":
        sys.exit(int(number))
    if verb == "term":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    if verb in ("evil", "leave"):
        for polite in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(polite, signal.SIG_IGN)
        daemons(int(number))
    if verb == "readonly":
        deep = scratch / "a dir" / "ä"
        deep.mkdir(parents=True)
        (deep / "file").write_text("x")
        (deep / "link").symlink_to("/")
        for folder in (deep, deep.parent):
            folder.chmod(0o500)
    (scratch / "ready").touch()
    if verb == "leave":
        sys.exit(3)
    time.sleep(120)


main()
