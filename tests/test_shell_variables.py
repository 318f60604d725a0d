"""Variables of the user's shell that count for a training and do not travel are named, never what they are set to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sojourn.plan import command
from sojourn.plan.shell_variables import note
from sojourn.spec.launch import make_launch

USUAL = {
    "HOME": "/home/me", "PATH": "/usr/bin", "LANG": "C.UTF-8", "SHELL": "/bin/bash", "TERM": "xterm", "PWD": "/x",
    "SHLVL": "1", "_": "/usr/bin/sojourn", "EDITOR": "vi", "SSH_AUTH_SOCK": "/run/x", "DISPLAY": ":0", "LC_ALL": "C",
    "XDG_RUNTIME_DIR": "/run/user/0", "CONDA_PREFIX": "/opt/conda", "VIRTUAL_ENV": "/v", "PYTORCH_VERSION": "2.9",
    "NVIDIA_REQUIRE_CUDA": "cuda>=9", "AWS_PROFILE": "me", "GITHUB_TOKEN": "x", "SOJOURN_HOME": "/s", "OLDPWD": "/",
    "TF_CLI_CONFIG_FILE": "/x", "TF_VAR_region": "x", "TF_LOG": "1", "TF_PLUGIN_CACHE_DIR": "/x",
}  # fmt: skip


def said(
    project: Path, shell: dict[str, str], asked: Any = ("python", "train.py"), away: bool = False, **launch: Any
) -> str:
    started = command.read(asked, 1, 1)
    told = note(
        {**USUAL, **shell},
        make_launch({"command": asked, **launch}, origin="test"),
        started,
        project / "train.py",
        directory=project,
        lines=started.argv if started.shell else (),
        given=(),
        this_host=not away,
        python_path=not away,
    )
    assert len(told) <= 1
    return "".join(told)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("print('trained')\n")
    return tmp_path


def test_an_ordinary_shell_adds_no_line(project: Path) -> None:
    assert said(project, {}) == "" and said(project, {}, away=True) == ""


@pytest.mark.parametrize(
    "name",
    [
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG",
        "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK", "TORCH_HOME", "TF_DETERMINISTIC_OPS", "NCCL_DEBUG",
        "HF_HOME", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI",
        "XLA_FLAGS", "JAX_ENABLE_X64", "KERAS_BACKEND", "ACCELERATE_MIXED_PRECISION", "HYDRA_FULL_ERROR", "LD_PRELOAD",
        "PYTHONOPTIMIZE", "DS_SKIP_CUDA_CHECK", "FLASH_ATTENTION_DETERMINISTIC", "USE_TF", "NLTK_DATA",
    ],
)  # fmt: skip
def test_what_a_library_of_training_reads_is_named_without_its_value(project: Path, name: str) -> None:
    line = said(project, {name: "the-value"})

    assert line == f"set here and not for the script: {name}: variables: {{{name}: …}}"


def test_what_is_sent_or_typed_is_not_named(project: Path) -> None:
    shell = {"OMP_NUM_THREADS": "1", "WANDB_API_KEY": "x", "PYTHONHASHSEED": "0"}
    typed = ("env", "PYTHONHASHSEED=1", "python", "train.py")

    assert said(project, shell, typed, variables={"OMP_NUM_THREADS": "1"}, secrets=["WANDB_API_KEY"]) == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_API_KEY", "x"), ("HF_TOKEN", "x"), ("HUGGINGFACE_HUB_TOKEN", "x"), ("MLFLOW_TRACKING_PASSWORD", "x"),
        ("CLEARML_API_SECRET_KEY", "x"), ("MLFLOW_TRACKING_URI", "https://me:word@example.com"),
    ],
)  # fmt: skip
def test_a_credential_is_led_to_the_secrets(project: Path, name: str, value: str) -> None:
    assert said(project, {name: value}) == f"set here and not for the script: {name}: --secret {name}"


def test_one_line_holds_them_all(project: Path) -> None:
    shell = {f"OMP_{number}": "1" for number in range(10)} | {"HF_TOKEN": "x"}

    line = said(project, shell)

    assert line.startswith("set here and not for the script: OMP_0, OMP_1,") and "and 2 more: variables:" in line
    assert line.endswith("; HF_TOKEN: --secret HF_TOKEN")


@pytest.mark.parametrize(
    "text",
    [
        "import os\nepochs = int(os.environ.get('EPOCHS', 10))\n",
        'from os import environ\nepochs = environ["EPOCHS"]\n',
        "import os\nepochs = os.getenv('EPOCHS')\n",
        "import os\nif 'EPOCHS' in os.environ: pass\n",
    ],
)
def test_what_the_script_itself_asks_for_is_named(project: Path, text: str) -> None:
    (project / "train.py").write_text(text)

    assert "EPOCHS: variables:" in said(project, {"EPOCHS": "3"})
    assert said(project, {"OTHER": "3"}) == ""


@pytest.mark.parametrize(
    "asked",
    [
        "python train.py --lr $LR",
        "python train.py --lr ${LR:-0.1} | tee log",
        ("bash", "-c", "python train.py $LR"),
        ("bash", "launch.sh"),
        ("torchrun", "asks.py"),
        ("python", "-m", "pkg.main"),
    ],
)
def test_what_the_command_asks_for_is_named(project: Path, asked: str | tuple[str, ...]) -> None:
    (project / "launch.sh").write_text("# $OTHER\nseed=$SEED\npython train.py --lr $LR $seed\n")
    (project / "asks.py").write_text("import os; os.environ['LR']\n")
    (project / "pkg").mkdir()
    (project / "pkg" / "main.py").write_text("import os; os.environ['LR']\n")

    assert said(project, {"LR": "3", "OTHER": "1"}, asked) == "set here and not for the script: LR: variables: {LR: …}"


@pytest.mark.parametrize(
    "text", ["LR=1; python train.py $LR", "for LR in 1 2; do python train.py $LR; done", "a '$LR'"]
)
def test_what_the_command_sets_itself_is_not_named(project: Path, text: str) -> None:
    assert said(project, {"LR": "3"}, text) == ""


def test_of_this_host_s_own_devices_and_folders_another_machine_is_told_nothing(project: Path) -> None:
    own = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_HOME": "/usr/local/cuda", "HF_HOME": "/big/disk", "LD_PRELOAD": "/x.so"}

    assert said(project, own, away=True) == ""
    assert "CUDA_LAUNCH_BLOCKING" in said(project, {"CUDA_LAUNCH_BLOCKING": "1"}, away=True)
    assert said(project, {"CUDA_LAUNCH_BLOCKING": "1", "CUDA_VISIBLE_DEVICES": "1"}) == ""  # passed on


def test_modules_that_pythonpath_leads_to_are_missed_where_an_environment_is_built(project: Path) -> None:
    assert "PYTHONPATH" in said(project, {"PYTHONPATH": "src"}, away=True)
    assert said(project, {"PYTHONPATH": "src"}) == ""
