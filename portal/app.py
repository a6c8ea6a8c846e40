"""The enrollment portal as a Starlette application: its routes, and what errors look like.

GET and HEAD have no effect anywhere (RFC 9110, 9.2.1): mail scanners open every link.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from clients.platform import PlatformClient
from clients.twilio import TwilioClient
from ledger import Ledger
from portal.authenticator import Authenticator
from portal.authenticity import Authenticity
from portal.begin import Begin
from portal.door import Door, Forged, Lost
from portal.fresh_link import FreshLink
from portal.guard import Guard, log
from portal.health import Health
from portal.key_set import KeySet
from portal.keyed import Keyed, Sealer
from portal.pages import HERE, Pages
from portal.passkey import PasskeyDesk
from portal.second_channel import SecondChannel
from portal.settings import PortalSettings
from recovery.accounts import Clock
from recovery.errors import RecoveryError, Unverified

KEYS_CACHED = "public, max-age=300"
"""Others may keep our keys for five minutes; a new key is published for longer before it signs."""


def create_app(
    settings: PortalSettings,
    *,
    ledger: Ledger,
    platform: PlatformClient,
    sms: TwilioClient,
    clock: Clock,
) -> Starlette:
    """`platform` holds a credential that may bind authenticators and nothing else.

    The clients stay the caller's to close; the application keeps nothing in memory but work in
    flight, so any number of processes may serve one ledger.
    """
    door = Door(
        settings=settings,
        ledger=ledger,
        platform=platform,
        sms=sms,
        clock=clock,
        pages=Pages(settings),
        keyed=Keyed(settings.code_key.get_secret_value().encode()),
        sealer=Sealer(settings.seal_key.get_secret_value()),
        keys=KeySet(settings.keys, clock),
    )
    begin, second, fresh = Begin(door), SecondChannel(door), FreshLink(door)
    authenticator, authenticity, health = Authenticator(door), Authenticity(door), Health(ledger)

    passkey = PasskeyDesk(door)

    async def home(request: Request) -> Response:
        return door.pages.page(request, "home")

    async def advice(request: Request) -> Response:
        return door.pages.page(request, "advice")

    async def keys(request: Request) -> Response:
        headers = {"cache-control": KEYS_CACHED, "access-control-allow-origin": "*"}
        kind = "application/jwk-set+json"
        return Response(json.dumps(door.keys.document()), headers=headers, media_type=kind)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await fresh.drained()

    return Starlette(
        routes=[
            Route("/", home),
            Route("/enroll", begin.page),
            Route("/enroll/begin", begin.begin, methods=["POST"]),
            Route("/enroll/code", second.page),
            Route("/enroll/code", second.judge, methods=["POST"]),
            Route("/enroll/code/send", second.send, methods=["POST"]),
            Route("/enroll/choose", passkey.choice),
            Route("/enroll/passkey/options", passkey.options, methods=["POST"]),
            Route("/enroll/passkey", passkey.confirm, methods=["POST"]),
            Route("/enroll/authenticator", authenticator.page),
            Route("/enroll/authenticator", authenticator.confirm, methods=["POST"]),
            Route("/enroll/done", authenticator.done),
            Route("/advice", advice),
            Route("/.well-known/jwks.json", keys),
            Route("/fresh-link", fresh.page),
            Route("/fresh-link", fresh.ask, methods=["POST"]),
            Route("/check", authenticity.page),
            Route("/check", authenticity.check, methods=["POST"]),
            Route("/healthz", health.alive),
            Route("/readyz", health.ready),
            Mount("/static", _Static(directory=HERE / "static")),
        ],
        middleware=[
            Middleware(
                Guard, origin=settings.public_url, https=settings.https, page=door.pages.error
            )
        ],
        exception_handlers=_refusals(door),
        lifespan=lifespan,
    )


class _Static(StaticFiles):
    """Our own files; kept for an hour, and asked about again by their ETag after that."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response: Response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["cache-control"] = "public, max-age=3600"
        return response


def _refusals(door: Door) -> dict[Any, Callable[[Request, Exception], Awaitable[Response]]]:
    pages = door.pages

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = pages.error(request, error.status_code)
        response.headers.update(error.headers or {})
        return response

    async def lost(request: Request, error: Exception) -> Response:
        return pages.page(request, "refused", 400, about="lost")

    async def forged(request: Request, error: Exception) -> Response:
        return pages.error(request, 403)

    async def trouble(request: Request, error: Exception) -> Response:
        log.error("a request could not be served: %s", error)
        return pages.error(request, 503)

    return {
        HTTPException: http,
        Lost: lost,
        Unverified: lost,
        Forged: forged,
        RecoveryError: trouble,
    }
