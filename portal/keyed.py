"""What is derived from keys: codes as they are stored, form tokens, sealed secrets.

Second-channel codes have 20 bits, so a plain hash of one could be turned back; an HMAC cannot
without the portal's key, which the ledger does not hold (OWASP ASVS 6.5.2).
"""

import hashlib
import hmac
import secrets

from cryptography.fernet import Fernet, InvalidToken

from recovery.errors import Misconfigured

CODE_DIGITS = 6


def new_cookie() -> str:
    return secrets.token_urlsafe(32)


def session_hash(cookie: str) -> str:
    """How the ledger knows a browser: 256 random bits need no key to stay secret."""
    return hashlib.sha256(cookie.encode()).hexdigest()


def new_code() -> str:
    return f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"


class Keyed:
    """One key, one purpose per method: the purpose stands first in every message."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Keyed()"

    def code_hash(self, session: str, code: str) -> str:
        """A code is good for the browser that asked for it and for no other."""
        return self._mac("second-channel-code", session, code)

    def form_token(self, cookie: str) -> str:
        return self._mac("form", cookie)

    def user_handle(self, account_id: str) -> bytes:
        """How an authenticator names the account: the same one each time, so that it keeps one
        passkey for it, and nothing about the person (W3C Web Authentication 3, 14.6.1)."""
        return bytes.fromhex(self._mac("passkey-user-handle", account_id))

    def form_token_fits(self, cookie: str, given: str) -> bool:
        return hmac.compare_digest(self.form_token(cookie).encode(), given.encode())

    def _mac(self, *parts: str) -> str:
        return hmac.digest(self._key, "\x00".join(parts).encode(), "sha256").hex()


class Sealer:
    """Seals the secret shown to a person, bound to the enrollment it was made for."""

    def __init__(self, key: str) -> None:
        self._fernet = Fernet(key)

    def __repr__(self) -> str:
        return "Sealer()"

    def seal(self, jti: str, secret: str) -> bytes:
        return self._fernet.encrypt(f"{jti}\x00{secret}".encode())

    def open(self, jti: str, sealed: bytes) -> str:
        """Raises Misconfigured where the seal is not ours or was made for another enrollment."""
        try:
            bound, _, secret = self._fernet.decrypt(sealed).decode().partition("\x00")
        except InvalidToken:
            bound, secret = "", ""
        if not secret or not hmac.compare_digest(bound.encode(), jti.encode()):
            raise Misconfigured(
                "Open a sealed authenticator secret",
                expected="a seal of this portal's key",
                got="another one",
                advice="All portals that share a ledger need the same seal_key.",
            )
        return secret
