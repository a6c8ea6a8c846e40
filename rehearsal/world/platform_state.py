"""The platform's whole state, what its calls do to it, and the truth about it for the judge.

Acts follow the platform's wire page; a refusal is raised as the Problem that is its answer. All
acts run between two awaits of one event loop, so each is atomic.
"""

import hashlib
import json
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from itertools import chain
from typing import Any

from rehearsal.world.asgi import Problem
from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import Credential, CredentialKind, Loot
from rehearsal.world.effects import Effect
from rehearsal.world.faults import Faults
from rehearsal.world.passkeys import BoundPasskey
from rehearsal.world.platform_accounts import (
    AccountState,
    AccountStatus,
    Authenticator,
    Banner,
    LoginThrottle,
    new_authenticator,
    password_digest,
    spend_time_on_code,
)
from rehearsal.world.platform_broker import CredentialBroker
from rehearsal.world.platform_clients import ClientBook, Secret
from rehearsal.world.platform_passkeys import PasskeyDoor
from rehearsal.world.platform_quota import AdminDoor, AdminToken
from rehearsal.world.platform_tokens import Revocation, TokenCounts, TokenStore
from rehearsal.world.population import Population


class PlatformState:
    """Begins right after the burst: the affected accounts' passwords have been changed.

    `latency` is how long an admin call takes; it is what makes the limit on concurrent calls
    felt. `consumers_url` is where consumers' health is served; it may be set later.
    """

    def __init__(
        self,
        population: Population,
        clock: WorldClock,
        *,
        admin_tokens: Iterable[AdminToken] = (),
        latency: timedelta = timedelta(milliseconds=4),
        passkey_domain: str = "localhost",
        consumers_url: str = "http://127.0.0.1:0",
    ) -> None:
        self.population = population
        self.clock = clock
        self.latency = latency
        self.consumers_url = consumers_url.rstrip("/")
        self.faults = Faults()
        self.admin = AdminDoor(clock, admin_tokens)
        self.broker = CredentialBroker(self.admin)
        self.admin_answers: Counter[tuple[str, int]] = Counter()
        """How often each admin call got each status, 429 and 401 included."""
        self.clients = ClientBook(population.clients, population.introspector, clock)
        self.tokens = TokenStore(clock.timestamp)
        self.accounts = _accounts_after_burst(population)
        self.passkeys = PasskeyDoor(self.accounts, clock, passkey_domain)
        self._ids = sorted(self.accounts)
        self._by_handle = {a.seed.handle: a for a in self.accounts.values()}
        self._throttle = LoginThrottle()
        for credential in population.credentials:
            self.tokens.plant(credential)

    # Reading, as an administrator.

    def account(self, account_id: str) -> AccountState:
        account = self.accounts.get(account_id)
        if account is None:
            raise Problem(404, "not_found", "There is no such account.")
        return account

    def page(self, after: str | None, limit: int) -> tuple[list[AccountState], str | None]:
        """Accounts by id behind `after`, and the last id where more follow."""
        begin = bisect_right(self._ids, after) if after is not None else 0
        ids = self._ids[begin : begin + limit]
        more = begin + limit < len(self._ids)
        return [self.accounts[one] for one in ids], ids[-1] if more else None

    # Acts of an administrator. Each returns what its answer tells and notes its effect.

    def revoke_refresh_tokens(self, account_id: str) -> int:
        account = self.account(account_id)
        refresh, access = self.tokens.drop_refresh_tokens(account_id)
        self._note(account, "refresh-tokens.delete", refresh + access > 0)
        return refresh

    def revoke_sessions(self, account_id: str) -> int:
        account = self.account(account_id)
        ended = self.tokens.end_sessions(account_id)
        return self._note(account, "sessions.delete", ended)

    def revoke_device_sessions(self, account_id: str) -> int:
        account = self.account(account_id)
        ended = self.tokens.end_device_sessions(account_id)
        return self._note(account, "device-sessions.delete", ended)

    def revoke_grants(self, account_id: str) -> int:
        account = self.account(account_id)
        ended = self.tokens.drop_grants(account_id)
        return self._note(account, "grants.delete", ended)

    def revoke_recovery_tokens(self, account_id: str) -> int:
        account = self.account(account_id)
        ended = self.tokens.drop_recovery_tokens(account_id)
        return self._note(account, "recovery-tokens.delete", ended)

    def force_reset(self, account_id: str) -> bool:
        """False when it was forced before and no password has been set since."""
        account = self._not_deactivated(account_id)
        if account.reset_required:
            return False
        account.reset_required = True
        return bool(self._note(account, "password-reset.create", True))

    def bind(
        self, account_id: str, *, kind: str, secret: str, label: str, key: str
    ) -> tuple[str, bool]:
        """Id of the authenticator that was bound for `key`, and whether that was now."""
        account = self._not_deactivated(account_id)
        return self._bind(
            account, key, secret, lambda: new_authenticator(kind, secret, label, self.clock.now())
        )

    def bind_passkey(
        self, account_id: str, passkey: BoundPasskey, *, label: str, key: str
    ) -> tuple[str, bool]:
        """The same for a passkey."""
        account = self._not_deactivated(account_id)

        def new() -> Authenticator:
            self.passkeys.claim(account, passkey)
            authenticator_id, now = f"aut-{secrets.token_hex(6)}", self.clock.now()
            return Authenticator(authenticator_id, "passkey", label, now, passkey=passkey)

        return self._bind(account, key, passkey.credential_id.hex(), new)

    def _bind(
        self, account: AccountState, key: str, content: str, new: Callable[[], Authenticator]
    ) -> tuple[str, bool]:
        """Problem 409 where the key was used for another authenticator."""
        if key in account.bound_by_key:
            authenticator_id, before = account.bound_by_key[key]
            if before != _hidden(content):
                raise Problem(409, "key_reused", "The key was used for another authenticator.")
            return authenticator_id, False
        authenticator = new()
        account.authenticators[authenticator.id] = authenticator
        account.bound_by_key[key] = (authenticator.id, _hidden(content))
        self._note(account, "authenticators.create", True)
        return authenticator.id, True

    def remove_authenticator(self, account_id: str, authenticator_id: str) -> None:
        account = self.account(account_id)
        if account.authenticators.pop(authenticator_id, None) is None:
            raise Problem(404, "not_found", "There is no such authenticator.")
        self._note(account, "authenticators.delete", True)

    def remove_authenticators(self, account_id: str) -> int:
        account = self.account(account_id)
        removed = len(account.authenticators)
        account.authenticators.clear()
        return self._note(account, "authenticators.delete", removed)

    def put_banner(
        self,
        account_id: str,
        *,
        key: str,
        title: str,
        body: str,
        link: str | None,
        code: str,
        signature: str | None,
    ) -> tuple[str, bool]:
        """Id of the banner for `key`, and whether it is new."""
        account = self._not_deactivated(account_id)
        if key in account.banners:
            return account.banners[key].id, False
        banner = Banner(
            id=f"ban-{secrets.token_hex(6)}",
            idempotency_key=key,
            title=title,
            body=body,
            link=link,
            code=code,
            signature=signature,
            created_at=self.clock.now(),
        )
        account.banners[key] = banner
        self._note(account, "banners.create", True)
        return banner.id, True

    # Acts of people and apps.

    def login(self, handle: str, password: str, code: str | None) -> str:
        """A new session. One and the same Problem 401, after the same work, whatever is wrong."""
        now = self.clock.now()
        self._throttle.check(handle, now)
        account = self._by_handle.get(handle)
        if account is None:
            password_digest(handle, password)
            spend_time_on_code(code, now)
        elif account.lets_in(password, code, now):
            self._throttle.succeeded(handle)
            return self.tokens.open_session(account.seed.id)
        self._throttle.failed(handle, now)
        raise _wrong_credentials()

    def passkey_login(self, assertion: dict[str, Any]) -> str:
        """A new session by a passkey alone. One and the same Problem 401 whatever is wrong."""
        account = self.passkeys.owner(assertion)
        if account is None:
            raise _wrong_credentials()
        return self.tokens.open_session(account.seed.id)

    def set_password(self, handle: str, code: str, new_password: str) -> None:
        """After a forced reset only, and by a code of a bound TOTP authenticator; else 401."""
        now = self.clock.now()
        account = self._by_handle.get(handle)
        if account is None or not account.totp_secrets():
            spend_time_on_code(code, now)
            raise _wrong_credentials()
        right = account.code_is_right(code, now)
        if not (right and account.reset_required and account.status is AccountStatus.ACTIVE):
            raise _wrong_credentials()
        account.password_digest = password_digest(account.seed.id, new_password)
        account.reset_required = False
        account.password_set_at = now

    def revoke_by_client(self, client_id: str, token: str) -> Revocation:
        revocation, account_id = self.tokens.revoke(client_id, token)
        if account_id is not None:
            self._note(self.accounts[account_id], "oauth.revoke", True)
        return revocation

    # The truth, for the judge.

    def live(self, credential: Credential) -> bool:
        if credential.kind is not CredentialKind.PASSWORD:
            return self.tokens.live(credential)
        account = self.accounts[credential.account_id]
        bound = account.totp_secrets()
        return (
            account.status is AccountStatus.ACTIVE
            and account.password_is(credential.value)
            and (credential.totp_secret in bound if bound else not account.passkeys())
        )

    def live_stolen(self, loot: Loot | Iterable[Credential]) -> list[Credential]:
        """What of it would still open something."""
        items = loot.items if isinstance(loot, Loot) else loot
        return [credential for credential in items if self.live(credential)]

    def effects(self, account_id: str) -> tuple[Effect, ...]:
        return tuple(self.accounts[account_id].effects)

    def all_effects(self) -> Counter[str]:
        """How often each call changed something, over all accounts and clients."""
        noted = chain(
            (effect for account in self.accounts.values() for effect in account.effects),
            (effect for client in self.clients.all() for effect in client.effects),
        )
        return Counter(effect.call for effect in noted)

    def authenticators_of(self, account_id: str) -> tuple[Authenticator, ...]:
        return tuple(self.accounts[account_id].authenticators.values())

    def old_authenticators_of(self, account_id: str) -> tuple[Authenticator, ...]:
        """Those still bound that were there before the incident."""
        old = {seed.id for seed in self.accounts[account_id].seed.authenticators}
        return tuple(a for a in self.authenticators_of(account_id) if a.id in old)

    def banners_of(self, account_id: str) -> tuple[Banner, ...]:
        return tuple(self.accounts[account_id].banners.values())

    def counts_of(self, account_id: str) -> TokenCounts:
        return self.tokens.counts(account_id)

    def secrets_of(self, client_id: str) -> tuple[Secret, ...]:
        return tuple(self.clients.get(client_id).secrets.values())

    def client_auth_failures(self) -> dict[str, int]:
        return {client.seed.id: client.auth_failures for client in self.clients.all()}

    def snapshot_digest(self) -> str:
        """SHA-256 over all that a dry run must leave as it was.

        Left out is what others change meanwhile: sessions from logins, renewed tokens (a grant
        counts as having a refresh token or not), access tokens, last use, quotas, time.
        """
        planted: dict[str, list[str]] = {}
        for credential in self.population.credentials:
            if credential.client_id is None and self.tokens.live(credential):
                planted.setdefault(credential.account_id, []).append(_hidden(credential.value))
        document = {
            "accounts": [self._account_facts(one, planted.get(one, [])) for one in self._ids],
            "clients": [
                {
                    "id": client.seed.id,
                    "secrets": [
                        [s.id, _hidden(s.value), s.status, s.marker, s.created_at.isoformat()]
                        for s in client.secrets.values()
                    ],
                    "effects": _effect_facts(client.effects),
                }
                for client in self.clients.all()
            ],
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _account_facts(self, account_id: str, planted: list[str]) -> dict[str, object]:
        account = self.accounts[account_id]
        return {
            "id": account_id,
            "status": account.status,
            "password": account.password_digest.hex(),
            "reset_required": account.reset_required,
            "authenticators": sorted(account.authenticators),
            "banners": sorted(account.banners),
            "bound": sorted(account.bound_by_key),
            "planted": planted,
            "grants": sorted(
                [grant.client_id, bool(grant.refresh)] for grant in self.tokens.grants(account_id)
            ),
            "effects": _effect_facts(account.effects),
        }

    def _not_deactivated(self, account_id: str) -> AccountState:
        account = self.account(account_id)
        if account.status is AccountStatus.DEACTIVATED:
            raise Problem(409, "deactivated", "The account is deactivated.")
        return account

    def _note(self, account: AccountState, call: str, changed: int) -> int:
        if changed:
            account.effects.append(Effect(call, self.clock.now()))
        return changed


def _accounts_after_burst(population: Population) -> dict[str, AccountState]:
    hits = {hit.account_id: hit for hit in population.burst}
    accounts: dict[str, AccountState] = {}
    for seed in population.accounts.values():
        hit = hits.get(seed.id)
        accounts[seed.id] = AccountState(
            seed,
            password_digest(seed.id, hit.new_password if hit else seed.password),
            {
                a.id: Authenticator(a.id, a.type, a.label, a.created_at, a.secret)
                for a in seed.authenticators
            },
        )
    return accounts


def _wrong_credentials() -> Problem:
    return Problem(401, "invalid_credentials", "That did not match.")


def _hidden(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def _effect_facts(effects: list[Effect]) -> list[list[str]]:
    return [[effect.call, effect.at.isoformat()] for effect in effects]
