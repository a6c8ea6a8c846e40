"""The platform's admin API over accounts: /admin/accounts and what hangs below one account."""

import asyncio
import base64
import binascii
from collections.abc import Callable
from dataclasses import asdict

from rehearsal.world.asgi import Handler, Problem, Reply, Request, Routes, optional_text_of, text_of
from rehearsal.world.passkeys import encoded, read_binding
from rehearsal.world.platform_accounts import AccountState
from rehearsal.world.platform_quota import Scope
from rehearsal.world.platform_state import PlatformState

MAX_QUERY = 200
MAX_PAGE = 500

AdminAct = Callable[[Request, tuple[str, ...]], Reply]


def behind_door(state: PlatformState, name: str, act: AdminAct, *scopes: Scope) -> Handler:
    """`act` for callers with an admin token, one of ADMIN or of one of `scopes`, and quota left;
    counted under `name`.

    The order is token, quota, scope: a refused scope costs quota, a refused quota nothing.
    """

    async def handle(request: Request, taken: tuple[str, ...]) -> Reply:
        try:
            token = state.admin.authenticate(request.bearer())
            with state.admin.lease(token) as headers:
                try:
                    if not token.scopes & {Scope.ADMIN, *scopes}:
                        raise Problem(403, "insufficient_scope", "The token may not do this.")
                    if state.latency:
                        await asyncio.sleep(state.latency.total_seconds())
                    reply = act(request, taken)
                except Problem as problem:
                    reply = problem.reply()
        except Problem as problem:
            reply, headers = problem.reply(), ()
        state.admin_answers[name, reply.status] += 1
        return Reply(reply.status, reply.body, (*reply.headers, *headers))

    return handle


def add_account_routes(routes: Routes, state: PlatformState) -> None:
    api = _AccountApi(state)
    one = "/admin/accounts/{}"

    def route(method: str, path: str, act: AdminAct, *scopes: Scope) -> None:
        name = f"{method} {path.removeprefix('/admin/').removeprefix('accounts/{}/')}"
        routes.add(method, path, behind_door(state, name, act, *scopes))

    def deletes(what: str, act: Callable[[str], int]) -> None:
        route("DELETE", f"{one}/{what}", lambda _, ids: Reply(200, {"revoked": act(ids[0])}))

    route("POST", "/admin/accounts/query", api.query, Scope.READ)
    route("GET", "/admin/accounts", api.page, Scope.READ)
    deletes("refresh-tokens", state.revoke_refresh_tokens)
    deletes("sessions", state.revoke_sessions)
    deletes("device-sessions", state.revoke_device_sessions)
    deletes("grants", state.revoke_grants)
    deletes("recovery-tokens", state.revoke_recovery_tokens)
    route("POST", f"{one}/password-reset", api.force_reset)
    route("GET", f"{one}/credentials-summary", api.summary, Scope.READ)
    route("GET", f"{one}/authenticators", api.authenticators, Scope.BIND, Scope.READ)
    route("POST", f"{one}/authenticators", api.bind, Scope.BIND)
    route("DELETE", f"{one}/authenticators", api.remove_authenticators)
    route("DELETE", f"{one}/authenticators/{{}}", api.remove_authenticator)
    route("POST", f"{one}/banners", api.put_banner)
    route("GET", f"{one}/banners", api.banners, Scope.READ)


