"""Amazon's error codes, what each means for us, and where it says that there is such a code.

The source is `ec2` for the page of EC2's own errors, `s3-errors` for that of S3 and `common` for what all services
share; a service's name is its model in botocore, which the tests read; `karpenter` is Amazon's own node provisioner,
which meets codes that no page has. `unknown` is what we have no source for, and take as it reads. `dead` are refusals
of the credentials themselves, as opposed to a right that they lack.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from __future__ import annotations

from dataclasses import dataclass

from sojourn.errors import (
    AccessError,
    CapacityError,
    LostError,
    QuotaError,
    SojournError,
    SpecError,
    TransientError,
)

_KINDS: dict[str, type[SojournError]] = {
    "Capacity": CapacityError,
    "Quota": QuotaError,
    "Access": AccessError,
    "Transient": TransientError,
    "Lost": LostError,
    "Spec": SpecError,
}

_TABLE = """
# There are none now: the next offer's turn
InsufficientInstanceCapacity                       Capacity   ec2
InsufficientHostCapacity                           Capacity   ec2
InsufficientReservedInstanceCapacity               Capacity   ec2
InsufficientCapacityOnOutpost                      Capacity   unknown
InsufficientCapacity                               Capacity   ec2
InsufficientVolumeCapacity                         Capacity   ec2
InsufficientFreeAddressesInSubnet                  Capacity   ec2
InsufficientAddressCapacity                        Capacity   ec2
ReservationCapacityExceeded                        Capacity   karpenter
VolumeTypeNotAvailableInZone                       Capacity   ec2
SpotMaxPriceTooLow                                 Capacity   ec2
Unsupported                                        Capacity   ec2
UnsupportedOperation                               Capacity   ec2
UnfulfillableCapacity                              Capacity   karpenter
# There are some, and not for this account
InstanceLimitExceeded                              Quota      ec2
VcpuLimitExceeded                                  Quota      ec2
VolumeLimitExceeded                                Quota      ec2
MaxIOPSLimitExceeded                               Quota      ec2
AddressLimitExceeded                               Quota      ec2
NetworkInterfaceLimitExceeded                      Quota      ec2
PlacementGroupLimitExceeded                        Quota      ec2
MaxSpotInstanceCountExceeded                       Quota      ec2
ResourceCountExceeded                              Quota      ec2
RequestResourceCountExceeded                       Quota      ec2
ResourceLimitExceeded                              Quota      ec2
ServiceQuotaExceededException                      Quota      scheduler
LimitExceeded                                      Quota      iam
LimitExceededException                             Quota      events
# A right that is missing, or an account that may do nothing
UnauthorizedOperation                              Access     ec2
AccessDenied                                       Access     s3
AccessDeniedException                              Access     ssm
Blocked                                            Access     ec2
OptInRequired                                      Access     ec2
AccountDisabled                                    Access     ec2
PendingVerification                                Access     ec2
TagPolicyViolation                                 Access     ec2
AuthFailure.ServiceLinkedRoleCreationNotPermitted  Access     karpenter
NotAuthorized                                      Access     common
ForbiddenException                                 Access     unknown
# Credentials that are of no use
AuthFailure                                        Access     ec2        dead
SignatureDoesNotMatch                              Access     s3-errors  dead
InvalidClientTokenId                               Access     ec2        dead
InvalidClientTokenIdException                      Access     unknown
UnrecognizedClientException                        Access     logs       dead
ExpiredToken                                       Access     s3-errors  dead
ExpiredTokenException                              Access     sts        dead
InvalidToken                                       Access     s3-errors  dead
TokenRefreshRequired                               Access     s3-errors  dead
RequestExpired                                     Access     ec2        dead
MissingAuthenticationToken                         Access     ec2        dead
InvalidSignatureException                          Access     unknown    dead
IncompleteSignature                                Access     ec2        dead
InvalidSecurity.RequestHasExpired                  Access     ec2        dead
InvalidAccessKeyId                                 Access     s3-errors  dead
RequestTimeTooSkewed                               Access     s3-errors  dead
UnauthorizedException                              Access     sso        dead
InvalidIdentityToken                               Access     sts        dead
IDPRejectedClaim                                   Access     sts        dead
# It passes: the same call again
RequestLimitExceeded                               Transient  ec2
Throttling                                         Transient  common
ThrottlingException                                Transient  scheduler
ThrottledException                                 Transient  unknown
RequestThrottled                                   Transient  unknown
RequestThrottledException                          Transient  unknown
TooManyRequests                                    Transient  unknown
TooManyRequestsException                           Transient  lambda
SlowDown                                           Transient  s3-errors
InternalError                                      Transient  ec2
InternalFailure                                    Transient  ec2
InternalServerError                                Transient  ssm
InternalServerException                            Transient  scheduler
ServerInternal                                     Transient  ec2
ServiceUnavailable                                 Transient  ec2
ServiceUnavailableException                        Transient  logs
Unavailable                                        Transient  ec2
RequestTimeout                                     Transient  s3-errors
RequestTimeoutException                            Transient  unknown
InvalidInstanceID.NotFound                         Transient  ec2
PriorRequestNotComplete                            Transient  unknown
ConcurrentModification                             Transient  iam
ConcurrentTagAccess                                Transient  ec2
ConflictException                                  Transient  scheduler
OperationAborted                                   Transient  s3-errors
InvalidPlacementGroup.Unknown                      Transient  ec2
InvalidPlacementGroup.InUse                        Transient  ec2
# Machines that are no more
IdempotentInstanceTerminated                       Lost       ec2
# What was asked for cannot be, however often it is asked
IdempotentParameterMismatch                        Spec       ec2
InvalidParameterValue                              Spec       ec2
InvalidParameterCombination                        Spec       ec2
InvalidParameter                                   Spec       ec2
MissingParameter                                   Spec       ec2
InvalidAMIID.NotFound                              Spec       ec2
InvalidAMIID.Malformed                             Spec       ec2
InvalidAMIID.Unavailable                           Spec       ec2
InvalidInstanceType                                Spec       unknown
InvalidSubnetID.NotFound                           Spec       ec2
InvalidGroup.NotFound                              Spec       ec2
InvalidGroup.InUse                                 Spec       ec2
InvalidGroupId.Malformed                           Spec       ec2
InvalidKeyPair.NotFound                            Spec       ec2
InvalidBlockDeviceMapping                          Spec       ec2
InvalidUserData.Malformed                          Spec       karpenter
InvalidPermission.Malformed                        Spec       ec2
DependencyViolation                                Spec       ec2
OperationNotPermitted                              Spec       ec2
VPCIdNotSpecified                                  Spec       ec2
InvalidVpcID.NotFound                              Spec       ec2
NoSuchBucket                                       Spec       s3
NoSuchEntity                                       Spec       iam
ParameterNotFound                                  Spec       ssm
ResourceNotFoundException                          Spec       scheduler
ValidationError                                    Spec       ec2
ValidationException                                Spec       scheduler
InvalidRequest                                     Spec       s3
InvalidRegion                                      Spec       unknown
"""


@dataclass(frozen=True)
class Code:
    """A row of the table."""

    name: str
    kind: type[SojournError]
    source: str
    dead: bool


def _row(line: str) -> Code:
    name, kind, source, *dead = line.split()
    return Code(name, _KINDS[kind], source, bool(dead))


CODES = tuple(_row(line) for line in _TABLE.strip().splitlines() if not line.startswith("#"))
DECISIONS = {one.name: one.kind for one in CODES}
DEAD_CREDENTIALS = {one.name for one in CODES if one.dead}

# What to do where neither the rights nor the credentials are what is wrong.
HINTS = {
    "Blocked": "Amazon blocked the account; ask its support: https://aws.amazon.com/contact-us",
    "AccountDisabled": "Amazon switched this off for the account; ask its support: https://aws.amazon.com/contact-us",
    "OptInRequired": "finish signing up, or open the region, in Amazon's console; a new account may take hours",
    "PendingVerification": "wait: Amazon checks new accounts, which may take hours",
    "TagPolicyViolation": "ask who keeps your organization's tag policy to allow the keys that begin with sojourn:",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": "make the role of spot machines once: sojourn setup aws",
    "OperationNotPermitted": (
        "end its protection: aws ec2 modify-instance-attribute --instance-id ID --no-disable-api-termination"
    ),
    "DependencyViolation": "something still uses it; remove that first, then the same command again",
    "InvalidGroup.InUse": "something still uses it; remove that first, then the same command again",
    "MaxSpotInstanceCountExceeded": "see which quota it is and how to raise it: sojourn plan --where aws --market spot",
}
