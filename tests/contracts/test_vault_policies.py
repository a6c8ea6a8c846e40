"""The policies in docs/vault/ at a real OpenBao: everything that our client calls works under them,
nothing in them is unused (take any one capability away and something breaks), the rest is refused.
"""

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import hvac
import pytest
from hvac.exceptions import Forbidden
from pydantic import SecretStr

from clients.vault import VaultClient
from recovery.errors import Misconfigured, RecoveryError
from rehearsal.world.openbao_contents import CHECKPOINT_KEY, POLICIES

_BLOCK = re.compile(r'path "([^"]+)" \{\n(.*?)\n\}', re.DOTALL)
_CAPABILITIES = re.compile(r"(capabilities\s*=\s*)\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class Grant:
    """One capability on one path of a policy."""

    policy: str
    path: str
    capability: str

    def __str__(self) -> str:
        return f"{self.policy}: {self.capability} {self.path}"


def text_of(policy: str) -> str:
    return (POLICIES / f"{policy}.hcl").read_text(encoding="utf-8")


def grants(policy: str) -> list[Grant]:
    found = []
    for path, body in _BLOCK.findall(text_of(policy)):
        match = _CAPABILITIES.search(body)
        assert match, f"{policy}: {path} without capabilities"
        found += [Grant(policy, path, c) for c in re.findall(r'"(\w+)"', match[2])]
    assert found
    return found


def without(grant: Grant) -> str:
    """The policy's text with this one capability taken away, everything else as it stands."""

    def cut(block: re.Match[str]) -> str:
        if block[1] != grant.path:
            return block[0]
        match = _CAPABILITIES.search(block[2])
        assert match
        left = [c for c in re.findall(r'"(\w+)"', match[2]) if c != grant.capability]
        listed = ", ".join(f'"{c}"' for c in left) if left else '"deny"'
        return block[0].replace(match[0], f"{match[1]}[{listed}]")

    changed = _BLOCK.sub(cut, text_of(grant.policy))
    assert changed != text_of(grant.policy)
    return changed


def every(*policies: str) -> Any:
    cases = [grant for policy in policies for grant in grants(policy)]
    return pytest.mark.parametrize("grant", cases, ids=str)


@pytest.fixture
def root(bao: Any) -> Iterator[hvac.Client]:
    client = bao.server.root()
    with closing(client.adapter):
        yield client


@dataclass(frozen=True, slots=True)
class Given:
    """A token under one text of a policy, and a client's path that is there already."""

    bao: Any
    root: hvac.Client
    app_path: str

    def token(self, policy_text: str) -> SecretStr:
        name = f"tried-{secrets.token_hex(4)}"
        self.root.sys.create_or_update_policy(name, policy_text)
        made = self.root.auth.token.create(policies=[name], ttl="10m", no_default_policy=True)
        return SecretStr(made["auth"]["client_token"])

    def client(self, policy_text: str) -> VaultClient:
        return VaultClient(self.bao.address, token=self.token(policy_text))


@pytest.fixture
async def given(bao: Any, root: hvac.Client, leased_platform: Any) -> Given:
    client_id = f"app-{secrets.token_hex(4)}"
    bao.contents.put_client(client_id, "s1", "value", owner="team", consumers=["a"])
    for name in ("enrollment-signing-key", "notice-signing-key"):
        bao.contents.put(f"recovery/{name}", {"kid": "k1", "private_pem": "pem"})
    bao.contents.put("recovery/platform-bind", {"token": "t"})
    bao.contents.put("recovery/probe-accounts", {"u-1": "password"})
    bao.contents.put(f"app-tokens/{client_id}", {"u-1": "token"})
    return Given(bao, root, f"apps/{client_id}")


async def flows_work(given: Given, vault: VaultClient) -> None:
    """Every call that flows make, each under the name under which they make it."""
    path = given.app_path
    await vault.check()
    version = (await vault.observe(path)).version
    version = await vault.stage_pending(path, "s2", SecretStr("new"), cas=version)
    await vault.pending(path)
    version = await vault.promote(path, cas=version)
    await vault.current(path)
    version = await vault.roll_back(path, cas=version)
    version = await vault.stage_pending(path, "s3", SecretStr("newer"), cas=version)
    version = await vault.drop_pending(path, cas=version)
    version = await vault.stage_pending(path, "s4", SecretStr("newest"), cas=version)
    version = await vault.promote(path, cas=version)
    await vault.drop_previous(path, cas=version)
    inventory = vault.inventory()
    assert path.removeprefix("apps/") in await inventory.names("apps")
    assert await inventory.entry(path) is not None
    first = f"apps/app-{secrets.token_hex(4)}"
    await vault.stage_pending(first, "s1", SecretStr("first"), cas=0)
    for name in ("enrollment-signing-key", "notice-signing-key", "probe-accounts"):
        await vault.get(f"recovery/{name}")
    await vault.get(f"app-tokens/{path.removeprefix('apps/')}")
    name = f"approver-{secrets.token_hex(4)}"
    await vault.verify_code(name, given.bao.contents.add_approver(name).code())
    await vault.sign(CHECKPOINT_KEY, b"checkpoint")
    await vault.public_keys(CHECKPOINT_KEY)
    for role in ("recovery-admin", "recovery-reader"):
        lease = await vault.take_lease(f"platform/creds/{role}", "password")
        await vault.renew_lease(lease)
        await vault.revoke_lease(lease)


def life_of_a_login(given: Given, token: SecretStr, *, renews: bool = True) -> None:
    """What `clients.vault_calls` does with a login besides: renewed on the way, given back."""
    with closing(hvac.Client(url=given.bao.address, token=token.get_secret_value()).adapter) as own:
        own.get("/v1/auth/token/lookup-self")
        if renews:
            own.post("/v1/auth/token/renew-self")
        own.post("/v1/auth/token/revoke-self")


async def automation_works(given: Given, token: SecretStr) -> None:
    raw = hvac.Client(url=given.bao.address, token=token.get_secret_value())
    with closing(raw.adapter):
        approle = raw.auth.approle
        role_id = approle.read_role_id("recovery-flows")["data"]["role_id"]
        wrapped = approle.generate_secret_id("recovery-flows", wrap_ttl="60s")["wrap_info"]
    async with VaultClient(given.bao.address, token=token) as job:
        await job.check()
        made_by = "auth/approle/role/recovery-flows/secret-id"
        opened = await job.unwrap(SecretStr(wrapped["token"]), made_by=made_by)
        await job.wrap({"a": "b"}, ttl=timedelta(minutes=1))
    async with VaultClient(
        given.bao.address, role_id=role_id, secret_id=opened["secret_id"]
    ) as worker:
        await worker.check()
    life_of_a_login(given, token, renews=False)


async def portal_config_works(given: Given, token: SecretStr) -> None:
    async with VaultClient(given.bao.address, token=token) as vault:
        await vault.check()
        await vault.get("recovery/platform-bind")
    life_of_a_login(given, token, renews=False)


async def works(given: Given, policy: str, text: str) -> None:
    token = given.token(text)
    match policy:
        case "recovery-flows":
            async with VaultClient(given.bao.address, token=token) as vault:
                await flows_work(given, vault)
            life_of_a_login(given, token)
        case "automation":
            await automation_works(given, token)
        case "portal-config":
            await portal_config_works(given, token)
        case _:
            raise AssertionError(policy)


@pytest.mark.parametrize("policy", ["recovery-flows", "automation", "portal-config"])
async def test_a_policy_suffices(given: Given, policy: str) -> None:
    await works(given, policy, text_of(policy))


@every("recovery-flows", "automation", "portal-config")
async def test_every_grant_is_needed(given: Given, grant: Grant) -> None:
    with pytest.raises((Misconfigured, Forbidden)) as caught:
        await works(given, grant.policy, without(grant))
    if isinstance(caught.value, RecoveryError):
        assert "policy" in str(caught.value) or "capability" in str(caught.value)


def test_no_policy_names_more_than_its_own() -> None:
    """No wildcard over a whole engine, no sudo, nothing that deletes or administers; which
    clients there are, never what they hold, is all that is listed."""
    files = sorted(POLICIES.glob("*.hcl"))
    assert len(files) == 6
    for file in files:
        for grant in grants(file.stem):
            names = (grant.capability, grant.path) == ("list", "secret/metadata/apps")
            assert names or grant.capability in ("create", "read", "update"), grant
            assert not grant.path.endswith("/*"), grant
            assert not grant.path.startswith(("sys/policies", "sys/auth", "sys/mounts")), grant


async def test_the_flows_may_renew_and_revoke_the_platforms_leases_alone(
    given: Given, root: hvac.Client
) -> None:
    """A login is a lease as well: another service's can't be ended by guessing its id."""
    raw = hvac.Client(
        url=given.bao.address, token=given.token(text_of("recovery-flows")).get_secret_value()
    )
    with closing(raw.adapter):
        for lease_id in ("auth/approle/login/h1234", "database/creds/app/abcd"):
            for act in (raw.sys.renew_lease, raw.sys.revoke_lease):
                with pytest.raises(Forbidden):
                    act(lease_id)
        forbidden: list[Callable[[], object]] = [
            lambda: raw.sys.revoke_prefix("platform/creds"),
            lambda: raw.sys.read_lease("platform/creds/recovery-admin/x"),
            lambda: raw.read("platform/config/connection"),
            lambda: raw.read("platform/roles/recovery-admin"),
            lambda: raw.read("platform/creds/another-role"),
            lambda: raw.write_data("platform/roles/recovery-reader", data={"tags": "admin"}),
            lambda: raw.secrets.kv.v2.update_metadata(given.app_path, max_versions=1),
            lambda: raw.secrets.kv.v2.configure(max_versions=1),
        ]
        for act_ in forbidden:
            with pytest.raises(Forbidden):
                act_()


async def test_the_automation_can_not_become_the_worker(given: Given) -> None:
    raw = hvac.Client(
        url=given.bao.address, token=given.token(text_of("automation")).get_secret_value()
    )
    with closing(raw.adapter):
        forbidden: list[Callable[[], object]] = [
            lambda: raw.auth.approle.generate_secret_id("recovery-flows"),
            lambda: raw.auth.approle.generate_secret_id("recovery-flows", wrap_ttl="1h"),
            lambda: raw.auth.approle.generate_secret_id("portal-config", wrap_ttl="60s"),
            lambda: raw.secrets.kv.v2.read_secret_version(
                given.app_path, raise_on_deleted_version=True
            ),
            lambda: raw.read("platform/creds/recovery-admin"),
        ]
        for act in forbidden:
            with pytest.raises(Forbidden):
                act()


async def test_an_approver_makes_their_own_key_and_no_other(
    given: Given, root: hvac.Client
) -> None:
    mount, name = f"people-{secrets.token_hex(3)}", f"maya-{secrets.token_hex(3)}"
    root.sys.enable_auth_method("userpass", path=mount)
    accessor = root.sys.list_auth_methods()["data"][f"{mount}/"]["accessor"]
    text = text_of("approver-enrolment").replace("AUTH_ACCESSOR", accessor)
    root.sys.create_or_update_policy(mount, text)
    root.write_data(
        f"auth/{mount}/users/{name}",
        data={"password": "pw", "token_policies": [mount], "token_no_default_policy": True},
    )
    person = hvac.Client(url=given.bao.address)
    with closing(person.adapter):
        person.auth.userpass.login(name, "pw", mount_point=mount)
        key = {"generate": True, "issuer": "Recovery", "account_name": name, "qr_size": 0}
        answer = person.write_data(f"totp/keys/{name}", data=key)
        assert answer["data"]["url"].startswith("otpauth://totp/")
        forbidden: list[Callable[[], object]] = [
            lambda: person.write_data("totp/keys/maya", data=key),
            lambda: person.read(f"totp/keys/{name}"),
            lambda: person.read(f"totp/code/{name}"),
            lambda: person.delete(f"totp/keys/{name}"),
            lambda: person.list("totp/keys"),
        ]
        for act in forbidden:
            with pytest.raises(Forbidden):
                act()
        # The one grant is needed: without it not even the own key.
        (grant,) = grants("approver-enrolment")
        bare = without(grant).replace("AUTH_ACCESSOR", accessor)
        root.sys.create_or_update_policy(mount, bare)
        with pytest.raises(Forbidden):
            person.write_data(f"totp/keys/{name}", data=key)
    root.sys.disable_auth_method(mount)
