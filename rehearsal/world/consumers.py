"""The apps that run on client secrets: what a rotation must not break, and who notices if it does.

Each consumer reads its client's secret from Vault when it starts, keeps it in memory and calls the
platform all the time. All run in one event loop; a restart makes one read Vault anew.
"""

import asyncio
import base64
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Self
from urllib.parse import quote_plus

import aiohttp
from starlette.types import ASGIApp

from rehearsal.world.asgi import Problem, Reply, Request, RoutedApp, Routes

_CALL_LIMIT = aiohttp.ClientTimeout(total=10)
_KEPT_TROUBLE = 200
_TRIES_FOR = 20.0
_TRY_AGAIN = 0.05


class TroubleKind(StrEnum):
    REFUSED = "refused"
    """401: the secret or its token is not accepted. What a rotation done wrong looks like."""
    OTHER = "other"
    """Any other status, or no answer at all."""
    NO_SECRET = "no_secret"
    """It is up without a secret: Vault gave none when it started."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One failed round of a consumer's traffic; `at` is monotonic time."""

    at: float
    kind: TroubleKind
    where: str


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """One app instance. `vault_token` can read this client's secret and nothing else."""

    name: str
    client_id: str
    vault_token: str = field(repr=False)
    tries_both: bool = False
    """Where its secret is refused it reads Vault anew and takes whichever secret works."""


