"""Shows the new authenticator's secret, as picture and text, and confirms it by its first code.

TOTP after RFC 6238 with what every app understands: SHA-1, 6 digits, 30 s, a 160-bit secret.
"""

import pyotp
import segno
from markupsafe import Markup
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from portal.binding import Bound, bind
from portal.door import Door, Visit
from portal.forms import CodeForm, read
from portal.pages import see
from portal.texts import choose
from recovery.errors import Unverified
from recovery.incident import AuthenticatorKind

_WINDOW_STEPS = 1


class Authenticator:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def page(self, request: Request) -> Response:
        visit = await self._door.visit(request)
        elsewhere = self._elsewhere(visit)
        if elsewhere is not None:
            return elsewhere
        return self._page(request, visit, self._secret(visit))

    async def confirm(self, request: Request) -> Response:
        door = self._door
        visit, given = await door.visit_by_form(request)
        elsewhere = self._elsewhere(visit)
        if elsewhere is not None:
            return elsewhere
        limit = door.settings.limits.confirmations_per_session
        if not await door.allowed("confirm", visit.session.session_hash, limit):
            return door.pages.error(request, 429)
        secret = self._secret(visit)
        form = read(CodeForm, given)
        if form is None:
            return self._page(request, visit, secret, 422, problem="code.malformed")
        totp = pyotp.TOTP(secret)
        if not totp.verify(form.code, for_time=door.clock(), valid_window=_WINDOW_STEPS):
            return self._page(request, visit, secret, 422, problem="app.wrong")
        try:
            bound = await bind(door, visit, SecretStr(secret))
        except Unverified:
            return door.pages.page(request, "refused", 400, about="refused")
        match bound:
            case Bound.DONE:
                return see("/enroll/done")
            case Bound.OTHER:
                return see("/enroll/choose")
            case Bound.AGAIN:
                return self._page(request, visit, secret, 503, problem="app.again")
            case Bound.REFUSED:
                return door.pages.page(
                    request, "stuck", 422, about="stuck.account", support=door.settings.support
                )

    async def done(self, request: Request) -> Response:
        visit = await self._door.visit(request)
        if visit.session.completed_at is None:
            return see("/enroll/code")
        return self._door.pages.page(
            request, "done", passkey=visit.session.method is AuthenticatorKind.PASSKEY
        )

    @staticmethod
    def _elsewhere(visit: Visit) -> Response | None:
        """Where a session belongs that is not at this page. A passkey that was made is bound: the
        person's device has it, and no other authenticator will be."""
        session = visit.session
        if session.completed_at is not None:
            return see("/enroll/done")
        if session.sealed_candidate is None:
            return see("/enroll/code")
        if session.sealed_passkey is not None and session.method is not AuthenticatorKind.TOTP:
            return see("/enroll/choose")
        return None

    def _secret(self, visit: Visit) -> str:
        sealed = visit.session.sealed_candidate
        assert sealed is not None
        return self._door.sealer.open(visit.session.jti, sealed)

    def _page(
        self, request: Request, visit: Visit, secret: str, status: int = 200, *, problem: str = ""
    ) -> Response:
        texts = choose(request.headers.get("accept-language", ""))
        address = pyotp.TOTP(secret).provisioning_uri(
            name=visit.account.handle, issuer_name=self._door.settings.organization
        )
        return self._door.pages.page(
            request,
            "authenticator",
            status,
            problem=texts(problem) if problem else "",
            qr=_picture(address, texts("app.qr")),
            otpauth=address,
            left_minutes=self._door.minutes_left(visit),
            secret=" ".join(secret[place : place + 4] for place in range(0, len(secret), 4)),
            csrf=self._door.keyed.form_token(visit.cookie),
        )


def _picture(address: str, title: str) -> Markup:
    """Inline SVG with presentation attributes alone: the policy forbids style attributes."""
    drawn = segno.make_qr(address, error="m").svg_inline(
        omitsize=True, border=4, svgclass="qr", lineclass=None, title=title
    )
    return Markup(drawn.replace("<svg ", '<svg role="img" ', 1))  # noqa: S704 - segno escapes
