"""What `clients.vault` relies on, checked at a real server: our own OpenBao, and the Vault behind
VAULT_ADDR and VAULT_TOKEN where both are set (its mounts secret/, totp/ and transit/ are used)."""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any

import hvac
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hvac.exceptions import Forbidden, VaultError
from pydantic import SecretStr

from clients.vault import VaultClient
from recovery.errors import (
    Conflict,
    Incomplete,
    Misconfigured,
    NotFound,
    Refused,
    Unknown,
    Unreachable,
    Unverified,
)
from recovery.rotate import SecretLabels
from rehearsal.world.faults import CloseAfter, CloseBefore, Faults, Status
from rehearsal.world.openbao_contents import CHECKPOINT_KEY, READER_LEASE, Approver
from rehearsal.world.serving import Loopback
from tests.contracts.relay import Relay

VALUE = "cs_value-that-nobody-may-see:+/%"


@dataclass(frozen=True, slots=True)
class Target:
    """A server to check, an administrator's client for it, and a place of our own in it."""

    address: str
    token: str
    admin: hvac.Client
    prefix: str

    def path(self) -> str:
        return f"{self.prefix}/{secrets.token_hex(4)}"

    def client(self) -> VaultClient:
        return VaultClient(self.address, token=SecretStr(self.token))


GIVEN = bool(os.environ.get("VAULT_ADDR") and os.environ.get("VAULT_TOKEN"))


