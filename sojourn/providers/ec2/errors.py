"""What Amazon's error codes mean for us: each is a decision of `sojourn.errors`.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sojourn.errors import (
    AccessError,
    CapacityError,
    QuotaError,
    SojournError,
    SpecError,
    TransientError,
    first_line,
    nearest,
)

CREDENTIALS_HINT = "look: aws sts get-caller-identity; renew: aws sso login, or aws configure"
RIGHTS_HINT = "see what is missing: sojourn doctor --where aws"

_MEANINGS: dict[type[SojournError], str] = {
    CapacityError: """
        InsufficientInstanceCapacity InsufficientHostCapacity InsufficientReservedInstanceCapacity
        InsufficientCapacityOnOutpost InsufficientFreeAddressesInSubnet InsufficientAddressCapacity
        MaxSpotInstanceCountExceeded SpotMaxPriceTooLow Unsupported UnsupportedOperation
        UnfulfillableCapacity PendingVerification
        """,
    QuotaError: """
        InstanceLimitExceeded VcpuLimitExceeded VolumeLimitExceeded MaxIOPSLimitExceeded
        AddressLimitExceeded NetworkInterfaceLimitExceeded PlacementGroupLimitExceeded
        ServiceQuotaExceededException LimitExceeded LimitExceededException
        """,
    AccessError: """
        UnauthorizedOperation AccessDenied AccessDeniedException AuthFailure Blocked OptInRequired
        SignatureDoesNotMatch InvalidClientTokenId UnrecognizedClientException ExpiredToken
        ExpiredTokenException RequestExpired MissingAuthenticationToken InvalidSignatureException
        NotAuthorized InvalidAccessKeyId
        """,
    TransientError: """
        RequestLimitExceeded Throttling ThrottlingException TooManyRequestsException SlowDown
        InternalError InternalFailure InternalServerError InternalServerException ServerInternal
        ServiceUnavailable ServiceUnavailableException Unavailable RequestTimeout
        RequestTimeoutException InvalidInstanceID.NotFound PriorRequestNotComplete
        ConcurrentModification ConflictException OperationAborted
        InvalidPlacementGroup.Unknown InvalidPlacementGroup.InUse
        """,
    SpecError: """
        IdempotentParameterMismatch InvalidParameterValue InvalidParameterCombination InvalidParameter
        MissingParameter InvalidAMIID.NotFound InvalidAMIID.Malformed InvalidAMIID.Unavailable
        InvalidInstanceType InvalidSubnetID.NotFound InvalidGroup.NotFound InvalidGroupId.Malformed
        InvalidKeyPair.NotFound InvalidBlockDeviceMapping InvalidUserData.Malformed InvalidPermission.Malformed
        VPCIdNotSpecified InvalidVpcID.NotFound NoSuchBucket NoSuchEntity ParameterNotFound
        ResourceNotFoundException ValidationError ValidationException InvalidRequest InvalidRegion
        """,
}
DECISIONS: dict[str, type[SojournError]] = {code: kind for kind, codes in _MEANINGS.items() for code in codes.split()}
# The credentials themselves are of no use, as opposed to a right that they lack.
DEAD_CREDENTIALS = set(
    """
    AuthFailure SignatureDoesNotMatch InvalidClientTokenId UnrecognizedClientException ExpiredToken
    ExpiredTokenException RequestExpired MissingAuthenticationToken InvalidSignatureException InvalidAccessKeyId
    """.split()
)


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


def _decision(error: Exception, doing: str) -> SojournError | None:
    if _raised_in(error) == "botocore.credentials" and isinstance(error, RuntimeError):
        # Credentials whose end is known are not sent any more once it has come.
        return AccessError(f"aws: could not {doing}: these credentials have ended", hint=CREDENTIALS_HINT)
    if not type(error).__module__.startswith(("botocore.", "boto3.", "s3transfer.", "urllib3.")):
        return None
    code = code_of(error)
    if code is None:
        return _unanswered(error, doing)
    message = error.response["Error"].get("Message") or code  # type: ignore[attr-defined]
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)  # type: ignore[attr-defined]
    said = f"aws: could not {doing}: {_sentence(message)} ({code})"
    kind = DECISIONS.get(code)
    if kind is None and code.split(".")[-1] in ("NotFound", "Malformed"):
        kind = SpecError
    if kind is None:
        # A code we never heard of: the server's fault is worth another try, ours is not.
        kind = TransientError if status >= 500 or code.isdecimal() and int(code) >= 500 else SojournError
    hint = None
    if kind is AccessError:
        hint = CREDENTIALS_HINT if code in DEAD_CREDENTIALS else RIGHTS_HINT
    return kind(said, hint=hint)


def _unanswered(error: Exception, doing: str) -> SojournError:
    """Errors of the SDK itself: no credentials, no profile, no answer."""
    name, said = type(error).__name__, f"aws: could not {doing}: {first_line(error)}"
    if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError") or "SSO" in name:
        return AccessError(said, hint="give some: aws configure, or export AWS_PROFILE=…")
    if name in ("ProfileNotFound", "NoRegionError", "InvalidRegionError", "ParamValidationError", "ConfigParseError"):
        return SpecError(said, hint="look at ~/.aws/config, AWS_PROFILE and AWS_DEFAULT_REGION")
    if name == "EndpointConnectionError":
        unknown = _unknown_region(str(error))
        if unknown is not None:
            return SpecError(f"{said}; {unknown}", hint="look at --region, AWS_DEFAULT_REGION and ~/.aws/config")
        return TransientError(said, hint="look at your network, and at AWS_ENDPOINT_URL and AWS_DEFAULT_REGION")
    return TransientError(said)


def _unknown_region(said: str) -> str | None:
    """Why there is no such host, if the region in its name is none that botocore has heard of; a new one may be."""
    import botocore.session

    host = re.search(r"https://[a-z0-9.-]+?\.([a-z]{2,}(?:-[a-z]+)+-\d+)\.amazonaws\.com", said)
    known = botocore.session.get_session().get_available_regions("ec2") if host else []
    return None if host is None or host[1] in known else f"is {host[1]!r} a region? {nearest(host[1], known)}"


def _raised_in(error: BaseException) -> str | None:
    """The module whose code raised it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return str(last.tb_frame.f_globals.get("__name__")) if last else None


def _sentence(message: str) -> str:
    # An encoded authorisation message is a page of base64 that nobody can read.
    return message.split(" Encoded authorization failure message:")[0].strip().rstrip(".")
