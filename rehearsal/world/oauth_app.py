"""The platform's OAuth endpoints: token (RFC 6749), revoke (RFC 7009), introspect (RFC 7662).

Confidential clients authenticate by Basic only, id and secret form-encoded before the base64
(RFC 6749 2.3.1); the public mobile clients name themselves in the body and have no secret.
"""

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import unquote_plus

from rehearsal.world.asgi import Problem, Reply, Request, Routes
from rehearsal.world.credentials import PUBLIC_CLIENTS
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.platform_tokens import ACCESS_TOKEN_SECONDS, Revocation

_NO_STORE = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))


@dataclass(frozen=True, slots=True)
class _Caller:
    client_id: str
    public: bool
    introspect_all: bool = False


def add_oauth_routes(routes: Routes, state: PlatformState) -> None:
    api = _OAuth(state)
    routes.add("POST", "/oauth/token", api.token)
    routes.add("POST", "/oauth/revoke", api.revoke)
    routes.add("POST", "/oauth/introspect", api.introspect)


class _OAuth:
    def __init__(self, state: PlatformState) -> None:
        self._state = state

    async def token(self, request: Request, _: tuple[str, ...]) -> Reply:
        form = request.form()
        caller = self._caller(request, form)
        tokens = self._state.tokens
        answer: dict[str, object] = {"token_type": "Bearer", "expires_in": ACCESS_TOKEN_SECONDS}
        match form.get("grant_type"):
            case "client_credentials":
                if caller.public:
                    raise Problem(400, "unauthorized_client", "A public client may not.")
                answer["access_token"] = tokens.issue_to_client(caller.client_id)
            case "refresh_token":
                given = _required(form, "refresh_token")
                access, renewed = tokens.use_refresh_token(caller.client_id, given)
                answer["access_token"] = access
                if renewed is not None:
                    answer["refresh_token"] = renewed
            case None:
                raise Problem(400, "invalid_request", "The field grant_type is missing.")
            case _:
                raise Problem(400, "unsupported_grant_type", "There is no such grant type.")
        return Reply(200, answer, _NO_STORE)

    async def revoke(self, request: Request, _: tuple[str, ...]) -> Reply:
        """The hint is not needed: every value is looked up among all tokens (RFC 7009 2.1)."""
        form = request.form()
        caller = self._caller(request, form)
        token = _required(form, "token")
        if self._state.revoke_by_client(caller.client_id, token) is Revocation.FOREIGN:
            raise Problem(400, "invalid_request", "The token was issued to another client.")
        return Reply(200, {})

    async def introspect(self, request: Request, _: tuple[str, ...]) -> Reply:
        form = request.form()
        caller = self._caller(request, form)
        if caller.public:
            raise _invalid_client()
        return Reply(200, self._facts(caller, _required(form, "token")), _NO_STORE)

    def _facts(self, caller: _Caller, token: str) -> dict[str, object]:
        tokens = self._state.tokens
        dead: dict[str, object] = {"active": False}
        grant = tokens.refresh_grant(token)
        access = tokens.access_token(token)
        owner = grant or access
        if owner is None or not (caller.introspect_all or owner.client_id == caller.client_id):
            return dead
        if access is None:
            assert grant is not None
            return {"active": True, "client_id": grant.client_id, "sub": grant.account_id}
        return {
            "active": True,
            "client_id": access.client_id,
            "sub": access.grant.account_id if access.grant else access.client_id,
            "token_type": "Bearer",
            "exp": int(access.expires_at),
        }

    def _caller(self, request: Request, form: dict[str, str]) -> _Caller:
        """Problem 401 invalid_client, or 400 when header and body both claim to be somebody."""
        header = request.headers.get("authorization")
        if header is None:
            client_id = form.get("client_id", "")
            if client_id in PUBLIC_CLIENTS and "client_secret" not in form:
                return _Caller(client_id, public=True)
            raise _invalid_client()
        if "client_secret" in form:
            raise Problem(400, "invalid_request", "Authenticate in one way only.")
        client_id, secret = _basic(header)
        client = self._state.clients.authenticate(client_id, secret)
        if client is None or form.get("client_id", client_id) != client_id:
            raise _invalid_client()
        return _Caller(client_id, public=False, introspect_all=client.seed.introspect_all)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        raise _invalid_client()
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        raise _invalid_client() from None
    client_id, colon, secret = text.partition(":")
    if not colon or ":" in secret:
        # A colon inside the secret means that it was not form-encoded.
        raise _invalid_client()
    return unquote_plus(client_id), unquote_plus(secret)


def _required(form: dict[str, str], name: str) -> str:
    if not form.get(name):
        raise Problem(400, "invalid_request", f"The field {name} is missing.")
    return form[name]


def _invalid_client() -> Problem:
    challenge = (("WWW-Authenticate", 'Basic realm="oauth"'), *_NO_STORE)
    return Problem(401, "invalid_client", "Client authentication failed.", headers=challenge)
