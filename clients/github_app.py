"""Who we are to GitHub: a personal access token, or a GitHub App's installation token.

An app signs a JWT (RS256, ten minutes at most) with its private key and trades it for a token of
one hour: "Authenticating as a GitHub App installation". It is asked for with `actions: write` alone
and for one repository.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import jwt
from pydantic import AwareDatetime, BaseModel, SecretStr

from clients.http import Wire, segment
from recovery.errors import Misconfigured

_JWT_LIFE = timedelta(minutes=9)
_CLOCKS_DIFFER = timedelta(seconds=60)
_RENEWED_BEFORE = timedelta(minutes=5)


class GitHubLogin(Protocol):
    async def authorization(self, wire: Wire) -> SecretStr:
        """The value of the Authorization header, good for at least some minutes."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A fine-grained personal access token, `actions: write` on the one repository."""

    token: SecretStr

    async def authorization(self, wire: Wire) -> SecretStr:
        return SecretStr(f"Bearer {self.token.get_secret_value()}")


class _Installation(BaseModel):
    token: SecretStr
    expires_at: AwareDatetime


@dataclass(slots=True)
class AppInstallation:
    """A GitHub App with its private key, installed where the workflow lives."""

    app_id: str
    installation_id: str
    private_key: SecretStr
    repository: str
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _held: _Installation | None = field(default=None, repr=False)

    async def authorization(self, wire: Wire) -> SecretStr:
        if self._held is None or self._held.expires_at - self.clock() < _RENEWED_BEFORE:
            self._held = await self._traded(wire)
        return SecretStr(f"Bearer {self._held.token.get_secret_value()}")

    async def _traded(self, wire: Wire) -> _Installation:
        response = await wire.request(
            "POST",
            f"/app/installations/{segment(self.installation_id)}/access_tokens",
            attempted="Log in as a GitHub App",
            json={
                "repositories": [self.repository.rsplit("/", 1)[-1]],
                "permissions": {"actions": "write"},
            },
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self._signed()}",
            },
            ok=(201,),
            # One token more does no harm; it dies within the hour.
            repeatable=True,
        )
        return wire.read(response, _Installation)

    def _signed(self) -> str:
        now = self.clock()
        claims = {
            # GitHub refuses a token from the future, as seen by its own clock.
            "iat": int((now - _CLOCKS_DIFFER).timestamp()),
            "exp": int((now + _JWT_LIFE).timestamp()),
            "iss": self.app_id,
        }
        try:
            return jwt.encode(claims, self.private_key.get_secret_value(), algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError):
            # Not passed on: the exception may quote the key.
            raise Misconfigured(
                "Log in as a GitHub App",
                expected="the app's private key in PEM (RSA)",
                got="something else",
                advice="Paste the whole .pem file of the app into the block.",
            ) from None
