"""A small platform over real HTTP and the calls that tests make on it."""

from dataclasses import dataclass
from typing import Any

import aiohttp
import pyotp
from multidict import CIMultiDictProxy

from rehearsal.world.cast import AccountSeed
from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import Credential, CredentialKind
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population

ADMIN, BIND = "adm_test", "bind_test"
SECRET = pyotp.random_base32()


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: CIMultiDictProxy[str]


@dataclass(frozen=True)
class World:
    population: Population
    state: PlatformState
    clock: WorldClock
    url: str
    http: aiohttp.ClientSession

    async def call(
        self, method: str, path: str, document: object = None, *, bearer: str | None = None
    ) -> Answer:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        async with self.http.request(
            method, self.url + path, json=document, headers=headers
        ) as answer:
            body = await answer.json() if await answer.read() else None
            return Answer(answer.status, body, answer.headers)

    async def admin(self, method: str, path: str, document: object = None) -> Answer:
        return await self.call(method, f"/admin{path}", document, bearer=ADMIN)

    async def login(self, handle: str, password: str, code: str | None = None) -> Answer:
        return await self.call(
            "POST", "/login", {"handle": handle, "password": password, "totp": code}
        )

    def code(self, secret: str) -> str:
        return pyotp.TOTP(secret).at(self.clock.now())

    def affected(self, *, with_totp: bool) -> AccountSeed:
        return next(
            self.population.accounts[one]
            for one in self.population.affected_ids
            if (self.population.accounts[one].totp_secret is not None) == with_totp
        )

    def bystander(self) -> AccountSeed:
        return list(self.population.accounts.values())[-1]

    def credentials(self, kind: CredentialKind, account_id: str | None = None) -> list[Credential]:
        return [
            c
            for c in self.population.credentials
            if c.kind is kind and account_id in (None, c.account_id)
        ]

    def holder_of(self, kind: CredentialKind) -> str:
        return self.credentials(kind)[0].account_id
