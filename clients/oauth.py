"""Talks to an OAuth server as one of its clients: RFC 6749 (tokens), RFC 7009 (revocation) and
RFC 7662 (introspection).

Which client is an argument of each call, so a refused client secret is a finding about that
secret (`Unverified`), not about our set-up.
"""

import base64
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote_plus

import httpx
from pydantic import BaseModel, Field, SecretStr

from clients.http import OnWire, Wire
from clients.http_answers import call_of, error_code, refusal
from recovery.accounts import Verdict
from recovery.errors import Unverified

TokenHint = Literal["access_token", "refresh_token"]


class _TokenAnswer(BaseModel):
    access_token: SecretStr = Field(min_length=1)


class _IntrospectionAnswer(BaseModel):
    active: bool


class OAuthClient(OnWire):
    """All calls may be repeated. Closing it closes the wire.

    `form_encode_credentials` follows RFC 6749 section 2.3.1, where id and secret are form-encoded
    before the base64; some servers take only the raw form.
    """

    def __init__(
        self,
        wire: Wire,
        *,
        token_path: str = "/oauth/token",  # noqa: S107 - a path
        revocation_path: str = "/oauth/revoke",
        introspection_path: str = "/oauth/introspect",
        me_path: str = "/api/me",
        form_encode_credentials: bool = True,
    ) -> None:
        self._wire = wire
        self._token_path = token_path
        self._revocation_path = revocation_path
        self._introspection_path = introspection_path
        self._me_path = me_path
        self._form_encode = form_encode_credentials

    async def client_token(self, client_id: str, secret: SecretStr) -> SecretStr:
        """An access token for the client itself. Unverified where the secret is not accepted."""
        response = await self._as_client(
            client_id,
            secret,
            self._token_path,
            "Get a token for an app client",
            {"grant_type": "client_credentials"},
        )
        return self._wire.read(response, _TokenAnswer).access_token

    async def revoke(
        self, client_id: str, secret: SecretStr, token: SecretStr, hint: TokenHint = "refresh_token"
    ) -> Verdict:
        """Revokes a token that was issued to this client. DONE says that the server will not take
        it any more, not that it lived (RFC 7009 section 2.2): ask `active` before and after.

        Refused `unsupported_token_type` where the server can't revoke this kind, and for another
        client's token, which stays alive.
        """
        await self._as_client(
            client_id,
            secret,
            self._revocation_path,
            "Revoke a token of an app client",
            {"token": token.get_secret_value(), "token_type_hint": hint},
        )
        return Verdict.DONE

    async def active(self, client_id: str, secret: SecretStr, token: SecretStr) -> bool:
        """Whether the server counts the token as alive. Most servers say False to a client that
        asks about another client's token."""
        response = await self._as_client(
            client_id,
            secret,
            self._introspection_path,
            "Ask whether a token is alive",
            {"token": token.get_secret_value()},
        )
        return self._wire.read(response, _IntrospectionAnswer).active

    async def me(self, token: SecretStr) -> int:
        """The status with which the API answers this bearer token: 200 alive, 401 dead."""
        response = await self._wire.request(
            "GET",
            self._me_path,
            attempted="Use a bearer token at the API",
            headers={"Authorization": f"Bearer {token.get_secret_value()}"},
            ok=(200, 401),
            repeatable=True,
        )
        return response.status_code

    async def _as_client(
        self,
        client_id: str,
        secret: SecretStr,
        path: str,
        attempted: str,
        form: Mapping[str, str],
    ) -> httpx.Response:
        response = await self._wire.request(
            "POST",
            path,
            attempted=attempted,
            subject=client_id,
            form=form,
            headers={"Authorization": self._basic(client_id, secret.get_secret_value())},
            ok=(200, 400, 401),
            repeatable=True,
        )
        if response.status_code == 200:
            return response
        # RFC 6749 section 5.2 lets a server say invalid_client with 400 as well.
        if error_code(response) == "invalid_client":
            raise Unverified(
                attempted,
                subject=client_id,
                expected="the client secret to be accepted",
                got=f"HTTP {response.status_code} invalid_client",
            )
        raise refusal(call_of(response), response)

    def _basic(self, client_id: str, secret: str) -> str:
        if self._form_encode:
            client_id, secret = quote_plus(client_id), quote_plus(secret)
        return f"Basic {base64.b64encode(f'{client_id}:{secret}'.encode()).decode()}"
