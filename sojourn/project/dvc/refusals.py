"""What DVC and the libraries of its remotes refuse: a decision for each, with what to type next.

Every kind of remote raises its own library's errors, and s3fs, gcsfs, sshfs, dvc-http and webdav4 also dress
them as OSErrors. They are told apart by the names of their classes, by status codes and by errno, so that no
such library is imported for it.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from typing import Any

from sojourn import programs
from sojourn.errors import AccessError, SojournError, SpecError, TransientError, first_line

_NO_LOGIN = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "SSOError", "TokenRetrievalError",
    "DefaultCredentialsError", "RefreshError", "ClientAuthenticationError", "CredentialUnavailableError",
}  # fmt: skip
_DENIED = {"PermissionError", "PermissionDenied", "SFTPPermissionDenied", "ForbiddenOperation"}
_STRANGE_HOST = {"HostKeyNotVerifiable", "KeyExchangeFailed", "BadHostKeyException"}
_MISSING = {"FileNotFoundError", "NoSuchBucket", "SFTPNoSuchFile", "ResourceNotFound", "ContainerNotFoundError"}
_SETTINGS = {
    "ProfileNotFound",
    "ConfigParseError",
    "InvalidConfigError",
    "NoRegionError",
    "ValueError",
    "KeyImportError",
}
_AWAY = {
    "ConnectionError", "EndpointConnectionError", "HTTPClientError", "ClientConnectionError", "ServerTimeoutError",
    "DisconnectError", "ChannelOpenError", "TransportError", "ServiceRequestError", "TimeoutError", "gaierror",
    "IncompleteReadError", "ResponseStreamingError", "ProxyError", "HttpProcessingError",
}  # fmt: skip
_AWAY_BY_ERRNO = {errno.EBUSY, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EIO}
_LOGINS = {
    "s3": "give some: aws configure, or export AWS_PROFILE=… or AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…",
    "gs": "gcloud auth application-default login",
    "azure": "az login",
    "ssh": "try it: ssh HOST; name the user or key: {modify} user NAME",
}
_FAMILY = ("dvc", "dvc_data", "dvc_objects", "dvc_http", "dvc_s3", "scmrepo", "dulwich", "pygit2", "git", "diskcache")


def remote_refusal(error: BaseException, name: str, scheme: str, place: str) -> SojournError:
    """Why a remote could not be used, by whatever its library raised."""
    chain = list(_chain(error))
    names = {one.__name__ for raised in chain for one in type(raised).__mro__}
    said = f"DVC remote {name!r} at {place}"
    words, status = _words(error), next(filter(None, map(_status, chain)), None)
    modify = programs.dvc(f"remote modify --local {name}")
    look = programs.dvc(f"status --cloud --remote {name}")
    login = _LOGINS.get(scheme, "{modify} user NAME; {modify} password …").format(modify=modify)
    if "WRONG_VERSION_NUMBER" in words:
        return SpecError(f"{said} does not speak TLS: {words}", hint=f"write its URL without the s: {modify} url URL")
    if any(isinstance(raised, ssl.SSLError) for raised in chain) or "SSLError" in names:
        return SpecError(f"{said}: its certificate is not trusted: {words}", hint=f"{modify} ssl_verify FILE")
    if names & _STRANGE_HOST:
        return AccessError(f"{said}: its host is not known: {words}", hint="see its key once: ssh HOST")
    if names & _NO_LOGIN or status == 401:
        return AccessError(f"{said} wants credentials: {words}", hint=login)
    if names & _DENIED or status == 403 or words.startswith("Forbidden"):  # gcsfs says no more than that
        return AccessError(f"{said} does not let these credentials in: {words}", hint=f"{login}; then: {look}")
    if isinstance(error, FileNotFoundError) and error.filename and scheme != "local":  # a key or login of ours
        return SpecError(f"{said} cannot be asked: {words}", hint=f"look at its settings: {programs.dvc('config -l')}")
    if names & _MISSING or status == 404:
        return SpecError(f"{said}: there is no such bucket or folder: {words}", hint=programs.dvc("remote list"))
    codes = {raised.errno for raised in chain if isinstance(raised, OSError)}
    if errno.ENOSPC in codes or errno.EDQUOT in codes:
        return TransientError(f"{said} is full: {words}", hint=f"make room, then: {look}")
    if names & _AWAY or codes & _AWAY_BY_ERRNO or (status is not None and (status >= 500 or status == 429)):
        return TransientError(f"{said} does not answer: {words}", hint=look)
    if names & _SETTINGS:
        return SpecError(f"{said} cannot be asked: {words}", hint=f"look at its settings: {programs.dvc('config -l')}")
    return SpecError(f"{said} refuses: {words}", hint=look)


def but_for_absence(error: BaseException) -> BaseException | None:
    """What went wrong when an object was asked for; None where it is not there: fsspec says so of any failure."""
    others = (
        raised for raised in _chain(error) if not (isinstance(raised, FileNotFoundError) or _status(raised) == 404)
    )
    return next(others, None)


def dvc_refusal(error: BaseException) -> SojournError | None:
    """What DVC lets through as Python's, sqlite's or git's own errors; None for what was raised outside of DVC."""
    if not any(module.split(".")[0] in _FAMILY for module in _modules(error)):
        return None
    doctor = programs.dvc("doctor")
    if isinstance(error, OSError) and error.strerror:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = TransientError if full else SpecError
        return kind(
            f"DVC: {_words(error)}", hint="make room" if full else f"look whose it is; where DVC writes: {doctor}"
        )
    if type(error).__module__ == "sqlite3":
        hint = f"its databases can be made anew: remove .dvc/tmp, and the site cache that is shown by: {doctor}"
        return SpecError(f"DVC's own database: {first_line(error)}", hint=hint)
    return SpecError(f"DVC: {type(error).__name__}: {first_line(error)}", hint=programs.dvc("status -v"))


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return first_line(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, wherever its library keeps it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return found if isinstance(found, int) else None
    for one in (
        getattr(response, "status_code", None),
        *(getattr(error, at, None) for at in ("status", "status_code")),
    ):
        if isinstance(one, int) and 100 <= one < 600:
            return one
    code = getattr(error, "code", None)
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _modules(error: BaseException) -> Iterator[str]:
    last = error.__traceback__
    while last is not None:
        yield str(last.tb_frame.f_globals.get("__name__"))
        last = last.tb_next