class Consumer:
    """One running instance. A round of traffic is one client_credentials call and one API call."""

    def __init__(self, spec: ConsumerSpec, fleet: "ConsumerFleet") -> None:
        self.name = spec.name
        self.client_id = spec.client_id
        self.secret_id: str | None = None
        self.requests = 0
        self.failures = 0
        self.restarts = 0
        self.trouble: deque[Trouble] = deque(maxlen=_KEPT_TROUBLE)
        self.starting = False
        self.deaf = False
        """Fault: a restart changes nothing, as if the app cached its secret on disk."""
        self.broken = False
        """Fault: it does not come up, whatever secret it gets."""
        self.stuck = False
        """Fault: a new instance never gets ready; the job is green and the old one serves on."""
        self.sickens = False
        """Fault: its health page turns red on any secret but its first one; it serves on."""
        self.longest_wait = 0.0
        """Seconds of its slowest round that went well."""
        self._spec = spec
        self._fleet = fleet
        self._authorization: str | None = None
        self._first_secret: str | None = None

    def __repr__(self) -> str:
        return f"Consumer({self.name!r}, {self.secret_id!r})"

    @property
    def refused(self) -> int:
        """Failed rounds, of those still remembered, in which the secret was not accepted."""
        return sum(t.kind is TroubleKind.REFUSED for t in self.trouble)

    async def reload(self) -> None:
        """Starts anew: no traffic for a short time, then the secret that Vault holds now.

        RuntimeError where it does not come up healthy; it then stays up without service. In a
        rolling fleet the old instance serves until the new one is ready, and on if it never is.
        """
        self.restarts += 1
        if self._fleet.rolling and self._authorization is not None:
            await self._roll()
            return
        self.starting = True
        try:
            await asyncio.sleep(self._fleet.start_seconds)
            if not self.deaf:
                self._authorization, self.secret_id = None, None
                self._authorization, self.secret_id = await self._read_secret()
        finally:
            self.starting = False
        self._first_secret = self._first_secret or self.secret_id
        problem = await self.ill()
        if problem:
            raise RuntimeError(f"{self.name} did not come up healthy: {problem}")

    async def _roll(self) -> None:
        await asyncio.sleep(self._fleet.start_seconds)
        if self.stuck:
            return
        authorization, secret_id = await self._read_secret()
        try:
            await self._token(authorization)
        except _Failed as failed:
            raise RuntimeError(f"{self.name}: the new one is not ready: {failed.where}") from None
        self._authorization, self.secret_id = authorization, secret_id

    async def ill(self) -> str:
        """Why it is not healthy, found out by a real token call; empty where it is."""
        if self.starting:
            return "starting"
        if self.broken:
            return "crashed"
        if self._authorization is None:
            return "no secret"
        if self.sickens and self.secret_id != self._first_secret:
            return "degraded"
        try:
            await self._any_token()
        except _Failed as failed:
            return failed.where
        return ""

    async def work(self) -> None:
        """One round of traffic, counted."""
        if self.starting:
            return
        self.requests += 1
        try:
            if self._authorization is None or self.broken:
                raise _Failed(TroubleKind.NO_SECRET, "start")
            began = time.monotonic()
            token = await self._patient_token()
            await self._fleet.call("GET", "/api/me", f"Bearer {token}")
            self.longest_wait = max(self.longest_wait, time.monotonic() - began)
        except _Failed as failed:
            self.failures += 1
            self.trouble.append(Trouble(time.monotonic(), failed.kind, failed.where))

    async def _patient_token(self) -> str:
        """One that is prepared goes on trying for a while: a wait for its caller, and no error."""
        gives_up_at = time.monotonic() + _TRIES_FOR
        while True:
            try:
                return await self._any_token()
            except _Failed as failed:
                refused = failed.kind is TroubleKind.REFUSED
                if not (refused and self._spec.tries_both) or time.monotonic() > gives_up_at:
                    raise
            await asyncio.sleep(_TRY_AGAIN)

    async def _any_token(self) -> str:
        """With the secret it holds, or if it is prepared with another one that is in Vault."""
        assert self._authorization is not None
        try:
            return await self._token(self._authorization)
        except _Failed as failed:
            if failed.kind is not TroubleKind.REFUSED or not self._spec.tries_both:
                raise
            for authorization, secret_id in await self._in_vault():
                with suppress(_Failed):
                    token = await self._token(authorization)
                    self._authorization, self.secret_id = authorization, secret_id
                    return token
            raise

    async def _in_vault(self) -> list[tuple[str, str]]:
        try:
            data = await self._fleet.read_vault(f"apps/{self.client_id}", self._spec.vault_token)
        except RuntimeError:
            return []
        return [
            (self._basic(data[f"{label}client_secret"]), data[f"{label}secret_id"])
            for label in ("pending_", "")
            if f"{label}client_secret" in data
        ]

    async def _token(self, authorization: str) -> str:
        answer = await self._fleet.call(
            "POST", "/oauth/token", authorization, form={"grant_type": "client_credentials"}
        )
        return str(answer["access_token"])

    async def _read_secret(self) -> tuple[str, str]:
        data = await self._fleet.read_vault(f"apps/{self.client_id}", self._spec.vault_token)
        return self._basic(data["client_secret"]), data["secret_id"]

    def _basic(self, secret: str) -> str:
        # RFC 6749 2.3.1: both parts are form-encoded before they are joined.
        pair = f"{quote_plus(self.client_id)}:{quote_plus(secret)}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"


