"""The attacker: keeps trying everything he stole, over the wire, and remembers when it last worked.

He is how a rehearsal measures containment: not by what was revoked, but by the last moment at
which a stolen session, token or password still opened something.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, assert_never

import aiohttp
import pyotp

from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import Credential, CredentialKind, Loot

LOGIN_INTERVAL = timedelta(seconds=10)
"""He keeps below the platform's limit of failed logins, which would hide what he wants to see."""

_REQUEST_LIMIT = aiohttp.ClientTimeout(total=10)
_TRIES = 4
_MAX_GAINED = 50_000


@dataclass(frozen=True, slots=True)
class _Answer:
    """`clear` is False where the server did not decide: overloaded, throttled, gone."""

    accepted: bool
    clear: bool
    gained: tuple[Credential, ...] = ()


class Attacker:
    """Cycles through his loot, and through what it gains him, at `rate_per_second` attempts.

    What he gains (access tokens, renewed refresh tokens, sessions from logins) joins the cycle,
    the newest of each kind for what it came from. He remembers up to 50,000 older ones as well;
    the platform's access tokens and login sessions end on their own long before that many.
    He stops by `stop`, or by himself after `longest` of real time.
    """

    def __init__(
        self,
        base_url: str,
        loot: Loot | Iterable[Credential],
        clock: WorldClock,
        rate_per_second: float = 80.0,
        *,
        concurrency: int = 8,
        longest: timedelta = timedelta(hours=1),
    ) -> None:
        if rate_per_second <= 0 or concurrency < 1:
            raise ValueError("the attacker needs a rate and a place to work")
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._interval = 1.0 / rate_per_second
        self._concurrency = concurrency
        self._longest = longest
        self._stolen = tuple(loot.items if isinstance(loot, Loot) else loot)
        self._cycle: deque[Credential] = deque(self._stolen)
        self._newest: dict[tuple[Credential, CredentialKind], Credential] = {}
        self._origin: dict[Credential, Credential] = {}
        self._outdated: set[Credential] = set()
        self._retired: deque[Credential] = deque(maxlen=_MAX_GAINED)
        self._accepted: dict[Credential, datetime] = {}
        self._last_login: dict[str, float] = {}
        self._next_slot = 0.0
        self._in_flight = 0
        self._free_to_work = asyncio.Event()
        self._free_to_work.set()
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._task: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None
        self.attempts: Counter[CredentialKind] = Counter()
        self.acceptances: Counter[CredentialKind] = Counter()
        self.unclear = 0
        """Attempts without a decision of the server (overload, throttling, no connection)."""

    # Working.

    async def start(self) -> None:
        if self._task is not None:
            raise RuntimeError("the attacker is at work already")
        self._next_slot = time.monotonic()
        self._task = asyncio.create_task(self._work(), name="attacker")

    async def stop(self) -> None:
        """Ends the work and closes his connections. Idempotent; what he knows remains."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # What he found out.

    def last_accepted_at(self, kind: CredentialKind | None = None) -> datetime | None:
        """When the platform last let him in, by any credential or by one of this kind.

        The time at which the answer came, so never too early.
        """
        times = (at for c, at in self._accepted.items() if kind is None or c.kind is kind)
        return max(times, default=None)

    def accepted(self) -> dict[Credential, datetime]:
        """For each credential that ever worked: when it last did."""
        return dict(self._accepted)

    def held(self) -> tuple[Credential, ...]:
        """Everything he ever held, stolen or gained."""
        return tuple(dict.fromkeys((*self._stolen, *self._cycle, *self._retired)))

    async def still_alive(self) -> list[Credential]:
        """Tries once everything he ever held and returns what still works.

        His ordinary work rests meanwhile, so that no token is renewed behind the pass's back.
        His rate does not count here. Where the platform gave no decision after four tries the
        pass is worth nothing, and RuntimeError says for how many; ten passes within a minute
        run into the platform's limit of failed logins.
        """
        self._free_to_work.clear()
        try:
            await self._at_rest.wait()
            return await self._pass_over(self.held())
        finally:
            self._free_to_work.set()
            await self._close_if_idle()

    async def _pass_over(self, credentials: Iterable[Credential]) -> list[Credential]:
        todo = deque(credentials)
        alive: list[Credential] = []
        undecided = 0

        async def pass_through() -> None:
            nonlocal undecided
            while todo:
                credential = todo.popleft()
                answer = await self._insist(credential)
                if answer.accepted:
                    alive.append(credential)
                undecided += not answer.clear

        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(pass_through())
        if undecided:
            raise RuntimeError(f"the platform gave no decision on {undecided} credentials")
        return alive

    async def _insist(self, credential: Credential) -> _Answer:
        answer = await self._attempt(credential)
        for attempt in range(1, _TRIES):
            if answer.clear:
                break
            await asyncio.sleep(0.2 * attempt)
            answer = await self._attempt(credential)
        return answer

    # The cycle.

    async def _work(self) -> None:
        deadline = time.monotonic() + self._longest.total_seconds()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._worker(deadline))

    async def _worker(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            # Slots missed while the server was slow are not made up for by a burst.
            self._next_slot = max(self._next_slot + self._interval, time.monotonic())
            await asyncio.sleep(self._next_slot - time.monotonic())
            await self._free_to_work.wait()
            credential = self._next()
            if credential is None:
                continue
            self._in_flight += 1
            self._at_rest.clear()
            try:
                await self._attempt(credential)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._at_rest.set()

    def _next(self) -> Credential | None:
        """The next one in the circle that is not to be spared right now."""
        for _ in range(len(self._cycle)):
            credential = self._cycle.popleft()
            if credential in self._outdated:
                self._outdated.remove(credential)
                continue
            self._cycle.append(credential)
            if credential.kind is not CredentialKind.PASSWORD or self._may_login(credential):
                return credential
        return None

    def _may_login(self, credential: Credential) -> bool:
        now = time.monotonic()
        last = self._last_login.get(credential.account_id)
        if last is not None and now - last < LOGIN_INTERVAL.total_seconds():
            return False
        self._last_login[credential.account_id] = now
        return True

    async def _attempt(self, credential: Credential) -> _Answer:
        self.attempts[credential.kind] += 1
        try:
            answer = await self._try(credential)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            answer = _Answer(accepted=False, clear=False)
        if answer.accepted:
            self._accepted[credential] = self._clock.now()
            self.acceptances[credential.kind] += 1
        self.unclear += not answer.clear
        for gain in answer.gained:
            self._keep(credential, gain)
        return answer

    def _keep(self, source: Credential, gain: Credential) -> None:
        """Puts a gain into the circle in the place of the last one from the same theft."""
        origin = self._origin.get(source, source)
        place = (origin, gain.kind)
        older = self._newest.get(place)
        if older is not None:
            self._outdated.add(older)
            self._retire(older)
        self._newest[place] = gain
        self._origin[gain] = origin
        self._cycle.append(gain)

    def _retire(self, older: Credential) -> None:
        if len(self._retired) == _MAX_GAINED:
            forgotten = self._retired[0]
            self._origin.pop(forgotten, None)
            self._accepted.pop(forgotten, None)
        self._retired.append(older)

    # The wire.

    async def _try(self, credential: Credential) -> _Answer:
        match credential.kind:
            case (
                CredentialKind.SESSION | CredentialKind.DEVICE_SESSION | CredentialKind.ACCESS_TOKEN
            ):
                bearer = {"Authorization": f"Bearer {credential.value}"}
                status, _ = await self._call("GET", "/api/me", headers=bearer)
                return _judged(status)
            case CredentialKind.REFRESH_TOKEN:
                return await self._refresh(credential)
            case CredentialKind.RECOVERY_TOKEN:
                status, _ = await self._call(
                    "POST", "/account/recover", json={"token": credential.value}
                )
                return _judged(status)
            case CredentialKind.PASSWORD:
                return await self._login(credential)
            case _:
                assert_never(credential.kind)

    async def _refresh(self, credential: Credential) -> _Answer:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": credential.value,
            "client_id": credential.client_id or "",
        }
        status, body = await self._call("POST", "/oauth/token", form=form)
        gained = tuple(
            Credential(kind, credential.account_id, value, credential.client_id)
            for kind in (CredentialKind.ACCESS_TOKEN, CredentialKind.REFRESH_TOKEN)
            if isinstance(value := body.get(kind.value), str)
        )
        return _judged(status, gained)

    async def _login(self, credential: Credential) -> _Answer:
        code = None
        if credential.totp_secret is not None:
            code = pyotp.TOTP(credential.totp_secret).at(self._clock.now())
        document = {"handle": credential.handle, "password": credential.value, "totp": code}
        status, body = await self._call("POST", "/login", json=document)
        session = body.get("session")
        if not isinstance(session, str):
            return _judged(status)
        won = Credential(CredentialKind.SESSION, credential.account_id, session)
        return _judged(status, (won,))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        json: object = None,
        form: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, object]]:
        async with self._client().request(
            method, self._base_url + path, headers=headers, json=json, data=form
        ) as response:
            body = await response.json(content_type=None)
            return response.status, body if isinstance(body, dict) else {}

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                timeout=_REQUEST_LIMIT, connector=aiohttp.TCPConnector(limit=self._concurrency * 2)
            )
        return self._http

    async def _close_if_idle(self) -> None:
        if self._task is None and self._http is not None:
            await self._http.close()
            self._http = None


def _judged(status: int, gained: tuple[Credential, ...] = ()) -> _Answer:
    return _Answer(status == 200, status != 429 and status < 500, gained if status == 200 else ())
