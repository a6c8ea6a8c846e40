"""Which of our errors an error of AWS Secrets Manager is, by its `__type`; its texts stay out.

AWS Secrets Manager API Reference, "Common Error Types" and the errors of each action.
"""

import json
import re
from datetime import timedelta
from typing import Any

import httpx

from recovery.errors import (
    Conflict,
    Incomplete,
    Misconfigured,
    NotFound,
    RateLimited,
    RecoveryError,
    Refused,
    Unknown,
)

_XML_CODE = re.compile(rb"<Code>([A-Za-z.]{1,60})</Code>")
_LONGEST_ERROR = 4096
_CREDENTIALS = {
    "AuthFailure",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "OptInRequired",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_THROTTLED = {
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
    "RequestLimitExceeded",
}
_KMS = {"DecryptionFailure", "EncryptionFailure"}


def document(
    response: httpx.Response, attempted: str, subject: str, *, once: bool
) -> dict[str, Any]:
    """The answer's object. AWS names its type application/x-amz-json-1.1, stand-ins name others, so
    the body is judged alone."""
    try:
        found: Any = json.loads(response.content)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    if once:
        raise Unknown(attempted, subject=subject, got="an answer that is no JSON object")
    raise Incomplete(
        attempted,
        subject=subject,
        expected="a JSON object",
        got="something else",
        advice="Check that the endpoint in the aws-secrets block is Secrets Manager itself.",
    )


def error_type(response: httpx.Response) -> str:
    """The name alone, without its namespace; empty where the body is none of theirs. What stands
    before the service refuses in XML."""
    try:
        found: Any = json.loads(response.content)
    except ValueError:
        named = _XML_CODE.search(response.content[:_LONGEST_ERROR])
        return named[1].decode() if named else ""
    kind = found.get("__type") if isinstance(found, dict) else None
    return kind.rpartition("#")[2] if isinstance(kind, str) else ""


def refusal(kind: str, action: str, attempted: str, subject: str) -> RecoveryError:
    if kind in _THROTTLED:
        return RateLimited(attempted, subject=subject, retry_after=timedelta(seconds=1))
    if kind in ("AccessDeniedException", "AccessDenied"):
        return Misconfigured(
            attempted,
            subject=subject,
            expected=f"the permission secretsmanager:{action} on this secret",
            got="a refusal by AWS's policies",
            advice="Add the action to the IAM policy of the role in the aws-secrets block.",
        )
    if kind in _CREDENTIALS:
        return Misconfigured(
            attempted,
            subject=subject,
            expected="AWS to take our signature",
            got=kind,
            advice="Check keys, region and role in the aws-secrets block, and this machine's "
            "clock.",
        )
    if kind in _KMS:
        return Misconfigured(
            attempted,
            subject=subject,
            expected="the right to use the secret's KMS key",
            got=kind,
            advice="Grant kms:Decrypt and kms:GenerateDataKey on that key.",
        )
    match kind:
        case "ResourceNotFoundException":
            return NotFound(attempted, code="not_found", subject=subject, got="nothing there")
        case "ResourceExistsException":
            return Conflict(
                attempted,
                code="cas_mismatch",
                subject=subject,
                expected="the version we looked at",
                got="another writer's",
                advice="Look again and decide anew.",
            )
        case "InvalidRequestException":
            return Misconfigured(
                attempted,
                subject=subject,
                expected="a secret that can be used",
                got="one that is scheduled for deletion, or another state",
                advice="Restore the secret (RestoreSecret) or create it anew.",
            )
        case _:
            return Refused(attempted, code=kind or "no_reason", subject=subject)
