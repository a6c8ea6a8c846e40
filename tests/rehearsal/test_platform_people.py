"""A person at the platform over real HTTP: sign-in, forced reset, authenticators, banners."""

from datetime import datetime, timedelta

from rehearsal.world.credentials import Credential, CredentialKind
from rehearsal.world.platform_accounts import AccountStatus
from tests.rehearsal.platform_world import BIND, SECRET, World


async def test_recovery_of_one_person_from_forced_reset_to_login(world: World) -> None:
    seed = world.affected(with_totp=True)
    old = seed.totp_secret
    assert old is not None
    hit = next(h for h in world.population.burst if h.account_id == seed.id)
    stolen = Credential(
        CredentialKind.PASSWORD, seed.id, hit.new_password, handle=seed.handle, totp_secret=old
    )
    assert (await world.login(seed.handle, seed.password, world.code(old))).status == 401
    assert (await world.login(seed.handle, hit.new_password)).status == 401, "no code"
    assert (await world.login(seed.handle, hit.new_password, "000000")).status == 401
    assert (await world.login(seed.handle, hit.new_password, world.code(old))).status == 200
    assert world.state.live(stolen)

    path = f"/accounts/{seed.id}"
    early = {"handle": seed.handle, "totp": world.code(old), "new_password": "early-bird"}
    assert (await world.call("POST", "/account/password", early)).status == 401, "no reset yet"
    assert (await world.admin("POST", f"{path}/password-reset", {"notify": False})).status == 204
    answer = await world.admin("POST", f"{path}/password-reset", {"notify": False})
    assert (answer.status, answer.body) == (200, {"already": True})
    assert (await world.login(seed.handle, hit.new_password, world.code(old))).status == 401
    assert not world.state.live(stolen)

    answer = await world.admin("DELETE", f"{path}/authenticators")
    assert answer.body == {"removed": len(seed.authenticators)}
    assert world.state.old_authenticators_of(seed.id) == ()
    late = {"handle": seed.handle, "totp": world.code(old), "new_password": "thief"}
    assert (await world.call("POST", "/account/password", late)).status == 401, "old authenticator"

    answer = await world.call("POST", f"/admin{path}/authenticators", _binding("k1"), bearer=BIND)
    assert answer.status == 201
    wrong = {"handle": seed.handle, "totp": "000000", "new_password": "n"}
    assert (await world.call("POST", "/account/password", wrong)).status == 401
    right = {"handle": seed.handle, "totp": world.code(SECRET), "new_password": "sunny-side"}
    assert (await world.call("POST", "/account/password", right)).status == 204
    assert (await world.call("POST", "/account/password", right)).status == 401, "once a reset"

    answer = await world.login(seed.handle, "sunny-side", world.code(SECRET))
    assert answer.status == 200
    me = await world.call("GET", "/api/me", bearer=answer.body["session"])
    assert me.body == {"sub": seed.id, "kind": "session"}
    assert [e.call for e in world.state.effects(seed.id)] == [
        "password-reset.create",
        "authenticators.delete",
        "authenticators.create",
    ]
    assert (await world.admin("POST", f"{path}/password-reset", {"notify": False})).status == 204


async def test_codes_follow_the_worlds_time(world: World) -> None:
    seed = world.bystander()
    world.state.bind(seed.id, kind="totp", secret=SECRET, label="x", key="k")
    stale = world.code(SECRET)
    world.clock.advance(timedelta(hours=1))
    assert (await world.login(seed.handle, seed.password, stale)).status == 401
    assert (await world.login(seed.handle, seed.password, world.code(SECRET))).status == 200


async def test_binding_is_idempotent_and_listed(world: World) -> None:
    seed = world.bystander()
    path = f"/accounts/{seed.id}/authenticators"
    first = await world.admin("POST", path, _binding("k1"))
    again = await world.admin("POST", path, _binding("k1"))
    other = await world.admin("POST", path, _binding("k2"))
    assert (first.status, again.status, other.status) == (201, 200, 201)
    assert first.body == again.body != other.body
    listed = (await world.admin("GET", path)).body["authenticators"]
    assert len(listed) == len(seed.authenticators) + 2
    for entry in listed:
        assert set(entry) == {"id", "type", "created_at", "label"}
        assert datetime.fromisoformat(entry["created_at"]).tzinfo is not None
    one = first.body["id"]
    assert (await world.admin("DELETE", f"{path}/{one}")).status == 204
    assert (await world.admin("DELETE", f"{path}/{one}")).status == 404
    for spoiled in (
        _binding("k3") | {"type": "sms"},
        _binding("k3") | {"secret": "not base32!"},
        _binding("k3") | {"secret": "MFRGG"},
        _binding("k3") | {"idempotency_key": ""},
        {k: v for k, v in _binding("k3").items() if k != "secret"},
    ):
        assert (await world.admin("POST", path, spoiled)).status == 400


async def test_one_banner_per_key(world: World) -> None:
    one = world.population.affected_ids[0]
    path = f"/accounts/{one}/banners"
    first = await world.admin("POST", path, _banner("n1"))
    again = await world.admin("POST", path, _banner("n1"))
    assert (first.status, again.status, first.body == again.body) == (201, 200, True)
    assert (await world.admin("POST", path, _banner("n2"))).status == 201
    listed = (await world.admin("GET", path)).body["banners"]
    assert [entry["idempotency_key"] for entry in listed] == ["n1", "n2"]
    assert set(listed[0]) == {"id", "idempotency_key", "title", "created_at"}
    shown = world.state.banners_of(one)[0]
    assert (shown.code, shown.link, shown.signature) == ("123456", None, "sig")
    broken = await world.admin("POST", path, _banner("n3") | {"code": None})
    assert broken.status == 400


async def test_login_tells_nothing_and_shuts_after_ten_failures(world: World) -> None:
    seed = world.bystander()
    wrong = await world.login(seed.handle, "wrong")
    unknown = await world.login("nobody-here", "wrong")
    assert (wrong.status, wrong.body) == (401, unknown.body)
    assert unknown.status == 401
    for handle in (seed.handle, "nobody-here"):
        for _ in range(9):
            assert (await world.login(handle, "wrong")).status == 401
        answer = await world.login(handle, seed.password)
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    world.clock.advance(timedelta(seconds=61))
    code = world.code(seed.totp_secret) if seed.totp_secret else None
    assert (await world.login(seed.handle, seed.password, code)).status == 200


async def test_locked_accounts_and_the_cap_on_sessions(world: World) -> None:
    seed = world.bystander()
    code = world.code(seed.totp_secret) if seed.totp_secret else None
    sessions = [
        (await world.login(seed.handle, seed.password, code)).body["session"] for _ in range(21)
    ]
    assert (await world.call("GET", "/api/me", bearer=sessions[0])).status == 401
    assert (await world.call("GET", "/api/me", bearer=sessions[1])).status == 200
    planted = world.credentials(CredentialKind.SESSION, seed.id)
    assert world.state.live_stolen(planted) == planted
    world.state.accounts[seed.id].status = AccountStatus.LOCKED
    assert (await world.login(seed.handle, seed.password, code)).status == 401


async def test_legacy_recovery_links(world: World) -> None:
    token = world.credentials(CredentialKind.RECOVERY_TOKEN)[0]
    for _ in range(2):
        answer = await world.call("POST", "/account/recover", {"token": token.value})
        assert answer.status == 200
    await world.admin("DELETE", f"/accounts/{token.account_id}/recovery-tokens")
    answer = await world.call("POST", "/account/recover", {"token": token.value})
    assert answer.status == 401


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
