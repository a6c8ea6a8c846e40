"""The platform's admin calls on accounts over real HTTP: refusals, limits, effects, the truth."""

import asyncio
import time
from datetime import timedelta

import aiohttp
import pyotp
import pytest

from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import CredentialKind
from rehearsal.world.faults import CloseAfter, Status
from rehearsal.world.platform_accounts import AccountStatus
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import populate
from tests.rehearsal.platform_world import BIND, SECRET, World

# Reading accounts.


async def test_query_gives_accounts_and_names_the_missing(world: World) -> None:
    seed = world.affected(with_totp=True)
    answer = await world.admin("POST", "/accounts/query", {"ids": [seed.id, "u-nobody", seed.id]})
    assert answer.status == 200
    assert answer.body["missing"] == ["u-nobody"]
    [account] = answer.body["accounts"]
    assert account == {
        "id": seed.id,
        "handle": seed.handle,
        "email": seed.email,
        "phone": seed.phone,
        "role": seed.role.value,
        "brand_account": seed.brand_account,
        "followers": seed.followers,
        "billing_linked": seed.billing_linked,
        "last_active": seed.last_active.isoformat() if seed.last_active else None,
        "linked_apps": list(seed.linked_apps),
        "locale": seed.locale,
        "status": "active",
    }
    ids = [f"u-{n}" for n in range(201)]
    assert (await world.admin("POST", "/accounts/query", {"ids": ids[:200]})).status == 200
    answer = await world.admin("POST", "/accounts/query", {"ids": ids})
    assert (answer.status, answer.body["error"]) == (400, "too_many_ids")
    for bad in ({}, {"ids": "u-1"}, {"ids": [1]}):
        assert (await world.admin("POST", "/accounts/query", bad)).status == 400


async def test_pages_cover_every_account_once_in_order(world: World) -> None:
    seen: list[str] = []
    path = "/accounts?limit=7"
    for _ in range(20):
        answer = await world.admin("GET", path)
        page = [account["id"] for account in answer.body["accounts"]]
        assert len(page) <= 7
        seen += page
        if answer.body["next"] is None:
            break
        path = f"/accounts?limit=7&after={answer.body['next']}"
    assert seen == sorted(world.population.accounts)
    for query in ("limit=501", "limit=0", "limit=x", "after=%25"):
        assert (await world.admin("GET", f"/accounts?{query}")).status == 400


# Who may.


async def test_tokens_and_scopes(world: World) -> None:
    path = f"/admin/accounts/{world.population.affected_ids[0]}"
    for bearer in (None, "wrong"):
        answer = await world.call("DELETE", f"{path}/sessions", bearer=bearer)
        assert (answer.status, answer.body["error"]) == (401, "invalid_token")
    expires_at = world.clock.now() + timedelta(minutes=5)
    world.state.admin.add(AdminToken("short", expires_at=expires_at))
    assert (await world.call("GET", f"{path}/banners", bearer="short")).status == 200
    world.clock.advance(timedelta(minutes=6))
    answer = await world.call("GET", f"{path}/banners", bearer="short")
    assert (answer.status, answer.body["error"]) == (401, "token_expired")
    assert (await world.call("GET", f"{path}/authenticators", bearer=BIND)).status == 200
    for method, below in (
        ("DELETE", "sessions"),
        ("DELETE", "authenticators"),
        ("GET", "credentials-summary"),
        ("POST", "password-reset"),
    ):
        answer = await world.call(method, f"{path}/{below}", bearer=BIND)
        assert (answer.status, answer.body["error"]) == (403, "insufficient_scope")
        assert "X-RateLimit-Limit" in answer.headers
    assert (await world.call("GET", "/admin/clients", bearer=BIND)).status == 403
    assert world.state.all_effects().total() == 0


async def test_over_quota_is_429_and_does_nothing(world: World) -> None:
    world.state.admin.add(AdminToken("slow", per_second=5, concurrent=50))
    victims = [a for a in world.population.affected_ids if world.state.counts_of(a).sessions][:12]
    answers = await asyncio.gather(
        *(world.call("DELETE", f"/admin/accounts/{one}/sessions", bearer="slow") for one in victims)
    )
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    assert 5 <= statuses.count(200) <= 6
    for one, answer in zip(victims, answers, strict=True):
        assert answer.headers["X-RateLimit-Limit"] == "5"
        assert int(answer.headers["X-RateLimit-Remaining"]) < 5
        reset = int(answer.headers["X-RateLimit-Reset"])
        assert 0 < reset - world.clock.timestamp() < 3
        if answer.status == 429:
            assert answer.headers["Retry-After"] == "1"
            assert world.state.effects(one) == ()
            assert world.state.counts_of(one).sessions > 0
        else:
            assert world.state.counts_of(one).sessions == 0
    assert world.state.admin_answers["DELETE sessions", 429] == statuses.count(429)
    refused = victims[statuses.index(429)]
    await asyncio.sleep(1)
    answer = await world.call("DELETE", f"/admin/accounts/{refused}/sessions", bearer="slow")
    assert answer.status == 200


