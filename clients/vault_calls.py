"""How hvac is called here: in threads, one client each, logged in, its errors turned into ours.

hvac has no asyncio and its session and token are not made for several threads
(https://python-hvac.org). What each status means: Vault's HTTP API page "Status codes".
"""

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import hvac
import requests
from hvac import exceptions as refusals
from pydantic import SecretStr

from clients.vault_errors import Passing, by_policy, expired, ours
from clients.vault_login import Door
from recovery.errors import Incomplete, Misconfigured, RateLimited

Answer = TypeVar("Answer")
Sleep = Callable[[float], Awaitable[None]]

THREADS = 8
ATTEMPTS = 3
_FIRST_PAUSE = 0.2
_RENEW_BELOW = 1 / 3
"""Of a token's first lifetime: with less than that left it is renewed."""


@dataclass(slots=True)
class _Login:
    token: str = field(repr=False)
    lifetime: float
    ends_at: float
    renewable: bool

    @property
    def left(self) -> float:
        return self.ends_at - time.monotonic()

    @property
    def good(self) -> bool:
        """A lifetime of 0 means that the token never ends."""
        return self.lifetime == 0 or self.left > self.lifetime * _RENEW_BELOW


class VaultCalls:
    """Runs functions of an hvac client. `sleep` is injectable, so that tests need no waiting."""

    def __init__(
        self, door: Door, *, sleep: Sleep = asyncio.sleep, jitter: random.Random | None = None
    ) -> None:
        self._door = door
        self._sleep = sleep
        self._jitter = jitter or random.Random()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="vault")
        self._local = threading.local()
        self._clients: list[hvac.Client] = []
        self._login: _Login | None = None
        self._lock = threading.Lock()

    async def run(
        self,
        function: Callable[[hvac.Client], Answer],
        *,
        attempted: str,
        subject: str,
        repeatable: bool,
        token: SecretStr | None = None,
    ) -> Answer:
        """The function's answer. What certainly had no effect is tried again a few times, a lost
        answer only where `repeatable`; then Unreachable for what is repeatable, else Unknown.

        `token` is used instead of our own login, for this call alone.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._run, function, attempted, subject, repeatable, token
                )
            except RateLimited as error:
                if attempt == ATTEMPTS:
                    raise
                await self._sleep(error.retry_after.total_seconds())
            except Passing as passing:
                if attempt == ATTEMPTS:
                    raise passing.error from None
                await self._sleep(pause * self._jitter.uniform(0.5, 1.5))
                pause *= 2
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        """Gives the login back and closes the connections. Idempotent."""
        login, self._login = self._login, None
        if login is not None and self._clients:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._give_back, login)
        self._pool.shutdown(wait=False)
        while self._clients:
            self._clients.pop().adapter.close()

    def _give_back(self, login: _Login) -> None:
        client = self._client()
        client.token = login.token
        with suppress(refusals.VaultError, requests.RequestException):
            client.auth.token.revoke_self()

    def _client(self) -> hvac.Client:
        client: hvac.Client | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._door.new_client()
            self._clients.append(client)
        return client

    def _run(
        self,
        function: Callable[[hvac.Client], Answer],
        attempted: str,
        subject: str,
        repeatable: bool,
        token: SecretStr | None,
    ) -> Answer:
        """In a thread of the pool. Every error leaves as one of ours, without hvac's text, which
        holds addresses."""
        client = self._client()
        try:
            if token is not None:
                client.token = token.get_secret_value()
                return function(client)
            used = client.token = self._token(client)
            try:
                return function(client)
            except refusals.Forbidden:
                # A dead token is refused with the same 403 as a missing permission.
                if self._alive(client):
                    raise
                if not self._forget(used):
                    raise expired(attempted) from None
                client.token = self._token(client)
                return function(client)
        except (refusals.VaultError, requests.RequestException, OSError) as error:
            raise ours(error, attempted, subject, repeatable) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Incomplete(
                attempted,
                subject=subject,
                expected="Vault's JSON",
                got=type(error).__name__,
                advice="Check that the address in the vault-secrets block is Vault itself.",
            ) from None

    def _token(self, client: hvac.Client) -> str:
        if self._door.token is not None:
            return self._door.token.get_secret_value()
        with self._lock:
            before = self._login
            if before is not None and before.good:
                return before.token
            try:
                self._login = self._renewed(client, before) or self._new_login(client)
            except Misconfigured:
                # A secret id may be good for one login alone; this one still holds for a while.
                if before is None or before.left <= 0:
                    raise
                return before.token
            return self._login.token

    def _alive(self, client: hvac.Client) -> bool:
        """Whether Vault still knows the client's token. What was leased with it dies with it, so
        a login is never thrown away for a missing permission."""
        try:
            client.auth.token.lookup_self()
        except refusals.Forbidden as refused:
            return by_policy(refused)
        return True

    def _forget(self, token: str) -> bool:
        """True where we can log in anew."""
        if self._door.token is not None:
            return False
        with self._lock:
            if self._login is not None and self._login.token == token:
                self._login = None
        return True

    def _renewed(self, client: hvac.Client, login: _Login | None) -> _Login | None:
        """The same token with more time, or None where only a new login helps."""
        if login is None or not login.renewable or login.left <= 0:
            return None
        client.token = login.token
        try:
            auth = client.auth.token.renew_self()["auth"]
        except (refusals.VaultError, requests.RequestException, TypeError):
            return None
        login.ends_at = time.monotonic() + auth["lease_duration"]
        # Near its greatest lifetime a token is renewed for ever shorter times.
        return login if login.good else None

    def _new_login(self, client: hvac.Client) -> _Login:
        assert self._door.way is not None
        client.token = ""
        auth = self._door.way.log_in(client)["auth"]
        lifetime = float(auth["lease_duration"])
        return _Login(
            auth["client_token"], lifetime, time.monotonic() + lifetime, bool(auth["renewable"])
        )
