"""The enrollment portal as a Starlette application: its routes, and what errors look like.

GET and HEAD have no effect anywhere (RFC 9110, 9.2.1): mail scanners open every link.
"""

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
from portal.jwks import JWKS_PATH, Jwks
from portal.key_set import KeySet
from portal.keyed import Keyed, Sealer
from portal.metrics import Metered, Metrics
from portal.notice import LARGEST_NOTICE, NoticePage
from portal.pages import HERE, Pages
from portal.passkey import PasskeyDesk
from portal.second_channel import SecondChannel
from portal.server import Leaving
from portal.settings import PortalSettings
from portal.status import StatusPage
from portal.webhooks import LARGEST_BODY, SENDGRID_PATH, TWILIO_PATH, Webhooks
from recovery.accounts import Clock
from recovery.enroll import public_keys
from recovery.errors import RecoveryError, Unverified


def create_app(
    settings: PortalSettings,
    *,
    ledger: Ledger,
    platform: PlatformClient,
    sms: TwilioClient,
    clock: Clock,
    metrics: Metrics | None = None,
    leaving: Leaving | None = None,
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
        notice_keys=public_keys(settings.notice_jwks),
        metrics=metrics or Metrics(),
    )
    begin, second, fresh = Begin(door), SecondChannel(door), FreshLink(door)
    authenticator, authenticity = Authenticator(door), Authenticity(door)
    health = Health(ledger, leaving)
    status, notice = StatusPage(door), NoticePage(door)
    hooks, keys = Webhooks(door), Jwks(door)

    passkey = PasskeyDesk(door)

    async def home(request: Request) -> Response:
        return door.pages.page(request, "home")

    async def advice(request: Request) -> Response:
        return door.pages.page(request, "advice")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await fresh.drained()

    routes: list[Route | Mount] = [
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
        Route("/fresh-link", fresh.page),
        Route("/fresh-link", fresh.ask, methods=["POST"]),
        Route("/check", authenticity.page),
        Route("/check", authenticity.check, methods=["POST"]),
        Route("/check/notice", notice.page),
        Route("/check/notice", notice.check, methods=["POST"]),
        Route("/status", status.page),
        Route("/status.json", status.document),
        Route("/status.atom", status.feed),
        Route(JWKS_PATH, keys.document),
        Route(SENDGRID_PATH, hooks.sendgrid, methods=["POST"]),
        Route(TWILIO_PATH, hooks.twilio, methods=["POST"]),
        Route("/healthz", health.alive),
        Route("/readyz", health.ready),
        Mount("/static", _Static(directory=HERE / "static")),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Metered, metrics=door.metrics, routes=[route.path for route in routes]),
            Middleware(
                Guard,
                origin=settings.public_url,
                https=settings.https,
                page=door.pages.error,
                bodies={SENDGRID_PATH: LARGEST_BODY, "/check/notice": LARGEST_NOTICE},
            ),
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
