"""When the credentials end that nothing here can renew, and what that means for a run.

Roles and profiles are renewed by botocore as often as needed. Keys that were fetched into the
environment, and a login by `aws sso login`, end when they end. A run does not need us: its
machines act by a role of their own. But nobody can follow it then, nor bring it home.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sojourn.errors import SpecError
from sojourn.shorthand import format_duration

LEAST_S = 600.0  # to bundle, to rent and to hand over the order; a machine without one ends after as long
SSO_CACHE = Path("~/.aws/sso/cache")


def ends_at(session: Any) -> float | None:
    """When a botocore session's credentials end for good; None when they do not, or when nobody says."""
    found = session.get_credentials()
    if found is None:
        return None
    if found.method == "sso":
        return _login_ends_at(session)
    # The end of keys in the environment is a variable beside them: `aws configure export-credentials` writes it.
    ends = getattr(found, "_expiry_time", None) if found.method == "env" else None
    return ends.timestamp() if ends else None


def remarks(ends: float | None, until: float | None, now: float) -> tuple[str, ...]:
    """What a plan says of credentials that end before its machines are gone for certain.

    Raises SpecError when they end before the machines could be told what to do.
    """
    if ends is None or until is None or ends >= until:
        return ()
    if ends < now + LEAST_S:
        left = f"end in {format_duration(ends - now)}" if ends > now else "have ended"
        raise SpecError(
            f"aws: these credentials {left}, before machines would have what they need",
            hint="log in anew first: aws sso login, or put fresh keys into AWS_ACCESS_KEY_ID and its kin",
        )
    return (
        f"your credentials end at {datetime.fromtimestamp(ends):%H:%M}, and the run may go on until "
        f"{datetime.fromtimestamp(until):%H:%M}: it is lost from sight then, its machines finish, keep their results "
        "in the store and end by themselves; log in anew and bring it home by: sojourn attach last",
    )


def _login_ends_at(session: Any) -> float | None:
    from botocore.exceptions import SSOTokenLoadError
    from botocore.utils import JSONFileCache, SSOTokenLoader

    with suppress(KeyError, ValueError, OSError, SSOTokenLoadError):
        profile = session.get_scoped_config()
        name = profile.get("sso_session")
        where = session.full_config["sso_sessions"][name] if name else profile
        token = SSOTokenLoader(cache=JSONFileCache(os.path.expanduser(SSO_CACHE)))(where["sso_start_url"], name)
        if "refreshToken" not in token:  # with one, botocore logs in anew by itself
            return datetime.fromisoformat(token["expiresAt"].replace("UTC", "+00:00")).timestamp()
    return None
