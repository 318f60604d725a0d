"""What the store of a run refuses, told from what obstore says: a file system in its errno, a cloud in its words.

A cloud whose answers are more than words brings its own table (`sojourn.clouds`).
"""

from __future__ import annotations

import errno
import os
import re
from urllib.parse import urlsplit

import obstore.exceptions

from sojourn.errors import AccessError, FullError, GoneError, SojournError, SpecError, TransientError, first_line

_ERRNO = re.compile(r"\(os error (\d+)\)")
_MOVE = "export SOJOURN_HOME=DIRECTORY, or name another store: --store file:///absolute/path"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR}  # the store, not what was asked for
_WRONG = {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_LOGINS = {
    "gs": "gcloud auth application-default login, or export GOOGLE_APPLICATION_CREDENTIALS=FILE",
    "az": "export AZURE_STORAGE_ACCOUNT_NAME=… and AZURE_STORAGE_ACCOUNT_KEY=…, or az login",
}
_NO_LOGIN = ("token request", "169.254.169.254", "Account must be specified", "credential", "Missing")


def file_refusal(url: str, error: Exception, doing: str) -> SojournError:
    """What a file system refused; by its own number, which obstore keeps in the text alone."""
    number = error.errno if isinstance(error, OSError) else None
    found = _ERRNO.search(str(error))
    number = number or (int(found[1]) if found else None)
    words = os.strerror(number) if number else first_line(error)
    said = f"store: {url}: could not {doing}: {words}"
    if number in _FULL:
        hint = "make room (old runs go by: sojourn purge --yes), then: sojourn attach RUN"
        return FullError(f"the store is full: could not {doing}: {words}", hint=hint)
    if number in _CLOSED:
        return AccessError(said, hint=_MOVE)
    if number in _WRONG:
        return SpecError(said, hint=_MOVE)
    return TransientError(said)


def place_refusal(url: str, error: OSError) -> SpecError:
    """Why the directory of a store cannot be made."""
    return SpecError(f"store: {url!r} cannot be made: {error.filename}: {error.strerror}", hint=_MOVE)


def cloud_refusal(url: str, error: Exception, doing: str) -> SojournError:
    """What a store on Google's or Microsoft's cloud refused."""
    words = first_line(error)[:300]
    login = _LOGINS.get(urlsplit(url).scheme)
    if isinstance(error, (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)):
        return AccessError(f"store: {url} does not let these credentials {doing}: {words}", hint=login)
    if any(sign in words for sign in _NO_LOGIN):
        return AccessError(f"store: {url} wants credentials: {words}", hint=login)
    if isinstance(error, (obstore.exceptions.NotFoundError, FileNotFoundError)):
        return GoneError(f"store: {url}: there is no such bucket", hint="name one that is there: --store URL")
    return TransientError(f"the store did not answer: could not {doing}: {words}")
