"""From the link to a session: the page that reads the token, and the POST that shows it to us.

Scanners open every link in a mail and some run its scripts; so nothing happens before a person
presses the button, and the token is not used up before the authenticator is confirmed.
"""

import logging
import time

from starlette.requests import Request
from starlette.responses import Response

from portal.door import Door, Lost, in_thread
from portal.forms import BeginForm, fields, read
from portal.keyed import new_cookie, session_hash
from portal.pages import see
from recovery import enroll
from recovery.errors import Unverified

log = logging.getLogger("portal")


class Begin:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def page(self, request: Request) -> Response:
        try:
            await self._door.visit(request)
            begun = True
        except Lost:
            begun = False
        return self._door.pages.page(request, "enroll", begun=begun)

    async def begin(self, request: Request) -> Response:
        """One refusal for all reasons, in text and in time."""
        started = time.monotonic()
        form = read(BeginForm, await fields(request))
        cookie = new_cookie()
        try:
            if form is None:
                raise Unverified("Begin an enrollment", got="a malformed form")
            await self._open_session(form.token, cookie)
        except Unverified as error:
            log.info("an enrollment was not begun: %s", error.got)
            await self._door.no_sooner(started)
            return self._door.pages.page(request, "refused", 400, about="refused")
        settings = self._door.settings
        response = see("/enroll/code")
        response.set_cookie(
            settings.cookie,
            cookie,
            max_age=int(settings.session_ttl.total_seconds()),
            path="/",
            secure=settings.secure_cookies,
            httponly=True,
            samesite="strict",
        )
        return response

    async def _open_session(self, token: str, cookie: str) -> None:
        """Raises Unverified. The signature only decides whether the ledger's row is looked at."""
        door = self._door
        claims = enroll.verify(token, door.keys, door.settings.issuer, now=door.clock())
        limit = door.settings.limits.sessions_per_link
        if not await door.allowed("begin-link", claims.jti, limit):
            raise Unverified("Begin an enrollment", subject=claims.ref, got="begun too often")

        def open_session() -> None:
            enrollment = door.ledger.enrollment(claims.jti)
            if enrollment is None:
                raise Unverified("Begin an enrollment", got="no such enrollment")
            named = (enrollment.ref, enrollment.incident_id)
            if named != (claims.ref, claims.incident_id):
                raise Unverified("Begin an enrollment", got="another account's enrollment")
            door.ledger.begin(
                claims.jti, session_hash=session_hash(cookie), ttl=door.settings.session_ttl
            )

        await in_thread(open_session)
