"""The platform client against the rehearsal platform; asserted is the state of the platform."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import cbor2
import pyotp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from clients.http import Timeouts, Wire
from clients.platform import PlatformClient, PlatformPaths
from recovery.accounts import Verdict
from recovery.contain import CredentialKind
from recovery.errors import (
    Conflict,
    Incomplete,
    Misconfigured,
    NotFound,
    RateLimited,
    Refused,
    Unknown,
)
from recovery.messages import BannerCopy
from recovery.passkey import Passkey, read_passkey
from rehearsal.world.cast import AccountSeed
from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import CredentialKind as Planted
from rehearsal.world.faults import CloseAfter, CloseBefore, InvalidJson, Status
from rehearsal.world.platform_accounts import AccountStatus
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken, Scope
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population, populate
from rehearsal.world.serving import Loopback

ADMIN, BIND = "adm_test", "bind_test"


@dataclass
class World:
    population: Population
    state: PlatformState
    url: str
    pauses: list[float]

    def client(
        self, token: str = ADMIN, paths: PlatformPaths | None = None, attempts: int = 4
    ) -> PlatformClient:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        wire = Wire(
            "the platform",
            self.url,
            headers={"Authorization": SecretStr(f"Bearer {token}")},
            credential="admin token",
            timeout=Timeouts(read=timedelta(seconds=5)),
            attempts=attempts,
            jitter=random.Random(3),
            sleep=sleep,
        )
        return PlatformClient(wire, paths)

    def holder_of(self, kind: Planted) -> str:
        return next(c.account_id for c in self.population.credentials if c.kind is kind)

    def affected(self, *, with_totp: bool) -> AccountSeed:
        return next(
            self.population.accounts[one]
            for one in self.population.affected_ids
            if (self.population.accounts[one].totp_secret is not None) == with_totp
        )


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(11, accounts=24, members=300, clients=4)


@pytest.fixture
async def world(population: Population) -> AsyncIterator[World]:
    tokens = [
        AdminToken(ADMIN, per_second=5000, concurrent=50),
        AdminToken(BIND, scopes=frozenset({Scope.BIND}), per_second=5000),
    ]
    state = PlatformState(population, WorldClock(), admin_tokens=tokens, latency=timedelta(0))
    async with Loopback(platform_app(state)) as server:
        yield World(population, state, server.url, [])


@pytest.fixture
async def platform(world: World) -> AsyncIterator[PlatformClient]:
    async with world.client() as client:
        yield client


# Accounts


async def test_roster_asks_in_chunks_and_names_the_missing(
    world: World, platform: PlatformClient
) -> None:
    ids = [*world.population.accounts, "u-nobody"]
    assert len(ids) > 200
    entries, missing = await platform.roster([*ids, ids[0]])
    assert missing == ["u-nobody"]
    assert [entry.account_id for entry in entries] == ids[:-1]
    seed = world.affected(with_totp=True)
    entry = next(e for e in entries if e.account_id == seed.id)
    assert (entry.handle, entry.email, entry.phone) == (seed.handle, seed.email, seed.phone)
    assert (entry.role, entry.brand_account) == (seed.role.value, seed.brand_account)
    assert (entry.followers, entry.billing_linked) == (seed.followers, seed.billing_linked)
    assert entry.last_active == seed.last_active
    assert entry.last_active is None or entry.last_active.tzinfo is not None
    assert set(entry.linked_apps) == set(seed.linked_apps)
    assert (entry.locale, entry.status) == (seed.locale, "active")
    queries = world.state.admin_answers
    assert sum(n for (name, _), n in queries.items() if name.endswith("query")) == 2


async def test_all_accounts_comes_page_by_page_and_whole(
    world: World, platform: PlatformClient
) -> None:
    pages = [page async for page in platform.all_accounts()]
    ids = [entry.account_id for page in pages for entry in page]
    assert ids == sorted(world.population.accounts)


async def test_a_cut_roster_is_incomplete(world: World, platform: PlatformClient) -> None:
    world.state.faults.inject(InvalidJson(), "accounts/query")
    with pytest.raises(Incomplete):
        await platform.roster(list(world.population.affected_ids))


@pytest.mark.parametrize(
    ("kind", "planted", "left"),
    [
        (CredentialKind.REFRESH_TOKENS, Planted.REFRESH_TOKEN, "refresh_tokens"),
        (CredentialKind.SESSIONS, Planted.SESSION, "sessions"),
        (CredentialKind.DEVICE_SESSIONS, Planted.DEVICE_SESSION, "device_sessions"),
        (CredentialKind.RECOVERY_TOKENS, Planted.RECOVERY_TOKEN, "recovery_tokens"),
    ],
)
async def test_revoke_kills_and_then_there_is_nothing(
    world: World, platform: PlatformClient, kind: CredentialKind, planted: Planted, left: str
) -> None:
    account = world.holder_of(planted)
    alive = getattr(world.state.counts_of(account), left)
    assert alive > 0
    assert await platform.revoke(account, kind) == (Verdict.DONE, alive)
    assert getattr(world.state.counts_of(account), left) == 0
    assert await platform.revoke(account, kind) == (Verdict.ALREADY, 0)


async def test_grants_die_with_their_tokens(world: World, platform: PlatformClient) -> None:
    account = next(
        c.account_id
        for c in world.population.credentials
        if c.kind is Planted.ACCESS_TOKEN and world.state.counts_of(c.account_id).grants
    )
    verdict, count = await platform.revoke(account, CredentialKind.GRANTS)
    assert verdict is Verdict.DONE
    assert count > 0
    assert world.state.counts_of(account).grants == 0


async def test_live_counts_what_the_platform_counts(world: World, platform: PlatformClient) -> None:
    account = world.holder_of(Planted.REFRESH_TOKEN)
    before = await platform.live(account)
    truth = world.state.counts_of(account)
    assert (before.sessions, before.refresh_tokens) == (truth.sessions, truth.refresh_tokens)
    assert before.any
    for kind in CredentialKind:
        await platform.revoke(account, kind)
    after = await platform.live(account)
    assert after.any
    assert not after.password_reset_required
    await platform.force_password_reset(account)
    assert not (await platform.live(account)).any


async def test_forced_reset_ends_the_old_password(world: World, platform: PlatformClient) -> None:
    stolen = next(c for c in world.population.loot.items if c.kind is Planted.PASSWORD)
    assert stolen.handle is not None
    code = pyotp.TOTP(stolen.totp_secret).now() if stolen.totp_secret else None
    assert await platform.login(stolen.handle, SecretStr(stolen.value), code)
    assert await platform.force_password_reset(stolen.account_id) is Verdict.DONE
    assert not world.state.live(stolen)
    assert not await platform.login(stolen.handle, SecretStr(stolen.value), code)
    assert await platform.force_password_reset(stolen.account_id) is Verdict.ALREADY


async def test_login_does_not_carry_the_admin_token(world: World) -> None:
    """An admin token that has ended must not decide whether a person's password works."""
    async with world.client(token="expired") as client:
        assert not await client.login("nobody", SecretStr("wrong"))
        with pytest.raises(Misconfigured):
            await client.live(world.population.affected_ids[0])


