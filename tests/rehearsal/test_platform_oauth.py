"""The platform's OAuth endpoints over real HTTP (RFC 6749, RFC 7009, RFC 7662), and the admin
calls on clients and their secrets."""

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import pytest

from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import PUBLIC_CLIENTS, Credential, CredentialKind
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population, populate
from rehearsal.world.registry import ClientSeed
from rehearsal.world.serving import Loopback


def basic(client_id: str, secret: str) -> str:
    """RFC 6749 2.3.1: form-encoded, then base64."""
    text = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return "Basic " + base64.b64encode(text.encode()).decode()


@dataclass(frozen=True)
class OAuth:
    population: Population
    state: PlatformState
    clock: WorldClock
    url: str
    http: aiohttp.ClientSession

    async def post(
        self, path: str, form: dict[str, str], authorization: str | None = None
    ) -> tuple[int, Any, Any]:
        headers = {"Authorization": authorization} if authorization else {}
        async with self.http.post(f"{self.url}{path}", data=form, headers=headers) as answer:
            return answer.status, await answer.json(), answer.headers

    async def by(self, client: ClientSeed, path: str, **form: str) -> tuple[int, Any]:
        status, body, _ = await self.post(path, form, basic(client.id, client.secret))
        return status, body

    async def admin(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        headers = {"Authorization": "Bearer adm"}
        async with self.http.request(
            method, f"{self.url}/admin{path}", json=document, headers=headers
        ) as answer:
            return answer.status, await answer.json() if await answer.read() else None

    async def me(self, token: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.get(f"{self.url}/api/me", headers=headers) as answer:
            return answer.status, await answer.json()

    def clients(self) -> list[ClientSeed]:
        return list(self.population.clients.values())

    def linked(self) -> tuple[ClientSeed, Credential, Credential]:
        """A confidential client with one account's refresh token and access token."""
        for refresh in self.population.credentials:
            if refresh.kind is not CredentialKind.REFRESH_TOKEN:
                continue
            if refresh.client_id not in self.population.clients:
                continue
            for access in self.population.credentials:
                if (access.kind, access.account_id, access.client_id) == (
                    CredentialKind.ACCESS_TOKEN,
                    refresh.account_id,
                    refresh.client_id,
                ):
                    return self.population.clients[refresh.client_id], refresh, access
        raise AssertionError("nobody has linked an app")

    def mobile(self) -> Credential:
        return next(
            c
            for c in self.population.loot.of(CredentialKind.REFRESH_TOKEN)
            if c.client_id in PUBLIC_CLIENTS
        )


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(11, accounts=30, members=5, clients=4)


@pytest.fixture
async def oauth(population: Population) -> AsyncIterator[OAuth]:
    clock = WorldClock()
    state = PlatformState(
        population, clock, admin_tokens=[AdminToken("adm")], consumers_url="http://127.0.0.1:9/"
    )
    async with Loopback(platform_app(state)) as server, aiohttp.ClientSession() as http:
        yield OAuth(population, state, clock, server.url, http)


async def test_client_credentials_with_every_awkward_secret(oauth: OAuth) -> None:
    for client in oauth.clients():
        assert set(client.secret) & set(":+/%")
        status, body = await oauth.by(client, "/oauth/token", grant_type="client_credentials")
        assert status == 200
        assert (body["token_type"], body["expires_in"]) == ("Bearer", 300)
        assert "refresh_token" not in body
        assert await oauth.me(body["access_token"]) == (200, {"sub": client.id, "kind": "client"})
    [secret] = oauth.state.secrets_of(client.id)
    assert secret.last_used_at is not None
    oauth.clock.advance(timedelta(seconds=301))
    assert (await oauth.me(body["access_token"]))[0] == 401


async def test_client_authentication_refused(oauth: OAuth) -> None:
    client, other = oauth.clients()[:2]
    form = {"grant_type": "client_credentials"}
    raw = base64.b64encode(f"{client.id}:{client.secret}".encode()).decode()
    for authorization in (
        None,
        basic(client.id, "wrong"),
        basic(client.id, other.secret),
        basic("app-none", client.secret),
        f"Basic {raw}",
        "Basic !!!",
        "Bearer x",
    ):
        status, body, headers = await oauth.post("/oauth/token", form, authorization)
        assert (status, body["error"]) == (401, "invalid_client"), authorization
        assert headers["WWW-Authenticate"].startswith("Basic")
    assert oauth.state.client_auth_failures()[client.id] == 2
    assert oauth.state.client_auth_failures()[other.id] == 0
    in_body = form | {"client_id": client.id, "client_secret": client.secret}
    assert (await oauth.post("/oauth/token", in_body))[0] == 401
    both = await oauth.post("/oauth/token", in_body, basic(client.id, client.secret))
    assert (both[0], both[1]["error"]) == (400, "invalid_request")
    for path in ("/oauth/revoke", "/oauth/introspect"):
        status, body, _ = await oauth.post(path, {"token": "x"}, basic(client.id, "wrong"))
        assert (status, body["error"]) == (401, "invalid_client")


async def test_requests_that_make_no_sense(oauth: OAuth) -> None:
    client = oauth.clients()[0]
    for form, error in (
        ({}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "refresh_token"}, "invalid_request"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, "invalid_grant"),
    ):
        status, body = await oauth.by(client, "/oauth/token", **form)
        assert (status, body["error"]) == (400, error)
    assert (await oauth.by(client, "/oauth/revoke"))[1]["error"] == "invalid_request"
    public = {"grant_type": "client_credentials", "client_id": "mobile-ios"}
    status, body, _ = await oauth.post("/oauth/token", public)
    assert (status, body["error"]) == (400, "unauthorized_client")
    authorization = {"Authorization": basic(client.id, client.secret)}
    async with oauth.http.post(
        f"{oauth.url}/oauth/token", json={"grant_type": "client_credentials"}, headers=authorization
    ) as answer:
        assert answer.status == 400
    async with oauth.http.post(
        f"{oauth.url}/oauth/revoke",
        data=b"token=a&token=b",
        headers=authorization | {"Content-Type": "application/x-www-form-urlencoded"},
    ) as answer:
        assert answer.status == 400


async def test_both_secrets_work_until_one_is_deactivated(oauth: OAuth) -> None:
    client = oauth.clients()[0]
    new = oauth.state.clients.add_secret(client.id, "m")
    form = {"grant_type": "client_credentials"}
    for value in (client.secret, new.value):
        assert (await oauth.post("/oauth/token", form, basic(client.id, value)))[0] == 200
    assert all(s.last_used_at for s in oauth.state.secrets_of(client.id))
    oauth.state.clients.deactivate(client.id, client.secret_id)
    assert (await oauth.post("/oauth/token", form, basic(client.id, client.secret)))[0] == 401
    assert (await oauth.post("/oauth/token", form, basic(client.id, new.value)))[0] == 200
    assert oauth.state.client_auth_failures()[client.id] == 1


async def test_refresh_tokens_belong_to_their_client(oauth: OAuth) -> None:
    client, refresh, _ = oauth.linked()
    stranger = next(c for c in oauth.clients() if c.id != client.id)
    form = {"grant_type": "refresh_token", "refresh_token": refresh.value}
    status, body = await oauth.by(stranger, "/oauth/token", **form)
    assert (status, body["error"]) == (400, "invalid_grant")
    for _ in range(2):
        status, body = await oauth.by(client, "/oauth/token", **form)
        assert status == 200
        assert "refresh_token" not in body
    me = await oauth.me(body["access_token"])
    assert me == (200, {"sub": refresh.account_id, "kind": "user_token"})


async def test_public_clients_rotate_their_refresh_tokens(oauth: OAuth) -> None:
    stolen = oauth.mobile()
    form = {
        "grant_type": "refresh_token",
        "refresh_token": stolen.value,
        "client_id": stolen.client_id or "",
    }
    other = next(c for c in PUBLIC_CLIENTS if c != stolen.client_id)
    assert (await oauth.post("/oauth/token", form | {"client_id": other}))[0] == 400
    status, body, headers = await oauth.post("/oauth/token", form)
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert (await oauth.post("/oauth/token", form))[1]["error"] == "invalid_grant"
    renewed = form | {"refresh_token": body["refresh_token"]}
    assert (await oauth.post("/oauth/token", renewed))[0] == 200
    assert oauth.state.counts_of(stolen.account_id).refresh_tokens >= 1
    oauth.state.revoke_refresh_tokens(stolen.account_id)
    assert (await oauth.me(body["access_token"]))[0] == 401


@pytest.mark.parametrize("hint", [None, "refresh_token", "access_token", "nonsense"])
async def test_revoking_a_refresh_token_kills_its_access_tokens(
    oauth: OAuth, hint: str | None
) -> None:
    client, refresh, access = oauth.linked()
    extra = {"token_type_hint": hint} if hint else {}
    assert (await oauth.me(access.value))[0] == 200
    assert await oauth.by(client, "/oauth/revoke", token=refresh.value, **extra) == (200, {})
    assert (await oauth.me(access.value))[0] == 401
    form = {"grant_type": "refresh_token", "refresh_token": refresh.value}
    assert (await oauth.by(client, "/oauth/token", **form))[0] == 400
    assert [e.call for e in oauth.state.effects(refresh.account_id)] == ["oauth.revoke"]
    assert (await oauth.by(client, "/oauth/revoke", token=refresh.value, **extra))[0] == 200
    assert len(oauth.state.effects(refresh.account_id)) == 1


async def test_revoking_an_access_token_leaves_the_refresh_token(oauth: OAuth) -> None:
    client, refresh, access = oauth.linked()
    hint = {"token_type_hint": "refresh_token"}
    assert (await oauth.by(client, "/oauth/revoke", token=access.value, **hint))[0] == 200
    assert not oauth.state.live(access)
    assert oauth.state.live(refresh)


async def test_unknown_dead_and_foreign_tokens(oauth: OAuth) -> None:
    client, refresh, access = oauth.linked()
    stranger = next(c for c in oauth.clients() if c.id != client.id)
    session = next(c for c in oauth.population.credentials if c.kind is CredentialKind.SESSION)
    for token in ("never-seen", session.value):
        assert (await oauth.by(client, "/oauth/revoke", token=token))[0] == 200
    assert oauth.state.live(session), "a web session is no OAuth token"
    for foreign in (refresh, access):
        status, body = await oauth.by(stranger, "/oauth/revoke", token=foreign.value)
        assert (status, body["error"]) == (400, "invalid_request")
        assert oauth.state.live(foreign), "it stays active"
    oauth.clock.advance(timedelta(seconds=301))
    assert (await oauth.by(stranger, "/oauth/revoke", token=access.value))[0] == 200, "dead"
    assert oauth.state.all_effects().total() == 0


async def test_introspection_of_own_foreign_and_all_tokens(oauth: OAuth) -> None:
    client, refresh, access = oauth.linked()
    stranger = next(c for c in oauth.clients() if c.id != client.id)
    for token in (refresh, access):
        for asking in (client, oauth.population.introspector):
            status, body = await oauth.by(asking, "/oauth/introspect", token=token.value)
            assert status == 200
            assert body["active"] is True
            assert (body["client_id"], body["sub"]) == (client.id, token.account_id)
        answer = await oauth.by(stranger, "/oauth/introspect", token=token.value)
        assert answer == (200, {"active": False})
    _, issued = await oauth.by(client, "/oauth/token", grant_type="client_credentials")
    _, body = await oauth.by(client, "/oauth/introspect", token=issued["access_token"])
    assert body["sub"] == client.id
    assert 0 < body["exp"] - oauth.clock.timestamp() <= 300
    assert (await oauth.by(client, "/oauth/introspect", token="nope"))[1] == {"active": False}
    oauth.clock.advance(timedelta(seconds=301))
    _, body = await oauth.by(oauth.population.introspector, "/oauth/introspect", token=access.value)
    assert body == {"active": False}
    status, _, _ = await oauth.post(
        "/oauth/introspect", {"token": access.value, "client_id": "mobile-ios"}
    )
    assert status == 401


async def test_clients_as_listed(oauth: OAuth) -> None:
    _, body = await oauth.admin("GET", "/clients")
    listed = body["clients"]
    assert [client["id"] for client in listed] == sorted(oauth.population.clients)
    seed = oauth.population.clients[listed[0]["id"]]
    accounts = oauth.population.accounts.values()
    assert listed[0] == {
        "id": seed.id,
        "name": seed.name,
        "owner": seed.owner,
        "linked_accounts": sum(
            seed.id in a.linked_apps and a.last_active is not None for a in accounts
        ),
        "risk": seed.risk,
        "kind": "oauth_client",
        "max_secrets": 2,
        "can_deactivate": True,
        "consumers": [
            {
                "name": c.name,
                "health_url": f"http://127.0.0.1:9/consumers/{c.name}/health",
                "ci_job": c.ci_job,
                "tries_both": False,
            }
            for c in seed.consumers
        ],
        "integrations": [
            {"name": name, "health_url": f"http://127.0.0.1:9/integrations/{seed.id}/health"}
            for name in seed.partners
        ],
    }
    _, some = await oauth.admin("GET", f"/clients?ids={listed[1]['id']},app-none")
    assert [client["id"] for client in some["clients"]] == [listed[1]["id"]]
    many = ",".join(f"app-{n}" for n in range(51))
    assert (await oauth.admin("GET", f"/clients?ids={many}"))[0] == 400


async def test_two_secrets_and_the_order_of_their_end(oauth: OAuth) -> None:
    client = oauth.clients()[0]
    old, path = client.secret_id, f"/clients/{client.id}/secrets"
    status, body = await oauth.admin("POST", f"{path}/{old}/deactivate")
    assert (status, body["error"]) == (400, "last_active_secret")
    status, made = await oauth.admin("POST", path, {"marker": "inc-1"})
    assert status == 201
    new, value = made["id"], made["client_secret"]
    assert made["created_at"]
    status, body = await oauth.admin("POST", path, {"marker": "inc-1"})
    assert (status, body["error"]) == (400, "too_many_secrets")
    _, body = await oauth.admin("GET", path)
    assert [(s["id"], s["status"], s["marker"], s["last_used_at"]) for s in body["secrets"]] == [
        (old, "ACTIVE", None, None),
        (new, "ACTIVE", "inc-1", None),
    ]
    assert value not in str(body)
    assert client.secret not in str(body)

    status, body = await oauth.admin("DELETE", f"{path}/{old}")
    assert (status, body["error"]) == (400, "secret_active")
    assert (await oauth.admin("POST", f"{path}/{old}/deactivate"))[0] == 200
    assert (await oauth.admin("POST", f"{path}/{old}/deactivate"))[0] == 200
    status, body = await oauth.admin("POST", f"{path}/{new}/deactivate")
    assert (status, body["error"]) == (400, "last_active_secret")
    assert (await oauth.admin("POST", f"{path}/{old}/activate"))[0] == 200
    assert (await oauth.admin("POST", f"{path}/{old}/deactivate"))[0] == 200
    assert (await oauth.admin("DELETE", f"{path}/{old}"))[0] == 204
    for method, end in (("DELETE", ""), ("POST", "/deactivate"), ("POST", "/activate")):
        assert (await oauth.admin(method, f"{path}/{old}{end}"))[0] == 404
    assert (await oauth.admin("GET", "/clients/app-none/secrets"))[0] == 404
    assert [s.id for s in oauth.state.secrets_of(client.id)] == [new]
    assert oauth.state.all_effects() == {
        "secrets.create": 1,
        "secrets.deactivate": 2,
        "secrets.activate": 1,
        "secrets.delete": 1,
    }
