"""What is started on a node, and in which environment: the order in the words of the system.

The script sees what whoever starts its ranks has set, and little of ours.
"""

from __future__ import annotations

import os
import shlex

from sojourn.agent.files import Json
from sojourn.agent.host.processes import MARK, MARK_DIRECTORY
from sojourn.agent.mailbox import Place

PASSED = "PATH HOME USER LOGNAME SHELL LANG TZ TMPDIR LD_LIBRARY_PATH XDG_CACHE_HOME"
PASSED += " SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE"
PASSED += " http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY"
# Made before the start, so by a name that no script makes for itself: `mkdir outputs` works as it does at home.
OUTPUT_DIR = "sojourn-outputs"
# In the script's directory, and home whatever git says of them; the second is where Hydra and many templates write.
HOMES = (OUTPUT_DIR, "outputs")
PASSED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_")


def environment(order: Json, place: Place, root: str, secrets: dict[str, str]) -> dict[str, str]:
    """What the script sees: little of ours, what the order says, and its secrets."""
    env = passed()
    env["PATH"] = os.pathsep.join([*order["path"], env.get("PATH", os.defpath)])
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONFAULTHANDLER"] = "1"  # a crash, and a hang that we end, say in which line
    env.update(_nodes(order, place.rank))
    if not wrapped(order):
        env.update(_rendezvous(order, place.rank))
    env.update({name: _below(root, path) for name, path in order.get("directories", {}).items()})
    env.update(order["environment"])
    env.update(secrets)
    env.update(
        SOJOURN_RUN=order["run"],
        SOJOURN_ATTEMPT=str(order["attempt"]),
        SOJOURN_OUTPUT_DIR=os.path.join(_below(root, order["bundle"]["directory"]), OUTPUT_DIR),
    )
    env[MARK] = place.name
    if MARK_DIRECTORY in os.environ:  # or whoever outlives agent and supervisor would belong to no home
        env[MARK_DIRECTORY] = os.environ[MARK_DIRECTORY]
    return env


def _below(root: str, path: str) -> str:
    return os.path.normpath(os.path.join(root, path))


def passed() -> dict[str, str]:
    """What of the machine's own environment goes on to what is started here."""
    names = PASSED.split()
    return {k: v for k, v in os.environ.items() if k in names or k.startswith(PASSED_PREFIXES)}


def _nodes(order: Json, rank: int) -> dict[str, str]:
    """Which node of how many; torchrun's ranks see it too, for names of files that no two nodes write."""
    return {"NNODES": str(len(order["nodes"])), "NODE_RANK": str(rank)} if len(order["nodes"]) > 1 else {}


def _rendezvous(order: Json, rank: int) -> dict[str, str]:
    """What a launcher of the script's own needs to know, and nothing for one process on one machine.

    A variable of torchrun's ranks (RANK, WORLD_SIZE …) is set by whoever starts the ranks. torchrun reads PET_*:
    https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/argparse_util.py
    """
    told = {}
    if order["command"]["processes"] != 1:
        told["PET_NPROC_PER_NODE"] = str(order["command"]["processes"])
    if len(order["nodes"]) > 1:
        master = {"MASTER_ADDR": order["master_address"], "MASTER_PORT": str(order["master_port"])}
        told.update(master)
        told.update({f"PET_{name}": value for name, value in {**_nodes(order, rank), **master}.items()})
    return told


def wrapped(order: Json) -> bool:
    """Whether torchrun starts the command."""
    command = order["command"]
    return command["wrap"] is not None and (command["processes"] != 1 or len(order["nodes"]) > 1)


def command_line(order: Json, rank: int, keeper: list[str], folder: str) -> list[str]:
    """The words that are started on this node; `keeper` goes between torchrun and each rank.

    A script with a `#!` line becomes a file in `folder`, outside the tree.
    """
    command = order["command"]
    argv = list(command["argv"])
    if command["shell"]:
        return _script(command, _torchrun(order, rank, keeper) if wrapped(order) else None, folder)
    if not wrapped(order):
        return argv
    at = command["wrap"]
    return [*argv[: at + 1], *_torchrun(order, rank, keeper), *argv[at:]]


def _script(command: Json, torchrun: list[str] | None, folder: str) -> list[str]:
    text, interpreter = command["argv"][0], command.get("interpreter", ["/bin/sh", "-e"])
    if torchrun is not None:  # the shell expands the words, torchrun starts what they are then
        return [*interpreter, "-c", f'set -- {text}\nexec "$1" {shlex.join(torchrun)} "$@"']
    if not text.startswith("#!"):
        return [*interpreter, "-c", text]
    path = os.path.join(folder, "command")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return [*text.splitlines()[0][2:].split(), path]


# Plain `torchrun` has its own folder in front of its modules, where `-m` would have the directory of the script.
_START = """import sys
sys.path[:] = filter(None, sys.path)
try:
    from torch.distributed.run import main
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] != "torch":
        raise
    sys.exit(
        "error: torchrun starts several processes or nodes, and %s has no torch\\n  name torch in the files that "
        "the environment is built from, or switch on one that has it; a script that starts its own processes "
        "takes  --processes own" % sys.executable
    )
main()"""


def _torchrun(order: Json, rank: int, keeper: list[str]) -> list[str]:
    """The words between `python` and the script."""
    nodes = ["--standalone", "--nnodes", "1"]
    if len(order["nodes"]) > 1:
        nodes = ["--nnodes", str(len(order["nodes"])), "--node_rank", str(rank)]
        nodes += ["--master_addr", order["master_address"], "--master_port", str(order["master_port"])]
    # Underscores, not hyphens: every torchrun knows them.
    ranks = ["--nproc_per_node", str(order["command"]["processes"])]
    return ["-c", _START, *nodes, *ranks, "--no_python", *keeper]