class _AccountApi:
    """JSON in, one act, JSON out."""

    def __init__(self, state: PlatformState) -> None:
        self._state = state

    def query(self, request: Request, _: tuple[str, ...]) -> Reply:
        ids = request.json().get("ids")
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise Problem(400, "bad_request", "The field ids must be a list of strings.")
        if len(ids) > MAX_QUERY:
            raise Problem(400, "too_many_ids", f"At most {MAX_QUERY} ids in one query.")
        known = self._state.accounts
        wanted = dict.fromkeys(ids)
        found = [self._account(known[one]) for one in wanted if one in known]
        missing = [one for one in wanted if one not in known]
        return Reply(200, {"accounts": found, "missing": missing})

    def page(self, request: Request, _: tuple[str, ...]) -> Reply:
        query = request.query()
        limit = query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MAX_PAGE):
            raise Problem(400, "bad_limit", f"The limit must be 1 to {MAX_PAGE}.")
        after = _decoded_cursor(query["after"]) if query.get("after") else None
        accounts, last = self._state.page(after, int(limit))
        cursor = base64.urlsafe_b64encode(last.encode()).decode() if last is not None else None
        return Reply(200, {"accounts": [self._account(one) for one in accounts], "next": cursor})

    def force_reset(self, _: Request, ids: tuple[str, ...]) -> Reply:
        return Reply(204) if self._state.force_reset(ids[0]) else Reply(200, {"already": True})

    def summary(self, _: Request, ids: tuple[str, ...]) -> Reply:
        account = self._state.account(ids[0])
        return Reply(
            200,
            asdict(self._state.tokens.counts(ids[0]))
            | {
                "password_reset_required": account.reset_required,
                "authenticators": len(account.authenticators),
            },
        )

    def authenticators(self, _: Request, ids: tuple[str, ...]) -> Reply:
        listed = [
            {
                "id": one.id,
                "type": one.type,
                "created_at": one.created_at.isoformat(),
                "label": one.label,
                **({"credential_id": encoded(one.passkey.credential_id)} if one.passkey else {}),
            }
            for one in self._state.account(ids[0]).authenticators.values()
        ]
        return Reply(200, {"authenticators": listed})

    def bind(self, request: Request, ids: tuple[str, ...]) -> Reply:
        document = request.json()
        self._state.account(ids[0])
        kind = text_of(document, "type")
        label = text_of(document, "label", longest=200)
        key = text_of(document, "idempotency_key", longest=255)
        if kind == "passkey":
            passkey = read_binding(document, self._state.passkeys.domain)
            bound = self._state.bind_passkey(ids[0], passkey, label=label, key=key)
        else:
            secret = text_of(document, "secret")
            bound = self._state.bind(ids[0], kind=kind, secret=secret, label=label, key=key)
        authenticator_id, is_new = bound
        return Reply(201 if is_new else 200, {"id": authenticator_id})

    def remove_authenticator(self, _: Request, ids: tuple[str, ...]) -> Reply:
        self._state.remove_authenticator(ids[0], ids[1])
        return Reply(204)

    def remove_authenticators(self, _: Request, ids: tuple[str, ...]) -> Reply:
        return Reply(200, {"removed": self._state.remove_authenticators(ids[0])})

    def put_banner(self, request: Request, ids: tuple[str, ...]) -> Reply:
        document = request.json()
        self._state.account(ids[0])
        banner_id, is_new = self._state.put_banner(
            ids[0],
            key=text_of(document, "idempotency_key", longest=255),
            title=text_of(document, "title"),
            body=text_of(document, "body"),
            link=optional_text_of(document, "link"),
            code=text_of(document, "code"),
            signature=optional_text_of(document, "signature"),
        )
        return Reply(201 if is_new else 200, {"id": banner_id})

    def banners(self, _: Request, ids: tuple[str, ...]) -> Reply:
        listed = [
            {
                "id": one.id,
                "idempotency_key": one.idempotency_key,
                "title": one.title,
                "created_at": one.created_at.isoformat(),
            }
            for one in self._state.account(ids[0]).banners.values()
        ]
        return Reply(200, {"banners": listed})

    def _account(self, account: AccountState) -> dict[str, object]:
        seed = account.seed
        return {
            "id": seed.id,
            "handle": seed.handle,
            "email": seed.email,
            "phone": seed.phone,
            "role": seed.role,
            "brand_account": seed.brand_account,
            "followers": seed.followers,
            "billing_linked": seed.billing_linked,
            "last_active": seed.last_active.isoformat() if seed.last_active else None,
            "linked_apps": self._state.tokens.linked_apps(seed.id),
            "locale": seed.locale,
            "status": account.status,
        }


def _decoded_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Problem(400, "bad_cursor", "The cursor is not one of ours.") from None
