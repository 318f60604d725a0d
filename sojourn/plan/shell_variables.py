"""Variables of the user's shell that a training reads and that do not travel with its run.

A script's environment is clean, so `OMP_NUM_THREADS=1` or `EPOCHS=3` in front of `sojourn` would change
nothing, without a word. The plan names those that count, and never what they are set to: the ones that
libraries of training read, and the ones that the command itself or its script asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sojourn.agent.script.launch import PASSED, PASSED_PREFIXES
from sojourn.omissions import printable
from sojourn.protocol import Command
from sojourn.spec.launch import Launch

READ_LIMIT = 1 << 20
SHOWN = 8
_FAMILIES = """
OMP GOMP KMP MKL OPENBLAS BLIS VECLIB NUMEXPR NUMBA MALLOC TBB
CUDA CUBLAS CUBLASLT CUDNN NVIDIA NCCL RCCL GLOO HIP ROCR HSA MIOPEN UCX
PYTORCH TORCH TORCHINDUCTOR TORCHDYNAMO TORCHELASTIC TRITON XFORMERS FLASH_ATTENTION BITSANDBYTES
TF TFDS TFHUB KERAS JAX XLA LIBTPU PJRT
HF HUGGINGFACE TRANSFORMERS DIFFUSERS TOKENIZERS ACCELERATE DEEPSPEED DS PL LIGHTNING FSDP VLLM TIKTOKEN
WANDB MLFLOW COMET NEPTUNE CLEARML AIM SWANLAB TENSORBOARD KAGGLE DVCLIVE
RAY HYDRA SKLEARN POLARS OPENCV DALI NLTK SENTENCE_TRANSFORMERS SPACY
""".split()
_OTHERS = {
    "CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "USE_TF", "USE_TORCH", "USE_FLAX", "USE_JAX",
    "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONSAFEPATH",
}  # fmt: skip
# What every session has or images note of themselves, what is set for each run, and Terraform's, which begin as
# TensorFlow's do.
_USUAL = re.compile(
    r"PWD|OLDPWD|SHLVL|_|TERM|COLUMNS|LINES|HOSTNAME|PS\d|IFS|OPTARG|RANDOM|SECONDS|VIRTUAL_ENV|CONDA_PREFIX|UV|"
    r"PYTHONUNBUFFERED|PYTHONFAULTHANDLER|SOJOURN_.*|PREFECT_.*|DVC_(ROOT|STAGE|NO_ANALYTICS)|\w+_VERSION|"
    r"(NVIDIA|CUDA)_(REQUIRE|DRIVER|PRODUCT)_\w+|"
    r"TF_(VAR|CLI|TOKEN|REGISTRY|PLUGIN|CLOUD|REATTACH|STATE)_\w+|TF_(LOG\w*|WORKSPACE|DATA_DIR|INPUT|IN_AUTOMATION)|"
    r"RANK|LOCAL_RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT"
)
_OF_THIS_HOST = re.compile(r"\w+_VISIBLE_DEVICES|(CUDA|CUDNN|HIP|NVIDIA)_\w*(HOME|PATH|ROOT|DIR)|LD_PRELOAD")
_SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH|PAT)(_|$)|APIKEY", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/@\s]+@")
_ASKED_BY_PYTHON = re.compile(
    r"(?:environ(?:\.get|\.setdefault|\.pop)?\s*[\[(]|getenv\s*\()\s*[rR]?['\"](\w+)['\"]"
    r"|['\"](\w+)['\"]\s+(?:not\s+)?in\s+(?:os\.)?environ\b"
)
_ASKED_BY_SHELL = re.compile(r"(?<!\\)\$(?:(\w+)|\{[#!]?(\w+))")
_ASSIGNED = re.compile(r"(?:^|[;&|(\s])(?:for\s+(\w+)\s|read\s+(?:-\w+\s+)*(\w+)|(\w+)=)")


def note(
    surroundings: Mapping[str, str],
    launch: Launch,
    command: Command,
    script: Path | None,
    *,
    directory: Path,
    lines: Sequence[str],
    given: Iterable[str],
    this_host: bool,
    python_path: bool,
) -> tuple[str, ...]:
    """One line that names them, or none.

    `script` is the file that the command starts in `directory`, `lines` what of it a shell reads, `given` what it gets
    beside `launch`'s own variables, `this_host` whether the machine is this one, `python_path` whether PYTHONPATH was
    looked after.
    """
    have = {*given, *launch.variables, *launch.secrets, *_typed(command.argv)}
    words = command.argv if not lines else [word for line in lines for word in line.split()]
    read = {name for line in (*lines, *_inner(command.argv)) for name in _of_shell(line)}
    for file in {*([script] if script else []), *_files(words, directory)}:
        read |= _asked(file)
    names = [
        name
        for name, value in surroundings.items()
        if name not in have and not _passed(name, this_host) and not _USUAL.fullmatch(name)
        if name in read or (_matters(name, value, this_host) or (name == "PYTHONPATH" and value and not python_path))
    ]
    secret = sorted(name for name in names if _is_secret(name, surroundings[name]))
    plain = sorted(set(names) - set(secret), key=lambda name: (name not in read, name))
    if not names:
        return ()
    parts = [f"{_listed(plain)}: variables: {{{printable(plain[0])}: …}}"] if plain else []
    parts += [f"{_listed(secret)}: --secret {printable(secret[0])}"] if secret else []
    return (f"set here and not for the script: {'; '.join(parts)}",)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(printable, names[:SHOWN])) + more


def _passed(name: str, this_host: bool) -> bool:
    """The agent passes on what its own machine has; of another machine these are its own affair."""
    return name in PASSED.split() or (name.startswith(PASSED_PREFIXES) and this_host) or name.startswith("LC_")


def _matters(name: str, value: str, this_host: bool) -> bool:
    if not value or (name not in _OTHERS and name.partition("_")[0] not in _FAMILIES and not _of_a_family(name)):
        return False
    return this_host or not (_OF_THIS_HOST.fullmatch(name) or value.startswith("/"))


def _of_a_family(name: str) -> bool:
    return any("_" in family and name.startswith(f"{family}_") for family in _FAMILIES)


def _is_secret(name: str, value: str) -> bool:
    return _SECRET.search(name) is not None or _LOGIN.search(value) is not None


def _typed(argv: Sequence[str]) -> set[str]:
    """Variables in front of the program: `OMP_NUM_THREADS=4 python train.py`."""
    return {found[1] for word in argv for found in [re.match(r"(\w+)=", word)] if found}


def _inner(argv: Sequence[str]) -> list[str]:
    """What `bash -c TEXT` is given."""
    return [text for flag, text in zip(argv, argv[1:], strict=False) if re.fullmatch(r"-[a-z]*c", flag)]


def _files(words: Sequence[str], directory: Path) -> list[Path]:
    """Scripts that are named, and modules behind `-m`."""
    named = [directory / word for word in words if word.endswith((".py", ".sh"))]
    for flag, module in zip(words, words[1:], strict=False):
        if flag == "-m" and re.fullmatch(r"[\w.]+", module):
            place = module.replace(".", "/")
            named += [directory / top / f"{place}{end}" for top in (".", "src") for end in (".py", "/__main__.py")]
    return named


def _asked(file: Path) -> set[str]:
    """The names that a file asks the environment for."""
    try:
        if not file.is_file() or file.stat().st_size > READ_LIMIT:
            return set()
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    if file.suffix == ".py":
        return {one or other for one, other in _ASKED_BY_PYTHON.findall(text)}
    return _of_shell(text)


def _of_shell(text: str) -> set[str]:
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    asked = {one or other for one, other in _ASKED_BY_SHELL.findall(re.sub(r"'[^']*'", "", plain))}
    return asked - {name for found in _ASSIGNED.findall(plain) for name in found}
