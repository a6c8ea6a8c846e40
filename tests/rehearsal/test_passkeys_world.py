"""Passkeys at the platform over real HTTP: bound by an administrator, used at the front door."""

import copy
from datetime import timedelta
from typing import Any

import pytest
from webauthn import verify_registration_response
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url

from rehearsal.world.passkey_device import Device, DeviceRefused
from rehearsal.world.platform_accounts import AccountStatus
from tests.rehearsal.platform_world import BIND, World

SITE = "http://localhost:8080"


def creation(**changed: Any) -> dict[str, Any]:
    return {
        "rp": {"id": "localhost", "name": "Example"},
        "user": {"id": bytes_to_base64url(b"handle-1"), "name": "ana", "displayName": "ana"},
        "challenge": bytes_to_base64url(b"c" * 32),
        "pubKeyCredParams": [{"type": "public-key", "alg": -7}],
        "authenticatorSelection": {"userVerification": "required", "residentKey": "required"},
        **changed,
    }


def binding(device: Device, *, key: str = "k1", **changed: Any) -> dict[str, Any]:
    """A new key of this phone, read by the portal's library, as an administrator binds it."""
    made = verify_registration_response(
        credential=device.create(creation(), SITE),
        expected_challenge=b"c" * 32,
        expected_rp_id="localhost",
        expected_origin=SITE,
        require_user_verification=True,
    )
    return {
        "type": "passkey",
        "credential_id": bytes_to_base64url(made.credential_id),
        "public_key": bytes_to_base64url(made.credential_public_key),
        "sign_count": made.sign_count,
        "transports": ["internal"],
        "user_handle": bytes_to_base64url(b"handle-1"),
        "rp_id": "localhost",
        "backed_up": True,
        "label": "Passkey",
        "idempotency_key": key,
        **changed,
    }


async def bound(world: World) -> tuple[str, Device]:
    seed, device = world.bystander(), Device()
    path = f"/admin/accounts/{seed.id}/authenticators"
    assert (await world.call("POST", path, binding(device), bearer=BIND)).status == 201
    return seed.id, device


async def options(world: World) -> dict[str, Any]:
    answer = await world.call("POST", "/login/passkey/options")
    assert answer.status == 200
    given: dict[str, Any] = answer.body
    return given


async def test_a_passkey_signs_in_by_itself(world: World) -> None:
    account_id, device = await bound(world)
    for _ in range(2):
        signed = device.get(await options(world), SITE)
        answer = await world.call("POST", "/login/passkey", signed)
        assert answer.status == 200
        me = await world.call("GET", "/api/me", bearer=answer.body["session"])
        assert me.body == {"sub": account_id, "kind": "session"}
    again = await world.call("POST", "/login/passkey", signed)
    assert again.status == 401, "a challenge is good once"


async def test_a_password_alone_opens_nothing_beside_a_passkey(world: World) -> None:
    seed = world.affected(with_totp=False)
    hit = next(h for h in world.population.burst if h.account_id == seed.id)
    assert (await world.login(seed.handle, hit.new_password)).status == 200
    path = f"/accounts/{seed.id}/authenticators"
    assert (await world.admin("POST", path, binding(Device()))).status == 201
    assert (await world.login(seed.handle, hit.new_password)).status == 401


def spoiled(signed: dict[str, Any], field: str, place: int) -> dict[str, Any]:
    changed = copy.deepcopy(signed)
    raw = bytearray(base64url_to_bytes(signed["response"][field]))
    raw[place] ^= 1
    changed["response"][field] = bytes_to_base64url(bytes(raw))
    return changed


