"""Vault's engines beside KV: approvers' one-time codes (TOTP), signatures (transit), wrapping.

Vendor's API pages "TOTP secrets engine", "Transit secrets engine" and "/sys/wrapping".
"""

import base64
import re
from collections.abc import Mapping
from datetime import timedelta

from pydantic import SecretStr

from clients.vault_answers import code_refused, decoded, safe
from clients.vault_calls import VaultCalls
from recovery.errors import Incomplete, Misconfigured, Refused, Unknown, Unverified

_CODE = re.compile(r"[0-9]{6,8}")


class VaultEngines:
    """The part of a VaultClient that needs no KV engine."""

    _calls: VaultCalls
    _totp: str
    _transit: str

    async def verify_code(self, key: str, code: str) -> None:
        """Returns where `code` is the approver's present one-time code, not used before.

        Raises Unverified for a wrong, malformed or used one. Vault also remembers wrong codes for
        a while, and only in one node's memory: keep count of the attempts yourself.
        """
        safe(key)
        typed = code.replace(" ", "")
        if not _CODE.fullmatch(typed):
            raise Unverified("Verify a one-time code", subject=key, got="not six to eight digits")
        try:
            valid = await self._calls.run(
                lambda vault: vault.write_data(f"{self._totp}/code/{key}", data={"code": typed})[
                    "data"
                ]["valid"],
                attempted="Verify a one-time code",
                subject=f"{self._totp}/code",
                repeatable=False,
            )
        except Refused as refused:
            raise code_refused(refused, key) from None
        except (Unknown, Incomplete):
            raise Unknown(
                "Verify a one-time code",
                subject=key,
                got="no answer that can be read",
                advice="The code may count as used: enter the next one.",
            ) from None
        if valid is not True:
            raise Unverified("Verify a one-time code", subject=key, got="wrong")

    async def sign(self, key: str, payload: bytes) -> bytes:
        """The 64 bytes of an ed25519 signature by the newest version of a transit key."""
        answer = await self._calls.run(
            lambda vault: vault.secrets.transit.sign_data(
                key,
                hash_input=base64.b64encode(payload).decode(),
                mount_point=self._transit,
            )["data"]["signature"],
            attempted="Sign with a key in Vault",
            subject=f"{self._transit}/sign/{safe(key)}",
            repeatable=True,
        )
        return decoded(answer.rpartition(":")[2], 64, "Sign with a key in Vault", key)

    async def public_keys(self, key: str) -> list[bytes]:
        """The raw 32 bytes of every version of a transit ed25519 key, the newest first."""
        data = await self._calls.run(
            lambda vault: vault.secrets.transit.read_key(key, mount_point=self._transit)["data"],
            attempted="Read a public key from Vault",
            subject=f"{self._transit}/keys/{safe(key)}",
            repeatable=True,
        )
        versions = sorted(data["keys"].items(), key=lambda item: int(item[0]), reverse=True)
        return [
            decoded(
                version.get("public_key", "") if isinstance(version, dict) else "",
                32,
                "Read a public key from Vault",
                key,
            )
            for _, version in versions
        ]

    async def wrap(self, data: Mapping[str, SecretStr | str], *, ttl: timedelta) -> SecretStr:
        """A token for handing `data` over: it gives it to the first who asks, within `ttl`."""
        plain = {n: v if isinstance(v, str) else v.get_secret_value() for n, v in data.items()}
        seconds = max(1, int(ttl.total_seconds()))
        answer = await self._calls.run(
            lambda vault: vault.sys.wrap(plain, ttl=seconds)["wrap_info"]["token"],
            attempted="Wrap a secret for a hand-over",
            subject="sys/wrapping/wrap",
            # A wrapping token whose answer was lost is nobody's and ends by itself.
            repeatable=True,
        )
        return SecretStr(str(answer))

    async def unwrap(
        self, token: SecretStr, *, made_by: str | None = None
    ) -> Mapping[str, SecretStr]:
        """What was wrapped for us; works once, and without our login.

        Unverified the second time: then somebody else has read it. With `made_by` also where
        another path made the wrapping, such as a stranger's `sys/wrapping/wrap` in place of
        `auth/approle/role/recovery-flows/secret-id`; nothing is unwrapped then.
        """
        if made_by is not None:
            await self._check_maker(token, made_by)
        try:
            answer = await self._calls.run(
                lambda vault: vault.adapter.post("/v1/sys/wrapping/unwrap")["data"],
                attempted="Unwrap a response",
                subject="sys/wrapping/unwrap",
                repeatable=False,
                token=token,
            )
        except (Refused, Misconfigured):
            raise _used() from None
        return {name: SecretStr(str(value)) for name, value in answer.items()}

    async def _check_maker(self, token: SecretStr, made_by: str) -> None:
        try:
            path = await self._calls.run(
                lambda vault: vault.adapter.post(
                    "/v1/sys/wrapping/lookup", json={"token": token.get_secret_value()}
                )["data"]["creation_path"],
                attempted="Look up a wrapping token",
                subject="sys/wrapping/lookup",
                repeatable=True,
                token=SecretStr(""),
            )
        except (Refused, Misconfigured):
            raise _used() from None
        if path != made_by:
            raise Unverified(
                "Unwrap a response",
                expected=f"a wrapping made by {made_by}",
                got="one made by another path",
                advice="Somebody has put another token in place of ours: replace the secret.",
            )


def _used() -> Unverified:
    return Unverified(
        "Unwrap a response",
        got="the wrapping token is unknown or was used",
        advice="If it was fresh, somebody else has read the secret: replace it.",
    )
