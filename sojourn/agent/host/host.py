"""What this machine is: processors, memory, GPUs, a free port."""

from __future__ import annotations

import os
import socket
import subprocess


def free_port(address: str) -> int:
    """A port that is free now."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            probe.bind(("", 0))  # an address that is not on an interface of ours, as behind NAT
        port: int = probe.getsockname()[1]
        return port


def cpus() -> int:
    """The processors that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gpus(limit_s: float = 5.0) -> list[str]:
    """The names of the NVIDIA GPUs; none where there is no driver or it does not answer in time."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit_s, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
