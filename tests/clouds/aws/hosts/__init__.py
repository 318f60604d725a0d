"""Machines that run: each instance is a host in namespaces of its own, booted from an overlay of this machine's root.

`hub` is the cloud's own network, apart from the machine's; `metadata`, `resolver` and the TLS end
in it are what a machine on EC2 finds around it, under the names and addresses that it has there.
`host` is one machine, `guest/` what lies inside, `power` turns hosts on and off for `machines`.

It needs root, `ip` and `iptables`; `obstacle()` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache

PROGRAMS = "ip iptables-restore unshare setpriv openssl".split()
_TRIAL = "mkdir u w r && mount -t overlay o -o lowerdir=/,upperdir=u,workdir=w r && test -e r/etc && umount r"


@cache
def obstacle() -> str | None:
    """Why no host can run here, in a sentence; None when they can."""
    if sys.platform != "linux":
        return "simulated hosts need Linux"
    if os.geteuid() != 0:
        return "simulated hosts need root"
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"simulated hosts need {', '.join(missing)}: apt-get install iproute2 iptables"
    with tempfile.TemporaryDirectory() as folder:
        trial = ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", _TRIAL]
        tried = subprocess.run(trial, cwd=folder, capture_output=True, text=True, timeout=20)
    if tried.returncode:
        return f"simulated hosts need namespaces and overlays: {tried.stderr.strip()}"
    return None
