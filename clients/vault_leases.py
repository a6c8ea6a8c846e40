"""Credentials that Vault makes for us, for a while: taken, renewed and given back by lease.

Vendor's API pages "/sys/leases" and any dynamic secrets engine: a read of its path answers with the
credential and a `lease_id`. A lease ends by itself, and with the login it was taken by.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hvac import exceptions as refusals
from pydantic import SecretStr

from clients.vault_answers import safe
from clients.vault_calls import VaultCalls
from recovery.errors import Misconfigured, NotFound, Refused

_FINGERPRINT = 16


@dataclass(frozen=True, slots=True)
class Lease:
    """One credential and the id by which it is renewed and revoked; never log `lease_id`."""

    path: str
    lease_id: str = field(repr=False)
    credential: SecretStr = field(repr=False)
    duration: timedelta
    renewable: bool

    @property
    def fingerprint(self) -> str:
        """What may be written down: whoever holds the id itself could revoke the lease."""
        return hashlib.sha256(self.lease_id.encode()).hexdigest()[:_FINGERPRINT]


class VaultLeases:
    """The part of a VaultClient that deals in leases."""

    _calls: VaultCalls

    async def take_lease(self, path: str, field_name: str) -> Lease:
        """A new credential of the engine at `path`; `field_name` is its key in the answer.

        Misconfigured where the policy denies it, naming the path, and where the path gives no
        lease.
        """
        attempted = "Lease a credential from Vault"
        try:
            answer: dict[str, Any] | None = await self._calls.run(
                lambda vault: vault.read(safe(path)),
                attempted=attempted,
                subject=path,
                # What was made by a lost answer is nobody's, and ends with its lease or our login.
                repeatable=True,
            )
        except Misconfigured as denied:
            if denied.got == "a refusal by Vault's policy":
                raise Misconfigured(
                    attempted,
                    subject=path,
                    expected=f"the capability `read` on {path}",
                    got=denied.got,
                    advice="Nothing was done. Add this path to the policy of the role in the "
                    "vault-secrets block, then start the run again.",
                ) from None
            raise
        except NotFound:
            answer = None
        except Refused as refused:
            raise Misconfigured(
                attempted,
                subject=path,
                expected="the engine to make a credential",
                got=refused.code or "a refusal",
                advice="Check the engine's role and its connection in Vault.",
            ) from None
        data = (answer or {}).get("data") or {}
        lease_id = (answer or {}).get("lease_id")
        if not lease_id or not isinstance(data.get(field_name), str) or not data[field_name]:
            raise Misconfigured(
                attempted,
                subject=path,
                expected=f"a lease with the field {field_name}",
                got="an answer without it" if answer else "nothing at this path",
                advice="Correct lease_path and lease_field in the block of the platform.",
            )
        return Lease(
            path,
            str(lease_id),
            SecretStr(data[field_name]),
            timedelta(seconds=float(answer["lease_duration"]) if answer else 0.0),
            bool(answer and answer["renewable"]),
        )

    async def renew_lease(self, lease: Lease) -> timedelta:
        """How long it lasts from now on; near its greatest lifetime that becomes ever shorter.
        Refused `lease_not_found` where it has ended."""
        seconds: float = await self._calls.run(
            lambda vault: vault.sys.renew_lease(
                lease.lease_id, increment=int(lease.duration.total_seconds())
            )["lease_duration"],
            attempted="Renew a lease",
            subject="sys/leases/renew",
            repeatable=True,
        )
        return timedelta(seconds=float(seconds))

    async def revoke_lease(self, lease: Lease) -> None:
        """The credential is dead when this returns; revoking again is no error."""

        def revoke(vault: Any) -> None:
            try:
                # `sync`: without it Vault answers before the engine has taken the credential away.
                vault.adapter.put(
                    "/v1/sys/leases/revoke", json={"lease_id": lease.lease_id, "sync": True}
                )
            except refusals.InvalidRequest as refused:
                if "lease not found" not in " ".join(refused.errors or ()):
                    raise

        await self._calls.run(
            revoke, attempted="Revoke a lease", subject="sys/leases/revoke", repeatable=True
        )
