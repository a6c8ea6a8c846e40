"""Which of our errors an error of hvac, requests or urllib3 is: done, not done, or maybe done.

Vault's HTTP API page "Status codes", and hvac's one exception class per status. Texts of hvac are
read for their kind and never shown: they hold addresses and paths.
"""

from datetime import timedelta

import requests
from hvac import exceptions as refusals
from urllib3 import exceptions as transport

from recovery.errors import (
    Conflict,
    Misconfigured,
    NotFound,
    RateLimited,
    RecoveryError,
    Refused,
    Unknown,
    Unreachable,
)

_NOT_SENT = (transport.NewConnectionError, transport.ConnectTimeoutError)
_CERTIFICATE = "CERTIFICATE_VERIFY_FAILED"
_CODES = {
    "code already used": "code_used",
    "invalid number of digits": "code_length",
    "unknown key": "unknown_key",
    "key not found": "unknown_key",
    "wrapping token": "wrapping_token",
    "lease not found": "lease_not_found",
    "lease is not renewable": "lease_not_renewable",
}
"""What Vault says with a 400, and the code that we give it."""


def by_policy(refused: refusals.Forbidden) -> bool:
    """Whether a living token lacks a permission. For a dead one Vault says `permission denied` with
    nothing around it, or adds `invalid token`."""
    said = " ".join(refused.errors or ())
    return "error occurred" in said and "invalid token" not in said


def expired(attempted: str) -> Misconfigured:
    """The token of the block is dead, and there is no other way in."""
    return Misconfigured(
        attempted,
        subject="auth/token/lookup-self",
        expected="a token that Vault knows",
        got="one that has expired or was revoked",
        advice="Put a new token into the vault-secrets block, or let it log in by a role.",
    )


class Passing(Exception):
    """Wraps an error that another attempt may cure."""

    def __init__(self, error: RecoveryError) -> None:
        super().__init__()
        self.error = error


def ours(error: Exception, attempted: str, subject: str, repeatable: bool) -> Exception:
    if isinstance(error, refusals.VaultError):
        return _of_status(error, attempted, subject, repeatable)
    if isinstance(error, requests.exceptions.SSLError) and _CERTIFICATE in str(error):
        return Misconfigured(
            attempted,
            subject=subject,
            expected="a certificate we trust",
            got="another one",
            advice="Set ca_file in the vault-secrets block to the authority of Vault.",
        )
    if isinstance(error, _BAD_ADDRESS):
        return Misconfigured(
            attempted,
            subject=subject,
            expected="a usable address and readable certificate files",
            got=type(error).__name__,
            advice="Correct the vault-secrets block.",
        )
    if _not_sent(error):
        return Passing(
            Unreachable(
                attempted,
                subject=subject,
                got="no connection to Vault",
                advice="Check the address in the vault-secrets block and that Vault runs.",
            )
        )
    return _lost(attempted, subject, "the connection broke before the answer", repeatable)


_BAD_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    FileNotFoundError,
    PermissionError,
)


def _not_sent(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.SSLError):
        return True
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", None), _NOT_SENT)


def _lost(attempted: str, subject: str, got: str, repeatable: bool) -> Exception:
    if repeatable:
        return Passing(
            Unreachable(attempted, subject=subject, got=got, advice="Check that Vault is healthy.")
        )
    return Unknown(attempted, subject=subject, got=got, advice="Look before doing it again.")


def _of_status(
    error: refusals.VaultError, attempted: str, subject: str, repeatable: bool
) -> Exception:
    said = " ".join(error.errors or ())
    match error:
        case refusals.VaultDown() if "sealed" in said:
            return Unreachable(
                attempted,
                subject=subject,
                got="Vault is sealed",
                advice="Vault is sealed: unseal it, then resume the run; nothing was changed.",
            )
        case refusals.VaultDown() if error.errors is not None:
            return Passing(Unreachable(attempted, subject=subject, got="Vault is not available"))
        case refusals.RateLimitExceeded():
            return RateLimited(attempted, subject=subject, retry_after=timedelta(seconds=1))
        case refusals.Forbidden() | refusals.Unauthorized():
            return Misconfigured(
                attempted,
                subject="/".join(subject.split("/")[:2]),
                expected="permission",
                got="a refusal by Vault's policy",
                advice="Give the role of the vault-secrets block the policy for this path.",
            )
        case refusals.InvalidPath():
            return NotFound(attempted, code="not_found", subject=subject, got="nothing there")
        case refusals.InvalidRequest() if "check-and-set" in said:
            return Conflict(
                attempted,
                code="cas_mismatch",
                subject=subject,
                expected="the version we looked at",
                got="a newer one",
                advice="Look again and decide anew.",
            )
        case refusals.InvalidRequest():
            codes = (code for phrase, code in _CODES.items() if phrase in said)
            return Refused(attempted, code=next(codes, "invalid_request"), subject=subject)
        case refusals.VaultNotInitialized():
            return Misconfigured(attempted, subject=subject, got="Vault was never initialized")
        case _:
            return _lost(
                attempted, subject, "an error of Vault or of what is before it", repeatable
            )
