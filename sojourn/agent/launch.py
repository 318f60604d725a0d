"""What is started on a node, and in which environment: the order in the words of the system.

The script sees what torchrun would have set, and little of ours.
"""

from __future__ import annotations

import os

from sojourn.agent.errors import Refused
from sojourn.agent.files import Json
from sojourn.agent.mailbox import Place
from sojourn.agent.processes import MARK, MARK_DIRECTORY

PASSED = "PATH HOME USER LOGNAME SHELL LANG TZ TMPDIR LD_LIBRARY_PATH XDG_CACHE_HOME"
PASSED += " SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE"
PASSED += " http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_")


def environment(order: Json, place: Place, cwd: str, secrets: dict[str, str]) -> dict[str, str]:
    """What the script sees: little of ours, what the order says, its secrets, and torchrun's variables."""
    env = passed()
    env["PATH"] = os.pathsep.join([*order["path"], env.get("PATH", os.defpath)])
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONFAULTHANDLER"] = "1"  # a crash, and a hang that we end, say in which line
    env.update(order["environment"])
    env.update(secrets)
    env.update(
        SOJOURN_RUN=order["run"],
        SOJOURN_ATTEMPT=str(order["attempt"]),
        SOJOURN_OUTPUT_DIR=os.path.join(cwd, "outputs"),
    )
    env[MARK] = place.name
    if MARK_DIRECTORY in os.environ:  # or whoever outlives agent and supervisor would belong to no home
        env[MARK_DIRECTORY] = os.environ[MARK_DIRECTORY]
    if not wrapped(order):
        env.update(_rendezvous(order, place.rank))
    return env


def own_secrets(names: list[str]) -> dict[str, str]:
    """Those that this machine's own environment holds. Raises Refused when it lacks one."""
    for name in names:
        if name not in os.environ:
            raise Refused(f"the secret {name} is not set on this machine")
    return {name: os.environ[name] for name in names}


def passed() -> dict[str, str]:
    """What of the machine's own environment goes on to what is started here."""
    names = PASSED.split()
    return {k: v for k, v in os.environ.items() if k in names or k.startswith(PASSED_PREFIXES)}


def _rendezvous(order: Json, rank: int) -> dict[str, str]:
    master = {"MASTER_ADDR": order["master_address"], "MASTER_PORT": str(order["master_port"])}
    if len(order["nodes"]) > 1:
        return {"NODE_RANK": str(rank), "NNODES": str(len(order["nodes"])), **master}
    if order["command"]["processes"] != 1:
        return {}
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", **master}


def wrapped(order: Json) -> bool:
    """Whether torchrun starts the command."""
    command = order["command"]
    return command["wrap"] is not None and (command["processes"] != 1 or len(order["nodes"]) > 1)


def command_line(order: Json, rank: int, keeper: list[str]) -> list[str]:
    """The words that are started on this node; `keeper` goes between torchrun and each rank."""
    command = order["command"]
    argv = list(command["argv"])
    if command["shell"]:
        return ["/bin/sh", "-c", argv[0]]
    if not wrapped(order):
        return argv
    at = command["wrap"]
    nodes = ["--standalone", "--nnodes", "1"]
    if len(order["nodes"]) > 1:
        nodes = ["--nnodes", str(len(order["nodes"])), "--node_rank", str(rank)]
        nodes += ["--master_addr", order["master_address"], "--master_port", str(order["master_port"])]
    # Underscores, not hyphens: every torchrun knows them.
    torchrun = ["-m", "torch.distributed.run", *nodes, "--nproc_per_node", str(command["processes"]), "--no_python"]
    return [*argv[:at], argv[at], *torchrun, *keeper, *argv[at:]]
