"""The platform's door for passkeys: whose they are, and a session for who signs a challenge."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rehearsal.world.asgi import Problem
from rehearsal.world.clock import WorldClock
from rehearsal.world.passkeys import BoundPasskey, Challenges, checked, decoded, encoded
from rehearsal.world.platform_accounts import AccountState, AccountStatus, Authenticator


class PasskeyDoor:
    """`domain` is the site whose passkeys open accounts here (WebAuthn's RP id)."""

    def __init__(
        self, accounts: Mapping[str, AccountState], clock: WorldClock, domain: str
    ) -> None:
        self.domain = domain
        self._accounts = accounts
        self._clock = clock
        self._challenges = Challenges()
        self._owners: dict[bytes, str] = {}

    def claim(self, account: AccountState, passkey: BoundPasskey) -> None:
        """Problem 409 where it is bound already (W3C Web Authentication 3, 7.1)."""
        if self._bound(passkey.credential_id) is not None:
            raise Problem(409, "credential_taken", "This passkey is bound already.")
        self._owners[passkey.credential_id] = account.seed.id

    def options(self) -> dict[str, object]:
        """What a browser needs to ask for a passkey of this site, whosever it is."""
        return {
            "challenge": encoded(self._challenges.new(self._clock.now())),
            "rpId": self.domain,
            "userVerification": "required",
            "allowCredentials": [],
        }

    def owner(self, assertion: dict[str, Any]) -> AccountState | None:
        """Whose account a signed challenge opens; None, whatever is wrong about it."""
        try:
            return self._opened(assertion)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return None

    def _opened(self, assertion: dict[str, Any]) -> AccountState | None:
        found = self._bound(decoded(assertion["rawId"]))
        if found is None:
            return None
        account, bound, passkey = found
        if decoded(assertion["response"]["userHandle"]) != passkey.user_handle:
            return None
        if account.status is not AccountStatus.ACTIVE:
            return None
        after = checked(passkey, assertion, self.domain, self._challenges, self._clock.now())
        account.authenticators[bound.id] = replace(bound, passkey=after)
        return account

    def _bound(
        self, credential_id: bytes
    ) -> tuple[AccountState, Authenticator, BoundPasskey] | None:
        owner = self._owners.get(credential_id)
        if owner is None:
            return None
        for one in self._accounts[owner].passkeys():
            if one.passkey is not None and one.passkey.credential_id == credential_id:
                return self._accounts[owner], one, one.passkey
        return None
