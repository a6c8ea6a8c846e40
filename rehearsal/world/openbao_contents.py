"""What stands in the rehearsal's Vault: policies, roles, keys and secrets, as production has them.

The policies are the files in `docs/vault/`, least privilege, as they go into a real Vault.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import time

import pyotp

from rehearsal.world.openbao import OpenBao

POLICIES = Path(__file__).resolve().parents[2] / "docs" / "vault"
ROLES = ("recovery-flows", "recovery-signing-key", "portal-config", "automation")
CHECKPOINT_KEY = "recovery-checkpoint"
"""Transit key (ed25519) that signs checkpoints of the audit log."""
ADMIN_LEASE = "platform/creds/recovery-admin"
READER_LEASE = "platform/creds/recovery-reader"

_TOKEN_TTL = timedelta(minutes=20)
_TOKEN_MAX_TTL = timedelta(hours=4)
_SECRET_ID_TTL = timedelta(hours=4)
_CONSUMER_TOKEN_TTL = timedelta(hours=24)
_LEASE_TTL = timedelta(minutes=2)
_LEASE_MAX_TTL = timedelta(minutes=30)
_PERIOD_SECONDS = 30
_KEPT_STEPS = 8


@dataclass(frozen=True, slots=True)
class AppRoleLogin:
    """What a service logs in with. The secret id is valid for four hours."""

    role_id: str
    secret_id: str = field(repr=False)


class Approver:
    """Somebody with an authenticator app, whose key was shown once when it was made."""

    def __init__(self, name: str, otpauth_url: str) -> None:
        self.name = name
        self.otpauth_url = otpauth_url
        parsed = pyotp.parse_uri(otpauth_url)
        assert isinstance(parsed, pyotp.TOTP)
        self._totp = parsed
        self._used: list[int] = []

    def __repr__(self) -> str:
        return f"Approver({self.name!r})"

    def code(self) -> str:
        """A code that Vault accepts now and that this method has not given before.

        Vault takes each code once and allows one period of drift, so three fit into any moment.
        ValueError when they are used up; `seconds_until_fresh` tells how long to wait.
        """
        now = int(time()) // _PERIOD_SECONDS
        for step in (now, now + 1, now - 1):
            if step not in self._used:
                self._used = [*self._used[-_KEPT_STEPS:], step]
                return self._totp.generate_otp(step)
        raise ValueError("all codes of this moment have been used")

    def lasting_code(self) -> str:
        """One that Vault takes for at least 30 seconds more and at most 90: for a run that takes
        its time to start and read it. Otherwise as `code`."""
        step = int(time()) // _PERIOD_SECONDS + 1
        if step in self._used:
            return self.code()
        self._used = [*self._used[-_KEPT_STEPS:], step]
        return self._totp.generate_otp(step)

    def seconds_until_fresh(self) -> float:
        """0 when `code` has one to give."""
        now = time()
        step = int(now) // _PERIOD_SECONDS
        if {step - 1, step, step + 1} - set(self._used):
            return 0.0
        return (step + 1) * _PERIOD_SECONDS - now + 0.1


class VaultContents:
    """The administrator's hand in one server. Blocking; every call is a request or two."""

    def __init__(self, bao: OpenBao) -> None:
        self._bao = bao
        self._root = bao.root()
        self.approvers: dict[str, Approver] = {}

    def close(self) -> None:
        self._root.adapter.close()

    def set_up(self, approvers: Iterable[str]) -> None:
        """Engines, policies, AppRoles, one TOTP key per approver, the checkpoint key."""
        root = self._root
        root.sys.enable_auth_method("approle")
        root.sys.enable_secrets_engine("transit")
        root.sys.enable_secrets_engine("totp")
        for role in ROLES:
            policy = (POLICIES / f"{role}.hcl").read_text(encoding="utf-8")
            root.sys.create_or_update_policy(role, policy)
            root.write_data(
                f"auth/approle/role/{role}",
                data={
                    "token_policies": [role],
                    "token_no_default_policy": True,
                    "token_ttl": _seconds(_TOKEN_TTL),
                    "token_max_ttl": _seconds(_TOKEN_MAX_TTL),
                    "secret_id_ttl": _seconds(_SECRET_ID_TTL),
                },
            )
        root.secrets.transit.create_key(CHECKPOINT_KEY, key_type="ed25519")
        for name in approvers:
            self.add_approver(name)

    def lease_platform(
        self,
        address: str,
        user: str,
        password: str,
        *,
        ttl: timedelta = _LEASE_TTL,
        max_ttl: timedelta = _LEASE_MAX_TTL,
    ) -> None:
        """From now on ADMIN_LEASE and READER_LEASE lease the platform's credentials: its broker
        makes a user for each lease and deletes it at the end.

        Vault has no engine for our platform; its RabbitMQ one speaks plain HTTP, with a user, a
        password and a role, which is all that a broker of service credentials has.
        """
        root = self._root
        if "platform/" not in root.sys.list_mounted_secrets_engines()["data"]:
            root.sys.enable_secrets_engine("rabbitmq", path="platform")
        connection = {
            "connection_uri": address,
            "username": user,
            "password": password,
            "username_template": "lease-{{random 20}}",
        }
        root.write_data("platform/config/connection", data=connection)
        self.set_lease_times(ttl, max_ttl)
        for path, tag in ((ADMIN_LEASE, "admin"), (READER_LEASE, "read")):
            root.write_data(path.replace("creds", "roles"), data={"tags": tag})

    def set_lease_times(self, ttl: timedelta, max_ttl: timedelta) -> None:
        """For leases taken from now on; Vault knows whole seconds."""
        times = {"ttl": _seconds(ttl), "max_ttl": _seconds(max_ttl)}
        self._root.write_data("platform/config/lease", data=times)

    def end_leases(self) -> None:
        """Fault: every credential of the platform that is leased dies at once."""
        self._root.sys.revoke_prefix("platform/creds")

    def add_approver(self, name: str) -> Approver:
        answer = self._root.write_data(
            f"totp/keys/{name}",
            data={
                "generate": True,
                "exported": True,
                "issuer": "Recovery",
                "account_name": name,
                "qr_size": 0,
                "period": _PERIOD_SECONDS,
                "skew": 1,
            },
        )
        approver = Approver(name, answer["data"]["url"])
        self.approvers[name] = approver
        return approver

    def issue(self, role: str) -> AppRoleLogin:
        approle = self._root.auth.approle
        return AppRoleLogin(
            role_id=approle.read_role_id(role)["data"]["role_id"],
            secret_id=approle.generate_secret_id(role)["data"]["secret_id"],
        )

    def issue_wrapped(self, role: str, ttl: timedelta = timedelta(minutes=5)) -> tuple[str, str]:
        """Role id and a wrapping token, which gives the secret id to the first who asks."""
        approle = self._root.auth.approle
        wrapped = approle.generate_secret_id(role, wrap_ttl=f"{_seconds(ttl)}s")
        return approle.read_role_id(role)["data"]["role_id"], wrapped["wrap_info"]["token"]

    def put(self, path: str, data: Mapping[str, str]) -> int:
        """Writes `secret/{path}`; returns its version."""
        written = self._root.secrets.kv.v2.create_or_update_secret(path, dict(data))
        version: int = written["data"]["version"]
        return version

    def read(self, path: str) -> dict[str, str]:
        """The newest version, as an administrator sees it."""
        answer = self._root.secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
        data: dict[str, str] = answer["data"]["data"]
        return data

    def put_client(
        self,
        client_id: str,
        secret_id: str,
        value: str,
        *,
        owner: str,
        consumers: Iterable[str],
        tries_both: Iterable[str] = (),
    ) -> None:
        """A client's secret under CURRENT, with who owns it and who runs with it beside."""
        path = f"apps/{client_id}"
        self.put(path, {"client_secret": value, "secret_id": secret_id})
        # Vault refuses an empty value.
        facts = {
            "owner": owner,
            "consumers": ",".join(consumers),
            "tries_both": ",".join(tries_both),
        }
        self._root.secrets.kv.v2.update_metadata(
            path, custom_metadata={name: value for name, value in facts.items() if value}
        )

    def remove_client(self, client_id: str) -> None:
        """All versions and the metadata, as if the client had never been there."""
        self._root.secrets.kv.v2.delete_metadata_and_all_versions(f"apps/{client_id}")

    def consumer_token(self, client_id: str) -> str:
        """A token that can read this one client's secret and nothing else."""
        name = f"consumer-{client_id}"
        template = (POLICIES / "consumer.hcl").read_text(encoding="utf-8")
        self._root.sys.create_or_update_policy(name, template.replace("CLIENT_ID", client_id))
        created = self._root.auth.token.create(
            policies=[name], ttl=f"{_seconds(_CONSUMER_TOKEN_TTL)}s", no_default_policy=True
        )
        token: str = created["auth"]["client_token"]
        return token

    def revoke_logins(self, role: str) -> int:
        """Fault: the tokens of all services logged in by this role die at once."""
        tokens = self._root.auth.token
        revoked = 0
        for accessor in self._root.list("auth/token/accessors")["data"]["keys"]:
            facts = tokens.lookup_accessor(accessor)["data"]
            if (facts.get("meta") or {}).get("role_name") == role:
                tokens.revoke_accessor(accessor)
                revoked += 1
        return revoked

    def digest_of_apps(self) -> str:
        """Versions and data of all client paths, as one text: a dry run must not change it."""
        kv = self._root.secrets.kv.v2
        facts: dict[str, object] = {}
        for client_id in sorted(kv.list_secrets("apps")["data"]["keys"]):
            answer = kv.read_secret_version(f"apps/{client_id}", raise_on_deleted_version=True)
            facts[client_id] = [answer["data"]["metadata"]["version"], answer["data"]["data"]]
        return json.dumps(facts, sort_keys=True)


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