async def test_what_opens_nothing(world: World) -> None:
    account_id, device = await bound(world)
    for field, place in (
        ("signature", -1),
        ("authenticatorData", 0),  # another site's key
        ("authenticatorData", 32),  # nobody was there
        ("authenticatorData", 36),  # another count than the one that was signed
        ("clientDataJSON", 10),
        ("userHandle", 0),
    ):
        signed = spoiled(device.get(await options(world), SITE), field, place)
        assert (await world.call("POST", "/login/passkey", signed)).status == 401, (field, place)
    for document in ({}, {"rawId": "!"}, {"rawId": "AAAA"}, {"rawId": None}, []):
        answer = await world.call("POST", "/login/passkey", document)
        assert answer.status in (400, 401), document

    unverified = copy.deepcopy(device)
    unverified.verifies = False
    signed = unverified.get(await options(world), SITE)
    assert (await world.call("POST", "/login/passkey", signed)).status == 401

    stale = device.get(await options(world), SITE)
    world.clock.advance(timedelta(minutes=5))
    assert (await world.call("POST", "/login/passkey", stale)).status == 401

    copied = copy.deepcopy(device)
    signed = device.get(await options(world), SITE)
    assert (await world.call("POST", "/login/passkey", signed)).status == 200
    signed = copied.get(await options(world), SITE)
    assert (await world.call("POST", "/login/passkey", signed)).status == 401, "a copied key"

    signed = device.get(await options(world), SITE)
    world.state.accounts[account_id].status = AccountStatus.LOCKED
    assert (await world.call("POST", "/login/passkey", signed)).status == 401
    world.state.accounts[account_id].status = AccountStatus.ACTIVE
    world.state.remove_authenticators(account_id)
    signed = device.get(await options(world), SITE)
    assert (await world.call("POST", "/login/passkey", signed)).status == 401


async def test_binding_a_passkey_is_idempotent_and_listed(world: World) -> None:
    seed, other = world.bystander(), world.affected(with_totp=True)
    path = f"/accounts/{seed.id}/authenticators"
    document = binding(Device())
    first = await world.admin("POST", path, document)
    again = await world.admin("POST", path, document)
    assert (first.status, again.status, first.body == again.body) == (201, 200, True)
    listed = (await world.admin("GET", path)).body["authenticators"][-1]
    assert (listed["type"], listed["credential_id"]) == ("passkey", document["credential_id"])

    reused = await world.admin("POST", path, binding(Device()))
    assert (reused.status, reused.body["error"]) == (409, "key_reused")
    elsewhere = f"/accounts/{other.id}/authenticators"
    taken = await world.admin("POST", elsewhere, document | {"idempotency_key": "k2"})
    assert (taken.status, taken.body["error"]) == (409, "credential_taken")
    for changed in (
        {"rp_id": "elsewhere.example"},
        {"public_key": bytes_to_base64url(b"\xa0")},
        {"public_key": "!"},
        {"credential_id": ""},
        {"sign_count": -1},
        {"sign_count": True},
        {"transports": "internal"},
        {"user_handle": bytes_to_base64url(bytes(65))},
    ):
        refused = await world.admin("POST", path, binding(Device(), key="k9") | changed)
        assert refused.status == 400, changed


@pytest.mark.parametrize(
    ("origin", "changed", "named"),
    [
        ("http://localhost:1", {"rp": {"id": "elsewhere.example"}}, "SecurityError"),
        ("http://127.0.0.1:1", {"rp": {"id": "127.0.0.1"}}, "SecurityError"),
        ("http://accounts.example.com", {"rp": {"id": "example.com"}}, "SecurityError"),
        ("https://badexample.com", {"rp": {"id": "example.com"}}, "SecurityError"),
        ("https://accounts.example.com", {"rp": {"id": "example.com"}}, ""),
        (SITE, {"pubKeyCredParams": [{"type": "public-key", "alg": -257}]}, "NotSupportedError"),
    ],
)
def test_a_phone_refuses_what_phones_refuse(
    origin: str, changed: dict[str, Any], named: str
) -> None:
    device = Device()
    if not named:
        assert device.create(creation(**changed), origin)["type"] == "public-key"
        return
    with pytest.raises(DeviceRefused, match=named):
        device.create(creation(**changed), origin)


def test_a_second_key_is_not_made_where_the_site_has_one() -> None:
    device = Device()
    made = device.create(creation(), SITE)
    exclude = [{"type": "public-key", "id": made["id"]}]
    with pytest.raises(DeviceRefused, match="InvalidStateError"):
        device.create(creation(excludeCredentials=exclude), SITE)
    with pytest.raises(DeviceRefused, match="NotAllowedError"):
        Device(verifies=False).create(creation(), SITE)