class ConsumerFleet:
    """All consumers of the world. `interval` is between two rounds of one consumer; `rolling` is
    a deployment that keeps the old instance until the new one is ready."""

    def __init__(
        self,
        specs: Iterable[ConsumerSpec],
        *,
        platform_url: str,
        vault_url: str,
        interval: timedelta = timedelta(milliseconds=300),
        start_time: timedelta = timedelta(milliseconds=100),
        rolling: bool = False,
    ) -> None:
        self.rolling = rolling
        self.start_seconds = start_time.total_seconds()
        self._platform_url = platform_url.rstrip("/")
        self._vault_url = vault_url.rstrip("/")
        self._interval = interval.total_seconds()
        self._consumers = {spec.name: Consumer(spec, self) for spec in specs}
        self._session: aiohttp.ClientSession | None = None
        self._traffic: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Every consumer reads its secret, then traffic begins. RuntimeError if one stays ill."""
        self._session = aiohttp.ClientSession(
            timeout=_CALL_LIMIT, connector=aiohttp.TCPConnector(limit=32)
        )
        await asyncio.gather(*(consumer.reload() for consumer in self))
        for place, consumer in enumerate(self):
            # Spread over the interval: a crowd calling at the same moment would be no traffic.
            delay = self._interval * place / len(self._consumers)
            task = asyncio.create_task(self._drive(consumer, delay), name=f"app-{consumer.name}")
            self._traffic.append(task)

    async def stop(self) -> None:
        """Idempotent; a round under way is cut off and counts as nothing."""
        traffic, self._traffic = self._traffic, []
        for task in traffic:
            task.cancel()
        await asyncio.gather(*traffic, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._consumers.values())

    def __getitem__(self, name: str) -> Consumer:
        return self._consumers[name]

    def of(self, client_id: str) -> list[Consumer]:
        return [consumer for consumer in self if consumer.client_id == client_id]

    async def restart(self, parameters: Mapping[str, str]) -> None:
        """The work of the CI job: restarts the one named CONSUMER, fails unless it is healthy."""
        name = parameters.get("CONSUMER", "")
        if name not in self._consumers:
            raise RuntimeError(f"there is no consumer {name!r}")
        await self._consumers[name].reload()

    @property
    def requests(self) -> int:
        return sum(consumer.requests for consumer in self)

    @property
    def failures(self) -> int:
        return sum(consumer.failures for consumer in self)

    async def read_vault(self, path: str, token: str) -> dict[str, str]:
        assert self._session is not None, "the fleet has not been started"
        url = f"{self._vault_url}/v1/secret/data/{path}"
        try:
            async with self._session.get(url, headers={"X-Vault-Token": token}) as response:
                if response.status != 200:
                    raise RuntimeError(f"Vault answered {response.status}")
                document = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RuntimeError(f"Vault did not answer ({type(error).__name__})") from None
        data: dict[str, str] = document["data"]["data"]
        return data

    async def call(
        self, method: str, path: str, authorization: str, form: dict[str, str] | None = None
    ) -> dict[str, object]:
        """The platform's answer; _Failed for anything but 200."""
        assert self._session is not None, "the fleet has not been started"
        try:
            async with self._session.request(
                method,
                self._platform_url + path,
                data=form,
                headers={"Authorization": authorization},
            ) as response:
                if response.status == 200:
                    answer: dict[str, object] = await response.json()
                    return answer
                refused = response.status == 401
                kind = TroubleKind.REFUSED if refused else TroubleKind.OTHER
                raise _Failed(kind, f"{path} {response.status}")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise _Failed(TroubleKind.OTHER, f"{path} {type(error).__name__}") from None

    async def _drive(self, consumer: Consumer, delay: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        while True:
            await asyncio.sleep(due - loop.time())
            await consumer.work()
            # A slow platform means fewer rounds, never a backlog of them.
            due = max(due + self._interval, loop.time())


class _Failed(Exception):
    def __init__(self, kind: TroubleKind, where: str) -> None:
        super().__init__(where)
        self.kind = kind
        self.where = where


def consumers_app(fleet: ConsumerFleet) -> ASGIApp:
    """Every consumer's health, to give to `Loopback`."""

    async def health(_: Request, taken: tuple[str, ...]) -> Reply:
        try:
            consumer = fleet[taken[0]]
        except KeyError:
            raise Problem(404, "not_found", "There is no such consumer.") from None
        problem = await consumer.ill()
        facts = {
            "status": "down" if problem else "ok",
            "client_id": consumer.client_id,
            "secret_id": consumer.secret_id,
            "requests": consumer.requests,
            "failures": consumer.failures,
        }
        return Reply(503 if problem else 200, facts)

    async def integration(_: Request, taken: tuple[str, ...]) -> Reply:
        """Somebody else's app on this client: well while the client's own consumers are."""
        problems = [await consumer.ill() for consumer in fleet.of(taken[0])]
        down = any(problems) or not problems
        return Reply(503 if down else 200, {"status": "down" if down else "ok"})

    routes = Routes()
    routes.add("GET", "/consumers/{}/health", health)
    routes.add("GET", "/integrations/{}/health", integration)
    return RoutedApp(routes)