async def test_quota_refills_continuously_and_a_lease_of_it_lasts(world: World) -> None:
    world.state.admin.add(AdminToken("steady", per_second=40, concurrent=50))
    path = f"/admin/accounts/{world.population.affected_ids[0]}/banners"
    world.state.latency = timedelta(0)
    done, begun = 0, time.monotonic()
    while time.monotonic() - begun < 1.0:
        done += (await world.call("GET", path, bearer="steady")).status == 200
    assert 65 <= done <= 82, "a full bucket of 40 and one second's refill"


async def test_too_many_at_once_is_429_and_costs_no_quota(world: World) -> None:
    world.state.admin.add(AdminToken("narrow", per_second=1000, concurrent=2))
    world.state.latency = timedelta(milliseconds=150)
    path = f"/admin/accounts/{world.population.affected_ids[0]}/banners"
    answers = await asyncio.gather(*(world.call("GET", path, bearer="narrow") for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200, 200, 429, 429, 429, 429]
    remaining = [int(a.headers["X-RateLimit-Remaining"]) for a in answers]
    assert min(remaining) >= 997
    assert (await world.call("GET", path, bearer="narrow")).status == 200


# Revoking.


@pytest.mark.parametrize(
    ("path", "kind", "count"),
    [
        ("sessions", CredentialKind.SESSION, "sessions"),
        ("device-sessions", CredentialKind.DEVICE_SESSION, "device_sessions"),
        ("recovery-tokens", CredentialKind.RECOVERY_TOKEN, "recovery_tokens"),
        ("refresh-tokens", CredentialKind.REFRESH_TOKEN, "refresh_tokens"),
    ],
)
async def test_each_revocation_kills_its_own_once(
    world: World, path: str, kind: CredentialKind, count: str
) -> None:
    account_id = world.holder_of(kind)
    mine = world.credentials(kind, account_id)
    others = [c for c in world.credentials(kind) if c.account_id != account_id]
    assert all(world.state.live(c) for c in mine + others)
    summary = (await world.admin("GET", f"/accounts/{account_id}/credentials-summary")).body
    assert summary[count] == len(mine)

    answer = await world.admin("DELETE", f"/accounts/{account_id}/{path}")
    assert (answer.status, answer.body) == (200, {"revoked": len(mine)})
    assert not any(world.state.live(c) for c in mine)
    assert all(world.state.live(c) for c in others)
    summary = (await world.admin("GET", f"/accounts/{account_id}/credentials-summary")).body
    assert summary[count] == 0
    assert [e.call for e in world.state.effects(account_id)] == [f"{path}.delete"]

    answer = await world.admin("DELETE", f"/accounts/{account_id}/{path}")
    assert (answer.status, answer.body) == (200, {"revoked": 0})
    assert len(world.state.effects(account_id)) == 1, "a second run does nothing"


async def test_refresh_tokens_take_their_access_tokens_along(world: World) -> None:
    token = world.credentials(CredentialKind.ACCESS_TOKEN)[0]
    me = await world.call("GET", "/api/me", bearer=token.value)
    assert (me.status, me.body) == (200, {"sub": token.account_id, "kind": "user_token"})
    sessions = world.state.counts_of(token.account_id).sessions
    await world.admin("DELETE", f"/accounts/{token.account_id}/refresh-tokens")
    assert (await world.call("GET", "/api/me", bearer=token.value)).status == 401
    left = world.state.counts_of(token.account_id)
    assert (left.refresh_tokens, left.access_tokens, left.sessions) == (0, 0, sessions)


async def test_grants_are_those_of_third_party_apps(world: World) -> None:
    account = next(
        world.population.accounts[c.account_id]
        for c in world.credentials(CredentialKind.REFRESH_TOKEN)
        if (c.client_id or "").startswith("mobile")
        and world.population.accounts[c.account_id].linked_apps
    )
    apps = account.linked_apps
    [mobile] = [
        c
        for c in world.credentials(CredentialKind.REFRESH_TOKEN, account.id)
        if c.client_id not in apps
    ]
    listed = (await world.admin("GET", f"/clients?ids={apps[0]},app-none")).body["clients"]
    [before] = [client["linked_accounts"] for client in listed]
    answer = await world.admin("DELETE", f"/accounts/{account.id}/grants")
    assert answer.body == {"revoked": len(apps)}
    gone = [
        c
        for c in world.population.credentials
        if c.account_id == account.id and c.client_id in apps
    ]
    assert gone
    assert world.state.live_stolen(gone) == []
    assert world.state.live(mobile), "the platform's own app is no third party"
    listed = (await world.admin("POST", "/accounts/query", {"ids": [account.id]})).body
    assert listed["accounts"][0]["linked_apps"] == []
    [client] = (await world.admin("GET", f"/clients?ids={apps[0]}")).body["clients"]
    assert client["linked_accounts"] == before - 1
    assert (await world.admin("DELETE", f"/accounts/{account.id}/grants")).body == {"revoked": 0}


async def test_access_tokens_expire_by_the_worlds_time(world: World) -> None:
    token = world.credentials(CredentialKind.ACCESS_TOKEN)[0]
    before = world.state.counts_of(token.account_id).access_tokens
    assert before > 0
    world.clock.advance(timedelta(seconds=301))
    assert (await world.call("GET", "/api/me", bearer=token.value)).status == 401
    assert world.state.counts_of(token.account_id).access_tokens == 0


async def test_unknown_and_deactivated_accounts(world: World) -> None:
    calls: list[tuple[str, str, object]] = [
        ("DELETE", "refresh-tokens", None),
        ("DELETE", "sessions", None),
        ("DELETE", "device-sessions", None),
        ("DELETE", "grants", None),
        ("DELETE", "recovery-tokens", None),
        ("DELETE", "authenticators", None),
        ("POST", "password-reset", {"notify": False}),
        ("POST", "authenticators", _binding("k")),
        ("POST", "banners", _banner("k")),
        ("GET", "credentials-summary", None),
        ("GET", "authenticators", None),
        ("GET", "banners", None),
    ]
    one = world.population.affected_ids[0]
    world.state.accounts[one].status = AccountStatus.DEACTIVATED
    for method, path, document in calls:
        answer = await world.admin(method, f"/accounts/u-nobody/{path}", document)
        assert (answer.status, answer.body["error"]) == (404, "not_found"), path
        answer = await world.admin(method, f"/accounts/{one}/{path}", document)
        if method == "POST":
            assert (answer.status, answer.body["error"]) == (409, "deactivated"), path
        else:
            assert answer.status == 200, path


# The judge's view.


async def test_the_digest_sees_every_act_and_no_reading(world: World) -> None:
    one = world.affected(with_totp=True)
    client_id = next(iter(world.population.clients))
    before = world.state.snapshot_digest()
    hit = next(h for h in world.population.burst if h.account_id == one.id)
    assert one.totp_secret is not None
    code = pyotp.TOTP(one.totp_secret).at(world.clock.now())
    login = {"handle": one.handle, "password": hit.new_password, "totp": code}
    assert (await world.call("POST", "/login", login)).status == 200
    assert (await world.call("POST", "/login", login | {"password": "wrong"})).status == 401
    for path in ("accounts", "clients", f"accounts/{one.id}/credentials-summary"):
        await world.admin("GET", f"/{path}")
    await world.admin("DELETE", "/accounts/u-nobody/sessions")
    world.clock.advance(timedelta(days=1))
    assert world.state.snapshot_digest() == before

    seen = {before}
    account = f"/accounts/{one.id}"
    acts: list[tuple[str, str, object]] = [
        ("DELETE", f"{account}/refresh-tokens", None),
        ("DELETE", f"{account}/sessions", None),
        ("POST", f"{account}/password-reset", {"notify": False}),
        ("DELETE", f"{account}/authenticators", None),
        ("POST", f"{account}/authenticators", _binding("k")),
        ("POST", f"{account}/banners", _banner("k")),
        ("POST", f"/clients/{client_id}/secrets", {"marker": "m"}),
    ]
    for number, (method, path, document) in enumerate(acts, start=1):
        await world.admin(method, path, document)
        seen.add(world.state.snapshot_digest())
        assert len(seen) == number + 1, path


async def test_two_worlds_of_one_seed_begin_alike(world: World) -> None:
    other = PlatformState(populate(7, accounts=24, members=12, clients=4), WorldClock())
    assert other.clients.listed()[0].seed == world.state.clients.listed()[0].seed
    account = world.population.affected_ids[0]
    assert other.counts_of(account) == world.state.counts_of(account)
    assert len(other.live_stolen(other.population.loot)) == len(other.population.loot.items)


async def test_faults_strike_the_running_platform(world: World) -> None:
    one = world.holder_of(CredentialKind.SESSION)
    path = f"/accounts/{one}/sessions"
    world.state.faults.inject(Status(503, retry_after="2"), r"^DELETE /admin/.*/sessions$")
    answer = await world.admin("DELETE", path)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert world.state.effects(one) == ()
    # Twice: aiohttp itself repeats an idempotent request whose kept connection was cut.
    world.state.faults.inject(CloseAfter(), r"/sessions$", times=2)
    with pytest.raises(aiohttp.ClientError):
        await world.admin("DELETE", path)
    assert [e.call for e in world.state.effects(one)] == ["sessions.delete"]
    world.state.faults.clear()
    assert (await world.admin("DELETE", path)).body == {"revoked": 0}


def _binding(key: str) -> dict[str, str]:
    return {"type": "totp", "secret": SECRET, "label": "New app", "idempotency_key": key}


def _banner(key: str) -> dict[str, str | None]:
    return {
        "idempotency_key": key,
        "title": "Please enroll again",
        "body": "Your password was reset.",
        "link": None,
        "code": "123456",
        "signature": "sig",
    }