@pytest.fixture(scope="session", params=["openbao", "given"] if GIVEN else ["openbao"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    if request.param == "openbao":
        server = request.getfixturevalue("bao").server
        address, token = server.address, server.root_token
    else:
        address, token = os.environ["VAULT_ADDR"], os.environ["VAULT_TOKEN"]
    admin = hvac.Client(url=address, token=token, timeout=10)
    prefix = f"recovery-contract-{secrets.token_hex(4)}"
    with closing(admin.adapter):
        yield Target(address, token, admin, prefix)
        kv = admin.secrets.kv.v2
        with suppress(VaultError):
            for name in kv.list_secrets(prefix)["data"]["keys"]:
                kv.delete_metadata_and_all_versions(f"{prefix}/{name}")


async def no_waiting(_: float) -> None:
    return None


# Check-and-set.


@pytest.mark.parametrize("same_data", [False, True])
async def test_of_32_racers_one_wins(target: Target, same_data: bool) -> None:
    path = target.path()
    async with target.client() as vault:
        racers = [
            vault.put(path, {"n": "equal" if same_data else str(n)}, cas=0) for n in range(32)
        ]
        results = await asyncio.gather(*racers, return_exceptions=True)
        won = [r for r in results if r == 1]
        assert len(won) == 1
        assert sum(isinstance(r, Conflict) for r in results) == 31
        assert (await vault.get(path)).version == 1


async def test_a_lost_check_and_set_is_a_conflict_without_values(target: Target) -> None:
    path = target.path()
    async with target.client() as vault:
        assert await vault.put(path, {"client_secret": VALUE}, cas=0) == 1
        with pytest.raises(Conflict) as caught:
            await vault.put(path, {"client_secret": VALUE}, cas=0)
    assert caught.value.code == "cas_mismatch"
    assert VALUE not in str(caught.value)
    assert target.address not in str(caught.value)


async def test_without_cas_the_last_writer_wins(target: Target) -> None:
    path = target.path()
    async with target.client() as vault:
        assert await vault.put(path, {"a": "1"}, cas=None) == 1
        assert await vault.put(path, {"b": SecretStr("2")}, cas=None) == 2
        stored = await vault.get(path)
    assert {n: v.get_secret_value() for n, v in stored.data.items()} == {"b": "2"}
    assert "2" not in repr(stored).replace("version=2", "")


async def test_deleted_and_destroyed_versions_count_and_hold_nothing(target: Target) -> None:
    path, kv = target.path(), target.admin.secrets.kv.v2
    async with target.client() as vault:
        assert await vault.observe(path) == SecretLabels(0)
        with pytest.raises(NotFound, match="no entry"):
            await vault.get(path)
        await vault.put(path, {"client_secret": VALUE, "secret_id": "s1"}, cas=0)
        kv.delete_latest_version_of_secret(path)
        with pytest.raises(NotFound, match="version 1 is deleted"):
            await vault.get(path)
        assert await vault.observe(path) == SecretLabels(1)
        await vault.put(path, {"client_secret": VALUE, "secret_id": "s2"}, cas=1)
        kv.destroy_secret_versions(path, versions=[2])
        with pytest.raises(NotFound):
            await vault.current(path)
        assert await vault.observe(path) == SecretLabels(2)
        assert await vault.put(path, {"client_secret": VALUE, "secret_id": "s3"}, cas=2) == 3


@pytest.mark.parametrize("path", ["../sys/policy", "apps/../recovery/x", "apps/a b", "apps/é", ""])
async def test_a_path_that_leads_elsewhere_is_never_sent(target: Target, path: str) -> None:
    async with target.client() as vault:
        with pytest.raises(Misconfigured, match="Build a path"):
            await vault.get(path)


# Labels.


async def test_a_rotation_moves_the_labels(target: Target) -> None:
    path = target.path()
    async with target.client() as vault:
        await vault.put(path, {"client_secret": "old", "secret_id": "s1", "note": "keep me"}, cas=0)
        assert await vault.stage_pending(path, "s2", SecretStr("new"), cas=1) == 2
        assert await vault.observe(path) == SecretLabels(2, "s1", "s2", None)
        assert _plain(await vault.current(path)) == ("s1", "old")
        assert _plain(await vault.pending(path)) == ("s2", "new")
        assert await vault.promote(path, cas=2) == 3
        assert await vault.observe(path) == SecretLabels(3, "s2", None, "s1")
        assert _plain(await vault.current(path)) == ("s2", "new")
        assert await vault.drop_previous(path, cas=3) == 4
        stored = await vault.get(path)
    assert {n: v.get_secret_value() for n, v in stored.data.items()} == {
        "client_secret": "new",
        "secret_id": "s2",
        "note": "keep me",
    }


async def test_a_failed_rotation_goes_back(target: Target) -> None:
    path = target.path()
    async with target.client() as vault:
        await vault.put(path, {"client_secret": "old", "secret_id": "s1"}, cas=0)
        await vault.stage_pending(path, "s2", SecretStr("new"), cas=1)
        await vault.promote(path, cas=2)
        assert await vault.roll_back(path, cas=3) == 4
        assert await vault.observe(path) == SecretLabels(4, "s1", None, None)
        assert _plain(await vault.current(path)) == ("s1", "old")
        await vault.stage_pending(path, "s3", SecretStr("newer"), cas=4)
        assert await vault.drop_pending(path, cas=5) == 6
        assert await vault.observe(path) == SecretLabels(6, "s1", None, None)


async def test_the_first_secret_of_a_path(target: Target) -> None:
    path = target.path()
    async with target.client() as vault:
        assert await vault.stage_pending(path, "s1", SecretStr("first"), cas=0) == 1
        with pytest.raises(NotFound, match="CURRENT"):
            await vault.current(path)
        assert await vault.promote(path, cas=1) == 2
        assert await vault.observe(path) == SecretLabels(2, "s1", None, None)


async def test_moves_that_do_not_fit_are_refused(target: Target) -> None:
    path = target.path()
    async with target.client() as vault:
        await vault.put(path, {"client_secret": "old", "secret_id": "s1"}, cas=0)
        for move in (vault.promote, vault.roll_back, vault.drop_pending, vault.drop_previous):
            with pytest.raises(Refused, match="Look again"):
                await move(path, cas=1)
        await vault.stage_pending(path, "s2", SecretStr("new"), cas=1)
        with pytest.raises(Refused) as caught:
            await vault.stage_pending(path, "s3", SecretStr("newer"), cas=2)
        assert caught.value.code == "pending_taken"
        await vault.promote(path, cas=2)
        with pytest.raises(Refused) as caught:
            await vault.stage_pending(path, "s3", SecretStr("newer"), cas=3)
        assert caught.value.code == "previous_taken"
        with pytest.raises(Conflict):
            await vault.drop_previous(path, cas=2)
        assert await vault.observe(path) == SecretLabels(3, "s2", None, "s1")


def _plain(found: tuple[str, SecretStr]) -> tuple[str, str]:
    return found[0], found[1].get_secret_value()


@pytest.mark.parametrize(("kept", "enough"), [(1, False), (5, False), (6, True), (0, True)])
async def test_a_rotation_needs_room_for_the_version_before_it(
    target: Target, kept: int, enough: bool
) -> None:
    path, kv = target.path(), target.admin.secrets.kv.v2
    async with target.client() as vault:
        await vault.put(path, {"client_secret": "old", "secret_id": "s1"}, cas=0)
        kv.update_metadata(path, max_versions=kept)
        if not enough:
            with pytest.raises(Misconfigured, match="max_versions of at least 6"):
                await vault.stage_pending(path, "s2", SecretStr("new"), cas=1)
            assert await vault.observe(path) == SecretLabels(1, "s1")
            return
        # The longest way that one rotation can take: five writes.
        await vault.stage_pending(path, "s2", SecretStr("new"), cas=1)
        await vault.drop_pending(path, cas=2)
        await vault.stage_pending(path, "s3", SecretStr("newer"), cas=3)
        await vault.promote(path, cas=4)
        await vault.roll_back(path, cas=5)
    before = kv.read_secret_version(path, version=1, raise_on_deleted_version=True)
    assert before["data"]["data"] == {"client_secret": "old", "secret_id": "s1"}


async def test_the_mounts_number_counts_where_the_path_has_none(bao: Any) -> None:
    root, mount = bao.server.root(), f"kv-{secrets.token_hex(3)}"
    with closing(root.adapter):
        root.sys.enable_secrets_engine("kv", path=mount, options={"version": "2"})
        root.secrets.kv.v2.configure(max_versions=2, mount_point=mount)
        token = SecretStr(bao.server.root_token)
        async with VaultClient(bao.address, token=token, mount=mount) as vault:
            for path in ("never-written", "written"):
                cas = 0
                if path == "written":
                    cas = await vault.put(path, {"client_secret": "x"}, cas=0)
                with pytest.raises(Misconfigured, match="of its mount"):
                    await vault.stage_pending(path, "s2", SecretStr("new"), cas=cas)
            root.secrets.kv.v2.update_metadata("written", max_versions=8, mount_point=mount)
            await vault.stage_pending("written", "s2", SecretStr("new"), cas=1)
        root.sys.disable_secrets_engine(mount)


async def test_a_lease_that_has_ended_can_not_be_renewed(leased_platform: Any) -> None:
    async with by_role(leased_platform.bao, "recovery-flows") as vault:
        lease = await vault.take_lease(READER_LEASE, "password")
        assert (await vault.renew_lease(lease)).total_seconds() > 0
        await vault.revoke_lease(lease)
        with pytest.raises(Refused) as caught:
            await vault.renew_lease(lease)
        assert caught.value.code == "lease_not_found"
        await vault.revoke_lease(lease)
    assert lease.lease_id not in f"{lease!r} {caught.value}"
    assert lease.fingerprint not in lease.lease_id


# One-time codes and signatures.


@pytest.fixture
def approver(target: Target) -> Iterator[Approver]:
    name = f"contract-{secrets.token_hex(4)}"
    answer = target.admin.write_data(
        f"totp/keys/{name}",
        data={
            "generate": True,
            "exported": True,
            "issuer": "Recovery",
            "account_name": name,
            "qr_size": 0,
        },
    )
    yield Approver(name, answer["data"]["url"])
    target.admin.delete(f"totp/keys/{name}")


async def test_an_approvers_code_counts_once(target: Target, approver: Approver) -> None:
    async with target.client() as vault:
        code = approver.code()
        await vault.verify_code(approver.name, f"{code[:3]} {code[3:]}")
        with pytest.raises(Unverified, match="used already"):
            await vault.verify_code(approver.name, code)
        await vault.verify_code(approver.name, approver.code())


async def test_a_wrong_code_is_unverified_and_not_shown(target: Target, approver: Approver) -> None:
    right = {approver.code() for _ in range(3)}
    wrong = next(c for c in ("482913", "482914", "482915", "482916") if c not in right)
    async with target.client() as vault:
        for code in (wrong, wrong):
            with pytest.raises(Unverified) as caught:
                await vault.verify_code(approver.name, code)
            assert wrong not in str(caught.value)
        for code in ("", "12345", "1234567", "12345678", "١٢٣٤٥٦", "abcdef", "123456789"):
            with pytest.raises(Unverified):
                await vault.verify_code(approver.name, code)


async def test_an_approver_without_a_key_is_a_misconfiguration(target: Target) -> None:
    async with target.client() as vault:
        with pytest.raises(Misconfigured, match="Enroll the approver"):
            await vault.verify_code("nobody-has-this-key", "123456")


async def test_a_signature_verifies_locally(target: Target) -> None:
    key = f"recovery-contract-{secrets.token_hex(4)}"
    transit = target.admin.secrets.transit
    transit.create_key(key, key_type="ed25519")
    try:
        async with target.client() as vault:
            payload = bytes(range(256))
            signature = await vault.sign(key, payload)
            public = Ed25519PublicKey.from_public_bytes((await vault.public_keys(key))[0])
            public.verify(signature, payload)
            with pytest.raises(InvalidSignature):
                public.verify(signature, payload[:-1])
            transit.rotate_key(key)
            newer = Ed25519PublicKey.from_public_bytes((await vault.public_keys(key))[0])
            newer.verify(await vault.sign(key, payload), payload)
            with pytest.raises(InvalidSignature):
                newer.verify(signature, payload)
            with pytest.raises(Refused):
                await vault.sign("recovery-contract-no-such-key", payload)
    finally:
        transit.update_key_configuration(key, deletion_allowed=True)
        transit.delete_key(key)


async def test_a_key_of_another_type_is_not_taken_for_ours(target: Target) -> None:
    key = f"recovery-contract-{secrets.token_hex(4)}"
    transit = target.admin.secrets.transit
    transit.create_key(key, key_type="ecdsa-p256")
    try:
        async with target.client() as vault:
            with pytest.raises(Incomplete, match="ed25519"):
                await vault.public_keys(key)
            with pytest.raises(Incomplete, match="ed25519"):
                await vault.sign(key, b"payload")
    finally:
        transit.update_key_configuration(key, deletion_allowed=True)
        transit.delete_key(key)


async def test_a_wrapped_response_is_read_once(target: Target) -> None:
    wrapped = target.admin.sys.wrap({"secret_id": VALUE}, ttl=60)
    token = SecretStr(wrapped["wrap_info"]["token"])
    async with target.client() as vault:
        first = await vault.unwrap(token)
        assert first["secret_id"].get_secret_value() == VALUE
        with pytest.raises(Unverified, match="somebody else has read"):
            await vault.unwrap(token)
        await vault.check()


# Logging in. These need roles of their own, so they run against our server alone.


def by_role(bao: Any, role: str) -> VaultClient:
    login = bao.contents.issue(role)
    return VaultClient(bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id))


@pytest.fixture
def app_path(bao: Any) -> str:
    client_id = f"app-{secrets.token_hex(4)}"
    bao.contents.put_client(client_id, "s1", VALUE, owner="team", consumers=["a", "b"])
    return f"apps/{client_id}"


async def test_a_revoked_login_is_renewed(bao: Any, app_path: str) -> None:
    bao.contents.revoke_logins("recovery-flows")  # what other tests left behind
    async with by_role(bao, "recovery-flows") as vault:
        await vault.check()
        assert bao.contents.revoke_logins("recovery-flows") == 1
        racers = (vault.observe(app_path) for _ in range(16))
        assert {labels.current_id for labels in await asyncio.gather(*racers)} == {"s1"}
    assert bao.contents.revoke_logins("recovery-flows") == 0, "closing gives the login back"


async def test_a_login_is_renewed_before_it_ends(bao: Any, app_path: str) -> None:
    root = bao.server.root()
    with closing(root.adapter):
        root.write_data(
            "auth/approle/role/short",
            data={"token_policies": ["recovery-flows"], "token_ttl": 2, "secret_id_num_uses": 1},
        )
    already = bao.server.audit_log.stat().st_size
    async with by_role(bao, "short") as vault:
        ends = time.monotonic() + 3.2
        while time.monotonic() < ends:
            assert (await vault.observe(app_path)).current_id == "s1"
            await asyncio.sleep(0.3)
    with bao.server.audit_log.open() as log:
        log.seek(already)
        requests = [line for line in log if '"type":"request"' in line]
    assert sum('"path":"auth/approle/login"' in line for line in requests) == 1
    assert sum('"path":"auth/token/renew-self"' in line for line in requests) >= 1


async def test_a_login_is_used_to_its_end(bao: Any, app_path: str) -> None:
    """A third of its time is left, but the secret id was good for one login alone."""
    root = bao.server.root()
    with closing(root.adapter):
        root.write_data(
            "auth/approle/role/once",
            data={
                "token_policies": ["recovery-flows"],
                "token_ttl": 6,
                "token_max_ttl": 6,
                "secret_id_num_uses": 1,
            },
        )
    async with by_role(bao, "once") as vault:
        await vault.check()
        began = time.monotonic()
        await asyncio.sleep(4.2)
        assert (await vault.observe(app_path)).current_id == "s1"
        await asyncio.sleep(max(0.0, 6.4 - (time.monotonic() - began)))
        with pytest.raises(Misconfigured, match="Issue a new secret id"):
            await vault.observe(app_path)


async def test_a_secret_id_that_is_no_good(bao: Any) -> None:
    login = bao.contents.issue("recovery-flows")
    wrong = VaultClient(bao.address, role_id=login.role_id, secret_id=SecretStr(VALUE))
    async with wrong as vault:
        with pytest.raises(Misconfigured, match="Issue a new secret id") as caught:
            await vault.check()
    assert VALUE not in str(caught.value)


async def test_a_wrapped_secret_id_logs_in(bao: Any) -> None:
    role_id, token = bao.contents.issue_wrapped("portal-config")
    async with VaultClient(bao.address, token=SecretStr("unused")) as vault:
        secret_id = (await vault.unwrap(SecretStr(token)))["secret_id"]
    async with VaultClient(bao.address, role_id=role_id, secret_id=secret_id) as vault:
        await vault.check()


async def test_the_flows_policy_suffices(bao: Any, app_path: str) -> None:
    bao.contents.put("recovery/enrollment-signing-key", {"kid": "k1", "private_pem": "pem"})
    bao.contents.put("recovery/probe-accounts", {"u-1": "password"})
    bao.contents.put(f"app-tokens/{app_path[5:]}", {"u-1": "token"})
    async with by_role(bao, "recovery-flows") as vault:
        await vault.check()
        await vault.stage_pending(app_path, "s2", SecretStr("new"), cas=1)
        await vault.promote(app_path, cas=2)
        await vault.drop_previous(app_path, cas=3)
        await vault.put(f"apps/app-{secrets.token_hex(4)}", {"client_secret": "x"}, cas=0)
        await vault.current(app_path)
        for name in ("enrollment-signing-key", "probe-accounts"):
            await vault.get(f"recovery/{name}")
        await vault.get(f"app-tokens/{app_path[5:]}")
        await vault.verify_code("maya", bao.contents.approvers["maya"].code())
        await vault.sign(CHECKPOINT_KEY, b"checkpoint")
        await vault.public_keys(CHECKPOINT_KEY)


async def test_the_flows_policy_refuses_the_rest(bao: Any, app_path: str) -> None:
    bao.contents.put("recovery/platform-bind", {"token": "t"})
    async with by_role(bao, "recovery-flows") as vault:
        with pytest.raises(Misconfigured) as caught:
            await vault.get("elsewhere/secret-of-somebody")
        assert caught.value.subject == "secret/elsewhere"
        assert "policy" in str(caught.value)
        for path in ("recovery/platform-admin", "recovery/platform-bind"):
            with pytest.raises(Misconfigured):
                await vault.put(path, {"token": "mine"}, cas=None)
    with _logged_in(bao, "recovery-flows") as raw:
        kv = raw.secrets.kv.v2
        transit = raw.secrets.transit
        acts: list[Callable[[], object]] = [
            lambda: kv.delete_latest_version_of_secret(app_path),
            lambda: kv.destroy_secret_versions(app_path, versions=[1]),
            lambda: kv.delete_metadata_and_all_versions(app_path),
            lambda: kv.list_secrets("recovery"),
            lambda: raw.read("totp/code/maya"),
            lambda: raw.write_data("totp/keys/maya", data={"generate": True}),
            lambda: transit.create_key("recovery-mine", key_type="ed25519"),
            lambda: transit.rotate_key(CHECKPOINT_KEY),
            lambda: raw.sys.list_policies(),
            lambda: raw.auth.approle.generate_secret_id("recovery-flows"),
            lambda: raw.auth.token.create(),
        ]
        for forbidden in acts:
            with pytest.raises(Forbidden):
                forbidden()


async def test_the_portals_configuration_gets_its_one_token(bao: Any, app_path: str) -> None:
    bao.contents.put("recovery/enrollment-signing-key", {"kid": "k1", "private_pem": "pem"})
    bao.contents.put("recovery/platform-bind", {"token": "t"})
    async with by_role(bao, "portal-config") as vault:
        await vault.check()
        await vault.get("recovery/platform-bind")
        for path in (app_path, "recovery/platform-admin", "recovery/enrollment-signing-key"):
            with pytest.raises(Misconfigured):
                await vault.get(path)
        with pytest.raises(Misconfigured):
            await vault.verify_code("maya", "123456")
        with pytest.raises(Misconfigured):
            await vault.sign(CHECKPOINT_KEY, b"checkpoint")


async def test_a_consumer_reads_its_own_secret_alone(bao: Any, app_path: str) -> None:
    token = SecretStr(bao.contents.consumer_token(app_path[5:]))
    async with VaultClient(bao.address, token=token) as vault:
        assert (await vault.current(app_path))[0] == "s1"
        with pytest.raises(Misconfigured):
            await vault.get("apps/app-of-others")
        with pytest.raises(Misconfigured):
            await vault.put(app_path, {"client_secret": "mine"}, cas=1)


@asynccontextmanager
async def _sealed(bao: Any) -> AsyncIterator[None]:
    bao.server.seal()
    try:
        yield
    finally:
        await asyncio.to_thread(bao.server.unseal)


async def test_a_sealed_vault_says_what_to_do(bao: Any, app_path: str) -> None:
    async with by_role(bao, "recovery-flows") as vault:
        await vault.check()
        async with _sealed(bao):
            for act in (
                vault.check(),
                vault.observe(app_path),
                vault.put(app_path, {"client_secret": "x"}, cas=1),
                vault.verify_code("maya", "123456"),
            ):
                with pytest.raises(Unreachable, match=r"Vault is sealed: unseal it"):
                    await act
        assert (await vault.observe(app_path)) == SecretLabels(1, "s1", None, None)


# A network that fails between us and the server.


@asynccontextmanager
async def _behind_relay(bao: Any) -> AsyncIterator[tuple[VaultClient, Faults]]:
    relay = Relay(bao.address)
    async with (
        Loopback(relay.app) as loopback,
        VaultClient(
            loopback.url, token=SecretStr(bao.server.root_token), sleep=no_waiting
        ) as vault,
    ):
        yield vault, relay.faults


async def test_a_write_whose_answer_was_lost_is_cleared_up(bao: Any, app_path: str) -> None:
    async with _behind_relay(bao) as (vault, faults):
        lost = faults.inject(CloseAfter(), "POST /v1/secret/data", times=1)
        assert await vault.put(app_path, {"client_secret": "new"}, cas=1) == 2
        assert lost.hits == 1
        assert (await vault.get(app_path)).version == 2


async def test_a_lost_answer_is_not_taken_for_somebody_elses_write(bao: Any, app_path: str) -> None:
    async with _behind_relay(bao) as (vault, faults):
        bao.contents.put(app_path, {"client_secret": "of somebody else"})
        faults.inject(CloseBefore(), "POST /v1/secret/data", times=1)
        with pytest.raises(Conflict):
            await vault.put(app_path, {"client_secret": "ours"}, cas=1)


async def test_what_cannot_be_cleared_up_is_unknown(bao: Any, app_path: str) -> None:
    async with _behind_relay(bao) as (vault, faults):
        faults.inject(CloseAfter(), "POST /v1/secret/data", times=1)
        with pytest.raises(Unknown):
            await vault.put(app_path, {"client_secret": "new"}, cas=None)
        assert (await vault.get(app_path)).version == 2
        faults.inject(CloseBefore(), "POST /v1/secret/data", times=None)
        with pytest.raises(Unknown):
            await vault.put(app_path, {"client_secret": "new"}, cas=2)
        faults.inject(CloseAfter(), "POST /v1/totp/code", times=1)
        with pytest.raises(Unknown, match="enter the next one"):
            await vault.verify_code("maya", "135791")


async def test_a_read_is_tried_again(bao: Any, app_path: str) -> None:
    async with _behind_relay(bao) as (vault, faults):
        faults.inject(CloseAfter(), "GET", times=1)
        faults.inject(Status(502), "GET", times=1)
        assert (await vault.observe(app_path)).current_id == "s1"
        forever = faults.inject(Status(500), "GET", times=None)
        with pytest.raises(Unreachable):
            await vault.observe(app_path)
        assert forever.hits == 3


async def test_another_server_at_the_address(bao: Any) -> None:
    async with _behind_relay(bao) as (vault, faults):
        faults.inject(Status(307), "GET", times=1)
        with pytest.raises(Incomplete, match="vault-secrets block"):
            await vault.check()


async def test_nobody_there(bao: Any) -> None:
    async with Loopback(Relay(bao.address).app) as loopback:
        address = loopback.url
    vault = VaultClient(address, token=SecretStr(VALUE), sleep=no_waiting)
    async with vault:
        with pytest.raises(Unreachable, match="no connection"):
            await vault.check()
        with pytest.raises(Unreachable, match="no connection"):
            await vault.put("apps/x", {"client_secret": VALUE}, cas=0)


@pytest.mark.parametrize("address", ["http://vault.example:8200", "vault.example", "ftp://x"])
def test_a_token_never_goes_in_the_clear(address: str) -> None:
    with pytest.raises(Misconfigured, match="vault-secrets block"):
        VaultClient(address, token=SecretStr(VALUE))


def test_one_way_in_is_needed() -> None:
    with pytest.raises(Misconfigured, match="either role_id and secret_id"):
        VaultClient("https://vault.example", role_id="r")
    with pytest.raises(Misconfigured, match="either role_id and secret_id"):
        VaultClient(
            "https://vault.example", role_id="r", secret_id=SecretStr("s"), token=SecretStr("t")
        )


async def test_no_secret_in_any_log(
    bao: Any, app_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    login = bao.contents.issue("recovery-flows")
    async with by_role(bao, "recovery-flows") as vault:
        await vault.put(app_path, {"client_secret": VALUE}, cas=1)
        code = bao.contents.approvers["jonas"].code()
        await vault.verify_code("jonas", code)
        with pytest.raises(Conflict):
            await vault.put(app_path, {"client_secret": VALUE}, cas=1)
    for secret in (VALUE, login.secret_id, bao.server.root_token, code):
        assert secret not in caplog.text


def _logged_in(bao: Any, role: str) -> "_Raw":
    return _Raw(bao, role)


class _Raw:
    """An hvac client with a role's own token, for what our client has no method for."""

    def __init__(self, bao: Any, role: str) -> None:
        login = bao.contents.issue(role)
        self._client = hvac.Client(url=bao.address, token="", timeout=10)
        self._client.auth.approle.login(login.role_id, login.secret_id)

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.auth.token.revoke_self()
        self._client.adapter.close()