async def test_login_that_is_throttled_is_no_answer(world: World, platform: PlatformClient) -> None:
    for _ in range(10):
        assert not await platform.login("somebody", SecretStr("wrong"))
    with pytest.raises(RateLimited):
        await platform.login("somebody", SecretStr("wrong"))


async def test_authenticators_are_replaced(world: World, platform: PlatformClient) -> None:
    seed = world.affected(with_totp=True)
    assert await platform.remove_authenticators(seed.id) == (
        Verdict.DONE,
        len(seed.authenticators),
    )
    assert await platform.remove_authenticators(seed.id) == (Verdict.ALREADY, 0)
    secret = SecretStr(pyotp.random_base32())
    async with world.client(token=BIND) as portal:
        first = await portal.bind_totp(seed.id, secret, key="acc-1.1", label="Phone")
        again = await portal.bind_totp(seed.id, secret, key="acc-1.1", label="Phone")
        with pytest.raises(Misconfigured):
            await portal.remove_authenticators(seed.id)
    assert first == again
    [bound] = world.state.authenticators_of(seed.id)
    assert (bound.id, bound.secret) == (first, secret.get_secret_value())


async def test_a_passkey_is_bound_and_listed(world: World, platform: PlatformClient) -> None:
    seed, numbers = world.affected(with_totp=True), ec.generate_private_key(ec.SECP256R1())
    public = numbers.public_key().public_numbers()
    cose = {1: 2, 3: -7, -1: 1, -2: public.x.to_bytes(32), -3: public.y.to_bytes(32)}
    passkey = Passkey(b"id-1", cbor2.dumps(cose), 7, ("internal",), b"handle", "localhost", True)
    assert read_passkey(passkey.text()) == passkey
    assert "handle" not in repr(passkey)
    async with world.client(token=BIND) as portal:
        assert await portal.passkeys(seed.id) == []
        first = await portal.bind_passkey(seed.id, passkey, key="acc-1.1", label="Passkey")
        again = await portal.bind_passkey(seed.id, passkey, key="acc-1.1", label="Passkey")
        assert await portal.passkeys(seed.id) == [b"id-1"]
        elsewhere = replace(passkey, rp_id="elsewhere.example")
        with pytest.raises(Refused) as refused:
            await portal.bind_passkey(seed.id, elsewhere, key="acc-1.2", label="Passkey")
        other = replace(passkey, credential_id=b"id-2")
        with pytest.raises(Conflict):
            await portal.bind_passkey(seed.id, other, key="acc-1.1", label="Passkey")
    assert refused.value.code == "wrong_rp_id"
    assert first == again
    [bound] = [a for a in world.state.authenticators_of(seed.id) if a.passkey is not None]
    assert bound.id == first
    assert bound.passkey is not None
    assert (bound.passkey.sign_count, bound.passkey.transports) == (7, ("internal",))


