"""What Vault's answers mean, and which names may stand in its URLs."""

import base64
import binascii
import re
from typing import Any

from recovery.errors import Incomplete, Misconfigured, Refused, Unverified

_NAME = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")


def code_refused(refused: Refused, key: str) -> Exception:
    attempted = "Verify a one-time code"
    match refused.code:
        case "code_used":
            return Unverified(attempted, subject=key, got="used already")
        case "code_length":
            return Unverified(attempted, subject=key, got="of another length")
        case "unknown_key" | "not_found":
            return Misconfigured(
                attempted,
                subject=key,
                expected="a key of that name in Vault's TOTP engine",
                got="none",
                advice="Enroll the approver, or correct `approvers` in the runbook.",
            )
        case _:
            return refused


def safe(name: str) -> str:
    """Names stand in Vault's URLs: one that could lead elsewhere is never sent."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise Misconfigured(
            "Build a path in Vault",
            expected="letters, digits, . _ ~ - and / alone",
            got="other characters",
            advice="Correct the name in the runbook or at the platform.",
        )
    return name


def deleted_version(document: Any) -> int:
    """The number of a deleted or destroyed version; 0 where nothing was ever written."""
    data = document.get("data") if isinstance(document, dict) else None
    metadata = data.get("metadata") if isinstance(data, dict) else None
    return int(metadata["version"]) if isinstance(metadata, dict) else 0


def decoded(text: str, length: int, attempted: str, key: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != length:
        raise Incomplete(
            attempted,
            subject=key,
            expected="an ed25519 key",
            got="something else",
            advice="Create the transit key with type ed25519.",
        )
    return raw
