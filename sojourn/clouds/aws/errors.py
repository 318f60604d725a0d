"""What Amazon's error codes mean for us: each is a decision of `sojourn.errors`.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from urllib.request import getproxies

from sojourn.clouds.aws.codes import DEAD_CREDENTIALS, DECISIONS, HINTS
from sojourn.errors import AccessError, SojournError, SpecError, TransientError, first_line, nearest

CREDENTIALS_HINT = "look: aws sts get-caller-identity; renew: aws sso login, or aws configure"
GIVE_HINT = "give some: aws configure, or export AWS_PROFILE=… or AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…"
SETTINGS_HINT = "look at ~/.aws/config, AWS_PROFILE and AWS_DEFAULT_REGION"
RIGHTS_HINT = "see what is missing: sojourn doctor --where aws"

# Signed with the wrong secret, or by a clock that is off: Amazon's words do not always say which.
_CLOCK = {
    *("SignatureDoesNotMatch", "InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed"),
    *("IncompleteSignature", "InvalidSecurity.RequestHasExpired"),
}
# Amazon's words of an instance profile that IAM has and EC2 does not know yet, for up to two minutes.
_NEW_PROFILE = re.compile("iam instance profile|no associated iam roles", re.IGNORECASE)
_NEW_ROLE = {"AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetRoleCredentials"}

# What botocore raises by itself, by the name of its class or of the nearest one above it (botocore/exceptions.py).
_SDK: dict[type[SojournError], str] = {
    AccessError: """
        NoCredentialsError PartialCredentialsError CredentialRetrievalError NoAuthTokenError TokenRetrievalError
        SSOError LoginError RefreshWithMFAUnsupportedError UnknownCredentialError UnknownTokenProviderError
        """,
    SpecError: """
        ProfileNotFound ConfigParseError ConfigNotFound InvalidConfigError NoRegionError UnknownRegionError
        InvalidRegionError ParamValidationError ValidationError MissingParametersError InvalidRetryConfigurationError
        InvalidS3AddressingStyleError InvalidS3UsEast1RegionalEndpointConfigError InvalidSTSRegionalEndpointsConfigError
        InvalidDefaultsMode InvalidProxiesConfigError InvalidEndpointConfigurationError InvalidChecksumConfigError
        InvalidEndpointDiscoveryConfigurationError EndpointVariantError EndpointProviderError UnknownEndpointError
        UnknownFIPSEndpointError UnknownSignatureVersionError UnknownServiceError DataNotFoundError
        InvalidIMDSEndpointError InvalidIMDSEndpointModeError MissingDependencyException SSLError
        """,
}
_SDK_DECISIONS = {name: kind for kind, names in _SDK.items() for name in names.split()}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what boto3 raises into a decision; the vendor's exception stays as its cause."""
    # Nothing of botocore can be raised before it was imported, and this must not import it.
    try:
        yield
    except SojournError:
        raise
    except Exception as error:
        known = _decision(error, doing)
        if known is None:
            raise
        raise known from error


def code_of(error: BaseException) -> str | None:
    """Amazon's own word for what went wrong; None for anything but an answer of Amazon's."""
    response = getattr(error, "response", None)
    found = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(found) if found is not None else None


def is_organizations(error: AccessError) -> bool:
    """Whether it was the account's organization that denies it, to whoever asks.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
    """
    return "explicit deny in a service control policy" in error.message


def region_in(error: BaseException) -> str | None:
    """Where a bucket lies, as S3 says also of one that it lets nobody look at."""
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    found = metadata.get("HTTPHeaders", {}).get("x-amz-bucket-region")
    return str(found) if found else None


def in_credentials(error: BaseException) -> bool:
    """Whether it was raised while botocore looked for credentials, also by what it runs and reads for them."""
    return any(module in ("botocore.credentials", "botocore.tokens") for module, _ in _frames(error))


def _decision(error: Exception, doing: str) -> SojournError | None:
    if not type(error).__module__.startswith(("botocore.", "boto3.", "s3transfer.", "urllib3.")):
        return (
            AccessError(f"aws: could not {doing}: {_unread(error)}", hint=_unread_hint(error))
            if in_credentials(error)
            else None
        )
    code = code_of(error)
    if code is None:
        return _unanswered(error, doing)
    message = error.response["Error"].get("Message") or code  # type: ignore[attr-defined]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)  # type: ignore[attr-defined]
    said = f"aws: could not {doing}: {_sentence(message)} ({code})"
    kind = TransientError if code == "InvalidParameterValue" and _NEW_PROFILE.search(message) else DECISIONS.get(code)
    if kind is None and code.split(".")[-1] in ("NotFound", "Malformed"):
        kind = SpecError
    if kind is None:
        # A code we never heard of: the server's fault is worth another try, ours is not.
        kind = TransientError if status >= 500 or code.isdecimal() and int(code) >= 500 else SojournError
    return kind(said, hint=HINTS.get(code) or (_access_hint(error, code) if kind is AccessError else None))