async def test_lost_answer_to_binding_is_asked_again_and_binds_once(
    world: World, platform: PlatformClient
) -> None:
    seed = world.affected(with_totp=False)
    before = len(world.state.authenticators_of(seed.id))
    world.state.faults.inject(CloseAfter(), "POST .*authenticators")
    await platform.bind_totp(seed.id, SecretStr(pyotp.random_base32()), key="k", label="x")
    assert len(world.state.authenticators_of(seed.id)) == before + 1


async def test_banner_stands_once(world: World, platform: PlatformClient) -> None:
    account = world.population.affected_ids[0]
    copy = BannerCopy("acc-1.notify.in_app.1", account, "Title", "Body", None, "482 193")
    verdict, banner_id = await platform.post_banner(copy)
    assert verdict is Verdict.DONE
    assert await platform.post_banner(copy) == (Verdict.ALREADY, banner_id)
    assert await platform.banner_keys(account) == {copy.notice_id}
    [banner] = world.state.banners_of(account)
    assert (banner.title, banner.body, banner.code) == ("Title", "Body", "482 193")
    linked = replace(copy, notice_id="acc-1.notify.in_app.2", link="https://x.example/#t=1")
    await platform.post_banner(linked)
    assert world.state.banners_of(account)[1].link == linked.link


async def test_unknown_and_deactivated_accounts_concern_themselves_alone(
    world: World, platform: PlatformClient
) -> None:
    with pytest.raises(NotFound) as missing:
        await platform.revoke("u-nobody", CredentialKind.SESSIONS)
    assert missing.value.subject == "u-nobody"
    account = world.population.affected_ids[1]
    world.state.accounts[account].status = AccountStatus.DEACTIVATED
    with pytest.raises(Conflict) as gone:
        await platform.force_password_reset(account)
    assert gone.value.code == "deactivated"
    await platform.revoke(account, CredentialKind.SESSIONS)


