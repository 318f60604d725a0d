"""What a Prefect server, or Prefect itself, refuses: each in one sentence, with what to type next.

A server is asked for its version with the user's own login, certificates and headers, because
its health is told to anybody. Who is refused is not recorded, and a run goes on all the same.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sojourn.errors import AccessError, SojournError, SpecError, TransientError, first_line

ASK_LIMIT_S = 8.0
FORGET = "look at your settings: sojourn prefect config view"
_OF_OBJECTS = ("ObjectNotFound", "ObjectAlreadyExists", "ObjectLimitReached", "ObjectUnsupported")
_KNOWN_BY_CLOUD = "/block_types/slug/secret"  # every workspace has it; Cloud has no version to ask for


def server_refusal(api: str, login: str | None = None) -> SojournError | None:
    """Why this Prefect API cannot be used, or None when it can. Raises SpecError for settings that are broken.

    `login` goes before the user's own.
    """
    _check_url(api)
    with readable_settings():
        request = _request(api, login)
    try:
        with urllib.request.urlopen(request, timeout=ASK_LIMIT_S, context=_trust()) as answer:
            return _of_answer(api, answer.read(100_000))
    except urllib.error.HTTPError as error:
        return _of_status(api, error)
    except (OSError, ValueError, HTTPException) as error:
        return _of_silence(api, getattr(error, "reason", error))


@contextmanager
def readable_settings() -> Iterator[None]:
    """Turn what Prefect raises while it reads its settings into a SpecError."""
    try:
        yield
    except SojournError:
        raise
    except Exception as error:
        raise settings_refusal(error) from error


def settings_refusal(error: BaseException) -> SpecError:
    """Prefect's settings cannot be read: which one, and where they may stand."""
    said = first_line(error)
    details: Callable[[], list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if type(error).__name__ == "ValidationError" and callable(details):
        first = details()[0]
        group = str(getattr(error, "title", "")).removesuffix("Settings").lower()
        name = ".".join(str(part) for part in first["loc"])
        said = f"{f'{group}.' if group else ''}{name}: {first['msg']}, not {first.get('input')!r}"
    elif isinstance(error, OSError):
        said = f"{error.filename}: {error.strerror}"
    elif isinstance(error, ValueError):  # a file of settings that is no TOML, or no text
        said = said if str(_profiles()) in said else f"{_profiles()}: {said}"
    if error.__cause__ is not None:
        said = f"{said} ({first_line(error.__cause__)})"
    where = f"PREFECT_… in your environment or ./.env, ./prefect.toml, ./pyproject.toml, or {_profiles()}"
    return SpecError(f"Prefect's settings: {said}", hint=f"mend it where it stands: {where}")


def call_refusal(error: BaseException) -> SojournError | None:
    """What an error of Prefect's own client means; None for what is none of Prefect's."""
    while error.__cause__ is not None and not _status_of(error):
        error = error.__cause__
    module = type(error).__module__.split(".")[0]
    status = _status_of(error)
    if status:
        asked = getattr(error, "request", None)
        url = f"{urlsplit(str(asked.url)).scheme}://{urlsplit(str(asked.url)).netloc}" if asked else "its address"
        return _of_code(url, status, first_line(error))
    if module in ("httpx", "httpcore", "websockets") or type(error).__name__ in _OF_OBJECTS:
        return TransientError(f"Prefect: {first_line(error)}", hint=FORGET)
    if isinstance(error, RuntimeError) and "incompatible versions" in str(error):
        return _version(first_line(error))
    return None


def _request(api: str, login: str | None) -> urllib.request.Request:
    from prefect.client.constants import SERVER_API_VERSION
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    headers = {"X-PREFECT-API-VERSION": SERVER_API_VERSION, "User-Agent": "sojourn"}
    headers |= {name: str(value) for name, value in settings.client.custom_headers.items()}
    login = login or (settings.api.auth_string.get_secret_value() if settings.api.auth_string else None)
    if login:
        token = base64.b64encode(login.encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    elif settings.api.key:
        headers["Authorization"] = f"Bearer {settings.api.key.get_secret_value()}"
    path = _KNOWN_BY_CLOUD if _is_cloud(api) else "/admin/version"
    return urllib.request.Request(api.rstrip("/") + path, headers=headers)


def _check_url(api: str) -> None:
    try:
        place = urlsplit(api)
        usable = place.scheme in ("http", "https") and place.hostname and place.port != 0
    except ValueError:
        usable = False
    if not usable:
        hint = "one like http://127.0.0.1:4200/api: sojourn prefect config set PREFECT_API_URL=URL"
        raise SpecError(f"Prefect: PREFECT_API_URL: {api!r} is not a URL", hint=hint)


def _trust() -> ssl.SSLContext:
    """What Prefect's client trusts."""
    import certifi
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.tls_insecure_skip_verify:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    trusted = settings.api.ssl_cert_file or certifi.where()
    try:
        return ssl.create_default_context(cafile=trusted)
    except OSError as error:
        hint = "name a file of certificates: sojourn prefect config set PREFECT_API_SSL_CERT_FILE=FILE"
        raise SpecError(f"Prefect: {trusted}: no certificates: {error.strerror or error}", hint=hint) from error


def _of_answer(api: str, body: bytes) -> SojournError | None:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        if "prefect.cloud" in api:  # the address of its pages, from a browser
            hint = "sojourn prefect cloud login, then: sojourn prefect cloud workspace set"
            return SpecError(f"{api} is a page of Prefect Cloud and not its API", hint=hint)
        other = f"{api.rstrip('/')}/api"
        page = "a web page" if b"<html" in body[:2000].lower() or b"<!doctype" in body[:2000].lower() else "other data"
        return SpecError(
            f"what answers at {api} is not a Prefect API: it sends {page}",
            hint="a Prefect API's address ends with /api: " + (FORGET if api.rstrip("/").endswith("/api") else other),
        )
    if _is_cloud(api):
        return None
    if not isinstance(answer, str):
        return SpecError(f"what answers at {api} is not a Prefect API", hint=FORGET)
    import prefect

    if answer.split(".")[0] != prefect.__version__.split(".")[0]:
        return _version(f"{api} is Prefect {answer}, and this is {prefect.__version__}")
    return None


def _of_status(api: str, error: urllib.error.HTTPError) -> SojournError:
    try:
        body = error.read(10_000)
        said = json.loads(body)
        words = str(said.get("exception_message") or said.get("detail") or "") if isinstance(said, dict) else str(said)
    except (OSError, ValueError, RecursionError, HTTPException):
        words = ""
    return _of_code(api, error.code, words or str(error.reason))


def _of_code(api: str, code: int, words: str) -> SojournError:
    if code in (401, 403):
        return _login(api, code)
    if code == 407:
        return AccessError(f"the proxy before {api} wants a login", hint="look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
    if code == 404 and _is_cloud(api):
        hint = "sojourn prefect cloud workspace ls, then: sojourn prefect cloud workspace set"
        return AccessError(f"Prefect Cloud has no such workspace for this key: {api}", hint=hint)
    if code == 404:
        better = "" if api.rstrip("/").endswith("/api") else f", like {api.rstrip('/')}/api"
        said = f"what answers at {api} is not a Prefect API: it has no version (404)"
        return SpecError(said, hint=f"a Prefect API's address ends with /api{better}: {FORGET}")
    if code in (400, 422) and "version" in words.lower():
        return _version(f"{api}: {words}")
    if code in (408, 425, 429) or code >= 500:
        return TransientError(f"the Prefect server at {api} answers {code}: {words}", hint="see its log; try it later")
    return SojournError(f"the Prefect server at {api} answers {code}: {words}", hint=FORGET)


def _login(api: str, code: int) -> AccessError:
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if _is_cloud(api):
        given = "takes no PREFECT_API_KEY that has ended, or is another's" if settings.api.key else "wants a login"
        hint = "sojourn prefect cloud login, or: export PREFECT_API_KEY=KEY"
        return AccessError(f"Prefect Cloud {given} ({code}): {api}", hint=hint)
    sent = "PREFECT_API_AUTH_STRING" if settings.api.auth_string else "PREFECT_API_KEY" if settings.api.key else None
    said = f"does not take your {sent}" if sent else "wants a login"
    hint = "set PREFECT_API_AUTH_STRING=USER:PASSWORD (your own server) or PREFECT_API_KEY=KEY (Prefect Cloud)"
    return AccessError(f"the Prefect server at {api} {said} ({code})", hint=hint)


def _of_silence(api: str, why: object) -> SojournError:
    """No answer that HTTP knows: what kept us from one."""
    host = urlsplit(api).hostname
    if isinstance(why, ssl.SSLCertVerificationError):
        hint = "name your own authority: sojourn prefect config set PREFECT_API_SSL_CERT_FILE=FILE"
        return AccessError(
            f"the certificate of the Prefect server at {api} is not trusted: {_verified(why)}", hint=hint
        )
    if isinstance(why, ssl.SSLError):
        hint = "if it is a plain server, write http:// for https://"
        return SpecError(f"what answers at {api} does not speak TLS: {why.reason or why}", hint=hint)
    if isinstance(why, socket.gaierror):
        hint = f"look at the name, your network and DNS: {FORGET}"
        return TransientError(f"Prefect: no address is known for {host!r}", hint=hint)
    if isinstance(why, TimeoutError):
        return TransientError(f"the Prefect server at {api} did not answer within {ASK_LIMIT_S:.0f} s", hint=FORGET)
    if isinstance(why, OSError) and "Tunnel connection failed" in str(why):
        return AccessError(f"the proxy does not let us to {api}: {why}", hint="look at HTTPS_PROXY and NO_PROXY")
    if isinstance(why, HTTPException):
        return SpecError(f"what answers at {api} does not speak HTTP: {why!r}", hint="if it speaks TLS, write https://")
    proxies = {name: url for name, url in urllib.request.getproxies().items() if name == urlsplit(api).scheme}
    through = f", through the proxy {next(iter(proxies.values()))}" if proxies else ""
    reason = why.strerror if isinstance(why, OSError) and why.strerror else why
    hint = "start it, or forget it: sojourn prefect config unset PREFECT_API_URL (or: unset PREFECT_API_URL)"
    return TransientError(f"no Prefect server answers at {api}{through}: {reason}", hint=hint)


def _version(said: str) -> SpecError:
    return SpecError(
        f"Prefect's server and this client do not fit: {said}",
        hint="install the server's version beside sojourn, or a newer server: sojourn prefect version",
    )


def _verified(error: ssl.SSLCertVerificationError) -> str:
    return error.verify_message or str(error)


def _status_of(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_cloud(api: str) -> bool:
    from prefect.settings import get_current_settings

    return api.startswith(get_current_settings().cloud.api_url)


def _profiles() -> Path:
    import os

    home = os.environ.get("PREFECT_HOME") or Path.home() / ".prefect"
    return Path(os.environ.get("PREFECT_PROFILES_PATH") or Path(home) / "profiles.toml")
