"""What processes that we leave running keep of a terminal's environment: what they need, and no key of anybody's.

A process's environment can be read for as long as it lives, by every program of the same user:
a script would find there what its own environment leaves out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from sojourn.agent.launch import PASSED, PASSED_PREFIXES
from sojourn.agent.mask import is_ordinary

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
_CLOUD = ("AWS_*", "BOTO_*")


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


def _of_system(surroundings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in surroundings.items() if name in _SYSTEM or name.startswith(_PREFIXES)}
