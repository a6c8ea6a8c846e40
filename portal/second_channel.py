"""The second channel: a code by text message, to the number on record alone (NIST SP 800-63B-4).

The mailbox opens the link and the phone gets the code; neither of them is enough. Every cap holds
for the account as well as for the session, or a new session would bring new tries.
"""

import logging
import secrets
from datetime import timedelta

import pyotp
from starlette.requests import Request
from starlette.responses import Response

from portal.door import Door, Visit, in_thread
from portal.forms import CodeForm, read
from portal.keyed import new_code
from portal.pages import see
from portal.texts import choose
from recovery.accounts import Verdict
from recovery.errors import RecoveryError, Refused, Unknown
from recovery.incident import CodeCheck
from recovery.messages import SmsCopy, notice_id

CODE_STEP = "enroll.code"
_BREATH = timedelta(seconds=20)
"""A second press within this time is a double click, not a wish for another message."""

log = logging.getLogger("portal")


class SecondChannel:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def page(self, request: Request) -> Response:
        visit = await self._door.visit(request)
        if visit.session.completed_at is not None:
            return see("/enroll/done")
        if visit.session.sealed_candidate is not None:
            return see("/enroll/choose")
        return self._page(request, visit)

    async def send(self, request: Request) -> Response:
        door = self._door
        visit, _ = await door.visit_by_form(request)
        if visit.session.code_verified_at is not None:
            return see("/enroll/code")
        sent_at = visit.session.code_sent_at
        if sent_at is not None and door.clock() - sent_at < _BREATH:
            return self._page(request, visit, 429, problem="code.soon")
        if not visit.account.phone:
            return self._stuck(request, "stuck.phone")
        limit = door.settings.limits.codes_per_account
        if not await door.allowed("code-account", visit.session.ref, limit):
            return self._stuck(request, "stuck.codes", 429)
        code = new_code()
        if not await self._store(visit, code):
            return self._stuck(request, "stuck.codes", 429)
        return await self._dispatch(request, visit, visit.account.phone, code)

    async def judge(self, request: Request) -> Response:
        door = self._door
        visit, given = await door.visit_by_form(request)
        if visit.session.code_verified_at is not None:
            await self._prepare(visit)
            return see("/enroll/choose")
        wrong = _count(given.get("wrong", ""))
        form = read(CodeForm, given)
        if form is None:
            return self._page(request, visit, 422, problem="code.malformed", wrong=wrong)
        limit = door.settings.limits.tries_per_account
        if not await door.allowed("try-account", visit.session.ref, limit):
            return self._stuck(request, "stuck.codes", 429)
        match await self._check(visit, form.code):
            case CodeCheck.ACCEPTED:
                await self._prepare(visit)
                return see("/enroll/choose")
            case CodeCheck.WRONG:
                left = max(0, door.settings.enroll.code_attempts - wrong - 1)
                problem = {0: "code.exhausted", 1: "code.wrong.one"}.get(left, "code.wrong.many")
                return self._page(request, visit, 422, problem=problem, wrong=wrong + 1, left=left)
            case CodeCheck.EXPIRED:
                return self._page(request, visit, 422, problem="code.expired")
            case CodeCheck.EXHAUSTED:
                return self._page(request, visit, 422, problem="code.exhausted")

    async def _store(self, visit: Visit, code: str) -> bool:
        door, session = self._door, visit.session.session_hash
        policy = door.settings.enroll
        return await in_thread(
            lambda: door.ledger.store_code(
                session,
                code_hash=door.keyed.code_hash(session, code),
                ttl=policy.code_ttl,
                max_sends=policy.code_sends,
            )
        )

    async def _check(self, visit: Visit, code: str) -> CodeCheck:
        door, session = self._door, visit.session.session_hash
        attempts = door.settings.enroll.code_attempts
        return await in_thread(
            lambda: door.ledger.check_code(
                session, door.keyed.code_hash(session, code), max_attempts=attempts
            )
        )

    async def _prepare(self, visit: Visit) -> None:
        """Makes the authenticator's secret now, since the GET that shows it may not have effects.
        A secret that is there already stays."""
        door, session = self._door, visit.session
        secret = pyotp.random_base32(32)
        sealed = door.sealer.seal(session.jti, secret)
        await in_thread(lambda: door.ledger.store_candidate(session.session_hash, sealed))

    async def _dispatch(self, request: Request, visit: Visit, phone: str, code: str) -> Response:
        copy = SmsCopy(
            # Every code is a message of its own, unlike a notice, which goes out once.
            notice_id=notice_id(visit.session.ref, CODE_STEP, secrets.randbelow(10**9)),
            to=phone,
            body=self._message(request, code),
            validity=self._door.settings.enroll.code_ttl,
        )
        try:
            verdict, receipt = await self._door.sms.send(copy)
        except Unknown:
            # It may be on its way, and a code that came is a code that works.
            return see("/enroll/code")
        except Refused as error:
            verdict, receipt = Verdict.REFUSED, error.code
        except RecoveryError as error:
            log.warning("a code was not sent: %s", type(error).__name__)
            return self._page(request, visit, 503, problem="code.unsent", sent=True)
        if verdict is Verdict.REFUSED:
            log.warning("a code was refused for %s: %s", visit.session.ref, receipt)
            return self._stuck(request, "stuck.phone")
        return see("/enroll/code")

    def _message(self, request: Request, code: str) -> str:
        settings = self._door.settings
        texts = choose(request.headers.get("accept-language", ""))
        said = texts(
            "sms.code", organization=settings.organization, code=code, minutes=self._minutes
        )
        # The last line binds the code to this site for phones that fill it in by themselves.
        return f"{said}\n\n@{settings.host} #{code}"

    @property
    def _minutes(self) -> int:
        return int(self._door.settings.enroll.code_ttl.total_seconds() // 60)

    def _page(
        self,
        request: Request,
        visit: Visit,
        status: int = 200,
        *,
        problem: str = "",
        wrong: int = 0,
        left: int = 0,
        sent: bool = False,
    ) -> Response:
        texts = choose(request.headers.get("accept-language", ""))
        return self._door.pages.page(
            request,
            "code",
            status,
            problem=texts(problem, left=left) if problem else "",
            verified=visit.session.code_verified_at is not None,
            sent=sent or visit.session.code_sent_at is not None,
            minutes=self._minutes,
            ending=(visit.account.phone or "")[-2:],
            wrong=wrong,
            left_minutes=self._door.minutes_left(visit),
            csrf=self._door.keyed.form_token(visit.cookie),
        )

    def _stuck(self, request: Request, about: str, status: int = 422) -> Response:
        return self._door.pages.page(
            request, "stuck", status, about=about, support=self._door.settings.support
        )


def _count(given: str) -> int:
    """How many wrong codes the form remembers. It is for the sentence alone; the ledger counts."""
    return int(given) if given.isascii() and given.isdigit() and len(given) < 3 else 0