def _access_hint(error: Exception, code: str) -> str:
    operation = getattr(error, "operation_name", "")
    if operation in _NEW_ROLE and code not in DEAD_CREDENTIALS:
        return f"look at role_arn and source_profile of {_profile()} in ~/.aws/config, and at whom the role trusts"
    if code in _CLOCK:
        return f"compare `date -u` with the time, and the secret key with the account's; {CREDENTIALS_HINT}"
    return CREDENTIALS_HINT if code in DEAD_CREDENTIALS else RIGHTS_HINT


def _unread(error: Exception) -> str:
    """What kept botocore from credentials, where it lets Python's own errors through."""
    if isinstance(error, RuntimeError) and _raised_in(error) == "botocore.credentials":
        return "these credentials have ended"  # whose end is known are not sent any more once it has come
    functions = {function for _, function in _frames(error)}
    said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else first_line(error)
    if isinstance(error, EOFError):
        return f"{_profile()} asks for an MFA code, and there is nobody to type it"
    if "_retrieve_credentials_using" in functions:
        what = "could not be started" if isinstance(error, OSError) else "does not print credentials as JSON"
        return f"credential_process of {_profile()} {what}: {said}"
    if "FileWebIdentityTokenLoader" in {type(one).__name__ for one in _selves(error)}:
        return f"the web identity token (AWS_WEB_IDENTITY_TOKEN_FILE) cannot be read: {said}"
    if isinstance(error, KeyError):  # botocore's cache of logins holds a file that is no JSON
        return "the login that is kept in ~/.aws/sso/cache cannot be read"
    return f"the credentials of {_profile()} cannot be read: {said}"


def _unread_hint(error: Exception) -> str:
    if "_retrieve_credentials_using" in {function for _, function in _frames(error)}:
        return 'run it yourself, as it stands in ~/.aws/config; it must print {"Version": 1, "AccessKeyId": …}'
    return f"log in anew: {_login()}" if isinstance(error, (KeyError, RuntimeError)) else CREDENTIALS_HINT


def _unanswered(error: Exception, doing: str) -> SojournError:
    """Errors of the SDK itself: no credentials, no profile, no answer."""
    names, said = [one.__name__ for one in type(error).__mro__], f"aws: could not {doing}: {first_line(error)}"
    kind = next((_SDK_DECISIONS[name] for name in names if name in _SDK_DECISIONS), TransientError)
    if kind is AccessError:
        return AccessError(said, hint=_credentials_hint(names))
    if "SSLError" in names:
        return SpecError(said, hint="if a proxy or your own service signs for itself: export AWS_CA_BUNDLE=FILE")
    if kind is SpecError:
        return SpecError(said, hint=SETTINGS_HINT)
    if names[0] == "EndpointConnectionError":
        unknown = _unknown_region(str(error))
        if unknown is not None:
            return SpecError(f"{said}; {unknown}", hint="look at --region, AWS_DEFAULT_REGION and ~/.aws/config")
        return TransientError(said, hint="look at your network, and at AWS_ENDPOINT_URL and AWS_DEFAULT_REGION")
    if names[0] == "ProxyConnectionError" or (names[0] == "HTTPClientError" and getproxies()):
        return TransientError(said, hint="look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
    return TransientError(said)


def _credentials_hint(names: list[str]) -> str:
    if {"SSOError", "TokenRetrievalError", "NoAuthTokenError"} & {*names}:
        return f"log in anew: {_login()}"
    if "LoginError" in names:
        return "log in anew: aws login"
    if "CredentialRetrievalError" in names or "PartialCredentialsError" in names:
        return f"look at {_profile()} in ~/.aws/config and ~/.aws/credentials; {GIVE_HINT}"
    return GIVE_HINT


def _profile() -> str:
    return f"profile {os.environ.get('AWS_PROFILE') or os.environ.get('AWS_DEFAULT_PROFILE') or 'default'}"


def _login() -> str:
    named = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    return f"aws sso login --profile {named}" if named else "aws sso login"


def _unknown_region(said: str) -> str | None:
    """Why there is no such host, if the region in its name is none that botocore has heard of; a new one may be."""
    import botocore.session

    host = re.search(r"https://[a-z0-9.-]+?\.([a-z]{2,}(?:-[a-z]+)+-\d+)\.amazonaws\.com", said)
    known = botocore.session.get_session().get_available_regions("ec2") if host else []
    return None if host is None or host[1] in known else f"is {host[1]!r} a region? {nearest(host[1], known)}"


def _raised_in(error: BaseException) -> str | None:
    """The module whose code raised it."""
    frames = _frames(error)
    return frames[-1][0] if frames else None


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """The modules and functions that it came through."""
    return [(str(frame.f_globals.get("__name__")), frame.f_code.co_name) for frame in _stack(error)]


def _selves(error: BaseException) -> list[object]:
    """The objects whose methods it came through."""
    return [frame.f_locals["self"] for frame in _stack(error) if "self" in frame.f_locals]


def _stack(error: BaseException) -> list[FrameType]:
    found, last = [], error.__traceback__
    while last is not None:
        found.append(last.tb_frame)
        last = last.tb_next
    return found


def _sentence(message: str) -> str:
    # An encoded authorisation message is a page of base64 that nobody can read.
    return message.split(" Encoded authorization failure message:")[0].strip().rstrip(".")