@pytest.mark.parametrize("account_id", ["..", ".", "", "x" * 300])
async def test_an_id_that_would_leave_its_place_is_refused(
    world: World, platform: PlatformClient, account_id: str
) -> None:
    with pytest.raises(Refused):
        await platform.revoke(account_id, CredentialKind.SESSIONS)
    assert not world.state.admin_answers


async def test_an_id_with_a_slash_stays_one_segment(platform: PlatformClient) -> None:
    with pytest.raises(NotFound):
        await platform.revoke("u-1/../u-2", CredentialKind.SESSIONS)


# Repeating


async def test_lost_answers_to_revocations_are_asked_again(
    world: World, platform: PlatformClient
) -> None:
    account = world.holder_of(Planted.SESSION)
    world.state.faults.inject(CloseAfter(), "DELETE .*/sessions")
    assert await platform.revoke(account, CredentialKind.SESSIONS) == (Verdict.ALREADY, 0)
    assert world.state.counts_of(account).sessions == 0


async def test_over_quota_waits_as_told(world: World) -> None:
    world.state.admin.add(AdminToken("slow", per_second=2))
    async with world.client(token="slow", attempts=2) as client:
        account = world.population.affected_ids[0]
        await client.live(account)
        await client.live(account)
        with pytest.raises(RateLimited) as limited:
            await client.live(account)
    assert limited.value.retry_after == timedelta(seconds=1)
    assert len(world.pauses) == 1
    assert 1 <= world.pauses[0] <= 1.2


async def test_a_busy_platform_is_asked_again(world: World, platform: PlatformClient) -> None:
    account = world.holder_of(Planted.SESSION)
    world.state.faults.inject(Status(503, retry_after="2"), "sessions")
    world.state.faults.inject(Status(500), "sessions")
    world.state.faults.inject(CloseBefore(), "sessions")
    verdict, _ = await platform.revoke(account, CredentialKind.SESSIONS)
    assert verdict is Verdict.DONE
    assert len(world.pauses) == 3


async def test_an_expired_token_stops_the_run(world: World) -> None:
    past: datetime = world.state.clock.now() - timedelta(minutes=1)
    world.state.admin.add(AdminToken("old", expires_at=past))
    async with world.client(token="old") as client:
        with pytest.raises(Misconfigured) as caught:
            await client.check()
    assert "token_expired" in str(caught.value)
    assert "admin token" in str(caught.value)
    async with world.client() as client:
        await client.check()


# App clients


async def test_app_clients_and_who_reads_their_secrets(
    world: World, platform: PlatformClient
) -> None:
    everything = await platform.app_clients()
    assert {c.client_id for c in everything} == set(world.population.clients)
    wanted = sorted(world.population.clients)[1]
    [client] = await platform.app_clients([wanted, "app-nobody"])
    seed = world.population.clients[wanted]
    assert (client.client_id, client.name, client.owner) == (wanted, seed.name, seed.owner)
    assert (client.risk, client.max_secrets) == (seed.risk, 2)
    assert [c.name for c in client.consumers] == [c.name for c in seed.consumers]
    assert all(c.health_url.endswith(f"/consumers/{c.name}/health") for c in client.consumers)
    assert [c.ci_job for c in client.consumers] == [c.ci_job for c in seed.consumers]
    assert {c.ci_job.split(":")[0] for one in everything for c in one.consumers} == {
        "restart-consumer",
        "github",
        "kubernetes",
    }
    assert await platform.app_clients([]) == []
    assert len(await platform.app_clients([f"app-{n}" for n in range(120)])) == 0
    with pytest.raises(Refused):
        await platform.app_clients(["app-1,app-2"])


