"""Access tokens for Azure Key Vault: by a client secret, a token file, or a managed identity.

Microsoft identity platform, "OAuth 2.0 client credentials flow" (with a secret, and with a
federated credential as `client_assertion`); "Azure Instance Metadata Service" for machines.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, SecretStr

from clients.http import OnWire, Wire
from recovery.errors import Misconfigured, Refused

SCOPE = "https://vault.azure.net/.default"
_RESOURCE = "https://vault.azure.net"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_METADATA_VERSION = "2018-02-01"
_EARLY = 300.0
_FRESH = 60.0
_LONGEST_TOKEN = 64 * 1024


class _Answer(BaseModel):
    access_token: SecretStr
    expires_in: float
    """Seconds; the metadata service writes them as text."""


@dataclass(frozen=True, slots=True)
class Application:
    """An app registration: with its secret, or with the file that a cluster projects a token to."""

    tenant: str
    client_id: str
    secret: SecretStr | None = field(default=None, repr=False)
    token_file: str | None = None


@dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """What the machine itself is; `client_id` where it has several identities."""

    client_id: str | None = None


@dataclass(slots=True)
class _Token:
    value: SecretStr
    taken_at: float
    ends_at: float


class AzureTokens(OnWire):
    """One identity's access token, fetched when it is first needed and again before it ends."""

    def __init__(self, wire: Wire, identity: Application | ManagedIdentity) -> None:
        self._wire = wire
        self._identity = identity
        self._lock = asyncio.Lock()
        self._token: _Token | None = None

    async def bearer(self) -> SecretStr:
        async with self._lock:
            now = time.monotonic()
            if self._token is None or now > self._token.ends_at - _EARLY:
                answer = await self._fetch()
                self._token = _Token(answer.access_token, now, now + answer.expires_in)
            return self._token.value

    async def refused(self, token: SecretStr) -> bool:
        """One that was good for a while is fetched anew; a fresh one is refused for a reason."""
        async with self._lock:
            held = self._token
            if held is None or held.value != token:
                return True
            if time.monotonic() - held.taken_at < _FRESH:
                return False
            self._token = None
            return True

    async def _fetch(self) -> _Answer:
        try:
            match self._identity:
                case Application() as application:
                    return await self._of_application(application)
                case ManagedIdentity() as identity:
                    return await self._of_machine(identity)
        except Refused as refused:
            raise Misconfigured(
                "Get an access token for Azure Key Vault",
                expected="Entra ID to know this identity and its proof",
                got=refused.code or "a refusal",
                advice="Correct tenant, client id and secret or token file in the "
                "azure-key-vault block.",
            ) from None

    async def _of_application(self, application: Application) -> _Answer:
        form: dict[str, str] = {
            "grant_type": "client_credentials",
            "client_id": application.client_id,
            "scope": SCOPE,
        }
        form |= await asyncio.to_thread(_proof, application)
        response = await self._wire.request(
            "POST",
            f"/{application.tenant}/oauth2/v2.0/token",
            attempted="Get an access token for Azure Key Vault",
            form=form,
            repeatable=True,
        )
        return self._wire.read(response, _Answer)

    async def _of_machine(self, identity: ManagedIdentity) -> _Answer:
        asked = {"api-version": _METADATA_VERSION, "resource": _RESOURCE}
        if identity.client_id is not None:
            asked["client_id"] = identity.client_id
        response = await self._wire.request(
            "GET",
            "/metadata/identity/oauth2/token",
            attempted="Get an access token for Azure Key Vault",
            params=asked,
            headers={"Metadata": "true"},
            repeatable=True,
        )
        return self._wire.read(response, _Answer)


def _proof(application: Application) -> Mapping[str, str]:
    if application.secret is not None:
        return {"client_secret": application.secret.get_secret_value()}
    try:
        with Path(application.token_file or "").open(encoding="ascii") as file:
            assertion = file.read(_LONGEST_TOKEN).strip()
    except (OSError, UnicodeError):
        assertion = ""
    if not assertion:
        raise Misconfigured(
            "Get an access token for Azure Key Vault",
            expected="a readable file with a federated token",
            got="none",
            advice="Mount the token into the worker and correct its path in the azure-key-vault "
            "block.",
        )
    return {"client_assertion_type": _ASSERTION, "client_assertion": assertion}
