"""Which of our errors a refusal of Azure Key Vault is, by the codes in it; its texts stay out.

Key Vault, "REST API error codes": `error.code`, and `error.innererror.code` where there is one.
"""

import json
from typing import Any

import httpx

from recovery.errors import Conflict, Misconfigured, NotFound, RecoveryError, Refused


def codes(response: httpx.Response) -> tuple[str, str]:
    """The outer and the inner code; empty where the body is none of theirs."""
    try:
        document: Any = json.loads(response.content)
        error = document["error"]
        inner = error.get("innererror") or {}
        return str(error.get("code", "")), str(inner.get("code", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""


def refusal(response: httpx.Response, attempted: str, path: str) -> RecoveryError:
    outer, inner = codes(response)
    match response.status_code, inner:
        case 404, _:
            return NotFound(attempted, code="not_found", subject=path, got="nothing there")
        case _, "ObjectIsDeletedButRecoverable" | "ObjectIsBeingDeleted":
            return Misconfigured(
                attempted,
                subject=path,
                expected="a name that can be used",
                got="one whose secret was deleted and is kept for recovery",
                advice="Recover or purge the deleted secret in the vault, then run again.",
            )
        case 409, _:
            return Conflict(
                attempted,
                code=inner or outer or "409",
                subject=path,
                advice="Somebody else is at work on this secret: look again.",
            )
        case 403, "SecretDisabled":
            return Refused(
                attempted,
                code="disabled",
                subject=path,
                expected="a version that is enabled",
                got="one that somebody has disabled",
                advice="Consumers can't read it either. Enable it, or write a new version.",
            )
        case 403, "ForbiddenByFirewall":
            return Misconfigured(
                attempted,
                subject=path,
                expected="the vault's firewall to let us in",
                got=inner,
                advice="Allow the worker's network in the vault's settings.",
            )
    return Misconfigured(
        attempted,
        subject=path,
        expected="permission",
        got=f"a refusal by the vault's access rules ({inner or outer or 'no reason'})",
        advice="Give the identity in the azure-key-vault block the right to get, list and set "
        "secrets (role Key Vault Secrets Officer on these secrets alone).",
    )