async def test_a_secret_from_its_creation_to_its_end(
    world: World, platform: PlatformClient
) -> None:
    client_id = sorted(world.population.clients)[0]
    [old] = await platform.client_secrets(client_id)
    assert old.active
    new = await platform.create_secret(client_id, "INC-ABCDEFGH")
    assert new.value.get_secret_value() not in repr(new)
    held = {s.id: s for s in world.state.secrets_of(client_id)}
    assert held[new.secret_id].value == new.value.get_secret_value()
    with pytest.raises(Refused) as third:
        await platform.create_secret(client_id, "INC-ABCDEFGH")
    assert third.value.code == "too_many_secrets"
    with pytest.raises(Refused) as active:
        await platform.delete_secret(client_id, old.secret_id)
    assert active.value.code == "secret_active"
    assert await platform.deactivate_secret(client_id, old.secret_id) is Verdict.DONE
    with pytest.raises(Refused) as last:
        await platform.deactivate_secret(client_id, new.secret_id)
    assert last.value.code == "last_active_secret"
    assert await platform.activate_secret(client_id, old.secret_id) is Verdict.DONE
    assert await platform.deactivate_secret(client_id, old.secret_id) is Verdict.DONE
    listed = await platform.client_secrets(client_id)
    assert [(s.secret_id, s.active, s.marker) for s in listed] == [
        (old.secret_id, False, None),
        (new.secret_id, True, "INC-ABCDEFGH"),
    ]
    assert await platform.delete_secret(client_id, old.secret_id) is Verdict.DONE
    assert await platform.delete_secret(client_id, old.secret_id) is Verdict.ALREADY
    assert [s.id for s in world.state.secrets_of(client_id)] == [new.secret_id]


@pytest.mark.parametrize("fault", [CloseAfter(), CloseBefore(), InvalidJson(), Status(502)])
async def test_creating_a_secret_is_never_repeated(
    world: World, platform: PlatformClient, fault: CloseAfter | CloseBefore | InvalidJson | Status
) -> None:
    """A blind second try would be refused as the third secret, or leave one nobody knows."""
    client_id = sorted(world.population.clients)[2]
    injected = world.state.faults.inject(fault, "POST .*/secrets$", times=None)
    with pytest.raises(Unknown):
        await platform.create_secret(client_id, "INC-ABCDEFGH")
    assert injected.hits == 1
    assert world.pauses == []
    marked = [s for s in await platform.client_secrets(client_id) if s.marker]
    assert len(marked) == (1 if isinstance(fault, CloseAfter | InvalidJson) else 0)


async def test_a_secret_that_is_rotated_in_place(world: World, platform: PlatformClient) -> None:
    """Auth0's rotate-secret: one secret, and the old one is dead with the answer."""
    client_id = sorted(world.population.clients)[0]
    [old] = await platform.client_secrets(client_id)
    new = await platform.rotate_secret(client_id, "INC-ABCDEFGH")
    assert new.value.get_secret_value() not in repr(new)
    [only] = await platform.client_secrets(client_id)
    assert (only.secret_id, only.active, only.marker) == (new.secret_id, True, "INC-ABCDEFGH")
    book = world.state.clients
    assert book.accepts(client_id, new.value.get_secret_value())
    assert not book.accepts(client_id, world.population.clients[client_id].secret)
    assert old.secret_id != new.secret_id


async def test_rotating_in_place_is_never_repeated(world: World, platform: PlatformClient) -> None:
    """A second one would destroy what the first one made."""
    client_id = sorted(world.population.clients)[1]
    injected = world.state.faults.inject(CloseAfter(), "POST .*/rotate-secret$", times=None)
    with pytest.raises(Unknown):
        await platform.rotate_secret(client_id, "INC-ABCDEFGH")
    assert injected.hits == 1


# Another platform of the same shape


async def test_paths_are_configured(world: World) -> None:
    paths = PlatformPaths.of({"sessions": "/admin/accounts/{account}/device-sessions"})
    account = world.holder_of(Planted.DEVICE_SESSION)
    async with world.client(paths=paths) as client:
        await client.revoke(account, CredentialKind.SESSIONS)
    assert world.state.counts_of(account).device_sessions == 0


@pytest.mark.parametrize(
    "differing",
    [
        {"session": "/x/{account}"},
        {"sessions": "x/{account}"},
        {"sessions": "/x"},
        {"sessions": "/x/{account}/{client}"},
        {"sessions": "/x/{account"},
        {"revocation": "/x"},
    ],
)
def test_paths_that_cannot_be(differing: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        PlatformPaths.of(differing)
