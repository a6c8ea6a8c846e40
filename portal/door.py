"""What every page handler stands on: settings, the ledger in threads, the visitor's session."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.requests import Request

from clients.platform import PlatformClient
from clients.twilio import TwilioClient
from ledger import Ledger
from portal.client_address import client_of
from portal.forms import fields
from portal.key_set import KeySet
from portal.keyed import Keyed, Sealer, session_hash
from portal.metrics import Metrics
from portal.pages import Pages
from portal.settings import Limit, PortalSettings
from recovery.accounts import Clock
from recovery.incident import Enrollment, PortalSession, Visitor

T = TypeVar("T")
_LONGEST_COOKIE = 128


class Lost(Exception):
    """No session that could go on: none begun here, run out, or its enrollment is over."""


class Forged(Exception):
    """A form without the token of this browser's session."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A browser on its way through one enrollment."""

    cookie: str = field(repr=False)
    session: PortalSession
    enrollment: Enrollment
    account: Visitor = field(repr=False)


@dataclass(frozen=True, slots=True)
class Door:
    settings: PortalSettings
    ledger: Ledger
    platform: PlatformClient
    sms: TwilioClient
    clock: Clock
    pages: Pages
    keyed: Keyed
    sealer: Sealer
    keys: KeySet
    notice_keys: dict[str, Ed25519PublicKey]
    metrics: Metrics

    async def visit(self, request: Request) -> Visit:
        """Raises Lost."""
        cookie = request.cookies.get(self.settings.cookie, "")
        if not cookie or len(cookie) > _LONGEST_COOKIE:
            raise Lost
        found = await run_sync(self._visit, cookie)
        if found is None:
            raise Lost
        return found

    async def visit_by_form(self, request: Request) -> tuple[Visit, dict[str, str]]:
        """Raises Lost, and Forged where the form was not made for this browser's session."""
        visit = await self.visit(request)
        given = await fields(request)
        if not self.keyed.form_token_fits(visit.cookie, given.get("csrf", "")):
            raise Forged
        return visit, given

    def _visit(self, cookie: str) -> Visit | None:
        session = self.ledger.portal_session(session_hash(cookie))
        if session is None:
            return None
        enrollment = self.ledger.enrollment(session.jti)
        if enrollment is None or enrollment.superseded_at is not None:
            return None
        if enrollment.redeemed_at is None:
            if not self.ledger.live(enrollment, self.clock()):
                return None
        elif session.method is None and session.completed_at is None:
            # Redeemed by another one. The winner whose binding was not answered may go on.
            return None
        return Visit(cookie, session, enrollment, self.ledger.visitor(session.ref))

    def minutes_left(self, visit: Visit) -> int | None:
        """Whole minutes, at least one, until the link runs out; None once it is used."""
        enrollment = visit.enrollment
        if enrollment.redeemed_at is not None or enrollment.expires_at is None:
            return None
        return max(1, int((enrollment.expires_at - self.clock()).total_seconds() // 60))

    async def allowed(self, what: str, whom: str, limit: Limit) -> bool:
        def ask() -> bool:
            return self.ledger.throttle(f"{what}:{whom}", limit=limit.limit, per=limit.per)

        allowed = await run_sync(ask)
        if not allowed:
            self.metrics.throttled(what)
        return allowed

    def client(self, request: Request) -> str:
        return client_of(request, self.settings)

    async def no_sooner(self, started: float) -> None:
        """Waits until `answer_floor` after `started` (time.monotonic), whatever was found."""
        floor = self.settings.answer_floor.total_seconds()
        await anyio.sleep(max(0.0, started + floor - time.monotonic()))


async def in_thread(work: Callable[[], T]) -> T:
    """The ledger blocks; the loop must not."""
    return await run_sync(work)
