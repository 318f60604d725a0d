"""What processes that we leave running keep of a terminal's environment: what they need, and no key of anybody's.

A process's environment can be read for as long as it lives, by every program of the same user:
a script would find there what its own environment leaves out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from sojourn.agent.script.launch import PASSED, PASSED_PREFIXES
from sojourn.agent.script.mask import is_ordinary
from sojourn.clouds.registry import CLOUDS
from sojourn.errors import SpecError
from sojourn.secrets.secret_files import holds
from sojourn.spec.launch import Launch

TOO_USUAL = "a value that is so short or so usual would hide half of it"

_SYSTEM = frozenset(
    [
        *PASSED.split(),
        *"ALL_PROXY all_proxy CURL_CA_BUNDLE NIX_SSL_CERT_FILE DYLD_LIBRARY_PATH DYLD_FALLBACK_LIBRARY_PATH".split(),
        *"SYSTEMD_EXEC_PID DBUS_SESSION_BUS_ADDRESS PYTHONHOME PYTHONUTF8 PYTHONIOENCODING PYTHONTZPATH".split(),
        *"DO_NOT_TRACK SOJOURN_HOME".split(),
    ]
)
_PREFIXES = (*PASSED_PREFIXES, "XDG_")
_LOGINS_OF_CLIENTS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS")
_CLOUD = tuple(name for cloud in CLOUDS.values() for name in cloud.variables)


def of_server(surroundings: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For a Prefect server: the system's, and Prefect's own settings without the logins of clients."""
    prefect = {name: value for name, value in surroundings.items() if name.startswith("PREFECT_")}
    for name in _LOGINS_OF_CLIENTS:
        prefect.pop(name, None)
    return _of_system(surroundings) | prefect


def of_machine(names: Iterable[str], surroundings: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For a machine that is this host: the system's, and what goes by these names; `NAME_*` stands for several."""
    wanted = list(names)
    chosen = {name: value for name, value in surroundings.items() if any(fnmatchcase(name, one) for one in wanted)}
    return _of_system(surroundings) | chosen


def kept_variables(secrets: Iterable[str], store: str, with_keys: bool) -> tuple[str, ...]:
    """Names of what a run's machines keep where they are this host: for its script, for a store or data in a cloud."""
    return (*secrets, *(() if store.startswith("file:") and not with_keys else _CLOUD))


def not_hidden(secrets: Iterable[str], surroundings: Mapping[str, str]) -> tuple[str, ...]:
    """One line that names the secrets whose values the log may show, or none."""
    names = [name for name in secrets if is_ordinary(surroundings.get(name, ""))]
    return (f"not hidden in the log, as {TOO_USUAL}: {', '.join(names)}",) if names else ()


def check_written(launch: Launch, words: Iterable[str], surroundings: Mapping[str, str]) -> None:
    """Raise SpecError for a secret that is written out where plan, ledger and Prefect show it.

    `words` are the command's. A secret's value here is that of this host's shell.
    """
    values = {name: surroundings.get(name, "") for name in launch.secrets}
    known = {name: value for name, value in values.items() if not is_ordinary(value)}
    texts = [*(("command", word) for word in (*words, *launch.resume_args)), *_variables(launch)]
    for field, text in texts:
        what = next((f"the value of {name}" for name, value in known.items() if value in text), None) or holds(text)
        if what is not None:
            raise SpecError(
                f"{field}: holds {what}, and what is written there is kept in plan, ledger and Prefect",
                hint="the script gets it in its environment by  --secret NAME; leave the value out",
            )


def _variables(launch: Launch) -> list[tuple[str, str]]:
    return [(f"variables: {name}", value) for name, value in launch.variables.items()]


def _of_system(surroundings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in surroundings.items() if name in _SYSTEM or name.startswith(_PREFIXES)}
