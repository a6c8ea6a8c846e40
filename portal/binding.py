"""The one act of the portal: use the enrollment up, then bind the authenticator at the platform.

Intended before and settled after like every other act. The platform takes the enrollment's id as
its idempotency key, so pressing again after a lost answer binds nothing twice.
"""

import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum

from pydantic import SecretStr

from portal.door import Door, Visit, in_thread
from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.errors import Conflict, Misconfigured, RecoveryError, Refused
from recovery.incident import AuthenticatorKind, Enrollment
from recovery.passkey import Passkey

BIND_STEP = "enroll.bind"
LABEL = "Authenticator app"
PASSKEY_LABEL = "Passkey"

AtPlatform = Callable[[str], Awaitable[str]]
"""Binds at the platform with an idempotency key; the authenticator's id."""

log = logging.getLogger("portal")


class Bound(StrEnum):
    DONE = "done"
    AGAIN = "again"
    """The platform's answer did not come; the same session may go on."""
    REFUSED = "refused"
    OTHER = "other"
    """This browser has begun to bind an authenticator of the other kind; that one goes on."""


async def bind(door: Door, visit: Visit, secret: SecretStr) -> Bound:
    """An authenticator app. Raises Unverified unless this session wins the enrollment."""
    account_id = visit.account.account_id

    async def at_platform(key: str) -> str:
        return await door.platform.bind_totp(account_id, secret, key=key, label=LABEL)

    return await _bind(door, visit, AuthenticatorKind.TOTP, at_platform)


async def bind_passkey(door: Door, visit: Visit, passkey: Passkey) -> Bound:
    """A passkey, which the session has kept before. Raises Unverified likewise."""
    account_id = visit.account.account_id

    async def at_platform(key: str) -> str:
        return await door.platform.bind_passkey(account_id, passkey, key=key, label=PASSKEY_LABEL)

    return await _bind(door, visit, AuthenticatorKind.PASSKEY, at_platform)


async def _bind(
    door: Door, visit: Visit, method: AuthenticatorKind, at_platform: AtPlatform
) -> Bound:
    """The act carries the enrollment's generation: a fresh link is a fresh act."""
    session = visit.session
    try:
        enrollment = await in_thread(
            lambda: door.ledger.redeem(session.jti, session.session_hash, method=method)
        )
    except Conflict:
        return Bound.OTHER
    act = Act(session.ref, BIND_STEP, enrollment.generation)
    try:
        intention = await in_thread(lambda: door.ledger.intend(session.incident_id, [act]))
    except Refused as error:
        log.warning("binding %s was not allowed: %s", session.ref, error.code)
        return Bound.REFUSED
    if act in intention.refused:
        return Bound.REFUSED
    outcome = Outcome(act, Verdict.ALREADY)
    if act not in intention.settled:
        outcome = await _outcome(enrollment, act, at_platform)
        await in_thread(
            lambda: door.ledger.settle(session.incident_id, [outcome], advance=Stage.ENROLLED)
        )
    door.metrics.enrollment(outcome.verdict.value)
    match outcome.verdict:
        case Verdict.DONE | Verdict.ALREADY:
            await in_thread(lambda: door.ledger.complete(session.session_hash))
            return Bound.DONE
        case Verdict.REFUSED:
            return Bound.REFUSED
        case Verdict.UNKNOWN:
            return Bound.AGAIN


async def _outcome(enrollment: Enrollment, act: Act, at_platform: AtPlatform) -> Outcome:
    try:
        receipt = await at_platform(enrollment.jti)
    except Refused as error:
        log.warning("the platform refused an authenticator for %s: %s", act.subject, error.code)
        return Outcome(act, Verdict.REFUSED, error.code)
    except RecoveryError as error:
        level = logging.ERROR if isinstance(error, Misconfigured) else logging.WARNING
        log.log(level, "binding for %s was not answered: %s", act.subject, error)
        return Outcome(act, Verdict.UNKNOWN, type(error).__name__)
    return Outcome(act, Verdict.DONE, receipt=receipt)
