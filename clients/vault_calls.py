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
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import hvac
import requests
from hvac import exceptions as refusals
from pydantic import SecretStr

from clients.vault_errors import Passing, ours
from recovery.errors import Incomplete, Misconfigured, RateLimited

Answer = TypeVar("Answer")
Sleep = Callable[[float], Awaitable[None]]

THREADS = 8
ATTEMPTS = 3
_FIRST_PAUSE = 0.2
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CONNECT = timedelta(seconds=5)
_RENEW_BELOW = 1 / 3
"""Of a token's first lifetime: with less than that left it is renewed."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where Vault is and how it is entered: by AppRole, or by a token that somebody else renews."""

    address: str
    role_id: str | None = None
    secret_id: SecretStr | None = None
    token: SecretStr | None = None
    namespace: str | None = None
    ca_file: str | None = None
    client_cert: tuple[str, str | None] | None = None
    timeout: timedelta = timedelta(seconds=30)
    allow_cleartext: bool = False
    """Plain http to another machine, where an encrypted mesh is below."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        local = parts.hostname in _LOOPBACK
        if parts.scheme != "https" and not (
            parts.scheme == "http" and (local or self.allow_cleartext)
        ):
            raise Misconfigured(
                "Set up the connection to Vault",
                expected="an https address",
                got="plain http to another machine" if parts.scheme == "http" else "something else",
                advice="Correct the address in the vault-secrets block.",
            )
        if (self.token is None) == (self.role_id is None or self.secret_id is None):
            raise Misconfigured(
                "Log in to Vault",
                expected="either role_id and secret_id, or token",
                got="both" if self.token is not None else "neither",
                advice="Correct the vault-secrets block.",
            )

    def new_client(self) -> hvac.Client:
        session = requests.Session()
        # Addresses and credentials come from the block alone, not from a proxy variable or .netrc.
        session.trust_env = False
        session.cert = self._cert()
        session.verify = self.ca_file or True
        return hvac.Client(
            url=self.address,
            token="",
            # None would make hvac look into VAULT_CLIENT_CERT; the session has ours.
            cert=False,
            verify=session.verify,
            timeout=(_CONNECT.total_seconds(), self.timeout.total_seconds()),
            # requests would carry X-Vault-Token along to another host.
            allow_redirects=False,
            session=session,
            namespace=self.namespace,
        )

    def _cert(self) -> str | tuple[str, str] | None:
        if self.client_cert is None:
            return None
        cert, key = self.client_cert
        return (cert, key) if key else cert


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
                # The token may have been revoked; a new login shows whether it is the policy.
                if not self._forget(used):
                    raise
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
        assert self._door.secret_id is not None
        client.token = ""
        try:
            answer: dict[str, Any] = client.auth.approle.login(
                self._door.role_id, self._door.secret_id.get_secret_value(), use_token=False
            )
        except (refusals.InvalidRequest, refusals.Unauthorized, refusals.Forbidden):
            raise Misconfigured(
                "Log in to Vault by AppRole",
                expected="the role id and secret id to be accepted",
                got="a refusal",
                advice="Issue a new secret id and put it into the vault-secrets block.",
            ) from None
        auth = answer["auth"]
        lifetime = float(auth["lease_duration"])
        return _Login(
            auth["client_token"], lifetime, time.monotonic() + lifetime, bool(auth["renewable"])
        )
