"""What an error of S3 (or of the way to it) means, and what is said to the user. No secret is ever in a sentence."""

import os
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from configs.errors import RunError, UserError
from data_pipeline.stores.store import no_space, without_secrets


class Meaning(Enum):
    ABSENT = auto()  # no such object
    CONDITION = auto()  # If-None-Match: something is there
    RANGE = auto()  # the range begins after the end
    TRANSIENT = auto()  # may pass by itself
    UNREACHABLE = auto()  # nobody answers there
    DENIED = auto()
    NO_KEYS = auto()
    NO_BUCKET = auto()
    ELSEWHERE = auto()  # another region or endpoint
    FULL = auto()
    WRONG_NAME = auto()  # of a bucket, profile or endpoint
    OTHER = auto()  # S3 said no for a reason that we do not know


CODES = {
    Meaning.ABSENT: {"NoSuchKey", "NoSuchUpload", "NoSuchVersion", "404"},
    Meaning.CONDITION: {"PreconditionFailed", "412"},
    Meaning.RANGE: {"InvalidRange", "416"},
    Meaning.NO_BUCKET: {"NoSuchBucket"},
    Meaning.ELSEWHERE: {
        "PermanentRedirect", "Redirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307",
        "IllegalLocationConstraintException", "InvalidRegionName",
    },
    Meaning.FULL: {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "507"},
    Meaning.TRANSIENT: {
        "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException",
        "TooManyRequests", "RequestLimitExceeded", "BandwidthLimitExceeded", "OperationAborted", "IncompleteBody",
        "ConditionalRequestConflict", "BadDigest", "XAmzContentSHA256Mismatch", "PriorRequestNotComplete",
    },
    Meaning.DENIED: {
        "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
        "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidSecurity", "NotSignedUp", "401", "403",
        "RequestTimeTooSkewed", "InvalidClientTokenId", "UnauthorizedAccess", "Forbidden",
    },
    Meaning.WRONG_NAME: {"InvalidBucketName", "InvalidURI"},
}  # fmt: skip
BY_CODE = {code: meaning for meaning, codes in CODES.items() for code in codes}

CLASSES = {
    Meaning.NO_KEYS: {
        "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
        "SSOTokenLoadError", "UnauthorizedSSOTokenError", "NoAuthTokenError",
    },
    Meaning.WRONG_NAME: {"ParamValidationError", "ProfileNotFound", "UnsupportedS3ConfigurationError"},
    Meaning.UNREACHABLE: {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"},
    Meaning.TRANSIENT: {
        "HTTPClientError", "IncompleteReadError", "ResponseStreamingError", "ResponseParserError", "FSTimeoutError",
        "ClientError", "IncompleteRead", "ChecksumError",
    },
}  # fmt: skip
"""Of botocore, aiohttp (ClientError), urllib3 and fsspec, by name: none of them has to be imported to say no."""


class Denied(UserError):
    """Keys or rights."""


@dataclass(frozen=True)
class Diagnosis:
    """What an error means, what was said (one line, no secrets), and whether it was S3 that said it."""

    meaning: Meaning
    said: str
    answered: bool = False


def diagnose(error: BaseException) -> Diagnosis | None:
    """None: not an error of S3 or of the way there, but one of ours."""
    response = _response(error)
    if response is not None:
        told = response.get("Error", {})
        code, status = str(told.get("Code", "")), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = _clean(f"{code} {told.get('Message', '')}")
        return Diagnosis(BY_CODE.get(code) or _by_status(status), said, answered=True)
    if isinstance(error, UserError | RunError):
        return None
    names = {kind.__name__ for kind in type(error).__mro__}
    said = _clean(f"{type(error).__name__}: {error}")
    for meaning, kinds in CLASSES.items():  # in this order: SSLError is a kind of others too
        if names & kinds:
            return Diagnosis(meaning, said)
    if isinstance(error, ConnectionError | TimeoutError):
        return Diagnosis(Meaning.TRANSIENT, said)
    if isinstance(error, ValueError) and "endpoint" in str(error).lower():
        return Diagnosis(Meaning.WRONG_NAME, said)
    return None


def sentence(diagnosis: Diagnosis, path: str, where: str, seconds: float) -> UserError | RunError:
    """What is raised when nothing more is tried. `where` names the server, `seconds` is how long it was tried."""
    said, bucket = diagnosis.said, path.split("://", 1)[-1].split("/", 1)[0]
    match diagnosis.meaning:
        case Meaning.DENIED:
            return Denied(
                f"{path}: {where} refuses these keys ({said}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
                f"`storage.profile`, their rights on the bucket, and `storage.endpoint_url`"
            )
        case Meaning.NO_KEYS:
            return UserError(
                f"{path}: there are no keys for S3 ({said}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                f"`storage.profile`"
            )
        case Meaning.NO_BUCKET:
            return UserError(
                f"{path}: {where} has no bucket {bucket!r} ({said}): make it, or check the name and "
                f"`storage.endpoint_url`"
            )
        case Meaning.ELSEWHERE:
            return UserError(f"{path}: the bucket is in another region ({said}): set `storage.region`")
        case Meaning.WRONG_NAME:
            return UserError(f"{path}: {said}: check the path and `storage` in the recipe")
        case Meaning.UNREACHABLE:
            return UserError(
                f"{path}: {where} could not be reached for {seconds:.0f} s ({said}): check `storage.endpoint_url`, "
                f"`storage.ca_bundle` and the network"
            )
        case Meaning.FULL:
            return no_space(path, said)
        case Meaning.TRANSIENT:
            return RunError(
                f"{path}: {where} failed for {seconds:.0f} s ({said}): run the same command again when it is well"
            )
        case _:
            return RunError(f"{path}: {where} said {said}: check the object and the server's log")


def _response(error: BaseException | None) -> dict[str, Any] | None:
    """The answer of S3 in a ClientError, or in the one that s3fs made an OSError of."""
    for one in (error, error.__cause__ if error else None):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response
    return None


def _by_status(status: int) -> Meaning:
    if status in (401, 403):
        return Meaning.DENIED
    if status in (408, 429) or (status >= 500 and status not in (501, 507)):
        return Meaning.TRANSIENT
    return Meaning.FULL if status == 507 else Meaning.OTHER


def _clean(text: str) -> str:
    """One line of at most 200 characters; were a server to repeat a secret, we do not."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        secret = os.environ.get(name)
        if secret:
            text = text.replace(secret, "***")
    text = " ".join(without_secrets(text).split()).rstrip(". ")
    return text if len(text) <= 200 else f"{text[:197]}..."
